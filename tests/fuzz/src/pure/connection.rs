//! A connection of either HTTP.

use std::collections::{BTreeMap, BTreeSet};

use meter::exchange::Reason;
use meter::flow::Piece;
use meter::http::{End, Header, Key, Protocol, RequestHead, ResponseHead, Sink};
use meter::limits::Budget;
use meter::loss::Tally;
use meter::pipeline::Direction;

use super::{Step, steps};

/// What a protocol reported, in an order that its contract allows.
#[derive(Default)]
struct Recorder {
    /// It listens to WebSockets.
    listens: bool,
    body: u64,
    open: BTreeMap<Key, Progress>,
    /// WebSockets that are not over.
    talks: BTreeSet<Key>,
    used: BTreeSet<Key>,
    upgraded: bool,
    /// Every report, data of one message put together.
    log: Vec<(Key, bool, String, Vec<u8>)>,
}

/// How far an exchange is.
#[derive(Default)]
struct Progress {
    /// The request ended.
    asked: bool,
    /// The response began.
    responded: bool,
    /// It ended.
    answered: bool,
}

impl Recorder {
    fn begin(&mut self, key: Key) {
        assert!(self.used.insert(key), "a key is used once");
        self.open.insert(key, Progress::default());
    }

    /// Nothing more is reported of an exchange of which both sides ended.
    fn settle(&mut self, key: Key) {
        self.open.retain(|open, progress| *open != key || !progress.asked || !progress.answered);
    }

    fn of(&mut self, key: Key) -> &mut Progress {
        self.open.get_mut(&key).unwrap_or_else(|| panic!("{key} has not begun, or is over"))
    }

    fn note(&mut self, key: Key, response: bool, what: String) {
        self.log.push((key, response, what, Vec::new()));
    }

    fn data(&mut self, key: Key, response: bool, data: Piece<'_>) {
        self.body += data.len();
        match data {
            Piece::Gap(bytes) => self.note(key, response, format!("gap {bytes}")),
            Piece::Bytes(bytes) => {
                let last = self.log.iter_mut().rev().find(|(k, r, ..)| (*k, *r) == (key, response));
                match last {
                    Some((.., text, all)) if text == "data" => all.extend_from_slice(bytes),
                    _ => self.log.push((key, response, "data".to_owned(), bytes.to_vec())),
                }
            }
        }
    }

    /// What can be compared however the pieces of two directions interleave.
    fn sorted(mut self) -> Vec<(Key, bool, String, Vec<u8>)> {
        self.log.sort_by_key(|(key, response, ..)| (*key, *response));
        self.log
    }
}

