//! Member offsets from BTF (Documentation/bpf/btf.rst): just enough to ask *where is member M of structure S*,
//! anonymous structures and unions included.

use std::collections::HashMap;
use std::path::Path;

/// Nesting of anonymous members; the kernel's deepest is 5.
const DEPTH_MAX: usize = 16;
/// Kernel BTF is 5 to 12 MB; anything far larger is not read.
const BYTES_MAX: usize = 128 << 20;

const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Parsed type information. Types are numbered from 1, 0 is `void`.
pub(super) struct Btf {
    data: Vec<u8>,
    /// Where the strings begin in `data`.
    strings: usize,
    /// Where each type's descriptor begins in `data`.
    types: Vec<usize>,
    /// Structures by name; the first of a name that has the member wins.
    structures: HashMap<String, Vec<usize>>,
}

impl Btf {
    pub(super) fn read(path: &Path) -> Result<Btf, String> {
        let data = std::fs::read(path).map_err(|error| error.to_string())?;
        Btf::parse(data).ok_or_else(|| "not BTF this program understands".to_owned())
    }

    pub(super) fn parse(data: Vec<u8>) -> Option<Btf> {
        if data.len() > BYTES_MAX || u16_at(&data, 0)? != 0xeb9f {
            return None;
        }
        let header = u32_at(&data, 4)? as usize;
        let types_at = header.checked_add(u32_at(&data, 8)? as usize)?;
        let types_end = types_at.checked_add(u32_at(&data, 12)? as usize)?;
        let strings = header.checked_add(u32_at(&data, 16)? as usize)?;
        let mut btf = Btf { data, strings, types: vec![0], structures: HashMap::new() };
        let mut at = types_at;
        while at < types_end {
            let (kind, members) = btf.kind(at)?;
            if kind == STRUCT {
                let name = btf.name(u32_at(&btf.data, at)?)?.to_owned();
                btf.structures.entry(name).or_default().push(at);
            }
            btf.types.push(at);
            at = at.checked_add(12)?.checked_add(extra_bytes(kind, members)?)?;
        }
        Some(btf)
    }

    /// Offset in bytes, or `None` if there is no such member or it is a bit field.
    pub(super) fn member_offset(&self, structure: &str, member: &str) -> Option<u32> {
        let candidates = self.structures.get(structure)?;
        let bits = candidates.iter().find_map(|at| self.find(*at, member, DEPTH_MAX))?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Offset in bits of `wanted` inside the structure at `at`.
    fn find(&self, at: usize, wanted: &str, depth: usize) -> Option<u32> {
        let depth = depth.checked_sub(1)?;
        let info = u32_at(&self.data, at.checked_add(4)?)?;
        let (kind, members) = self.kind(at)?;
        if kind != STRUCT && kind != UNION {
            return None;
        }
        for index in 0..members as usize {
            let member = at + 12 + index * 12;
            let name = self.name(u32_at(&self.data, member)?)?;
            let raw = u32_at(&self.data, member + 8)?;
            // With the kind flag the upper eight bits hold a bit field's width.
            let (bits, width) = if info >> 31 == 1 { (raw & 0x00ff_ffff, raw >> 24) } else { (raw, 0) };
            if name == wanted {
                return (width == 0).then_some(bits);
            }
            if name.is_empty() {
                let inner = *self.types.get(u32_at(&self.data, member + 4)? as usize)?;
                if let Some(found) = self.find(inner, wanted, depth) {
                    return bits.checked_add(found);
                }
            }
        }
        None
    }

    fn kind(&self, at: usize) -> Option<(u32, u32)> {
        let info = u32_at(&self.data, at.checked_add(4)?)?;
        Some((info >> 24 & 0x1f, info & 0xffff))
    }

    fn name(&self, offset: u32) -> Option<&str> {
        let bytes = self.data.get(self.strings.checked_add(offset as usize)?..)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(bytes.get(..end)?).ok()
    }
}

/// Bytes that follow the 12 common ones, by kind.
fn extra_bytes(kind: u32, members: u32) -> Option<usize> {
    let members = members as usize;
    match kind {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => Some(4),
        // PTR, FWD, TYPEDEF, qualifiers, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => Some(0),
        // ARRAY
        3 => Some(12),
        // and DATASEC, ENUM64
        STRUCT | UNION | 15 | 19 => Some(members * 12),
        // ENUM, FUNC_PROTO
        6 | 13 => Some(members * 8),
        _ => None,
    }
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes BTF with these strings (offset 0 is the empty one) and type words.
    fn build(strings: &[&str], words: &[u32]) -> Vec<u8> {
        let mut text = vec![0u8];
        for string in strings {
            text.extend(string.bytes().chain([0]));
        }
        let types = words.len() as u32 * 4;
        let header = [0x0001_eb9f, 24, 0, types, types, text.len() as u32];
        let all = header.iter().chain(words).flat_map(|word| word.to_ne_bytes());
        all.chain(text).collect()
    }

    // Strings: "s" at 1, "a" at 3, "b" at 5.
    const STRINGS: &[&str] = &["s", "a", "b"];
    const INT: [u32; 4] = [0, 1 << 24, 4, 32];

    fn check(words: &[u32], member: &str, expected: Option<u32>) {
        let btf = Btf::parse(build(STRINGS, words)).expect("valid BTF");
        assert_eq!(btf.member_offset("s", member), expected);
    }

    #[test]
    fn plain_members_are_found() {
        let s = [1, 4 << 24 | 2, 8, 3, 1, 0, 5, 1, 32];
        check(&[&INT[..], &s].concat(), "b", Some(4));
        check(&[&INT[..], &s].concat(), "c", None);
    }

    #[test]
    fn members_of_anonymous_unions_are_found() {
        // Type 2 is an anonymous union { b at 0 }, type 3 is s { a at 0; union at 64 bits }.
        let union = [0, 5 << 24 | 1, 4, 5, 1, 0];
        let s = [1, 4 << 24 | 2, 12, 3, 1, 0, 0, 2, 64];
        check(&[&INT[..], &union, &s].concat(), "b", Some(8));
    }

    #[test]
    fn bit_fields_have_no_offset_in_bytes() {
        let s = [1, 1 << 31 | 4 << 24 | 1, 4, 3, 1, 3 << 24 | 8];
        check(&[&INT[..], &s].concat(), "a", None);
    }

    #[test]
    fn damage_is_refused() {
        let good = build(STRINGS, &[&INT[..], &[1, 4 << 24 | 1, 4, 3, 1, 0]].concat());
        for cut in 0..good.len() {
            let _ = Btf::parse(good[..cut].to_vec()).and_then(|btf| btf.member_offset("s", "a"));
        }
        assert!(Btf::parse(vec![0; 64]).is_none());
    }
}
