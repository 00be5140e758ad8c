//! One connection to the daemon, and what can be asked over it.
//!
//! Every question has a deadline; only a watch may stay open. The socket is local and its peer is checked by the
//! daemon, so there is neither TLS nor a credential here.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::v1::node_client::NodeClient;
use proto::v1::records_client::RecordsClient;
use proto::v1::usage_service_client::UsageServiceClient;
use proto::v1::{
    AttributionRecord, Coverage, ExplainRequest, Explanation, GetCoverageRequest, GetStatusRequest,
    ListAttributionsRequest, ListAttributionsResponse, ListFlowsRequest, ListFlowsResponse, NodeStatus,
    QueryUsageRequest, QueryUsageResponse, WatchAttributionsRequest,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use crate::failure::Failure;

/// How long one answer may take. A scan over a week of records takes a second or two.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A watch that is silent for so long is asked whether the other side still lives.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// A connection to the daemon.
pub(crate) struct Client {
    socket: PathBuf,
    channel: Channel,
}

impl Client {
    /// Connects to the daemon that listens on `socket`.
    pub(crate) async fn connect(socket: &Path) -> Result<Client, Failure> {
        // A connector's error arrives wrapped; asking the socket first keeps the system's own words.
        drop(UnixStream::connect(socket).await.map_err(|err| unreachable(socket, &err))?);
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // The name is never resolved: it only fills the `:authority` header.
        let endpoint = Endpoint::from_static("http://venturid")
            .connect_timeout(ANSWER_WITHIN)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_EVERY);
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|err| unreachable(socket, &io::Error::other(err.to_string())))?;
        Ok(Client { socket: socket.to_owned(), channel })
    }

    /// What is armed, what is degraded, what was lost.
    pub(crate) async fn status(&self) -> Result<NodeStatus, Failure> {
        self.answer(NodeClient::new(self.channel.clone()).get_status(GetStatusRequest {})).await
    }

    /// One entry per process that talks to a provider.
    pub(crate) async fn coverage(&self) -> Result<Coverage, Failure> {
        self.answer(NodeClient::new(self.channel.clone()).get_coverage(GetCoverageRequest {})).await
    }

    /// One page of connections.
    pub(crate) async fn flows(&self, request: ListFlowsRequest) -> Result<ListFlowsResponse, Failure> {
        self.answer(RecordsClient::new(self.channel.clone()).list_flows(request)).await
    }

    /// One page of records.
    pub(crate) async fn attributions(
        &self,
        request: ListAttributionsRequest,
    ) -> Result<ListAttributionsResponse, Failure> {
        self.answer(RecordsClient::new(self.channel.clone()).list_attributions(request)).await
    }

    /// Records as they become durable, and the cursor at which they begin.
    pub(crate) async fn watch(
        &self,
        request: WatchAttributionsRequest,
    ) -> Result<(String, Streaming<AttributionRecord>), Failure> {
        let mut client = RecordsClient::new(self.channel.clone());
        let response = self.response(client.watch_attributions(request)).await?;
        let cursor = response.metadata().get(proto::WATCH_CURSOR).and_then(|cursor| cursor.to_str().ok());
        Ok((cursor.unwrap_or_default().to_owned(), response.into_inner()))
    }

    /// Why a record says what it says.
    pub(crate) async fn explain(&self, request: ExplainRequest) -> Result<Explanation, Failure> {
        self.answer(RecordsClient::new(self.channel.clone()).explain(request)).await
    }

    /// Sums of cost and tokens.
    pub(crate) async fn usage(&self, request: QueryUsageRequest) -> Result<QueryUsageResponse, Failure> {
        self.answer(UsageServiceClient::new(self.channel.clone()).query_usage(request)).await
    }

    async fn answer<T>(
        &self,
        question: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.response(question).await.map(Response::into_inner)
    }

    async fn response<T>(
        &self,
        question: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Failure> {
        match tokio::time::timeout(ANSWER_WITHIN, question).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(status)) => Err(self.failure(status)),
            Err(_) => Err(Failure::Silent { socket: self.socket.clone(), waited: ANSWER_WITHIN }),
        }
    }

    fn failure(&self, status: Status) -> Failure {
        // Only what never reached the daemon has a source; the daemon's own "unavailable" (a store that is not open)
        // is an answer.
        let transport = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        if transport && std::error::Error::source(&status).is_some() {
            return unreachable(&self.socket, &io::Error::other(status.message().to_owned()));
        }
        Failure::Refused(Box::new(status))
    }
}

fn unreachable(socket: &Path, err: &io::Error) -> Failure {
    let remedy = match err.kind() {
        io::ErrorKind::PermissionDenied => "run as root or as a member of the group `venturi`",
        io::ErrorKind::NotFound => {
            "start it (`systemctl start venturid`, or `cargo xtask run` in the sources) or name its socket with --socket"
        }
        io::ErrorKind::ConnectionRefused => "the daemon that made this socket is gone: start it again",
        _ => "`venturi doctor` says what this node has",
    };
    Failure::Unreachable { socket: socket.to_owned(), why: err.to_string(), remedy }
}
