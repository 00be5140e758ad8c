//! Names on the wire: SNI of a ClientHello, the same inside a QUIC Initial, names and addresses of DNS answers.
//!
//! Everything here is total over arbitrary bytes and bounded. A ClientHello may span segments (post-quantum key shares
//! do): its extensions are walked as far as they go, what is missing is told apart from what is wrong, and the rest is
//! waited for a while. Complete ones are judged by rustls, whose reading is the stricter one.
//!
//! A name found here is evidence of the connection it was sent on, nothing more.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::event::{Packet, PacketKind, Tuple};
use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::RData;
use meter::time::Moment;
use rustls::Side;
use rustls::quic::{Keys, Version};

use super::event::host_name;

/// Bytes of a ClientHello that are put together.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Incomplete ClientHellos that wait for the rest.
const PENDING_MAX: usize = 64;
/// How long one waits for the rest, ns.
const PENDING_NS: u64 = 5_000_000_000;
/// Addresses taken from one DNS answer.
const ADDRESSES_MAX: usize = 32;
/// Bytes of a TLS record's head.
const RECORD_HEAD: usize = 5;
/// `HandshakeType::client_hello`
const CLIENT_HELLO: u8 = 1;

/// What a packet told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A server name.
    Hello {
        /// Lower case.
        host: Arc<str>,
        /// In a QUIC Initial.
        quic: bool,
    },
    /// A DNS answer.
    Answer {
        /// The name asked for, lower case, without final dot.
        name: Arc<str>,
        /// Its addresses, IPv4 mapped.
        addresses: Vec<[u8; 16]>,
    },
    /// Part of a ClientHello without the name so far.
    More,
    /// Well-formed, and nothing of interest.
    Nothing,
}

/// The packet is not what it was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unparsed;

/// What is known of a server name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// The name, lower case.
    Name(Arc<str>),
    /// A complete hello without one.
    Absent,
    /// Not there yet.
    More,
}

/// Puts split hellos together; one for all taps.
#[derive(Default)]
pub struct Assembler {
    pending: VecDeque<Pending>,
    given_up: u64,
}

struct Pending {
    tuple: Tuple,
    since: Moment,
    quic: bool,
    /// TLS: the stream so far. QUIC: pieces of the handshake by position.
    pieces: Vec<(usize, Vec<u8>)>,
    bytes: usize,
}

impl Assembler {
    /// Reads a packet of a tap.
    ///
    /// # Errors
    /// The packet is not what the kernel took it for.
    pub fn packet(&mut self, packet: &Packet, now: Moment) -> Result<Found, Unparsed> {
        let data = packet.data.get(..packet.data_len as usize).ok_or(Unparsed)?;
        let tuple = &packet.tuple;
        match PacketKind::from_wire(packet.packet_kind).ok_or(Unparsed)? {
            PacketKind::ClientHello => {
                // The first piece of a new connection, or the same one sent again.
                self.drop_pending(tuple, false);
                self.hello(tuple, data, now)
            }
            PacketKind::HelloRest if self.pending(tuple, false).is_none() => Ok(Found::Nothing),
            PacketKind::HelloRest => self.hello(tuple, data, now),
            PacketKind::QuicInitial => self.quic(tuple, data, now),
            PacketKind::DnsAnswer => dns_answer(data),
        }
    }

