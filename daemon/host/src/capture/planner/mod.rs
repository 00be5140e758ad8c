//! Whom to arm, what to tap, which session belongs to which call: a pure state machine.
//!
//! [`Planner::handle`] takes what happened and gives back what is to be done; it does no IO, knows no clock but `now`,
//! and never blocks. The thread around it ([`super::shell`]) carries the commands out and feeds the answers back.
//!
//! *Wanted* is a process that talks to a provider (or probably will); *armed* one whose TLS libraries carry transfer
//! probes. A process becomes wanted by the earliest of: a lookup of a directory name, a session named after a provider,
//! a connection of (or an exec of) an executable known for AI calls, an SNI from the tap, a fork of a wanted process.
//! Once-per-session hooks belong to a file and go when nobody uses it any more; transfer hooks belong to a process and go
//! with it. With `capture.scope = "eager"` every process with a TLS library is armed; whose plaintext leaves the kernel is
//! decided by the session's name all the same.
//!
//! What the planner never does: look at payload, attach a transfer hook to more than one process, name a provider from
//! an address or a DNS answer.

mod arming;
mod datagrams;
mod flows;
mod libraries;
mod messages;
mod missed;
mod processes;
mod rows;
mod sessions;
mod tap;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use meter::directory::Directory;
use meter::exchange::{IdentifiedBy, Reason};
use meter::pipeline::{Direction, HostEvidence};
use meter::record::{Coverage, DarkReason, Flow};
use meter::time::{Moment, WallClock};
use meter::workload::ProcessKey;

use super::elf::Anatomy;
use super::event::{KernelEvent, SessionIdentity, process_key};
use super::image::{FileKey, Mapping};
use super::inventory::{Connection, Image};
use super::names;
use super::routes::Routes;
use super::status::{Loss, Tally};
use crate::config::{Scope, TapMode};
use crate::shards::Decision;
use libraries::{Library, Retries};
pub use messages::{Command, Event, FirstContent, OpenedFile, Refused};
use rows::HostState;
pub use rows::Row;

/// Connections that are followed at a time: as many as the kernel's own table.
const FLOWS_MAX: usize = 32_768;
/// Sessions that are followed at a time.
const SESSIONS_MAX: usize = 32_768;
/// Sessions that ended and may still be decided on: a shard is at most a channel behind.
const ENDED_MAX: usize = 1_024;
/// Executables whose habits are remembered.
const EXECUTABLES_MAX: usize = 4_096;

const MS: u64 = 1_000_000;

/// How the planner behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is captured.
    pub scope: Scope,
    /// When the tap is open.
    pub tap: TapMode,
    /// Loopback gateways: the tap looks at `lo` for these only.
    pub loopback_gateways: Vec<std::net::SocketAddr>,
    /// Own processes, never looked at.
    pub own_pids: Vec<u32>,
}

/// The state machine.
pub struct Planner {
    options: Options,
    directory: Arc<Directory>,
    clock: WallClock,
    processes: HashMap<u32, Process>,
    libraries: HashMap<FileKey, Library>,
    executables: HashMap<FileKey, Executable>,
    flows: HashMap<FlowKey, FlowState>,
    sessions: HashMap<SessionIdentity, Session>,
    /// Sessions that ended lately, oldest first: a decision on them may still be on its way.
    ended: VecDeque<(SessionIdentity, Session)>,
    /// Processes that ended, oldest first; some are forgotten already.
    dead: VecDeque<(u32, ProcessKey)>,
    /// Attachments of processes that ended, since when the first of them waits, and when an attach was asked for last.
    leaving: Vec<u64>,
    leaving_since: Moment,
    attach_asked: Moment,
    timers: BTreeMap<(Moment, u64), Timer>,
    timer_number: u64,
    /// [`Timer::Review`] is set.
    review_set: bool,
    tap: tap::Tap,
    datagrams: datagrams::Datagrams,
    assembler: names::Assembler,
    past_rows: Vec<Row>,
    out: Vec<Command>,
    rows_changed: bool,
    stopped: bool,
}

/// A connection by its kernel address, or by its number for one found at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum FlowKey {
    Socket(u64),
    Found(u64),
}

