//! A push scanner for JSON that hands out the values at wanted paths and holds nothing else.
//!
//! Memory is fixed whatever the document is. Values that nobody wants are skipped by searching for their end. It is
//! lenient: text that is not JSON gives no values, never an error. Several documents may follow each other.

use crate::limits::{JSON_DEPTH_MAX, JSON_TEXT_MAX};
use crate::payload::Short;

/// A value at a wanted path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it is written.
    Number(&'a [u8]),
    /// A string, unescaped. Only its first [`JSON_TEXT_MAX`] bytes if it is longer: then `whole` is false.
    Text {
        /// Bytes, UTF-8 if the document is.
        bytes: &'a [u8],
        /// False if cut.
        whole: bool,
    },
    /// An object begins; its members follow.
    Object,
    /// An array begins; its elements follow.
    Array,
}

impl Value<'_> {
    /// The count in a number or a string, `10.0` included. `None` for anything else, negative numbers and fractions.
    pub fn count(&self) -> Option<u64> {
        let text = match self {
            Value::Number(text) => text,
            Value::Text { bytes, whole: true } => bytes,
            _ => return None,
        };
        let (mantissa, exponent) = decimal(text)?;
        let mut number = mantissa;
        for _ in 0..exponent.unsigned_abs() {
            if exponent > 0 {
                number = number.checked_mul(10)?;
            } else if number % 10 == 0 {
                number /= 10;
            } else {
                return None;
            }
        }
        u64::try_from(number).ok()
    }

    /// The number scaled by `10^power`, cut to a whole number. `None` for anything else and negative numbers.
    pub fn scaled(&self, power: i32) -> Option<u128> {
        let text = match self {
            Value::Number(text) => text,
            Value::Text { bytes, whole: true } => bytes,
            _ => return None,
        };
        let (mut number, exponent) = decimal(text)?;
        let exponent = exponent.checked_add(power)?;
        if exponent < -40 {
            return Some(0);
        }
        for _ in 0..exponent.unsigned_abs() {
            number = if exponent > 0 { number.checked_mul(10)? } else { number / 10 };
        }
        Some(number)
    }
}

/// Digits as a whole number, and the power of ten it is to be multiplied with.
fn decimal(text: &[u8]) -> Option<(u128, i32)> {
    let (mut number, mut exponent, mut digits, mut fraction) = (0u128, 0i32, 0u32, false);
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b'0'..=b'9' => {
                digits += 1;
                exponent = exponent.checked_sub(i32::from(fraction))?;
                match number.checked_mul(10).and_then(|tens| tens.checked_add(u128::from(byte - b'0'))) {
                    Some(more) => number = more,
                    // More digits than any amount has: the rest only moves the point.
                    None => exponent = exponent.checked_add(1)?,
                }
            }
            b'.' if !fraction => fraction = true,
            b'e' | b'E' => {
                let written: i32 = std::str::from_utf8(after).ok()?.parse().ok()?;
                exponent = exponent.checked_add(written)?;
                break;
            }
            _ => return None,
        }
        rest = after;
    }
    if number == 0 {
        exponent = 0;
    }
    (digits > 0 && exponent.abs() <= 80).then_some((number, exponent))
}

/// Takes values.
pub trait Visitor<F> {
    /// The value at the wanted path `field`.
    fn value(&mut self, field: F, value: Value<'_>);
}

/// Wanted paths, made for looking up keys as they come.
#[derive(Debug)]
pub struct Paths<F> {
    nodes: Vec<Node<F>>,
}

#[derive(Debug)]
struct Node<F> {
    field: Option<F>,
    members: Vec<(&'static [u8], u16)>,
    /// Node of all elements of an array here.
    element: u16,
}

/// Nothing below is wanted.
pub(super) const UNWANTED: u16 = u16::MAX;
pub(super) const ROOT: u16 = 0;

impl<F: Copy> Paths<F> {
    /// Paths like `/choices/*/finish_reason`; `*` stands for every element of an array.
    pub fn new(wanted: &[(&'static str, F)]) -> Paths<F> {
        let mut paths = Paths { nodes: vec![Node { field: None, members: Vec::new(), element: UNWANTED }] };
        for (path, field) in wanted {
            let mut at = usize::from(ROOT);
            for key in path.split('/').skip(1) {
                at = paths.child(at, key);
            }
            if let Some(node) = paths.nodes.get_mut(at) {
                node.field = Some(*field);
            }
        }
        paths
    }

    fn child(&mut self, at: usize, key: &'static str) -> usize {
        let fresh = u16::try_from(self.nodes.len()).unwrap_or(UNWANTED);
        let Some(node) = self.nodes.get_mut(at) else { return at };
        let known = if key == "*" {
            node.element
        } else {
            node.members
                .iter()
                .find(|(name, _)| *name == key.as_bytes())
                .map_or(UNWANTED, |(_, child)| *child)
        };
        if known != UNWANTED {
            return usize::from(known);
        }
        if key == "*" {
            node.element = fresh;
        } else {
            node.members.push((key.as_bytes(), fresh));
        }
        self.nodes.push(Node { field: None, members: Vec::new(), element: UNWANTED });
        usize::from(fresh)
    }

    pub(super) fn member(&self, at: u16, key: &[u8]) -> u16 {
        let Some(node) = self.nodes.get(usize::from(at)) else { return UNWANTED };
        node.members.iter().find(|(name, _)| *name == key).map_or(UNWANTED, |(_, child)| *child)
    }

    fn element(&self, at: u16) -> u16 {
        self.nodes.get(usize::from(at)).map_or(UNWANTED, |node| node.element)
    }

    /// Whether something below the node is wanted.
    pub(super) fn is_inner(&self, at: u16) -> bool {
        self.nodes.get(usize::from(at)).is_some_and(|node| !node.members.is_empty())
    }

    pub(super) fn field(&self, at: u16) -> Option<F> {
        self.nodes.get(usize::from(at)).and_then(|node| node.field)
    }
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
                let leads = node != UNWANTED
                    && (array
                        || paths.nodes.get(usize::from(node)).is_some_and(|node| !node.members.is_empty()));
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