    /// Hellos whose rest never came, since the last call.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    fn hello(&mut self, tuple: &Tuple, data: &[u8], now: Moment) -> Result<Found, Unparsed> {
        let start = match self.pending(tuple, false) {
            Some(pending) => pending.pieces.iter().map(|(_, piece)| piece.len()).sum(),
            None => 0,
        };
        let stream = self.joined(tuple, false, start, data);
        let sni = sni_of_stream(&stream).inspect_err(|Unparsed| self.drop_pending(tuple, false))?;
        Ok(self.conclude(tuple, false, start, data, sni, now))
    }

    fn quic(&mut self, tuple: &Tuple, data: &[u8], now: Moment) -> Result<Found, Unparsed> {
        let crypto = quic_crypto(data)?;
        let mut found = Found::Nothing;
        for (offset, piece) in crypto {
            let stream = self.joined(tuple, true, offset, &piece);
            let sni = sni_of_handshake(&stream)?;
            found = self.conclude(tuple, true, offset, &piece, sni, now);
        }
        Ok(found)
    }

    fn pending(&self, tuple: &Tuple, quic: bool) -> Option<&Pending> {
        self.pending.iter().find(|pending| pending.tuple == *tuple && pending.quic == quic)
    }

    /// The beginning of the stream as far as it has no hole, with `data` at `offset`.
    fn joined(&self, tuple: &Tuple, quic: bool, offset: usize, data: &[u8]) -> Vec<u8> {
        let kept = self.pending(tuple, quic).map(|pending| pending.pieces.as_slice()).unwrap_or_default();
        let mut pieces: Vec<_> = kept.iter().map(|(at, piece)| (*at, piece.as_slice())).collect();
        pieces.push((offset, data));
        pieces.sort_by_key(|(at, _)| *at);
        let mut stream = Vec::new();
        for (at, piece) in pieces {
            // Pieces of TLS follow each other, those of QUIC say where they belong and may overlap.
            let Some(skip) = stream.len().checked_sub(at) else { break };
            stream.extend_from_slice(piece.get(skip..).unwrap_or_default());
            if stream.len() >= HELLO_BYTES_MAX {
                stream.truncate(HELLO_BYTES_MAX);
                break;
            }
        }
        stream
    }

    fn drop_pending(&mut self, tuple: &Tuple, quic: bool) {
        self.pending.retain(|pending| pending.tuple != *tuple || pending.quic != quic);
    }

    fn conclude(
        &mut self,
        tuple: &Tuple,
        quic: bool,
        offset: usize,
        data: &[u8],
        sni: Sni,
        now: Moment,
    ) -> Found {
        if sni != Sni::More {
            self.drop_pending(tuple, quic);
        }
        match sni {
            Sni::Name(host) => Found::Hello { host, quic },
            Sni::Absent => Found::Nothing,
            Sni::More => {
                self.keep(tuple, quic, offset, data, now);
                Found::More
            }
        }
    }

    fn keep(&mut self, tuple: &Tuple, quic: bool, offset: usize, data: &[u8], now: Moment) {
        let before = self.pending.len();
        self.pending.retain(|pending| now.since(pending.since) < PENDING_NS);
        self.given_up += (before - self.pending.len()) as u64;
        let at = self.pending.iter().position(|pending| pending.tuple == *tuple && pending.quic == quic);
        let mut pending = at.and_then(|at| self.pending.remove(at)).unwrap_or_else(|| Pending {
            tuple: *tuple,
            since: now,
            quic,
            pieces: Vec::new(),
            bytes: 0,
        });
        if pending.bytes + data.len() > HELLO_BYTES_MAX {
            self.given_up += 1;
            return;
        }
        pending.bytes += data.len();
        pending.pieces.push((offset, data.to_vec()));
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_front();
            self.given_up += 1;
        }
        self.pending.push_back(pending);
    }
}

/// The server name in the first bytes that a TLS client sends.
///
/// # Errors
/// They are not the beginning of a TLS connection.
pub fn sni_of_stream(stream: &[u8]) -> Result<Sni, Unparsed> {
    // A hello that is complete and well-formed is read by rustls.
    let mut acceptor = rustls::server::Acceptor::default();
    if acceptor.read_tls(&mut &stream[..]).is_ok()
        && let Ok(Some(accepted)) = acceptor.accept()
    {
        let name = accepted.client_hello().server_name().map(str::to_owned);
        return Ok(name.and_then(|name| normalise(name.as_bytes())).map_or(Sni::Absent, Sni::Name));
    }
    let mut handshake = Vec::new();
    let mut rest = stream;
    while let Some((head, body)) = rest.split_at_checked(RECORD_HEAD) {
        if head[0] != 22 || head[1] != 3 {
            return Err(Unparsed);
        }
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        handshake.extend_from_slice(body.get(..len).unwrap_or(body));
        rest = body.get(len..).unwrap_or_default();
    }
    sni_of_handshake(&handshake)
}

