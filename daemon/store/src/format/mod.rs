//! What is written: Protocol Buffers messages of our own, apart from the types the rest of the daemon works with.
//!
//! Rules of change: a field number is never reused, a code never changes its meaning, a field that is not known is
//! skipped (a newer daemon may have written it). A code that is not known makes the row unreadable: it is counted, not
//! guessed. Messages lie on disk only sealed.

mod codes;
mod convert;

use std::collections::BTreeMap;

pub(crate) use convert::{decode, encode, usage_in, usage_out};

/// A store's identity, beside its database, not secret: everything secret in it is wrapped.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Identity {
    /// [`IDENTITY_FORMAT`].
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    #[prost(string, tag = "2")]
    pub(crate) tenant: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) store_id: Vec<u8>,
    /// The data key under the wrapping key.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) wrapped_key: Vec<u8>,
    /// Commitment to the data key.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) commitment: Vec<u8>,
}

/// Format of [`Identity`] and of the database beside it.
pub(crate) const IDENTITY_FORMAT: u32 = 1;

/// One row that describes the database.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Meta {
    /// [`IDENTITY_FORMAT`].
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    /// Records in the database.
    #[prost(uint64, tag = "2")]
    pub(crate) records: u64,
    /// Bytes of their rows.
    #[prost(uint64, tag = "3")]
    pub(crate) bytes: u64,
    /// Records that retention has deleted from it.
    #[prost(uint64, tag = "4")]
    pub(crate) expired: u64,
    /// Retention has deleted records of hours before this one.
    #[prost(uint64, tag = "5")]
    pub(crate) horizon: u64,
    /// Number of the next record that is committed.
    #[prost(uint64, tag = "6")]
    pub(crate) next: u64,
    /// Random, made with the database.
    #[prost(fixed64, tag = "7")]
    pub(crate) age: u64,
}

/// Sums of one hour and one combination of dimensions.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Rollup {
    #[prost(message, optional, tag = "1")]
    pub(crate) dimensions: Option<Dimensions>,
    #[prost(uint64, tag = "2")]
    pub(crate) exchanges: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) without_usage: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) without_cost: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) errors: u64,
    #[prost(message, optional, tag = "6")]
    pub(crate) usage: Option<Usage>,
    /// Big-endian pico-dollars without leading zeros.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(crate) amount: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "8")]
    pub(crate) eligible: Option<Vec<u8>>,
}

