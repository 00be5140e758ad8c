//! Reads an answer while it passes: finds out what form it has, and keeps what its dialect wants.
//!
//! The form is taken from the first bytes, not from the content type: providers mislabel both ways.

use super::dialect::{Dialect, Wire};
use super::facts::Count;
use super::facts::{Facts, Field};
use super::json::{Scanner, Value, Visitor};
use super::protobuf;
use crate::exchange::Usage;
use crate::http::End;
use crate::http::eventstream::{self, EventStream, Message};
use crate::http::sse::{Events, Sse};
use crate::payload::{Held, Short};
use crate::time::Moment;
use memchr::memmem;

/// How an answer travels.
#[derive(Debug)]
enum Form {
    /// Not one byte of it seen.
    Unknown,
    /// JSON, one document or several.
    Json,
    /// Server-sent events.
    Events(Sse),
    /// AWS event stream.
    Messages(Box<EventStream>),
    /// Protobuf, one message or several.
    Protobuf(Box<protobuf::Scanner>),
    /// Nothing that is read.
    Opaque,
}

/// Whether a content type says that a body is a stream of events or of documents, one a line.
pub fn is_stream(label: &str) -> bool {
    const STREAMS: [&str; 6] = [
        "text/event-stream",
        "application/vnd.amazon.eventstream",
        "application/x-ndjson",
        "application/ndjson",
        "application/x-jsonl",
        "application/stream+json",
    ];
    let kind = label.split(';').next().unwrap_or(label).trim();
    STREAMS.iter().any(|stream| stream.eq_ignore_ascii_case(kind))
}

/// What can be said of the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is whole.
    Whole,
    /// There is none.
    Absent,
    /// Bytes are missing where it may have been.
    Gap,
    /// The answer broke off before it was certain.
    Cut,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    dialect: &'static Dialect,
    form: Form,
    scanner: Scanner,
    reading: Reading,
    gap: Option<AfterGap>,
    /// The document is an array.
    array: bool,
}

/// State at the last hole.
#[derive(Clone, Copy, Debug)]
struct AfterGap {
    /// Usage objects seen whole before the first hole, and begun before the last one.
    before_first: u32,
    before_last: u32,
    terminal: bool,
}

#[derive(Debug)]
struct Reading {
    dialect: &'static Dialect,
    facts: Facts,
    first_output: Option<Moment>,
    last_output: Option<Moment>,
    now: Moment,
    /// Usage objects in events that are over: one that a hole breaks off was not seen.
    settled: u32,
    /// Documents in events that are over.
    documents: u32,
    /// The answer is over: the event in progress may have broken off.
    ending: bool,
    /// Start of the current event's data, to know `[DONE]`.
    data_head: Short<{ DONE.len() }>,
    /// What a message holds in base64.
    inner: Held,
}

/// Data of the event that ends a stream.
const DONE: &[u8] = b"[DONE]";

impl Visitor<Field> for Taking<'_> {
    fn value(&mut self, field: Field, value: Value<'_>) {
        self.facts.take(self.dialect.merge, self.dialect.terminal, field, value);
    }
}

struct Taking<'a> {
    facts: &'a mut Facts,
    dialect: &'static Dialect,
}

impl Answer {
    /// An answer in `dialect`.
    pub fn new(dialect: &'static Dialect) -> Answer {
        Answer {
            dialect,
            form: match dialect.wire {
                Wire::Text | Wire::Document | Wire::Session(_) => Form::Unknown,
                Wire::Protobuf { .. } => Form::Protobuf(Box::default()),
            },
            scanner: Scanner::default(),
            reading: Reading {
                dialect,
                facts: Facts::default(),
                first_output: None,
                last_output: None,
                now: Moment::default(),
                settled: 0,
                documents: 0,
                ending: false,
                data_head: Short::default(),
                inner: Held::new(),
            },
            gap: None,
            array: false,
        }
    }

    /// Notes a count that stands in a response field.
    pub fn note(&mut self, count: Count, value: u64) {
        self.reading.facts.note(count, Some(value));
        self.reading.settled = self.reading.facts.usages;
    }

