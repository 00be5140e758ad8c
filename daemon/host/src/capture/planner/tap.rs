//! When a tap is open, and which connection a name from the wire belongs to.
//!
//! A tap costs every packet of its interface, so it opens only while a connection to a TLS port is being set up whose
//! name nothing else tells, and closes after two quiet seconds. What a tap once showed is remembered per (executable,
//! destination): that it is a provider as long as the executable is the same, that it is none for a minute; and never
//! that an address of a shared delivery network is none, because it serves unrelated hosts.
//!
//! What is remembered of a provider names the next connection without a tap, and says that it does
//! ([`IdentifiedBy::SniCached`]) - unless the address is a shared one, by the directory or by what was seen there: it
//! names nothing, and the connection's own ClientHello is waited for. Nothing else is expected of such a tap, so it
//! closes as soon as it has seen that.

use std::collections::hash_map::Entry;
use std::net::IpAddr;

use abi::event::Packet;

use super::flows::{address, remote_of};
use super::*;
use crate::capture::names::Found;
use crate::capture::status::TapSnapshot;

/// Quiet time after which a tap is closed.
const QUIET_NS: u64 = 2_000 * MS;
/// How long "no provider" is believed.
const NEGATIVE_NS: u64 = 60_000 * MS;
/// Destinations remembered.
const CACHE_MAX: usize = 8_192;
/// Ports to which connections are looked at on the wire.
const PORTS: [u16; 2] = [443, 8443];

/// State of the taps.
#[derive(Default)]
pub(super) struct Tap {
    routes: Routes,
    interfaces: HashMap<u32, Interface>,
    waiting: HashMap<FlowKey, Waiting>,
    cache: HashMap<(Option<FileKey>, [u8; 16]), Known>,
    /// Until when a tap stays open for more connections like the last one of unknown name.
    quiet_at: Moment,
    opened: u64,
    started: Option<Moment>,
    open_since: Option<Moment>,
    open_ns: u64,
    timer_set: bool,
    /// Until when datagrams may follow a lookup.
    expecting: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interface {
    Opening,
    Open,
    Closing { reopen: bool },
    Refused { until: Moment },
}

struct Waiting {
    since: Moment,
    executable: Option<FileKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Provider(Arc<str>),
    None {
        until: Moment,
    },
    /// More than one name was seen there, a provider's among them: the address tells nothing.
    Several,
}

impl Known {
    /// What is known of a destination after another name was seen there.
    fn and(self, newer: Known) -> Known {
        match (&self, &newer) {
            (Known::None { .. }, _) => newer,
            (Known::Provider(one), Known::Provider(other)) if one == other => newer,
            (Known::Provider(_) | Known::Several, _) => Known::Several,
        }
    }
}

impl Tap {
    pub(super) fn set_routes(&mut self, routes: Routes) {
        self.routes = routes;
    }

    pub(super) fn closed(&mut self, ifindex: u32, now: Moment) {
        self.interfaces.remove(&ifindex);
        self.account(now);
    }

    pub(super) fn flow_ended(&mut self, key: FlowKey) {
        self.waiting.remove(&key);
    }

    pub(super) fn snapshot(&self, now: Moment) -> TapSnapshot {
        let open_now = self.open_count();
        let open_ns = self.open_ns + self.open_since.map_or(0, |since| now.since(since));
        let total_ns = self.started.map_or(0, |started| now.since(started)).max(1);
        let ppm = u128::from(open_ns) * 1_000_000 / u128::from(total_ns);
        TapSnapshot {
            open_now,
            opened: self.opened,
            open_ppm: u64::try_from(ppm).unwrap_or(1_000_000).min(1_000_000),
        }
    }

    /// True while packets may come.
    pub(super) fn is_open(&self) -> bool {
        self.open_count() > 0
    }

    fn open_count(&self) -> u64 {
        let open = |state: &&Interface| !matches!(state, Interface::Refused { .. } | Interface::Opening);
        self.interfaces.values().filter(open).count() as u64
    }

