//! Records to the store, in batches, on a thread of its own; only what is flushed is made known to watchers.
//!
//! A record is *acknowledged* once anybody was shown it. The thread shows nothing before `Stores::commit` has said that
//! it is durable, so an acknowledged record survives kill -9. [`RecordSender::send`] never waits: when the disk is
//! wedged the queue fills and records are dropped and counted, and capture goes on.
//!
//! [`Hub`] is what watchers follow: the ids of committed records in commit order. A watcher that falls behind the
//! hub's memory reads the store again (`api::watch`); the hub never waits for one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use meter::attribution::TenantName;
use meter::record::{Record, RecordId};
use store::{CommitError, CommitOutcome, Stores};
use tokio::sync::watch;

/// Records that wait for the thread: about 2 KiB each, 16 MiB at worst while the disk is wedged.
const QUEUE_MAX: usize = 8_192;
/// Records of one commit.
const BATCH_MAX: usize = 512;
/// How long a batch waits for company after its first record: an `fsync` costs about as much.
const BATCH_WAIT: Duration = Duration::from_millis(2);
/// Committed ids that the hub remembers for watchers: 40 bytes each.
const HUB_MAX: usize = 32_768;

/// Starts the thread. It ends when every clone of the sender is gone and everything sent is committed.
pub fn spawn(stores: Stores) -> anyhow::Result<(RecordSender, Writer)> {
    let (sender, receiver) = queue();
    let figures = Arc::clone(&sender.figures);
    let hub = Arc::new(Hub::default());
    let thread = {
        let (figures, hub) = (Arc::clone(&figures), Arc::clone(&hub));
        let run = move || run(&receiver, &stores, &figures, &hub);
        std::thread::Builder::new().name("writer".into()).spawn(run).context("starting the writer thread")?
    };
    Ok((sender, Writer { thread, figures, hub }))
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
    /// What watchers follow.
    pub hub: Arc<Hub>,
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
    /// The last commit's failure, until one succeeds.
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

    /// Why the last commit failed, if it did.
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
}

fn run(queue: &Receiver<Box<Record>>, stores: &Stores, figures: &Figures, hub: &Hub) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while collect(queue, &mut batch) {
        let started = Instant::now();
        let outcome = stores.commit(&batch);
        figures.absorb(&outcome, started.elapsed());
        hub.publish(&outcome);
        batch.clear();
    }
}

/// Waits for a record, then for its company. False once all senders are gone and nothing is left.
fn collect(queue: &Receiver<Box<Record>>, batch: &mut Vec<Record>) -> bool {
    let Ok(first) = queue.recv() else { return false };
    batch.push(*first);
    let until = Instant::now() + BATCH_WAIT;
    while batch.len() < BATCH_MAX {
        match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(record) => batch.push(*record),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    true
}

/// Ids of committed records in commit order. Positions count up from 0 for as long as the daemon lives.
#[derive(Debug)]
pub struct Hub {
    log: Mutex<Log>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    /// Position of the first entry that is remembered.
    first: u64,
    entries: VecDeque<(TenantName, RecordId)>,
}

/// What the hub knows beyond a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Ids of the tenant, and the position behind the last entry looked at.
    Ids(Vec<RecordId>, u64),
    /// The position is older than the hub's memory. The newest position.
    Forgotten(u64),
}

impl Default for Hub {
    fn default() -> Hub {
        Hub { log: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl Hub {
    /// Position behind the newest entry.
    pub fn position(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Changes whenever something is committed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Ids of one tenant from `position` on, at most `max`.
    pub fn beyond(&self, position: u64, tenant: &TenantName, max: usize) -> Beyond {
        let log = lock(&self.log);
        let end = log.first + log.entries.len() as u64;
        let Some(skip) = position.checked_sub(log.first) else { return Beyond::Forgotten(end) };
        let mut ids = Vec::new();
        let mut next = position;
        for (owner, id) in log.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            if ids.len() == max {
                break;
            }
            next += 1;
            if owner == tenant {
                ids.push(*id);
            }
        }
        Beyond::Ids(ids, next)
    }

    fn publish(&self, outcome: &CommitOutcome) {
        let end = {
            let mut log = lock(&self.log);
            for tenant in &outcome.tenants {
                log.entries.extend(tenant.written.iter().map(|id| (tenant.tenant.clone(), *id)));
            }
            let excess = log.entries.len().saturating_sub(HUB_MAX);
            log.entries.drain(..excess);
            log.first += excess as u64;
            log.first + log.entries.len() as u64
        };
        self.newest.send_if_modified(|newest| std::mem::replace(newest, end) != end);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_hub_shows_each_tenant_its_own_ids_in_commit_order() {
        let hub = Hub::default();
        hub.publish(&outcome("a", 5..7));
        hub.publish(&outcome("b", 0..2));
        hub.publish(&outcome("a", 1..2));
        let ids = |list: &[u128]| list.iter().copied().map(RecordId).collect::<Vec<_>>();
        for (position, name, max, expected) in [
            (0, "a", 10, Beyond::Ids(ids(&[5, 6, 1]), 5)),
            (0, "b", 10, Beyond::Ids(ids(&[0, 1]), 5)),
            (0, "a", 2, Beyond::Ids(ids(&[5, 6]), 2)),
            (2, "a", 2, Beyond::Ids(ids(&[1]), 5)),
            (5, "a", 2, Beyond::Ids(ids(&[]), 5)),
            (0, "c", 2, Beyond::Ids(ids(&[]), 5)),
        ] {
            assert_eq!(hub.beyond(position, &tenant(name), max), expected, "{position} {name} {max}");
        }
    }

    #[test]
    fn a_hub_says_when_it_has_forgotten() {
        let hub = Hub::default();
        let many = HUB_MAX as u128 + 3;
        hub.publish(&outcome("a", 0..many));
        assert_eq!(hub.beyond(2, &tenant("a"), 1), Beyond::Forgotten(HUB_MAX as u64 + 3));
        assert_eq!(hub.beyond(3, &tenant("a"), 1), Beyond::Ids(vec![RecordId(3)], 4));
        assert_eq!(hub.position(), HUB_MAX as u64 + 3);
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
