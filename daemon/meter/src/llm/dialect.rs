//! The table of dialects. Which of them a request speaks, [`crate::directory`] knows.
//!
//! To add one: a file with a `Dialect`, a line in [`ALL`], its paths in `data/providers.toml`, fixtures.

use std::sync::OnceLock;

use super::facts::{Count, Counts, Facts, Field, Merge};
use super::json::Paths;
use super::request::Wanted;
use super::{
    anthropic_messages, audio, bedrock, cohere, embeddings, gemini, grpc, images, live, mcp, model_server,
    objects, ollama, openai_chat, openai_responses, replicate, watsonx,
};
use crate::exchange::Usage;

/// How a family of answers is to be read. Data, with one function for its arithmetic.
pub struct Dialect {
    /// Name in records.
    pub name: &'static str,
    /// Wanted paths, in parts.
    pub paths: &'static [&'static [(&'static str, Field)]],
    /// How several usage objects relate.
    pub merge: Merge,
    /// Names of events after which nothing follows that counts, besides `[DONE]`.
    pub terminal: &'static [&'static str],
    /// Whether some providers report a stream's usage only if the request asks for it.
    pub usage_on_request: bool,
    /// Evens out what the counts mean.
    pub usage: fn(&Counts) -> Usage,
    /// How it is written.
    pub wire: Wire,
}

/// How a dialect is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Text: JSON, events or AWS messages, whichever the first bytes show.
    Text,
    /// The same, of which only JSON is read.
    Document,
    /// Protobuf in gRPC messages: paths are of field numbers.
    Protobuf {
        /// Where the request names the model.
        model: &'static str,
        /// Whether several messages answer.
        streamed: bool,
    },
    /// JSON messages of a WebSocket, with many answers in one session.
    Session(&'static live::Turns),
}

/// The meaning of counts that are what they are called: of the input some was read from a cache, and nothing else is told.
fn as_counted(counts: &Counts) -> Usage {
    Usage {
        input: counts.get(Count::Input),
        output: counts.get(Count::Output),
        cache_read: counts.get(Count::CacheRead),
        ..Usage::default()
    }
}

/// The meaning of answers that use nothing.
pub(super) fn nothing(_: &Counts) -> Usage {
    Usage::default()
}

impl std::fmt::Debug for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Dialect {
    /// What most of them are: text in which counts are what they are called, the last object of them in force, told without
    /// being asked for, and whose end is the end of the answer.
    pub const TEXT: Dialect = Dialect {
        name: "",
        paths: &[],
        merge: Merge::LastObject,
        terminal: &[],
        usage_on_request: false,
        usage: as_counted,
        wire: Wire::Text,
    };

    /// What an answer that said `facts` used.
    pub fn usage_of(&self, facts: &Facts) -> Usage {
        let mut usage = (self.usage)(&facts.counts);
        usage.details.add_all(facts.counts.details());
        usage.details.add_all(&facts.outside());
        usage
    }

    /// Its wanted paths, ready for look-up.
    pub fn wanted(&'static self) -> &'static Paths<Field> {
        static MADE: [OnceLock<Paths<Field>>; ALL.len()] = [const { OnceLock::new() }; ALL.len()];
        let place = ALL.iter().position(|dialect| std::ptr::eq(*dialect, self)).unwrap_or(0);
        match MADE.get(place) {
            Some(made) => made.get_or_init(|| Paths::new(&self.paths.concat())),
            None => unreachable!("one place per dialect"),
        }
    }
}

impl Dialect {
    /// The wanted paths of its requests, if they are not text.
    pub fn asked(&'static self) -> Option<&'static Paths<Wanted>> {
        static MADE: [OnceLock<Paths<Wanted>>; ALL.len()] = [const { OnceLock::new() }; ALL.len()];
        let Wire::Protobuf { model, .. } = self.wire else { return None };
        let place = ALL.iter().position(|dialect| std::ptr::eq(*dialect, self))?;
        Some(MADE.get(place)?.get_or_init(|| Paths::new(&[(model, Wanted::Model)])))
    }
}

/// Every dialect.
pub static ALL: [&Dialect; 30] = [
    &openai_chat::DIALECT,
    &openai_chat::EITHER,
    &openai_chat::WORKERS_AI,
    &openai_responses::DIALECT,
    &anthropic_messages::DIALECT,
    &gemini::GENERATE,
    &gemini::INTERACTIONS,
    &bedrock::CONVERSE,
    &bedrock::INVOKE,
    &cohere::DIALECT,
    &ollama::DIALECT,
    &embeddings::DIALECT,
    &images::DIALECT,
    &audio::DIALECT,
    &objects::DIALECT,
    &mcp::DIALECT,
    &model_server::DIALECT,
    &replicate::DIALECT,
    &watsonx::GENERATION,
    &watsonx::CHAT,
    &grpc::XAI,
    &grpc::XAI_STREAM,
    &grpc::XAI_LATER,
    &grpc::XAI_IMAGE,
    &grpc::VERTEX,
    &grpc::VERTEX_STREAM,
    &grpc::GEMINI,
    &grpc::GEMINI_STREAM,
    &live::OPENAI,
    &live::GEMINI,
];

/// The dialect of this name.
pub fn named(name: &str) -> Option<&'static Dialect> {
    ALL.iter().copied().find(|dialect| dialect.name == name)
}

/// Names of all dialects.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|dialect| dialect.name).collect()
}

impl PartialEq for Dialect {
    fn eq(&self, other: &Dialect) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Dialect {}
