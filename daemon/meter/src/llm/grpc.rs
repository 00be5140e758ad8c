//! Dialects that travel as protobuf over gRPC: xAI's SDK, and Google's for Vertex AI and the Gemini API.
//!
//! The counts mean what they mean in the JSON of the same provider. Protobuf leaves zeros out, so a count that is not
//! there is not known apart from 0. Field numbers: `xai/api/v1/chat.proto` and `usage.proto` of the xAI SDK,
//! `google/cloud/aiplatform/v1/prediction_service.proto`, `google/ai/generativelanguage/v1beta/generative_service.proto`.

use super::dialect::{Dialect, Wire};
use super::facts::Count::{CacheRead, ImageInput, Input, Output, Reasoning, ToolInput, Total};
use super::facts::{Field, TICK};
use super::{gemini, openai_chat};
use crate::detail::Detail;

/// `FinishReason` of `chat.proto`.
const XAI_FINISH: &[&str] = &[
    "REASON_INVALID",
    "REASON_MAX_LEN",
    "REASON_MAX_CONTEXT",
    "REASON_STOP",
    "REASON_TOOL_CALLS",
    "REASON_TIME_LIMIT",
];

/// The first values of `FinishReason`, on which both of Google's APIs agree.
pub(super) const GOOGLE_FINISH: &[&str] =
    &["FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER"];

/// `SamplingUsage`, in field `prefix`.
macro_rules! sampling_usage {
    ($prefix:literal) => {
        [
            ($prefix, Field::Usage),
            (concat!($prefix, "/1"), Field::Count(Output)),
            (concat!($prefix, "/2"), Field::Count(Input)),
            (concat!($prefix, "/3"), Field::Count(Total)),
            (concat!($prefix, "/4"), Field::Detail(Detail::TextInput)),
            (concat!($prefix, "/5"), Field::Count(ImageInput)),
            (concat!($prefix, "/6"), Field::Count(Reasoning)),
            (concat!($prefix, "/7"), Field::Count(CacheRead)),
            (concat!($prefix, "/8"), Field::Detail(Detail::Sources)),
            (concat!($prefix, "/11"), Field::Cost(TICK)),
        ]
    };
}

/// `GetChatCompletionResponse`, below `prefix`.
macro_rules! xai_answer {
    ($prefix:literal) => {
        [
            (concat!($prefix, "/6"), Field::Model),
            // Where tools run at the provider every turn is an output of its own.
            (concat!($prefix, "/2"), Field::Choice),
            (concat!($prefix, "/2/2"), Field::ChoiceIndex),
            (concat!($prefix, "/2/1"), Field::FinishCode(XAI_FINISH)),
            (concat!($prefix, "/2/3/3/10/1"), Field::Tool),
        ]
    };
}

const XAI_ANSWER: [(&str, Field); 5] = xai_answer!("");
const XAI_ANSWER_USAGE: [(&str, Field); 10] = sampling_usage!("/9");
const XAI_DEFERRED: [(&str, Field); 5] = xai_answer!("/1");
const XAI_DEFERRED_USAGE: [(&str, Field); 10] = sampling_usage!("/1/9");
const XAI_IMAGES: [(&str, Field); 2] = [("/2", Field::Model), ("/1", Field::Each(Detail::Images))];
const XAI_IMAGES_USAGE: [(&str, Field); 10] = sampling_usage!("/3");
const XAI_CHUNK: [(&str, Field); 7] = [
    ("/4", Field::Model),
    ("/2", Field::Choice),
    ("/2/4", Field::ChoiceIndex),
    ("/2/3", Field::FinishCode(XAI_FINISH)),
    ("/2/1/1", Field::Output),
    ("/2/1/4", Field::Output),
    ("/2/1/3/10/1", Field::Tool),
];
const XAI_CHUNK_USAGE: [(&str, Field); 10] = sampling_usage!("/6");

