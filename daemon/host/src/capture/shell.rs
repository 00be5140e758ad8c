//! The thread around the planner: feeds it what happened, carries out what it asks, and says how things stand.
//!
//! All IO of planning is here, on one thread, and none of it waits for an application: requests to the attacher are
//! answered through the mailbox, files that it opened are read at once (they are `/proc` and page cache). Who a process
//! is (its [`Workload`]) is found out while the process lives and kept until the planner forgets it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use abi::attacher::{Hook, Refusal};
use abi::event::{Task, Tuple};
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload, WorkloadEvidence};

use super::attacher_client::{self, Answer, Attacher, Lost};
use super::elf::dissect;
use super::event::{KernelEvent, process_key};
use super::image::{Mapping, read_maps};
use super::inventory::udp_socket;
use super::mailbox::Mailbox;
use super::planner::{Command, Event, OpenedFile, Planner, Refused, Row};
use super::routes::Routes;
use super::status::{CaptureStatus, CoverageRow, Loss, monotonic, wall_clock};
use super::tables::Tables;
use crate::shards::{Open, ShardSenders, ToShard};

/// Longest sleep of an idle planner.
const IDLE: Duration = Duration::from_millis(500);
/// Longest sleep while what was found at the start is being attached.
const STARTING: Duration = Duration::from_millis(5);
/// Longest wait for that, before capture counts as armed all the same: on a busy node something is always asked.
const STARTING_NS: u64 = 3_000_000_000;
/// How often counters are read, the clock is compared and the tap's share is published.
const HOUSEKEEPING_NS: u64 = 500_000_000;
/// How often the coverage table is published, at most.
const PUBLISH_NS: u64 = 50_000_000;
/// How often routes are read.
const ROUTES_NS: u64 = 30_000_000_000;
/// Workloads that are kept.
const WORKLOADS_MAX: usize = 16_384;

/// Who a process is. Implemented by the resolver; the planner's thread is its only caller.
pub trait Identify: Send {
    /// A process replaced its program.
    fn on_exec(&mut self, task: &Task);
    /// A process was made.
    fn on_fork(&mut self, parent: &Task, child: ProcessKey);
    /// A process ended.
    fn on_exit(&mut self, process: ProcessKey);
    /// Who it is, as far as can be known now. Never fails: what is unknown is said in the workload.
    fn resolve(&mut self, process: ProcessKey, task: Option<&Task>) -> Arc<Workload>;
}

/// What the thread works with.
pub(super) struct Shell {
    pub(super) planner: Planner,
    pub(super) mailbox: Mailbox<Event>,
    pub(super) attacher: Attacher,
    pub(super) tables: Tables,
    pub(super) shards: ShardSenders,
    pub(super) identify: Box<dyn Identify>,
    pub(super) status: Arc<CaptureStatus>,
    pub(super) memory: Memory,
}

/// A turn in the life of a process.
enum Turn {
    Exec(Box<Task>),
    Fork(Box<Task>, ProcessKey),
    Exit(ProcessKey),
}

impl Turn {
    fn of(event: &Event) -> Option<Turn> {
        match event {
            Event::Kernel(KernelEvent::Exec(exec)) => Some(Turn::Exec(Box::new(exec.task))),
            Event::Kernel(KernelEvent::Fork(fork)) => {
                Some(Turn::Fork(Box::new(fork.task), process_key(fork.child_tgid, fork.child_start_ns)))
            }
            Event::Kernel(KernelEvent::Exit(exit)) => Some(Turn::Exit(process_key(exit.tgid, exit.start_ns))),
            _ => None,
        }
    }
}

/// What the thread remembers between turns.
pub(super) struct Memory {
    workloads: HashMap<ProcessKey, Arc<Workload>>,
    /// Of processes that the planner has forgotten, as long as their coverage is shown.
    past: HashMap<ProcessKey, Arc<Workload>>,
    published: Moment,
    clock: WallClock,
    housekept: Moment,
    routes_read: Moment,
    proc_root: PathBuf,
    sys_root: PathBuf,
    /// Kernel ids of the loaded programs.
    programs: Vec<u32>,
    /// How many of them were asked for.
    asked: usize,
}

