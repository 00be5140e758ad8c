//! The meaning of the product on one page: every stage in order.

use std::sync::Arc;

use crate::exchange::{IdentifiedBy, Reason, SessionId};
use crate::record::{Flow, Record};
use crate::time::{Moment, UnixNanos};
use crate::workload::{ProcessKey, Workload};

/// Direction of bytes, from the workload's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The request.
    Sent,
    /// The response.
    Received,
}

/// A host name and how it became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEvidence {
    /// Lower case, without port and final dot.
    pub host: Arc<str>,
    /// How it became known.
    pub identified_by: IdentifiedBy,
}

/// What can happen.
#[derive(Debug)]
pub enum Input<'a> {
    /// A session began. `joined_late` if bytes may have passed before we saw it.
    Opened {
        session: SessionId,
        process: ProcessKey,
        workload: Arc<Workload>,
        host: Option<HostEvidence>,
        joined_late: bool,
    },
    /// The session's host became known.
    Named { session: SessionId, host: HostEvidence },
    /// The workload behind a session became better known.
    Resolved { session: SessionId, workload: Arc<Workload> },
    /// Bytes of one direction, in stream order. `offset` is the position of the first byte; a difference to the end of
    /// the previous chunk is a gap.
    Chunk { session: SessionId, direction: Direction, offset: u64, bytes: &'a [u8] },
    /// The session moved bytes up to `sent` and `received` and is over.
    Closed { session: SessionId, sent: u64, received: u64 },
    /// A call is known to have been made that was not seen.
    Missed {
        process: ProcessKey,
        workload: Arc<Workload>,
        host: HostEvidence,
        started: Moment,
        reason: Reason,
    },
    /// A connection to be recorded (once, at its end or when the daemon stops).
    Flow { flow: Box<Flow>, workload: Arc<Workload>, started_at: UnixNanos, started: Moment },
    /// Time passed.
    Tick,
}

/// What it leads to.
#[derive(Debug)]
pub enum Output {
    /// To be stored.
    Record(Box<Record>),
    /// The session's host is (not) an AI provider: to be told to the kernel.
    Verdict { session: SessionId, verdict: SessionVerdict },
    /// Bytes that were not metered.
    Lost { session: SessionId, reason: Reason, bytes: u64 },
}

/// What the kernel should do with a session from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionVerdict {
    /// Hand out its plaintext.
    Capture,
    /// Not AI: copy nothing.
    Ignore,
    /// AI, but its content is of no use: copy nothing.
    MetadataOnly(Reason),
}
