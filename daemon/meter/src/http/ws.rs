//! WebSocket (RFC 6455) with `permessage-deflate` (RFC 7692), as both sides speak it after their handshake: on a connection
//! of HTTP/1.1, or in a stream of HTTP/2 (RFC 8441).
//!
//! The parts of a message come as they pass, unmasked and inflated; control frames are passed over. A hole inside a
//! frame's payload leaves the frames in step. Any other loses the place until a piece is nothing but frames. An inflater
//! that keeps its window from message to message cannot go on after a hole; of a connection that was joined in the middle
//! nothing is inflated, because nobody knows whether the window was empty.

use flate2::{Decompress, FlushDecompress, Status};

use super::body::forget;
use super::{End, Header, Key, Sink, header};
use crate::exchange::Reason;
use crate::flow::{Direction, Piece};
use crate::limits::{Budget, DECODE_BUFFER, EXPANSION_FLOOR, EXPANSION_RATIO_MAX, INFLATE_BYTES, Lease};
use crate::loss::Tally;
use crate::payload::wipe;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PONG: u8 = 10;

/// Head of a frame: two bytes, eight of length, four of mask.
const HEAD_MAX: usize = 14;

/// Payload of a control frame (RFC 6455, 5.5).
const CONTROL_MAX: u64 = 125;

/// What ends the deflated data of a message and is not sent (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// What the handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `permessage-deflate`.
    deflate: bool,
    /// The client's and the server's window begin anew with each message.
    fresh: [bool; 2],
}

impl Options {
    /// What the response that switches protocols agrees to; `None` if not to a WebSocket.
    pub fn of(headers: &[Header<'_>]) -> Option<Options> {
        header(headers, "upgrade").filter(|to| to.eq_ignore_ascii_case("websocket"))?;
        Some(Options::agreed(headers))
    }

    /// What a response agrees to that begins a WebSocket.
    pub fn agreed(headers: &[Header<'_>]) -> Options {
        let agreed =
            headers.iter().filter(|field| field.name.eq_ignore_ascii_case("sec-websocket-extensions"));
        let deflate = agreed
            .filter_map(|field| std::str::from_utf8(field.value).ok())
            .flat_map(|value| value.split(','))
            .map(|extension| extension.split(';').map(str::trim))
            .find_map(|mut words| {
                words
                    .next()
                    .is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate"))
                    .then_some(words)
            });
        let mut options = Options { deflate: deflate.is_some(), fresh: [false; 2] };
        for parameter in deflate.into_iter().flatten() {
            // An inflater with the largest window reads what a smaller one wrote.
            match parameter.to_ascii_lowercase().as_str() {
                "client_no_context_takeover" => options.fresh[0] = true,
                "server_no_context_takeover" => options.fresh[1] = true,
                _ => {}
            }
        }
        options
    }
}

/// One connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    key: Key,
    sent: Half,
    received: Half,
}

/// One direction.
struct Half {
    direction: Direction,
    deflate: bool,
    /// Its window begins anew with each message.
    fresh: bool,
    state: State,
    /// An incomplete frame head.
    head: [u8; HEAD_MAX],
    held: usize,
    message: Option<Message>,
    inflater: Option<Box<Inflater>>,
    /// Nothing more can be inflated.
    undecodable: Option<Reason>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a frame, or in its head.
    Head,
    /// In the payload of a frame.
    Payload { left: u64, mask: [u8; 4], at: u8, data: bool, last: bool },
    /// The place is lost.
    Skip(Reason),
}

/// A message of which not all frames are over.
#[derive(Clone, Copy, Debug)]
struct Message {
    deflated: bool,
}

/// An inflater that lives as long as its window is needed.
struct Inflater {
    state: Decompress,
    taken: u64,
    given: u64,
    /// The data says that it is over; what follows begins anew.
    ended: bool,
    _lease: Lease,
}

impl std::fmt::Debug for Inflater {
    /// Its counts only: the window holds content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Half")
            .field("direction", &self.direction)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FrameHead {
    last: bool,
    deflated: bool,
    kind: u8,
    mask: Option<[u8; 4]>,
    length: u64,
    /// Bytes of the head itself.
    size: usize,
}

/// What the first bytes of a frame say.
enum Read {
    /// Its head is not whole.
    More,
    Frame(FrameHead),
    /// No frame begins so.
    Wrong,
}

impl Connection {
    /// A connection that begins. The messages belong to the upgrade `key`.
    pub fn new(key: Key, options: Options) -> Connection {
        let [client, server] = options.fresh;
        Connection {
            key,
            sent: Half::new(Direction::Sent, options.deflate, client),
            received: Half::new(Direction::Received, options.deflate, server),
        }
    }

