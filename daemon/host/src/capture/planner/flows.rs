//! Connections: which there are, whom they go to, and what is recorded at their end.
//!
//! A connection's host is known from the configuration, from a lookup of its process, from its own handshake (the tap)
//! or from the session that runs on it; a better name replaces one that is only likely. At its end every connection is
//! judged once, by [the rule of missed calls](super::missed), and gives at most one [`Command::Flow`]; one that goes to
//! no provider is only counted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use abi::event::{Closed, Connect, Established, Lookup, Tuple};
use meter::record::FlowSeen;

use super::*;
use crate::capture::event::host_name;

/// Addresses of a process's lookups that are remembered.
const ADDRESSES_MAX: usize = 64;
/// Ports where providers listen when nothing else is said.
pub(super) const TLS_PORTS: [u16; 2] = [443, 8443];

impl Planner {
    pub(super) fn connect(&mut self, connect: &Connect, now: Moment) {
        let Some(process) = self.process_of(&connect.task, now) else { return };
        let (key, executable) = (process.key, process.executable);
        let remote = remote_of(&connect.tuple);
        let looked_up = process.addresses.get(&connect.tuple.remote).cloned();
        let host = self.configured(remote).or_else(|| {
            looked_up.map(|host| HostEvidence { host, identified_by: IdentifiedBy::Getaddrinfo })
        });
        let at = Moment(connect.head.at_ns);
        let flow_key = FlowKey::Socket(connect.socket);
        if self.flows.contains_key(&flow_key) {
            // Its end was lost: the kernel uses the address again.
            self.end_flow(flow_key, None, now);
        }
        let named = host.is_some();
        // Without room for the connection its process is armed all the same.
        if self.new_flow(flow_key, FlowState::new(key, connect.tuple, at, host.clone(), false)) {
            self.claim_for_waiting(flow_key);
        }
        if let Some(host) = host {
            self.note_host(key.pid, &host.host, at);
            self.want(key.pid, at, now);
        } else if self.is_known_ai(executable) {
            self.want_on_suspicion(key.pid, at, now);
        }
        self.want_eagerly(key.pid, at, now);
        self.scan_at_connect(key.pid);
        // After what arms: finding out who it is takes longer than a client has until its first write. And not for the
        // many that have nothing to do with a provider.
        if named || self.processes.get(&key.pid).is_some_and(|process| process.wanted) {
            self.out.push(Command::Resolve(key, Box::new(connect.task)));
        }
        if !named {
            self.tap_at_connect(flow_key, executable, now);
        }
    }

    /// Follows a connection; false if there is no room.
    fn new_flow(&mut self, key: FlowKey, flow: FlowState) -> bool {
        if self.flows.len() >= FLOWS_MAX {
            self.out.push(Command::Lost(Loss::FlowsFull));
            return false;
        }
        if let Some(process) = self.processes.get_mut(&flow.process.pid) {
            process.flows.insert(key);
        }
        self.flows.insert(key, flow);
        true
    }

    pub(super) fn established(&mut self, established: &Established, now: Moment) {
        let Some(flow) = self.flows.get_mut(&FlowKey::Socket(established.socket)) else { return };
        flow.established = true;
        flow.tuple = established.tuple;
        let pid = flow.process.pid;
        self.tap_established(FlowKey::Socket(established.socket), now);
        self.rescan(pid);
    }

    pub(super) fn closed(&mut self, closed: &Closed, now: Moment) {
        let key = FlowKey::Socket(closed.socket);
        let Some(flow) = self.flows.get_mut(&key) else { return };
        flow.established |= closed.established_ns != 0;
        if closed.tuple.local_port != 0 {
            flow.tuple = closed.tuple;
        }
        let bytes = (closed.has_bytes == 1).then_some((closed.bytes_sent, closed.bytes_received));
        self.end_flow(key, Some(FlowEnd { at: Moment(closed.head.at_ns), bytes }), now);
    }

    pub(super) fn lookup(&mut self, lookup: &Lookup, now: Moment) {
        let Some(host) = host_name(&lookup.name, lookup.name_len) else { return };
        if self.directory.lookup(&host).is_none() {
            return;
        }
        let Some(process) = self.process_of(&lookup.task, now) else { return };
        let key = process.key;
        let count = (lookup.address_count as usize).min(lookup.addresses.len());
        for address in &lookup.addresses[..count] {
            if process.addresses.len() >= ADDRESSES_MAX {
                process.addresses.clear();
            }
            process.addresses.insert(*address, Arc::clone(&host));
        }
        let executable = process.executable;
        self.want(key.pid, Moment(lookup.head.at_ns), now);
        self.datagrams_may_follow(executable, &lookup.addresses[..count], now);
        if lookup.returned == 0 {
            self.out.push(Command::Resolve(key, Box::new(lookup.task)));
        }
    }

    /// A name that SNI or a QUIC Initial gave a connection.
    pub(super) fn flow_named(&mut self, key: FlowKey, host: HostEvidence, now: Moment) {
        let Some(flow) = self.flows.get_mut(&key) else { return };
        if flow.host.as_ref().is_none_or(may_be_bettered) {
            flow.host = Some(host.clone());
        }
        let (process, connected) = (flow.process, flow.connected);
        self.note_host(process.pid, &host.host, connected);
        self.want(process.pid, connected, now);
    }