fn fields(headers: &[Header<'_>]) -> String {
    headers.iter().map(|field| format!("{}={:02x?} ", field.name, field.value)).collect()
}

impl Sink for Recorder {
    fn request(&mut self, key: Key, head: &RequestHead<'_>) {
        self.begin(key);
        let RequestHead { method, target, authority, headers, .. } = *head;
        self.note(key, false, format!("{method} {target} {authority:?} {}", fields(headers)));
    }
    fn request_data(&mut self, key: Key, data: Piece<'_>) {
        assert!(!self.of(key).asked, "a request goes on after its end");
        self.data(key, false, data);
    }
    fn request_end(&mut self, key: Key, end: End) {
        assert!(!std::mem::replace(&mut self.of(key).asked, true), "a request ends once");
        self.settle(key);
        self.note(key, false, format!("{end:?}"));
    }
    fn unasked(&mut self, key: Key, reason: Reason) {
        self.begin(key);
        self.of(key).asked = true;
        self.note(key, false, format!("unasked {reason:?}"));
    }
    fn response(&mut self, key: Key, head: &ResponseHead<'_>) {
        assert!(head.status == 0 || head.status >= 101);
        assert!(!self.of(key).answered, "a response after its end");
        assert!(!std::mem::replace(&mut self.of(key).responded, true), "a response begins once");
        self.note(key, true, format!("{} {}", head.status, fields(head.headers)));
    }
    fn response_data(&mut self, key: Key, data: Piece<'_>) {
        assert!(!self.of(key).answered, "a response goes on after its end");
        self.data(key, true, data);
    }
    fn trailers(&mut self, key: Key, headers: &[Header<'_>]) {
        assert!(!self.of(key).answered, "trailers after the end");
        self.note(key, true, fields(headers));
    }
    fn response_end(&mut self, key: Key, end: End) {
        assert!(!std::mem::replace(&mut self.of(key).answered, true), "a response ends once");
        self.settle(key);
        self.note(key, true, format!("{end:?}"));
    }
    fn orphan(&mut self, _: Reason) {}
    fn converse(&mut self, key: Key) -> bool {
        self.of(key);
        if self.listens {
            self.open.remove(&key);
            self.talks.insert(key);
        }
        self.listens
    }
    fn overhear(&mut self, key: Key, _: Reason) -> bool {
        if self.listens {
            assert!(self.used.insert(key), "a key is used once");
            self.talks.insert(key);
        }
        self.listens
    }
    fn carried(&mut self, key: Key, _: Direction, bytes: u64) {
        assert!(self.talks.contains(&key), "a WebSocket that was not agreed to, or is over");
        self.body += bytes;
    }
    fn message(&mut self, key: Key, _: Direction, _: Piece<'_>) {
        assert!(self.talks.contains(&key), "a WebSocket that was not agreed to, or is over");
    }
    fn message_end(&mut self, key: Key, _: Direction) {
        assert!(self.talks.contains(&key), "a WebSocket that was not agreed to, or is over");
    }
    fn hung_up(&mut self, key: Key, _: End) {
        assert!(self.talks.remove(&key), "a WebSocket ends once");
    }
    fn upgraded(&mut self) {
        assert!(!std::mem::replace(&mut self.upgraded, true), "a session is upgraded once");
        assert!(self.open.is_empty(), "requests without end: {:?}", self.open.keys());
    }
}

/// Runs `data` as steps on a connection, bytes in pieces of at most `size`: every byte is accounted for, every request
/// and every WebSocket ends.
fn connection(late: bool, listens: bool, before: &[u8], data: &[u8], size: usize) -> (Tally, Recorder) {
    let budget = Budget::new();
    let mut protocol = Protocol::new(late);
    let (mut tally, mut sink) = (Tally::default(), Recorder { listens, ..Recorder::default() });
    let mut moved = 0;
    let mut push = |direction, piece: Piece<'_>| {
        moved += piece.len();
        protocol.push(direction, piece, &budget, &mut tally, &mut sink);
    };
    if !before.is_empty() {
        push(Direction::Sent, Piece::Bytes(before));
    }
    for step in steps(data) {
        match step {
            Step::Bytes(direction, bytes) => {
                bytes.chunks(size).for_each(|piece| push(direction, Piece::Bytes(piece)));
            }
            Step::Gap(direction, bytes) => push(direction, Piece::Gap(bytes)),
        }
    }
    protocol.finish(None, &mut tally, &mut sink);
    assert_eq!(tally.seen, moved);
    assert!(tally.is_conserved(), "bytes unaccounted for: {tally:?}");
    assert!(sink.body <= tally.seen, "more of bodies than there was");
    assert!(sink.open.is_empty(), "requests without end: {:?}", sink.open.keys());
    assert!(sink.talks.is_empty(), "WebSockets without end: {:?}", sink.talks);
    (tally, sink)
}

/// HTTP/1, what it goes over to, and the detection of what is spoken, from the start or from anywhere.
pub fn h1(data: &[u8]) {
    let [flags, rest @ ..] = data else { return };
    connection(flags & 1 != 0, flags & 2 == 0, b"", rest, usize::MAX);
}

/// HTTP/2 after its preface: cut anywhere, same streams, as long as the place is not lost (it is found again at the
/// beginning of a piece). And from anywhere.
pub fn h2(data: &[u8]) {
    let [size, rest @ ..] = data else { return };
    if size & 0x80 != 0 {
        connection(true, true, b"", rest, usize::MAX);
        return;
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (tally, whole) = connection(false, false, preface, rest, usize::MAX);
    if tally.lost.is_empty() {
        let (tally, cut) = connection(false, false, preface, rest, usize::from(*size).max(1));
        assert!(tally.lost.is_empty(), "{tally:?}");
        assert_eq!(whole.sorted(), cut.sorted());
    }
}
