//! Money is a whole number of pico-US-dollars; there is no float and no rounding.

use std::fmt;

/// One trillionth of a US dollar: every published price per token is a whole number of these (1 USD per million tokens
/// is 1,000,000 of them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoUsd(pub u128);

impl PicoUsd {
    /// `self` for each of `count` units; `None` if the product does not fit.
    pub fn times(self, count: u64) -> Option<PicoUsd> {
        self.0.checked_mul(u128::from(count)).map(PicoUsd)
    }

    /// Sum; `None` if it does not fit.
    pub fn plus(self, other: PicoUsd) -> Option<PicoUsd> {
        self.0.checked_add(other.0).map(PicoUsd)
    }
}

/// Exact decimal US dollars without trailing zeros: `0.0000125`, `3`, `0`.
impl fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNIT: u128 = 1_000_000_000_000;
        let (whole, part) = (self.0 / UNIT, self.0 % UNIT);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{part:012}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::PicoUsd;

    #[test]
    fn amounts_print_exactly() {
        for (pico, text) in
            [(0, "0"), (1, "0.000000000001"), (12_500_000, "0.0000125"), (3_000_000_000_000, "3")]
        {
            assert_eq!(PicoUsd(pico).to_string(), text);
        }
    }
}
