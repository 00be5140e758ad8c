//! QUIC connections: who, with whom, how many bytes; never what.
//!
//! A UDP socket passes no state change. A connection begins for us when a tap shows the client's first Initial, whose
//! SNI names the provider; the kernel counts its datagrams as long as the tap is open. Its process is the one that
//! holds the socket (an inventory of descriptors), else the only one that was given this address for this name, else
//! unknown, and the record says so.
//!
//! *When a tap is open for it*: no hook tells of a UDP socket's first datagram, but most programs look a name up before.
//! So a lookup of a provider's name opens the tap for its quiet time, unless the executable was asked lately: one that
//! spoke QUIC in the last hour always, another one again and again with growing pauses. A connection to a provider
//! keeps the tap of its interface open until it ends.
//!
//! *How it ends*: with its process; after [`IDLE_NS`] without a datagram, at the last one; after [`HOLD_NS`] it is lost
//! sight of, and its record has no end and no bytes: part of a count is not a count.

use abi::control::{DatagramKey, DatagramState};
use abi::event::{Packet, Tuple};

use super::flows::{address, local_of, remote_of};
use super::*;
use meter::record::FlowSeen;

/// Connections that are followed, those to others included: as many as the kernel's table.
const CONNECTIONS_MAX: usize = abi::control::DATAGRAMS_MAX as usize;
/// Quiet time after which a connection is over: the idle timeout (RFC 9000 section 10.1) that the common implementations
/// propose is 30 s, and the smaller one of both sides counts.
const IDLE_NS: u64 = 30_000 * MS;
/// Longest time for which one connection keeps a tap open.
const HOLD_NS: u64 = 600_000 * MS;
/// Quiet time after which an entry of the kernel that nobody here knows is removed: its Initial was lost on the way.
const STRAY_NS: u64 = 10_000 * MS;
/// Pauses between two looks whether an executable speaks QUIC: the first, and the longest.
const PAUSE_NS: (u64, u64) = (60_000 * MS, 3_600_000 * MS);

/// The connections, and which executables make such.
#[derive(Default)]
pub(super) struct Datagrams {
    connections: HashMap<Tuple, Connection>,
    habits: HashMap<Option<FileKey>, Habit>,
}

struct Connection {
    ifindex: u32,
    /// The provider; `None` for one to somebody else, which is followed only to be told from a new one.
    host: Option<HostEvidence>,
    owner: Owner,
    began: Moment,
    counted: Option<DatagramState>,
    /// Its process ended.
    over: bool,
}

#[derive(Clone, Copy)]
enum Owner {
    Asked,
    Known(ProcessKey),
    Unknown,
}

/// When to look whether an executable speaks QUIC.
#[derive(Clone, Copy)]
struct Habit {
    spoke: Option<Moment>,
    asked: Moment,
    pause_ns: u64,
}

impl Datagrams {
    /// Interfaces whose tap is needed.
    pub(super) fn interfaces(&self) -> HashSet<u32> {
        let held = |connection: &&Connection| connection.host.is_some();
        self.connections.values().filter(held).map(|connection| connection.ifindex).collect()
    }

    /// True if the kernel's counts are worth reading.
    pub(super) fn any(&self) -> bool {
        !self.connections.is_empty()
    }

    /// True if this connection's Initial was read: later ones have other keys.
    pub(super) fn knows(&self, tuple: &Tuple) -> bool {
        self.connections.contains_key(tuple)
    }

    /// Whether a lookup by this executable is worth a tap.
    fn is_due(&mut self, executable: Option<FileKey>, now: Moment) -> bool {
        if self.habits.len() >= EXECUTABLES_MAX {
            self.habits.clear();
        }
        let fresh = Habit { spoke: None, asked: Moment(0), pause_ns: 0 };
        let habit = self.habits.entry(executable).or_insert(fresh);
        if habit.spoke.is_some_and(|spoke| now.since(spoke) < PAUSE_NS.1) {
            return true;
        }
        if habit.pause_ns != 0 && now.since(habit.asked) < habit.pause_ns {
            return false;
        }
        habit.asked = now;
        habit.pause_ns = habit.pause_ns.saturating_mul(2).clamp(PAUSE_NS.0, PAUSE_NS.1);
        true
    }

    fn spoke(&mut self, executable: Option<FileKey>, now: Moment) {
        if let Some(habit) = self.habits.get_mut(&executable) {
            habit.spoke = Some(now);
            habit.pause_ns = 0;
        }
    }
}

impl Planner {
    /// True if the kernel's counts of datagrams shall be read and handed over as [`Event::Datagrams`].
    pub fn follows_datagrams(&self) -> bool {
        self.tap.is_open() || self.datagrams.any()
    }

    /// A provider's name was looked up: datagrams to these addresses may follow.
    pub(super) fn datagrams_may_follow(
        &mut self,
        executable: Option<FileKey>,
        addresses: &[[u8; 16]],
        now: Moment,
    ) {
        if self.options.tap != TapMode::OnDemand || addresses.is_empty() {
            return;
        }
        if !self.datagrams.is_due(executable, now) {
            return self.out.push(Command::Count(Tally::TapCached));
        }
        self.tap_expects(addresses.iter().map(|bytes| address(*bytes)), now);
    }

