//! A push scanner for protobuf that hands out the values at wanted paths of field numbers, like [`super::json`] does
//! for JSON, with the same [`Paths`]: `/9/2` is field 2 of the message in field 9.
//!
//! Memory is fixed whatever a message is. Numbers come as text, strings up to [`JSON_TEXT_MAX`] bytes, messages as
//! [`Value::Object`]. Bytes that are not protobuf give no values, never an error; groups end a message.

use super::json::{Paths, ROOT, UNWANTED, Value, Visitor};
use crate::limits::{JSON_TEXT_MAX, PROTOBUF_DEPTH_MAX};
use crate::payload::Short;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the number of a field with its kind.
    Tag,
    /// In a number, for this node.
    Number { node: u16 },
    /// In the length of bytes, for this node.
    Length { node: u16 },
    /// In bytes that are kept: so many to come.
    Text { node: u16, left: u64 },
    /// In bytes that nobody wants: so many to come.
    Skip(u64),
    /// Not protobuf: nothing more of this message.
    Broken,
}

/// A message inside another.
#[derive(Clone, Copy, Debug)]
struct Frame {
    node: u16,
    /// Where it ends, counted from the start of the outermost message.
    end: u64,
}

/// Place in a message.
pub struct Scanner {
    state: State,
    stack: [Frame; PROTOBUF_DEPTH_MAX],
    depth: usize,
    /// Bytes of the outermost message that were taken.
    taken: u64,
    varint: u64,
    shift: u32,
    /// A string in progress.
    text: Short<JSON_TEXT_MAX>,
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            state: State::Tag,
            stack: [Frame { node: 0, end: 0 }; PROTOBUF_DEPTH_MAX],
            depth: 0,
            taken: 0,
            varint: 0,
            shift: 0,
            text: Short::default(),
        }
    }
}

impl Scanner {
    /// The message is over, or given up: another begins.
    pub fn restart(&mut self) {
        self.state = State::Tag;
        (self.depth, self.taken, self.varint, self.shift) = (0, 0, 0, 0);
    }

    /// Bytes are missing: nothing more of this message can be placed.
    pub fn give_up(&mut self) {
        self.state = State::Broken;
    }

    /// Takes the next bytes of a message and hands wanted values to `visitor`.
    pub fn push<F: Copy>(&mut self, paths: &Paths<F>, mut bytes: &[u8], visitor: &mut impl Visitor<F>) {
        while let Some((byte, after)) = bytes.split_first() {
            match self.state {
                State::Tag | State::Number { .. } | State::Length { .. } => {
                    bytes = after;
                    self.taken = self.taken.saturating_add(1);
                    if let Some(number) = self.varint(*byte) {
                        self.number(paths, number, visitor);
                    }
                }
                State::Skip(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = bytes.get(here..).unwrap_or_default();
                    self.taken = self.taken.saturating_add(here as u64);
                    let left = left - here as u64;
                    self.state = if left > 0 { State::Skip(left) } else { State::Tag };
                }
                State::Text { node, left } => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (part, rest) = bytes.split_at(here);
                    bytes = rest;
                    self.taken = self.taken.saturating_add(here as u64);
                    self.hold(part);
                    let left = left - here as u64;
                    self.state = State::Text { node, left };
                    if left == 0 {
                        self.text_over(paths, node, visitor);
                    }
                }
                State::Broken => return,
            }
            self.leave();
        }
    }

    /// The number that ends with `byte`. A longer one than 64 bits is none.
    fn varint(&mut self, byte: u8) -> Option<u64> {
        if self.shift > 63 {
            self.state = State::Broken;
            return None;
        }
        self.varint |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        if byte & 0x80 != 0 {
            return None;
        }
        self.shift = 0;
        Some(std::mem::take(&mut self.varint))
    }

    fn number<F: Copy>(&mut self, paths: &Paths<F>, number: u64, visitor: &mut impl Visitor<F>) {
        self.state = match self.state {
            State::Number { node } => {
                if let Some(field) = paths.field(node) {
                    decimal(number, |text| visitor.value(field, Value::Number(text)));
                }
                State::Tag
            }
            State::Length { node } => {
                self.bytes_begin(paths, node, number, visitor);
                return;
            }
            _ => {
                let above = self.depth.checked_sub(1).and_then(|top| self.stack.get(top));
                let above = above.map_or(ROOT, |frame| frame.node);
                let mut node = UNWANTED;
                decimal(number >> 3, |name| node = paths.member(above, name));
                match number & 7 {
                    0 => State::Number { node },
                    1 => State::Skip(8),
                    2 => State::Length { node },
                    5 => State::Skip(4),
                    _ => State::Broken,
                }
            }
        };
    }

    fn bytes_begin<F: Copy>(
        &mut self,
        paths: &Paths<F>,
        node: u16,
        length: u64,
        visitor: &mut impl Visitor<F>,
    ) {
        let end = self.taken.saturating_add(length);
        let above = self.depth.checked_sub(1).and_then(|top| self.stack.get(top));
        if above.is_some_and(|above| end > above.end) {
            self.state = State::Broken;
            return;
        }
        let passed = if length > 0 { State::Skip(length) } else { State::Tag };
        self.state = match self.stack.get_mut(self.depth) {
            _ if node == UNWANTED => passed,
            Some(slot) if paths.is_inner(node) => {
                *slot = Frame { node, end };
                self.depth += 1;
                if let Some(field) = paths.field(node) {
                    visitor.value(field, Value::Object);
                }
                State::Tag
            }
            None if paths.is_inner(node) => passed,
            _ => {
                self.text.clear();
                if length == 0 {
                    self.text_over(paths, node, visitor);
                    return;
                }
                State::Text { node, left: length }
            }
        };
    }

    fn hold(&mut self, part: &[u8]) {
        self.text.push(part);
    }

    fn text_over<F: Copy>(&mut self, paths: &Paths<F>, node: u16, visitor: &mut impl Visitor<F>) {
        self.state = State::Tag;
        if let Some(field) = paths.field(node) {
            visitor.value(field, Value::Text { bytes: &self.text, whole: self.text.is_whole() });
        }
        self.text.clear();
    }

    /// Leaves the messages that end here.
    fn leave(&mut self) {
        while let Some(top) = self.depth.checked_sub(1).and_then(|top| self.stack.get(top)) {
            if self.taken < top.end {
                return;
            }
            if self.taken > top.end || self.state != State::Tag || self.shift > 0 {
                self.state = State::Broken;
                return;
            }
            self.depth -= 1;
        }
    }
}

