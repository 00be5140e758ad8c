//! The sessions of one shard, by kernel identity: what waits for its workload is held here, bounded.
//!
//! A session is opened at its pipeline once, with what was held in the order in which it came, and closed once. Bytes
//! that come after its end are dropped and counted, for as long as the end is remembered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meter::exchange::SessionId;
use meter::pipeline::{Direction, HostEvidence, Input};
use meter::time::Moment;
use meter::workload::Workload;

use super::{Meter, Open, OwnedChunk, ToShard};
use crate::capture::event::SessionIdentity;
use crate::capture::status::{CaptureStatus, Loss};

/// Plaintext of one session that may wait for its workload: four of the largest captured calls.
pub(super) const HELD_BYTES_MAX: usize = 4 * abi::content::CALL_BYTES_MAX;
/// Plaintext of all sessions of a shard that may wait for their workloads.
const HELD_BYTES_SHARD_MAX: usize = 16 << 20;
/// How long a session waits for its workload.
pub(super) const HELD_NS_MAX: u64 = 2_000_000_000;
/// Ended sessions that are remembered, so that a chunk that comes late does not open them again.
const ENDED_MAX: usize = 1024;

/// The sessions of one shard.
pub(super) struct Sessions {
    pub(super) table: HashMap<SessionIdentity, Session>,
    identities: HashMap<SessionId, SessionIdentity>,
    ended: VecDeque<SessionIdentity>,
    ended_set: HashSet<SessionIdentity>,
    pub(super) held_bytes: usize,
    next_session: Arc<AtomicU64>,
    status: Arc<CaptureStatus>,
}

#[derive(Default)]
pub(super) struct Session {
    /// `None` until it is opened.
    id: Option<SessionId>,
    /// Named before it was opened.
    host: Option<HostEvidence>,
    held: Vec<OwnedChunk>,
    pub(super) held_bytes: usize,
    /// When the first chunk began to wait.
    held_since: Option<Moment>,
    sent: u64,
    received: u64,
}

impl Sessions {
    pub(super) fn new(next_session: Arc<AtomicU64>, status: Arc<CaptureStatus>) -> Sessions {
        Sessions {
            table: HashMap::new(),
            identities: HashMap::new(),
            ended: VecDeque::new(),
            ended_set: HashSet::new(),
            held_bytes: 0,
            next_session,
            status,
        }
    }

    pub(super) fn identity(&self, session: SessionId) -> Option<SessionIdentity> {
        self.identities.get(&session).copied()
    }

    pub(super) fn handle<M: Meter>(&mut self, meter: &mut M, message: ToShard, now: Moment) {
        match message {
            ToShard::Open(open) => self.open(meter, *open, now),
            ToShard::Named(identity, host) => self.named(meter, identity, host, now),
            ToShard::Chunk(chunk) => self.chunk(meter, chunk, now),
            ToShard::Close { identity, sent, received } => self.close(meter, identity, sent, received, now),
            ToShard::Missed { workload, host, started, reason } => {
                meter.handle(
                    Input::Missed { process: workload.process, workload, host, started, reason },
                    now,
                );
            }
            ToShard::Flow { flow, workload, started_at, started } => {
                meter.handle(Input::Flow { flow, workload, started_at, started }, now);
            }
            ToShard::Stop => {
                let all: Vec<_> = self.table.keys().copied().collect();
                for identity in all {
                    self.close(meter, identity, None, None, now);
                }
                meter.handle(Input::Tick, now);
            }
        }
    }

    fn open<M: Meter>(&mut self, meter: &mut M, open: Open, now: Moment) {
        let Open { identity, session, process, workload, host, joined_late } = open;
        if self.ended_set.contains(&identity) {
            return;
        }
        let entry = self.table.entry(identity).or_default();
        if let Some(id) = entry.id {
            // It was opened with an unknown workload because nobody came in time.
            meter.handle(Input::Resolved { session: id, workload }, now);
            if let Some(host) = host {
                meter.handle(Input::Named { session: id, host }, now);
            }
            return;
        }
        entry.id = Some(session);
        self.identities.insert(session, identity);
        let host = host.or(entry.host.take());
        let held = std::mem::take(&mut entry.held);
        self.held_bytes = self.held_bytes.saturating_sub(std::mem::take(&mut entry.held_bytes));
        entry.held_since = None;
        let opened_at = held.first().map_or(now, |chunk| chunk.at);
        meter.handle(Input::Opened { session, process, workload, host, joined_late }, opened_at);
        for chunk in held {
            Self::feed(meter, entry, session, chunk);
        }
    }