/// A process that did something of interest.
#[derive(Debug)]
struct Process {
    key: ProcessKey,
    seen_at: Moment,
    executable: Option<FileKey>,
    hosts: BTreeMap<Arc<str>, HostState>,
    /// What its lookups of directory names returned.
    addresses: HashMap<[u8; 16], Arc<str>>,
    wanted: bool,
    /// Wanted only on suspicion (a connection from before us, an executable that calls providers elsewhere): given up
    /// unless it turns out to be right.
    probation: bool,
    /// How far it has shown, while on probation, that its sessions are with others; see [`OTHERS_MAX`](arming).
    others: u32,
    /// Event that made it wanted.
    wanted_at: Moment,
    scanning: bool,
    /// Something happened while its maps were being read: they may be out of date.
    scan_again: bool,
    scans: u32,
    retries: Retries,
    /// Files of its last scan that are still being opened.
    opening: HashSet<FileKey>,
    /// Files of its last scan that are looked at only if no TLS library is found.
    unlikely: Vec<Mapping>,
    /// Files with hooks of its last scan.
    files: Vec<FileKey>,
    /// Those of them that are TLS libraries.
    tls_files: Vec<FileKey>,
    attachments: HashMap<FileKey, Attachment>,
    armed_at: Option<Moment>,
    /// File name of the library that carried the probes first.
    library: Option<Arc<str>>,
    dark: Option<DarkReason>,
    exited: bool,
    flows: BTreeSet<FlowKey>,
    sessions: BTreeSet<SessionIdentity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attachment {
    /// On this content of the file.
    Asked(u64),
    Live(u64),
    Refused,
}

/// Habits of an executable.
#[derive(Debug, Default)]
struct Executable {
    /// A process of it was armed because it talks to a provider.
    ai: bool,
    /// TLS files its processes used to talk to a provider.
    libraries: Vec<FileKey>,
    /// Files with hooks that its processes had mapped.
    files: Vec<FileKey>,
    /// Scans of its processes that showed no new file.
    idle_scans: u32,
}

/// A connection.
#[derive(Debug)]
struct FlowState {
    process: ProcessKey,
    tuple: abi::event::Tuple,
    connected: Moment,
    established: bool,
    host: Option<HostEvidence>,
    session: Option<SessionIdentity>,
    covered: Covered,
    /// Plaintext written through its session since arming, once the session is over.
    session_sent: Option<u64>,
    /// Why the content of its session is of no use.
    metadata: Option<Reason>,
    found: bool,
}

/// What was seen of the content of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covered {
    Nothing,
    /// From the start of a request on.
    FromRequest {
        /// The session was named when its process was armed already: nothing can have gone by.
        surely: bool,
    },
    /// From somewhere in the middle.
    Late,
}

/// A session with a name or with content.
#[derive(Debug)]
struct Session {
    process: ProcessKey,
    host: Option<HostEvidence>,
    named_at: Moment,
    flow: Option<FlowKey>,
    opened: bool,
    covered: Covered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// Arm the child of a wanted process unless it has replaced its program by then.
    ArmChild(u32),
    /// Look for a TLS library again.
    Rescan(u32),
    /// Look at a process again: something could not be done.
    Retry(u32),
    /// Ask for the once-per-session hooks of a file again.
    Once(FileKey),
    /// Look which files are used.
    Review,
    /// End of the time in which a process on probation must show that it talks to a provider.
    Probation(u32),
    /// Detach from processes that ended.
    Leaving,
    /// Forget a process that ended.
    Forget(u32, ProcessKey),
    /// Look whether a tap can be closed.
    TapQuiet,
}

impl Planner {
    /// Nothing known yet.
    pub fn new(options: Options, directory: Arc<Directory>) -> Planner {
        Planner {
            tap: tap::Tap::default(),
            datagrams: datagrams::Datagrams::default(),
            options,
            directory,
            clock: WallClock::default(),
            processes: HashMap::new(),
            libraries: HashMap::new(),
            executables: HashMap::new(),
            flows: HashMap::new(),
            sessions: HashMap::new(),
            ended: VecDeque::new(),
            dead: VecDeque::new(),
            leaving: Vec::new(),
            leaving_since: Moment::default(),
            attach_asked: Moment::default(),
            timers: BTreeMap::new(),
            timer_number: 0,
            review_set: false,
            assembler: names::Assembler::default(),
            past_rows: Vec::new(),
            out: Vec::new(),
            rows_changed: false,
            stopped: false,
        }
    }

    /// The translation to wall-clock time that flow records use from now on.
    pub fn set_clock(&mut self, clock: WallClock) {
        self.clock = clock;
    }

