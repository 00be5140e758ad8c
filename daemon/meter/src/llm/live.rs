//! Dialects that are spoken over a WebSocket: one session, many answers.
//!
//! Each message is a JSON document of its own. OpenAI's Realtime API, Azure's Voice Live, xAI's voice API and Responses
//! over a WebSocket name the kind of each message and report usage when an answer is over. OpenAI's Live API hands on the
//! events of the responses that it has made. Gemini Live reports usage in
//! the message that ends a turn.

use std::sync::OnceLock;

use super::dialect::{Dialect, Wire};
use super::facts::Count::{CacheRead, Input, Output, Reasoning, ToolInput, Total};
use super::facts::{Counts, Facts, Field, MS, Whole, text};
use super::json::{Paths, Scanner, Value, Visitor};
use super::openai_chat::with_part;
use super::{gemini, openai_chat, openai_responses};
use crate::detail::Detail;
use crate::exchange::Usage;

/// How answers follow each other in a session.
pub struct Turns {
    /// What is wanted of messages that the client sends.
    asked: &'static [(&'static str, Field)],
    paths: OnceLock<Paths<Field>>,
    /// What a message of this kind is.
    step: fn(&str) -> Step,
    /// An answer is over with the message that reports usage.
    usage_ends: bool,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turns")
    }
}

impl PartialEq for Turns {
    fn eq(&self, other: &Turns) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Turns {}

/// What a message does to the conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    #[default]
    None,
    /// An answer is asked for.
    Asks,
    /// An answer begins.
    Begins,
    /// It goes on with output.
    Output,
    /// It is over.
    Ends,
    /// Something is counted that is no answer: a transcription of what the user said.
    Aside,
}

const SESSION: [(&str, Field); 6] = [
    ("/session/model", Field::Model),
    ("/response/usage/output_token_details/reasoning_tokens", Field::Count(Reasoning)),
    ("/event/type", Field::Kind),
    // Of a transcription that is billed by the length of what was said.
    ("/usage/seconds", Field::Scaled(Detail::AudioInputMs, MS)),
    // xAI: "billable" is what the price per minute is for, the other one how long the answer takes to hear.
    ("/usage/output_audio_seconds", Field::Scaled(Detail::AudioOutputMs, MS)),
    ("/usage/billable_audio_seconds", Field::Scaled(Detail::BillableAudioMs, MS)),
];

/// OpenAI's Realtime API and those like it.
pub static OPENAI: Dialect = Dialect {
    name: "openai_realtime",
    paths: &[
        &openai_responses::WHOLE,
        &openai_responses::EVENT,
        &openai_responses::NESTED,
        &openai_responses::STREAM,
        &SESSION,
    ],
    usage: openai_responses::DIALECT.usage,
    wire: Wire::Session(&OPENAI_TURNS),
    ..Dialect::TEXT
};

static OPENAI_TURNS: Turns = Turns {
    asked: &[
        ("/type", Field::Kind),
        ("/model", Field::Model),
        ("/session/model", Field::Model),
        ("/response/model", Field::Model),
    ],
    paths: OnceLock::new(),
    step: |kind| match kind {
        "response.create" => Step::Asks,
        "response.created" => Step::Begins,
        "response.done" | "response.completed" | "response.incomplete" | "response.failed" => Step::Ends,
        "conversation.item.input_audio_transcription.completed" => Step::Aside,
        _ if kind.starts_with("response.") && kind.ends_with(".delta") => Step::Output,
        _ => Step::None,
    },
    usage_ends: false,
};

const LIVE: [(&str, Field); 31] = [
    ("/usageMetadata", Field::Usage),
    ("/usageMetadata/promptTokenCount", Field::Count(Input)),
    ("/usageMetadata/responseTokenCount", Field::Count(Output)),
    ("/usageMetadata/candidatesTokenCount", Field::Count(Output)),
    ("/usageMetadata/thoughtsTokenCount", Field::Count(Reasoning)),
    ("/usageMetadata/toolUsePromptTokenCount", Field::Count(ToolInput)),
    ("/usageMetadata/cachedContentTokenCount", Field::Count(CacheRead)),
    ("/usageMetadata/totalTokenCount", Field::Count(Total)),
    ("/usageMetadata/promptTokensDetails/*", Field::Part(Whole::Input)),
    ("/usageMetadata/promptTokensDetails/*/modality", Field::PartKind),
    ("/usageMetadata/promptTokensDetails/*/tokenCount", Field::PartCount),
    ("/usageMetadata/toolUsePromptTokensDetails/*", Field::Part(Whole::Input)),
    ("/usageMetadata/toolUsePromptTokensDetails/*/modality", Field::PartKind),
    ("/usageMetadata/toolUsePromptTokensDetails/*/tokenCount", Field::PartCount),
    ("/usageMetadata/responseTokensDetails/*", Field::Part(Whole::Output)),
    ("/usageMetadata/responseTokensDetails/*/modality", Field::PartKind),
    ("/usageMetadata/responseTokensDetails/*/tokenCount", Field::PartCount),
    ("/usageMetadata/candidatesTokensDetails/*", Field::Part(Whole::Output)),
    ("/usageMetadata/candidatesTokensDetails/*/modality", Field::PartKind),
    ("/usageMetadata/candidatesTokensDetails/*/tokenCount", Field::PartCount),
    ("/usageMetadata/cacheTokensDetails/*", Field::Part(Whole::CacheRead)),
    ("/usageMetadata/cacheTokensDetails/*/modality", Field::PartKind),
    ("/usageMetadata/cacheTokensDetails/*/tokenCount", Field::PartCount),
    ("/usageMetadata/trafficType", Field::Tier),
    ("/usageMetadata/serviceTier", Field::Tier),
    ("/serverContent/modelTurn", Field::Output),
    ("/serverContent/outputTranscription/text", Field::Output),
    ("/toolCall/functionCalls/*/name", Field::Tool),
    ("/error", Field::Error),
    ("/error/status", Field::ErrorClass),
    ("/error/code", Field::ErrorCode),
];