    /// A connection of which the beginning was not seen, for `reason`. Either side goes on with the next piece that is
    /// nothing but frames.
    pub fn joined(key: Key, reason: Reason) -> Connection {
        let half = |direction| Half {
            state: State::Skip(reason),
            undecodable: Some(reason),
            ..Half::new(direction, true, false)
        };
        Connection { key, sent: half(Direction::Sent), received: half(Direction::Received) }
    }

    /// Takes the next piece of a direction; `tally.seen` counts it already.
    pub fn push(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) {
        let key = self.key;
        match piece {
            Piece::Gap(0) => {}
            Piece::Gap(bytes) => self.half(direction).gap(key, bytes, tally, sink),
            Piece::Bytes(bytes) => self.half(direction).bytes(key, bytes, budget, tally, sink),
        }
    }

    /// Nobody knows how much is missing of a direction.
    pub fn lose_place(&mut self, direction: Direction, tally: &mut Tally, sink: &mut impl Sink) {
        let key = self.key;
        self.half(direction).lose_place(key, Reason::Gap, 0, tally, sink);
    }

    fn half(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        }
    }

    /// The connection is over, or given up for `reason`.
    pub fn finish(&mut self, reason: Option<Reason>, tally: &mut Tally, sink: &mut impl Sink) {
        for half in [&mut self.sent, &mut self.received] {
            tally.lost.add(reason.unwrap_or(Reason::Interrupted), half.held as u64);
            half.held = 0;
        }
        sink.hung_up(self.key, reason.map_or(End::WithConnection, End::Cut));
    }
}

impl Half {
    /// A direction at the first byte of its first frame.
    fn new(direction: Direction, deflate: bool, fresh: bool) -> Half {
        Half {
            direction,
            deflate,
            fresh,
            state: State::Head,
            head: [0; HEAD_MAX],
            held: 0,
            message: None,
            inflater: None,
            undecodable: None,
        }
    }

    fn gap(&mut self, key: Key, bytes: u64, tally: &mut Tally, sink: &mut impl Sink) {
        tally.lost.add(Reason::Gap, bytes);
        match &mut self.state {
            State::Payload { left, at, data, last, .. } if bytes <= *left => {
                *left -= bytes;
                *at = ((u64::from(*at) + bytes) % 4) as u8;
                let (over, data, last) = (*left == 0, *data, *last);
                if data {
                    self.message_lost(key, bytes, sink);
                }
                if over {
                    self.frame_over(key, data, last, sink);
                }
            }
            State::Skip(_) => self.missed(key, bytes, sink),
            State::Head | State::Payload { .. } => self.lose_place(key, Reason::Gap, bytes, tally, sink),
        }
    }

    /// Bytes of the message in progress are missing: a window that is kept does not fit what follows.
    fn message_lost(&mut self, key: Key, bytes: u64, sink: &mut impl Sink) {
        if self.message.is_some_and(|message| message.deflated) {
            self.inflater = None;
            self.undecodable = Some(Reason::Gap);
        }
        self.missed(key, bytes, sink);
    }

    fn missed(&self, key: Key, bytes: u64, sink: &mut impl Sink) {
        sink.carried(key, self.direction, bytes);
        sink.message(key, self.direction, Piece::Gap(bytes));
    }