    /// The name in a client's first Initial.
    pub(super) fn initial(&mut self, packet: &Packet, host: &Arc<str>) {
        if self.datagrams.knows(&packet.tuple) {
            return;
        }
        self.out.push(Command::Count(Tally::NamesFromWire));
        if self.datagrams.connections.len() >= CONNECTIONS_MAX {
            return self.out.push(Command::Lost(Loss::FlowsFull));
        }
        let named = self.directory.lookup(host).is_some();
        let by_name = || HostEvidence { host: Arc::clone(host), identified_by: IdentifiedBy::Sni };
        let host = named.then(by_name).or_else(|| self.configured(remote_of(&packet.tuple)));
        let owner = if host.is_some() {
            self.out.push(Command::FindOwner(packet.tuple));
            Owner::Asked
        } else {
            self.out.push(Command::Count(Tally::FlowsOther));
            Owner::Unknown
        };
        let connection = Connection {
            ifindex: packet.ifindex,
            host,
            owner,
            began: Moment(packet.head.at_ns),
            counted: None,
            over: false,
        };
        self.datagrams.connections.insert(packet.tuple, connection);
    }

    /// Who holds the socket of a connection, or that it was not found.
    pub(super) fn owner(&mut self, tuple: &Tuple, found: Option<ProcessKey>, now: Moment) {
        let Some(connection) = self.datagrams.connections.get(tuple) else { return };
        let Some(host) = connection.host.clone() else { return };
        let began = connection.began;
        let process = found.or_else(|| self.only_one_told(&host.host, tuple.remote));
        let known = process.filter(|process| self.process(*process, None, now).is_some());
        if let Some(connection) = self.datagrams.connections.get_mut(tuple) {
            connection.owner = known.map_or(Owner::Unknown, Owner::Known);
        }
        let Some(process) = known else { return };
        // Who it is must be found out while it lives.
        self.out.push(Command::Identify(process));
        self.note_host(process.pid, &host.host, began);
        if let Some(entry) = self.processes.get_mut(&process.pid) {
            let executable = entry.executable;
            if let Some(state) = entry.hosts.get_mut(&host.host) {
                state.metadata.get_or_insert(Reason::Quic);
            }
            self.datagrams.spoke(executable, now);
        }
        self.rows_changed = true;
    }

    /// The only process that a lookup of the name gave this address.
    fn only_one_told(&self, host: &Arc<str>, remote: [u8; 16]) -> Option<ProcessKey> {
        let told = |process: &&Process| process.addresses.get(&remote) == Some(host);
        let mut all = self.processes.values().filter(told).map(|process| process.key);
        let first = all.next();
        first.filter(|_| all.next().is_none())
    }

    /// What the kernel has counted by now.
    pub(super) fn counted(&mut self, counts: &[(DatagramKey, DatagramState)], now: Moment) {
        let mut strays = Vec::new();
        for (key, state) in counts {
            match self.datagrams.connections.get_mut(&key.tuple) {
                Some(connection) if connection.ifindex == key.ifindex => connection.counted = Some(*state),
                _ if now.since(Moment(state.last_ns)) > STRAY_NS => strays.push(*key),
                _ => {}
            }
        }
        if !strays.is_empty() {
            self.out.push(Command::ForgetDatagrams(strays));
        }
        let ended: Vec<_> = self
            .datagrams
            .connections
            .iter()
            .filter_map(|(tuple, connection)| Some((*tuple, connection.end(now)?)))
            .collect();
        for (tuple, end) in ended {
            self.end_connection(&tuple, end);
        }
    }

    /// Connections of a process that ended: what the kernel counted is read once more.
    pub(super) fn datagrams_end_with(&mut self, process: ProcessKey) {
        for connection in self.datagrams.connections.values_mut() {
            if let Owner::Known(owner) = connection.owner
                && owner.pid == process.pid
            {
                connection.over = true;
            }
        }
    }

    /// The daemon stops: what is open is recorded without an end.
    pub(super) fn datagrams_stop(&mut self) {
        let open: Vec<_> = self.datagrams.connections.keys().copied().collect();
        for tuple in open {
            self.end_connection(&tuple, End::Unknown);
        }
    }

    fn end_connection(&mut self, tuple: &Tuple, end: End) {
        let Some(connection) = self.datagrams.connections.remove(tuple) else { return };
        let key = DatagramKey { tuple: *tuple, ifindex: connection.ifindex, reserved: 0 };
        self.out.push(Command::ForgetDatagrams(vec![key]));
        let Some(host) = connection.host else { return };
        let counted = connection.counted.filter(|_| end != End::Unknown);
        let flow = Flow {
            ended_at: counted.map(|state| self.clock.at(Moment(state.last_ns))),
            local: local_of(tuple),
            remote: remote_of(tuple),
            protocol: u8::try_from(tuple.protocol).unwrap_or_default(),
            bytes_sent: counted.map(|state| state.sent),
            bytes_received: counted.map(|state| state.received),
            provider: self.provider(&host.host).filter(|_| host.identified_by.names_provider()),
            host: Some(host.host),
            identified_by: Some(host.identified_by),
            seen: FlowSeen::Tap,
            coverage: Coverage::MetadataOnly(Reason::Quic),
        };
        let process = match connection.owner {
            Owner::Known(process) => process,
            Owner::Asked | Owner::Unknown => {
                self.out.push(Command::Count(Tally::FlowsUnowned));
                ProcessKey { pid: 0, start_ticks: 0 }
            }
        };
        self.out.push(Command::Count(Tally::FlowsRecorded));
        self.out.push(Command::Flow { process, flow: Box::new(flow), started: connection.began });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Told,
    Unknown,
}

impl Connection {
    /// Whether and how it is over.
    fn end(&self, now: Moment) -> Option<End> {
        let last = self.counted.map_or(self.began, |state| Moment(state.last_ns));
        if self.over || now.since(last) > IDLE_NS {
            return Some(End::Told);
        }
        (self.host.is_some() && now.since(self.began) > HOLD_NS).then_some(End::Unknown)
    }
}
