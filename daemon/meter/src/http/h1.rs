//! HTTP/1.x, incremental: heads, framing of bodies, pairing of requests with responses, finding the way back.
//!
//! A hole inside a body whose framing says how long it is leaves everything in step. Any other hole loses the place:
//! the message in progress is cut, and the direction skips to what can only be a request or status line (JSON bodies
//! cannot contain one, because it ends with a raw CRLF). Interim responses are passed over.
//!
//! Responses are paired by their order, which a hole in what came back makes worthless: all that was awaited is given
//! up, and pairing begins anew with the next request. That rests on clients that wait for an answer before they ask
//! again. One that shows otherwise on a connection with a hole is not metered any more: who answers whom is unknown.

use std::collections::VecDeque;

use memchr::memmem;

use super::{End, Header, Key, RequestHead, ResponseHead, Sink, header, ws};
use crate::exchange::Reason;
use crate::flow::{Direction, Piece};
use crate::limits::{Budget, HEAD_BYTES_MAX, HEADERS_MAX, Lease, PENDING_MAX, RESYNC_TAIL_MAX};
use crate::loss::Tally;
use crate::payload::Held;

/// Whether the connection still speaks HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It does.
    Http1,
    /// From here on both directions carry something else.
    Upgraded,
    /// It does, and for this reason nobody can say which response answers which request.
    Unpaired(Reason),
    /// From here on both directions are a WebSocket.
    WebSocket {
        /// Of the request that asked for it.
        key: Key,
        /// What both sides agreed on.
        options: ws::Options,
        /// Bytes at the end of the piece that belong to it.
        rest: usize,
    },
}