impl Memory {
    pub(super) fn new(proc_root: PathBuf, sys_root: PathBuf, programs: Vec<u32>) -> Memory {
        Memory {
            workloads: HashMap::new(),
            past: HashMap::new(),
            published: Moment::default(),
            clock: WallClock::default(),
            housekept: Moment::default(),
            routes_read: Moment::default(),
            proc_root,
            sys_root,
            programs,
            asked: 0,
        }
    }
}

impl Shell {
    /// Runs until [`Event::Stop`] was handled.
    pub(super) fn run(mut self) {
        self.housekeeping(monotonic());
        let first = self.planner.start_tap(monotonic());
        self.carry_out(first);
        let mut batch = Vec::new();
        let began = monotonic();
        let mut starting = true;
        loop {
            let now = monotonic();
            let longest = match () {
                () if starting => STARTING,
                () if self.planner.has_changed_rows() => Duration::from_nanos(PUBLISH_NS),
                () => IDLE,
            };
            let due = self
                .planner
                .deadline()
                .map_or(longest, |at| Duration::from_nanos(at.since(now)).min(longest));
            let idle = self.attacher.is_idle();
            self.mailbox.take(due, &mut batch);
            // Nothing asked and nothing answered: what was found at the start is attached, later calls are seen.
            if starting && (idle && batch.is_empty() || now.since(began) > STARTING_NS) {
                starting = false;
                self.status.set_armed(true);
            }
            for (event, _) in batch.drain(..) {
                let stop = matches!(event, Event::Stop);
                self.step(event);
                if stop {
                    self.memory.published = Moment::default();
                    self.housekeeping(monotonic());
                    return;
                }
            }
            self.step(Event::Tick);
            self.housekeeping(monotonic());
        }
    }

    /// Arming races with the application's first write; who it is takes files of `/proc`, and comes after.
    fn step(&mut self, event: Event) {
        let turn = Turn::of(&event);
        let commands = self.planner.handle(event, monotonic());
        let others = self.arm_first(commands);
        if let Some(turn) = turn {
            self.note_identity(turn);
        }
        others.into_iter().for_each(|command| self.command(command));
    }

    fn note_identity(&mut self, turn: Turn) {
        match turn {
            Turn::Exec(task) => {
                self.memory.workloads.remove(&process_key(task.tgid, task.start_ns));
                self.identify.on_exec(&task);
            }
            Turn::Fork(parent, child) => self.identify.on_fork(&parent, child),
            Turn::Exit(process) => self.identify.on_exit(process),
        }
    }

    /// What is due now and then.
    fn housekeeping(&mut self, now: Moment) {
        if now.since(self.memory.routes_read) >= ROUTES_NS || self.memory.routes_read == Moment::default() {
            self.memory.routes_read = now;
            let routes = Routes::read(&self.memory.proc_root, &self.memory.sys_root);
            let commands = self.planner.handle(Event::Routes(routes), now);
            self.carry_out(commands);
        }
        if now.since(self.memory.housekept) >= HOUSEKEEPING_NS {
            self.memory.housekept = now;
            self.memory.clock = wall_clock();
            self.planner.set_clock(self.memory.clock);
            if let Some(counters) = self.tables.counters() {
                for (loss, count) in self.tables.evicted(&counters) {
                    self.status.lost_in_all(loss, count);
                }
                self.status.set_counters(counters);
            }
            if self.planner.follows_datagrams() {
                let counted = self.tables.datagrams();
                let commands = self.planner.handle(Event::Datagrams(counted), now);
                self.carry_out(commands);
            }
            self.ask_for_misses();
            self.status.set_tap(self.planner.tap_state(now));
        }
        // A table of hundreds of rows is not made anew for each of the events that change it.
        if now.since(self.memory.published) >= PUBLISH_NS
            && let Some(rows) = self.planner.changed_rows()
        {
            self.memory.published = now;
            self.publish(rows);
        }
    }

    fn publish(&mut self, rows: Vec<Row>) {
        let shown: HashSet<ProcessKey> = rows.iter().map(|row| row.process).collect();
        self.memory.past.retain(|process, _| shown.contains(process));
        let rows = rows.into_iter().map(|row| self.row(row)).collect();
        self.status.set_coverage(rows);
    }

    fn row(&mut self, row: Row) -> CoverageRow {
        let Row { process, provider, host, verdict, first_seen, armed_at, late_attach, library } = row;
        let past = self.memory.past.get(&process).cloned();
        CoverageRow {
            workload: past.unwrap_or_else(|| self.workload(process)),
            provider,
            host,
            verdict,
            first_seen: self.wall(first_seen),
            armed_at: armed_at.map(|at| self.wall(at)),
            exchanges: 0,
            late_attach,
            library,
        }
    }