    fn lose_place(&mut self, key: Key, reason: Reason, bytes: u64, tally: &mut Tally, sink: &mut impl Sink) {
        tally.lost.add(reason, self.held as u64);
        self.held = 0;
        self.message = Some(Message { deflated: self.deflate });
        self.message_lost(key, bytes, sink);
        self.message_over();
        self.state = State::Skip(reason);
    }

    fn bytes(
        &mut self,
        key: Key,
        mut bytes: &[u8],
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) {
        if let State::Skip(reason) = self.state {
            if !self.is_nothing_but_frames(bytes) {
                tally.lost.add(reason, bytes.len() as u64);
                return self.missed(key, bytes.len() as u64, sink);
            }
            // The message in which the place was lost is over with what is missing.
            sink.message_end(key, self.direction);
            self.state = State::Head;
        }
        while !bytes.is_empty() {
            match self.state {
                State::Head => {
                    if let Some(slot) = self.head.get_mut(self.held) {
                        *slot = bytes.first().copied().unwrap_or(0);
                        self.held += 1;
                    }
                    bytes = bytes.get(1..).unwrap_or_default();
                    match FrameHead::read(self.head.get(..self.held).unwrap_or_default()) {
                        Read::More => {}
                        Read::Frame(frame) if self.begin(&frame) => {
                            tally.metered = tally.metered.saturating_add(frame.size as u64);
                            self.held = 0;
                            if frame.length == 0 {
                                self.frame_over(key, frame.kind < CLOSE, frame.last, sink);
                            }
                        }
                        Read::Frame(_) | Read::Wrong => {
                            tally.lost.add(Reason::NotHttp, bytes.len() as u64);
                            let lost = bytes.len() as u64;
                            return self.lose_place(key, Reason::NotHttp, lost, tally, sink);
                        }
                    }
                }
                State::Payload { left, mask, at, data, last } => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (part, rest) = bytes.split_at(here);
                    bytes = rest;
                    tally.metered = tally.metered.saturating_add(here as u64);
                    let left = left - here as u64;
                    let next = ((usize::from(at) + here) % 4) as u8;
                    self.state = State::Payload { left, mask, at: next, data, last };
                    if data {
                        sink.carried(key, self.direction, part.len() as u64);
                        self.payload(key, part, mask, at, budget, sink);
                    }
                    if left == 0 {
                        self.frame_over(key, data, last, sink);
                    }
                }
                State::Skip(reason) => {
                    tally.lost.add(reason, bytes.len() as u64);
                    return;
                }
            }
        }
    }

    /// A frame begins; false if it may not stand here.
    fn begin(&mut self, frame: &FrameHead) -> bool {
        let FrameHead { last, deflated, kind, mask, length, .. } = *frame;
        // Whatever a client sends is masked, whatever a server sends is not (RFC 6455, 5.1).
        let masked = mask.is_some() == (self.direction == Direction::Sent);
        let control = kind >= CLOSE;
        let fits = match (kind, self.message) {
            _ if control => last && length <= CONTROL_MAX && !deflated,
            (CONTINUATION, Some(_)) => !deflated,
            (TEXT | BINARY, None) => self.deflate || !deflated,
            _ => false,
        };
        if !masked || !fits {
            return false;
        }
        if matches!(kind, TEXT | BINARY) {
            self.message = Some(Message { deflated });
        }
        self.state =
            State::Payload { left: length, mask: mask.unwrap_or_default(), at: 0, data: !control, last };
        true
    }

    /// A part of a message's payload, still masked and deflated.
    fn payload(
        &mut self,
        key: Key,
        part: &[u8],
        mask: [u8; 4],
        at: u8,
        budget: &Budget,
        sink: &mut impl Sink,
    ) {
        if mask == [0; 4] {
            return self.unmasked(key, part, budget, sink);
        }
        let mut buffer = [0; 512];
        let mut masks = mask.iter().cycle().skip(usize::from(at));
        for piece in part.chunks(buffer.len()) {
            for ((slot, byte), mask) in buffer.iter_mut().zip(piece).zip(&mut masks) {
                *slot = byte ^ mask;
            }
            self.unmasked(key, buffer.get(..piece.len()).unwrap_or_default(), budget, sink);
        }
        wipe(buffer.get_mut(..part.len().min(512)).unwrap_or_default());
    }

