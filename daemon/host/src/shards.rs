//! Threads that each drive one pure pipeline: sessions are spread over them, every session stays on one.
//!
//! A *shard* owns a [`Meter`] and the table from kernel identities to [`SessionId`]s. Content may arrive before the
//! planner has said whose session it is: it is *held*, bounded, until the session is opened, and opened with an unknown
//! workload when nobody says so in time. Chunks may be dropped (channel full, held too much): the next chunk's offset
//! shows the pipeline the gap, and the bytes are counted by reason.
//!
//! A panic in a pipeline costs the sessions of that shard, never the thread; it is counted. Nothing here looks into
//! payload.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use meter::exchange::{Reason, SessionId};
use meter::pipeline::{Direction, HostEvidence, Input, Output, SessionVerdict};
use meter::record::{Flow, Record, Subject};
use meter::time::{Moment, UnixNanos};
use meter::workload::{ProcessKey, Workload};
use zeroize::ZeroizeOnDrop;

use crate::capture::event::SessionIdentity;
use crate::capture::mailbox::Mailbox;
use crate::capture::status::{CaptureStatus, Loss, monotonic};
use crate::writer::RecordSender;

/// Plaintext that may wait in front of one shard: as much as the kernel's content ring holds.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Plaintext of one session that may wait for its workload: four of the largest captured calls.
const HELD_BYTES_MAX: usize = 4 * abi::content::CALL_BYTES_MAX;
/// Plaintext of all sessions of a shard that may wait for their workloads.
const HELD_BYTES_SHARD_MAX: usize = 16 << 20;
/// How long a session waits for its workload.
const HELD_NS_MAX: u64 = 2_000_000_000;
/// Ended sessions that are remembered, so that a chunk that comes late does not open them again.
const ENDED_MAX: usize = 1024;
/// Pairs of process and host that the planner was told of.
const TOLD_MAX: usize = 16_384;
/// Longest sleep of an idle shard.
const IDLE: Duration = Duration::from_secs(1);
/// Messages that may wait in front of one shard: beyond it the shard cannot know any more what is open.
const WAITING_MAX: usize = 65_536;

/// What a shard drives; [`meter::pipeline::Pipeline`] in the product.
pub trait Meter {
    /// Takes an input. `now` never decreases by more than the disorder of the rings.
    fn handle(&mut self, input: Input<'_>, now: Moment);
    /// Next output, if any.
    fn poll(&mut self) -> Option<Output>;
    /// When it wants a [`Input::Tick`].
    fn deadline(&self) -> Option<Moment>;
}

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

    fn len(&self) -> usize {
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

/// Where goes what is learnt, once capture has started.
type DecisionSink = Arc<OnceLock<Box<dyn Fn(Learnt) + Send + Sync>>>;

/// The running shards. Dropping it without [`Shards::stop`] leaves the threads to the end of the process.
pub struct Shards {
    senders: ShardSenders,
    decisions: DecisionSink,
    threads: Vec<JoinHandle<()>>,
}

/// Sends to the shard of a session or a process.
#[derive(Clone)]
pub struct ShardSenders {
    mailboxes: Arc<[Mailbox<ToShard>]>,
    next_session: Arc<AtomicU64>,
    status: Arc<CaptureStatus>,
}

/// Shards at most: one meters hundreds of megabytes a second, and each has bounds of its own that add up to the memory
/// and the threads which the shipped manifests grant.
const SHARDS_MAX: usize = 4;

/// One shard less than there are CPUs, one to [`SHARDS_MAX`].
pub fn default_count() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().saturating_sub(1).clamp(1, SHARDS_MAX))
}

