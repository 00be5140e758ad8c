//! The planner as a table: a world of processes, connections and sessions is played, what a user sees is asserted.
//!
//! A [`World`] plays the attacher: it answers maps, files and attaches as told by its script, one event after the
//! other, and writes down every command in a line. Times are milliseconds.

use abi::attacher::{Hook, Place};
use abi::event;
use meter::directory::Directory;
use zerocopy::FromZeros;

use super::*;

mod bounds;
mod datagrams;
mod eager;
mod files;

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
            Command::Resolve(..) | Command::Identify(_) | Command::Forget(_) | Command::Count(_) => return,
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

#[test]
fn a_lookup_arms_the_process_and_its_call_is_captured() {
    let mut world = world();
    call(&mut world, 7, 100, Some(120));
    world.check(
        &["maps", "attach", "armed", "session", "close", "flow", "missed"],
        &[
            "maps 7",
            "attach all 2",
            "attach 7 2",
            "attach all 1",
            "armed after 7",
            "session 7 api.openai.com late=false",
            "close 7 Some(1000)",
            "flow 7 openai captured",
        ],
    );
    world.check_rows(&["7 api.openai.com captured armed=107 late=0"]);
}

#[test]
fn a_call_before_arming_is_missed_exactly_once() {
    let mut world = world();
    world.attach_ms = 1_000;
    call(&mut world, 7, 100, None);
    world.until(5_000).at(5_001, exit(7));
    world.check(
        &["missed", "flow"],
        &["missed 7 api.openai.com tls_hostname_call", "flow 7 openai metadata_only(late_attach)"],
    );
    world.check_rows(&["7 api.openai.com captured armed=1100 late=1"]);
}

#[test]
fn a_call_of_a_process_that_ends_before_it_is_looked_at_is_missed_too() {
    let mut world = world();
    world.attach_ms = 1_000;
    world.at(100, lookup(100, 7, false)).at(100, lookup(100, 7, true)).at(101, connect(101, 7, 1, 443));
    world.at(102, exit(7)).at(110, closed(110, 7, 1, 2_000, true));
    // An address from a lookup arms and names nothing: the flow has a host and no provider.
    world.check(
        &["missed", "flow"],
        &["missed 7 api.openai.com getaddrinfo", "flow 7 - metadata_only(late_attach)"],
    );
    world.until(200_000);
    world.check(&["detach"], &["detach 2"]);
    world.check_rows(&["7 api.openai.com dark(gone) armed=- late=1"]);
}

#[test]
fn what_moved_no_request_is_not_missed() {
    let check = |sent: u64, established: bool, expected: &[&str]| {
        let mut world = world();
        world.attach_ms = 1_000;
        world.at(100, lookup(100, 7, true)).at(101, connect(101, 7, 1, 443));
        world.at(110, closed(110, 7, 1, sent, established));
        world.check(&["missed"], expected);
    };
    check(0, false, &[]);
    check(2_000, false, &[]);
    check(600, true, &[]);
    check(700, true, &["missed 7 api.openai.com getaddrinfo"]);
}

#[test]
fn a_session_joined_in_the_middle_is_left_to_the_pipeline() {
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(100, connect(100, 7, 1, 443)).at(101, named(101, 7, 1));
    world.at(120, content(7, 1, 101, Direction::Received, false));
    world.at(150, freed(7, 1, 101, 0)).at(160, closed(160, 7, 1, 2_000, true));
    world.check(
        &["missed", "session", "flow"],
        &["session 1 api.openai.com late=true", "flow 7 openai metadata_only(late_attach)"],
    );
}

#[test]
fn a_session_whose_first_calls_went_by_is_missed_if_its_connection_shows_more() {
    let check = |flow_sent: u64, expected: &[&str]| {
        let mut world = world();
        world.attach_ms = 30;
        world.at(100, lookup(100, 7, true)).at(100, connect(100, 7, 1, 443)).at(101, named(101, 7, 1));
        world.at(140, content(7, 1, 101, Direction::Sent, true));
        world.at(150, freed(7, 1, 101, 1_000)).at(160, closed(160, 7, 1, flow_sent, true));
        world.check(&["missed"], expected);
    };
    check(2_000, &[]);
    check(3_750, &[]);
    check(3_751, &["missed 7 api.openai.com tls_hostname_call"]);
}

#[test]
fn a_session_without_a_connection_is_judged_by_itself() {
    let check = |armed_first: bool, expected: &[&str]| {
        let mut world = world();
        world.attach_ms = if armed_first { 1 } else { 1_000 };
        world.at(100, lookup(100, 7, false)).at(150, named(150, 7, 1)).at(160, freed(7, 1, 150, 0));
        world.check(&["missed"], expected);
    };
    check(true, &[]);
    check(false, &["missed 7 api.openai.com tls_hostname_call"]);
}