/// What roll-ups are kept by.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message)]
pub(crate) struct Dimensions {
    #[prost(string, optional, tag = "1")]
    pub(crate) team: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) service: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(crate) cost_centre: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(crate) environment: Option<String>,
    #[prost(string, tag = "5")]
    pub(crate) workload: String,
    #[prost(string, tag = "6")]
    pub(crate) provider: String,
    #[prost(string, optional, tag = "7")]
    pub(crate) model: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Record {
    #[prost(uint64, tag = "1")]
    pub(crate) started_at: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) recorded_at: u64,
    #[prost(message, optional, tag = "3")]
    pub(crate) exchange: Option<Box<Exchange>>,
    #[prost(message, optional, tag = "4")]
    pub(crate) flow: Option<Box<Flow>>,
    #[prost(message, optional, tag = "5")]
    pub(crate) workload: Option<Workload>,
    #[prost(message, optional, tag = "6")]
    pub(crate) attribution: Option<Attribution>,
    #[prost(message, optional, tag = "7")]
    pub(crate) cost: Option<Cost>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Exchange {
    #[prost(uint64, tag = "1")]
    pub(crate) session: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) ordinal: u32,
    #[prost(string, tag = "3")]
    pub(crate) provider: String,
    #[prost(string, tag = "4")]
    pub(crate) host: String,
    #[prost(uint32, tag = "5")]
    pub(crate) identified_by: u32,
    #[prost(string, optional, tag = "6")]
    pub(crate) dialect: Option<String>,
    #[prost(string, tag = "7")]
    pub(crate) operation: String,
    #[prost(bool, tag = "8")]
    pub(crate) inference: bool,
    #[prost(string, optional, tag = "9")]
    pub(crate) requested_model: Option<String>,
    #[prost(string, optional, tag = "10")]
    pub(crate) model: Option<String>,
    #[prost(bool, optional, tag = "11")]
    pub(crate) streaming: Option<bool>,
    #[prost(uint32, optional, tag = "12")]
    pub(crate) status: Option<u32>,
    #[prost(message, optional, tag = "13")]
    pub(crate) usage: Option<Usage>,
    #[prost(bytes = "vec", optional, tag = "14")]
    pub(crate) reported_cost: Option<Vec<u8>>,
    #[prost(string, optional, tag = "15")]
    pub(crate) service_tier: Option<String>,
    #[prost(bool, tag = "16")]
    pub(crate) batch: bool,
    #[prost(string, repeated, tag = "17")]
    pub(crate) finish_reasons: Vec<String>,
    /// Names of tools, one per call: how they were written before [`ToolUse`]. Only read.
    #[prost(string, repeated, tag = "18")]
    pub(crate) tool_names: Vec<String>,
    #[prost(string, optional, tag = "19")]
    pub(crate) provider_request_id: Option<String>,
    #[prost(string, optional, tag = "20")]
    pub(crate) organization: Option<String>,
    #[prost(string, optional, tag = "21")]
    pub(crate) project: Option<String>,
    #[prost(message, optional, tag = "22")]
    pub(crate) error: Option<ProviderError>,
    #[prost(string, optional, tag = "23")]
    pub(crate) api_key_fingerprint: Option<String>,
    #[prost(string, optional, tag = "24")]
    pub(crate) sdk: Option<String>,
    #[prost(string, optional, tag = "25")]
    pub(crate) trace_id: Option<String>,
    #[prost(uint64, optional, tag = "26")]
    pub(crate) request_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "27")]
    pub(crate) response_bytes: Option<u64>,
    #[prost(message, optional, tag = "28")]
    pub(crate) timing: Option<Timing>,
    /// 0: none.
    #[prost(uint32, tag = "29")]
    pub(crate) reason: u32,
    #[prost(message, repeated, tag = "30")]
    pub(crate) tools: Vec<ToolUse>,
    #[prost(message, repeated, tag = "31")]
    pub(crate) rate_limits: Vec<RateLimit>,
    #[prost(uint64, optional, tag = "32")]
    pub(crate) retry_after_ms: Option<u64>,
    #[prost(uint32, optional, tag = "33")]
    pub(crate) retries: Option<u32>,
    /// One bit per place.
    #[prost(uint32, tag = "34")]
    pub(crate) withheld: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ToolUse {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) calls: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct RateLimit {
    #[prost(uint32, tag = "1")]
    pub(crate) unit: u32,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) limit: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) remaining: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub(crate) reset_after_ms: Option<u64>,
    /// Unix time in ns; at most one of the two is there.
    #[prost(uint64, optional, tag = "5")]
    pub(crate) reset_at: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Usage {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) input: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) output: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) cache_read: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub(crate) cache_creation: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) cache_creation_5m: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub(crate) cache_creation_1h: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) reasoning: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub(crate) audio_input: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub(crate) audio_output: Option<u64>,
    #[prost(uint64, optional, tag = "10")]
    pub(crate) image_input: Option<u64>,
    #[prost(uint64, optional, tag = "11")]
    pub(crate) image_output: Option<u64>,
    #[prost(uint64, optional, tag = "12")]
    pub(crate) total: Option<u64>,
    #[prost(uint64, optional, tag = "13")]
    pub(crate) web_search_requests: Option<u64>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) details: Vec<UsageDetail>,
}