/// Gemini Live (`BidiGenerateContent`), of the Gemini API and Vertex AI.
pub static GEMINI: Dialect = Dialect {
    name: "gemini_live",
    paths: &[&LIVE],
    usage: live_usage,
    wire: Wire::Session(&GEMINI_TURNS),
    ..Dialect::TEXT
};

fn live_usage(counts: &Counts) -> Usage {
    let usage = (gemini::GENERATE.usage)(counts);
    // Some models count thoughts on top of the response: the total tells.
    let output = with_part(counts.get(Output), usage.reasoning, usage.input, usage.total);
    Usage { output, ..usage }
}

static GEMINI_TURNS: Turns = Turns {
    asked: &[("/setup/model", Field::Model)],
    paths: OnceLock::new(),
    step: |_| Step::None,
    usage_ends: true,
};

/// What is spoken over a WebSocket, and how answers follow each other in it.
pub type Spoken = (&'static Dialect, &'static Turns);

/// What a WebSocket speaks that was asked for where `dialect` is usual.
pub fn spoken(dialect: &'static Dialect) -> Option<Spoken> {
    match dialect.wire {
        Wire::Session(turns) => Some((dialect, turns)),
        _ if *dialect == openai_responses::DIALECT => Some((&OPENAI, &OPENAI_TURNS)),
        Wire::Text | Wire::Document | Wire::Protobuf { .. } => None,
    }
}

/// What a WebSocket speaks to a provider whose answers are usually in `dialect`, if there is but one such dialect.
pub fn usual(dialect: &'static Dialect) -> Option<Spoken> {
    let openai = [&openai_chat::DIALECT, &openai_chat::EITHER, &openai_responses::DIALECT];
    match dialect {
        _ if *dialect == gemini::GENERATE => Some((&GEMINI, &GEMINI_TURNS)),
        _ if openai.contains(&dialect) => Some((&OPENAI, &OPENAI_TURNS)),
        _ => None,
    }
}

/// Reads the messages of one direction.
#[derive(Debug)]
pub struct Ear {
    dialect: &'static Dialect,
    turns: &'static Turns,
    paths: &'static Paths<Field>,
    scanner: Scanner,
    heard: Heard,
    lost: bool,
}

/// What one message says.
#[derive(Debug, Default)]
struct Heard {
    facts: Facts,
    step: Step,
}

struct Hearing<'a> {
    heard: &'a mut Heard,
    dialect: &'static Dialect,
    turns: &'static Turns,
}

impl Visitor<Field> for Hearing<'_> {
    fn value(&mut self, field: Field, value: Value<'_>) {
        match field {
            Field::Kind => match text(value).map_or(Step::None, self.turns.step) {
                // What is handed on has the kind of its envelope, too.
                Step::None => {}
                step => self.heard.step = step,
            },
            _ => self.heard.facts.take(self.dialect.merge, &[], field, value),
        }
    }
}

impl Ear {
    /// For messages that the client sends.
    pub fn for_sent(dialect: &'static Dialect, turns: &'static Turns) -> Ear {
        Ear::new(dialect, turns, turns.paths.get_or_init(|| Paths::new(turns.asked)))
    }

    /// For messages that the server sends.
    pub fn for_received(dialect: &'static Dialect, turns: &'static Turns) -> Ear {
        Ear::new(dialect, turns, dialect.wanted())
    }

    fn new(dialect: &'static Dialect, turns: &'static Turns, paths: &'static Paths<Field>) -> Ear {
        let (scanner, heard) = (Scanner::default(), Heard::default());
        Ear { dialect, turns, paths, scanner, heard, lost: false }
    }

    /// Takes the next bytes of a message.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.lost {
            let mut sink = Hearing { heard: &mut self.heard, dialect: self.dialect, turns: self.turns };
            self.scanner.push(self.paths, bytes, &mut sink);
        }
    }

    /// Bytes of the message in progress are missing: it says nothing.
    pub fn gap(&mut self) {
        self.lost = true;
    }

    /// The message is over: what it said, if nothing of it was missing.
    pub fn end(&mut self) -> Option<(Step, Facts)> {
        let mut sink = Hearing { heard: &mut self.heard, dialect: self.dialect, turns: self.turns };
        self.scanner.finish(self.paths, &mut sink);
        self.scanner.restart();
        let Heard { facts, step } = std::mem::take(&mut self.heard);
        if std::mem::take(&mut self.lost) {
            return None;
        }
        let step = match step {
            Step::None if self.turns.usage_ends && facts.usages > 0 => Step::Ends,
            Step::None if self.turns.usage_ends && (facts.output || !facts.tools.is_empty()) => Step::Output,
            step => step,
        };
        Some((step, facts))
    }
}
