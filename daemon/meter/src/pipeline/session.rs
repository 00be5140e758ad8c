//! One session: whose it is, what it speaks, and the exchanges open on it.

mod exchanges;
mod messages;

use std::sync::Arc;

use smallvec::SmallVec;

pub(super) use self::exchanges::missed;
use self::exchanges::{Exchanges, Naming};
use self::messages::Meter;
use super::{HostEvidence, SessionVerdict, Shared};
use crate::exchange::{Exchange, Reason, SessionId};
use crate::flow::{Direction, Piece, Stream};
use crate::http::{Protocol, h1};
use crate::limits::SESSION_BYTES;
use crate::loss::Tally;
use crate::time::Moment;
use crate::workload::{ProcessKey, Workload};

/// What a step made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Boxed as their records hold them; a step seldom makes more than one.
    pub(super) exchanges: SmallVec<[Box<Exchange>; 1]>,
    pub(super) verdict: Option<SessionVerdict>,
    pub(super) lost: Vec<(Reason, u64)>,
}

/// One TLS session or plain connection.
#[derive(Debug)]
pub(super) struct Session {
    protocol: Protocol,
    sent: Stream,
    received: Stream,
    tally: Tally,
    touched: Moment,
    state: Exchanges,
}

/// What is kept of a session that was silent for long, or made room: whose it is, and how far it got.
#[derive(Debug)]
pub(super) struct Dormant {
    process: ProcessKey,
    workload: Arc<Workload>,
    host: Option<HostEvidence>,
    naming: Naming,
    ordinal: u32,
    /// It spoke HTTP/1 and nothing was under way: it goes on as it began.
    at_rest: bool,
    sent: Stream,
    received: Stream,
}

const _: () = assert!(size_of::<Dormant>() <= SESSION_BYTES);

impl Session {
    /// What is to be kept of it when it is given up although it may go on.
    pub(super) fn dormant(&self) -> Dormant {
        let Exchanges { process, workload, host, naming, ordinal, .. } = &self.state;
        Dormant {
            process: *process,
            workload: Arc::clone(workload),
            host: host.clone(),
            naming: naming.clone(),
            ordinal: *ordinal,
            at_rest: self.protocol.is_at_rest(),
            sent: self.sent,
            received: self.received,
        }
    }

    /// It goes on: unless it was at rest, what it speaks is found out as if it had been joined in the middle.
    pub(super) fn wake(id: SessionId, dormant: Dormant, now: Moment) -> Session {
        let Dormant { process, workload, host, naming, ordinal, at_rest, sent, received } = dormant;
        let mut session = Session::new(id, process, workload, !at_rest, now);
        (session.sent, session.received) = (sent, received);
        (session.state.host, session.state.naming, session.state.ordinal) = (host, naming, ordinal);
        session
    }

    pub(super) fn new(
        id: SessionId,
        process: ProcessKey,
        workload: Arc<Workload>,
        joined_late: bool,
        now: Moment,
    ) -> Session {
        Session {
            protocol: Protocol::new(joined_late),
            sent: Stream::default(),
            received: Stream::default(),
            tally: Tally::default(),
            touched: now,
            state: Exchanges {
                id,
                process,
                workload,
                host: None,
                naming: Naming::Unknown,
                ordinal: 0,
                open: SmallVec::new(),
                talks: Vec::new(),
                made: Made::default(),
            },
        }
    }

    pub(super) fn workload(&self) -> &Arc<Workload> {
        &self.state.workload
    }

    pub(super) fn touched(&self) -> Moment {
        self.touched
    }

    pub(super) fn touch(&mut self, now: Moment) {
        self.touched = self.touched.max(now);
    }

    pub(super) fn take_made(&mut self) -> Made {
        let mut made = std::mem::take(&mut self.state.made);
        made.lost.extend(self.tally.lost.drain());
        made
    }

    pub(super) fn resolve(&mut self, workload: Arc<Workload>) {
        if workload.process == self.state.process || self.state.process.start_ticks == 0 {
            self.state.workload = workload;
        }
    }

    /// The host became known. Only evidence that may name a provider counts, and the first stays.
    pub(super) fn name(&mut self, host: HostEvidence, shared: &Shared, now: Moment) {
        if !host.identified_by.names_provider() || self.state.host.is_some() {
            return;
        }
        let naming = match shared.directory.lookup(&host.host) {
            Some(provider) => Naming::Provider(Arc::clone(&provider.name)),
            None => Naming::NotAi,
        };
        self.state.decide(host, naming);
        self.stop_if_not_ai(shared, now);
    }

