//! The client against a daemon that is played by the test, over a real unix socket.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::Stream;
use jiff::Timestamp;
use proto::v1::node_server::{Node, NodeServer};
use proto::v1::records_server::{Records, RecordsServer};
use proto::v1::{
    AttributionRecord, Coverage, Exchange, ExplainRequest, Explanation, GetAttributionRequest,
    GetCoverageRequest, GetStatusRequest, ListAttributionsRequest, ListAttributionsResponse,
    ListExchangesRequest, ListExchangesResponse, ListFlowsRequest, ListFlowsResponse, NodeStatus,
    WatchAttributionsRequest,
};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::client::Client;
use crate::command::calls;
use crate::failure::{Failure, Outcome};
use crate::follow::{Cursor, Waiting};
use crate::output::text::{moment, stamp};

#[tokio::test]
async fn a_socket_without_a_daemon_is_unreachable() {
    async fn check(socket: &Path, remedy: &str) {
        match Client::connect(socket).await {
            Err(failure @ Failure::Unreachable { .. }) => {
                assert_eq!(failure.code(), 4);
                assert!(failure.to_string().contains(remedy), "{failure}");
                assert!(failure.to_string().contains(&socket.display().to_string()), "{failure}");
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("nobody listens on {}", socket.display()),
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    check(&dir.path().join("absent"), "start it").await;
    let left_over = dir.path().join("left-over");
    drop(UnixListener::bind(&left_over).expect("a socket"));
    check(&left_over, "start it again").await;
}

#[tokio::test]
async fn an_answer_and_a_refusal_arrive() {
    let daemon = Daemon::start(World::default());
    let client = Client::connect(&daemon.socket).await.expect("a connection");
    assert_eq!(client.status().await.expect("a status").version, "played");
    let refused = client.explain(ExplainRequest::default()).await.expect_err("no such record");
    assert_eq!(
        (refused.code(), refused.to_string()),
        (1, "the daemon refused: no record has this id".to_owned())
    );
    let wrong = client.flows(ListFlowsRequest::default()).await.expect_err("refused");
    assert_eq!(wrong.code(), 2);
}

/// The daemon is killed and started again twice; in between it records more. What the follower shows is exactly what
/// was recorded.
#[tokio::test]
async fn following_survives_restarts_without_repeating_or_skipping() {
    let world = World::default();
    world.record("a", 1, 2);
    let first = Daemon::start(world.clone());
    let client = Client::connect(&first.socket).await.expect("a connection");
    let (directory, socket) = (first.directory, first.socket.clone());
    let mut serving = Some(first.serving);

    let mut shown = Vec::new();
    let cursor = Cursor::new(Some(Timestamp::UNIX_EPOCH));
    let mut say = |words: &str| panic!("{words}");
    let mut waiting = Waiting::new(&mut say);
    let mut show = |record: &AttributionRecord| {
        shown.push(record.id.clone());
        match record.id.as_str() {
            // A long call that started before everything else ends while nobody serves.
            "a" => world.record("long", 0, 9),
            "long" => world.record("b", 3, 10),
            _ => return Ok(true),
        }
        if let Some(serving) = serving.take() {
            serving.abort();
        }
        std::fs::remove_file(&socket).expect("the socket of the daemon that is gone");
        serving = Some(serve(&socket, world.clone()));
        Ok(false)
    };
    let outcome = calls::follow(client, &socket, "", cursor, &mut show, &mut waiting).await;
    assert_eq!(outcome.expect("followed to the end"), Outcome::Good);
    assert_eq!(shown, ["a", "long", "b"]);
    drop(directory);
}

/// The store fails three times, then it has a record: what is said goes to people, what is shown to the reader.
#[tokio::test]
async fn a_follower_says_that_a_store_fails_and_that_it_goes_on() {
    let world = World::default();
    world.record("a", 1, 2);
    world.failures.store(3, Ordering::Relaxed);
    let daemon = Daemon::start(world);
    let client = Client::connect(&daemon.socket).await.expect("a connection");
    let (mut said, mut shown) = (Vec::new(), Vec::new());
    let mut say = |words: &str| said.push(words.to_owned());
    let mut show = |record: &AttributionRecord| {
        shown.push(record.id.clone());
        Ok(true)
    };
    let mut waiting = Waiting::new(&mut say);
    let cursor = Cursor::new(None);
    let outcome = calls::follow(client, &daemon.socket, "", cursor, &mut show, &mut waiting).await;
    assert_eq!(outcome.expect("followed to the end"), Outcome::Good);
    assert_eq!(shown, ["a"]);
    let wait = "waiting, nothing can be shown for now: the daemon refused: no database: Input/output error";
    assert_eq!(said, [wait, "going on"]);
}

/// A daemon that is played: its directory, its socket and the task that serves it.
struct Daemon {
    directory: tempfile::TempDir,
    socket: PathBuf,
    serving: JoinHandle<()>,
}

impl Daemon {
    fn start(world: World) -> Daemon {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("venturid.sock");
        let serving = serve(&socket, world);
        Daemon { directory, socket, serving }
    }
}

fn serve(socket: &Path, world: World) -> JoinHandle<()> {
    let listener = UnixListenerStream::new(UnixListener::bind(socket).expect("a socket"));
    let server = tonic::transport::Server::builder()
        .add_service(NodeServer::new(world.clone()))
        .add_service(RecordsServer::new(world))
        .serve_with_incoming(listener);
    tokio::spawn(async move { server.await.expect("serving") })
}

/// What was recorded; shared by all daemons of a test, as a disk would be.
#[derive(Clone, Default)]
struct World {
    records: Arc<Mutex<Vec<AttributionRecord>>>,
    /// Watches that the store fails before it is well.
    failures: Arc<AtomicUsize>,
}

impl World {
    fn record(&self, id: &str, started: i64, recorded: i64) {
        let at = |second| Some(stamp(Timestamp::from_second(1_772_366_400 + second).expect("a moment")));
        self.records.lock().expect("no panic while locked").push(AttributionRecord {
            id: id.to_owned(),
            started_at: at(started),
            recorded_at: at(recorded),
            exchange: Some(Exchange::default()),
            ..AttributionRecord::default()
        });
    }
}

#[tonic::async_trait]
impl Node for World {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<NodeStatus>, Status> {
        Ok(Response::new(NodeStatus { version: "played".into(), ..NodeStatus::default() }))
    }

    async fn get_coverage(&self, _: Request<GetCoverageRequest>) -> Result<Response<Coverage>, Status> {
        Ok(Response::new(Coverage::default()))
    }
}

#[tonic::async_trait]
impl Records for World {
    type WatchAttributionsStream = Pin<Box<dyn Stream<Item = Result<AttributionRecord, Status>> + Send>>;

    /// Sends everything behind the cursor that started at or after `since`, then ends, as a daemon that goes away does.
    async fn watch_attributions(
        &self,
        request: Request<WatchAttributionsRequest>,
    ) -> Result<Response<Self::WatchAttributionsStream>, Status> {
        let fails = |left: usize| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails).is_ok() {
            // As the store does: the watch begins, then it fails.
            let failure = Err(Status::unavailable("no database: Input/output error"));
            return Ok(Response::new(Box::pin(futures::stream::iter([failure]))));
        }
        let since = moment(request.get_ref().since.as_ref());
        let records = self.records.lock().map_err(|_| Status::internal("a test panicked"))?;
        let behind: usize = request.get_ref().cursor.parse().unwrap_or(0);
        let wanted: Vec<_> = records
            .iter()
            .enumerate()
            .skip(behind)
            .filter(|(_, record)| moment(record.started_at.as_ref()) >= since)
            .map(|(index, record)| {
                Ok(AttributionRecord { cursor: (index + 1).to_string(), ..record.clone() })
            })
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(wanted))))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<Explanation>, Status> {
        Err(Status::not_found("no record has this id"))
    }

    async fn list_flows(&self, _: Request<ListFlowsRequest>) -> Result<Response<ListFlowsResponse>, Status> {
        Err(Status::invalid_argument("the cursor is not one of ours"))
    }

    async fn list_exchanges(
        &self,
        _: Request<ListExchangesRequest>,
    ) -> Result<Response<ListExchangesResponse>, Status> {
        Ok(Response::new(ListExchangesResponse::default()))
    }

    async fn get_attribution(
        &self,
        _: Request<GetAttributionRequest>,
    ) -> Result<Response<AttributionRecord>, Status> {
        Err(Status::not_found("no record has this id"))
    }

    async fn list_attributions(
        &self,
        _: Request<ListAttributionsRequest>,
    ) -> Result<Response<ListAttributionsResponse>, Status> {
        Ok(Response::new(ListAttributionsResponse::default()))
    }
}
