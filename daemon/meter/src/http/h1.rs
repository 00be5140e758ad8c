//! HTTP/1.x, incremental: heads, framing of bodies, pairing of requests with responses, finding the way back.
//!
//! A hole inside a body whose framing says how long it is leaves everything in step. Any other hole loses the place:
//! the message in progress is cut, and the direction skips to what can only be a request or status line (JSON bodies
//! cannot contain one, because it ends with a raw CRLF). Interim responses are passed over.
//!
//! Responses are paired by their order, which says nothing once a request or a response may have passed unseen: what
//! was awaited when a hole swallowed a response is given up, and pairing begins anew with the next request. That rests on
//! clients that wait for an answer before they ask again. One that was ever seen to ask ahead is not metered after a
//! hole, or after it was joined late: who answers whom is unknown. Nor is a response taken for that of the first request
//! of a connection joined late of which nothing else was seen.

mod framing;
mod heads;
mod resync;

use std::collections::VecDeque;

use self::framing::{Framing, Progress};
pub use self::heads::host_of_partial;
use super::{End, Key, Sink, ws};
use crate::exchange::Reason;
use crate::flow::{Direction, Piece};
use crate::limits::{Budget, HEAD_BYTES_MAX, Lease};
use crate::loss::Tally;
use crate::payload::Held;

/// Whether the connection still speaks HTTP/1.
#[derive(Debug)]
pub enum Next {
    /// It does.
    Http1,
    /// From here on both directions carry something else.
    Upgraded,
    /// It does, and for this reason nobody can say which response answers which request.
    Unpaired(Reason),
    /// From here on both directions are a WebSocket.
    WebSocket {
        /// It.
        connection: Box<ws::Connection>,
        /// Bytes at the end of the piece that belong to it.
        rest: usize,
    },
}

/// That what passes may be something else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    /// Why it is not known.
    pub(super) reason: Reason,
    /// It may be HTTP/2.
    pub(super) http2: bool,
    /// A key that was not used.
    pub(super) key: Key,
}

/// A request whose response has not ended.
#[derive(Clone, Copy, Debug)]
struct Pending {
    key: Key,
    trust: Trust,
    /// `HEAD`: its response has no body whatever its fields say.
    head_only: bool,
    /// `CONNECT`: a good answer ends HTTP.
    connect: bool,
    /// It asks for a WebSocket.
    websocket: bool,
}

/// Whether the first response that comes while a request is the oldest is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Every request before it was seen, and every response since.
    Certain,
    /// If the client waits for an answer before it asks again.
    IfItWaits,
    /// Nobody knows: it is the first thing seen of a connection that is older.
    None,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sent: Half,
    received: Half,
    pending: VecDeque<Pending>,
    /// Request whose body is being sent, and what happens if it never is.
    sending: Option<Sending>,
    /// Response being received; its key is gone from `pending`.
    receiving: Option<Receiving>,
    /// The last request, if it asks for a WebSocket and a hole took its response.
    switching: Option<Pending>,
    next_key: Key,
    /// Why a response without request is no surprise: something of the connection was not seen.
    unseen: Option<Reason>,
    /// The client was seen to ask again before it was answered.
    ahead: bool,
    /// Bytes that were sent: all of them, and before the last that came back, if any did.
    asked: u64,
    heard: Option<u64>,
    /// A response without request was reported since the last request.
    orphaned: bool,
    /// A head was understood: it is HTTP/1.
    certain: bool,
    /// What is to be reported once it is certain.
    due: Option<Reason>,
}

#[derive(Debug)]
struct Sending {
    key: Key,
    /// `Expect: 100-continue` and nothing of the body yet.
    waiting: bool,
    /// The final response came while waiting: the body may never come.
    refused: bool,
}

#[derive(Debug)]
struct Receiving {
    /// `None` for a response nobody waits for.
    key: Option<Key>,
    /// Its request was seen: if not, it may be one for `HEAD`, whose framing is not as it says.
    asked: bool,
}

/// One direction.
#[derive(Debug)]
struct Half {
    state: State,
    /// An incomplete head, or the tail of what is skipped. Contains credentials.
    held: Held,
    lease: Option<Lease>,
}

