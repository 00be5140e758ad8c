//! Records to the store, in batches, on a thread of its own; only what is flushed is made known to watchers.
//!
//! A record is *acknowledged* once anybody was shown it. The thread shows nothing before `Stores::commit` has said that
//! it is durable, so an acknowledged record survives kill -9. [`RecordSender::send`] never waits: when the disk is
//! wedged the queue fills and records are dropped and counted, and capture goes on.
//!
//! [`Commits`] wakes those who watch; what was committed they read from the store (`api::watch`), at their own pace.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use meter::record::Record;
use store::{CommitError, CommitOutcome, Stores};
use tokio::sync::watch;

/// Records that wait for the thread: about 2 KiB each, 16 MiB at worst while the disk is wedged.
const QUEUE_MAX: usize = 8_192;
/// Records of one commit.
const BATCH_MAX: usize = 512;
/// How long a batch waits for company after its first record: an `fsync` costs about as much.
const BATCH_WAIT: Duration = Duration::from_millis(2);
/// How often a full disk is looked at again while no record comes.
const ROOM_CHECK: Duration = Duration::from_secs(1);

/// Starts the thread. It ends when every clone of the sender is gone and everything sent is committed.
pub fn spawn(stores: Stores) -> anyhow::Result<(RecordSender, Writer)> {
    let (sender, receiver) = queue();
    let figures = Arc::clone(&sender.figures);
    let commits = Arc::new(Commits::default());
    let thread = {
        let (figures, commits) = (Arc::clone(&figures), Arc::clone(&commits));
        let run = move || run(&receiver, &stores, &figures, &commits);
        std::thread::Builder::new().name("writer".into()).spawn(run).context("starting the writer thread")?
    };
    Ok((sender, Writer { thread, figures, commits }))
}

/// The queue to the writer, and its other end.
pub fn queue() -> (RecordSender, Receiver<Box<Record>>) {
    let (queue, receiver) = sync_channel(QUEUE_MAX);
    (RecordSender { queue, figures: Arc::default() }, receiver)
}

/// Hands records to the writer.
#[derive(Clone, Debug)]
pub struct RecordSender {
    queue: SyncSender<Box<Record>>,
    figures: Arc<Figures>,
}

