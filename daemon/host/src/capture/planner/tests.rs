//! The planner as a table: a world of processes, connections and sessions is played, what a user sees is asserted.
//!
//! A [`World`] plays the attacher: it answers maps, files and attaches as told by its script, one event after the
//! other, and writes down every command in a line. Times are milliseconds.

use abi::attacher::{Hook, Place};
use abi::event::{self, Task};
use meter::directory::Directory;
use zerocopy::FromZeros;

use super::*;

mod arming;
mod bounds;
mod calls;
mod datagrams;
mod eager;
mod files;
mod tap;

const AI: &str = "api.openai.com";
const PYTHON: FileKey = FileKey { device: 1, inode: 10 };
const LIBSSL: FileKey = FileKey { device: 1, inode: 20 };
const LIBC: FileKey = FileKey { device: 1, inode: 30 };
/// Device of as many other TLS libraries as there are inodes.
const MANY_TLS: u64 = 2;
const REMOTE: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];

struct World {
    planner: Planner,
    /// What processes have mapped, from their next scan on.
    mapped: Vec<Mapping>,
    /// How long an attach takes.
    attach_ms: u64,
    /// What attaches are answered with, if not with success.
    attach_refused: Option<Refused>,
    /// Who holds the sockets of datagrams.
    owner: Option<u32>,
    /// What the next attaches for one process are answered with, before others succeed.
    attach_refusals: VecDeque<Refused>,
    /// What the next openings of the TLS library are answered with, before others succeed.
    open_refusals: VecDeque<Refused>,
    /// Numbers of the TLS library at the attacher: one more for each content.
    contents: u64,
    attachments: u64,
    due: BTreeMap<(u64, u64), Event>,
    order: u64,
    lines: Vec<String>,
}

fn mapping(file: FileKey, name: &str) -> Mapping {
    Mapping { start: 0x1000, end: 0x2000, file, name: name.into() }
}

fn options(scope: Scope) -> Options {
    Options { scope, tap: TapMode::OnDemand, loopback_gateways: Vec::new(), own_pids: vec![1] }
}

fn world() -> World {
    world_of(Scope::OnDemand)
}

fn world_of(scope: Scope) -> World {
    World {
        planner: Planner::new(options(scope), Arc::new(Directory::builtin())),
        mapped: vec![mapping(LIBC, "libc.so.6"), mapping(LIBSSL, "libssl.so.3"), mapping(PYTHON, "python3")],
        attach_ms: 7,
        attach_refused: None,
        owner: None,
        attach_refusals: VecDeque::new(),
        open_refusals: VecDeque::new(),
        contents: 0,
        attachments: 0,
        due: BTreeMap::new(),
        order: 0,
        lines: Vec::new(),
    }
}

fn anatomy(file: FileKey) -> Anatomy {
    let places = |hooks: &[Hook]| {
        hooks.iter().map(|hook| Place { offset: 1, hook: hook.wire(), reserved: 0 }).collect()
    };
    match file {
        LIBSSL => Anatomy {
            once: places(&[Hook::SslCtrl, Hook::SslFree]),
            transfer: places(&[Hook::SslWrite, Hook::SslRead]),
        },
        FileKey { device: MANY_TLS, .. } => anatomy(LIBSSL),
        LIBC => Anatomy { once: places(&[Hook::Getaddrinfo]), transfer: Vec::new() },
        _ => Anatomy::default(),
    }
}

impl World {
    /// Plays an event at a time, after everything that is due before.
    fn at(&mut self, ms: u64, event: Event) -> &mut World {
        self.until(ms);
        self.play(ms, event);
        self
    }

    /// Lets time pass.
    fn until(&mut self, ms: u64) -> &mut World {
        loop {
            let answer = self.due.keys().next().copied().filter(|(due, _)| *due <= ms);
            let timer = self.planner.deadline().map(|at| at.0.div_ceil(MS)).filter(|due| *due <= ms);
            match (answer, timer) {
                (Some((due, _)), Some(timer)) if timer < due => self.play(timer, Event::Tick),
                (Some(key), _) => {
                    let event = self.due.remove(&key).expect("it is there");
                    self.play(key.0, event);
                }
                (None, Some(timer)) => self.play(timer, Event::Tick),
                (None, None) => return self,
            }
        }
    }

    fn play(&mut self, ms: u64, event: Event) {
        for command in self.planner.handle(event, Moment(ms * MS)) {
            self.command(ms, command);
        }
    }

    fn later(&mut self, ms: u64, event: Event) {
        self.order += 1;
        self.due.insert((ms, self.order), event);
    }

