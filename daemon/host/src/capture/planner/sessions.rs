//! TLS sessions, and how they are paired with connections.
//!
//! The kernel tells of both, and nothing joins them: no descriptor is dug out of an `SSL*`. Pairing rests on the order
//! in which clients do things. A session *claims* a connection when it gets its name (else at its first content): of
//! its process's connections that no session claimed and that are not closed, the youngest whose name agrees, then the
//! youngest without a name to a TLS port. Nothing there yet: the next connection of the process is claimed. Two
//! connections to one host may be swapped by this; counts and names stay right.
//!
//! A session whose first content is the middle of something is opened as joined late: the pipeline makes the record of
//! the call that it joined, so that the planner must not.

use abi::event::{SessionFreed, SessionNamed};
use meter::pipeline::SessionVerdict;

use super::flows::{TLS_PORTS, may_be_bettered};
use super::*;
use crate::capture::event::host_name;

impl Planner {
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

    /// Content of a session that is not followed: its shard does not wait for more, and the kernel hands out no more.
    fn refuse_session(&mut self, identity: SessionIdentity) {
        self.out.push(Command::Verdict(identity, abi::control::Verdict::MetadataOnly));
        self.out.push(Command::Close { identity, sent: None, received: None });
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
    pub(super) fn claim_for_waiting(&mut self, key: FlowKey) {
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

    pub(super) fn sessions_end_with(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for identity in std::mem::take(&mut process.sessions) {
            self.end_session(identity, None);
        }
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

    /// Takes a session out of the table and of its process.
    pub(super) fn take_session(&mut self, identity: SessionIdentity) -> Option<Session> {
        let session = self.sessions.remove(&identity)?;
        if let Some(process) = self.processes.get_mut(&session.process.pid) {
            process.sessions.remove(&identity);
        }
        Some(session)
    }
}