#[derive(Debug)]
enum State {
    Head,
    Body(Framing),
    Skip(Reason),
}

impl Half {
    fn new(state: State) -> Half {
        Half { state, held: Held::new(), lease: None }
    }

    fn release(&mut self) {
        self.held = Held::new();
        self.lease = None;
    }

    /// Keeps `bytes` of an incomplete head; false if there is no room.
    fn hold(&mut self, bytes: &[u8], budget: &Budget) -> bool {
        let wanted = self.held.len().saturating_add(bytes.len());
        if wanted > HEAD_BYTES_MAX {
            return false;
        }
        if wanted > self.held.capacity() {
            let capacity = wanted.next_power_of_two().clamp(1024, HEAD_BYTES_MAX);
            let Some(lease) = budget.lease(capacity) else { return false };
            self.held.grow(capacity);
            self.lease = Some(lease);
        }
        self.held.push(bytes);
        true
    }
}

impl Connection {
    /// A connection at its first byte, or anywhere if `joined_late`.
    pub fn new(joined_late: bool) -> Connection {
        let begin = || if joined_late { State::Skip(Reason::LateAttach) } else { State::Head };
        Connection {
            sent: Half::new(begin()),
            received: Half::new(begin()),
            pending: VecDeque::new(),
            sending: None,
            receiving: None,
            switching: None,
            next_key: 0,
            unseen: joined_late.then_some(Reason::LateAttach),
            ahead: false,
            asked: 0,
            heard: None,
            orphaned: false,
            certain: false,
            due: None,
        }
    }

    /// Why the place in `direction` is lost, while nothing shows that it is HTTP/1 (any more).
    pub(super) fn doubt(&self, direction: Direction) -> Option<Doubt> {
        let half = match direction {
            Direction::Sent => &self.sent,
            Direction::Received => &self.received,
        };
        let State::Skip(reason) = half.state else { return None };
        // A hole in what was sent may have taken a request to switch.
        let idle = matches!(self.sent.state, State::Skip(_)) && self.pending.is_empty();
        match self.certain {
            false => Some(Doubt { reason, http2: true, key: self.next_key }),
            true if idle && self.receiving.is_none() && self.switching.is_none() => {
                Some(Doubt { reason, http2: false, key: self.next_key })
            }
            true => None,
        }
    }

    /// It is not HTTP/1 after all, or not any more: what is held is lost. Nothing is open while there is doubt.
    pub(super) fn abandon(&mut self, tally: &mut Tally) {
        for half in [&mut self.sent, &mut self.received] {
            let lost = match half.state {
                State::Skip(reason) => reason,
                _ => Reason::Gap,
            };
            tally.lost.add(lost, half.held.len() as u64);
            half.release();
        }
    }

    /// Takes the next piece of a direction; `tally.seen` counts it already.
    pub fn push(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> Next {
        match direction {
            Direction::Sent => self.asked = self.asked.saturating_add(piece.len()),
            Direction::Received if piece.is_empty() => {}
            Direction::Received => self.heard = Some(self.asked),
        }
        match piece {
            Piece::Gap(0) => Next::Http1,
            Piece::Gap(bytes) => {
                self.gap(direction, bytes, tally, sink);
                Next::Http1
            }
            Piece::Bytes(bytes) => self.bytes(direction, bytes, budget, tally, sink),
        }
    }

    /// The connection is over, or given up for `reason`: everything open ends.
    pub fn finish(&mut self, reason: Option<Reason>, tally: &mut Tally, sink: &mut impl Sink) {
        if let Some(sending) = self.sending.take() {
            sink.request_end(sending.key, End::Cut(reason.unwrap_or(Reason::Interrupted)));
        }
        let until_close = matches!(self.received.state, State::Body(Framing::UntilClose));
        if let Some(Receiving { key: Some(key), .. }) = self.receiving.take() {
            let end = match reason {
                None if until_close => End::WithConnection,
                _ => End::Cut(reason.unwrap_or(Reason::Interrupted)),
            };
            sink.response_end(key, end);
        }
        // What is skipped is the answer to one of these.
        self.pending.extend(self.switching.take());
        self.orphaned |= !self.pending.is_empty();
        for pending in self.pending.drain(..) {
            let lost =
                if matches!(self.received.state, State::Skip(_)) { Reason::Gap } else { Reason::NoResponse };
            sink.response_end(pending.key, End::Cut(reason.unwrap_or(lost)));
        }
        if matches!(self.received.state, State::Skip(_)) && !self.received.held.is_empty() {
            self.report_orphan(sink);
        }
        self.report_due(sink);
        for half in [&mut self.sent, &mut self.received] {
            let lost = match half.state {
                State::Skip(reason) => reason,
                _ => Reason::Interrupted,
            };
            tally.lost.add(reason.unwrap_or(lost), half.held.len() as u64);
            half.release();
        }
    }

    /// Whether a connection can go on as one that begins: nothing is awaited, and nothing is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        let quiet = |half: &Half| matches!(half.state, State::Head) && half.held.is_empty();
        quiet(&self.sent) && quiet(&self.received) && self.pending.is_empty()
    }