    /// Keeps the time during which at least one tap was open. A tap that is being closed still costs.
    fn account(&mut self, now: Moment) {
        self.started.get_or_insert(now);
        match (self.open_count() > 0, self.open_since) {
            (true, None) => self.open_since = Some(now),
            (false, Some(since)) => {
                self.open_ns += now.since(since);
                self.open_since = None;
            }
            _ => {}
        }
    }
}

impl Planner {
    /// Starts the clock of the open share and, where the configuration asks for it, opens the taps for good.
    pub(in crate::capture) fn start_tap(&mut self, now: Moment) -> Vec<Command> {
        self.tap.account(now);
        if self.options.tap == TapMode::Always {
            let mut all = self.tap.routes.default_interfaces();
            if !self.options.loopback_gateways.is_empty() {
                all.extend(self.tap.routes.loopback());
            }
            for ifindex in all {
                self.open_tap(ifindex, now);
            }
        }
        std::mem::take(&mut self.out)
    }

    /// A connection without a name is being made.
    pub(super) fn tap_at_connect(&mut self, key: FlowKey, executable: Option<FileKey>, now: Moment) {
        let Some(flow) = self.flows.get(&key) else { return };
        if self.options.tap == TapMode::Off {
            return;
        }
        let remote = remote_of(&flow.tuple);
        let gateway = self.options.loopback_gateways.contains(&remote);
        let wanted =
            if remote.ip().is_loopback() { gateway } else { PORTS.contains(&remote.port()) || gateway };
        if !wanted {
            return self.out.push(Command::Count(Tally::TapSkipped));
        }
        let known = self.tap.cache.get(&(executable, flow.tuple.remote)).cloned();
        match &known {
            Some(Known::Provider(host)) => {
                let (process, at) = (flow.process, flow.connected);
                self.want(process.pid, at, now);
                let named = self.names_its_sessions(process.pid);
                if !named && executable.is_some() && !self.is_shared(host) {
                    let host =
                        HostEvidence { host: Arc::clone(host), identified_by: IdentifiedBy::SniCached };
                    self.flow_named(key, host, now);
                    return self.out.push(Command::Count(Tally::TapCached));
                }
                if named {
                    return self.out.push(Command::Count(Tally::TapCached));
                }
            }
            Some(Known::None { until }) if *until > now => {
                return self.out.push(Command::Count(Tally::TapCached));
            }
            _ => {}
        }
        let Some(ifindex) = self.tap.routes.interface_to(remote.ip()) else {
            return self.out.push(Command::Count(Tally::TapSkipped));
        };
        self.out.push(Command::Count(Tally::TapWanted));
        self.tap.waiting.insert(key, Waiting { since: now, executable });
        if !matches!(known, Some(Known::Provider(_) | Known::Several)) {
            self.tap.quiet_at = Self::after(now, QUIET_NS);
        }
        self.open_tap(ifindex, now);
        self.tap_timer(now);
    }

    /// True for a host whose addresses others have, too.
    fn is_shared(&self, host: &str) -> bool {
        self.directory.lookup(host).is_none_or(|provider| provider.shared_cdn)
    }

    /// True for a process whose TLS calls will tell the names of its sessions: it carries probes.
    fn names_its_sessions(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.armed_at.is_some())
    }

    /// The connection exists: from here on a quiet time counts.
    pub(super) fn tap_established(&mut self, key: FlowKey, now: Moment) {
        if let Some(waiting) = self.tap.waiting.get_mut(&key) {
            waiting.since = now;
        }
    }

    /// Datagrams to one of these addresses may follow.
    pub(super) fn tap_expects(&mut self, addresses: impl Iterator<Item = IpAddr>, now: Moment) {
        let gateways = &self.options.loopback_gateways;
        let wanted = |address: &IpAddr| {
            !address.is_loopback() || gateways.iter().any(|gateway| gateway.ip() == *address)
        };
        let interfaces: HashSet<u32> =
            addresses.filter(wanted).filter_map(|address| self.tap.routes.interface_to(address)).collect();
        if interfaces.is_empty() {
            return self.out.push(Command::Count(Tally::TapSkipped));
        }
        self.out.push(Command::Count(Tally::TapExpected));
        self.tap.expecting = Self::after(now, QUIET_NS);
        for ifindex in interfaces {
            self.open_tap(ifindex, now);
        }
        self.tap_timer(now);
    }