    fn named<M: Meter>(&mut self, meter: &mut M, identity: SessionIdentity, host: HostEvidence, now: Moment) {
        match self.table.get_mut(&identity) {
            Some(Session { id: Some(session), .. }) => {
                meter.handle(Input::Named { session: *session, host }, now)
            }
            Some(session) => session.host = Some(host),
            None if self.ended_set.contains(&identity) => {}
            None => self.table.entry(identity).or_default().host = Some(host),
        }
    }

    fn chunk<M: Meter>(&mut self, meter: &mut M, chunk: OwnedChunk, now: Moment) {
        if self.ended_set.contains(&chunk.identity) {
            self.status.lost(Loss::HeldOverflow, chunk.payload.len() as u64);
            return;
        }
        let entry = self.table.entry(chunk.identity).or_default();
        if let Some(session) = entry.id {
            return Self::feed(meter, entry, session, chunk);
        }
        let len = chunk.payload.len();
        if entry.held_bytes + len > HELD_BYTES_MAX || self.held_bytes + len > HELD_BYTES_SHARD_MAX {
            self.status.lost(Loss::HeldOverflow, len as u64);
            return;
        }
        entry.held_since.get_or_insert(now);
        entry.held_bytes += len;
        self.held_bytes += len;
        entry.held.push(chunk);
    }

    fn feed<M: Meter>(meter: &mut M, entry: &mut Session, session: SessionId, chunk: OwnedChunk) {
        let OwnedChunk { direction, offset, opposite, payload, at, .. } = chunk;
        let end = offset.saturating_add(payload.len() as u64);
        let (sent, received) = match direction {
            Direction::Sent => (end, opposite),
            Direction::Received => (opposite, end),
        };
        entry.sent = entry.sent.max(sent);
        entry.received = entry.received.max(received);
        meter.handle(Input::Chunk { session, direction, offset, opposite, bytes: payload.bytes() }, at);
    }

    fn close<M: Meter>(
        &mut self,
        meter: &mut M,
        identity: SessionIdentity,
        sent: Option<u64>,
        received: Option<u64>,
        now: Moment,
    ) {
        if self.table.get(&identity).is_some_and(|session| session.id.is_none() && !session.held.is_empty()) {
            self.open_unknown(meter, identity, now);
        }
        let Some(entry) = self.table.remove(&identity) else { return };
        if let Some(session) = entry.id {
            self.identities.remove(&session);
            let sent = sent.unwrap_or_default().max(entry.sent);
            let received = received.unwrap_or_default().max(entry.received);
            meter.handle(Input::Closed { session, sent, received }, now);
        }
        self.ended.push_back(identity);
        self.ended_set.insert(identity);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.ended_set.remove(&oldest);
        }
    }

    pub(super) fn held_until(&self) -> Option<Moment> {
        if self.held_bytes == 0 {
            return None;
        }
        let since = self.table.values().filter_map(|session| session.held_since).min()?;
        Some(Moment(since.0.saturating_add(HELD_NS_MAX)))
    }

    pub(super) fn open_overdue<M: Meter>(&mut self, meter: &mut M, now: Moment) {
        if self.held_bytes == 0 {
            return;
        }
        let overdue =
            |session: &Session| session.held_since.is_some_and(|since| now.since(since) >= HELD_NS_MAX);
        let all: Vec<_> =
            self.table.iter().filter(|(_, session)| overdue(session)).map(|(key, _)| *key).collect();
        for identity in all {
            self.open_unknown(meter, identity, now);
        }
    }

    fn open_unknown<M: Meter>(&mut self, meter: &mut M, identity: SessionIdentity, now: Moment) {
        let Some(process) =
            self.table.get(&identity).and_then(|session| session.held.first()).map(|chunk| chunk.process)
        else {
            return;
        };
        let session = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        let workload = Workload::unknown(process);
        self.open(meter, Open { identity, session, process, workload, host: None, joined_late: true }, now);
    }

    pub(super) fn forget_all(&mut self) {
        self.table.clear();
        self.identities.clear();
        self.held_bytes = 0;
    }
}
