//! A push scanner for JSON that hands out the values at wanted paths and holds nothing else.
//!
//! Memory is fixed whatever the document is. Values that nobody wants are skipped by searching for their end. It is
//! lenient: text that is not JSON gives no values, never an error. Several documents may follow each other.

mod paths;
mod value;

pub use self::paths::Paths;
pub(super) use self::paths::{ROOT, UNWANTED};
pub use self::value::Value;
use crate::limits::{JSON_DEPTH_MAX, JSON_TEXT_MAX};
use crate::payload::Short;

/// Takes values.
pub trait Visitor<F> {
    /// The value at the wanted path `field`.
    fn value(&mut self, field: F, value: Value<'_>);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a value.
    Value,
    /// In an object, before a key or the end.
    Member,
    /// In an array, before an element or the end.
    Element,
    /// After a key.
    Colon,
    /// In a string that is kept: a key, or a value.
    Text { key: bool },
    /// In an escape of such a string: hexadecimal digits to come and their value so far, if it is `\u`.
    Escape { key: bool, digits: u8, unit: u16 },
    /// In a string nobody wants.
    SkipText { escaped: bool },
    /// In a number or word.
    Scalar { wanted: bool },
    /// In a container nobody wants: its kind and how deep.
    Skip { array: bool, depth: u32 },
    /// In a string inside such a container.
    SkipInside { array: bool, depth: u32, escaped: bool },
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    node: u16,
    array: bool,
}

/// Place in a document.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// Node of the value that is next or in progress.
    node: u16,
    stack: [Frame; JSON_DEPTH_MAX],
    depth: usize,
    /// A string or number in progress.
    text: Short<JSON_TEXT_MAX>,
    /// First half of a surrogate pair.
    surrogate: u16,
    documents: u32,
    begun: bool,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            state: State::Value,
            node: ROOT,
            stack: [Frame { node: UNWANTED, array: false }; JSON_DEPTH_MAX],
            depth: 0,
            text: Short::default(),
            surrogate: 0,
            documents: 0,
            begun: false,
        }
    }
}

impl Scanner {
    /// Documents that have ended.
    pub fn documents(&self) -> u32 {
        self.documents
    }

    /// True inside a document.
    pub fn is_inside(&self) -> bool {
        self.begun
    }

    /// Forgets what is in progress and waits for a document.
    pub fn restart(&mut self) {
        self.state = State::Value;
        self.node = ROOT;
        self.depth = 0;
        self.begun = false;
    }

