//! What a request body says: the model, and how the answer is to come. Read while it passes.

use super::facts::name;
use super::json::{Paths, Scanner, Value, Visitor};
use std::sync::OnceLock;

/// Wanted members of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Model.
    Model,
    /// `stream`.
    Stream,
    /// `stream_options.include_usage`.
    IncludeUsage,
}

/// What it said.
#[derive(Debug, Default)]
pub struct Asked {
    /// Model as the request names it.
    pub model: Option<Box<str>>,
    /// Whether a stream was asked for.
    pub stream: Option<bool>,
    /// Whether usage was asked for in the stream.
    pub include_usage: Option<bool>,
}

impl Visitor<Wanted> for Asked {
    fn value(&mut self, field: Wanted, value: Value<'_>) {
        match (field, value) {
            (Wanted::Model, value) => {
                if let Some(model) = name(value) {
                    self.model = Some(model.into());
                }
            }
            (Wanted::Stream, Value::Bool(stream)) => self.stream = Some(stream),
            (Wanted::IncludeUsage, Value::Bool(wanted)) => self.include_usage = Some(wanted),
            _ => {}
        }
    }
}

/// Reads a request body.
#[derive(Debug, Default)]
pub struct Reader {
    scanner: Scanner,
    state: Sniffed,
    asked: Asked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sniffed {
    #[default]
    Nothing,
    Json,
    /// Not JSON, or no longer in step.
    Opaque,
}

impl Reader {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.state == Sniffed::Nothing {
            match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{') => self.state = Sniffed::Json,
                Some(_) => self.state = Sniffed::Opaque,
                None => return,
            }
        }
        if self.state == Sniffed::Json && self.scanner.documents() == 0 {
            self.scanner.push(paths(), bytes, &mut self.asked);
        }
    }

    /// Bytes are missing: what was read stands, nothing after them can be placed.
    pub fn gap(&mut self) {
        if self.scanner.documents() == 0 {
            self.state = Sniffed::Opaque;
        }
    }

    /// What was asked so far.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }
}

fn paths() -> &'static Paths<Wanted> {
    static PATHS: OnceLock<Paths<Wanted>> = OnceLock::new();
    PATHS.get_or_init(|| {
        Paths::new(&[
            ("/model", Wanted::Model),
            ("/stream", Wanted::Stream),
            ("/stream_options/include_usage", Wanted::IncludeUsage),
        ])
    })
}
