//! What a provider keeps, as objects: batches, runs of assistants, predictions, caches, files. What is made or fetched says
//! how far it is and which model works on it. It adds nothing: an object may be fetched any number of times, by anybody. The
//! events of a stream tell of many objects and are not read.

use super::dialect::{Dialect, Wire, nothing};
use super::facts::Field;

const PATHS: [(&str, Field); 7] = [
    ("/model", Field::Model),
    ("/status", Field::Status),
    // Anthropic's batches.
    ("/processing_status", Field::Status),
    ("/error", Field::Error),
    ("/error/type", Field::ErrorClass),
    ("/error/code", Field::ErrorCode),
    // Google's errors: the code is the status of HTTP.
    ("/error/status", Field::ErrorClass),
];

/// The dialect.
pub static DIALECT: Dialect =
    Dialect { name: "object", paths: &[&PATHS], usage: nothing, wire: Wire::Document, ..Dialect::TEXT };
