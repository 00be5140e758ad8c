//! Follows one tenant's records: what is stored first, then what is committed, each record once, none left out.
//!
//! The position in the hub is taken *before* the store is read, so a record committed meanwhile is in the store's
//! answer, behind the position, or in both; those in both are recognised by their id. A client that reads slowly holds
//! back only itself: its records wait in the store. Once it is further behind than the hub remembers, the store is read
//! again from the time of its last good position, and again only what was not sent is sent.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::Stream;
use meter::record::{Record, RecordId, Subject};
use meter::time::UnixNanos;
use proto::v1;
use store::{Kind, ListQuery};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::records::Granted;
use super::{Serving, convert};
use crate::writer::Beyond;

/// Records between us and the transport. The transport's own flow control does the rest.
const AHEAD: usize = 64;
/// Records asked of the store at once.
const PAGE: usize = 256;
/// Ids remembered so that nothing is sent twice: 2 MiB at worst.
const SENT_MAX: usize = 65_536;
/// How much earlier than its commit a record may have started: longer exchanges are given up by the meter.
const EXCHANGE_MAX_NS: u64 = 2 * 3_600 * 1_000_000_000;

/// Starts to follow. With `since` absent only what is committed from now on is sent.
pub(super) fn start(
    serving: Arc<Serving>,
    granted: Granted,
    since: Option<UnixNanos>,
    kind: Kind,
) -> impl Stream<Item = Result<v1::AttributionRecord, Status>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let position = serving.hub.position();
    let watcher =
        Watcher { serving, granted, since, kind, sender, position, good_at: now(), sent: Sent::default() };
    tokio::spawn(watcher.run());
    ReceiverStream::new(receiver)
}

/// Why a watch ends.
enum End {
    /// The client has gone, or the daemon stops.
    Over,
    /// The store failed.
    Failed(Status),
}

struct Watcher {
    serving: Arc<Serving>,
    granted: Granted,
    since: Option<UnixNanos>,
    kind: Kind,
    sender: mpsc::Sender<Result<v1::AttributionRecord, Status>>,
    /// Up to here everything of the hub was sent.
    position: u64,
    /// When `position` was the newest.
    good_at: UnixNanos,
    sent: Sent,
}

impl Watcher {
    async fn run(mut self) {
        let mut stop = self.serving.stop.clone();
        let mut end = tokio::select! {
            end = self.follow() => Some(end),
            _ = stop.wait_for(|stopping| *stopping) => None,
        };
        if end.is_none() {
            // The daemon stops after its last commit, which belongs to what was promised.
            end = self.catch_up().await.err();
        }
        let Some(end) = end else { return };
        if let End::Failed(status) = end {
            // Nobody is there to be told if this fails.
            let _ = self.sender.send(Err(status)).await;
        }
    }

    async fn follow(&mut self) -> End {
        let mut newest = self.serving.hub.subscribe();
        if let Some(since) = self.since
            && let Err(end) = self.read_again(Some(since)).await
        {
            return end;
        }
        loop {
            newest.mark_unchanged();
            if let Err(end) = self.catch_up().await {
                return end;
            }
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return End::Over },
                () = self.sender.closed() => return End::Over,
            }
        }
    }

    /// Sends what was committed behind the position. The position moves only once everything before it is sent, so that
    /// this may be cut off anywhere and begun again.
    async fn catch_up(&mut self) -> Result<(), End> {
        loop {
            let before = now();
            match self.serving.hub.beyond(self.position, self.granted.tenant.name(), PAGE) {
                Beyond::Ids(_, next) if next == self.position => {
                    self.good_at = before;
                    return Ok(());
                }
                Beyond::Ids(ids, next) => {
                    self.by_id(ids).await?;
                    self.position = next;
                }
                Beyond::Forgotten(newest) => {
                    let from = UnixNanos(self.good_at.0.saturating_sub(EXCHANGE_MAX_NS));
                    self.read_again(self.since.max(Some(from))).await?;
                    self.position = newest;
                    self.good_at = before;
                }
            }
        }
    }

    async fn by_id(&mut self, mut ids: Vec<RecordId>) -> Result<(), End> {
        ids.retain(|id| !self.sent.contains(*id));
        let reader = self.granted.reader.clone();
        let read = move || ids.into_iter().map(|id| reader.get(id)).collect::<Result<Vec<_>, _>>();
        for record in self.serving.questions.ask(read).await.map_err(End::Failed)?.into_iter().flatten() {
            self.send(&record).await?;
        }
        Ok(())
    }

    /// Sends what the store holds from `since` on.
    async fn read_again(&mut self, since: Option<UnixNanos>) -> Result<(), End> {
        let mut after = None;
        loop {
            let query =
                ListQuery { kind: self.kind, since, until: None, after, limit: PAGE, descending: false };
            let reader = self.granted.reader.clone();
            let page = self.serving.questions.ask(move || reader.list(&query)).await.map_err(End::Failed)?;
            for record in &page.records {
                if !self.sent.contains(record.id) {
                    self.send(record).await?;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn send(&mut self, record: &Record) -> Result<(), End> {
        let wanted = match (&record.subject, self.kind) {
            (_, Kind::Any) | (Subject::Exchange(_), Kind::Exchange) | (Subject::Flow(_), Kind::Flow) => true,
            (Subject::Exchange(_), Kind::Flow) | (Subject::Flow(_), Kind::Exchange) => false,
        };
        if !wanted || self.since.is_some_and(|since| record.started_at < since) {
            return Ok(());
        }
        self.sender.send(Ok(convert::record(record))).await.map_err(|_| End::Over)?;
        self.sent.add(record.id);
        Ok(())
    }
}

/// The last ids that were sent.
#[derive(Default)]
struct Sent {
    ids: HashSet<RecordId>,
    order: VecDeque<RecordId>,
}

impl Sent {
    fn contains(&self, id: RecordId) -> bool {
        self.ids.contains(&id)
    }

    fn add(&mut self, id: RecordId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > SENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

fn now() -> UnixNanos {
    crate::capture::status::realtime()
}
