//! HTTP as the meter sees it: messages of a session, in both directions, in whatever version they travel.
//!
//! A protocol turns pieces of two streams into calls of a [`Sink`]: a head begins a message under a key, data and end
//! follow under the same key, in any interleaving. HTTP/1.1 is [`h1`], HTTP/2 [`h2`], WebSocket [`ws`]; a further
//! protocol is a variant of [`Protocol`] and a file beside it. Nothing here knows what a body means.

pub mod body;
pub mod eventstream;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod hpack;
pub mod sse;
pub mod ws;

use crate::exchange::Reason;
use crate::flow::{Direction, Piece};
use crate::limits::Budget;
use crate::loss::Tally;
use crate::payload::Held;

/// A header field, as parsed; names keep their case.
pub type Header<'a> = httparse::Header<'a>;

/// Tells messages of one session apart; request and response share it.
pub type Key = u64;

/// What begins a request.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// Method, upper case.
    pub method: &'a str,
    /// Request target.
    pub target: &'a str,
    /// `:authority`, where the protocol has it apart from the fields.
    pub authority: Option<&'a str>,
    /// `:protocol` of a CONNECT that asks for more than a tunnel (RFC 8441, 4): `websocket`.
    pub protocol: Option<&'a str>,
    /// Fields.
    pub headers: &'a [Header<'a>],
}

/// What begins a final response.
#[derive(Clone, Copy)]
pub struct ResponseHead<'a> {
    /// Status code.
    pub status: u16,
    /// Fields.
    pub headers: &'a [Header<'a>],
    /// False if fields are missing that could not be decoded.
    pub whole: bool,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By its own framing.
    Complete,
    /// With the connection, as its framing allows.
    WithConnection,
    /// Its end was not seen, for this reason.
    Cut(Reason),
}

/// The first value of the field `name`, if it is text.
pub fn header<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a str> {
    let field = headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(field.value).ok().map(str::trim)
}

