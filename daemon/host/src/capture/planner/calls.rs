//! Connections and TLS sessions, how they are paired, and which calls went by unseen.
//!
//! The kernel tells of both, and nothing joins them: no descriptor is dug out of an `SSL*`. Pairing rests on the order
//! in which clients do things. A session *claims* a connection when it gets its name (else at its first content): of
//! its process's connections that no session claimed and that are not closed, the youngest whose name agrees, then the
//! youngest without a name to a TLS port. Nothing there yet: the next connection of the process is claimed. Two
//! connections to one host may be swapped by this; counts and names stay right.
//!
//! *The rule of missed calls*: at the end of a connection to a provider a call was missed if
//! 1. it was established and moved enough for a request (see [`REQUEST_SENT_MIN`]), and
//! 2. its session shows no content; or it does, from a request on, but the session was named before its process was
//!    armed and the connection carried more than that content accounts for (see [`unexplained`]), and
//! 3. the reason can be lateness: the process's TLS library is one that we read, and the connection began before the
//!    process was armed.
//!
//! A session whose first content is the middle of something is opened as joined late: the pipeline makes the record of
//! the call that it joined, so that the planner must not.
//!
//! How many calls went by over one connection is not known: one record stands for at least one.
//!
//! A named session without any connection is judged the same way at its own end, by its content alone. So every
//! connection and every session is judged once, at its end, and gives at most one [`Command::Missed`]. A connection of
//! an armed process without a session is not late but dark, and its flow says so.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use abi::event::{Closed, Connect, Established, Lookup, SessionFreed, SessionNamed, Tuple};
use meter::pipeline::SessionVerdict;
use meter::record::FlowSeen;

use super::*;
use crate::capture::event::host_name;