    /// Takes the next bytes and hands wanted values to `visitor`.
    pub fn push<F: Copy>(&mut self, paths: &Paths<F>, bytes: &[u8], visitor: &mut impl Visitor<F>) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Member => match byte {
                    b'"' => {
                        at = self.key(paths, bytes, at + 1);
                    }
                    b'}' => {
                        at += 1;
                        self.leave();
                    }
                    _ => at += 1,
                },
                State::Colon => {
                    at += 1;
                    if byte == b':' {
                        self.state = State::Value;
                    } else if byte == b'}' {
                        self.leave();
                    }
                }
                State::Element => match byte {
                    b']' => {
                        at += 1;
                        self.leave();
                    }
                    b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' | b'}' => at += 1,
                    _ => {
                        let frame = self.depth.checked_sub(1).and_then(|top| self.stack.get(top));
                        self.node = frame.map_or(UNWANTED, |frame| frame.node);
                        self.state = State::Value;
                    }
                },
                State::Value => at = self.value(paths, bytes, at, byte, visitor),
                State::SkipText { escaped } => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    match skip_text(rest, escaped) {
                        Ok(used) => {
                            at += used;
                            self.after();
                        }
                        Err(escaped) => {
                            self.state = State::SkipText { escaped };
                            return;
                        }
                    }
                }
                State::Skip { array, depth } => {
                    let (open, close) = if array { (b'[', b']') } else { (b'{', b'}') };
                    let rest = bytes.get(at..).unwrap_or_default();
                    let Some(found) = memchr::memchr3(b'"', open, close, rest) else { return };
                    at += found + 1;
                    match rest.get(found) {
                        Some(b'"') => self.state = State::SkipInside { array, depth, escaped: false },
                        Some(other) if *other == open => {
                            self.state = State::Skip { array, depth: depth.saturating_add(1) };
                        }
                        _ if depth > 1 => self.state = State::Skip { array, depth: depth - 1 },
                        _ => self.after(),
                    }
                }
                State::SkipInside { array, depth, escaped } => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    match skip_text(rest, escaped) {
                        Ok(used) => {
                            at += used;
                            self.state = State::Skip { array, depth };
                        }
                        Err(escaped) => {
                            self.state = State::SkipInside { array, depth, escaped };
                            return;
                        }
                    }
                }
                State::Scalar { wanted } => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let len = rest.iter().position(|byte| is_delimiter(*byte)).unwrap_or(rest.len());
                    let part = rest.get(..len).unwrap_or_default();
                    if wanted {
                        self.text.push(part);
                    }
                    at += len;
                    if len < rest.len() {
                        self.end_scalar(paths, visitor);
                    }
                }
                State::Text { key } => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let end = memchr::memchr2(b'"', b'\\', rest);
                    let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
                    self.text.push(part);
                    at += part.len() + usize::from(end.is_some());
                    match end.and_then(|end| rest.get(end)) {
                        Some(b'"') if key => {
                            self.node = self.lookup(paths, &self.text);
                            self.state = State::Colon;
                        }
                        Some(b'"') => {
                            if let Some(field) = paths.field(self.node) {
                                let value = Value::Text { bytes: &self.text, whole: self.text.is_whole() };
                                visitor.value(field, value);
                            }
                            self.text.clear();
                            self.after();
                        }
                        Some(_) => self.state = State::Escape { key, digits: 0, unit: 0 },
                        None => return,
                    }
                }
                State::Escape { key, digits, unit } => {
                    at += 1;
                    self.escape(byte, key, digits, unit);
                }
            }
        }
    }

    /// The document is over: a number or word at its end is complete. Inside of a container it broke off: digits may be
    /// missing.
    pub fn finish<F: Copy>(&mut self, paths: &Paths<F>, visitor: &mut impl Visitor<F>) {
        if let State::Scalar { .. } = self.state
            && self.depth == 0
        {
            self.end_scalar(paths, visitor);
        }
    }

    /// A key that begins at `at`. In most documents it ends in the same piece and has no escape.
    fn key<F: Copy>(&mut self, paths: &Paths<F>, bytes: &[u8], at: usize) -> usize {
        let rest = bytes.get(at..).unwrap_or_default();
        // Keys are short: looking at each byte is faster than setting up a search.
        let window = rest.get(..rest.len().min(48)).unwrap_or_default();
        if let Some(len) = window.iter().position(|byte| matches!(byte, b'"' | b'\\'))
            && rest.get(len) == Some(&b'"')
        {
            self.node = self.lookup(paths, rest.get(..len).unwrap_or_default());
            self.state = State::Colon;
            return at + len + 1;
        }
        self.text.clear();
        self.surrogate = 0;
        self.state = State::Text { key: true };
        at
    }

    fn lookup<F: Copy>(&self, paths: &Paths<F>, key: &[u8]) -> u16 {
        let frame = self.depth.checked_sub(1).and_then(|top| self.stack.get(top));
        frame.map_or(UNWANTED, |frame| paths.member(frame.node, key))
    }

    fn value<F: Copy>(
        &mut self,
        paths: &Paths<F>,
        bytes: &[u8],
        at: usize,
        byte: u8,
        visitor: &mut impl Visitor<F>,
    ) -> usize {
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => return at + 1,
            b'{' | b'[' => {
                self.begun = true;
                let array = byte == b'[';
                if let Some(field) = paths.field(self.node) {
                    visitor.value(field, if array { Value::Array } else { Value::Object });
                }
                let node = if array { paths.element(self.node) } else { self.node };
                let leads = node != UNWANTED && (array || paths.is_inner(node));
                match self.stack.get_mut(self.depth) {
                    Some(frame) if leads => {
                        *frame = Frame { node, array };
                        self.depth += 1;
                        self.state = if array { State::Element } else { State::Member };
                    }
                    _ => self.state = State::Skip { array, depth: 1 },
                }
            }
            b'"' => {
                self.begun = true;
                if paths.field(self.node).is_some() {
                    self.text.clear();
                    self.surrogate = 0;
                    return self.short_text(paths, bytes, at + 1, visitor);
                }
                self.state = State::SkipText { escaped: false };
            }
            // What is no value ends it.
            b',' | b'}' | b']' | b':' => {
                if self.depth > 0 {
                    self.after();
                    // An end mark belongs to the container.
                    return if byte == b',' || byte == b':' { at + 1 } else { at };
                }
            }
            _ => {
                self.begun = true;
                let wanted = paths.field(self.node).is_some();
                self.text.clear();
                self.state = State::Scalar { wanted };
                return at;
            }
        }
        at + 1
    }

    /// A wanted string that begins at `at`: without a copy if it is whole and has no escape.
    fn short_text<F: Copy>(
        &mut self,
        paths: &Paths<F>,
        bytes: &[u8],
        at: usize,
        visitor: &mut impl Visitor<F>,
    ) -> usize {
        let rest = bytes.get(at..).unwrap_or_default();
        let end = memchr::memchr2(b'"', b'\\', rest);
        if let Some(len) = end
            && len <= JSON_TEXT_MAX
            && rest.get(len) == Some(&b'"')
        {
            if let Some(field) = paths.field(self.node) {
                visitor.value(field, Value::Text { bytes: rest.get(..len).unwrap_or_default(), whole: true });
            }
            self.after();
            return at + len + 1;
        }
        self.state = State::Text { key: false };
        at
    }

    fn end_scalar<F: Copy>(&mut self, paths: &Paths<F>, visitor: &mut impl Visitor<F>) {
        if let Some(field) = paths.field(self.node) {
            let value = match &*self.text {
                b"null" => Some(Value::Null),
                b"true" => Some(Value::Bool(true)),
                b"false" => Some(Value::Bool(false)),
                text if text.first().is_some_and(|first| first.is_ascii_digit() || *first == b'-') => {
                    self.text.is_whole().then_some(Value::Number(text))
                }
                _ => None,
            };
            if let Some(value) = value {
                visitor.value(field, value);
            }
        }
        self.after();
    }

    fn escape(&mut self, byte: u8, key: bool, digits: u8, unit: u16) {
        if digits > 0 {
            let digit = (byte as char).to_digit(16).and_then(|digit| u16::try_from(digit).ok()).unwrap_or(0);
            let unit = unit << 4 | digit;
            self.state = State::Escape { key, digits: digits - 1, unit };
            if digits == 1 {
                self.unit(unit);
                self.state = State::Text { key };
            }
            return;
        }
        self.state = State::Text { key };
        let plain = match byte {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                self.state = State::Escape { key, digits: 4, unit: 0 };
                return;
            }
            other => other,
        };
        self.text.push(&[plain]);
    }

    /// A code unit of UTF-16: a character, or half of one.
    fn unit(&mut self, unit: u16) {
        let pending = std::mem::take(&mut self.surrogate);
        if (0xd800..0xdc00).contains(&unit) {
            self.surrogate = unit;
            return;
        }
        let both = [pending, unit];
        let units = if pending == 0 { both.get(1..).unwrap_or_default() } else { both.as_slice() };
        for decoded in char::decode_utf16(units.iter().copied()) {
            let character = decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
            self.text.push(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.after();
    }

    /// A value is over.
    fn after(&mut self) {
        match self.depth.checked_sub(1).and_then(|top| self.stack.get(top)) {
            Some(Frame { array: true, .. }) => self.state = State::Element,
            Some(_) => self.state = State::Member,
            None => {
                self.documents = self.documents.saturating_add(u32::from(self.begun));
                self.begun = false;
                self.node = ROOT;
                self.state = State::Value;
            }
        }
    }
}

fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b',' | b'}' | b']' | b':' | b'"' | b' ' | b'\n' | b'\r' | b'\t' | b'{' | b'[')
}

/// Bytes up to and with the quote that ends a string, or whether its last byte so far is an escape.
fn skip_text(bytes: &[u8], escaped: bool) -> Result<usize, bool> {
    let mut at = usize::from(escaped);
    if bytes.is_empty() {
        return Err(escaped);
    }
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match memchr::memchr2(b'"', b'\\', rest) {
            None => return Err(false),
            Some(found) if rest.get(found) == Some(&b'"') => return Ok(at + found + 1),
            Some(found) => {
                at += found + 2;
                if at > bytes.len() {
                    return Err(true);
                }
            }
        }
    }
}