    /// Takes the next bytes, content codings undone.
    pub fn push(&mut self, mut bytes: &[u8], now: Moment) {
        if let Form::Unknown = self.form {
            // A byte order mark and blanks may precede either text; they are no part of it.
            let Some(at) = bytes.iter().position(|byte| !byte.is_ascii_whitespace() && *byte < 0x80) else {
                return;
            };
            bytes = bytes.get(at..).unwrap_or_default();
            self.form = match bytes.first().unwrap_or(&0) {
                _ if eventstream::may_begin(bytes) => Form::Messages(Box::default()),
                b'{' => Form::Json,
                b'[' => {
                    self.array = true;
                    Form::Json
                }
                b':' | b'd' | b'e' | b'i' | b'r' if self.dialect.wire != Wire::Document => {
                    Form::Events(Sse::default())
                }
                _ => Form::Opaque,
            };
        }
        self.reading.now = now;
        match &mut self.form {
            Form::Json => {
                let mut sink = Taking { facts: &mut self.reading.facts, dialect: self.dialect };
                self.scanner.push(self.dialect.wanted(), bytes, &mut sink);
                // Of a document that is written piece by piece, every piece counts as an event.
                if self.array || self.scanner.documents() > 0 {
                    self.reading.note_output();
                }
            }
            Form::Messages(stream) => {
                let mut event = Event { scanner: &mut self.scanner, reading: &mut self.reading };
                stream.push(bytes, &mut |message| event.message(message));
                if stream.is_broken() {
                    self.gap();
                }
            }
            Form::Events(events) => {
                events.push(bytes, &mut Event { scanner: &mut self.scanner, reading: &mut self.reading });
            }
            Form::Protobuf(scanner) => {
                let mut sink = Taking { facts: &mut self.reading.facts, dialect: self.dialect };
                scanner.push(self.dialect.wanted(), bytes, &mut sink);
            }
            Form::Unknown | Form::Opaque => {}
        }
    }

    /// A message of a stream that frames its messages is over.
    pub fn message_end(&mut self, now: Moment) {
        self.reading.now = now;
        if let Form::Protobuf(scanner) = &mut self.form {
            scanner.restart();
            self.reading.facts.next_message();
            self.reading.note_output();
        }
    }

    /// Bytes are missing here.
    pub fn gap(&mut self) {
        let usages = self.reading.facts.usages;
        let before_first = self.gap.map_or(self.reading.settled, |gap| gap.before_first);
        let terminal = self.reading.facts.terminal;
        self.gap = Some(AfterGap { before_first, before_last: usages, terminal });
        match &mut self.form {
            Form::Events(events) => {
                events.gap();
                self.scanner.restart();
                self.reading.data_head.clear();
                self.reading.facts.output = false;
                self.reading.facts.closing = false;
            }
            // The rest of the message in progress is noise; the next one is whole.
            Form::Protobuf(scanner) => scanner.give_up(),
            Form::Unknown | Form::Json | Form::Messages(_) => self.form = Form::Opaque,
            Form::Opaque => {}
        }
    }

    /// The answer is over.
    pub fn finish(&mut self, now: Moment) {
        self.reading.now = now;
        self.reading.ending = true;
        if let Form::Events(events) = &mut self.form {
            events.finish(&mut Event { scanner: &mut self.scanner, reading: &mut self.reading });
        }
    }

    /// Whether it came as a stream of events.
    pub fn is_streamed(&self) -> bool {
        match self.form {
            Form::Events(_) | Form::Messages(_) => true,
            Form::Protobuf(_) => matches!(self.dialect.wire, Wire::Protobuf { streamed: true, .. }),
            Form::Json => self.array || self.scanner.documents() > 1,
            Form::Unknown | Form::Opaque => false,
        }
    }

    /// Whether something of it was not seen, although its usage may have been.
    pub fn has_holes(&self) -> bool {
        self.gap.is_some()
    }

    /// What it said. Called once, when nothing more comes.
    pub fn take_facts(&mut self) -> Facts {
        std::mem::take(&mut self.reading.facts)
    }

    /// When output was seen first and last.
    pub fn output(&self) -> (Option<Moment>, Option<Moment>) {
        (self.reading.first_output, self.reading.last_output)
    }

