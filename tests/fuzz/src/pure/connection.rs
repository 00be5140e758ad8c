//! A connection of either HTTP.

use meter::exchange::Reason;
use meter::flow::Piece;
use meter::http::{End, Header, Key, Protocol, RequestHead, ResponseHead, Sink};
use meter::limits::Budget;
use meter::loss::Tally;
use meter::pipeline::Direction;

use super::{Step, steps};

/// What a protocol reported.
#[derive(Default)]
struct Recorder {
    body: u64,
    open: Vec<Key>,
    /// Every report, data of one message put together.
    log: Vec<(Key, bool, String, Vec<u8>)>,
}

impl Recorder {
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
        assert!(!self.open.contains(&key), "a key is used once");
        self.open.push(key);
        let RequestHead { method, target, authority, headers, .. } = *head;
        self.note(key, false, format!("{method} {target} {authority:?} {}", fields(headers)));
    }
    fn request_data(&mut self, key: Key, data: Piece<'_>) {
        self.data(key, false, data);
    }
    fn request_end(&mut self, key: Key, end: End) {
        self.note(key, false, format!("{end:?}"));
    }
    fn response(&mut self, key: Key, head: &ResponseHead<'_>) {
        assert!(head.status == 0 || head.status >= 101);
        self.note(key, true, format!("{} {}", head.status, fields(head.headers)));
    }
    fn response_data(&mut self, key: Key, data: Piece<'_>) {
        self.data(key, true, data);
    }
    fn response_end(&mut self, key: Key, end: End) {
        self.open.retain(|open| *open != key);
        self.note(key, true, format!("{end:?}"));
    }
    fn orphan(&mut self, _: Reason) {}
    fn upgraded(&mut self) {}
}

/// Runs `data` as steps on a connection, bytes in pieces of at most `size`: every byte is accounted for, every request
/// ends.
fn connection(late: bool, before: &[u8], data: &[u8], size: usize) -> (Tally, Recorder) {
    let budget = Budget::new();
    let mut protocol = Protocol::new(late);
    let (mut tally, mut sink) = (Tally::default(), Recorder::default());
    if !before.is_empty() {
        protocol.push(Direction::Sent, Piece::Bytes(before), &budget, &mut tally, &mut sink);
    }
    for step in steps(data) {
        match step {
            Step::Bytes(direction, bytes) => {
                for piece in bytes.chunks(size) {
                    protocol.push(direction, Piece::Bytes(piece), &budget, &mut tally, &mut sink);
                }
            }
            Step::Gap(direction, bytes) => {
                protocol.push(direction, Piece::Gap(bytes), &budget, &mut tally, &mut sink);
            }
        }
    }
    protocol.finish(None, &mut tally, &mut sink);
    assert!(tally.is_conserved(), "bytes unaccounted for: {tally:?}");
    assert!(sink.body <= tally.seen);
    assert!(sink.open.is_empty(), "requests without end: {:?}", sink.open);
    (tally, sink)
}

/// HTTP/1 and the detection of what is spoken.
pub fn h1(data: &[u8]) {
    let [flags, rest @ ..] = data else { return };
    connection(flags & 1 != 0, b"", rest, usize::MAX);
}

/// HTTP/2 after its preface: cut anywhere, same streams, as long as the place is not lost (it is found again at the
/// beginning of a piece).
pub fn h2(data: &[u8]) {
    let [size, rest @ ..] = data else { return };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (tally, whole) = connection(false, preface, rest, usize::MAX);
    if tally.lost.is_empty() {
        let (tally, cut) = connection(false, preface, rest, usize::from(*size).max(1));
        assert!(tally.lost.is_empty(), "{tally:?}");
        assert_eq!(whole.sorted(), cut.sorted());
    }
}
