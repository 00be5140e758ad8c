//! Batches as objects: what is fetched says how far they are and which model works on them. It adds nothing: results
//! may be fetched any number of times, by anybody.

use super::dialect::{Dialect, Wire};
use super::facts::{Counts, Field, Merge};
use crate::exchange::Usage;

const PATHS: [(&str, Field); 6] = [
    ("/model", Field::Model),
    ("/status", Field::Status),
    ("/processing_status", Field::Status),
    ("/error", Field::Error),
    ("/error/type", Field::ErrorClass),
    ("/error/code", Field::ErrorCode),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "batches",
    paths: &[&PATHS],
    merge: Merge::LastObject,
    terminal: &[],
    usage_on_request: false,
    usage: |_: &Counts| Usage::default(),
    wire: Wire::Text,
};
