//! Server-sent events by the WHATWG rules, from a body that may be cut anywhere. Data is handed on, never held.

use crate::limits::SSE_NAME_MAX;
use crate::payload::Short;

/// Takes the parts of events.
pub trait Events {
    /// A part of the current event's data; lines after the first are preceded by a line feed.
    fn data(&mut self, part: &[u8]);
    /// The current event is over. `name` is empty for an event without one.
    fn dispatch(&mut self, name: &[u8]);
}

/// Place in a stream of events.
#[derive(Debug)]
pub struct Sse {
    place: Place,
    /// Name of the field being read, as far as it matters.
    field: Short<5>,
    name: Short<SSE_NAME_MAX>,
    has_data: bool,
    /// The last byte was a carriage return: a line feed after it belongs to it.
    after_return: bool,
    /// Bytes of the byte order mark seen.
    mark: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first byte of the stream.
    Mark,
    /// At the first byte of a line.
    Line,
    /// In a field's name.
    Field,
    /// After the colon.
    Colon(Kind),
    /// In a value.
    Value(Kind),
    /// Bytes are missing: until the next blank line.
    Lost { blank: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Event,
    Other,
}

impl Default for Sse {
    fn default() -> Sse {
        Sse {
            place: Place::Mark,
            field: Short::default(),
            name: Short::default(),
            has_data: false,
            after_return: false,
            mark: 0,
        }
    }
}

impl Sse {
    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut impl Events) {
        if self.after_return && !bytes.is_empty() {
            self.after_return = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some((first, rest)) = bytes.split_first() {
            match self.place {
                Place::Mark => {
                    const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
                    if MARK.get(usize::from(self.mark)) == Some(first) {
                        self.mark += 1;
                        bytes = rest;
                        if usize::from(self.mark) == MARK.len() {
                            self.place = Place::Line;
                        }
                    } else if self.mark > 0 {
                        // The name of a field that nobody knows begins with a part of it.
                        self.field.clear();
                        self.field.push(&MARK);
                        self.place = Place::Field;
                    } else {
                        self.place = Place::Line;
                    }
                }
                Place::Line => match first {
                    b'\n' | b'\r' => {
                        bytes = self.line_end(bytes, 0);
                        self.dispatch(events);
                    }
                    _ => {
                        self.field.clear();
                        self.place = Place::Field;
                    }
                },
                Place::Field => bytes = self.field(bytes, events),
                Place::Colon(kind) => {
                    bytes = if *first == b' ' { rest } else { bytes };
                    self.place = Place::Value(kind);
                    if kind == Kind::Event {
                        self.name.clear();
                    }
                    if kind == Kind::Data {
                        self.begin_data(events);
                    }
                }
                Place::Value(kind) => {
                    let end = memchr::memchr2(b'\n', b'\r', bytes);
                    let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
                    match kind {
                        Kind::Data if !part.is_empty() => events.data(part),
                        Kind::Event => self.name.push(part),
                        Kind::Data | Kind::Other => {}
                    }
                    bytes = match end {
                        Some(end) => self.line_end(bytes, end),
                        None => &[],
                    };
                }
                Place::Lost { blank } => {
                    bytes = rest;
                    match first {
                        b'\n' if blank => self.place = Place::Line,
                        b'\n' => self.place = Place::Lost { blank: true },
                        b'\r' => {}
                        _ => self.place = Place::Lost { blank: false },
                    }
                }
            }
        }
    }

    /// Bytes are missing: the event in progress is given up.
    pub fn gap(&mut self) {
        self.has_data = false;
        self.name.clear();
        self.after_return = false;
        self.place = Place::Lost { blank: false };
    }

    /// The body is over. An event that its last blank line would have ended is dispatched: many servers forget it.
    pub fn finish(&mut self, events: &mut impl Events) {
        self.dispatch(events);
        self.place = Place::Line;
    }

    /// Ends the line whose end is at `end`; returns what follows.
    fn line_end<'a>(&mut self, bytes: &'a [u8], end: usize) -> &'a [u8] {
        self.place = Place::Line;
        match bytes.get(end..) {
            Some([b'\r', b'\n', rest @ ..]) => rest,
            Some([b'\r']) => {
                self.after_return = true;
                &[]
            }
            Some([_, rest @ ..]) => rest,
            _ => &[],
        }
    }

    fn field<'a>(&mut self, bytes: &'a [u8], events: &mut impl Events) -> &'a [u8] {
        // The common case in one look.
        if self.field.is_empty()
            && let Some(rest) = bytes.strip_prefix(b"data:")
        {
            self.place = Place::Colon(Kind::Data);
            return rest;
        }
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b':' => {
                    self.place = Place::Colon(self.kind());
                    return bytes.get(at + 1..).unwrap_or_default();
                }
                b'\n' | b'\r' => {
                    match self.kind() {
                        Kind::Data => self.begin_data(events),
                        Kind::Event => self.name.clear(),
                        Kind::Other => {}
                    }
                    return self.line_end(bytes, at);
                }
                _ => self.field.push(&[*byte]),
            }
        }
        &[]
    }

    fn kind(&self) -> Kind {
        match &*self.field {
            b"data" => Kind::Data,
            b"event" if self.field.is_whole() => Kind::Event,
            _ => Kind::Other,
        }
    }

    fn begin_data(&mut self, events: &mut impl Events) {
        if self.has_data {
            events.data(b"\n");
        }
        self.has_data = true;
    }

    fn dispatch(&mut self, events: &mut impl Events) {
        if self.has_data {
            events.dispatch(&self.name);
        }
        self.has_data = false;
        self.name.clear();
    }
}