/// Hands the digits of `number` to `take`.
fn decimal(mut number: u64, take: impl FnOnce(&[u8])) {
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        from -= 1;
        if number == 0 {
            break;
        }
    }
    take(digits.get(from..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::{Paths, Scanner, Value, Visitor};

    struct Seen(Vec<String>);

    impl Visitor<&'static str> for Seen {
        fn value(&mut self, field: &'static str, value: Value<'_>) {
            self.0.push(match value {
                Value::Number(text) => format!("{field}={}", String::from_utf8_lossy(text)),
                Value::Text { bytes, whole } => {
                    format!("{field}={}{}", String::from_utf8_lossy(bytes), if whole { "" } else { ".." })
                }
                _ => field.to_owned(),
            });
        }
    }

    #[test]
    fn wanted_fields_are_found_wherever_it_is_cut() {
        let paths = Paths::new(&[("/2", "model"), ("/9", "usage"), ("/9/2", "prompt"), ("/9/16", "far")]);
        let long = [&[0x12, 0xac, 0x02][..], &[b'm'; 300]].concat();
        for (name, bytes, expected) in [
            ("a string", &[0x12, 3, b'a', b'b', b'c'] as &[u8], &["model=abc"] as &[&str]),
            ("an empty string", &[0x12, 0], &["model="]),
            (
                "others before",
                &[0x08, 0x96, 1, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x12, 1, b'a'],
                &["model=a"],
            ),
            ("an inner message", &[0x4a, 6, 0x10, 0xe7, 2, 0x80, 1, 9], &["usage", "prompt=359", "far=9"]),
            (
                "an inner message and more",
                &[0x4a, 3, 0x10, 0xe7, 2, 0x12, 1, b'a'],
                &["usage", "prompt=359", "model=a"],
            ),
            ("an empty inner message", &[0x4a, 0, 0x12, 1, b'a'], &["usage", "model=a"]),
            ("a large field number", &[0x4a, 3, 0x80, 1, 9], &["usage", "far=9"]),
            (
                "the largest number",
                &[0x4a, 11, 0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                &["usage", "prompt=18446744073709551615"],
            ),
            (
                "longer than any number",
                &[0x4a, 12, 0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0x12, 1, b'a'],
                &["usage"],
            ),
            ("a group", &[0x0b, 0x12, 1, b'a'], &[]),
            ("longer than what holds it", &[0x4a, 2, 0x12, 9, 0x12, 1, b'a'], &["usage"]),
            ("a number across the end", &[0x4a, 2, 0x10, 0xe7, 2, 0x12, 1, b'a'], &["usage"]),
            ("a string that is too long", &long, &["model=.."]),
        ] {
            for cut in [usize::MAX, 1, 2, 3] {
                let (mut scanner, mut seen) = (Scanner::default(), Seen(Vec::new()));
                for piece in bytes.chunks(cut) {
                    scanner.push(&paths, piece, &mut seen);
                }
                let found: Vec<String> =
                    seen.0.iter().map(|text| text.replace(&"m".repeat(256), "")).collect();
                assert_eq!(found, expected, "{name}, cut {cut}");
            }
        }
    }
}
