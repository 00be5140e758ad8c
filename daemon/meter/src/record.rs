//! What is stored: an exchange or a flow, who ran it, who owns it, how sure, what it cost, and by which versions.

mod explain;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::attribution::Attribution;
use crate::exchange::{Exchange, IdentifiedBy, Reason};
use crate::money::PicoUsd;
use crate::time::UnixNanos;
use crate::workload::Workload;
pub use explain::Explanation;

/// 128 bits: milliseconds of `started_at` (48), then node-unique bits, so that ids sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u128);

impl RecordId {
    /// `attr_` and 32 hex digits.
    pub fn to_text(self) -> String {
        format!("attr_{:032x}", self.0)
    }

    /// The id in `text`, or `None` if it is not one.
    pub fn from_text(text: &str) -> Option<RecordId> {
        let hex = text.strip_prefix("attr_")?;
        (hex.len() == 32).then(|| u128::from_str_radix(hex, 16).ok().map(RecordId)).flatten()
    }
}

/// What a cost rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostKind {
    /// The provider stated it.
    ProviderReported,
    /// Computed from reported tokens and the catalogue.
    Computed,
    /// Computed with an assumption that is named in the reason.
    Estimated,
    /// Not known.
    Unknown,
}

impl CostKind {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            CostKind::ProviderReported => "provider_reported",
            CostKind::Computed => "computed",
            CostKind::Estimated => "estimated",
            CostKind::Unknown => "unknown",
        }
    }
}

/// One product of tokens, or other units, and price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostPart {
    /// Token class: `input`, `cache_read`, `cache_write_5m`, `cache_write_1h`, `output`, `reasoning`, ..
    pub class: &'static str,
    /// How many.
    pub tokens: u64,
    /// Price of one.
    pub price: PicoUsd,
}

/// How a cost is made up; nearly always of input, output and one kind of cache.
pub type CostParts = SmallVec<[CostPart; 3]>;

/// What an exchange cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Amount; `None` if unknown, never 0 for unknown.
    pub amount: Option<PicoUsd>,
    /// What it rests on.
    pub kind: CostKind,
    /// Catalogue in force.
    pub catalogue_version: u64,
    /// How it was computed.
    pub parts: CostParts,
    /// Why it is unknown or estimated: `unknown_model`, `unknown_usage`, `no_cache_price`, ..
    pub reason: Option<&'static str>,
}

/// A transport connection, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// When it ended; `None` while open.
    pub ended_at: Option<UnixNanos>,
    /// Local end.
    pub local: std::net::SocketAddr,
    /// Remote end.
    pub remote: std::net::SocketAddr,
    /// 6 or 17.
    pub protocol: u8,
    /// Payload bytes sent, `None` without BTF or for a flow older than us.
    pub bytes_sent: Option<u64>,
    /// Payload bytes received.
    pub bytes_received: Option<u64>,
    /// Provider, if evidence that may name one was seen.
    pub provider: Option<Arc<str>>,
    /// Host name, however known.
    pub host: Option<Arc<str>>,
    /// How the host became known.
    pub identified_by: Option<IdentifiedBy>,
    /// How the connection was noticed.
    pub seen: FlowSeen,
    /// Coverage of its content.
    pub coverage: Coverage,
}

/// How a connection was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowSeen {
    /// At its connect.
    Connect,
    /// It was open when the daemon started.
    AtStart,
    /// On the wire only.
    Tap,
}

/// Coverage verdict of a process or a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coverage {
    /// Its exchanges are metered.
    Captured,
    /// It is seen, its exchanges are not.
    MetadataOnly(Reason),
    /// Nothing of its content can be seen.
    Dark(DarkReason),
}

/// Why the content of a process cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DarkReason {
    /// No TLS library that we know is mapped (Go, rustls, Java, static BoringSSL, ..).
    UnknownTlsLibrary,
    /// The kernel refused the probes.
    AttachRefused,
    /// Its files could not be read.
    Unreadable,
    /// `capture.scope = "off"`.
    SwitchedOff,
    /// It ended before it could be looked at.
    Gone,
}

impl DarkReason {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            DarkReason::UnknownTlsLibrary => "unknown_tls_library",
            DarkReason::AttachRefused => "attach_refused",
            DarkReason::Unreadable => "unreadable",
            DarkReason::SwitchedOff => "switched_off",
            DarkReason::Gone => "gone",
        }
    }
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A request with its response.
    Exchange(Box<Exchange>),
    /// A connection.
    Flow(Box<Flow>),
}

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Identity, ordered by time.
    pub id: RecordId,
    /// Request start or connect.
    pub started_at: UnixNanos,
    /// When the record was made.
    pub recorded_at: UnixNanos,
    /// What it is about.
    pub subject: Subject,
    /// Who ran it.
    pub workload: Arc<Workload>,
    /// Who answers for it, and how sure.
    pub attribution: Attribution,
    /// What it cost; `None` for a flow.
    pub cost: Option<Cost>,
}