#[test]
fn a_connection_to_a_shared_address_is_no_call_of_a_watched_process() {
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(120, connect(120, 7, 1, 443)).at(121, named(121, 7, 9));
    world.at(130, content(7, 9, 121, Direction::Sent, true)).at(140, connect(140, 7, 2, 443));
    world.at(150, closed(150, 7, 2, 5_000, true)).at(160, closed(160, 7, 1, 2_000, true));
    world.check(&["missed", "flow"], &["flow 7 openai captured"]);
}

#[test]
fn a_refused_connection_gives_its_session_to_the_next_one() {
    let mut world = world();
    world.attach_ms = 1_000;
    world.at(100, lookup(100, 7, true)).at(100, connect(100, 7, 1, 443)).at(101, named(101, 7, 9));
    world.at(102, closed(102, 7, 1, 0, false)).at(103, connect(103, 7, 2, 443));
    world.at(150, closed(150, 7, 2, 2_000, true)).at(151, freed(7, 9, 101, 0));
    world.check(&["missed"], &["missed 7 api.openai.com tls_hostname_call"]);
}

#[test]
fn the_next_process_of_an_executable_is_armed_at_exec_without_looking() {
    let mut world = world();
    call(&mut world, 7, 100, Some(120));
    world.lines.clear();
    world.at(1_000, exec(1_000, 8));
    world.check(&["attach"], &["attach 8 2"]);
    world.until(1_007).check(&["armed"], &["armed after 7"]);
    call(&mut world, 8, 1_020, Some(1_030));
    world.check(&["missed", "flow"], &["flow 8 openai captured"]);
    // It earned its probes: nothing is detached after the probation.
    world.until(100_000).check(&["detach"], &[]);
    world.at(100_001, exit(8)).until(101_002).check(&["detach"], &["detach 4"]);
}

#[test]
fn detaching_from_the_dead_holds_up_no_attach() {
    let mut world = world();
    call(&mut world, 7, 100, Some(120));
    world.lines.clear();
    // The next one begins as soon as one has ended.
    world.at(1_000, exit(7)).at(1_001, exec(1_001, 8)).at(1_900, exit(8)).at(1_901, exec(1_901, 9));
    world.until(2_850).check(&["attach", "detach"], &["attach 8 2", "attach 9 2"]);
    world.until(4_000).check(&["detach"], &["detach 2", "detach 4"]);
    // Where that never ends, it waits for no longer than ten seconds.
    for pid in 10..40 {
        let ms = 4_000 + u64::from(pid) * 500;
        world.at(ms, exec(ms, pid)).at(ms + 400, exit(pid));
    }
    assert!(world.count("detach") > 10, "{:?}", world.lines);
}

#[test]
fn a_process_that_ended_too_soon_still_teaches_what_its_executable_uses() {
    let mut world = world();
    world.planner.handle(lookup(100, 7, false), Moment(100 * MS));
    world.planner.handle(Event::Maps(7, Ok(world.mapped.clone())), Moment(101 * MS));
    world.planner.handle(exit(7), Moment(102 * MS));
    let file = world.opened(&mapping(LIBSSL, "libssl.so.3"));
    world.at(150, Event::Library(LIBSSL, Ok(file))).at(200, exec(200, 8));
    world.check(&["attach"], &["attach all 2", "attach 8 2"]);
}

#[test]
fn a_process_armed_on_suspicion_is_let_go_after_a_minute() {
    let mut world = world();
    call(&mut world, 7, 100, Some(120));
    world.at(1_000, exec(1_000, 8)).lines.clear();
    world.at(2_000, connect(2_000, 8, 5, 6_379)).until(62_000);
    world.check(&["detach"], &["detach 4"]);
    world.at(70_000, lookup(70_000, 8, false)).until(70_007);
    world.check(&["attach", "armed"], &["armed after 7", "attach 8 2", "armed after 7"]);
}

#[test]
fn a_process_that_shows_other_sessions_is_let_go_until_it_calls_a_provider() {
    let check = |shown: &[u32], called: bool, expected: &[&str]| {
        let mut world = world();
        call(&mut world, 7, 100, Some(120));
        world.at(1_000, exec(1_000, 8)).until(1_100);
        if called {
            world.at(1_100, lookup(1_100, 8, false));
        }
        world.lines.clear();
        for (ms, calls) in (2_000..).zip(shown) {
            world.at(ms, other(8, *calls));
        }
        // Suspicion does not arm it again, and a provider's name does.
        world.at(3_000, connect(3_000, 8, 5, 443)).until(3_500).lines.push("now it calls".into());
        world.at(4_000, lookup(4_000, 8, false)).until(100_000);
        world.check(&["attach 8", "detach", "now"], expected);
    };
    check(&[1; 7], false, &["now it calls"]);
    check(&[1; 8], false, &["detach 4", "now it calls", "attach 8 2"]);
    check(&[1, event::OTHER_CALLS], false, &["detach 4", "now it calls", "attach 8 2"]);
    check(&[event::OTHER_CALLS; 9], true, &["now it calls"]);
}

