//! Does a write of an unknown session look like the start of a request? Only then may its first bytes be shown.

/// Bytes that [`looks_like_request`] wants to see; shorter writes are padded with zeros.
pub(crate) const PEEK: usize = 16;

/// An HTTP/1.x method and a space, the HTTP/2 preface, or an HTTP/2 HEADERS frame on a client's stream.
#[inline(always)]
pub(crate) fn looks_like_request(start: &[u8; PEEK]) -> bool {
    let word =
        u64::from_le_bytes([start[0], start[1], start[2], start[3], start[4], start[5], start[6], start[7]]);
    is(word, b"GET \0\0\0\0", 4)
        || is(word, b"POST \0\0\0", 5)
        || is(word, b"PUT \0\0\0\0", 4)
        || is(word, b"HEAD \0\0\0", 5)
        || is(word, b"PATCH \0\0", 6)
        || is(word, b"DELETE \0", 7)
        || is(word, b"OPTIONS ", 8)
        || is(word, b"CONNECT ", 8)
        || is(word, b"PRI * HT", 8)
        || headers_frame(start)
}

/// RFC 9113 section 6.2: type 1, only defined flags, an odd stream identifier, a length that HEADERS may have by
/// default (16,384) - bytes of another protocol rarely agree with all four.
#[inline(always)]
fn headers_frame(start: &[u8; PEEK]) -> bool {
    const FLAGS_DEFINED: u8 = 0x01 | 0x04 | 0x08 | 0x20;
    let len = u32::from_be_bytes([0, start[0], start[1], start[2]]);
    let odd_stream = start[5] & 0x80 == 0 && start[8] & 1 == 1;
    start[3] == 1 && start[4] & !FLAGS_DEFINED == 0 && odd_stream && len > 0 && len <= 16384
}

#[inline(always)]
fn is(word: u64, text: &[u8; 8], len: u32) -> bool {
    let mask = if len == 8 { u64::MAX } else { (1u64 << (len * 8)) - 1 };
    word & mask == u64::from_le_bytes(*text) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start: &[u8], expected: bool) {
        let mut buffer = [0; PEEK];
        let len = start.len().min(PEEK);
        buffer[..len].copy_from_slice(&start[..len]);
        assert_eq!(looks_like_request(&buffer), expected, "{start:?}");
    }

    #[test]
    fn requests_are_told_from_other_writes() {
        for method in ["GET", "POST", "PUT", "HEAD", "PATCH", "DELETE", "OPTIONS", "CONNECT"] {
            check(format!("{method} /v1/x HTTP/1.1\r\n").as_bytes(), true);
            check(format!("{method}\t/v1/x").as_bytes(), false);
            check(format!("{}_ /", method.to_lowercase()).as_bytes(), false);
        }
        check(b"PRI * HTTP/2.0\r\n\r\nSM", true);
        check(b"PRIVATE", false);
        check(&[0, 0, 40, 1, 0x25, 0, 0, 0, 1], true);
        check(&[0, 0x40, 0, 1, 4, 0, 0, 0, 3], true);
        check(&[0, 0x40, 1, 1, 4, 0, 0, 0, 3], false);
        check(&[0, 0, 40, 1, 0x42, 0, 0, 0, 1], false);
        check(&[0, 0, 40, 1, 4, 0, 0, 0, 2], false);
        check(&[0, 0, 40, 1, 4, 0x80, 0, 0, 1], false);
        check(&[0, 0, 0, 1, 4, 0, 0, 0, 1], false);
        check(&[0, 0, 40, 0, 0, 0, 0, 0, 1], false);
        check(b"", false);
        check(b"password=hunter2", false);
        check(b"{\"a\":1}", false);
    }
}