/// The server name in the first bytes of a handshake without records, as QUIC carries it.
///
/// # Errors
/// They are not the beginning of a ClientHello.
pub fn sni_of_handshake(handshake: &[u8]) -> Result<Sni, Unparsed> {
    match handshake.first() {
        None => return Ok(Sni::More),
        Some(&CLIENT_HELLO) => {}
        Some(_) => return Err(Unparsed),
    }
    Ok(walk(handshake).unwrap_or(Sni::More))
}

/// Walks a ClientHello (RFC 8446 section 4.1.2) to its server name; `None` where it is cut.
fn walk(handshake: &[u8]) -> Option<Sni> {
    let len = handshake.get(1..4)?;
    let len = usize::from(len[0]) << 16 | usize::from(len[1]) << 8 | usize::from(len[2]);
    let body = handshake.get(4..)?;
    let mut reader = Reader(body.get(..len).unwrap_or(body));
    reader.take(2 + 32)?;
    let session_id = usize::from(reader.byte()?);
    reader.take(session_id)?;
    let suites = reader.short()?;
    reader.take(suites)?;
    let compressions = usize::from(reader.byte()?);
    reader.take(compressions)?;
    let extensions = reader.short()?;
    let mut end = extensions;
    while end >= 4 {
        let kind = reader.short()?;
        let len = reader.short()?;
        end = end.checked_sub(4 + len)?;
        let body = reader.take(len)?;
        if kind == 0 {
            let mut names = Reader(body);
            names.short()?;
            let is_host = names.byte()? == 0;
            let len = names.short()?;
            let name = names.take(len)?;
            return Some(normalise(name).filter(|_| is_host).map_or(Sni::Absent, Sni::Name));
        }
    }
    Some(Sni::Absent)
}

fn normalise(name: &[u8]) -> Option<Arc<str>> {
    host_name(name, u32::try_from(name.len()).ok()?)
}