impl Shards {
    /// Starts `count` threads; `make` builds the pipeline of each (again after a panic). Records go to `writer`.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub fn start<M: Meter + 'static>(
        count: usize,
        make: impl Fn(usize) -> M + Send + Sync + 'static,
        writer: RecordSender,
        status: Arc<CaptureStatus>,
    ) -> anyhow::Result<Shards> {
        let make = Arc::new(make);
        let decisions = DecisionSink::default();
        let mailboxes: Arc<[_]> =
            (0..count.max(1)).map(|_| Mailbox::new(WAITING_BYTES_MAX, WAITING_MAX)).collect();
        let next_session = Arc::new(AtomicU64::new(1));
        let mut threads = Vec::new();
        for (index, mailbox) in mailboxes.iter().enumerate() {
            let make = Arc::clone(&make);
            let shard = Shard {
                mailbox: mailbox.clone(),
                sessions: Sessions::new(Arc::clone(&next_session), Arc::clone(&status)),
                decisions: Arc::clone(&decisions),
                told: HashSet::new(),
                writer: writer.clone(),
                status: Arc::clone(&status),
            };
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || shard.run(&|| make(index)))
                .context("starting a shard")?;
            threads.push(thread);
        }
        let senders = ShardSenders { mailboxes, next_session, status };
        Ok(Shards { senders, decisions, threads })
    }

    /// How capture and replay talk to the shards.
    pub fn senders(&self) -> ShardSenders {
        self.senders.clone()
    }

    /// Where goes what pipelines learn, from now on. Only the first call counts.
    pub fn on_learnt(&self, sink: impl Fn(Learnt) + Send + Sync + 'static) {
        // An error means that a sink is there already: capture starts once.
        let _ = self.decisions.set(Box::new(sink));
    }

    /// Closes every session, sends the last records and ends the threads.
    pub fn stop(self) {
        for mailbox in self.senders.mailboxes.iter() {
            mailbox.post(ToShard::Stop);
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a shard ended with a panic outside its pipeline");
            }
        }
    }
}

impl ShardSenders {
    /// A number for a new session.
    pub fn allot_session(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands over content; drops and counts it when the shard is behind.
    pub fn chunk(&self, chunk: OwnedChunk) {
        let len = chunk.payload.len();
        let mailbox = self.of_session(&chunk.identity);
        // A little is added for the message itself, so that empty chunks cannot fill memory.
        if mailbox.offer(ToShard::Chunk(chunk), len + 128).is_err() {
            self.status.lost(Loss::ShardFull, len as u64);
        }
    }

    /// Tells the shard of a session.
    pub fn session(&self, identity: &SessionIdentity, message: ToShard) {
        self.deliver(self.of_session(identity), message);
    }

    /// Tells the shard of a process.
    pub fn process(&self, process: ProcessKey, message: ToShard) {
        self.deliver(self.at(hash(&process)), message);
    }

    /// A message that gets no room leaves the shard in doubt about its sessions; it gives them up.
    fn deliver(&self, mailbox: &Mailbox<ToShard>, message: ToShard) {
        if mailbox.deliver(message).is_err() {
            self.status.lost(Loss::ShardOverrun, 1);
        }
    }

    fn of_session(&self, identity: &SessionIdentity) -> &Mailbox<ToShard> {
        self.at(hash(identity))
    }

    fn at(&self, hash: u64) -> &Mailbox<ToShard> {
        let index = usize::try_from(hash % self.mailboxes.len() as u64).unwrap_or_default();
        &self.mailboxes[index]
    }
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}

struct Shard {
    mailbox: Mailbox<ToShard>,
    sessions: Sessions,
    decisions: DecisionSink,
    told: HashSet<(ProcessKey, Arc<str>)>,
    writer: RecordSender,
    status: Arc<CaptureStatus>,
}

impl Shard {
    fn run<M: Meter>(mut self, make: &dyn Fn() -> M) {
        let mut meter = make();
        let mut batch = Vec::new();
        loop {
            let patience = self.patience(&meter, monotonic());
            let complete = self.mailbox.take(patience, &mut batch);
            let mut stop = false;
            if !complete {
                tracing::error!("a shard was overrun: its sessions are given up");
                self.sessions.forget_all();
                meter = make();
            }
            let mut messages = batch.drain(..).map(|(message, _)| message);
            // A panic leaves the rest of the batch in `messages`: it is handed to the new pipeline.
            while !stop {
                let step = catch_unwind(AssertUnwindSafe(|| self.step(&mut meter, &mut messages)));
                match step {
                    Ok(ended) => {
                        stop = ended;
                        break;
                    }
                    Err(_) => {
                        self.status.lost(Loss::ShardPanicked, 1);
                        tracing::error!("a pipeline panicked: its sessions are given up");
                        self.sessions.forget_all();
                        meter = make();
                    }
                }
            }
            if stop {
                return;
            }
        }
    }