    fn half(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        }
    }

    fn gap(&mut self, direction: Direction, bytes: u64, tally: &mut Tally, sink: &mut impl Sink) {
        tally.lost.add(Reason::Gap, bytes);
        // Either the rest of a request's head was lost, or it was answered already.
        self.truncated_request(tally, sink);
        let kept = match &mut self.half(direction).state {
            State::Body(framing) => framing.gap(bytes),
            State::Head | State::Skip(_) => Progress::Broken,
        };
        if matches!(self.half(direction).state, State::Body(_)) {
            // Of a hole that goes beyond what is known nobody can say how much of it was this body's.
            let of_body = if kept == Progress::Broken { 0 } else { bytes };
            self.data(direction, Piece::Gap(of_body), sink);
        }
        match kept {
            Progress::More => {}
            Progress::Done => self.end(direction, End::Complete, sink),
            Progress::Broken => self.lose_place(direction, Reason::Gap, tally, sink),
        }
    }

    fn lose_place(&mut self, direction: Direction, reason: Reason, tally: &mut Tally, sink: &mut impl Sink) {
        match direction {
            // Requests may pass unseen from here on.
            Direction::Sent => self.unseen = self.unseen.or(Some(reason)),
            // What is skipped from here on is the rest of this response, or one of those that are given up below.
            Direction::Received => {
                self.orphaned |= self.receiving.is_some() || !self.pending.is_empty();
                if reason == Reason::Gap {
                    self.unseen = self.unseen.or(Some(reason));
                }
            }
        }
        self.end(direction, End::Cut(reason), sink);
        if direction == Direction::Received {
            self.switching = self.pending.back().copied().filter(|last| last.websocket).or(self.switching);
            for awaited in self.pending.drain(..) {
                if self.switching.is_none_or(|switching| switching.key != awaited.key) {
                    sink.response_end(awaited.key, End::Cut(reason));
                }
            }
        }
        let half = self.half(direction);
        let why = match half.state {
            State::Skip(why) => why,
            _ => reason,
        };
        tally.lost.add(why, half.held.len() as u64);
        half.release();
        half.state = State::Skip(why);
    }

    fn bytes(
        &mut self,
        direction: Direction,
        mut bytes: &[u8],
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> Next {
        if direction == Direction::Sent {
            self.body_withheld(bytes, sink);
        }
        if let Some(asked) = self.switching
            && self.shows_websocket(direction, bytes)
        {
            let holed = matches!(self.sent.state, State::Skip(_));
            self.switching = None;
            self.finish(Some(Reason::Gap), tally, sink);
            if sink.converse(asked.key) {
                let connection = Box::new(ws::Connection::unanswered(asked.key, holed, sink));
                return Next::WebSocket { connection, rest: bytes.len() };
            }
            sink.response_end(asked.key, End::Cut(Reason::Gap));
            tally.lost.add(Reason::Upgraded, bytes.len() as u64);
            sink.upgraded();
            return Next::Upgraded;
        }
        while !bytes.is_empty() {
            let half = self.half(direction);
            match &mut half.state {
                State::Body(framing) => {
                    let (data, used, progress) = framing.take(bytes);
                    bytes = bytes.get(used..).unwrap_or_default();
                    tally.metered = tally.metered.saturating_add(used as u64);
                    if !data.is_empty() {
                        self.data(direction, Piece::Bytes(data), sink);
                    }
                    match progress {
                        Progress::More => {}
                        Progress::Done => self.end(direction, End::Complete, sink),
                        Progress::Broken => self.lose_place(direction, Reason::Undecodable, tally, sink),
                    }
                }
                State::Head => {
                    let (used, next) = self.head(direction, bytes, budget, tally, sink);
                    bytes = bytes.get(used..).unwrap_or_default();
                    match next {
                        Next::Http1 => {}
                        Next::Upgraded => {
                            tally.lost.add(Reason::Upgraded, bytes.len() as u64);
                            self.upgrade(tally, sink);
                            return Next::Upgraded;
                        }
                        Next::Unpaired(reason) => {
                            tally.lost.add(reason, bytes.len() as u64);
                            self.finish(Some(reason), tally, sink);
                            return Next::Unpaired(reason);
                        }
                        Next::WebSocket { connection, .. } => {
                            self.finish(Some(Reason::Upgraded), tally, sink);
                            return Next::WebSocket { connection, rest: bytes.len() };
                        }
                    }
                }
                State::Skip(_) => bytes = self.skip(direction, bytes, tally, sink),
            }
        }
        Next::Http1
    }

    /// Whether a WebSocket goes on with `bytes`, of which the request was seen and the response was not.
    fn shows_websocket(&self, direction: Direction, bytes: &[u8]) -> bool {
        match (direction, &self.sent.state) {
            (Direction::Received, _) => ws::begins_with_messages(direction, bytes),
            (Direction::Sent, State::Skip(_)) => ws::is_nothing_but_frames(direction, bytes),
            (Direction::Sent, _) => self.sent.held.is_empty() && ws::begins_no_request(bytes),
        }
    }

    /// A client that waits for `100 Continue` and is refused may go on with its next request.
    fn body_withheld(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        let Some(sending) = &mut self.sending else { return };
        if !sending.waiting || bytes.is_empty() {
            return;
        }
        sending.waiting = false;
        if sending.refused
            && METHODS.iter().any(|method| bytes.starts_with(method) || method.starts_with(bytes))
        {
            self.end(Direction::Sent, End::Complete, sink);
        }
    }

    fn data(&mut self, direction: Direction, data: Piece<'_>, sink: &mut impl Sink) {
        match direction {
            Direction::Sent => {
                if let Some(sending) = &mut self.sending {
                    sending.waiting = false;
                    sink.request_data(sending.key, data);
                }
            }
            Direction::Received => {
                if let Some(Receiving { key: Some(key), .. }) = self.receiving {
                    sink.response_data(key, data);
                }
            }
        }
    }

    /// The message in progress, if any, is over.
    fn end(&mut self, direction: Direction, end: End, sink: &mut impl Sink) {
        match direction {
            Direction::Sent => {
                if let Some(sending) = self.sending.take() {
                    sink.request_end(sending.key, end);
                }
            }
            Direction::Received => {
                if let Some(Receiving { key: Some(key), .. }) = self.receiving.take() {
                    sink.response_end(key, end);
                }
            }
        }
        let half = self.half(direction);
        if matches!(half.state, State::Body(_)) {
            half.state = State::Head;
        }
    }

    fn upgrade(&mut self, tally: &mut Tally, sink: &mut impl Sink) {
        self.finish(Some(Reason::Upgraded), tally, sink);
        sink.upgraded();
    }
}

/// Methods with their space, as they begin a request line.
const METHODS: [&[u8]; 8] =
    [b"POST ", b"GET ", b"PUT ", b"DELETE ", b"PATCH ", b"HEAD ", b"OPTIONS ", b"CONNECT "];