#[test]
fn a_child_is_let_go_by_what_it_shows_and_not_by_time() {
    let mut world = world();
    world.at(100, lookup(100, 7, false)).until(200).lines.clear();
    world.at(200, fork(200, 7, 8)).until(100_000).check(&["attach 8", "detach"], &["attach 8 2"]);
    world.at(100_001, other(7, event::OTHER_CALLS)).at(100_002, other(8, event::OTHER_CALLS));
    world.check(&["detach"], &["detach 4"]);
}

#[test]
fn children_of_a_wanted_process_are_armed_unless_they_replace_their_program() {
    let mut world = world();
    world.at(100, lookup(100, 7, false)).until(200).lines.clear();
    world.at(200, fork(200, 7, 8)).at(200, fork(200, 7, 9));
    let mut other = task(9);
    other.exe_ino = 99;
    world.at(205, kernel(KernelEvent::Exec(event::Exec { head: head(205), task: other })));
    world.until(219).check(&["attach"], &[]);
    world.until(300).check(&["attach 8"], &["attach 8 2"]);
}

#[test]
fn a_library_that_is_mapped_later_is_found_by_looking_again() {
    let mut world = world();
    world.mapped = vec![mapping(LIBC, "libc.so.6"), mapping(PYTHON, "python3")];
    world.at(100, lookup(100, 7, false)).until(102);
    world.check_rows(&[]);
    world.mapped.push(mapping(LIBSSL, "libssl.so.3"));
    world
        .until(120)
        .check(&["maps", "attach 7", "armed"], &["maps 7", "maps 7", "attach 7 2", "armed after 10"]);
}

#[test]
fn a_process_without_a_known_library_is_dark_and_not_late() {
    let mut world = world();
    world.mapped = vec![mapping(LIBC, "libc.so.6"), mapping(PYTHON, "python3")];
    world
        .at(100, lookup(100, 7, true))
        .at(101, connect(101, 7, 1, 443))
        .at(150, closed(150, 7, 1, 2_000, true));
    world.check(&["missed", "flow"], &["flow 7 - dark(unknown_tls_library)"]);
    world.check_rows(&["7 api.openai.com dark(unknown_tls_library) armed=- late=0"]);
    // It is looked at a bounded number of times.
    world.until(1_000_000);
    let scans = world.lines.iter().filter(|line| line.starts_with("maps")).count();
    assert!((3..=12).contains(&scans), "{scans}");
}

#[test]
fn a_refusal_is_told() {
    let mut world = world();
    world.attach_refused = Some(Refused::Denied);
    call(&mut world, 7, 100, None);
    world.check(
        &["missed", "flow", "armed"],
        &["missed 7 api.openai.com tls_hostname_call", "flow 7 openai metadata_only(late_attach)"],
    );
    world.check_rows(&["7 api.openai.com dark(attach_refused) armed=- late=1"]);
}

#[test]
fn switched_off_attaches_nothing_and_says_so() {
    let mut world = world_of(Scope::Off);
    call(&mut world, 7, 100, None);
    world.check(&["attach", "maps", "missed", "flow"], &["flow 7 openai dark(switched_off)"]);
    world.check_rows(&["7 api.openai.com dark(switched_off) armed=- late=0"]);
}

#[test]
fn decisions_reach_the_kernel_and_coverage() {
    use meter::pipeline::SessionVerdict::{Capture, Ignore, MetadataOnly};
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(101, connect(101, 7, 1, 443)).at(102, named(102, 7, 1));
    world.at(120, content(7, 1, 102, Direction::Sent, true));
    let decide =
        |ssl, opened, verdict| Event::Decided(Decision { identity: identity(7, ssl, opened), verdict });
    world.at(121, decide(1, 102, MetadataOnly(Reason::NotHttp)));
    world.at(130, content(7, 2, 130, Direction::Sent, true)).at(131, decide(2, 130, Ignore));
    world.at(132, content(7, 3, 132, Direction::Sent, true)).at(133, decide(3, 132, Capture));
    world.check(
        &["verdict", "close"],
        &["verdict 1 MetadataOnly", "verdict 2 NotAi", "close 2 None", "verdict 3 Ai"],
    );
    world
        .at(150, closed(150, 7, 1, 2_000, true))
        .check(&["flow", "missed"], &["flow 7 openai metadata_only(not_http)"]);
    world.check_rows(&["7 api.openai.com metadata_only(not_http) armed=107 late=0"]);
}

