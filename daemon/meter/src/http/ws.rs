//! WebSocket (RFC 6455) with `permessage-deflate` (RFC 7692), as both sides speak it after their handshake: on a connection
//! of HTTP/1.1, or in a stream of HTTP/2 (RFC 8441).
//!
//! The parts of a message come as they pass, unmasked and inflated; control frames are passed over. A hole inside a
//! frame's payload leaves the frames in step. Any other loses the place until a piece is nothing but frames.
//!
//! After a hole, and on a connection that was joined in the middle, inflating goes on with the next message and an empty
//! window. That invents nothing: what a message refers to lies a number of bytes before it, so what was not inflated
//! cannot be referred to, and such a message is lost. Nor has it to be known what was agreed on: to keep a window does no
//! harm where the other side begins anew.

mod extension;
mod frame;

use self::extension::Inflater;
pub use self::extension::Options;
use self::frame::only_frames;
use self::frame::{BINARY, CLOSE, CONTINUATION, CONTROL_MAX, FrameHead, HEAD_MAX, Read, TEXT};
pub(crate) use self::frame::{begins_no_request, begins_with_messages, is_nothing_but_frames};
use super::{End, Key, Sink};
use crate::exchange::Reason;
use crate::flow::{Direction, Piece};
use crate::limits::Budget;
use crate::loss::Tally;
use crate::payload::wipe;

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
    /// What follows of the message in progress cannot be inflated.
    undecodable: bool,
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

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Half")
            .field("direction", &self.direction)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
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
        let half = |direction| Half { state: State::Skip(reason), ..Half::new(direction, true, false) };
        Connection { key, sent: half(Direction::Sent), received: half(Direction::Received) }
    }

    /// A connection that was asked for, and of which a hole took the answer. It may have taken messages of the server with
    /// it; of the client it took none, unless what it sent is `holed` too.
    pub fn unanswered(key: Key, holed: bool, sink: &mut impl Sink) -> Connection {
        sink.message(key, Direction::Received, Piece::Gap(0));
        let joined = Connection::joined(key, Reason::Gap);
        let sent = if holed { joined.sent } else { Half::new(Direction::Sent, true, false) };
        Connection { sent, ..joined }
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
            undecodable: false,
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

    /// Bytes of the message in progress are missing, and of the window with it: the next begins with an empty one.
    fn message_lost(&mut self, key: Key, bytes: u64, sink: &mut impl Sink) {
        if self.message.is_some_and(|message| message.deflated) {
            self.inflater = None;
            self.undecodable = true;
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
        if self.inflater.is_none() && !self.undecodable {
            self.inflater = Inflater::new(budget).map(Box::new);
        }
        let direction = self.direction;
        let inflated = self.inflater.as_mut().is_some_and(|inflater| {
            inflater.push(part, &mut |part| sink.message(key, direction, Piece::Bytes(part))).is_ok()
        });
        if !inflated {
            self.undecodable = true;
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
            let end = inflater.end(&mut |part| sink.message(key, direction, Piece::Bytes(part)));
            if end.is_err() {
                sink.message(key, direction, Piece::Gap(0));
            }
            if self.fresh || inflater.has_ended() || end.is_err() {
                self.inflater = None;
            }
        }
        self.message_over();
        sink.message_end(key, direction);
    }

    fn message_over(&mut self) {
        self.message = None;
        self.undecodable = false;
    }

    fn is_nothing_but_frames(&self, bytes: &[u8]) -> bool {
        only_frames(self.direction, self.deflate, bytes).is_some()
    }
}
