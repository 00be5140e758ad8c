//! The meaning of the product on one page: every stage in order.

mod attempts;
mod awaited;
mod open;
mod session;
mod talk;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::attribution::{OwnerIndex, attribute};
use crate::directory::Directory;
use crate::exchange::{Exchange, IdentifiedBy, Reason, SessionId};
pub use crate::flow::Direction;
use crate::limits::{Budget, SESSION_IDLE_NS, SESSIONS_MAX};
pub use crate::llm::headers::FingerprintKeys;
use crate::pricing::{Catalogue, price};
use crate::record::{Flow, Record, RecordId, Subject};
use crate::time::{Moment, UnixNanos, WallClock};
use crate::workload::{ProcessKey, Workload};
pub use attempts::Attempts;
use session::{Dormant, Session};

/// A host name and how it became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEvidence {
    /// Lower case, without port and final dot.
    pub host: Arc<str>,
    /// How it became known.
    pub identified_by: IdentifiedBy,
}

/// What can happen.
pub enum Input<'a> {
    /// A session began.
    Opened {
        /// Which; an older one of the same id is over.
        session: SessionId,
        /// Who holds it.
        process: ProcessKey,
        /// What is known of who that is.
        workload: Arc<Workload>,
        /// Its host, if it is known already.
        host: Option<HostEvidence>,
        /// Bytes may have passed before we saw it.
        joined_late: bool,
    },
    /// The session's host became known.
    Named {
        /// Which.
        session: SessionId,
        /// Its host.
        host: HostEvidence,
    },
    /// The workload behind a session became better known.
    Resolved {
        /// Which.
        session: SessionId,
        /// What is known now.
        workload: Arc<Workload>,
    },
    /// Bytes of one direction, in stream order.
    Chunk {
        /// Which.
        session: SessionId,
        /// Direction.
        direction: Direction,
        /// Position of the first byte; a difference to the end of the previous chunk is a gap.
        offset: u64,
        /// Bytes that the other direction had moved before these, at least; 0 says nothing. What was not seen of them is
        /// a gap that lies before these bytes.
        opposite: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The session is over.
    Closed {
        /// Which.
        session: SessionId,
        /// Bytes it sent in all.
        sent: u64,
        /// Bytes it received in all.
        received: u64,
    },
    /// A call is known to have been made that was not seen.
    Missed {
        /// Who made it.
        process: ProcessKey,
        /// What is known of who that is.
        workload: Arc<Workload>,
        /// Whom it called.
        host: HostEvidence,
        /// When.
        started: Moment,
        /// Why it was not seen.
        reason: Reason,
    },
    /// A connection to be recorded (once, at its end or when the daemon stops).
    Flow {
        /// The connection.
        flow: Box<Flow>,
        /// Who holds it.
        workload: Arc<Workload>,
        /// When it began; 0: take `started`.
        started_at: UnixNanos,
        /// The same on the clock of this boot.
        started: Moment,
    },
    /// Time passed.
    Tick,
}

impl std::fmt::Debug for Input<'_> {
    /// What happened to which session; of its bytes how many.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Input::Opened { session, .. } => write!(f, "Opened({session:?})"),
            Input::Named { session, host } => write!(f, "Named({session:?}, {host:?})"),
            Input::Resolved { session, .. } => write!(f, "Resolved({session:?})"),
            Input::Chunk { session, direction, offset, bytes, .. } => {
                write!(f, "Chunk({session:?}, {direction:?} at {offset}, {} bytes)", bytes.len())
            }
            Input::Closed { session, sent, received } => write!(f, "Closed({session:?}, {sent}, {received})"),
            Input::Missed { process, host, reason, .. } => {
                write!(f, "Missed({process:?}, {host:?}, {reason:?})")
            }
            Input::Flow { flow, .. } => write!(f, "Flow({flow:?})"),
            Input::Tick => f.write_str("Tick"),
        }
    }
}

/// What it leads to.
#[derive(Debug)]
pub enum Output {
    /// To be stored.
    Record(Box<Record>),
    /// Whether the session is of interest: to be told to the kernel.
    Verdict {
        /// Which.
        session: SessionId,
        /// What to do with it.
        verdict: SessionVerdict,
    },
    /// Bytes that were not metered.
    Lost {
        /// Of which session.
        session: SessionId,
        /// Why.
        reason: Reason,
        /// How many.
        bytes: u64,
    },
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

/// What a pipeline works with.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Which hosts belong to which provider.
    pub directory: Arc<Directory>,
    /// Who owns what.
    pub owners: Arc<OwnerIndex>,
    /// Prices.
    pub catalogue: Arc<Catalogue>,
    /// Wall clock at the start.
    pub clock: WallClock,
    /// Keys for fingerprints of API keys, by tenant.
    pub fingerprint_keys: FingerprintKeys,
    /// Recent requests, to tell retries: the same for all pipelines.
    pub attempts: Attempts,
    /// Makes record ids unique: random, other for every pipeline and start. Its low 40 bits count.
    pub id_seed: u64,
    /// Recognise a session of unknown host by the path of its requests too (self-hosted servers and gateways).
    pub detect_by_path: bool,
    /// Contain a panic to its session. Off in tests, so that they see it.
    pub fence_panics: bool,
}

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: Arc<Directory>,
    pub(crate) owners: Arc<OwnerIndex>,
    pub(crate) clock: WallClock,
    pub(crate) fingerprint_keys: FingerprintKeys,
    pub(crate) attempts: Attempts,
    pub(crate) detect_by_path: bool,
    pub(crate) budget: Budget,
}