    fn patience<M: Meter>(&self, meter: &M, now: Moment) -> Duration {
        let due = [meter.deadline(), self.sessions.held_until()].into_iter().flatten().min();
        due.map_or(IDLE, |due| Duration::from_nanos(due.since(now)).min(IDLE))
    }

    /// Handles what waits and what is due; true when told to stop.
    fn step<M: Meter>(&mut self, meter: &mut M, messages: &mut dyn Iterator<Item = ToShard>) -> bool {
        for message in messages {
            let stop = matches!(message, ToShard::Stop);
            self.sessions.handle(meter, message, monotonic());
            self.drain(meter);
            if stop {
                return true;
            }
        }
        let now = monotonic();
        self.sessions.open_overdue(meter, now);
        if meter.deadline().is_some_and(|due| due <= now) {
            meter.handle(Input::Tick, now);
        }
        self.drain(meter);
        false
    }

    fn tell_host(&mut self, record: &Record) {
        let (Subject::Exchange(exchange), Some(sink)) = (&record.subject, self.decisions.get()) else {
            return;
        };
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        let process = record.workload.process;
        if self.told.insert((process, Arc::clone(&exchange.host))) {
            let host =
                HostEvidence { host: Arc::clone(&exchange.host), identified_by: exchange.identified_by };
            sink(Learnt::Host(process, host));
        }
    }

    fn drain<M: Meter>(&mut self, meter: &mut M) {
        while let Some(output) = meter.poll() {
            match output {
                Output::Record(record) => {
                    self.status.recorded(&record);
                    self.tell_host(&record);
                    self.writer.send(record);
                }
                Output::Verdict { session, verdict } => {
                    if let (Some(identity), Some(sink)) =
                        (self.sessions.identity(session), self.decisions.get())
                    {
                        sink(Learnt::Decided(Decision { identity, verdict }));
                    }
                }
                Output::Lost { reason, bytes, .. } => self.status.unmetered(reason, bytes),
            }
        }
    }
}

/// The sessions of one shard.
struct Sessions {
    table: HashMap<SessionIdentity, Session>,
    identities: HashMap<SessionId, SessionIdentity>,
    ended: VecDeque<SessionIdentity>,
    ended_set: HashSet<SessionIdentity>,
    held_bytes: usize,
    next_session: Arc<AtomicU64>,
    status: Arc<CaptureStatus>,
}

#[derive(Default)]
struct Session {
    /// `None` until it is opened.
    id: Option<SessionId>,
    /// Named before it was opened.
    host: Option<HostEvidence>,
    held: Vec<OwnedChunk>,
    held_bytes: usize,
    /// When the first chunk began to wait.
    held_since: Option<Moment>,
    sent: u64,
    received: u64,
}

impl Sessions {
    fn new(next_session: Arc<AtomicU64>, status: Arc<CaptureStatus>) -> Sessions {
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

    fn identity(&self, session: SessionId) -> Option<SessionIdentity> {
        self.identities.get(&session).copied()
    }

    fn handle<M: Meter>(&mut self, meter: &mut M, message: ToShard, now: Moment) {
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

    fn held_until(&self) -> Option<Moment> {
        if self.held_bytes == 0 {
            return None;
        }
        let since = self.table.values().filter_map(|session| session.held_since).min()?;
        Some(Moment(since.0.saturating_add(HELD_NS_MAX)))
    }

    fn open_overdue<M: Meter>(&mut self, meter: &mut M, now: Moment) {
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

    fn forget_all(&mut self) {
        self.table.clear();
        self.identities.clear();
        self.held_bytes = 0;
    }
}

#[cfg(test)]
mod tests;
