//! What goes into a shard, and what a pipeline learns that others act on.

use std::sync::Arc;

use meter::exchange::{Reason, SessionId};
use meter::pipeline::{Direction, HostEvidence, SessionVerdict};
use meter::record::Flow;
use meter::time::{Moment, UnixNanos};
use meter::workload::{ProcessKey, Workload};
use zeroize::ZeroizeOnDrop;

use crate::capture::event::SessionIdentity;

/// What a shard is told.
#[derive(Debug)]
pub enum ToShard {
    /// Whose session it is. Sent once for each session.
    Open(Box<Open>),
    /// Its host became known.
    Named(SessionIdentity, HostEvidence),
    /// Bytes of a session.
    Chunk(OwnedChunk),
    /// It ended. Byte counts where the kernel told them; else what was seen.
    Close {
        /// Which.
        identity: SessionIdentity,
        /// Bytes written.
        sent: Option<u64>,
        /// Bytes read.
        received: Option<u64>,
    },
    /// A call that was not seen.
    Missed {
        /// Who called.
        workload: Arc<Workload>,
        /// Whom.
        host: HostEvidence,
        /// When.
        started: Moment,
        /// Why it was not seen.
        reason: Reason,
    },
    /// A connection to be recorded.
    Flow {
        /// The connection.
        flow: Box<Flow>,
        /// Whose.
        workload: Arc<Workload>,
        /// When, for people.
        started_at: UnixNanos,
        /// When.
        started: Moment,
    },
    /// Close everything and end.
    Stop,
}

/// See [`ToShard::Open`].
#[derive(Debug)]
pub struct Open {
    /// Kernel identity.
    pub identity: SessionIdentity,
    /// The number it has in records.
    pub session: SessionId,
    /// Whose.
    pub process: ProcessKey,
    /// Whose, in full.
    pub workload: Arc<Workload>,
    /// Host, if known.
    pub host: Option<HostEvidence>,
    /// Bytes may have passed before.
    pub joined_late: bool,
}

/// See [`ToShard::Chunk`].
#[derive(Debug)]
pub struct OwnedChunk {
    /// Session.
    pub identity: SessionIdentity,
    /// Its process.
    pub process: ProcessKey,
    /// Direction.
    pub direction: Direction,
    /// Position of the first byte.
    pub offset: u64,
    /// Bytes that the other direction had moved before; 0 if that is not known.
    pub opposite: u64,
    /// When.
    pub at: Moment,
    /// Plaintext.
    pub payload: Payload,
}

/// Plaintext on its way: wiped when dropped, never printed.
#[derive(ZeroizeOnDrop)]
pub struct Payload(Box<[u8]>);

impl Payload {
    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Payload {
        Payload(bytes.into())
    }

    /// The bytes, for whoever meters or copies them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Payload({} bytes)", self.0.len())
    }
}

/// A pipeline's decision on a session, for the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Session.
    pub identity: SessionIdentity,
    /// What the kernel should do with it.
    pub verdict: SessionVerdict,
}

/// What a pipeline learnt that the planner acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// What to do with a session.
    Decided(Decision),
    /// A process called this host; told once for each pair.
    Host(ProcessKey, HostEvidence),
}
