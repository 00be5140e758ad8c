//! The table of dialects, and which of them a request speaks.
//!
//! To add one: a file with a `Dialect`, a line in [`classify`], fixtures.

use std::sync::OnceLock;

use super::facts::{Counts, Field, Merge};
use super::json::Paths;
use super::{anthropic_messages, bedrock, cohere, embeddings, gemini, ollama, openai_chat, openai_responses};
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
}

impl std::fmt::Debug for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Dialect {
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

/// Every dialect.
pub static ALL: [&Dialect; 11] = [
    &openai_chat::DIALECT,
    &openai_chat::EITHER,
    &openai_responses::DIALECT,
    &anthropic_messages::DIALECT,
    &gemini::GENERATE,
    &gemini::INTERACTIONS,
    &bedrock::CONVERSE,
    &bedrock::INVOKE,
    &cohere::DIALECT,
    &ollama::DIALECT,
    &embeddings::DIALECT,
];

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// OpenTelemetry's word where there is one, else the API's.
    pub name: &'static str,
    /// Dialect of its answer; `None` if none is built.
    pub dialect: Option<&'static Dialect>,
    /// Whether it uses tokens that are to be counted.
    pub inference: bool,
    /// Model or deployment in the path, percent-encoded as it came.
    pub model: Option<&'a str>,
    /// Whether the path alone says that this is an AI provider's API, whoever the host is.
    pub telling: bool,
}

impl PartialEq for Dialect {
    fn eq(&self, other: &Dialect) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Dialect {}

/// What a request for `target` with `method` to `provider` is for.
pub fn classify<'a>(provider: &str, method: &str, target: &'a str) -> Operation<'a> {
    let path = path_of(target);
    let post = method == "POST";
    let known = |name, dialect, inference, telling| Operation {
        name,
        dialect,
        inference: inference && post,
        model: path_model(path),
        telling: telling && post,
    };
    let chat = Some(&openai_chat::DIALECT);
    let responses = Some(&openai_responses::DIALECT);
    let messages = Some(&anthropic_messages::DIALECT);
    let google = Some(&gemini::GENERATE);
    let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
    let above = parent.rsplit('/').next().unwrap_or("");
    match (above, last) {
        ("chat", "completions") => known("chat", chat, true, true),
        ("fim" | "agents", "completions") => known("chat", chat, true, false),
        (_, "completions") => known("text_completion", chat, true, true),
        (_, "chat") if provider == "writer" => known("chat", chat, true, false),
        (_, "responses") if post => known("chat", responses, true, above == "v1"),
        ("responses", "compact") => known("chat", responses, true, false),
        ("responses", "input_tokens") => known("count_tokens", None, false, false),
        ("responses", _) | (_, "responses") => known("fetch_response", responses, false, false),
        ("messages", "count_tokens") => known("count_tokens", None, false, false),
        (_, "messages") if !parent.contains("/threads/") => known("chat", messages, true, above == "v1"),
        ("images", "generations" | "edits" | "variations") => {
            known("image_generation", responses, true, false)
        }
        ("audio", "transcriptions" | "translations") => known("transcription", responses, true, false),
        ("audio", "speech") => known("speech", responses, true, false),
        (_, "embeddings") if above != "api" => {
            known("embeddings", Some(&embeddings::DIALECT), true, above == "v1")
        }
        (_, "multimodalembeddings" | "contextualizedembeddings") => {
            known("embeddings", Some(&embeddings::DIALECT), true, false)
        }
        (_, "rerank") => known("rerank", Some(&embeddings::DIALECT), true, false),
        (_, "moderations") => known("moderation", Some(&embeddings::DIALECT), true, false),
        ("api", "chat") => known("chat", Some(&ollama::DIALECT), true, true),
        ("api", "generate") => known("text_completion", Some(&ollama::DIALECT), true, true),
        ("api", "embed" | "embeddings") => known("embeddings", Some(&ollama::DIALECT), true, false),
        ("v1" | "v2", "chat") => known("chat", Some(&cohere::DIALECT), true, false),
        ("v1", "generate") => known("text_completion", Some(&cohere::DIALECT), true, false),
        ("v1" | "v2", "embed") => known("embeddings", Some(&cohere::DIALECT), true, false),
        (_, "interactions") => known("generate_content", Some(&gemini::INTERACTIONS), true, false),
        (_, last) if parent.contains("/publishers/anthropic/models") => match last.rsplit_once(':') {
            Some(("count-tokens", _)) => known("count_tokens", None, false, false),
            Some((_, "rawPredict" | "streamRawPredict")) => known("chat", messages, true, true),
            _ => known("other", None, false, false),
        },
        (_, last) if last.contains(':') => match last.rsplit_once(':').map(|(_, verb)| verb) {
            Some("generateContent" | "streamGenerateContent") => {
                known("generate_content", google, true, true)
            }
            Some("embedContent" | "batchEmbedContents") => known("embeddings", google, true, false),
            Some("countTokens") => known("count_tokens", None, false, false),
            Some("predict") => known("predict", google, true, false),
            _ => known("other", None, false, false),
        },
        (_, "count-tokens") => known("count_tokens", None, false, false),
        (_, "converse" | "converse-stream") => known("chat", Some(&bedrock::CONVERSE), true, false),
        (model, "invoke" | "invoke-with-response-stream") => {
            let dialect =
                if model.contains("anthropic.") { &anthropic_messages::DIALECT } else { &bedrock::INVOKE };
            known("chat", Some(dialect), true, false)
        }
        _ => known("other", None, false, false),
    }
}

/// What a request to `provider` of unknown path most likely is for.
pub fn guess(provider: &str) -> Operation<'static> {
    let dialect = match provider {
        "anthropic" => &anthropic_messages::DIALECT,
        "gemini" | "vertex" => &gemini::GENERATE,
        "bedrock" => &bedrock::CONVERSE,
        "cohere" => &cohere::DIALECT,
        _ => &openai_chat::EITHER,
    };
    Operation { name: "unknown", dialect: Some(dialect), inference: true, model: None, telling: false }
}

/// The path of a request target, without query and final slash.
fn path_of(target: &str) -> &str {
    let path = target.split(['?', '#']).next().unwrap_or(target);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    path.trim_end_matches('/')
}

/// Model or deployment that a path names.
fn path_model(path: &str) -> Option<&str> {
    let after = |mark: &str| path.split_once(mark).map(|(_, rest)| rest);
    let segment = |rest: &'_ str| rest.split('/').next().unwrap_or("").len();
    if let Some(rest) = after("/deployments/") {
        return rest.get(..segment(rest)).filter(|name| !name.is_empty());
    }
    if let Some(rest) = after("/models/")
        && let Some((name, _)) = rest.split_once(':')
    {
        return Some(name).filter(|name| !name.is_empty());
    }
    if let Some(rest) = path.strip_prefix("/model/") {
        // An ARN may hold slashes only percent-encoded.
        return rest.get(..segment(rest)).filter(|name| !name.is_empty());
    }
    None
}
