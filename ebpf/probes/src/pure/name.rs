//! Host names as the provider directory's trie stores them.

use abi::NAME_MAX;
use abi::control::HOST_KEY_BYTES;

use super::opaque;

/// Writes the lower-case, reversed name, ended by a zero byte, into `key` (which is zero), and returns the number of
/// significant bits. A trailing dot is left out; of a longer name the last 128 bytes count.
///
/// Neither the name nor its length decides a branch: the verifier walks one path.
#[inline(always)]
pub(crate) fn reversed(name: &[u8; NAME_MAX], len: usize, key: &mut [u8; HOST_KEY_BYTES]) -> u32 {
    let len = len as u64;
    let last = u64::from(name[len.wrapping_sub(1) as usize % NAME_MAX]);
    let dot = below(last ^ u64::from(b'.'), 1) & below(0, len) & 1;
    let end = opaque(len.wrapping_sub(dot));
    let mut i = 0;
    while i < HOST_KEY_BYTES {
        let byte = u64::from(name[end.wrapping_sub(1).wrapping_sub(i as u64) as usize % NAME_MAX]);
        let upper = !below(byte, u64::from(b'A')) & below(byte, u64::from(b'Z') + 1) & 0x20;
        key[i] = ((byte | upper) & below(i as u64, end)) as u8;
        i += 1;
    }
    let bytes = if end < HOST_KEY_BYTES as u64 { end + 1 } else { HOST_KEY_BYTES as u64 };
    bytes as u32 * 8
}

/// All ones if `a < b`, else zero; for numbers below 2^63.
#[inline(always)]
fn below(a: u64, b: u64) -> u64 {
    ((opaque(a).wrapping_sub(b) as i64) >> 63) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: &[u8]) {
        let mut buffer = [0xaa; NAME_MAX];
        buffer[..name.len()].copy_from_slice(name.as_bytes());
        let mut key = [0; HOST_KEY_BYTES];
        let bits = reversed(&buffer, name.len(), &mut key);
        assert_eq!(bits as usize, expected.len() * 8, "{name}");
        assert_eq!(&key[..expected.len()], expected, "{name}");
        assert!(key[expected.len()..].iter().all(|byte| *byte == 0), "{name}");
    }

    #[test]
    fn names_are_reversed_lower_case_and_ended() {
        check("api.openai.com", b"moc.ianepo.ipa\0");
        check("API.OpenAI.com.", b"moc.ianepo.ipa\0");
        check("a-1_Z@[", b"[@z_1-a\0");
        check("", b"\0");
        check(".", b"\0");
        check("..", b".\0");
        let long = format!("{}.example.com", "x".repeat(130));
        let mut expected = b"moc.elpmaxe.".to_vec();
        expected.resize(HOST_KEY_BYTES, b'x');
        check(&long, &expected);
        check(&"y".repeat(127), &[&[b'y'; 127][..], b"\0"].concat());
        check(&"y".repeat(128), &[b'y'; 128]);
        check(&"y".repeat(255), &[b'y'; 128]);
    }
}
