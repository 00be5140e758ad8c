//! Threads that each drive one pure pipeline: sessions are spread over them, every session stays on one.
//!
//! A *shard* owns a [`Meter`] and the table from kernel identities to [`SessionId`]s. Content may arrive before the
//! planner has said whose session it is: it is *held*, bounded, until the session is opened, and opened with an unknown
//! workload when nobody says so in time. Chunks may be dropped (channel full, held too much): the next chunk's offset
//! shows the pipeline the gap, and the bytes are counted by reason.
//!
//! A panic in a pipeline costs the sessions of that shard, never the thread; it is counted. Nothing here looks into
//! payload.

mod messages;
mod sessions;

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use meter::exchange::SessionId;
use meter::pipeline::{HostEvidence, Input, Output};
use meter::record::{Record, Subject};
use meter::time::Moment;
use meter::workload::ProcessKey;

use crate::capture::event::SessionIdentity;
use crate::capture::mailbox::Mailbox;
use crate::capture::status::{CaptureStatus, Loss, monotonic};
use crate::writer::RecordSender;
pub use messages::{Decision, Learnt, Open, OwnedChunk, Payload, ToShard};
use sessions::Sessions;

/// Plaintext that may wait in front of one shard: as much as the kernel's content ring holds.
const WAITING_BYTES_MAX: usize = 16 << 20;
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

#[cfg(test)]
mod tests;