    fn unmasked(&mut self, key: Key, part: &[u8], budget: &Budget, sink: &mut impl Sink) {
        if !self.message.is_some_and(|message| message.deflated) {
            return sink.message(key, self.direction, Piece::Bytes(part));
        }
        if self.inflater.is_none() && self.undecodable.is_none() {
            self.inflater = Inflater::new(budget).map(Box::new);
            if self.inflater.is_none() {
                self.undecodable = Some(Reason::LimitReached);
            }
        }
        let direction = self.direction;
        let inflated = match &mut self.inflater {
            Some(inflater) => {
                inflater.push(part, &mut |part| sink.message(key, direction, Piece::Bytes(part)))
            }
            None => Err(Reason::Undecodable),
        };
        if let Err(reason) = inflated {
            self.undecodable.get_or_insert(reason);
            self.inflater = None;
            sink.message(key, direction, Piece::Gap(part.len() as u64));
        }
    }

    fn frame_over(&mut self, key: Key, data: bool, last: bool, sink: &mut impl Sink) {
        self.state = State::Head;
        if !(data && last) {
            return;
        }
        let deflated = self.message.is_some_and(|message| message.deflated);
        let direction = self.direction;
        if let (true, Some(inflater)) = (deflated, &mut self.inflater) {
            // Data that is over has its end already.
            let tail: &[u8] = if inflater.ended { &[] } else { &TAIL };
            let end = inflater.push(tail, &mut |part| sink.message(key, direction, Piece::Bytes(part)));
            if let Err(reason) = end {
                self.undecodable.get_or_insert(reason);
                sink.message(key, direction, Piece::Gap(0));
            }
            if self.fresh || inflater.ended || end.is_err() {
                self.inflater = None;
            }
        }
        self.message_over();
        sink.message_end(key, direction);
    }

    /// A window that begins anew makes the next message readable again.
    fn message_over(&mut self) {
        self.message = None;
        if self.fresh {
            self.undecodable = None;
        }
    }

    fn is_nothing_but_frames(&self, bytes: &[u8]) -> bool {
        only_frames(self.direction, self.deflate, bytes).is_some()
    }
}

/// Whether `bytes` can be nothing but frames of `direction` of which one begins a message that can be read without knowing
/// what was agreed on.
pub(super) fn begins_with_messages(direction: Direction, bytes: &[u8]) -> bool {
    only_frames(direction, true, bytes) == Some(true)
}

/// Whether `bytes` can be nothing but frames: heads follow each other where the lengths say, to the end exactly, or into
/// a message that begins like JSON; and if so, whether one of them begins such a message.
fn only_frames(direction: Direction, deflate: bool, mut bytes: &[u8]) -> Option<bool> {
    let (mut frames, mut readable) = (0, false);
    while !bytes.is_empty() {
        let Read::Frame(frame) = FrameHead::read(bytes) else { return None };
        let masked = frame.mask.is_some() == (direction == Direction::Sent);
        let control = frame.kind >= CLOSE;
        let begins = matches!(frame.kind, TEXT | BINARY);
        let lawful = masked
            && (!frame.deflated || (deflate && begins))
            && (!control || (frame.last && frame.length <= CONTROL_MAX))
            // The middle of a message says nothing without its beginning.
            && (frames > 0 || frame.kind != CONTINUATION);
        if !lawful {
            return None;
        }
        frames += 1;
        let payload = bytes.get(frame.size..).unwrap_or_default();
        let json = begins && !frame.deflated && frame.length > 0 && is_json(payload, frame.mask);
        readable |= json;
        match usize::try_from(frame.length).ok().and_then(|length| payload.get(length..)) {
            Some(rest) => bytes = rest,
            None => return json.then_some(readable),
        }
    }
    (frames > 0).then_some(readable)
}

