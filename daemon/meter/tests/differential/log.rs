//! What the meter understood of a connection, as plain values.

use std::collections::BTreeMap;

use http::HeaderMap;
use meter::exchange::Reason;
use meter::flow::Piece;
use meter::http::{End, Header, Key, Protocol, RequestHead, ResponseHead, Sink};
use meter::limits::Budget;
use meter::loss::Tally;

use crate::tape::Move;

/// Names and values in the order of names, as far as two implementations have to agree.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) start: String,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) end: Option<End>,
}

/// All of a connection.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) requests: BTreeMap<Key, Message>,
    pub(crate) responses: BTreeMap<Key, Message>,
    pub(crate) upgraded: bool,
}

/// The fields of a map, in the order of names.
pub(crate) fn fields_of(map: &HeaderMap) -> Fields {
    ordered(map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())))
}

fn plain(headers: &[Header<'_>]) -> Fields {
    ordered(headers.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())))
}

fn ordered(fields: impl Iterator<Item = (String, Vec<u8>)>) -> Fields {
    let mut fields: Fields = fields.collect();
    // Stable: values of one name keep their order.
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

impl Sink for Log {
    fn request(&mut self, key: Key, head: &RequestHead<'_>) {
        let authority = head.authority.unwrap_or("");
        let start = format!("{} {authority}{}", head.method, head.target);
        let message = Message { start, fields: plain(head.headers), ..Message::default() };
        assert!(self.requests.insert(key, message).is_none(), "key {key} is used twice");
    }

    fn request_data(&mut self, key: Key, data: Piece<'_>) {
        take(self.requests.get_mut(&key), data);
    }

    fn request_end(&mut self, key: Key, end: End) {
        finish(self.requests.get_mut(&key), end);
    }

    fn response(&mut self, key: Key, head: &ResponseHead<'_>) {
        let start = head.status.to_string();
        let message = Message { start, fields: plain(head.headers), ..Message::default() };
        assert!(self.responses.insert(key, message).is_none(), "key {key} is answered twice");
    }

    fn response_data(&mut self, key: Key, data: Piece<'_>) {
        take(self.responses.get_mut(&key), data);
    }

    fn response_end(&mut self, key: Key, end: End) {
        finish(Some(self.responses.entry(key).or_default()), end);
    }

    fn orphan(&mut self, reason: Reason) {
        panic!("a response without request: {reason:?}");
    }

    fn upgraded(&mut self) {
        self.upgraded = true;
    }
}

fn take(message: Option<&mut Message>, data: Piece<'_>) {
    match (message, data) {
        (Some(message), Piece::Bytes(bytes)) if message.end.is_none() => {
            message.body.extend_from_slice(bytes)
        }
        (message, data) => panic!("{data:?} for {message:?}"),
    }
}

fn finish(message: Option<&mut Message>, end: End) {
    match message {
        Some(message) if message.end.is_none() => message.end = Some(end),
        other => panic!("{end:?} for {other:?}"),
    }
}

/// What the meter says of `tape`, every piece cut into sizes that are taken in turn from `cuts`.
pub(crate) fn read(tape: &[Move], cuts: &[usize]) -> Log {
    let (budget, mut tally, mut log) = (Budget::new(), Tally::default(), Log::default());
    let mut protocol = Protocol::new(false);
    let mut sizes = cuts.iter().copied().filter(|size| *size > 0).cycle();
    for (direction, bytes) in tape {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(rest.len());
            let (piece, later) = rest.split_at(size.min(rest.len()));
            protocol.push(*direction, Piece::Bytes(piece), &budget, &mut tally, &mut log);
            rest = later;
        }
    }
    protocol.finish(None, &mut tally, &mut log);
    assert!(tally.is_conserved(), "{tally:?}");
    assert!(tally.lost.is_empty() || log.upgraded, "{tally:?}");
    log
}
