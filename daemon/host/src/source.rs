//! Where events come from: the kernel through the attacher, a recorded capture, or nowhere.
//!
//! [`open`] runs while main is root and has one thread; it never fails, it degrades: without the rights or the kernel
//! for BPF the store is served and the reason is a [`Degradation`] with its remedy. [`Source::start`] runs after the
//! confinement and makes the threads.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Notify;

use crate::Options;
use crate::capture::attacher_client::{self, Attacher, AttacherConfig, AttacherHandle, Greeting};
use crate::capture::inventory::{Inventory, inventory};
use crate::capture::status::CaptureStatus;
use crate::capture::{Capture, CaptureConfig};
use crate::config::Config;
use crate::metering;
use crate::priority::Reserved;
use crate::privileges::{self, Identity};
use crate::replay::{Recording, Replay};
use crate::resolve::{AttacherFiles, Resolver};
use crate::shards::{self, Shards};
use crate::telemetry::{CaptureMode, Degradation};
use crate::writer::RecordSender;

/// Where processes are read.
const PROC: &str = "/proc";
/// How long loading the programs may take: the verifier needs a second on a busy machine.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a stop waits for the attacher, which has detaching to do that nobody needs to see.
const ATTACHER_GRACE: Duration = Duration::from_millis(200);

/// Where events come from, before the confinement.
pub(crate) enum Source {
    /// Programs are loaded and tracepoints attached.
    Live(Box<Live>),
    /// The attacher said why it loaded nothing, and has ended.
    Refused(Box<(AttacherHandle, Greeting)>),
    /// A recorded capture.
    Replay(Option<PathBuf>),
    /// The attacher could not even be started.
    Off(String),
}

/// A loaded attacher, and what was there before it.
pub(crate) struct Live {
    handle: AttacherHandle,
    greeting: Greeting,
    inventory: Inventory,
}

/// Starts the attacher, unless a recorded capture is wanted.
pub(crate) fn open(options: &Options, config: &Config) -> Source {
    if let Some(file) = &options.replay {
        return Source::Replay(file.clone());
    }
    let binary = match options.attacher.clone().map_or_else(beside_ourselves, Ok) {
        Ok(binary) => binary,
        Err(error) => return Source::Off(format!("{error:#}")),
    };
    let attacher = AttacherConfig { binary, arguments: arguments(config), hello_timeout: HELLO_TIMEOUT };
    match attacher_client::spawn(&attacher) {
        Ok((handle, greeting)) if greeting.armed() => {
            // After the tracepoints are attached, so that nothing falls between the two.
            let inventory = inventory(Path::new(PROC));
            Source::Live(Box::new(Live { handle, greeting, inventory }))
        }
        Ok(refused) => Source::Refused(Box::new(refused)),
        Err(error) => Source::Off(format!("{error:#}")),
    }
}

/// `venturi-attach` in the directory of this program: both come from one package.
fn beside_ourselves() -> anyhow::Result<PathBuf> {
    let ourselves = std::env::current_exe().context("finding the directory of this program")?;
    Ok(ourselves.with_file_name("venturi-attach"))
}

fn arguments(config: &Config) -> Vec<OsString> {
    let capture = &config.capture;
    let rings = [("--events-mib", capture.events_ring_mib), ("--content-mib", capture.content_ring_mib)];
    let mut arguments: Vec<OsString> =
        rings.into_iter().flat_map(|(name, value)| [name.into(), value.to_string().into()]).collect();
    if !capture.loopback_gateways.is_empty() {
        arguments.push("--allow-loopback-tap".into());
    }
    arguments
}

impl Source {
    /// Whether main must keep CAP_BPF to read maps.
    pub(crate) fn needs_cap_bpf(&self) -> bool {
        let release = privileges::kernel_release().unwrap_or_default();
        matches!(self, Source::Live(_)) && privileges::kernel_needs_cap_bpf(&release)
    }