    /// What follows from an event.
    pub fn handle(&mut self, event: Event, now: Moment) -> Vec<Command> {
        match event {
            Event::Kernel(event) => self.kernel(event, now),
            Event::FirstContent(first) => self.first_content(first),
            Event::Maps(pid, result) => self.maps(pid, result, now),
            Event::Library(file, result) => self.library(file, result, now),
            Event::Attached { process: Some(process), file, number, result } => {
                self.attached(process, file, number, result, now)
            }
            Event::Attached { process: None, file, number, result } => {
                self.attached_once(file, number, result, now)
            }
            Event::Rewritten(number) => self.rewritten(number, now),
            Event::Decided(decision) => self.decided(decision),
            Event::HostSeen(process, host) => self.host_seen(process, host, now),
            Event::FoundImage(image) => self.found_image(image, now),
            Event::FoundConnection(connection) => self.found_connection(connection, now),
            Event::Routes(routes) => self.tap.set_routes(routes),
            Event::TapOpened(ifindex, result) => self.tap_opened(ifindex, result, now),
            Event::TapClosed(ifindex) => self.tap_reopens(ifindex, now),
            Event::Owner(tuple, found) => self.owner(&tuple, found, now),
            Event::Datagrams(counts) => self.counted(&counts, now),
            Event::Tick => {}
            Event::Stop => self.stop(now),
        }
        self.expire(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Moment> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    /// State of the tap.
    pub fn tap_state(&self, now: Moment) -> super::status::TapSnapshot {
        self.tap.snapshot(now)
    }

    fn kernel(&mut self, event: KernelEvent, now: Moment) {
        match event {
            KernelEvent::Connect(connect) => self.connect(&connect, now),
            KernelEvent::Established(established) => self.established(&established, now),
            KernelEvent::Closed(closed) => self.closed(&closed, now),
            KernelEvent::Exec(exec) => self.exec(&exec.task, Moment(exec.head.at_ns), now),
            KernelEvent::Fork(fork) => self.fork(&fork, now),
            KernelEvent::Exit(exit) => self.exit(process_key(exit.tgid, exit.start_ns), now),
            KernelEvent::Lookup(lookup) => self.lookup(&lookup, now),
            KernelEvent::SessionNamed(named) => self.session_named(&named, now),
            KernelEvent::SessionFreed(freed) => self.session_freed(&freed, now),
            KernelEvent::SessionOther(other) => self.session_other(&other),
            KernelEvent::Packet(packet) => self.packet(&packet, now),
        }
    }

    fn stop(&mut self, now: Moment) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        let flows: Vec<_> = self.flows.keys().copied().collect();
        for key in flows {
            self.end_flow(key, None, now);
        }
        self.datagrams_stop();
        for identity in sessions {
            if let Some(session) = self.take_session(identity)
                && session.opened
            {
                self.out.push(Command::Close { identity, sent: None, received: None });
            }
        }
    }

    fn expire(&mut self, now: Moment) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Timer::ArmChild(pid) if self.options.scope == Scope::Eager => {
                    self.want_eagerly(pid, now, now)
                }
                Timer::ArmChild(pid) => self.want_as_child(pid, now),
                Timer::Rescan(pid) => self.rescan(pid),
                Timer::Retry(pid) => self.look_again(pid),
                Timer::Once(file) => self.retry_once(file),
                Timer::Review => self.review(now),
                Timer::Probation(pid) => self.end_probation(pid),
                Timer::Leaving => self.leaving(now),
                Timer::Forget(pid, key) => self.forget(pid, key, now),
                Timer::TapQuiet => self.tap_quiet(now),
            }
        }
    }

    fn timer(&mut self, at: Moment, timer: Timer) {
        self.timer_number += 1;
        self.timers.insert((at, self.timer_number), timer);
    }

    fn after(now: Moment, ns: u64) -> Moment {
        Moment(now.0.saturating_add(ns))
    }

    /// The provider of a host name.
    fn provider(&self, host: &str) -> Option<Arc<str>> {
        self.directory.lookup(host).map(|provider| Arc::clone(&provider.name))
    }

    fn is_own(&self, pid: u32) -> bool {
        pid == 0 || self.options.own_pids.contains(&pid)
    }
}

/// Evidence from a call to the TLS library.
fn tls_evidence(host: Arc<str>) -> HostEvidence {
    HostEvidence { host, identified_by: IdentifiedBy::TlsHostnameCall }
}

#[cfg(test)]
mod tests;