    /// A Host header named a provider: the process has earned its probes, and its only unnamed connection its name.
    pub(super) fn host_seen(&mut self, process: ProcessKey, host: HostEvidence, now: Moment) {
        if !self.is_followed(process) || self.directory.lookup(&host.host).is_none() {
            return;
        }
        self.note_host(process.pid, &host.host, now);
        if let Some(known) = self.processes.get_mut(&process.pid) {
            known.probation = false;
            if let Some(state) = known.hosts.get_mut(&host.host) {
                state.captured = true;
            }
        }
        let Some(known) = self.processes.get(&process.pid) else { return };
        let flows = || known.flows.iter().filter_map(|key| Some((*key, self.flows.get(key)?)));
        let unnamed = |flow: &FlowState| flow.host.is_none() && TLS_PORTS.contains(&flow.tuple.remote_port);
        let keys: Vec<_> = flows().filter(|(_, flow)| unnamed(flow)).map(|(key, _)| key).collect();
        let has_its_own = flows().any(|(_, flow)| flow.is_to(&host.host));
        if let ([key], false) = (keys.as_slice(), has_its_own)
            && let Some(flow) = self.flows.get_mut(key)
        {
            flow.host = Some(host);
            flow.covered = Covered::FromRequest { surely: true };
        }
    }

    pub(super) fn found_connection(&mut self, connection: Connection, now: Moment) {
        if self.process(connection.process, connection.executable, now).is_none() {
            return;
        }
        let host = self.configured(remote_of(&connection.tuple));
        let key = FlowKey::Found(self.timer_number);
        self.timer_number += 1;
        let pid = connection.process.pid;
        let named = host.clone();
        let mut flow = FlowState::new(connection.process, connection.tuple, now, host, true);
        flow.established = true;
        self.new_flow(key, flow);
        if let Some(host) = named {
            self.note_host(pid, &host.host, now);
            self.want(pid, now, now);
        } else if TLS_PORTS.contains(&connection.tuple.remote_port) {
            self.probation(pid, now);
        }
    }

    /// A connection is over (`end`), was lost sight of, or the daemon stops (`None`).
    pub(super) fn end_flow(&mut self, key: FlowKey, end: Option<FlowEnd>, now: Moment) {
        let Some(flow) = self.flows.remove(&key) else { return };
        if let Some(process) = self.processes.get_mut(&flow.process.pid) {
            process.flows.remove(&key);
        }
        self.tap.flow_ended(key);
        self.tap_settled(now);
        let session = flow.session.and_then(|identity| self.sessions.get_mut(&identity));
        let metadata = flow.metadata;
        if !flow.established {
            // The client tries its next address: the session waits for that connection.
            if let Some(session) = session {
                session.flow = None;
            }
        }
        let known = |host: &HostEvidence| {
            self.directory.lookup(&host.host).is_some() && !self.is_refuted(&flow, host)
        };
        let Some(host) = flow.host.clone().filter(known) else {
            self.out.push(Command::Count(Tally::FlowsOther));
            return;
        };
        let missed = end.is_some() && self.is_missed(&flow, &host.host, end.and_then(|end| end.bytes));
        if missed {
            self.missed(flow.process, host.clone(), flow.connected);
        }
        let coverage = self.coverage_of(&flow, missed, metadata);
        let provider = self.provider(&host.host).filter(|_| host.identified_by.names_provider());
        let bytes = end.and_then(|end| end.bytes);
        let record = Flow {
            ended_at: end.map(|end| self.clock.at(end.at)),
            local: local_of(&flow.tuple),
            remote: remote_of(&flow.tuple),
            protocol: u8::try_from(flow.tuple.protocol).unwrap_or_default(),
            bytes_sent: bytes.map(|(sent, _)| sent),
            bytes_received: bytes.map(|(_, received)| received),
            provider,
            host: Some(host.host),
            identified_by: Some(host.identified_by),
            seen: if flow.found { FlowSeen::AtStart } else { FlowSeen::Connect },
            coverage,
        };
        self.out.push(Command::Count(Tally::FlowsRecorded));
        let started = if flow.found { now } else { flow.connected };
        self.out.push(Command::Flow { process: flow.process, flow: Box::new(record), started });
    }

    /// Connections found at the start have no end of their own: they end with their process.
    pub(super) fn flows_end_with(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for key in std::mem::take(&mut process.flows) {
            self.end_flow(key, None, now);
        }
    }

    /// A gateway that the configuration names by address.
    pub(super) fn configured(&self, remote: SocketAddr) -> Option<HostEvidence> {
        let text = remote.to_string();
        let provider = self.directory.lookup(&text)?;
        provider
            .configured
            .then(|| HostEvidence { host: text.into(), identified_by: IdentifiedBy::Configured })
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowEnd {
    at: Moment,
    bytes: Option<(u64, u64)>,
}

impl FlowState {
    fn new(
        process: ProcessKey,
        tuple: Tuple,
        connected: Moment,
        host: Option<HostEvidence>,
        found: bool,
    ) -> FlowState {
        FlowState {
            process,
            tuple,
            connected,
            established: false,
            host,
            session: None,
            covered: Covered::Nothing,
            session_sent: None,
            metadata: None,
            found,
        }
    }

    fn is_to(&self, host: &str) -> bool {
        self.host.as_ref().is_some_and(|known| &*known.host == host)
    }
}

/// True for a name that a connection's own handshake has not told.
pub(super) fn may_be_bettered(known: &HostEvidence) -> bool {
    !known.identified_by.names_provider() || known.identified_by == IdentifiedBy::SniCached
}

/// The remote end.
pub(super) fn remote_of(tuple: &Tuple) -> SocketAddr {
    SocketAddr::new(address(tuple.remote), tuple.remote_port)
}

pub(super) fn local_of(tuple: &Tuple) -> SocketAddr {
    SocketAddr::new(address(tuple.local), tuple.local_port)
}

/// An address of the kernel's records, IPv4 unmapped.
pub(super) fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}
