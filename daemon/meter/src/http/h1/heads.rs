//! Heads: found, held while they are not whole, read; and which response answers which request.

use memchr::memmem;

use super::framing::Framing;
use super::{Connection, Next, Pending, Receiving, Sending, State, Trust};
use crate::exchange::Reason;
use crate::flow::Direction;
use crate::http::{End, Header, Key, RequestHead, ResponseHead, Sink, header, ws};
use crate::limits::{Budget, HEADERS_MAX, PENDING_MAX};
use crate::loss::Tally;

impl Connection {
    /// Parses a head that begins or goes on with `bytes`. Returns how many of them it took.
    pub(super) fn head(
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
        if let Some(asked) = self.pending.back_mut() {
            asked.websocket = method == "GET" && ws::Options::of(parsed.headers).is_some();
        }
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
    pub(super) fn begin(&mut self, method: &str, tally: &mut Tally, sink: &mut impl Sink) -> Key {
        match self.receiving {
            // The client would have waited for its end: its framing says more than there is.
            Some(Receiving { asked: false, .. }) => {
                let why = self.unseen.unwrap_or(Reason::Gap);
                self.lose_place(Direction::Received, why, tally, sink);
            }
            // Nor does it last until the connection ends, or there would be nothing to ask for.
            Some(_) if matches!(self.received.state, State::Body(Framing::UntilClose)) => {
                self.lose_place(Direction::Received, Reason::Undecodable, tally, sink);
            }
            _ => {}
        }
        if matches!(self.received.state, State::Skip(_)) && !self.received.held.is_empty() {
            self.report_orphan(sink);
        }
        if let Some(refused) = self.switching.take() {
            sink.response_end(refused.key, End::Cut(Reason::Gap));
        }
        self.ahead |= !self.pending.is_empty() || self.receiving.is_some();
        if self.pending.len() >= PENDING_MAX
            && let Some(oldest) = self.pending.pop_front()
        {
            // Its response would be taken for that of the next.
            self.unseen = self.unseen.or(Some(Reason::LimitReached));
            self.pending.iter_mut().for_each(|pending| pending.trust = Trust::IfItWaits);
            sink.response_end(oldest.key, End::Cut(Reason::LimitReached));
        }
        let trust = match self.unseen {
            None => Trust::Certain,
            Some(Reason::LateAttach) if self.heard.is_none() => Trust::None,
            Some(_) => Trust::IfItWaits,
        };
        // What goes by unseen from here on does not do so because we came late.
        if self.unseen == Some(Reason::LateAttach) {
            self.unseen = Some(Reason::Gap);
        }
        let key = self.next_key;
        self.next_key += 1;
        self.orphaned = false;
        let (head_only, connect) = (method == "HEAD", method == "CONNECT");
        self.pending.push_back(Pending { key, trust, head_only, connect, websocket: false });
        key
    }

    /// The rest of the request head in progress will not come: what there is of it begins a request whose body is
    /// unknown. So the first call of a session of unknown name, of which only a prefix is handed out, is told.
    pub(super) fn truncated_request(&mut self, tally: &mut Tally, sink: &mut impl Sink) {
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
                if let Some(asked) = self.pending.back_mut() {
                    // Perhaps the rest says so.
                    asked.websocket = method == "GET";
                }
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
        // A hole took an interim response and not this one, or it did: only one that switches tells.
        if let Some(asked) = self.switching.take() {
            match status {
                101 => self.pending.push_back(asked),
                _ => sink.response_end(asked.key, End::Cut(Reason::Gap)),
            }
        }
        let trust = self.pending.front().map(|pending| pending.trust);
        if let (Some(reason), true, Some(Trust::IfItWaits | Trust::None)) = (self.unseen, self.ahead, trust) {
            return Next::Unpaired(reason);
        }
        let mut pending = self.pending.pop_front();
        // Nothing but the last request can be answered with a change of protocol.
        if let Some(asked) = pending
            && trust == Some(Trust::None)
            && status != 101
        {
            sink.response_end(asked.key, End::Cut(Reason::LateAttach));
            (pending, self.orphaned) = (None, true);
        }
        let key = match (pending, self.unseen) {
            (Some(pending), _) => Some(pending.key),
            (None, Some(reason)) if !self.orphaned => {
                self.orphaned = true;
                let key = self.next_key;
                self.next_key += 1;
                sink.unasked(key, reason);
                Some(key)
            }
            (None, Some(_)) => None,
            // There was one before what was taken for the beginning.
            (None, None) => {
                (self.unseen, self.ahead) = (Some(Reason::Gap), true);
                None
            }
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
        if status == 101 {
            // Whatever it still had to say, it is no request any more.
            self.end(Direction::Sent, End::Cut(Reason::Interrupted), sink);
        }
        if status == 101
            && let (Some(key), Some(options)) = (key, ws::Options::of(headers))
            && sink.converse(key)
        {
            return Next::WebSocket { connection: Box::new(ws::Connection::new(key, options)), rest: 0 };
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