impl RecordSender {
    /// Hands a record over; drops and counts it when as many wait as may. Never waits.
    pub fn send(&self, record: Box<Record>) {
        self.figures.taken.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => drop(self.figures.queue_full.fetch_add(1, Ordering::Relaxed)),
            Err(TrySendError::Disconnected(_)) => {
                self.figures.writer_gone.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The thread, as its owner sees it.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
    /// What it did.
    pub figures: Arc<Figures>,
    /// What wakes watchers.
    pub commits: Arc<Commits>,
}

impl Writer {
    /// Waits until everything is committed, which needs every sender to be gone. False if `deadline` came first: then
    /// the thread is left behind, with what [`Figures::pending`] says.
    pub fn finish(self, deadline: Instant) -> bool {
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.join().is_ok()
    }
}

/// What the writer did. Counters only grow.
#[derive(Debug, Default)]
pub struct Figures {
    taken: AtomicU64,
    queue_full: AtomicU64,
    writer_gone: AtomicU64,
    committed: AtomicU64,
    duplicates: AtomicU64,
    batches: AtomicU64,
    disk_full: AtomicU64,
    store_failed: AtomicU64,
    no_store: AtomicU64,
    commit_ns_max: AtomicU64,
    /// The last commit's failure, until one succeeds; of a full disk, until there is room.
    trouble: Mutex<Option<CommitError>>,
}

impl Figures {
    /// Records that were handed over and are neither committed nor dropped.
    pub fn pending(&self) -> u64 {
        let done =
            self.committed.load(Ordering::Relaxed) + self.duplicates.load(Ordering::Relaxed) + self.lost();
        self.taken.load(Ordering::Relaxed).saturating_sub(done)
    }

    /// Records dropped, for whatever reason.
    pub fn lost(&self) -> u64 {
        self.losses().iter().map(|(_, count)| count).sum()
    }

    /// Records dropped, by reason.
    pub fn losses(&self) -> [(&'static str, u64); 5] {
        [
            ("writer_full", self.queue_full.load(Ordering::Relaxed)),
            ("writer_gone", self.writer_gone.load(Ordering::Relaxed)),
            ("disk_full", self.disk_full.load(Ordering::Relaxed)),
            ("store_failed", self.store_failed.load(Ordering::Relaxed)),
            ("no_store_for_tenant", self.no_store.load(Ordering::Relaxed)),
        ]
    }

    /// Everything else worth showing.
    pub fn counters(&self) -> [(&'static str, u64, &'static str); 4] {
        [
            ("records_committed", self.committed.load(Ordering::Relaxed), "records"),
            ("records_duplicate", self.duplicates.load(Ordering::Relaxed), "records"),
            ("commits", self.batches.load(Ordering::Relaxed), "calls"),
            ("commit_ns_max", self.commit_ns_max.load(Ordering::Relaxed), "nanoseconds"),
        ]
    }

    /// Why the last commit failed, if it did and the next would too.
    pub fn trouble(&self) -> Option<CommitError> {
        lock(&self.trouble).clone()
    }

    fn absorb(&self, outcome: &CommitOutcome, took: Duration) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.commit_ns_max.fetch_max(nanos, Ordering::Relaxed);
        let mut trouble = None;
        for tenant in &outcome.tenants {
            let records = tenant.records as u64;
            let counter = match &tenant.result {
                Ok(()) => {
                    let duplicates = (tenant.duplicates as u64).min(records);
                    self.duplicates.fetch_add(duplicates, Ordering::Relaxed);
                    self.committed.fetch_add(records - duplicates, Ordering::Relaxed);
                    continue;
                }
                Err(CommitError::DiskFull { .. }) => &self.disk_full,
                Err(CommitError::NoSuchTenant(_)) => &self.no_store,
                Err(CommitError::Failed(_)) => &self.store_failed,
            };
            counter.fetch_add(records, Ordering::Relaxed);
            trouble = tenant.result.clone().err();
        }
        self.note(trouble);
    }

    /// Remembers how it stands with storing, and logs when that changes.
    fn note(&self, trouble: Option<CommitError>) {
        let mut last = lock(&self.trouble);
        if let Some(error) = &trouble
            && last.is_none()
        {
            tracing::warn!(%error, "records are counted, not stored");
        }
        if trouble.is_none() && last.is_some() {
            tracing::info!("records are stored again");
        }
        *last = trouble;
    }

    fn is_disk_full(&self) -> bool {
        matches!(*lock(&self.trouble), Some(CommitError::DiskFull { .. }))
    }
}

fn run(queue: &Receiver<Box<Record>>, stores: &Stores, figures: &Figures, commits: &Commits) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while let Some(first) = first_of_batch(queue, stores, figures) {
        collect(queue, first, &mut batch);
        let started = Instant::now();
        let outcome = stores.commit(&batch);
        figures.absorb(&outcome, started.elapsed());
        commits.publish(&outcome);
        batch.clear();
    }
}

/// Waits for a record; meanwhile a disk that was full is looked at now and then, so that nobody is told of it longer than
/// it lasts. `None` once all senders are gone and nothing is left.
fn first_of_batch(queue: &Receiver<Box<Record>>, stores: &Stores, figures: &Figures) -> Option<Record> {
    while figures.is_disk_full() {
        match queue.recv_timeout(ROOM_CHECK) {
            Ok(record) => return Some(*record),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => figures.note(stores.find_room().err()),
        }
    }
    queue.recv().ok().map(|record| *record)
}

/// Takes the company of a record that comes soon enough.
fn collect(queue: &Receiver<Box<Record>>, first: Record, batch: &mut Vec<Record>) {
    batch.push(first);
    let until = Instant::now() + BATCH_WAIT;
    while batch.len() < BATCH_MAX {
        match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(record) => batch.push(*record),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
}

/// How many records were committed since the daemon started; whoever watches is woken when it changes.
#[derive(Debug)]
pub struct Commits(watch::Sender<u64>);

impl Default for Commits {
    fn default() -> Commits {
        Commits(watch::Sender::new(0))
    }
}

impl Commits {
    /// Changes whenever something is committed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn publish(&self, outcome: &CommitOutcome) {
        let more: usize = outcome.tenants.iter().map(|tenant| tenant.written.len()).sum();
        self.0.send_if_modified(|count| {
            *count += more as u64;
            more > 0
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meter::attribution::TenantName;
    use meter::record::RecordId;
    use store::TenantCommit;

    fn tenant(name: &str) -> TenantName {
        TenantName::new(name).expect("a tenant's name")
    }

    fn outcome(name: &str, ids: std::ops::Range<u128>) -> CommitOutcome {
        let written: Vec<RecordId> = ids.map(RecordId).collect();
        let records = written.len();
        let tenant = tenant(name);
        CommitOutcome {
            tenants: vec![TenantCommit { tenant, records, duplicates: 0, result: Ok(()), written }],
        }
    }

    /// As when the disk is wedged: nobody takes anything, and nobody waits.
    #[test]
    fn a_full_queue_drops_and_counts() {
        let (sender, receiver) = queue();
        let some = 5;
        for number in 0..QUEUE_MAX as u64 + some {
            sender.send(Box::new(crate::api::tests::call("default", number)));
        }
        let figures = Arc::clone(&sender.figures);
        assert!(figures.losses().contains(&("writer_full", some)));
        assert_eq!((figures.lost(), figures.pending()), (some, QUEUE_MAX as u64));
        drop(receiver);
        sender.send(Box::new(crate::api::tests::call("default", 0)));
        assert!(figures.losses().contains(&("writer_gone", 1)));
    }

    #[test]
    fn failures_are_counted_by_reason_and_remembered_until_they_pass() {
        let figures = Figures::default();
        figures.taken.store(7, Ordering::Relaxed);
        let mut failed = outcome("a", 0..3);
        failed.tenants[0].result = Err(CommitError::DiskFull { free: 1, reserve: 2 });
        figures.absorb(&failed, Duration::ZERO);
        assert!(figures.losses().contains(&("disk_full", 3)));
        assert_eq!(figures.trouble(), Some(CommitError::DiskFull { free: 1, reserve: 2 }));
        assert_eq!(figures.pending(), 4);
        figures.absorb(&outcome("a", 3..7), Duration::ZERO);
        assert_eq!(figures.trouble(), None);
        assert_eq!(figures.pending(), 0);
    }
}
