//! A conversation over a WebSocket.

use meter::exchange::Reason;
use meter::flow::Piece;
use meter::http::{End, Key, Protocol, RequestHead, ResponseHead, Sink};
use meter::limits::{Budget, DECODE_BUFFER, EXPANSION_FLOOR, EXPANSION_RATIO_MAX};
use meter::loss::Tally;
use meter::pipeline::Direction;

use super::{Step, steps};

/// A WebSocket after its handshake: cut anywhere, same messages, as long as the place is not lost (it is found again at
/// the beginning of a piece). And one of whose handshake the answer, or all, was not seen.
pub fn websocket(data: &[u8]) {
    let [flags, size, rest @ ..] = data else { return };
    let extension = match (flags & 0x3f) % 3 {
        0 => "x-none",
        1 => "permessage-deflate",
        _ => "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: {extension}\r\n\r\n"
    );
    let (sent, received) = (Direction::Sent, Direction::Received);
    let asked = (sent, Piece::Bytes(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"));
    let handshake: &[_] = match flags >> 6 {
        0 | 1 => &[asked, (received, Piece::Bytes(answer.as_bytes()))],
        2 => &[asked, (received, Piece::Gap(100))],
        _ => &[],
    };
    let run = |handshake: &[(Direction, Piece<'_>)], size: usize| {
        let (budget, mut tally, mut heard) = (Budget::new(), Tally::default(), Heard::default());
        let mut protocol = Protocol::new(handshake.is_empty());
        let mut moved = 0;
        let mut push = |direction, piece: Piece<'_>| {
            moved += piece.len();
            protocol.push(direction, piece, &budget, &mut tally, &mut heard);
        };
        for (direction, piece) in handshake {
            push(*direction, *piece);
        }
        for step in steps(rest) {
            match step {
                Step::Bytes(direction, bytes) => {
                    bytes.chunks(size).for_each(|piece| push(direction, Piece::Bytes(piece)));
                }
                Step::Gap(direction, bytes) => push(direction, Piece::Gap(bytes)),
            }
        }
        protocol.finish(None, &mut tally, &mut heard);
        assert_eq!(tally.seen, moved);
        assert!(tally.is_conserved(), "bytes unaccounted for: {tally:?}");
        assert_eq!(heard.over, heard.begun, "a WebSocket without end");
        assert!(heard.carried <= tally.seen, "more of messages than there was");
        let bound = EXPANSION_FLOOR.max((tally.seen + 1) * EXPANSION_RATIO_MAX) + DECODE_BUFFER as u64;
        assert!(heard.bytes <= 2 * bound, "expanded to {}", heard.bytes);
        (tally, heard)
    };
    let (tally, whole) = run(handshake, usize::MAX);
    if flags >> 6 > 1 {
        return;
    }
    assert!(whole.begun, "the handshake begins a WebSocket");
    if tally.lost.is_empty() {
        let (tally, cut) = run(handshake, usize::from(*size).max(1));
        assert!(tally.lost.is_empty(), "{tally:?}");
        // How much of a damaged message is still handed out depends on the pieces; that it is damaged does not. The same
        // goes for one that never ends: the inflater hands out less of it when it was given less at a time.
        assert_eq!(whole.messages, cut.messages);
        assert!(whole.open.iter().zip(&cut.open).all(begin_alike), "{:?} {:?}", whole.open, cut.open);
    }
}

/// True if of two readings of a message that never ended, one is the beginning of the other.
fn begin_alike(pair: (&Open, &Open)) -> bool {
    match pair {
        (Some(Some(one)), Some(Some(other))) => one.starts_with(other) || other.starts_with(one),
        (one, other) => one.is_some() == other.is_some(),
    }
}

/// A message that has begun: what has come of it, or `None` where something is missing.
type Open = Option<Option<Vec<u8>>>;

/// The messages of both directions; `None` where something is missing.
#[derive(Debug, Default)]
struct Heard {
    messages: [Vec<Option<Vec<u8>>>; 2],
    open: [Open; 2],
    bytes: u64,
    carried: u64,
    begun: bool,
    over: bool,
}

impl Sink for Heard {
    fn request(&mut self, _: Key, _: &RequestHead<'_>) {}
    fn request_data(&mut self, _: Key, _: Piece<'_>) {}
    fn request_end(&mut self, _: Key, _: End) {}
    fn response(&mut self, _: Key, _: &ResponseHead<'_>) {}
    fn response_data(&mut self, _: Key, _: Piece<'_>) {}
    fn response_end(&mut self, _: Key, _: End) {}
    fn orphan(&mut self, _: Reason) {}
    fn converse(&mut self, _: Key) -> bool {
        assert!(!std::mem::replace(&mut self.begun, true), "it begins twice");
        true
    }
    fn overhear(&mut self, key: Key, _: Reason) -> bool {
        self.converse(key)
    }
    fn carried(&mut self, _: Key, _: Direction, bytes: u64) {
        self.carried += bytes;
    }
    fn message(&mut self, _: Key, direction: Direction, part: Piece<'_>) {
        assert!(self.begun && !self.over, "a message before the beginning or after the end");
        let open = &mut self.open[usize::from(direction == Direction::Received)];
        let message = open.get_or_insert_with(|| Some(Vec::new()));
        match (part, message) {
            (Piece::Bytes(part), Some(message)) => {
                self.bytes += part.len() as u64;
                message.extend_from_slice(part);
            }
            (Piece::Bytes(part), None) => self.bytes += part.len() as u64,
            (Piece::Gap(_), message) => *message = None,
        }
    }
    fn message_end(&mut self, _: Key, direction: Direction) {
        let at = usize::from(direction == Direction::Received);
        let message = self.open[at].take();
        self.messages[at].push(message.unwrap_or(Some(Vec::new())));
    }
    fn hung_up(&mut self, _: Key, _: End) {
        assert!(!std::mem::replace(&mut self.over, true), "it ends twice");
    }
    fn upgraded(&mut self) {}
}