/// Whether a payload begins as an object does.
fn is_json(payload: &[u8], mask: Option<[u8; 4]>) -> bool {
    let mut plain = payload.iter().zip(mask.unwrap_or_default()).map(|(byte, mask)| byte ^ mask);
    plain.next() == Some(b'{')
        && plain.next().is_none_or(|next| matches!(next, b'"' | b'}' | b' ' | b'\t' | b'\r' | b'\n'))
}

impl FrameHead {
    fn read(bytes: &[u8]) -> Read {
        let [first, second, rest @ ..] = bytes else { return Read::More };
        let kind = first & 0x0f;
        // The bits of extensions that are not known, and kinds that are not.
        if first & 0x30 != 0 || !matches!(kind, CONTINUATION..=BINARY | CLOSE..=PONG) {
            return Read::Wrong;
        }
        let (length, after) = match (second & 0x7f, rest) {
            (126, [a, b, after @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), after),
            (127, [a, b, c, d, e, f, g, h, after @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), after)
            }
            (126 | 127, _) => return Read::More,
            (short, after) => (u64::from(short), after),
        };
        // The shortest form is the only one, and no length has its highest bit.
        let lawful = match second & 0x7f {
            126 => length > 125,
            127 => length > 0xffff && length >> 63 == 0,
            _ => true,
        };
        if !lawful {
            return Read::Wrong;
        }
        let mut size = bytes.len() - after.len();
        let mask = match (second & 0x80, after) {
            (0, _) => None,
            (_, [a, b, c, d, ..]) => {
                size += 4;
                Some([*a, *b, *c, *d])
            }
            _ => return Read::More,
        };
        Read::Frame(FrameHead {
            last: first & 0x80 != 0,
            deflated: first & 0x40 != 0,
            kind,
            mask,
            length,
            size,
        })
    }
}

impl Inflater {
    fn new(budget: &Budget) -> Option<Inflater> {
        let lease = budget.lease(INFLATE_BYTES)?;
        Some(Inflater { state: Decompress::new(false), taken: 0, given: 0, ended: false, _lease: lease })
    }

    fn push(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Reason> {
        let mut buffer = [0; DECODE_BUFFER];
        let mut most = 0;
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        let result = loop {
            if self.ended {
                if bytes.is_empty() {
                    break Ok(());
                }
                // A message may go on behind a last block (RFC 7692, 7.2.3.4).
                self.state.reset(false);
                self.ended = false;
            }
            let (used, made) = match self.step(bytes, &mut buffer) {
                Ok(step) => step,
                // It may have made something before it failed.
                Err(reason) => {
                    most = buffer.len();
                    break Err(reason);
                }
            };
            most = most.max(made);
            bytes = bytes.get(used..).unwrap_or_default();
            self.given = self.given.saturating_add(made as u64);
            if self.given > EXPANSION_FLOOR && self.given / EXPANSION_RATIO_MAX > self.taken {
                break Err(Reason::LimitReached);
            }
            out(buffer.get(..made).unwrap_or_default());
            if !self.ended && made < buffer.len() && (bytes.is_empty() || (used == 0 && made == 0)) {
                break Ok(());
            }
        };
        wipe(buffer.get_mut(..most).unwrap_or_default());
        result
    }

    /// Inflates some of `bytes` into `buffer`: how many were used and made.
    fn step(&mut self, bytes: &[u8], buffer: &mut [u8]) -> Result<(usize, usize), Reason> {
        let (taken, given) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(bytes, buffer, FlushDecompress::Sync);
        self.ended = status.map_err(|_| Reason::Undecodable)? == Status::StreamEnd;
        let used = usize::try_from(self.state.total_in() - taken).unwrap_or(bytes.len());
        let made = usize::try_from(self.state.total_out() - given).unwrap_or(0);
        Ok((used, made))
    }
}

impl Drop for Inflater {
    /// The window holds the last of the messages.
    fn drop(&mut self) {
        forget(&mut self.state, self.given);
    }
}