    fn wall(&self, at: Moment) -> UnixNanos {
        self.memory.clock.at(at)
    }

    /// Asks again: names that take a file may have come in since, and what was known is not forgotten.
    fn workload(&mut self, process: ProcessKey) -> Arc<Workload> {
        let Some(known) = self.memory.workloads.get(&process).cloned() else {
            return self.resolve(process, None);
        };
        let workload = self.identify.resolve(process, None);
        if workload.evidence == WorkloadEvidence::Unknown || workload.evidence > known.evidence {
            return known;
        }
        self.memory.workloads.insert(process, Arc::clone(&workload));
        workload
    }

    fn resolve(&mut self, process: ProcessKey, task: Option<&Task>) -> Arc<Workload> {
        let workload = self.identify.resolve(process, task);
        if self.memory.workloads.len() >= WORKLOADS_MAX {
            self.memory.workloads.clear();
        }
        self.memory.workloads.insert(process, Arc::clone(&workload));
        workload
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        let others = self.arm_first(commands);
        others.into_iter().for_each(|command| self.command(command));
    }

    /// Carries out what arms; the rest is given back.
    fn arm_first(&mut self, commands: Vec<Command>) -> Vec<Command> {
        let arms = |command: &Command| {
            matches!(command, Command::ReadMaps(_) | Command::OpenLibrary(..) | Command::Attach { .. })
        };
        let (arming, others): (Vec<_>, Vec<_>) = commands.into_iter().partition(arms);
        arming.into_iter().for_each(|command| self.command(command));
        others
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::ReadMaps(process) => self.read_maps(process),
            Command::OpenLibrary(process, mapping) => self.open_library(process, &mapping),
            Command::Attach { process, file, number, places } => {
                tracing::debug!(pid = process.map(|process| process.pid), file = number, hooks = ?hooks(&places), "attach");
                let mailbox = self.mailbox.clone();
                let status = Arc::clone(&self.status);
                self.attacher.ask(attacher_client::attach(process, number, &places), move |answer| {
                    let result = checked(answer).map(|answer| {
                        status.set_detach_backlog(answer.reply.detach_backlog);
                        answer.reply.value
                    });
                    mailbox.post(Event::Attached { process, file, number, result });
                });
            }
            Command::Detach(attachment) => {
                let status = Arc::clone(&self.status);
                self.attacher.ask(attacher_client::detach(attachment), move |answer| {
                    if let Ok(answer) = answer {
                        status.set_detach_backlog(answer.reply.detach_backlog);
                    }
                });
            }
            Command::TapOpen(ifindex) => {
                let mailbox = self.mailbox.clone();
                self.attacher.ask(attacher_client::tap_open(ifindex), move |answer| {
                    mailbox.post(Event::TapOpened(ifindex, checked(answer).map(drop)));
                });
            }
            Command::TapClose(ifindex) => {
                let mailbox = self.mailbox.clone();
                self.attacher.ask(attacher_client::tap_close(ifindex), move |_| {
                    mailbox.post(Event::TapClosed(ifindex))
                });
            }
            Command::Resolve(process, task) => {
                if !self.memory.workloads.contains_key(&process) {
                    self.resolve(process, Some(&task));
                }
            }
            Command::Identify(process) => {
                if !self.memory.workloads.contains_key(&process) {
                    self.resolve(process, None);
                }
            }
            Command::FindOwner(tuple) => self.find_owner(tuple),
            Command::ForgetDatagrams(keys) => {
                keys.iter().for_each(|key| self.tables.forget_datagrams(key));
            }
            Command::Forget { process, shown } => {
                let workload = self.memory.workloads.remove(&process);
                // Nothing more can be found out of it.
                self.memory.past.extend(workload.filter(|_| shown).map(|workload| (process, workload)));
            }
            Command::Open { identity, process, host, joined_late } => {
                let workload = self.workload(process);
                let session = self.shards.allot_session();
                let open = Open { identity, session, process, workload, host, joined_late };
                self.shards.session(&identity, ToShard::Open(Box::new(open)));
            }
            Command::Named(identity, host) => self.shards.session(&identity, ToShard::Named(identity, host)),
            Command::Close { identity, sent, received } => {
                self.shards.session(&identity, ToShard::Close { identity, sent, received });
            }
            Command::Missed { process, host, started, reason } => {
                tracing::debug!(
                    pid = process.pid,
                    host = &*host.host,
                    reason = reason.as_str(),
                    "missed call"
                );
                let workload = self.workload(process);
                self.shards.process(process, ToShard::Missed { workload, host, started, reason });
            }
            Command::Flow { process, flow, started } => {
                let workload = self.workload(process);
                let started_at = self.wall(started);
                self.shards.process(process, ToShard::Flow { flow, workload, started_at, started });
            }
            Command::Verdict(identity, verdict) => {
                if !self.tables.decide(&identity, verdict) {
                    self.status.lost(Loss::VerdictLost, 1);
                }
            }
            Command::Lost(loss) => self.status.lost(loss, 1),
            Command::Count(tally) => self.status.count(tally, 1),
            Command::ArmedAfter(took_ns) => {
                tracing::debug!(took_us = took_ns / 1_000, "armed");
                self.status.armed_after(took_ns);
            }
        }
    }

    fn read_maps(&self, process: ProcessKey) {
        let mailbox = self.mailbox.clone();
        self.attacher.ask(attacher_client::open_maps(process), move |answer| {
            let result = checked(answer).and_then(|answer| {
                let descriptor = answer.descriptor.ok_or(Refused::Unreadable)?;
                read_maps(File::from(descriptor)).map_err(|_| Refused::Unreadable)
            });
            // A process without a single mapping has just ended.
            let result = result.and_then(|maps| if maps.is_empty() { Err(Refused::Gone) } else { Ok(maps) });
            mailbox.post(Event::Maps(process.pid, result));
        });
    }

    fn find_owner(&self, tuple: Tuple) {
        let mailbox = self.mailbox.clone();
        let Some(socket) = udp_socket(&self.memory.proc_root, &tuple) else {
            return mailbox.post(Event::Owner(tuple, None));
        };
        self.attacher.ask(attacher_client::socket_owner(socket.inode, socket.uid), move |answer| {
            let owner = checked(answer).ok().and_then(|answer| {
                let pid = u32::try_from(answer.reply.value).ok().filter(|pid| *pid != 0)?;
                Some(ProcessKey { pid, start_ticks: answer.reply.file })
            });
            mailbox.post(Event::Owner(tuple, owner));
        });
    }

    /// Asks of one program after the other how often the kernel skipped it.
    fn ask_for_misses(&mut self) {
        let programs = &self.memory.programs;
        let Some(program) = programs.get(self.memory.asked % programs.len().max(1)).copied() else { return };
        self.memory.asked = self.memory.asked.wrapping_add(1);
        let status = Arc::clone(&self.status);
        self.attacher.ask(attacher_client::misses(program), move |answer| {
            if let Ok(answer) = checked(answer) {
                status.skipped(program, answer.reply.value);
            }
        });
    }

    fn open_library(&self, process: ProcessKey, mapping: &Mapping) {
        let mailbox = self.mailbox.clone();
        let (file, name) = (mapping.file, Arc::clone(&mapping.name));
        let request = attacher_client::open_mapped(process, mapping.start, mapping.end);
        self.attacher.ask(request, move |answer| {
            let result = checked(answer).map(|answer| {
                let anatomy = answer.descriptor.and_then(|descriptor| dissect(&File::from(descriptor)).ok());
                OpenedFile { number: answer.reply.file, anatomy: anatomy.map(Arc::new), name }
            });
            mailbox.post(Event::Library(file, result));
        });
    }
}

fn checked(answer: Result<Answer, Lost>) -> Result<Answer, Refused> {
    let answer = answer.map_err(|Lost| Refused::Denied)?;
    match answer.refusal() {
        None => Ok(answer),
        Some(Refusal::Gone) => Err(Refused::Gone),
        Some(Refusal::Limit) => Err(Refused::Limit),
        Some(Refusal::Stale) => Err(Refused::Stale),
        Some(Refusal::NotAllowed | Refusal::Kernel | Refusal::None) => Err(Refused::Denied),
    }
}

/// Names of the hooks of a request, for the log.
fn hooks(places: &[abi::attacher::Place]) -> Vec<&'static str> {
    places.iter().filter_map(|place| Hook::from_wire(place.hook)).map(Hook::variant_name).collect()
}