/// The members of the field `name`, whose value is a list that may be spread over many fields (RFC 9110, 5.6.1).
pub fn list<'a>(headers: &'a [Header<'a>], name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
    let fields = headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    let values = fields.filter_map(|field| std::str::from_utf8(field.value).ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

/// Takes what a protocol finds.
pub trait Sink {
    /// A request begins. A key is used once.
    fn request(&mut self, key: Key, head: &RequestHead<'_>);
    /// A part of its body, without framing.
    fn request_data(&mut self, key: Key, data: Piece<'_>);
    /// It ended, or is not followed any further.
    fn request_end(&mut self, key: Key, end: End);
    /// A response begins whose request was not seen, for this reason.
    fn unasked(&mut self, _key: Key, _reason: Reason) {}
    /// The final response begins.
    fn response(&mut self, key: Key, head: &ResponseHead<'_>);
    /// A part of its body, without framing.
    fn response_data(&mut self, key: Key, data: Piece<'_>);
    /// Fields after its body.
    fn trailers(&mut self, _key: Key, _headers: &[Header<'_>]) {}
    /// It ended. The key is not used again once both have.
    fn response_end(&mut self, key: Key, end: End);
    /// Bytes came back that belong to no response head that was seen.
    fn orphan(&mut self, reason: Reason);
    /// The request `key` was answered with a WebSocket: whether its messages are of interest. If not, the session went
    /// over to another protocol.
    fn converse(&mut self, _key: Key) -> bool {
        false
    }
    /// The session shows itself to be a WebSocket whose upgrade was not seen, for this reason: whether its messages are
    /// of interest. If not, the session goes on as if nothing were known.
    fn overhear(&mut self, _key: Key, _reason: Reason) -> bool {
        false
    }
    /// So many bytes of payload of the WebSocket `key` passed, as they travelled.
    fn carried(&mut self, _key: Key, _direction: Direction, _bytes: u64) {}
    /// A part of a message of the WebSocket `key`.
    fn message(&mut self, _key: Key, _direction: Direction, _part: Piece<'_>) {}
    /// The message is over.
    fn message_end(&mut self, _key: Key, _direction: Direction) {}
    /// The WebSocket is over.
    fn hung_up(&mut self, _key: Key, _end: End) {}
    /// The session went over to another protocol.
    fn upgraded(&mut self);
}

/// What a session speaks.
#[derive(Debug)]
pub enum Protocol {
    /// Not known before the first bytes.
    Unknown(Detect),
    /// HTTP/1.x.
    Http1(Box<h1::Connection>),
    /// HTTP/2.
    Http2(Box<h2::Connection>),
    /// A WebSocket.
    WebSocket(Box<ws::Connection>),
    /// Nothing that is metered: every byte is lost for this reason.
    Unmetered(Reason),
}

impl Protocol {
    /// A protocol to be found out. `joined_late` if bytes may have passed before.
    pub fn new(joined_late: bool) -> Protocol {
        Protocol::Unknown(Detect { joined_late, ..Detect::default() })
    }

    /// Takes the next piece of a direction. Returns the reason if the session has just turned out not to be metered.
    pub fn push(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> Option<Reason> {
        tally.seen = tally.seen.saturating_add(piece.len());
        self.advance(direction, piece, budget, tally, sink)
    }

    fn advance(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> Option<Reason> {
        if let (Protocol::Http1(connection), Piece::Bytes(bytes)) = (&mut *self, piece)
            && let Some(doubt) = connection.doubt(direction)
            && let Some(other) = Protocol::shown(direction, bytes, doubt, sink)
        {
            connection.abandon(tally);
            *self = other;
        }
        let detect = match self {
            Protocol::Http1(connection) => match connection.push(direction, piece, budget, tally, sink) {
                h1::Next::Http1 => return None,
                h1::Next::Upgraded => {
                    *self = Protocol::Unmetered(Reason::Upgraded);
                    return Some(Reason::Upgraded);
                }
                h1::Next::Unpaired(reason) => {
                    *self = Protocol::Unmetered(reason);
                    return Some(reason);
                }
                h1::Next::WebSocket { mut connection, rest } => {
                    if let Piece::Bytes(bytes) = piece {
                        let begun = bytes.get(bytes.len().saturating_sub(rest)..).unwrap_or_default();
                        connection.push(direction, Piece::Bytes(begun), budget, tally, sink);
                    }
                    *self = Protocol::WebSocket(connection);
                    return None;
                }
            },
            Protocol::WebSocket(connection) => {
                connection.push(direction, piece, budget, tally, sink);
                return None;
            }
            Protocol::Http2(connection) => {
                connection.push(direction, piece, budget, tally, sink);
                return None;
            }
            Protocol::Unmetered(reason) => {
                tally.lost.add(*reason, piece.len());
                return None;
            }
            Protocol::Unknown(detect) => detect,
        };
        let found = detect.look(direction, piece);
        if found == Detected::More {
            match (piece, direction) {
                (Piece::Bytes(bytes), _) => detect.held.push(bytes),
                (Piece::Gap(bytes), Direction::Sent) => {
                    detect.missing[0] = detect.missing[0].saturating_add(bytes)
                }
                (Piece::Gap(bytes), Direction::Received) => {
                    detect.missing[1] = detect.missing[1].saturating_add(bytes)
                }
            }
            return None;
        }
        let Detect { joined_late, held, missing } = std::mem::take(detect);
        let [sent, received] = missing;
        let reason = match found {
            Detected::Http2 => {
                // Frames without preface are the middle of a connection, unless the server was quicker.
                let bytes = match piece {
                    Piece::Bytes(bytes) if direction == Direction::Sent => bytes,
                    _ => &[],
                };
                let preface = held.iter().chain(bytes).take(h2::PREFACE.len()).eq(h2::PREFACE);
                let late = (joined_late || sent > 0) && !preface;
                let mut connection = Box::new(h2::Connection::new(late));
                tally.lost.add(Reason::Gap, sent);
                connection.push(Direction::Received, Piece::Gap(received), budget, tally, sink);
                connection.push(Direction::Sent, Piece::Bytes(&held), budget, tally, sink);
                connection.push(direction, piece, budget, tally, sink);
                *self = Protocol::Http2(connection);
                return None;
            }
            Detected::Neither => Reason::NotHttp,
            Detected::Http1 | Detected::More => {
                let mut connection = Box::new(h1::Connection::new(joined_late));
                connection.push(Direction::Sent, Piece::Gap(sent), budget, tally, sink);
                connection.push(Direction::Received, Piece::Gap(received), budget, tally, sink);
                connection.push(Direction::Sent, Piece::Bytes(&held), budget, tally, sink);
                *self = Protocol::Http1(connection);
                return self.advance(direction, piece, budget, tally, sink);
            }
        };
        tally.lost.add(Reason::Gap, sent.saturating_add(received));
        tally.lost.add(reason, piece.len().saturating_add(held.len() as u64));
        *self = Protocol::Unmetered(reason);
        Some(reason)
    }

    /// Whether it can go on as a session that begins.
    pub fn is_at_rest(&self) -> bool {
        matches!(self, Protocol::Http1(connection) if connection.is_at_rest())
    }

    /// What a session is, of which something was not seen, if it is not HTTP/1 and `bytes` show it.
    fn shown(direction: Direction, bytes: &[u8], doubt: h1::Doubt, sink: &mut impl Sink) -> Option<Protocol> {
        let h1::Doubt { reason, http2, key } = doubt;
        if http2 && h2::begins_with_frames(bytes) {
            return Some(Protocol::Http2(Box::new(h2::Connection::new(true))));
        }
        let overheard = ws::begins_with_messages(direction, bytes) && sink.overhear(key, reason);
        overheard.then(|| Protocol::WebSocket(Box::new(ws::Connection::joined(key, reason))))
    }

    /// The session is over, or given up for `reason`: everything open ends.
    pub fn finish(&mut self, reason: Option<Reason>, tally: &mut Tally, sink: &mut impl Sink) {
        match self {
            Protocol::Http1(connection) => connection.finish(reason, tally, sink),
            Protocol::Http2(connection) => connection.finish(reason, tally, sink),
            Protocol::WebSocket(connection) => connection.finish(reason, tally, sink),
            Protocol::Unmetered(_) => {}
            Protocol::Unknown(detect) => {
                let [sent, received] = detect.missing;
                tally.lost.add(Reason::Gap, sent.saturating_add(received));
                tally.lost.add(reason.unwrap_or(Reason::NotHttp), detect.held.len() as u64);
            }
        }
        *self = Protocol::Unmetered(reason.unwrap_or(Reason::UnknownSession));
    }
}

/// The first bytes of a session that has not shown what it speaks.
#[derive(Debug, Default)]
pub struct Detect {
    joined_late: bool,
    /// The beginning of what was sent.
    held: Held,
    /// Bytes that are missing before anything that was seen, by direction.
    missing: [u64; 2],
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detected {
    Http1,
    Http2,
    Neither,
    More,
}

/// Longest method of interest and its space.
const METHOD_MAX: usize = 8;

impl Detect {
    fn look(&self, direction: Direction, piece: Piece<'_>) -> Detected {
        // What is missing may have been a head: HTTP/1 finds its way back.
        let late = self.joined_late || self.missing != [0, 0];
        let otherwise = if late { Detected::Http1 } else { Detected::Neither };
        let bytes = match piece {
            Piece::Gap(_) if direction == Direction::Sent && !self.held.is_empty() => return Detected::Http1,
            Piece::Gap(_) | Piece::Bytes([]) => return Detected::More,
            Piece::Bytes(bytes) => bytes,
        };
        if direction == Direction::Received {
            return match bytes {
                _ if bytes.starts_with(b"HTTP/1.") => Detected::Http1,
                _ if is_frame(bytes) => Detected::Http2,
                _ if self.held.is_empty() => otherwise,
                _ => Detected::Http1,
            };
        }
        let mut first = [0; h2::PREFACE.len()];
        let mut len = 0;
        // Blank lines before a message are no part of it.
        let all = self.held.iter().chain(bytes).skip_while(|byte| matches!(byte, b'\r' | b'\n'));
        for (slot, byte) in first.iter_mut().zip(all) {
            *slot = *byte;
            len += 1;
        }
        let first = first.get(..len).unwrap_or_default();
        if first.is_empty() && self.held.len() > h2::PREFACE.len() {
            return otherwise;
        }
        if h2::PREFACE.starts_with(first) {
            return if first.len() == h2::PREFACE.len() { Detected::Http2 } else { Detected::More };
        }
        let letters = first.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        match first.get(letters) {
            Some(b' ') if letters >= 3 => Detected::Http1,
            None if letters < METHOD_MAX => Detected::More,
            Some(_) if letters == 0 && is_frame(first) => Detected::Http2,
            Some(_) if letters == 0 && first.len() < FRAME_HEAD && first.first() == Some(&0) => {
                Detected::More
            }
            _ => otherwise,
        }
    }
}

/// Bytes of a frame's head in HTTP/2.
const FRAME_HEAD: usize = 9;

/// Whether HTTP/2 may go on with a frame here: a length up to 16 KiB, a known type, no reserved bit. No text begins so.
fn is_frame(bytes: &[u8]) -> bool {
    match bytes {
        [0, high, _, kind, _, stream, _, _, _, ..] => *high <= 0x40 && *kind <= 9 && stream & 0x80 == 0,
        _ => false,
    }
}