    fn open_tap(&mut self, ifindex: u32, now: Moment) {
        match self.tap.interfaces.get_mut(&ifindex) {
            Some(Interface::Closing { reopen }) => *reopen = true,
            Some(Interface::Refused { until }) if *until > now => {
                self.out.push(Command::Lost(Loss::TapRefused))
            }
            Some(Interface::Opening | Interface::Open) => {}
            _ => {
                self.tap.interfaces.insert(ifindex, Interface::Opening);
                self.out.push(Command::TapOpen(ifindex));
            }
        }
    }

    pub(super) fn tap_opened(&mut self, ifindex: u32, result: Result<(), Refused>, now: Moment) {
        let state = match result {
            Ok(()) => {
                self.tap.opened += 1;
                Interface::Open
            }
            Err(_) => {
                self.out.push(Command::Lost(Loss::TapRefused));
                Interface::Refused { until: Self::after(now, NEGATIVE_NS) }
            }
        };
        self.tap.interfaces.insert(ifindex, state);
        self.tap.account(now);
    }

    fn tap_timer(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.tap.timer_set, true) {
            self.timer(Self::after(now, QUIET_NS), Timer::TapQuiet);
        }
    }

    pub(super) fn tap_quiet(&mut self, now: Moment) {
        self.tap.timer_set = false;
        if self.options.tap == TapMode::Always {
            return;
        }
        let due = |waiting: &Waiting| Self::after(waiting.since, QUIET_NS);
        let before = self.tap.waiting.len();
        self.tap.waiting.retain(|_, waiting| due(waiting) > now);
        for _ in self.tap.waiting.len()..before {
            self.out.push(Command::Count(Tally::TapInVain));
        }
        let later = [self.tap.expecting, self.tap.quiet_at].into_iter().filter(|until| *until > now);
        if let Some(next) = self.tap.waiting.values().map(due).chain(later).max() {
            self.tap.timer_set = true;
            return self.timer(next, Timer::TapQuiet);
        }
        self.close_taps(now);
    }

    /// A name was read, or a connection ended: a tap of which nothing more is expected is closed.
    pub(super) fn tap_settled(&mut self, now: Moment) {
        let expects = !self.tap.waiting.is_empty() || self.tap.quiet_at > now || self.tap.expecting > now;
        if self.options.tap != TapMode::Always && !expects && self.tap.is_open() {
            self.close_taps(now);
        }
    }

    fn close_taps(&mut self, now: Moment) {
        let held = self.datagrams.interfaces();
        if !held.is_empty() {
            self.tap_timer(now);
        }
        let open = |(ifindex, state): (&u32, &Interface)| {
            (*state == Interface::Open && !held.contains(ifindex)).then_some(*ifindex)
        };
        let quiet: Vec<_> = self.tap.interfaces.iter().filter_map(open).collect();
        for ifindex in quiet {
            self.tap.interfaces.insert(ifindex, Interface::Closing { reopen: false });
            self.out.push(Command::TapClose(ifindex));
        }
    }

    /// A tap was closed; one that was wanted meanwhile opens again.
    pub(super) fn tap_reopens(&mut self, ifindex: u32, now: Moment) {
        let reopen = self.tap.interfaces.get(&ifindex) == Some(&Interface::Closing { reopen: true });
        self.tap.closed(ifindex, now);
        if reopen {
            self.open_tap(ifindex, now);
            self.tap_timer(now);
        }
    }

    pub(super) fn packet(&mut self, packet: &Packet, now: Moment) {
        match self.assembler.packet(packet, now) {
            Ok(Found::Hello { host, quic: false }) => self.hello(&packet.tuple, &host, now),
            Ok(Found::Hello { host, quic: true }) => self.initial(packet, &host),
            Ok(Found::Answer { name, addresses }) => self.answer(&name, &addresses, now),
            Ok(Found::More | Found::Nothing) => {}
            // Once the server has chosen its connection id, Initials have keys that it does not derive.
            Err(_) if self.datagrams.knows(&packet.tuple) => {}
            Err(_) => self.out.push(Command::Lost(Loss::PacketUnparsed)),
        }
        for _ in 0..self.assembler.take_given_up() {
            self.out.push(Command::Lost(Loss::HelloIncomplete));
        }
    }

    fn hello(&mut self, tuple: &abi::event::Tuple, host: &Arc<str>, now: Moment) {
        self.out.push(Command::Count(Tally::NamesFromWire));
        let exact = |flow: &FlowState| flow.tuple == *tuple;
        let key = self.flows.iter().find(|(_, flow)| exact(flow)).map(|(key, _)| *key);
        let Some(key) = key.or_else(|| self.only_waiting(tuple)) else { return };
        let Some(flow) = self.flows.get(&key) else { return };
        let remote = flow.tuple.remote;
        let waiting = self.tap.waiting.remove(&key).and_then(|waiting| waiting.executable);
        let executable =
            waiting.or_else(|| self.processes.get(&flow.process.pid).and_then(|process| process.executable));
        let is_provider = self.directory.lookup(host).is_some();
        let seen = match is_provider {
            true => Known::Provider(Arc::clone(host)),
            false => Known::None { until: Self::after(now, NEGATIVE_NS) },
        };
        let of_several = |(_, other): &(Option<FileKey>, [u8; 16]), known: &Known| match known {
            Known::Provider(name) => *other == remote && self.is_shared(name),
            Known::Several => *other == remote,
            Known::None { .. } => false,
        };
        let on_shared = self.tap.cache.iter().any(|(key, known)| of_several(key, known));
        if self.tap.cache.len() >= CACHE_MAX {
            self.tap.cache.clear();
        }
        match self.tap.cache.entry((executable, remote)) {
            Entry::Occupied(mut known) => {
                let both = known.get().clone().and(seen);
                known.insert(both);
            }
            Entry::Vacant(unknown) if is_provider || !on_shared => drop(unknown.insert(seen)),
            Entry::Vacant(_) => {}
        }
        if is_provider {
            let host = HostEvidence { host: Arc::clone(host), identified_by: IdentifiedBy::Sni };
            self.flow_named(key, host, now);
        } else if let Some(flow) = self.flows.get_mut(&key)
            && flow.host.as_ref().is_some_and(|host| host.identified_by == IdentifiedBy::SniCached)
        {
            flow.host = None;
        }
        self.tap_settled(now);
    }

    /// The one connection to the packet's destination that waits for a name: where addresses are translated between the
    /// process and the interface, the local end differs.
    fn only_waiting(&self, tuple: &abi::event::Tuple) -> Option<FlowKey> {
        let fits = |key: &&FlowKey| {
            self.flows.get(key).is_some_and(|flow| {
                flow.tuple.remote == tuple.remote && flow.tuple.remote_port == tuple.remote_port
            })
        };
        let mut all = self.tap.waiting.keys().filter(fits);
        let first = all.next().copied();
        first.filter(|_| all.next().is_none())
    }

    /// A DNS answer with a provider's name: connections to its addresses are worth arming. It names nothing.
    fn answer(&mut self, name: &Arc<str>, addresses: &[[u8; 16]], now: Moment) {
        if self.directory.lookup(name).is_none() {
            return;
        }
        let fits = |flow: &&FlowState| flow.host.is_none() && addresses.contains(&flow.tuple.remote);
        let pids: Vec<_> = self.flows.values().filter(fits).map(|flow| flow.process.pid).collect();
        for pid in pids {
            self.want(pid, now, now);
        }
        tracing::debug!(addresses = ?addresses.iter().map(|bytes| address(*bytes)).collect::<Vec<_>>(), "provider in a DNS answer");
    }
}
