//! What a request body says: the model, and how the answer is to come. Read while it passes.

use std::sync::OnceLock;

use memchr::memmem;

use super::dialect::{Dialect, Wire};
use super::json::{Paths, Scanner, Value, Visitor};
use super::{mcp, names, protobuf};
use crate::exchange::{Place, Withheld, Word};
use crate::limits::JSON_TEXT_MAX;
use crate::payload::Held;

/// Wanted members of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Model.
    Model,
    /// `stream`.
    Stream,
    /// `stream_options.include_usage`.
    IncludeUsage,
    /// A member that only requests of this shape have.
    Shape(Shape),
    /// A message of a batch of remote procedure calls begins.
    Message,
    /// Method of one.
    Method,
    /// Name of what it is about.
    Subject,
}

/// What kind of request a body is, by its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `messages` or `prompt`.
    Chat,
    /// The same, as Anthropic's API has it.
    Messages,
    /// `contents`.
    Contents,
}

/// What it said.
#[derive(Debug, Default)]
pub struct Asked {
    /// Model as the request names it.
    pub model: Option<Word>,
    /// Whether a stream was asked for.
    pub stream: Option<bool>,
    /// Whether usage was asked for in the stream.
    pub include_usage: Option<bool>,
    /// What kind of request it is.
    pub shape: Option<Shape>,
    /// Remote procedure calls.
    pub calls: mcp::Asked,
    /// Places where something stands that is no name.
    pub withheld: Withheld,
}

impl Asked {
    fn name(&mut self, value: Value<'_>) {
        let name = names::of(value, names::model).at(Place::RequestedModel, &mut self.withheld);
        if let Some(model) = name {
            self.model = Some(model.into());
        }
    }
}

impl Visitor<Wanted> for Asked {
    fn value(&mut self, field: Wanted, value: Value<'_>) {
        match (field, value) {
            (Wanted::Model, value) => self.name(value),
            (Wanted::Stream, Value::Bool(stream)) => self.stream = Some(stream),
            (Wanted::IncludeUsage, Value::Bool(wanted)) => self.include_usage = Some(wanted),
            (Wanted::Shape(Shape::Chat), Value::Null) => {}
            (Wanted::Shape(shape), _) if self.shape != Some(Shape::Messages) => self.shape = Some(shape),
            (Wanted::Message, _) => self.calls.begin(),
            (Wanted::Method, value) => {
                if let names::Named::Name(method) = names::of(value, names::word) {
                    self.calls.method(method);
                }
            }
            (Wanted::Subject, value) => {
                if let Some(name) = names::of(value, names::word).at(Place::Tools, &mut self.withheld) {
                    self.calls.subject(name);
                }
            }
            _ => {}
        }
    }
}

/// Reads a request body.
#[derive(Debug, Default)]
pub struct Reader {
    scanner: Scanner,
    /// Instead of it, for a request in protobuf.
    protobuf: Option<Box<protobuf::Scanner>>,
    state: Sniffed,
    form: Form,
    asked: Asked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sniffed {
    #[default]
    Nothing,
    Json,
    /// Parts of a form, uploads among them.
    Form,
    /// Neither, or no longer in step.
    Opaque,
}

impl Reader {
    /// A reader of requests in `dialect`.
    pub fn new(dialect: Option<&'static Dialect>) -> Reader {
        let protobuf =
            dialect.filter(|dialect| matches!(dialect.wire, Wire::Protobuf { .. })).map(|_| Box::default());
        Reader { protobuf, ..Reader::default() }
    }