/// `xai_api.Chat/GetCompletion`.
pub static XAI: Dialect = Dialect {
    name: "xai_grpc",
    paths: &[&XAI_ANSWER, &XAI_ANSWER_USAGE],
    usage: openai_chat::DIALECT.usage,
    wire: Wire::Protobuf { model: "/2", streamed: false },
    ..Dialect::TEXT
};

/// `xai_api.Chat/GetCompletionChunk`: every chunk has the usage so far.
pub static XAI_STREAM: Dialect = Dialect {
    name: "xai_grpc_stream",
    paths: &[&XAI_CHUNK, &XAI_CHUNK_USAGE],
    wire: Wire::Protobuf { model: "/2", streamed: true },
    ..XAI
};

/// `xai_api.Chat/GetDeferredCompletion`: the answer to a completion that was only accepted before. The request names it by
/// its id; an answer is handed out once, so it counts here ("Deferred Chat Completions").
pub static XAI_LATER: Dialect =
    Dialect { name: "xai_grpc_deferred", paths: &[&XAI_DEFERRED, &XAI_DEFERRED_USAGE], ..XAI };

/// `xai_api.Image/GenerateImage`.
pub static XAI_IMAGE: Dialect =
    Dialect { name: "xai_grpc_images", paths: &[&XAI_IMAGES, &XAI_IMAGES_USAGE], ..XAI };

const VERTEX_ANSWER: [(&str, Field); 13] = [
    ("/11", Field::Model),
    ("/4", Field::Usage),
    ("/4/1", Field::Count(Input)),
    ("/4/2", Field::Count(Output)),
    ("/4/3", Field::Count(Total)),
    ("/4/5", Field::Count(CacheRead)),
    ("/4/13", Field::Count(ToolInput)),
    ("/4/14", Field::Count(Reasoning)),
    ("/2", Field::Choice),
    ("/2/1", Field::ChoiceIndex),
    ("/2/3", Field::FinishCode(GOOGLE_FINISH)),
    ("/2/2/2/1", Field::Output),
    ("/2/2/2/5/1", Field::Tool),
];

/// `google.cloud.aiplatform.*.PredictionService/GenerateContent`.
pub static VERTEX: Dialect = Dialect {
    name: "vertex_grpc",
    paths: &[&VERTEX_ANSWER],
    usage: gemini::GENERATE.usage,
    wire: Wire::Protobuf { model: "/5", streamed: false },
    ..Dialect::TEXT
};

/// `google.cloud.aiplatform.*.PredictionService/StreamGenerateContent`.
pub static VERTEX_STREAM: Dialect =
    Dialect { name: "vertex_grpc_stream", wire: Wire::Protobuf { model: "/5", streamed: true }, ..VERTEX };

const GEMINI_ANSWER: [(&str, Field); 13] = [
    ("/4", Field::Model),
    ("/3", Field::Usage),
    ("/3/1", Field::Count(Input)),
    ("/3/2", Field::Count(Output)),
    ("/3/3", Field::Count(Total)),
    ("/3/4", Field::Count(CacheRead)),
    ("/3/8", Field::Count(ToolInput)),
    ("/3/10", Field::Count(Reasoning)),
    ("/1", Field::Choice),
    ("/1/3", Field::ChoiceIndex),
    ("/1/2", Field::FinishCode(GOOGLE_FINISH)),
    ("/1/1/1/2", Field::Output),
    ("/1/1/1/3/1", Field::Tool),
];

/// `google.ai.generativelanguage.*.GenerativeService/GenerateContent`.
pub static GEMINI: Dialect = Dialect {
    name: "gemini_grpc",
    paths: &[&GEMINI_ANSWER],
    usage: gemini::GENERATE.usage,
    wire: Wire::Protobuf { model: "/1", streamed: false },
    ..Dialect::TEXT
};

/// `google.ai.generativelanguage.*.GenerativeService/StreamGenerateContent`.
pub static GEMINI_STREAM: Dialect =
    Dialect { name: "gemini_grpc_stream", wire: Wire::Protobuf { model: "/1", streamed: true }, ..GEMINI };
