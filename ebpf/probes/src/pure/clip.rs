//! How a library call's bytes become records: full records of the largest class, then one of the smallest that fits.

use abi::content::SIZE_CLASSES;

/// Bytes of a call that are captured.
#[inline(always)]
pub(crate) fn captured(moved: u64, limit: u64) -> u64 {
    if moved < limit { moved } else { limit }
}

/// Bytes of `captured` that go in full records of the largest class before the last record, which is never empty
/// for a call that moved anything.
#[inline(always)]
pub(crate) fn full_records(captured: u64) -> u64 {
    captured.saturating_sub(1) / SIZE_CLASSES[3] as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::content::CALL_BYTES_MAX;

    #[test]
    fn records_cover_the_call() {
        const LIMIT: u64 = CALL_BYTES_MAX as u64;
        for (moved, expected) in [
            (1, (1, 0, 1)),
            (16384, (16384, 0, 16384)),
            (16385, (16385, 1, 1)),
            (32768, (32768, 1, 16384)),
            (LIMIT, (LIMIT, 15, 16384)),
            (3_000_000, (LIMIT, 15, 16384)),
        ] {
            let captured = captured(moved, LIMIT);
            let full = full_records(captured);
            assert_eq!((captured, full, captured - full * 16384), expected, "{moved}");
        }
    }
}