/// Bytes and kernel facts in, records out.
#[derive(Debug)]
pub struct Pipeline {
    shared: Shared,
    catalogue: Arc<Catalogue>,
    id_seed: u64,
    made: u64,
    fence_panics: bool,
    sessions: HashMap<SessionId, Session>,
    /// Sessions that were silent for long and may go on; the oldest makes room.
    dormant: BTreeMap<SessionId, Dormant>,
    /// When to look at a session next; a session that was active since gets a later time then.
    expiry: BTreeSet<(Moment, SessionId)>,
    out: VecDeque<Output>,
}

impl Pipeline {
    /// A pipeline without sessions.
    pub fn new(options: PipelineOptions) -> Pipeline {
        let PipelineOptions {
            directory,
            owners,
            catalogue,
            clock,
            fingerprint_keys,
            attempts,
            id_seed,
            detect_by_path,
            fence_panics,
        } = options;
        Pipeline {
            shared: Shared {
                directory,
                owners,
                clock,
                fingerprint_keys,
                attempts,
                detect_by_path,
                budget: Budget::new(),
            },
            catalogue,
            id_seed,
            made: 0,
            fence_panics,
            sessions: HashMap::new(),
            dormant: BTreeMap::new(),
            expiry: BTreeSet::new(),
            out: VecDeque::new(),
        }
    }

    /// Takes what happened at `now`. What it leads to comes from [`Pipeline::poll`].
    pub fn handle(&mut self, input: Input<'_>, now: Moment) {
        match input {
            Input::Named { session, .. }
            | Input::Resolved { session, .. }
            | Input::Chunk { session, .. }
            | Input::Closed { session, .. } => self.wake(session, now),
            _ => {}
        }
        match input {
            Input::Opened { session, process, workload, host, joined_late } => {
                self.dormant.remove(&session);
                self.close(session, None, now);
                self.make_room(now);
                self.expiry.insert((Moment(now.0.saturating_add(SESSION_IDLE_NS)), session));
                self.sessions.insert(session, Session::new(session, process, workload, joined_late, now));
                if let Some(host) = host {
                    self.step(session, now, |session, shared| session.name(host, shared, now));
                }
            }
            Input::Named { session, host } => {
                self.step(session, now, |session, shared| session.name(host, shared, now));
            }
            Input::Resolved { session, workload } => {
                self.step(session, now, |session, _| session.resolve(workload));
            }
            Input::Chunk { session, direction, offset, opposite, bytes } => {
                if self.sessions.contains_key(&session) {
                    self.step(session, now, |session, shared| {
                        session.chunk(direction, [offset, opposite], bytes, shared, now)
                    });
                } else {
                    let lost =
                        Output::Lost { session, reason: Reason::UnknownSession, bytes: bytes.len() as u64 };
                    self.out.push_back(lost);
                }
            }
            Input::Closed { session, sent, received } => self.close(session, Some((sent, received)), now),
            Input::Missed { process, workload, host, started, reason } => {
                let exchange = session::missed(&host, started, reason, &self.shared);
                let mut workload = workload;
                if workload.process != process {
                    workload = Workload::unknown(process);
                }
                self.record(Box::new(exchange), workload, now);
            }
            Input::Flow { flow, workload, started_at, started } => {
                self.flow(flow, workload, started_at, started, now)
            }
            Input::Tick => {}
        }
        self.expire(now);
    }

    /// The next thing it led to.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing else happens.
    pub fn deadline(&self) -> Option<Moment> {
        self.expiry.first().map(|(at, _)| *at)
    }

    /// The wall clock was set.
    pub fn set_clock(&mut self, clock: WallClock) {
        self.shared.clock = clock;
    }

    /// Owners changed. Records from here on use them.
    pub fn set_owners(&mut self, owners: Arc<OwnerIndex>) {
        self.shared.owners = owners;
    }

    /// Prices changed. Records from here on use them.
    pub fn set_catalogue(&mut self, catalogue: Arc<Catalogue>) {
        self.catalogue = catalogue;
    }