    /// Takes bytes of one direction, which begin at `offset` when so many at least had moved in the `opposite` one.
    pub(super) fn chunk(
        &mut self,
        direction: Direction,
        [offset, opposite]: [u64; 2],
        bytes: &[u8],
        shared: &Shared,
        now: Moment,
    ) {
        let (stream, other, backwards) = match direction {
            Direction::Sent => (&mut self.sent, &mut self.received, Direction::Received),
            Direction::Received => (&mut self.received, &mut self.sent, Direction::Sent),
        };
        let missing = other.reach(opposite);
        let (gap, fresh) = stream.accept(offset, bytes);
        let mut holes = [(direction, gap), (backwards, missing)];
        // Which of two was first is not known. Clients ask first.
        holes.sort();
        for (direction, bytes) in holes {
            self.piece(direction, Piece::Gap(bytes), shared, now);
        }
        self.piece(direction, Piece::Bytes(fresh), shared, now);
        self.name_by_prefix(shared);
        self.stop_if_not_ai(shared, now);
    }

    /// It is over; `ends` are the bytes that it moved, if they are known.
    pub(super) fn close(&mut self, ends: Option<(u64, u64)>, shared: &Shared, now: Moment) {
        if let Some((sent, received)) = ends {
            let gap = self.sent.reach(sent);
            self.piece(Direction::Sent, Piece::Gap(gap), shared, now);
            let gap = self.received.reach(received);
            self.piece(Direction::Received, Piece::Gap(gap), shared, now);
        }
        let mut sink = Meter { state: &mut self.state, shared, now };
        self.protocol.finish(None, &mut self.tally, &mut sink);
        sink.state.abandon(Reason::Interrupted, now);
    }

    /// A parser panicked: nothing of its state is looked at again. What was open is told without what it may have said.
    pub(super) fn panicked(&mut self) {
        let told = std::mem::take(&mut self.state.made.exchanges);
        self.state.made = Made { exchanges: told, ..Made::default() };
        for open in std::mem::take(&mut self.state.open) {
            self.state.made.exchanges.push(Box::new(open.given_up()));
        }
        for talk in std::mem::take(&mut self.state.talks) {
            self.state.made.exchanges.push(Box::new(talk.given_up()));
        }
        self.protocol = Protocol::Unmetered(Reason::Panicked);
        let missing =
            self.tally.seen.saturating_sub(self.tally.metered).saturating_sub(self.tally.lost.total());
        self.tally.lost.add(Reason::Panicked, missing);
        self.state.made.verdict = Some(SessionVerdict::MetadataOnly(Reason::Panicked));
    }

    fn piece(&mut self, direction: Direction, piece: Piece<'_>, shared: &Shared, now: Moment) {
        if piece.is_empty() {
            return;
        }
        if let Naming::NotAi = self.state.naming {
            // Not for us: what came before the kernel knew is passed over.
            self.tally.seen = self.tally.seen.saturating_add(piece.len());
            self.tally.metered = self.tally.metered.saturating_add(piece.len());
            return;
        }
        let mut sink = Meter { state: &mut self.state, shared, now };
        if let Some(reason) = self.protocol.push(direction, piece, &shared.budget, &mut self.tally, &mut sink)
        {
            sink.state.made.verdict = Some(SessionVerdict::MetadataOnly(reason));
        }
    }

    /// Of a session of unknown name only the start of a write is handed out: its host may stand there although the
    /// head is not whole.
    fn name_by_prefix(&mut self, shared: &Shared) {
        if let (Naming::Unknown, Protocol::Http1(connection)) = (&self.state.naming, &self.protocol)
            && let Some(host) = h1::host_of_partial(connection.partial_request())
        {
            let target = first_target(connection.partial_request()).unwrap_or("/").to_owned();
            let host = host.to_owned();
            self.state.name_by_header(&host, "POST", &target, false, shared);
        }
    }

    fn stop_if_not_ai(&mut self, shared: &Shared, now: Moment) {
        if let (Naming::NotAi, false) = (&self.state.naming, matches!(self.protocol, Protocol::Unmetered(_)))
        {
            self.state.open.clear();
            let mut sink = Meter { state: &mut self.state, shared, now };
            let mut ended = Tally::default();
            self.protocol.finish(Some(Reason::UnknownSession), &mut ended, &mut sink);
            self.tally.metered = self.tally.metered.saturating_add(ended.lost.total());
            self.state.open.clear();
            self.state.made.exchanges.clear();
        }
    }
}

fn first_target(head: &[u8]) -> Option<&str> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)
}
