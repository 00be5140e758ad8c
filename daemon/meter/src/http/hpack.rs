//! HPACK (RFC 7541), the decoding side.
//!
//! A connection joined late, or one with a hole in its head blocks, lacks entries of the dynamic table. Entries added
//! after that have their right positions, because positions count from the newest; what is older cannot be known, and a
//! field that refers to it is left out. So it is with what finds no room in the [`Budget`]. Entries may be credentials
//! and are zeroized.

mod huffman;
mod table;

use smallvec::SmallVec;

use crate::limits::{Budget, HEAD_BYTES_MAX, HEADERS_MAX, HPACK_TABLE_MAX};
use crate::payload::Roomy;
use table::Table;

/// One direction of a connection.
#[derive(Default)]
pub struct Decoder {
    table: Table,
}

impl std::fmt::Debug for Decoder {
    /// The size of its table only: entries may be credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("size", &self.table.size()).finish_non_exhaustive()
    }
}

/// Bytes and number of fields of a head that need no memory of their own: heads of API calls have 300 to 1,800.
const USUAL: (usize, usize) = (2048, 32);

/// Names and values, one behind the other.
type Text = Roomy<{ USUAL.0 }>;

/// The fields of one head block.
#[derive(Default)]
pub struct Fields {
    text: Text,
    /// Where the name and the value of each end.
    ends: SmallVec<[[u32; 2]; USUAL.1]>,
    /// Fields that referred to what was never seen.
    pub unknown: usize,
}

impl Fields {
    /// Those of a head that could not be decoded.
    pub fn unknown() -> Fields {
        Fields { unknown: 1, ..Fields::default() }
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let part = |from: u32, to: u32| self.text.get(from as usize..to as usize).unwrap_or_default();
        let mut begin = 0;
        self.ends.iter().map(move |&[name, value]| {
            let field = (part(begin, name), part(name, value));
            begin = value;
            field
        })
    }

    /// The first value of `name`, if it is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.iter().find(|(field, _)| *field == name.as_bytes())?;
        std::str::from_utf8(value).ok()
    }

    /// What follows the last field is one more, with a name of so many bytes; without a name it is unknown.
    fn close(&mut self, name: usize) -> Result<(), Broken> {
        let begin = self.ends.last().map_or(0, |[_, value]| *value as usize);
        if name == 0 {
            self.text.truncate(begin);
            self.unknown += 1;
            return Ok(());
        }
        let end = self.text.len();
        if end > HEAD_BYTES_MAX || self.ends.len() >= HEADERS_MAX {
            return Err(Broken);
        }
        self.ends.push([(begin + name) as u32, end as u32]);
        Ok(())
    }
}

/// A head block that is not HPACK, or larger than any: what follows on the connection cannot be decoded either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl Decoder {
    /// Head blocks are missing here: what is known loses its position.
    pub fn forget(&mut self) {
        self.table.forget();
    }

    /// Decodes a whole head block into `fields`, which hold none. What the table keeps of it comes out of `budget`.
    ///
    /// # Errors
    /// The block is broken or too large; what was decoded of it is of no use.
    pub fn decode(&mut self, mut block: &[u8], fields: &mut Fields, budget: &Budget) -> Result<(), Broken> {
        let mut begun = false;
        while let Some(first) = block.first().copied() {
            let begin = fields.text.len();
            let name = match first {
                0x80.. => {
                    let (name, value) = self.table.get(integer(&mut block, 7)?).ok_or(Broken)?;
                    fields.text.push(name);
                    fields.text.push(value);
                    name.len()
                }
                0x40..=0x7f => {
                    let name = self.literal(&mut block, 6, &mut fields.text)?;
                    // It takes its place although its name may not be known.
                    self.table.insert(fields.text.get(begin..).unwrap_or_default(), name, budget);
                    name
                }
                0x20..=0x3f => {
                    // Sizes stand before all fields (RFC 7541, 4.2).
                    let capacity = integer(&mut block, 5)?;
                    if begun || capacity > HPACK_TABLE_MAX {
                        return Err(Broken);
                    }
                    self.table.resize(capacity);
                    continue;
                }
                _ => self.literal(&mut block, 4, &mut fields.text)?,
            };
            begun = true;
            fields.close(name)?;
        }
        Ok(())
    }

    /// Adds name and value of a literal field to `out`. Returns the bytes of its name, none if that is not known.
    fn literal(&self, block: &mut &[u8], prefix: u32, out: &mut Text) -> Result<usize, Broken> {
        let begin = out.len();
        match integer(block, prefix)? {
            0 => text(block, out)?,
            index => out.push(self.table.get(index).ok_or(Broken)?.0),
        }
        let name = out.len() - begin;
        text(block, out)?;
        Ok(name)
    }
}

