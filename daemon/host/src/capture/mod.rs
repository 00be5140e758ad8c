//! From the attacher's rings to the pure pipeline: who is armed, whose bytes are whose, what was missed.
//!
//! Start order: [`attacher_client::spawn`] and [`inventory::inventory`] while main is root and single-threaded, then
//! confinement, then [`attacher_client::Attacher::start`] and [`Capture::start`]. Two threads run here: the *ring*
//! thread empties the kernel's rings and does nothing else; the *planner* thread decides and keeps the status. Content
//! goes from the ring thread straight to the shards.
//!
//! Payload passes through as bytes that nobody here looks at, except for the few of a request line that tell whether a
//! session was joined at its start. What is lost is counted by reason in [`status::CaptureStatus`].

pub mod attacher_client;
pub mod elf;
pub mod event;
pub mod image;
pub mod inventory;
pub mod mailbox;
pub mod names;
mod places;
pub mod planner;
mod prologue;
mod ring;
pub mod routes;
pub mod shell;
pub mod status;
mod tables;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use meter::directory::Directory;

use crate::config;
use crate::priority::Reserved;
use crate::shards::{Learnt, Shards};
use attacher_client::{Attacher, Greeting};
use inventory::Inventory;
use mailbox::Mailbox;
use planner::{Event, Options, Planner};
use shell::{Identify, Memory, Shell};
use status::CaptureStatus;

/// The threads that race with applications: the two here and the one that reads the attacher's answers.
pub(crate) const THREADS: [&str; 3] = [RING, PLANNER, attacher_client::THREAD];
const RING: &str = "ring";
const PLANNER: &str = "planner";

/// Kernel events that may wait for the planner: a burst of some ten thousand connections.
const EVENTS_WAITING_MAX: usize = 65_536;

/// What capture needs to know.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// The section `[capture]` of the configuration.
    pub settings: config::Capture,
    /// Where `/proc` is.
    pub proc_root: PathBuf,
    /// Where `/sys` is.
    pub sys_root: PathBuf,
}

/// The running threads.
pub struct Capture {
    mailbox: Mailbox<Event>,
    stop: Arc<AtomicBool>,
    ring: JoinHandle<()>,
    planner: JoinHandle<()>,
    attacher: Attacher,
}

impl Capture {
    /// Fills the kernel's host trie, plans for what `inventory` found, and starts both threads. Decisions of the
    /// shards' pipelines come back to the planner from now on.
    ///
    /// # Errors
    /// The attacher is not armed, a map is missing or refuses, a thread cannot be made.
    #[expect(clippy::too_many_arguments, reason = "it joins everything that was made before, once")]
    pub(crate) fn start(
        greeting: Greeting,
        attacher: Attacher,
        inventory: Inventory,
        config: &CaptureConfig,
        directory: Arc<Directory>,
        identify: Box<dyn Identify>,
        shards: &Shards,
        status: Arc<CaptureStatus>,
        mut urgent: Reserved,
    ) -> anyhow::Result<Capture> {
        if !greeting.armed() {
            bail!("capture is not armed: {}", greeting.detail());
        }
        status.greeted(&greeting.hello, attacher.pid());
        let loaded = greeting.hello.programs.iter().take(greeting.hello.program_count as usize);
        let programs: Vec<u32> = loaded.map(|program| program.id).collect();
        let (rings, mut tables) = tables::open(greeting.descriptors)?;
        let names = tables.fill_hosts(&directory)?;
        tracing::info!(
            names,
            processes = inventory.images.len(),
            connections = inventory.connections.len(),
            "capture starts"
        );

        let options = Options {
            scope: config.settings.scope,
            tap: config.settings.tap,
            loopback_gateways: config.settings.loopback_gateways.clone(),
            own_pids: vec![std::process::id(), attacher.pid()],
        };
        let mailbox = Mailbox::new(EVENTS_WAITING_MAX, EVENTS_WAITING_MAX);
        // Processes first: a connection's process then has its files known.
        inventory.images.into_iter().for_each(|image| mailbox.post(Event::FoundImage(image)));
        inventory
            .connections
            .into_iter()
            .for_each(|connection| mailbox.post(Event::FoundConnection(connection)));
        let learnt = mailbox.clone();
        shards.on_learnt(move |what| {
            learnt.post(match what {
                Learnt::Decided(decision) => Event::Decided(decision),
                Learnt::Host(process, host) => Event::HostSeen(process, host),
            });
        });
        let rewritten = mailbox.clone();
        attacher.on_rewritten(move |file| rewritten.post(Event::Rewritten(file)));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = ring::RingReader {
            rings,
            planner: mailbox.clone(),
            shards: shards.senders(),
            status: Arc::clone(&status),
            stop: Arc::clone(&stop),
        };
        let shell = Shell {
            planner: Planner::new(options, directory),
            mailbox: mailbox.clone(),
            attacher: attacher.clone(),
            tables,
            shards: shards.senders(),
            identify,
            status: Arc::clone(&status),
            memory: Memory::new(config.proc_root.clone(), config.sys_root.clone(), programs),
        };
        let ring = urgent.start(RING, move || reader.run()).context("starting the ring thread")?;
        let planner = urgent.start(PLANNER, move || shell.run()).context("starting the planner thread")?;
        Ok(Capture { mailbox, stop, ring, planner, attacher })
    }

    /// Empties the rings once more, records what is open and ends both threads. The shards still run: stop them next,
    /// then close the attacher (its detaching takes long and nobody needs to wait for it).
    pub fn stop(self) -> Attacher {
        self.stop.store(true, Ordering::Release);
        let joined = self.ring.join();
        self.mailbox.post(Event::Stop);
        if joined.is_err() | self.planner.join().is_err() {
            tracing::error!("a thread of capture ended with a panic");
        }
        self.attacher
    }
}