    pub(crate) fn mode(&self) -> CaptureMode {
        match self {
            Source::Live(_) => CaptureMode::Live,
            Source::Replay(_) => CaptureMode::Replay,
            Source::Refused(_) | Source::Off(_) => CaptureMode::Off,
        }
    }

    /// What is known to be limited from the start.
    pub(crate) fn degradations(&self, identity: Option<Identity>) -> Vec<Degradation> {
        let mut all = Vec::new();
        match self {
            Source::Live(_) | Source::Refused(_) => {}
            Source::Replay(_) => all.push(Degradation::Replaying),
            Source::Off(why) => all.push(Degradation::CaptureUnavailable { why: why.clone() }),
        }
        all.extend(identity.is_none().then_some(Degradation::NotConfined));
        all
    }

    /// Starts shards and capture.
    pub(crate) fn start(
        self,
        config: &Config,
        metering: &metering::Shared,
        records: RecordSender,
        mut urgent: Reserved,
    ) -> anyhow::Result<Running> {
        let status = CaptureStatus::new();
        let lost = Arc::new(Notify::new());
        let mut running =
            Running { status: Arc::clone(&status), lost: Arc::clone(&lost), live: None, replay: None };
        match self {
            Source::Off(why) => tracing::warn!(why, "nothing is captured"),
            Source::Refused(refused) => {
                let (handle, greeting) = *refused;
                status.greeted(&greeting.hello, handle.pid());
                tracing::warn!(why = greeting.detail(), "nothing is captured");
            }
            Source::Replay(file) => {
                tracing::info!(?file, "serving a recorded capture");
                let recording = Recording::load(file.as_deref())?;
                let shards = start_shards(metering, records, &status)?;
                let replay =
                    Replay::start(recording, metering.directory(), shards.senders(), Arc::clone(&status))?;
                running.replay = Some((replay, shards));
            }
            Source::Live(live) => {
                let Live { handle, greeting, inventory } = *live;
                let shards = start_shards(metering, records, &status)?;
                let on_lost = {
                    let (status, lost) = (Arc::clone(&status), Arc::clone(&lost));
                    move || {
                        status.set_lost();
                        lost.notify_one();
                    }
                };
                let attacher = Attacher::start(handle, &mut urgent, on_lost)?;
                let settings = CaptureConfig {
                    settings: config.capture.clone(),
                    proc_root: PROC.into(),
                    sys_root: "/sys".into(),
                };
                let identify = Box::new(Resolver::new(Arc::new(AttacherFiles::new(attacher.clone()))));
                let directory = metering.directory();
                let capture = Capture::start(
                    greeting,
                    attacher,
                    inventory,
                    &settings,
                    directory,
                    identify,
                    &shards,
                    Arc::clone(&status),
                    urgent,
                )?;
                running.live = Some((capture, shards));
            }
        }
        Ok(running)
    }
}

fn start_shards(
    metering: &metering::Shared,
    records: RecordSender,
    status: &Arc<CaptureStatus>,
) -> anyhow::Result<Shards> {
    let pipelines = metering.clone();
    let make = move |shard| pipelines.pipeline(shard);
    Shards::start(shards::default_count(), make, records, Arc::clone(status))
}

/// Capture at work.
pub(crate) struct Running {
    status: Arc<CaptureStatus>,
    lost: Arc<Notify>,
    live: Option<(Capture, Shards)>,
    replay: Option<(Replay, Shards)>,
}

impl Running {
    pub(crate) fn status(&self) -> Arc<CaptureStatus> {
        Arc::clone(&self.status)
    }

    /// Told once when the attacher is gone.
    pub(crate) fn lost(&self) -> Arc<Notify> {
        Arc::clone(&self.lost)
    }

    /// Ends capture and drains the shards; afterwards nobody holds the sender of records.
    pub(crate) fn stop(self, _deadline: Instant) -> bool {
        if let Some((capture, shards)) = self.live {
            let attacher = capture.stop();
            shards.stop();
            attacher.close(ATTACHER_GRACE);
        }
        if let Some((replay, shards)) = self.replay {
            replay.stop();
            shards.stop();
        }
        true
    }
}