/// An integer whose first `prefix` bits stand in the first byte.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Broken> {
    let (first, mut rest) = block.split_first().ok_or(Broken)?;
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        for shift in (0..28).step_by(7) {
            let (byte, after) = rest.split_first().ok_or(Broken)?;
            rest = after;
            value += (usize::from(*byte) & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *block = rest;
                return Ok(value);
            }
        }
        return Err(Broken);
    }
    *block = rest;
    Ok(value)
}

/// Adds a name or value to `out`.
fn text(block: &mut &[u8], out: &mut Text) -> Result<(), Broken> {
    let packed = block.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(len).ok_or(Broken)?;
    *block = rest;
    if packed {
        return out.fill(huffman::most(len), |room| huffman::unpack(bytes, room)).ok_or(Broken);
    }
    out.push(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Fields};
    use crate::limits::{BUFFERED_BYTES_MAX, Budget, HPACK_STEP_BYTES};

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| byte.is_ascii_hexdigit()).collect();
        let digit =
            |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    /// Decodes blocks one after the other; `name: value` of the last.
    fn check(blocks: &[&str], expected: &[&str]) {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for block in blocks {
            let mut fields = Fields::default();
            decoder.decode(&hex(block), &mut fields, &Budget::new()).unwrap_or_else(|_| panic!("{block}"));
            assert_eq!(fields.unknown, 0, "{block}");
            seen = fields
                .iter()
                .map(|(name, value)| {
                    format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
                })
                .collect();
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_examples_of_the_standard_decode() {
        // RFC 7541 C.3 and C.4: requests on one connection, plain and packed.
        let last = [
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ];
        check(
            &[
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            &last,
        );
        check(
            &[
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
            &last,
        );
    }

    #[test]
    fn sizes_stand_before_all_fields() {
        // Emptied and made large again in one block; what is added after that has the first place.
        let blocks = ["40 01 61 01 62", "20 3f e1 1f 40 01 63 01 64", "be"];
        check(&blocks, &["c: d"]);
        check(&["40 01 61 01 62", "20 82"], &[":method: GET"]);
    }

    #[test]
    fn what_was_never_seen_is_left_out() {
        let mut decoder = Decoder::default();
        let mut fields = Fields::default();
        assert_eq!(decoder.decode(&hex("82 c5 be"), &mut fields, &Budget::new()), Ok(()));
        assert_eq!((fields.iter().count(), fields.unknown), (1, 2));
        for broken in ["80", "ff ff ff ff ff ff", "40 05 61", "00 81 00 00", "3f ff ff 7f", "82 20"] {
            let decoded = Decoder::default().decode(&hex(broken), &mut Fields::default(), &Budget::new());
            assert!(decoded.is_err(), "{broken}");
        }
    }

    #[test]
    fn what_finds_no_room_is_as_if_never_seen() {
        let (budget, mut decoder) = (Budget::new(), Decoder::default());
        let mut check = |block: &str, expected: (usize, usize), why: &str| {
            let mut fields = Fields::default();
            assert_eq!(decoder.decode(&hex(block), &mut fields, &budget), Ok(()), "{why}");
            assert_eq!((fields.iter().count(), fields.unknown), expected, "{why}");
        };
        check("40 01 61 01 62 be", (2, 0), "there is room");
        let rest = budget.lease(BUFFERED_BYTES_MAX - HPACK_STEP_BYTES).expect("all that is left");
        check("40 01 61 01 63 be bf", (3, 0), "there is room in the step that was taken");
        let large = format!("40 01 61 7f cd 07 {}", "62".repeat(127 + 973));
        check(&large, (1, 0), "more than the step");
        check("be", (0, 1), "it was forgotten");
        drop(rest);
        check("40 01 61 01 65 be bf", (2, 1), "positions count from the newest");
        drop(decoder);
        assert!(budget.lease(BUFFERED_BYTES_MAX).is_some(), "all is given back");
    }
}