/// Bytes that a client sends before its first request at most count as handshake: a ClientHello of OpenSSL 3 (517), the
/// dummy change of cipher (6) and a Finished with SHA-384 (74) are 597; a request line with a Host header in a record
/// adds 80. Post-quantum key shares add 1,200 to the first, so that a bare handshake with them passes for a call.
const REQUEST_SENT_MIN: u64 = 680;
/// Addresses of a process's lookups that are remembered.
const ADDRESSES_MAX: usize = 64;
/// Hosts of one process that have a row of their own.
const HOSTS_MAX: usize = 64;
/// Ports where providers listen when nothing else is said.
const TLS_PORTS: [u16; 2] = [443, 8443];

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

    pub(super) fn session_named(&mut self, named: &SessionNamed, now: Moment) {
        let Some(host) = host_name(&named.name, named.name_len) else { return };
        if self.directory.lookup(&host).is_none() {
            return;
        }
        let Some(process) = self.process_of(&named.task, now) else { return };
        let key = process.key;
        let at = Moment(named.head.at_ns);
        let identity = SessionIdentity { tgid: named.task.tgid, ssl: named.ssl, opened_ns: named.opened_ns };
        let evidence = tls_evidence(host);
        self.note_host(key.pid, &evidence.host, at);
        if let Some(session) = self.sessions.get_mut(&identity) {
            session.host = Some(evidence.clone());
            if session.opened {
                self.out.push(Command::Named(identity, evidence.clone()));
            }
        } else if self.new_session(identity, key, at, Some(evidence.clone())) {
            self.out.push(Command::Count(Tally::Sessions));
        }
        self.claim(identity);
        self.want(key.pid, at, now);
        self.out.push(Command::Resolve(key, Box::new(named.task)));
    }

    fn new_session(
        &mut self,
        identity: SessionIdentity,
        process: ProcessKey,
        named_at: Moment,
        host: Option<HostEvidence>,
    ) -> bool {
        if self.sessions.len() >= SESSIONS_MAX {
            self.out.push(Command::Lost(Loss::SessionsFull));
            return false;
        }
        let covered = Covered::Nothing;
        let session = Session { process, host, named_at, flow: None, opened: false, covered };
        if let Some(process) = self.processes.get_mut(&process.pid) {
            process.sessions.insert(identity);
        }
        self.sessions.insert(identity, session);
        true
    }

    pub(super) fn first_content(&mut self, first: FirstContent) {
        // Whoever hands out content was armed, and whoever was armed is known until it is forgotten.
        if !self.is_followed(first.process) {
            self.out.push(Command::Lost(Loss::SessionsOrphaned));
            return self.refuse_session(first.identity);
        }
        if !self.sessions.contains_key(&first.identity) {
            let opened = Moment(first.identity.opened_ns);
            if !self.new_session(first.identity, first.process, opened, None) {
                return self.refuse_session(first.identity);
            }
            self.claim(first.identity);
        }
        let armed_at = self.processes.get(&first.process.pid).and_then(|process| process.armed_at);
        let Some(session) = self.sessions.get_mut(&first.identity) else { return };
        if session.opened {
            return;
        }
        let surely = session.host.is_some() && armed_at.is_some_and(|armed| armed <= session.named_at);
        let from_request = first.direction == Direction::Sent && first.request;
        session.opened = true;
        session.covered =
            if from_request || surely { Covered::FromRequest { surely } } else { Covered::Late };
        let (covered, flow, host) = (session.covered, session.flow, session.host.clone());
        if let Some(flow) = flow.and_then(|flow| self.flows.get_mut(&flow)) {
            flow.covered = covered;
        }
        if let (Some(host), Some(process)) = (&host, self.processes.get_mut(&first.process.pid))
            && let Some(state) = process.hosts.get_mut(&host.host)
            && covered != Covered::Late
        {
            state.captured = true;
            self.rows_changed = true;
        }
        self.out.push(Command::Open {
            identity: first.identity,
            process: first.process,
            host,
            joined_late: covered == Covered::Late,
        });
    }

    pub(super) fn session_freed(&mut self, freed: &SessionFreed, _now: Moment) {
        let identity = SessionIdentity { tgid: freed.tgid, ssl: freed.ssl, opened_ns: freed.opened_ns };
        if self.sessions.contains_key(&identity) {
            self.end_session(identity, Some((freed.sent, freed.received)));
        } else {
            // A shard may hold what came of it before the planner was told, or refused.
            let (sent, received) = (Some(freed.sent), Some(freed.received));
            self.out.push(Command::Close { identity, sent, received });
        }
    }

    /// Content of a session that is not followed: its shard does not wait for more, and the kernel hands out no more.
    fn refuse_session(&mut self, identity: SessionIdentity) {
        self.out.push(Command::Verdict(identity, abi::control::Verdict::MetadataOnly));
        self.out.push(Command::Close { identity, sent: None, received: None });
    }

    /// Bytes of a session go by uncounted while nothing is attached: what comes later cannot be told from what went by,
    /// so that no more of it is metered.
    pub(super) fn give_up_session(&mut self, identity: SessionIdentity) {
        let Some(session) = self.sessions.get(&identity).filter(|session| session.opened) else { return };
        if let Some(flow) = session.flow.and_then(|flow| self.flows.get_mut(&flow)) {
            flow.metadata = Some(Reason::LateAttach);
        }
        self.out.push(Command::Verdict(identity, abi::control::Verdict::MetadataOnly));
        self.end_session(identity, None);
    }

    fn is_followed(&self, process: ProcessKey) -> bool {
        self.processes.get(&process.pid).is_some_and(|known| {
            let starts = [known.key.start_ticks, process.start_ticks];
            starts.contains(&0) || starts[0] == starts[1]
        })
    }

    pub(super) fn sessions_end_with(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for identity in std::mem::take(&mut process.sessions) {
            self.end_session(identity, None);
        }
    }

    /// Takes a session out of the table and of its process.
    fn take_session(&mut self, identity: SessionIdentity) -> Option<Session> {
        let session = self.sessions.remove(&identity)?;
        if let Some(process) = self.processes.get_mut(&session.process.pid) {
            process.sessions.remove(&identity);
        }
        Some(session)
    }

    fn end_session(&mut self, identity: SessionIdentity, bytes: Option<(u64, u64)>) {
        let Some(session) = self.take_session(identity) else { return };
        if session.opened {
            let (sent, received) = bytes.unzip();
            self.out.push(Command::Close { identity, sent, received });
        }
        if let Some(flow) = session.flow.and_then(|flow| self.flows.get_mut(&flow)) {
            flow.session_sent = bytes.map(|(sent, _)| sent);
        }
        // A connection judges the call at its end; without one the session's own content must do.
        let alone = session.host.clone().filter(|_| session.flow.is_none());
        if let Some(host) = alone {
            let armed_in_time = self.armed_at(session.process).is_some_and(|armed| armed <= session.named_at);
            if session.covered == Covered::Nothing && !armed_in_time {
                self.missed(session.process, host, session.named_at);
            }
        }
        self.ended.push_back((identity, session));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }

    /// Joins a session to the connection it most likely runs on.
    fn claim(&mut self, identity: SessionIdentity) {
        let Some(session) = self.sessions.get(&identity) else { return };
        if session.flow.is_some() {
            return;
        }
        let (process, host) = (session.process, session.host.clone());
        let rank = |flow: &FlowState| {
            let agrees = flow.host.as_ref().zip(host.as_ref()).map(|(a, b)| a.host == b.host);
            match (flow.session.is_none(), agrees) {
                (true, Some(true)) => Some(2),
                (true, None) => TLS_PORTS.contains(&flow.tuple.remote_port).then_some(1),
                _ => None,
            }
        };
        let Some(known) = self.processes.get(&process.pid) else { return };
        let flows = known.flows.iter().filter_map(|key| Some((key, self.flows.get(key)?)));
        let best = flows.filter_map(|(key, flow)| Some((rank(flow)?, flow.connected, *key))).max();
        if let Some((_, _, key)) = best {
            self.join(identity, key);
        }
    }

    /// Gives a new connection to a session of its process that has none: some clients name the session first.
    fn claim_for_waiting(&mut self, key: FlowKey) {
        let Some(flow) = self.flows.get(&key) else { return };
        let Some(process) = self.processes.get(&flow.process.pid) else { return };
        let fits = |session: &Session| match (&flow.host, &session.host) {
            (Some(a), Some(b)) => a.host == b.host,
            (None, Some(_)) => TLS_PORTS.contains(&flow.tuple.remote_port),
            _ => false,
        };
        let waiting = |identity: &SessionIdentity| {
            let session = self.sessions.get(identity)?;
            (session.flow.is_none() && fits(session)).then_some((session.named_at, *identity))
        };
        let oldest = process.sessions.iter().filter_map(waiting).min();
        if let Some((_, identity)) = oldest {
            self.join(identity, key);
        }
    }

    fn join(&mut self, identity: SessionIdentity, key: FlowKey) {
        let (Some(session), Some(flow)) = (self.sessions.get_mut(&identity), self.flows.get_mut(&key)) else {
            return;
        };
        session.flow = Some(key);
        flow.session = Some(identity);
        flow.covered = session.covered;
        if let Some(host) = &session.host
            && flow.host.as_ref().is_none_or(may_be_bettered)
        {
            flow.host = Some(host.clone());
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

    /// An address is shared by many hosts. In a process whose TLS library was watched from before the connection on, a
    /// connection to the provider would have a session with its name: without one it went elsewhere.
    fn is_refuted(&self, flow: &FlowState, host: &HostEvidence) -> bool {
        let watched = self.armed_at(flow.process).is_some_and(|armed| armed <= flow.connected);
        host.identified_by == IdentifiedBy::Getaddrinfo && flow.session.is_none() && watched
    }

    /// The rule of missed calls.
    fn is_missed(&self, flow: &FlowState, host: &str, bytes: Option<(u64, u64)>) -> bool {
        let mixed = self.directory.lookup(host).is_some_and(|provider| provider.mixed);
        let moved = bytes.is_none_or(|(sent, received)| sent >= REQUEST_SENT_MIN && received > 0);
        if mixed || flow.found || !flow.established || !moved {
            return false;
        }
        let unseen = match flow.covered {
            Covered::FromRequest { surely: true } => false,
            Covered::FromRequest { surely: false } => {
                unexplained(bytes.map(|(sent, _)| sent), flow.session_sent)
            }
            // The pipeline was told that it joined late: it makes the record itself when the answer comes.
            Covered::Late => false,
            Covered::Nothing => self.armed_at(flow.process).is_none_or(|armed| armed > flow.connected),
        };
        let readable = self.processes.get(&flow.process.pid).is_some_and(|process| {
            let known =
                flow.session.is_some() || !process.tls_files.is_empty() || !process.attachments.is_empty();
            known || matches!(process.dark, None | Some(DarkReason::Gone))
        });
        unseen && readable && self.options.scope != Scope::Off
    }

    fn coverage_of(&self, flow: &FlowState, missed: bool, metadata: Option<Reason>) -> Coverage {
        if self.options.scope == Scope::Off {
            return Coverage::Dark(DarkReason::SwitchedOff);
        }
        match (flow.covered, metadata) {
            (_, Some(reason)) => Coverage::MetadataOnly(reason),
            _ if missed => Coverage::MetadataOnly(Reason::LateAttach),
            (Covered::FromRequest { .. }, None) => Coverage::Captured,
            (Covered::Late, None) => Coverage::MetadataOnly(Reason::LateAttach),
            (Covered::Nothing, None) => {
                let process = self.processes.get(&flow.process.pid);
                let dark = process.and_then(|process| process.dark);
                match (dark, flow.session.is_some()) {
                    (Some(reason), false) => Coverage::Dark(reason),
                    (None, false) => Coverage::Dark(DarkReason::UnknownTlsLibrary),
                    // Its session is known and carried nothing: there was no call.
                    (_, true) => Coverage::Captured,
                }
            }
        }
    }

    fn missed(&mut self, process: ProcessKey, host: HostEvidence, started: Moment) {
        self.note_host(process.pid, &host.host, started);
        if let Some(state) =
            self.processes.get_mut(&process.pid).and_then(|known| known.hosts.get_mut(&host.host))
        {
            state.late += 1;
        }
        self.out.push(Command::Count(Tally::LateAttach));
        self.out.push(Command::Missed { process, host, started, reason: Reason::LateAttach });
    }

    pub(super) fn decided(&mut self, decision: Decision) {
        use abi::control::Verdict;
        let Decision { identity, verdict } = decision;
        let ended = self.ended.iter().rev().find(|(other, _)| *other == identity).map(|(_, session)| session);
        let Some(session) = self.sessions.get(&identity).or(ended) else { return };
        let (pid, flow, host) = (session.process.pid, session.flow, session.host.clone());
        let lives = self.sessions.contains_key(&identity);
        let kernel = match verdict {
            SessionVerdict::Capture => Verdict::Ai,
            SessionVerdict::Ignore => Verdict::NotAi,
            SessionVerdict::MetadataOnly(_) => Verdict::MetadataOnly,
        };
        if let SessionVerdict::MetadataOnly(reason) = verdict {
            if let Some(flow) = flow.and_then(|flow| self.flows.get_mut(&flow)) {
                flow.metadata = Some(reason);
            }
            let process = self.processes.get_mut(&pid);
            if let (Some(host), Some(process)) = (host, process)
                && let Some(state) = process.hosts.get_mut(&host.host)
            {
                state.metadata = Some(reason);
                state.captured = false;
                self.rows_changed = true;
            }
        }
        if lives {
            self.out.push(Command::Verdict(identity, kernel));
        }
        if lives && kernel == Verdict::NotAi {
            // What it claimed without a name was not its own.
            let claimed = self.take_session(identity).and_then(|session| session.flow);
            if let Some(flow) = claimed.and_then(|flow| self.flows.get_mut(&flow)) {
                (flow.session, flow.covered) = (None, Covered::Nothing);
            }
            self.out.push(Command::Close { identity, sent: None, received: None });
        }
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

    /// Connections found at the start have no end of their own: they end with their process.
    pub(super) fn flows_end_with(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for key in std::mem::take(&mut process.flows) {
            self.end_flow(key, None, now);
        }
    }

    pub(super) fn stop(&mut self, now: Moment) {
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

    pub(super) fn note_host(&mut self, pid: u32, host: &Arc<str>, at: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.hosts.contains_key(host) || process.hosts.len() >= HOSTS_MAX {
            return;
        }
        let state = HostState { first_seen: at, late: 0, captured: false, metadata: None };
        process.hosts.insert(Arc::clone(host), state);
        self.rows_changed = true;
    }

    /// A gateway that the configuration names by address.
    pub(super) fn configured(&self, remote: SocketAddr) -> Option<HostEvidence> {
        let text = remote.to_string();
        let provider = self.directory.lookup(&text)?;
        provider
            .configured
            .then(|| HostEvidence { host: text.into(), identified_by: IdentifiedBy::Configured })
    }

    fn armed_at(&self, process: ProcessKey) -> Option<Moment> {
        self.processes.get(&process.pid).and_then(|known| known.armed_at)
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

/// True if a connection sent clearly more than its handshake and the plaintext of its session in records explain: a
/// post-quantum ClientHello with the rest of the handshake stays below 2,500 bytes, and records of 100 bytes and more
/// add less than a quarter.
fn unexplained(sent: Option<u64>, plaintext: Option<u64>) -> bool {
    let (Some(sent), Some(plaintext)) = (sent, plaintext) else { return false };
    sent > plaintext.saturating_add(plaintext / 4).saturating_add(2_500)
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