#[test]
fn a_decision_that_comes_after_the_end_of_its_session_still_counts() {
    use meter::pipeline::SessionVerdict::MetadataOnly;
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(120, connect(120, 7, 1, 443)).at(121, named(121, 7, 9));
    world.at(130, content(7, 9, 121, Direction::Sent, true)).at(140, freed(7, 9, 121, 500)).at(141, exit(7));
    let verdict = MetadataOnly(Reason::NotHttp);
    world.at(142, Event::Decided(Decision { identity: identity(7, 9, 121), verdict }));
    world.at(150, closed(150, 7, 1, 2_000, true));
    world.check(&["verdict", "flow", "missed"], &["flow 7 openai metadata_only(not_http)"]);
    world.check_rows(&["7 api.openai.com metadata_only(not_http) armed=107 late=0"]);
}

#[test]
fn a_number_used_again_is_another_process() {
    let mut world = world();
    world.at(100, lookup(100, 7, false)).until(120);
    let mut again = task(7);
    again.start_ns += 5_000_000_000;
    let connect = event::Connect { head: head(130), task: again, socket: 1, tuple: tuple(5_432) };
    world.at(130, kernel(KernelEvent::Connect(connect)));
    // Attached for the old one, answered after its end: let go at once. What it had goes in a quiet moment.
    let process = Some(process_key(7, task(7).start_ns));
    let late = Event::Attached { process, file: LIBSSL, number: 20, result: Ok(77) };
    world.at(140, late).check(&["detach"], &["detach 77"]);
    world.until(1_200).check(&["detach"], &["detach 77", "detach 2"]);
}

#[test]
fn what_was_there_before_us_is_armed_on_probation_and_recorded_at_the_end() {
    let key = process_key(7, task(7).start_ns);
    let check = |speaks: bool, expected: &[&str]| {
        let mut world = world();
        let image = Image { process: key, executable: Some(PYTHON), mappings: world.mapped.clone() };
        let connection = Connection { process: key, executable: Some(PYTHON), tuple: tuple(443) };
        world.at(1, Event::FoundImage(image)).at(1, Event::FoundConnection(connection)).until(100);
        if speaks {
            let host = HostEvidence { host: AI.into(), identified_by: IdentifiedBy::HostHeader };
            world.at(200, Event::HostSeen(key, host));
        }
        world.until(70_000).at(80_000, Event::Stop);
        world.check(&["attach 7", "detach", "flow", "missed"], expected);
    };
    check(true, &["attach 7 2", "flow 7 openai captured"]);
    check(false, &["attach 7 2", "detach 3"]);
}

#[test]
fn a_tap_is_open_only_while_a_name_is_missing() {
    let v4 = "Iface\n eth0 00000000 00000000 0003 0 0 0 00000000 0 0 0\n";
    let mut world = world();
    world.at(1, Event::Routes(Routes::parse(v4, "", &|_| Some(2))));
    // Named by its lookup, or to another port: no tap. (A lookup itself opens one for datagrams: see there.)
    world.at(90, lookup(90, 7, true)).until(3_000).lines.clear();
    world.at(3_100, lookup(3_100, 7, true)).at(3_101, connect(3_101, 7, 1, 443));
    world.at(3_102, connect(3_102, 8, 2, 5_432)).check(&["tap"], &[]);
    world.at(3_200, connect(3_200, 8, 3, 443)).at(3_300, connect(3_300, 8, 4, 443)).until(5_250);
    world.check(&["tap"], &["tap open 2"]);
    world.until(5_400).check(&["tap"], &["tap open 2", "tap close 2"]);
    let state = world.planner.tap_state(Moment(5_400 * MS));
    assert_eq!((state.open_now, state.opened), (0, 2));
    // 2.01 s of the first, 2.11 s of the second, of 5.4 s.
    assert!((740_000..800_000).contains(&state.open_ppm), "{state:?}");
}

#[test]
fn a_known_destination_of_an_armed_process_needs_no_tap() {
    let v4 = "Iface\n eth0 00000000 00000000 0003 0 0 0 00000000 0 0 0\n";
    let mut world = world();
    world.at(1, Event::Routes(Routes::parse(v4, "", &|_| Some(2))));
    let bytes = crate::capture::names::tests::hello(AI);
    let hello = packet(105, event::PacketKind::ClientHello, tuple(443), &bytes);
    // The first connection is named on the wire, which arms the process; the second by its TLS call.
    world.at(100, connect(100, 7, 1, 443)).at(105, hello).until(200);
    world.check(&["tap", "attach 7"], &["tap open 2", "attach 7 2"]);
    world.until(3_000).lines.clear();
    world.at(3_100, connect(3_100, 7, 2, 443)).until(3_200).check(&["tap"], &[]);
}