/// A request whose response has not ended.
#[derive(Clone, Copy, Debug)]
struct Pending {
    key: Key,
    /// `HEAD`: its response has no body whatever its fields say.
    head_only: bool,
    /// `CONNECT`: a good answer ends HTTP.
    connect: bool,
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
    next_key: Key,
    /// Why a response without request is no surprise: something of the connection was not seen.
    unseen: Option<Reason>,
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
            next_key: 0,
            unseen: joined_late.then_some(Reason::LateAttach),
            orphaned: false,
            certain: false,
            due: None,
        }
    }

    /// Why the place in `direction` is lost, while nothing shows that it is HTTP/1.
    pub(super) fn doubt(&self, direction: Direction) -> Option<Reason> {
        let half = match direction {
            Direction::Sent => &self.sent,
            Direction::Received => &self.received,
        };
        match half.state {
            State::Skip(reason) if !self.certain => Some(reason),
            _ => None,
        }
    }

    /// It is not HTTP/1 after all: what is held is lost.
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
            self.data(direction, Piece::Gap(bytes), sink);
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
            for awaited in self.pending.drain(..) {
                sink.response_end(awaited.key, End::Cut(reason));
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
                        Next::WebSocket { key, options, .. } => {
                            self.finish(Some(Reason::Upgraded), tally, sink);
                            return Next::WebSocket { key, options, rest: bytes.len() };
                        }
                    }
                }
                State::Skip(_) => bytes = self.skip(direction, bytes, tally, sink),
            }
        }
        Next::Http1
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

    /// Parses a head that begins or goes on with `bytes`. Returns how many of them it took.
    fn head(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> (usize, Next) {
        let half = self.half(direction);
        if half.held.is_empty() {
            // Blank lines before a message are no part of it.
            let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank > 0 {
                tally.metered = tally.metered.saturating_add(blank as u64);
                return (blank, Next::Http1);
            }
            if let Some(len) = head_len(bytes, 0) {
                let head = bytes.get(..len).unwrap_or_default();
                return (len, self.complete(direction, head, tally, sink));
            }
        } else {
            let before = half.held.len();
            // Only as much as may complete it: what follows belongs to the body.
            let overlap = half.held.get(before.saturating_sub(3)..).unwrap_or_default();
            if let Some(len) = head_len_across(overlap, bytes) {
                let part = bytes.get(..len).unwrap_or_default();
                if half.hold(part, budget) {
                    let head = std::mem::take(&mut half.held);
                    let next = self.complete(direction, &head, tally, sink);
                    self.half(direction).lease = None;
                    return (len, next);
                }
                return (len, self.head_too_large(direction, len, tally, sink));
            }
        }
        if !half.hold(bytes, budget) {
            return (bytes.len(), self.head_too_large(direction, bytes.len(), tally, sink));
        }
        (bytes.len(), Next::Http1)
    }

    fn head_too_large(
        &mut self,
        direction: Direction,
        used: usize,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> Next {
        tally.lost.add(Reason::LimitReached, used as u64);
        self.lose_place(direction, Reason::LimitReached, tally, sink);
        Next::Http1
    }

    fn complete(
        &mut self,
        direction: Direction,
        head: &[u8],
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> Next {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        self.report_due(sink);
        let begun = match direction {
            Direction::Sent => {
                let mut parsed = httparse::Request::new(&mut headers);
                match parsed.parse(head) {
                    Ok(httparse::Status::Complete(_)) => self.request(&parsed, tally, sink),
                    _ => None,
                }
            }
            Direction::Received => {
                let mut parsed = httparse::Response::new(&mut headers);
                let mut config = httparse::ParserConfig::default();
                config.allow_spaces_after_header_name_in_responses(true);
                config.allow_obsolete_multiline_headers_in_responses(true);
                match config.parse_response(&mut parsed, head) {
                    Ok(httparse::Status::Complete(_)) if parsed.code.is_some_and(|code| code >= 100) => {
                        if self.pending.is_empty() {
                            self.truncated_request(tally, sink);
                        }
                        Some(self.response(parsed.code.unwrap_or(0), parsed.headers, tally, sink))
                    }
                    _ => None,
                }
            }
        };
        match begun {
            Some(next) => {
                self.certain = true;
                tally.metered = tally.metered.saturating_add(head.len() as u64);
                next
            }
            None => {
                tally.lost.add(Reason::NotHttp, head.len() as u64);
                self.half(direction).held.clear();
                self.lose_place(direction, Reason::NotHttp, tally, sink);
                Next::Http1
            }
        }
    }

    fn request(
        &mut self,
        parsed: &httparse::Request<'_, '_>,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> Option<Next> {
        let (method, target) = (parsed.method?, parsed.path?);
        let framing = Framing::of_request(parsed.headers)?;
        let key = self.begin(method, tally, sink);
        sink.request(
            key,
            &RequestHead { method, target, authority: None, protocol: None, headers: parsed.headers },
        );
        if matches!(framing, Framing::Length(0)) {
            sink.request_end(key, End::Complete);
        } else {
            let waiting = header(parsed.headers, "expect")
                .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
            self.sending = Some(Sending { key, waiting, refused: false });
            self.sent.state = State::Body(framing);
        }
        Some(Next::Http1)
    }

    /// A request begins: makes its key and a place in the queue.
    fn begin(&mut self, method: &str, tally: &mut Tally, sink: &mut impl Sink) -> Key {
        if let Some(Receiving { asked: false, .. }) = self.receiving {
            // The client would have waited for its end: its framing says more than there is.
            let why = self.unseen.unwrap_or(Reason::Gap);
            self.lose_place(Direction::Received, why, tally, sink);
        }
        if matches!(self.received.state, State::Skip(_)) && !self.received.held.is_empty() {
            self.report_orphan(sink);
        }
        if self.pending.len() >= PENDING_MAX
            && let Some(oldest) = self.pending.pop_front()
        {
            // Its response would be taken for that of the next.
            self.unseen = self.unseen.or(Some(Reason::LimitReached));
            sink.response_end(oldest.key, End::Cut(Reason::LimitReached));
        }
        // What goes by unseen from here on does not do so because we came late.
        if self.unseen == Some(Reason::LateAttach) {
            self.unseen = Some(Reason::Gap);
        }
        let key = self.next_key;
        self.next_key += 1;
        self.orphaned = false;
        self.pending.push_back(Pending { key, head_only: method == "HEAD", connect: method == "CONNECT" });
        key
    }

    /// The rest of the request head in progress will not come: what there is of it begins a request whose body is
    /// unknown. So the first call of a session of unknown name, of which only a prefix is handed out, is told.
    fn truncated_request(&mut self, tally: &mut Tally, sink: &mut impl Sink) {
        if !matches!(self.sent.state, State::Head) || self.sent.held.is_empty() {
            return;
        }
        let mut head = std::mem::take(&mut self.sent.held);
        let lines = memmem::rfind(&head, b"\r\n").map_or(0, |at| at + 2);
        let seen = head.len() as u64;
        head.truncate(lines);
        head.push(b"\r\n");
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let begun = lines > 0 && matches!(parsed.parse(&head), Ok(httparse::Status::Complete(_)));
        match (begun, parsed.method, parsed.path) {
            (true, Some(method), Some(target)) => {
                self.certain = true;
                tally.metered = tally.metered.saturating_add(seen);
                let key = self.begin(method, tally, sink);
                sink.request(
                    key,
                    &RequestHead { method, target, authority: None, protocol: None, headers: parsed.headers },
                );
                sink.request_end(key, End::Cut(Reason::Gap));
            }
            _ => tally.lost.add(Reason::Gap, seen),
        }
        self.sent.lease = None;
        self.sent.state = State::Skip(Reason::Gap);
    }

    /// Bytes of a request head that is not whole yet.
    pub fn partial_request(&self) -> &[u8] {
        if matches!(self.sent.state, State::Head) { &self.sent.held } else { &[] }
    }

    fn response(
        &mut self,
        status: u16,
        headers: &[Header<'_>],
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> Next {
        if (100..200).contains(&status) && status != 101 {
            return Next::Http1;
        }
        if let Some(reason) = self.unseen
            && self.pending.len() > 1
        {
            return Next::Unpaired(reason);
        }
        let pending = self.pending.pop_front();
        let key = match (pending, self.unseen) {
            (Some(pending), _) => Some(pending.key),
            (None, Some(reason)) if !self.orphaned => {
                self.orphaned = true;
                let key = self.next_key;
                self.next_key += 1;
                sink.unasked(key, reason);
                Some(key)
            }
            (None, _) => None,
        };
        if let (Some(sending), Some(key)) = (&mut self.sending, key)
            && sending.key == key
            && sending.waiting
        {
            sending.refused = true;
        }
        if let Some(key) = key {
            sink.response(key, &ResponseHead { status, headers, whole: true });
        }
        if status == 101
            && let (Some(key), Some(options)) = (key, ws::Options::of(headers))
            && sink.converse(key)
        {
            return Next::WebSocket { key, options, rest: 0 };
        }
        let tunnel = pending.is_some_and(|pending| pending.connect) && (200..300).contains(&status);
        if status == 101 || tunnel {
            if let Some(key) = key {
                sink.response_end(key, End::Complete);
            }
            return Next::Upgraded;
        }
        let no_body = pending.is_some_and(|pending| pending.head_only) || matches!(status, 204 | 304);
        self.receiving = Some(Receiving { key, asked: pending.is_some() });
        match if no_body { Some(Framing::Length(0)) } else { Framing::of_response(headers) } {
            Some(Framing::Length(0)) => self.end(Direction::Received, End::Complete, sink),
            Some(framing) => self.received.state = State::Body(framing),
            // Where it ends nobody can say; read on, it would take in the answer after it.
            None => self.lose_place(Direction::Received, Reason::Undecodable, tally, sink),
        }
        Next::Http1
    }

    fn upgrade(&mut self, tally: &mut Tally, sink: &mut impl Sink) {
        self.finish(Some(Reason::Upgraded), tally, sink);
        sink.upgraded();
    }

    /// Skips to the next message; returns what is left of `bytes` if it begins there.
    fn skip<'a>(
        &mut self,
        direction: Direction,
        bytes: &'a [u8],
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> &'a [u8] {
        let find = |bytes: &[u8]| match direction {
            Direction::Sent => request_start(bytes),
            Direction::Received => status_start(bytes),
        };
        let tail = match direction {
            Direction::Sent => RESYNC_TAIL_MAX,
            Direction::Received => STATUS_LINE_MAX,
        };
        let half = self.half(direction);
        let State::Skip(reason) = half.state else { return bytes };
        if half.held.is_empty()
            && let Some(at) = find(bytes)
        {
            tally.lost.add(reason, at as u64);
            half.state = State::Head;
            if at > 0 && direction == Direction::Received {
                self.report_orphan(sink);
            }
            return bytes.get(at..).unwrap_or_default();
        }
        // Bounded work at a time, so that what is held stays small.
        let (now, later) = bytes.split_at(bytes.len().min(4 * RESYNC_TAIL_MAX));
        half.held.push(now);
        if let Some(at) = find(&half.held) {
            tally.lost.add(reason, at as u64);
            half.held.drop_front(at);
            half.state = State::Head;
            // The line is complete; the rest of the head goes the ordinary way.
            let from_now = half.held.len().min(now.len());
            half.held.truncate(half.held.len() - from_now);
            if at > 0 && direction == Direction::Received {
                self.report_orphan(sink);
            }
            return bytes.get(now.len() - from_now..).unwrap_or_default();
        }
        let drop = half.held.len().saturating_sub(tail);
        half.held.drop_front(drop);
        tally.lost.add(reason, drop as u64);
        if drop > 0 && direction == Direction::Received {
            self.report_orphan(sink);
        }
        later
    }

    /// Bytes came back although no request was seen: said once until the next request.
    fn report_orphan(&mut self, sink: &mut impl Sink) {
        if let Some(reason) = self.unseen
            && !self.orphaned
            && self.pending.is_empty()
        {
            self.orphaned = true;
            self.due = Some(reason);
            if self.certain {
                self.report_due(sink);
            }
        }
    }

    fn report_due(&mut self, sink: &mut impl Sink) {
        if let Some(reason) = self.due.take() {
            sink.orphan(reason);
        }
    }
}

/// The value of the field `host` in an incomplete head, if its line is complete.
pub fn host_of_partial(head: &[u8]) -> Option<&str> {
    let mut lines = head.split(|byte| *byte == b'\n');
    // What follows the last line feed is incomplete.
    lines.next_back();
    lines.skip(1).find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        let value = std::str::from_utf8(value).ok()?.trim();
        name.eq_ignore_ascii_case(b"host").then_some(value)
    })
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Bytes to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// Everything until the connection ends.
    UntilClose,
}

/// Place inside the chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In the digits of a size.
    Size { value: u64, digits: u8 },
    /// In the rest of the size line.
    Extension { value: u64 },
    /// Inside data, bytes to come.
    Data(u64),
    /// Before the line end after data.
    DataEnd,
    /// In a trailer line, of which so many bytes were seen.
    Trailer(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
    Broken,
}

/// A length is digits and nothing else, no sign either (RFC 9110, 8.6).
fn length(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Framing {
    fn of_request(headers: &[Header<'_>]) -> Option<Framing> {
        if is_chunked(headers) {
            return Some(Framing::Chunked(Chunk::Size { value: 0, digits: 0 }));
        }
        match header(headers, "content-length") {
            Some(text) => length(text).map(Framing::Length),
            None => Some(Framing::Length(0)),
        }
    }

    fn of_response(headers: &[Header<'_>]) -> Option<Framing> {
        if is_chunked(headers) {
            return Some(Framing::Chunked(Chunk::Size { value: 0, digits: 0 }));
        }
        match header(headers, "content-length") {
            Some(text) => length(text).map(Framing::Length),
            None => Some(Framing::UntilClose),
        }
    }

    fn gap(&mut self, bytes: u64) -> Progress {
        match self {
            Framing::UntilClose => Progress::More,
            Framing::Length(left) | Framing::Chunked(Chunk::Data(left)) if bytes > *left => Progress::Broken,
            Framing::Length(left) => {
                *left -= bytes;
                if *left == 0 { Progress::Done } else { Progress::More }
            }
            Framing::Chunked(place) => match place {
                Chunk::Data(left) => {
                    *left -= bytes;
                    if *left == 0 {
                        *place = Chunk::DataEnd;
                    }
                    Progress::More
                }
                _ => Progress::Broken,
            },
        }
    }

    /// The next data in `bytes`, how many of them are used up, and what comes then.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], usize, Progress) {
        match self {
            Framing::UntilClose => (bytes, bytes.len(), Progress::More),
            Framing::Length(left) => {
                let data = prefix(bytes, *left);
                *left -= data.len() as u64;
                (data, data.len(), if *left == 0 { Progress::Done } else { Progress::More })
            }
            Framing::Chunked(place) => {
                if let Chunk::Data(left) = place {
                    let data = prefix(bytes, *left);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *place = Chunk::DataEnd;
                    }
                    return (data, data.len(), Progress::More);
                }
                let (used, progress) = place.take(bytes);
                (&[], used, progress)
            }
        }
    }
}

impl Chunk {
    /// Works through what is not data.
    fn take(&mut self, bytes: &[u8]) -> (usize, Progress) {
        for (at, byte) in bytes.iter().enumerate() {
            match (*self, *byte) {
                (Chunk::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
                    let digit = (byte as char).to_digit(16).unwrap_or(0);
                    if digits >= 15 {
                        return (at + 1, Progress::Broken);
                    }
                    *self = Chunk::Size { value: value * 16 + u64::from(digit), digits: digits + 1 };
                }
                (Chunk::Size { digits: 0, .. }, _) => return (at + 1, Progress::Broken),
                (Chunk::Size { value, .. } | Chunk::Extension { value }, b'\n') => {
                    *self = if value == 0 { Chunk::Trailer(0) } else { Chunk::Data(value) };
                    if value > 0 {
                        return (at + 1, Progress::More);
                    }
                }
                (Chunk::Size { value, .. }, _) => *self = Chunk::Extension { value },
                (Chunk::Extension { .. } | Chunk::DataEnd, b'\r') => {}
                (Chunk::Extension { .. }, _) => {}
                (Chunk::DataEnd, b'\n') => *self = Chunk::Size { value: 0, digits: 0 },
                (Chunk::DataEnd | Chunk::Data(_), _) => return (at + 1, Progress::Broken),
                (Chunk::Trailer(0), b'\n') => return (at + 1, Progress::Done),
                (Chunk::Trailer(_), b'\n') => *self = Chunk::Trailer(0),
                (Chunk::Trailer(_), b'\r') => {}
                (Chunk::Trailer(seen), _) => *self = Chunk::Trailer(seen.saturating_add(1)),
            }
        }
        (bytes.len(), Progress::More)
    }
}

fn prefix(bytes: &[u8], left: u64) -> &[u8] {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(..len).unwrap_or_default()
}

fn is_chunked(headers: &[Header<'_>]) -> bool {
    headers
        .iter()
        .rfind(|field| field.name.eq_ignore_ascii_case("transfer-encoding"))
        .and_then(|field| std::str::from_utf8(field.value).ok())
        .is_some_and(|value| value.rsplit(',').next().unwrap_or("").trim().eq_ignore_ascii_case("chunked"))
}

/// Bytes of the head at the start of `bytes`, if it ends in them.
fn head_len(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = memchr::memchr(b'\n', bytes.get(at..)?) {
        let after = at + found + 1;
        match bytes.get(after..)? {
            [b'\n', ..] => return Some(after + 1),
            [b'\r', b'\n', ..] => return Some(after + 2),
            _ => at = after,
        }
    }
    None
}

/// Bytes of `bytes` that complete a head whose last three bytes so far are `before`.
fn head_len_across(before: &[u8], bytes: &[u8]) -> Option<usize> {
    let mut joined = [0u8; 6];
    let ahead = bytes.len().min(3);
    let len = before.len().min(3) + ahead;
    let all = before.iter().rev().take(3).rev().chain(bytes.iter().take(ahead));
    joined.iter_mut().zip(all).for_each(|(slot, byte)| *slot = *byte);
    let held = before.len().min(3);
    if let Some(end) = head_len(joined.get(..len)?, 0)
        && end > held
    {
        return Some(end - held);
    }
    head_len(bytes, 0)
}

/// Methods with their space, as they begin a request line.
const METHODS: [&[u8]; 8] =
    [b"POST ", b"GET ", b"PUT ", b"DELETE ", b"PATCH ", b"HEAD ", b"OPTIONS ", b"CONNECT "];

/// Where the first request line that is whole begins in `bytes`.
fn request_start(bytes: &[u8]) -> Option<usize> {
    for at in memmem::find_iter(bytes, b" HTTP/1.") {
        let Some([b'0' | b'1', b'\r', b'\n']) = bytes.get(at + 8..at + 11) else { continue };
        let line = bytes.get(..at)?;
        // Joined within a request line: it is not whole, the next may be.
        let Some(space) = memchr::memrchr(b' ', line) else { continue };
        let target = line.get(space + 1..)?;
        if target.is_empty() || target.iter().any(|byte| !byte.is_ascii_graphic()) {
            continue;
        }
        let upto = line.get(..=space)?;
        if let Some(method) = METHODS.iter().find(|method| upto.ends_with(method)) {
            return Some(upto.len() - method.len());
        }
    }
    None
}

/// Longest status line that is recognised while skipping.
const STATUS_LINE_MAX: usize = 80;

/// Where the first status line that is whole begins in `bytes`.
fn status_start(bytes: &[u8]) -> Option<usize> {
    memmem::find_iter(bytes, b"HTTP/1.").find(|&at| {
        let line = bytes.get(at..).unwrap_or_default();
        let line = line.get(..line.len().min(STATUS_LINE_MAX)).unwrap_or_default();
        let Some(end) = memmem::find(line, b"\r\n") else { return false };
        match line.get(7..end) {
            Some([b'0' | b'1', b' ', a, b, c, rest @ ..]) => {
                [a, b, c].iter().all(|digit| digit.is_ascii_digit())
                    && rest.first().is_none_or(|byte| *byte == b' ')
                    && rest.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'"')
            }
            _ => false,
        }
    })
}