/// One of the counts that few providers report, by its number.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct UsageDetail {
    #[prost(uint32, tag = "1")]
    pub(crate) detail: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) count: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ProviderError {
    #[prost(string, optional, tag = "1")]
    pub(crate) class: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) code: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Timing {
    #[prost(uint64, tag = "1")]
    pub(crate) started: u64,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) first_byte: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) first_token: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub(crate) last_token: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) ended: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Flow {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) ended_at: Option<u64>,
    /// 4 or 16 bytes of address, 2 of port; for IPv6 4 of flow label and 4 of scope.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) local: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) remote: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub(crate) protocol: u32,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) bytes_sent: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub(crate) bytes_received: Option<u64>,
    #[prost(string, optional, tag = "7")]
    pub(crate) provider: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub(crate) host: Option<String>,
    /// 0: none.
    #[prost(uint32, tag = "9")]
    pub(crate) identified_by: u32,
    #[prost(uint32, tag = "10")]
    pub(crate) seen: u32,
    #[prost(uint32, tag = "11")]
    pub(crate) coverage: u32,
    /// Reason of `metadata_only`.
    #[prost(uint32, tag = "12")]
    pub(crate) reason: u32,
    /// Reason of `dark`.
    #[prost(uint32, tag = "13")]
    pub(crate) dark_reason: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Workload {
    #[prost(uint32, tag = "1")]
    pub(crate) pid: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) start_ticks: u64,
    #[prost(string, optional, tag = "3")]
    pub(crate) exe: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(crate) comm: Option<String>,
    #[prost(uint32, optional, tag = "5")]
    pub(crate) uid: Option<u32>,
    #[prost(string, optional, tag = "6")]
    pub(crate) user: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(crate) cgroup: Option<String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) container: Option<Container>,
    #[prost(message, optional, tag = "9")]
    pub(crate) pod: Option<Pod>,
    #[prost(string, optional, tag = "10")]
    pub(crate) unit: Option<String>,
    #[prost(btree_map = "string, string", tag = "11")]
    pub(crate) labels: BTreeMap<String, String>,
    #[prost(uint32, tag = "12")]
    pub(crate) evidence: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Container {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) runtime: String,
    #[prost(string, optional, tag = "3")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(crate) image: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Pod {
    #[prost(string, optional, tag = "1")]
    pub(crate) uid: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(crate) namespace: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(crate) controller: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Attribution {
    #[prost(message, optional, tag = "1")]
    pub(crate) owner: Option<Owner>,
    #[prost(uint32, tag = "2")]
    pub(crate) stage: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) state: u32,
    /// Basis points.
    #[prost(uint32, tag = "4")]
    pub(crate) confidence: u32,
    #[prost(message, repeated, tag = "5")]
    pub(crate) evidence: Vec<Evidence>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) candidates: Vec<Candidate>,
    /// 0: none.
    #[prost(uint32, tag = "7")]
    pub(crate) null_reason: u32,
    #[prost(uint64, tag = "8")]
    pub(crate) freshness: u64,
    #[prost(uint64, tag = "9")]
    pub(crate) index_generation: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Owner {
    #[prost(string, tag = "1")]
    pub(crate) tenant: String,
    #[prost(string, optional, tag = "2")]
    pub(crate) team: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(crate) service: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(crate) cost_centre: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub(crate) environment: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Evidence {
    #[prost(uint32, tag = "1")]
    pub(crate) method: u32,
    #[prost(string, tag = "2")]
    pub(crate) source: String,
    #[prost(string, tag = "3")]
    pub(crate) statement: String,
    #[prost(bool, tag = "4")]
    pub(crate) self_asserted: bool,
    #[prost(uint32, tag = "5")]
    pub(crate) weight: u32,
    #[prost(uint64, optional, tag = "6")]
    pub(crate) observed_at: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Candidate {
    #[prost(message, optional, tag = "1")]
    pub(crate) owner: Option<Owner>,
    #[prost(uint32, tag = "2")]
    pub(crate) confidence: u32,
    #[prost(string, tag = "3")]
    pub(crate) rationale: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Cost {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) amount: Option<Vec<u8>>,
    #[prost(uint32, tag = "2")]
    pub(crate) kind: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) catalogue_version: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) parts: Vec<CostPart>,
    #[prost(string, optional, tag = "5")]
    pub(crate) reason: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct CostPart {
    #[prost(string, tag = "1")]
    pub(crate) class: String,
    #[prost(uint64, tag = "2")]
    pub(crate) tokens: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) price: Vec<u8>,
}

/// An amount as it is written: big-endian without leading zeros.
pub(crate) fn amount_to_bytes(amount: u128) -> Vec<u8> {
    let bytes = amount.to_be_bytes();
    bytes[(amount.leading_zeros() / 8) as usize..].to_vec()
}

/// The amount in `bytes`; `None` if it has more than 128 bits.
pub(crate) fn amount_from_bytes(bytes: &[u8]) -> Option<u128> {
    (bytes.len() <= 16).then(|| bytes.iter().fold(0, |amount, byte| amount << 8 | u128::from(*byte)))
}
