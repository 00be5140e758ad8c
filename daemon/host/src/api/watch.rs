//! Follows one tenant's records in the order in which they were committed: each once, none left out, none overtaking.
//!
//! The order is the store's ([`store::Position`]), so a watch needs no memory of its own: a client that reads slowly holds
//! back only itself, however far, and one that comes back with the cursor of the last record it got goes on behind it,
//! after a restart of the daemon too.

use std::sync::Arc;

use futures::Stream;
use meter::time::UnixNanos;
use proto::v1;
use store::{FeedQuery, Kind, Position, TenantReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Serving, convert};

/// Records between us and the transport. The transport's own flow control does the rest.
const AHEAD: usize = 64;
/// Records asked of the store at once.
const PAGE: usize = 256;

/// From where a watch begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// Behind a record that the client has.
    Behind(Position),
    /// With the oldest record that is there.
    Oldest,
    /// With what is committed from now on.
    Now,
}

/// Starts to follow; also says from which position on.
pub(super) fn start(
    serving: Arc<Serving>,
    reader: TenantReader,
    begin: Begin,
    since: Option<UnixNanos>,
    kind: Kind,
) -> (Position, impl Stream<Item = Result<v1::AttributionRecord, Status>>) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let position = match begin {
        Begin::Behind(position) => position,
        Begin::Oldest => reader.beginning(),
        Begin::Now => reader.end(),
    };
    let query = FeedQuery { kind, since, limit: PAGE };
    tokio::spawn(Watcher { serving, reader, query, sender, position }.run());
    (position, ReceiverStream::new(receiver))
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
    reader: TenantReader,
    query: FeedQuery,
    sender: mpsc::Sender<Result<v1::AttributionRecord, Status>>,
    /// Everything before it was sent.
    position: Position,
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
        let mut committed = self.serving.commits.subscribe();
        loop {
            committed.mark_unchanged();
            if let Err(end) = self.catch_up().await {
                return end;
            }
            tokio::select! {
                changed = committed.changed() => if changed.is_err() { return End::Over },
                () = self.sender.closed() => return End::Over,
            }
        }
    }

    /// Sends what was committed behind the position, which moves with every record that is sent: this may be cut off
    /// anywhere and begun again.
    async fn catch_up(&mut self) -> Result<(), End> {
        loop {
            let (reader, position, query) = (self.reader.clone(), self.position, self.query);
            let question = move || reader.committed(position, &query);
            let stretch = self.serving.questions.ask(question).await.map_err(End::Failed)?;
            for (record, behind) in &stretch.records {
                let record = v1::AttributionRecord { cursor: behind.to_string(), ..convert::record(record) };
                self.sender.send(Ok(record)).await.map_err(|_| End::Over)?;
                self.position = *behind;
            }
            self.position = stretch.next;
            if stretch.complete {
                return Ok(());
            }
        }
    }
}