    fn command(&mut self, ms: u64, command: Command) {
        let line = match command {
            Command::ReadMaps(process) => {
                self.later(ms, Event::Maps(process.pid, Ok(self.mapped.clone())));
                format!("maps {}", process.pid)
            }
            Command::OpenLibrary(_, mapping) => {
                let is_tls = mapping.file == LIBSSL;
                let result = match self.open_refusals.front().copied().filter(|_| is_tls) {
                    Some(refused) => {
                        self.open_refusals.pop_front();
                        Err(refused)
                    }
                    None => Ok(self.opened(&mapping)),
                };
                self.later(ms, Event::Library(mapping.file, result));
                format!("open {}", mapping.name)
            }
            Command::Attach { process, file, number, places } => {
                self.attachments += 1;
                let refused = process.and_then(|_| self.attach_refusals.pop_front()).or(self.attach_refused);
                let result = refused.map_or(Ok(self.attachments), Err);
                self.later(ms + self.attach_ms, Event::Attached { process, file, number, result });
                let whom = process.map_or("all".into(), |process| process.pid.to_string());
                format!("attach {whom} {}", places.len())
            }
            Command::Detach(attachment) => format!("detach {attachment}"),
            Command::TapOpen(ifindex) => {
                self.later(ms, Event::TapOpened(ifindex, Ok(())));
                format!("tap open {ifindex}")
            }
            Command::TapClose(ifindex) => {
                self.later(ms + 10, Event::TapClosed(ifindex));
                format!("tap close {ifindex}")
            }
            Command::Open { identity, host, joined_late, .. } => {
                let host = host.map_or("-".into(), |host| host.host.to_string());
                format!("session {} {host} late={joined_late}", identity.ssl)
            }
            Command::Named(identity, host) => format!("named {} {}", identity.ssl, host.host),
            Command::Close { identity, sent, .. } => format!("close {} {sent:?}", identity.ssl),
            Command::Missed { process, host, .. } => {
                format!("missed {} {} {}", process.pid, host.host, host.identified_by.as_str())
            }
            Command::Flow { process, flow, .. } => {
                let provider = flow.provider.as_deref().unwrap_or("-");
                let bytes = flow.bytes_sent.zip(flow.bytes_received).filter(|_| flow.protocol == 17);
                let bytes = bytes.map_or(String::new(), |(sent, received)| format!(" {sent}/{received}"));
                format!("flow {} {provider} {}{bytes}", process.pid, coverage(flow.coverage))
            }
            Command::Verdict(identity, verdict) => format!("verdict {} {verdict:?}", identity.ssl),
            Command::ArmedAfter(ns) => format!("armed after {}", ns / MS),
            Command::Lost(loss) => format!("lost {}", loss.as_str()),
            Command::FindOwner(tuple) => {
                let owner = self.owner.map(|pid| process_key(pid, task(pid).start_ns));
                self.later(ms + 20, Event::Owner(tuple, owner));
                "owner".into()
            }
            Command::ForgetDatagrams(keys) => format!("forget datagrams {}", keys.len()),
            Command::Resolve(..) | Command::Identify(_) | Command::Forget { .. } | Command::Count(_) => {
                return;
            }
        };
        self.lines.push(line);
    }

    /// A file as the attacher has it: under its inode, the TLS library under a number for each content.
    fn opened(&self, mapping: &Mapping) -> OpenedFile {
        let number = mapping.file.inode + if mapping.file == LIBSSL { 1_000 * self.contents } else { 0 };
        let anatomy = Some(Arc::new(anatomy(mapping.file)));
        OpenedFile { number, anatomy, name: Arc::clone(&mapping.name) }
    }

    /// How many lines begin with a word.
    fn count(&self, word: &str) -> usize {
        self.lines.iter().filter(|line| line.starts_with(word)).count()
    }

    /// Lines that begin with one of the words, in order.
    fn check(&mut self, words: &[&str], expected: &[&str]) {
        let wanted = |line: &&String| words.iter().any(|word| line.starts_with(word));
        let seen: Vec<_> = self.lines.iter().filter(wanted).cloned().collect();
        assert_eq!(seen, expected, "everything: {:#?}", self.lines);
    }

    fn check_rows(&mut self, expected: &[&str]) {
        self.planner.rows_changed = true;
        let rows = self.planner.changed_rows().expect("changed");
        let text = |row: &Row| {
            let armed = row.armed_at.map_or("-".into(), |at| (at.0 / MS).to_string());
            format!(
                "{} {} {} armed={armed} late={}",
                row.process.pid,
                row.host,
                coverage(row.verdict),
                row.late_attach
            )
        };
        assert_eq!(rows.iter().map(text).collect::<Vec<_>>(), expected);
    }
}

fn coverage(coverage: Coverage) -> String {
    match coverage {
        Coverage::Captured => "captured".into(),
        Coverage::MetadataOnly(reason) => format!("metadata_only({})", reason.as_str()),
        Coverage::Dark(reason) => format!("dark({})", reason.as_str()),
    }
}

fn task(pid: u32) -> Task {
    let mut task = Task::new_zeroed();
    task.tgid = pid;
    task.start_ns = u64::from(pid) * 1_000_000_000;
    (task.exe_dev, task.exe_ino) = (PYTHON.device, PYTHON.inode);
    task
}

fn head(ms: u64) -> event::Head {
    event::Head { kind: 0, len: 0, at_ns: ms * MS }
}

/// The interface towards everything.
const IFINDEX: u32 = 2;

fn tuple(port: u16) -> event::Tuple {
    let mut tuple = event::Tuple::new_zeroed();
    (tuple.remote, tuple.remote_port, tuple.protocol) = (REMOTE, port, 6);
    tuple
}