    /// The usage of an answer that ended so, and how far it can be trusted.
    pub fn usage(&self, end: End) -> (Usage, Verdict) {
        let facts = &self.reading.facts;
        let framed = end == End::Complete;
        let whole = match &self.form {
            Form::Json => framed || (self.scanner.documents() > 0 && !self.scanner.is_inside()),
            Form::Events(_) | Form::Messages(_) => framed || facts.terminal,
            Form::Unknown | Form::Opaque | Form::Protobuf(_) => framed,
        };
        let missing = self.gap.is_some_and(|gap| match self.dialect.merge {
            super::facts::Merge::LastObject => facts.usages == gap.before_last && !gap.terminal,
            super::facts::Merge::LastValue => {
                gap.before_first == 0 || (facts.usages == gap.before_last && !gap.terminal)
            }
        });
        let usage = self.dialect.usage_of(facts);
        match () {
            () if missing => (Usage::default(), Verdict::Gap),
            () if !whole || facts.begun => (Usage::default(), Verdict::Cut),
            () if facts.usages == 0 || usage.is_unknown() => match end {
                // A further document may have had it.
                End::Cut(_) if matches!(self.form, Form::Json) => (Usage::default(), Verdict::Cut),
                _ => (Usage::default(), Verdict::Absent),
            },
            () => (usage, Verdict::Whole),
        }
    }
}

/// Feeds the data of events to the scanner.
struct Event<'a> {
    scanner: &'a mut Scanner,
    reading: &'a mut Reading,
}

impl Events for Event<'_> {
    fn data(&mut self, part: &[u8]) {
        let reading = &mut *self.reading;
        reading.data_head.push(part);
        let mut sink = Taking { facts: &mut reading.facts, dialect: reading.dialect };
        self.scanner.push(reading.dialect.wanted(), part, &mut sink);
    }

    fn dispatch(&mut self, name: &[u8]) {
        let reading = &mut *self.reading;
        let mut sink = Taking { facts: &mut reading.facts, dialect: reading.dialect };
        self.scanner.finish(reading.dialect.wanted(), &mut sink);
        // Without its blank line an event is only as whole as the document in it.
        let begun = self.scanner.documents() > reading.documents;
        let whole = !self.scanner.is_inside() && (begun || !reading.ending);
        reading.documents = self.scanner.documents();
        self.scanner.restart();
        let facts = &mut reading.facts;
        let closing = std::mem::take(&mut facts.closing)
            || (reading.data_head.is_whole() && *reading.data_head == *DONE)
            || std::str::from_utf8(name).is_ok_and(|name| reading.dialect.terminal.contains(&name));
        facts.terminal |= closing && whole;
        facts.next_event(whole);
        reading.settled = facts.usages;
        reading.note_output();
        reading.data_head.clear();
    }
}

impl Reading {
    /// The event in progress is over: notes when, if it carries output.
    fn note_output(&mut self) {
        if std::mem::take(&mut self.facts.output) {
            self.first_output.get_or_insert(self.now);
            self.last_output = Some(self.now);
        }
    }
}

impl Event<'_> {
    /// A message of an AWS event stream: JSON, or JSON in base64 inside JSON.
    fn message(&mut self, message: Message<'_>) {
        match message.kind {
            "event" if message.name == "chunk" => {
                let mut inner = std::mem::take(&mut self.reading.inner);
                undo_base64(message.payload, &mut inner);
                self.data(&inner);
                inner.clear();
                self.reading.inner = inner;
            }
            "event" => self.data(message.payload),
            _ => self.reading.facts.failed(message.name),
        }
        self.dispatch(message.name.as_bytes());
    }
}

/// Adds what the member `bytes` of a payload holds to `bytes`, base64 undone.
fn undo_base64(payload: &[u8], bytes: &mut Held) {
    let after = memmem::find(payload, b"\"bytes\"").map_or(payload.len(), |at| at + 7);
    let value = payload.get(after..).unwrap_or_default();
    let begin = memchr::memchr(b'"', value).map_or(value.len(), |at| at + 1);
    bytes.grow(value.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in value.get(begin..).unwrap_or_default() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(&[u8::try_from(bits >> count & 0xff).unwrap_or(0)]);
        }
    }
}
