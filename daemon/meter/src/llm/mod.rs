//! What a request to a provider and its answer say, found while the bytes pass.
//!
//! A [`dialect::Dialect`] is data: the paths of wanted values, the events that end a stream, and how the counts become
//! [`crate::exchange::Usage`]. [`request`] and [`answer`] read bodies with it; [`facts`] is what they keep. Provider and
//! dialect are independent: the host names the provider, path and method the dialect, as [`crate::directory`] says.

pub mod answer;
pub mod anthropic_messages;
pub mod audio;
pub mod bedrock;
pub mod cohere;
pub mod dialect;
pub mod embeddings;
pub mod facts;
pub mod gemini;
pub mod grpc;
pub mod headers;
pub mod images;
pub mod json;
pub mod live;
pub mod mcp;
pub mod model_server;
pub mod names;
pub mod objects;
pub mod ollama;
pub mod openai_chat;
pub mod openai_responses;
pub mod protobuf;
pub mod rates;
pub mod replicate;
pub mod request;
pub mod watsonx;
