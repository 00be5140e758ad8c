//! The gRPC API on the unix socket: one tenant's records, and the node.
//!
//! There is no TCP: until tokens and certificates exist, the kernel's word on the peer is the only identity
//! (`access`). Every service sits on one [`Serving`]; what a caller may see is decided before the store is asked.
//! Nothing here writes.

pub mod access;
mod convert;
mod node;
mod peer;
mod records;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use proto::v1::node_server::NodeServer;
use proto::v1::records_server::RecordsServer;
use proto::v1::usage_service_server::UsageServiceServer;
use store::{ReadError, Stores};
use tokio::sync::{Semaphore, watch as signal};
use tonic::transport::Server;
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::telemetry::Telemetry;
use crate::writer::Commits;
use access::{Access, Peer, Principal, Refusal};

/// Domain of the reasons in error details.
const ERROR_DOMAIN: &str = "venturi";
/// Questions of one connection that run at once.
const STREAMS_MAX: u32 = 64;
/// A question that takes longer has lost its asker. Watches are answered at once and last.
const QUESTION_MAX: Duration = Duration::from_secs(30);
/// How long a question waits for its turn.
const ROOM_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of a question.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an answer: a page of the largest records.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What every service needs.
pub struct Serving {
    /// The stores; read through a verified tenant only.
    pub stores: Stores,
    /// What wakes watchers.
    pub commits: Arc<Commits>,
    /// Who may ask for what.
    pub access: Access,
    /// What the daemon says of itself.
    pub telemetry: Arc<Telemetry>,
    /// Room for questions to the stores.
    pub questions: Questions,
    /// Becomes true when the daemon stops: watches end then.
    pub stop: signal::Receiver<bool>,
}

/// How many questions to the stores may run at once: a disk that does not answer holds up these and no more.
#[derive(Clone, Debug)]
pub struct Questions(Arc<Semaphore>);

impl Questions {
    /// Room for `max`.
    pub fn new(max: usize) -> Questions {
        Questions(Arc::new(Semaphore::new(max)))
    }

    /// Runs a question where it may block, once there is room.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Status> {
        let room = Arc::clone(&self.0).acquire_owned();
        let Ok(Ok(room)) = tokio::time::timeout(ROOM_WITHIN, room).await else {
            return Err(Status::unavailable(
                "as many questions as may run wait for the stores: see `venturi status`",
            ));
        };
        // The room is taken until the thread comes back, also when the asker has gone.
        let answer = tokio::task::spawn_blocking(move || {
            let _room = room;
            question()
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error @ ReadError::BadQuery(_))) => Err(Status::invalid_argument(error.to_string())),
            Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
            Err(_) => Err(Status::internal("the question failed in the daemon")),
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("access", &self.access).finish_non_exhaustive()
    }
}

impl Serving {
    /// Whom the kernel says is asking, and what it may.
    fn principal<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        match request.extensions().get::<Peer>() {
            Some(peer) => Ok(self.access.principal(peer)),
            None => Err(Status::unauthenticated("the peer of this connection is not known")),
        }
    }

    /// The answer to somebody who may not; logged, because somebody tried.
    fn refuse<T>(&self, request: &Request<T>, refusal: &Refusal) -> Status {
        let code = match refusal {
            Refusal::TenantMismatch | Refusal::NotGranted => Code::PermissionDenied,
            Refusal::WhichTenant(_) => Code::InvalidArgument,
        };
        if let Some(peer) = request.extensions().get::<Peer>() {
            tracing::warn!(uid = peer.uid, pid = peer.pid, reason = refusal.reason(), "a client was refused");
        }
        let details = ErrorDetails::with_error_info(refusal.reason(), ERROR_DOMAIN, HashMap::new());
        Status::with_error_details(code, refusal.to_string(), details)
    }
}

/// Serves until `stop` completes, then finishes what is being answered.
pub async fn serve(
    listener: UnixListener,
    serving: Arc<Serving>,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    listener.set_nonblocking(true).context("preparing the socket")?;
    let listener = tokio::net::UnixListener::from_std(listener).context("registering the socket")?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<NodeServer<node::NodeQueries>>().await;
    health.set_serving::<RecordsServer<records::TenantQueries>>().await;
    health.set_serving::<UsageServiceServer<records::TenantQueries>>().await;

    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let queries = records::TenantQueries(Arc::clone(&serving));
    let records = RecordsServer::new(queries.clone())
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let usage = UsageServiceServer::new(queries)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .timeout(QUESTION_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(health_service)
        .add_service(reflection().build_v1().context("building reflection")?)
        .add_service(reflection().build_v1alpha().context("building reflection")?)
        .add_service(NodeServer::new(node::NodeQueries(serving)).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(records)
        .add_service(usage)
        .serve_with_incoming_shutdown(peer::clients(listener), stop)
        .await
        .context("serving the API")
}
