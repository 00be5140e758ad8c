//! Plaintext bytes and kernel facts in, priced and attributed records out. Pure: no IO, no clock, no threads.
//!
//! Vocabulary: a *session* is one TLS connection at a library boundary, an *exchange* one request with its response, a
//! *workload* who ran it, an *owner* who answers for it, a *record* all of it with cost and confidence. The stages, in
//! the order in which a module may use another: `time`, `money`, `payload`, `loss`, `limits`, `exchange`, `workload` -> `flow` ->
//! `http` -> `llm` -> `attribution` -> `pricing` -> `record` -> `pipeline`.
//!
//! Parsing never fails, it explains: bytes in = bytes metered + bytes lost by reason. Nothing of a body leaves this
//! crate except model names, ids, counts and enumerated words.
#![deny(clippy::float_arithmetic)]

pub mod attribution;
pub mod detail;
pub mod directory;
pub mod exchange;
pub mod flow;
pub mod http;
pub mod limits;
pub mod llm;
pub mod loss;
pub mod money;
pub mod payload;
pub mod pipeline;
pub mod pricing;
pub mod record;
pub mod time;
pub mod workload;