/// Takes bytes from the front; `None` where there are too few.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Option<usize> {
        self.take(2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn word(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A variable-length integer (RFC 9000 section 16).
    fn varint(&mut self) -> Option<u64> {
        let first = *self.0.first()?;
        let bytes = self.take(1 << (first >> 6))?;
        Some(bytes[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
    }
}

/// The pieces of the handshake in the Initial packets of a client's datagram, deciphered with the keys that anyone on
/// the path can derive (RFC 9001 section 5.2).
///
/// # Errors
/// The datagram does not begin with an Initial of version 1 or 2 that deciphers.
pub fn quic_crypto(datagram: &[u8]) -> Result<Vec<(usize, Vec<u8>)>, Unparsed> {
    let mut pieces = Vec::new();
    let mut rest = datagram;
    // A datagram may hold several packets; 16 are more than one of them can usefully hold.
    for index in 0..16 {
        match initial(rest) {
            Some((len, crypto)) => {
                pieces.extend(crypto);
                rest = rest.get(len..).unwrap_or_default();
            }
            None if index == 0 => return Err(Unparsed),
            None => break,
        }
    }
    Ok(pieces)
}

type Crypto = Vec<(usize, Vec<u8>)>;

/// One Initial packet: its length in the datagram and its CRYPTO frames.
fn initial(packet: &[u8]) -> Option<(usize, Crypto)> {
    let mut reader = Reader(packet);
    let first = reader.byte()?;
    let (version, kind) = match reader.word()? {
        1 => (Version::V1, 0),
        0x6b33_43cf => (Version::V2, 1),
        _ => return None,
    };
    if first & 0xc0 != 0xc0 || first >> 4 & 3 != kind {
        return None;
    }
    let len = usize::from(reader.byte()?);
    let destination = reader.take(len)?;
    let len = usize::from(reader.byte()?);
    reader.take(len)?;
    let token = usize::try_from(reader.varint()?).ok()?;
    reader.take(token)?;
    let len = usize::try_from(reader.varint()?).ok()?;
    let number_at = packet.len() - reader.0.len();
    let end = number_at.checked_add(len).filter(|end| *end <= packet.len())?;

    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
    let keys = Keys::initial(version, suite, suite.quic?, destination, Side::Server);
    let mut bytes = packet.get(..end)?.to_vec();
    let (head, protected) = bytes.split_at_mut(number_at);
    let sample_len = keys.remote.header.sample_len();
    let sample = protected.get(4..4 + sample_len)?.to_vec();
    let number_bytes = protected.get_mut(..4)?;
    keys.remote.header.decrypt_in_place(&sample, head.first_mut()?, number_bytes).ok()?;
    let number_len = usize::from(head[0] & 3) + 1;
    let number = number_bytes[..number_len].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let (head, payload) = bytes.split_at_mut(number_at + number_len);
    let plain = keys.remote.packet.decrypt_in_place(number, head, payload).ok()?;
    Some((end, crypto_frames(plain)))
}

fn crypto_frames(payload: &[u8]) -> Crypto {
    let mut pieces = Vec::new();
    let mut reader = Reader(payload);
    while let Some(kind) = reader.varint() {
        let frame = match kind {
            // PADDING, PING
            0 | 1 => Some(None),
            2 | 3 => skip_ack(&mut reader, kind == 3).map(|()| None),
            6 => crypto_frame(&mut reader).map(Some),
            _ => None,
        };
        match frame {
            Some(piece) => pieces.extend(piece),
            None => break,
        }
    }
    pieces
}

fn crypto_frame(reader: &mut Reader<'_>) -> Option<(usize, Vec<u8>)> {
    let offset = usize::try_from(reader.varint()?).ok()?;
    let len = usize::try_from(reader.varint()?).ok()?;
    let data = reader.take(len)?;
    (offset < HELLO_BYTES_MAX).then(|| (offset, data.to_vec()))
}

fn skip_ack(reader: &mut Reader<'_>, counts: bool) -> Option<()> {
    reader.varint()?;
    reader.varint()?;
    let ranges = reader.varint()?;
    reader.varint()?;
    for _ in 0..ranges {
        reader.varint()?;
        reader.varint()?;
    }
    for _ in 0..if counts { 3 } else { 0 } {
        reader.varint()?;
    }
    Some(())
}

/// A DNS answer: the name asked for and the addresses it leads to, aliases followed by the server.
///
/// # Errors
/// It is not a DNS message.
pub fn dns_answer(data: &[u8]) -> Result<Found, Unparsed> {
    let message = Message::from_vec(data).map_err(|_| Unparsed)?;
    let asked = message.queries.first().filter(|_| message.metadata.message_type == MessageType::Response);
    let Some(asked) = asked else { return Ok(Found::Nothing) };
    let Some(name) = normalise(asked.name().to_ascii().as_bytes()) else { return Ok(Found::Nothing) };
    let address = |data: &RData| match data {
        RData::A(v4) => Some(v4.0.to_ipv6_mapped().octets()),
        RData::AAAA(v6) => Some(v6.0.octets()),
        _ => None,
    };
    let addresses: Vec<_> =
        message.answers.iter().filter_map(|record| address(&record.data)).take(ADDRESSES_MAX).collect();
    Ok(if addresses.is_empty() { Found::Nothing } else { Found::Answer { name, addresses } })
}

#[cfg(test)]
pub(super) mod tests;