    /// Tenants changed.
    pub fn set_fingerprint_keys(&mut self, keys: FingerprintKeys) {
        self.shared.fingerprint_keys = keys;
    }

    /// Sessions held.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Lets a session take one step and carries out what it led to. A panic ends that session and nothing else.
    fn step(&mut self, id: SessionId, now: Moment, step: impl FnOnce(&mut Session, &Shared)) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if self.fence_panics {
            if catch_unwind(AssertUnwindSafe(|| step(session, &self.shared))).is_err() {
                session.panicked();
            }
        } else {
            step(session, &self.shared);
        }
        session.touch(now);
        let workload = Arc::clone(session.workload());
        let made = session.take_made();
        if let Some(verdict) = made.verdict {
            self.out.push_back(Output::Verdict { session: id, verdict });
        }
        for (reason, bytes) in made.lost {
            self.out.push_back(Output::Lost { session: id, reason, bytes });
        }
        for exchange in made.exchanges {
            self.record(exchange, Arc::clone(&workload), now);
        }
    }

    fn close(&mut self, id: SessionId, ends: Option<(u64, u64)>, now: Moment) {
        self.step(id, now, |session, shared| session.close(ends, shared, now));
        self.sessions.remove(&id);
    }

    fn make_room(&mut self, now: Moment) {
        while self.sessions.len() + self.dormant.len() >= SESSIONS_MAX {
            if self.dormant.pop_first().is_some() {
                continue;
            }
            let Some(idle) =
                self.sessions.iter().min_by_key(|(_, session)| session.touched()).map(|(id, _)| *id)
            else {
                return;
            };
            self.close(idle, None, now);
        }
    }

    /// Gives a session up that may go on.
    fn rest(&mut self, id: SessionId, now: Moment) {
        if let Some(session) = self.sessions.get(&id) {
            self.dormant.insert(id, session.dormant());
        }
        self.close(id, None, now);
    }

    /// A session that was given up goes on.
    fn wake(&mut self, id: SessionId, now: Moment) {
        if let Some(dormant) = self.dormant.remove(&id) {
            self.make_room(now);
            self.expiry.insert((Moment(now.0.saturating_add(SESSION_IDLE_NS)), id));
            self.sessions.insert(id, Session::wake(id, dormant, now));
        }
    }

    fn expire(&mut self, now: Moment) {
        while let Some(&(at, id)) = self.expiry.first()
            && at <= now
        {
            self.expiry.pop_first();
            let Some(session) = self.sessions.get(&id) else { continue };
            let due = Moment(session.touched().0.saturating_add(SESSION_IDLE_NS));
            if due <= now {
                self.rest(id, now);
            } else {
                self.expiry.insert((due, id));
            }
        }
    }

    fn record(&mut self, exchange: Box<Exchange>, workload: Arc<Workload>, now: Moment) {
        let started_at = self.shared.clock.at(exchange.timing.started);
        let attribution =
            attribute(Some(&exchange.host), &workload, &self.shared.owners, self.shared.clock.at(now));
        let cost = price(&exchange, &self.catalogue, started_at);
        let record = Record {
            id: self.id(started_at),
            started_at,
            recorded_at: self.shared.clock.at(now),
            subject: Subject::Exchange(exchange),
            workload,
            attribution,
            cost: Some(cost),
        };
        self.out.push_back(Output::Record(Box::new(record)));
    }

    fn flow(
        &mut self,
        flow: Box<Flow>,
        workload: Arc<Workload>,
        started_at: UnixNanos,
        started: Moment,
        now: Moment,
    ) {
        // A caller without wall-clock time of the start has its moment.
        let started_at = if started_at.0 == 0 { self.shared.clock.at(started) } else { started_at };
        let attribution =
            attribute(flow.host.as_deref(), &workload, &self.shared.owners, self.shared.clock.at(now));
        let record = Record {
            id: self.id(started_at),
            started_at,
            recorded_at: self.shared.clock.at(now),
            subject: Subject::Flow(flow),
            workload,
            attribution,
            cost: None,
        };
        self.out.push_back(Output::Record(Box::new(record)));
    }

    /// 48 bits of milliseconds, 40 of the seed, 40 of a counter that starts at the seed.
    fn id(&mut self, started_at: UnixNanos) -> RecordId {
        const MASK: u64 = (1 << 40) - 1;
        let count = self.id_seed.wrapping_add(self.made) & MASK;
        self.made = self.made.wrapping_add(1);
        let unique = u128::from(self.id_seed >> 24) << 40 | u128::from(count);
        let millis = u128::from(started_at.0 / 1_000_000) & ((1 << 48) - 1);
        RecordId(millis << 80 | unique)
    }
}