fn name(text: &str) -> ([u8; abi::NAME_MAX], u32) {
    let mut bytes = [0; abi::NAME_MAX];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    (bytes, u32::try_from(text.len()).expect("short"))
}

fn kernel(event: KernelEvent) -> Event {
    Event::Kernel(event)
}

fn lookup(ms: u64, pid: u32, returned: bool) -> Event {
    let mut lookup = event::Lookup::new_zeroed();
    (lookup.head, lookup.task, lookup.returned) = (head(ms), task(pid), u32::from(returned));
    (lookup.name, lookup.name_len) = name(AI);
    if returned {
        lookup.address_count = 1;
        lookup.addresses[0] = REMOTE;
    }
    kernel(KernelEvent::Lookup(Box::new(lookup)))
}

/// What an open tap saw.
fn packet(ms: u64, kind: event::PacketKind, tuple: event::Tuple, data: &[u8]) -> Event {
    let mut packet = event::Packet::new_zeroed();
    (packet.head, packet.tuple, packet.packet_kind, packet.ifindex) = (head(ms), tuple, kind.wire(), IFINDEX);
    packet.data_len = u32::try_from(data.len()).expect("short");
    packet.data[..data.len()].copy_from_slice(data);
    kernel(KernelEvent::Packet(Box::new(packet)))
}

fn connect(ms: u64, pid: u32, socket: u64, port: u16) -> Event {
    kernel(KernelEvent::Connect(event::Connect {
        head: head(ms),
        task: task(pid),
        socket,
        tuple: tuple(port),
    }))
}

fn closed(ms: u64, pid: u32, socket: u64, sent: u64, established: bool) -> Event {
    let mut closed = event::Closed::new_zeroed();
    (closed.head, closed.socket, closed.tuple, closed.tgid) = (head(ms), socket, tuple(443), pid);
    (closed.bytes_sent, closed.bytes_received, closed.has_bytes) = (sent, sent, 1);
    closed.established_ns = u64::from(established);
    closed.start_ns = task(pid).start_ns;
    kernel(KernelEvent::Closed(closed))
}

fn named(ms: u64, pid: u32, ssl: u64) -> Event {
    let mut named = event::SessionNamed::new_zeroed();
    (named.head, named.task, named.ssl, named.opened_ns) = (head(ms), task(pid), ssl, ms * MS);
    named.verdict = abi::control::Verdict::Ai.wire();
    (named.name, named.name_len) = name(AI);
    kernel(KernelEvent::SessionNamed(Box::new(named)))
}

fn identity(pid: u32, ssl: u64, opened_ms: u64) -> SessionIdentity {
    SessionIdentity { tgid: pid, ssl, opened_ns: opened_ms * MS }
}

fn freed(pid: u32, ssl: u64, opened_ms: u64, sent: u64) -> Event {
    let mut freed = event::SessionFreed::new_zeroed();
    (freed.tgid, freed.ssl, freed.opened_ns, freed.sent) = (pid, ssl, opened_ms * MS, sent);
    kernel(KernelEvent::SessionFreed(freed))
}

fn content(pid: u32, ssl: u64, opened_ms: u64, direction: Direction, request: bool) -> Event {
    let process = process_key(pid, task(pid).start_ns);
    let identity = identity(pid, ssl, opened_ms);
    Event::FirstContent(FirstContent { identity, process, direction, request, at: Moment(0) })
}

fn other(pid: u32, calls: u32) -> Event {
    let (head, start_ns) = (head(0), task(pid).start_ns);
    kernel(KernelEvent::SessionOther(event::SessionOther { head, start_ns, tgid: pid, calls }))
}

fn exec(ms: u64, pid: u32) -> Event {
    kernel(KernelEvent::Exec(event::Exec { head: head(ms), task: task(pid) }))
}

fn fork(ms: u64, pid: u32, child: u32) -> Event {
    kernel(KernelEvent::Fork(event::Fork {
        head: head(ms),
        task: task(pid),
        child_tgid: child,
        reserved: 0,
        child_start_ns: task(child).start_ns,
    }))
}

fn exit(pid: u32) -> Event {
    let mut exit = event::Exit::new_zeroed();
    (exit.tgid, exit.start_ns) = (pid, task(pid).start_ns);
    kernel(KernelEvent::Exit(exit))
}

/// A whole call of a process over one connection: named at `start`, content at `write`.
fn call(world: &mut World, pid: u32, start: u64, write: Option<u64>) {
    let ssl = u64::from(pid);
    world
        .at(start, lookup(start, pid, false))
        .at(start, lookup(start, pid, true))
        .at(start, connect(start, pid, ssl, 443));
    world.at(start + 1, named(start + 1, pid, ssl));
    if let Some(write) = write {
        world.at(write, content(pid, ssl, start + 1, Direction::Sent, true));
    }
    world
        .at(start + 50, freed(pid, ssl, start + 1, 1_000))
        .at(start + 60, closed(start + 60, pid, ssl, 2_000, true));
}
