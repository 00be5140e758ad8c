//! Everything that touches the host or the network: capture, resolve, serving, wiring.
//!
//! [`run`] is the whole daemon on one page. Above the line that confines it, it is root and has one thread; below it
//! nothing needs a right. Data flows one way: rings -> planner -> shards -> writer -> store -> API.

pub mod api;
pub mod capture;
pub mod config;
pub mod doctor;
pub mod error;
pub mod memory;
mod metering;
mod priority;
pub mod privileges;
pub mod replay;
pub mod resolve;
pub mod shards;
mod source;
pub mod supervise;
pub mod telemetry;
mod upkeep;
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;

use api::access::Access;
use api::{Questions, Serving};
use capture::status::realtime;
use config::Config;
use error::Failure;
use supervise::Running;
use telemetry::Telemetry;

/// Where queries are answered unless the command line or the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/venturi/venturid.sock";
/// Where records are kept unless the command line says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/venturi";
/// Threads that wait for clients. The work of a question is done elsewhere.
const API_THREADS: usize = 2;
/// Questions to the store that run at once; each may hold a page of records.
const QUESTIONS_MAX: usize = 12;
/// Threads for questions. Some are left when the disk holds up as many as there may be: status waits for no disk.
const QUESTION_THREADS: usize = QUESTIONS_MAX + 4;
/// How long a thread waits for the next question before it ends.
const QUESTION_THREAD_IDLE: Duration = Duration::from_secs(5);

/// The command line.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--state-dir`
    pub state_dir: PathBuf,
    /// `--key-dir`
    pub key_dir: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--attacher`
    pub attacher: Option<PathBuf>,
    /// `--user`
    pub user: Option<String>,
    /// `--replay [FILE]`
    pub replay: Option<Option<PathBuf>>,
}

impl Options {
    /// Where records and keys are. Keys are never below the state directory.
    fn layout(&self) -> store::Layout {
        let key_dir = self.key_dir.clone().unwrap_or_else(|| {
            if self.state_dir == Path::new(DEFAULT_STATE_DIR) {
                return PathBuf::from("/var/lib/venturi-keys");
            }
            let mut name = self.state_dir.as_os_str().to_owned();
            name.push(".keys");
            PathBuf::from(name)
        });
        store::Layout { state_dir: self.state_dir.clone(), key_dir }
    }

    fn socket(&self, config: &Config) -> PathBuf {
        let configured = self.socket.as_ref().or(config.serve.socket.as_ref());
        configured.cloned().unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
    }
}

/// Runs the daemon until it is told to stop.
pub fn run(options: &Options) -> Result<(), Failure> {
    let started_at = realtime();
    let config = config::load(options.config.as_deref())?;
    telemetry::log_to_stderr(config.log);
    supervise::hold_signals()?;

    let identity = privileges::identity(options.user.as_deref())?;
    let group = privileges::group(&config.serve.group);
    let owner = identity.map(|identity| (identity.uid, identity.gid));
    let prepared = store::prepare(&options.layout(), &config.tenant_names(), owner)?;
    let socket = supervise::listen(&options.socket(&config), identity, group)?;
    let source = source::open(options, &config);
    let ordinary = priority::raise();
    privileges::confine(identity, source.needs_cap_bpf())?;
    // ---- Nothing below this line has a right, and only below it are there threads.

    let urgent = priority::Reserved::make(&capture::THREADS, ordinary).context("making threads")?;
    let stores = store::open(prepared, store_options(&config));
    let _upkeep = upkeep::spawn(stores.clone())?;
    let metering = metering::Shared::new(&config, &stores)?;
    let (records, writer) = writer::spawn(stores.clone())?;
    let (stop, stopping) = watch::channel(false);
    let at_start = source.degradations(identity);
    let mode = source.mode();
    let capture = source.start(&config, &metering, records, urgent)?;
    let telemetry = Arc::new(Telemetry {
        started_at,
        mode,
        scope: config.capture.scope,
        tap: config.capture.tap,
        capture: capture.status(),
        writer: Arc::clone(&writer.figures),
        stores: stores.clone(),
        index: metering.owners(),
        catalogue: metering.catalogue(),
        at_start,
        first_seen: Default::default(),
    });
    let access = Access::new(&config, group);
    let serving = Arc::new(Serving {
        stores,
        commits: Arc::clone(&writer.commits),
        access,
        telemetry,
        questions: Questions::new(QUESTIONS_MAX),
        stop: stopping,
    });
    let capture_lost = capture.lost();
    let running =
        Running { capture, stop_capture: source::Running::stop, capture_lost, writer, serving, stop };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(API_THREADS)
        .max_blocking_threads(QUESTION_THREADS)
        .thread_keep_alive(QUESTION_THREAD_IDLE)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    memory::give_back();
    let ended = runtime.block_on(async move {
        let refresh = tokio::spawn(metering.keep_fresh());
        let ended = supervise::until_stopped(socket, running).await;
        refresh.abort();
        ended
    });
    // A question that hangs in the store must not hold up the end.
    runtime.shutdown_background();
    ended
}

fn store_options(config: &Config) -> store::Options {
    let config::Store { cache_bytes, reserve_bytes, retention } = config.store;
    let retention_of = config.tenants.iter().map(|tenant| (tenant.name.clone(), tenant.retention)).collect();
    store::Options { cache_bytes, reserve_bytes, retention, retention_of, ..store::Options::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_beside_the_state_directory() {
        let layout = |state: &str, keys: Option<&str>| {
            let options =
                Options { state_dir: state.into(), key_dir: keys.map(Into::into), ..Options::default() };
            options.layout().key_dir
        };
        for (state, keys, expected) in [
            ("/var/lib/venturi", None, "/var/lib/venturi-keys"),
            ("/tmp/state", None, "/tmp/state.keys"),
            ("/tmp/state", Some("/k"), "/k"),
            ("/var/lib/venturi", Some("/k"), "/k"),
        ] {
            assert_eq!(layout(state, keys), Path::new(expected));
        }
    }
}