    /// Takes the next bytes of a message in `dialect`.
    pub fn push_message(&mut self, dialect: &'static Dialect, bytes: &[u8]) {
        if let (Some(scanner), Some(paths)) = (&mut self.protobuf, dialect.asked()) {
            scanner.push(paths, bytes, &mut self.asked);
        }
        // Google's requests name it as a resource: `projects/P/locations/L/publishers/google/models/gemini-2.5-pro`.
        if let Some((_, name)) = self.asked.model.as_deref().and_then(|model| model.rsplit_once("models/")) {
            self.asked.model = Some(name.into());
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.state == Sniffed::Nothing {
            match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{' | b'[') => self.state = Sniffed::Json,
                Some(b'-') => self.state = Sniffed::Form,
                Some(_) => self.state = Sniffed::Opaque,
                None => return,
            }
        }
        if self.state == Sniffed::Json {
            self.scanner.push(paths(), bytes, &mut self.asked);
        }
        if self.state == Sniffed::Form {
            self.form.push(bytes);
        }
    }

    /// The body is over.
    pub fn finish(&mut self) {
        if self.form.place == FormPlace::Over {
            let whole = self.form.held.len() < JSON_TEXT_MAX;
            self.asked.name(Value::Text { bytes: &self.form.held, whole });
        }
    }

    /// Bytes are missing: what was read stands, nothing after them can be placed.
    pub fn gap(&mut self) {
        if let Some(scanner) = &mut self.protobuf {
            scanner.give_up();
        }
        if self.scanner.documents() == 0 {
            self.state = Sniffed::Opaque;
        }
    }

    /// What was asked in all. Called once, when nothing more comes.
    pub fn take(&mut self) -> Asked {
        std::mem::take(&mut self.asked)
    }

    /// What was asked so far.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }
}

/// Field of a form that names the model, as its head says.
const MODEL_FIELD: &[u8] = b"form-data; name=\"model\"";

/// Looks for the field `model` of a form.
#[derive(Debug, Default)]
struct Form {
    place: FormPlace,
    /// The last bytes, where a match may begin; then the value.
    held: Held,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FormPlace {
    #[default]
    Searching,
    /// In the part's head; line ends seen in a row.
    Head(u8),
    Value,
    Over,
}

impl Form {
    fn push(&mut self, mut bytes: &[u8]) {
        if self.place == FormPlace::Searching {
            // Across the border of two pieces first.
            let reach = MODEL_FIELD.len() - 1;
            let before = self.held.len();
            self.held.push(bytes.get(..bytes.len().min(reach)).unwrap_or_default());
            let end = |at: usize| at + MODEL_FIELD.len();
            let across = memmem::find(&self.held, MODEL_FIELD).map(|at| end(at).saturating_sub(before));
            match across.or_else(|| memmem::find(bytes, MODEL_FIELD).map(end)) {
                Some(after) => {
                    bytes = bytes.get(after..).unwrap_or_default();
                    self.place = FormPlace::Head(0);
                    self.held.clear();
                }
                None => {
                    if bytes.len() >= reach {
                        self.held.clear();
                        self.held.push(bytes.get(bytes.len() - reach..).unwrap_or_default());
                    } else {
                        let drop = self.held.len().saturating_sub(reach);
                        self.held.drop_front(drop);
                    }
                    return;
                }
            }
        }
        for byte in bytes {
            match (self.place, byte) {
                (FormPlace::Head(lines), b'\n') => {
                    self.place = if lines == 1 { FormPlace::Value } else { FormPlace::Head(1) };
                }
                (FormPlace::Head(_), b'\r') => {}
                (FormPlace::Head(_), _) => self.place = FormPlace::Head(0),
                (FormPlace::Value, b'\r' | b'\n') => self.place = FormPlace::Over,
                (FormPlace::Value, byte) if self.held.len() < JSON_TEXT_MAX => self.held.push(&[*byte]),
                _ => return,
            }
        }
    }
}

fn paths() -> &'static Paths<Wanted> {
    static PATHS: OnceLock<Paths<Wanted>> = OnceLock::new();
    PATHS.get_or_init(|| {
        Paths::new(&[
            ("/model", Wanted::Model),
            ("/stream", Wanted::Stream),
            ("/stream_options/include_usage", Wanted::IncludeUsage),
            ("/messages", Wanted::Shape(Shape::Chat)),
            ("/prompt", Wanted::Shape(Shape::Chat)),
            ("/anthropic_version", Wanted::Shape(Shape::Messages)),
            ("/contents", Wanted::Shape(Shape::Contents)),
            ("/method", Wanted::Method),
            ("/params/name", Wanted::Subject),
            ("/*", Wanted::Message),
            ("/*/method", Wanted::Method),
            ("/*/params/name", Wanted::Subject),
        ])
    })
}
