//! Ring records into values: total, by copy, lengths checked.
//!
//! A record that is too short, of an unknown kind or that claims more than it holds is [`Malformed`], counted by the
//! caller; nothing here panics or reads beyond the record.

use abi::content::{ChunkHead, Direction as WireDirection};
use abi::event;
use meter::pipeline::Direction;
use meter::time::Moment;
use meter::workload::ProcessKey;
use zerocopy::FromBytes;

/// Nanoseconds of one tick of `/proc/PID/stat` (USER_HZ is 100 on every Linux).
pub const TICK_NS: u64 = 10_000_000;

/// The process of a kernel record.
pub fn process_key(tgid: u32, start_ns: u64) -> ProcessKey {
    ProcessKey { pid: tgid, start_ticks: start_ns / TICK_NS }
}

/// A TLS session as the kernel names it: an `SSL*` of a process, and when it was first seen (a freed address is
/// another session).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIdentity {
    /// Process id.
    pub tgid: u32,
    /// The `SSL*`.
    pub ssl: u64,
    /// `CLOCK_MONOTONIC` ns.
    pub opened_ns: u64,
}

/// A record of the `EVENTS` ring.
#[derive(Clone, Debug)]
pub enum KernelEvent {
    /// See [`event::Connect`].
    Connect(event::Connect),
    /// See [`event::Established`].
    Established(event::Established),
    /// See [`event::Closed`].
    Closed(event::Closed),
    /// See [`event::Exec`].
    Exec(event::Exec),
    /// See [`event::Fork`].
    Fork(event::Fork),
    /// See [`event::Exit`].
    Exit(event::Exit),
    /// See [`event::Lookup`].
    Lookup(Box<event::Lookup>),
    /// See [`event::SessionNamed`].
    SessionNamed(Box<event::SessionNamed>),
    /// See [`event::SessionFreed`].
    SessionFreed(event::SessionFreed),
    /// See [`event::SessionOther`].
    SessionOther(event::SessionOther),
    /// See [`event::Packet`].
    Packet(Box<event::Packet>),
}

impl KernelEvent {
    /// True for events after which content of a session can no longer come: they are dispatched after the content
    /// ring was drained.
    pub fn ends_something(&self) -> bool {
        matches!(self, KernelEvent::Closed(_) | KernelEvent::Exit(_) | KernelEvent::SessionFreed(_))
    }
}

/// The record is not what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a record of the `EVENTS` ring.
pub fn parse(record: &[u8]) -> Result<KernelEvent, Malformed> {
    let (head, _) = event::Head::read_from_prefix(record).map_err(|_| Malformed)?;
    let kind = event::Kind::from_wire(head.kind).ok_or(Malformed)?;
    Ok(match kind {
        event::Kind::Connect => KernelEvent::Connect(read(record)?),
        event::Kind::Established => KernelEvent::Established(read(record)?),
        event::Kind::Closed => KernelEvent::Closed(read(record)?),
        event::Kind::Exec => KernelEvent::Exec(read(record)?),
        event::Kind::Fork => KernelEvent::Fork(read(record)?),
        event::Kind::Exit => KernelEvent::Exit(read(record)?),
        event::Kind::Lookup => KernelEvent::Lookup(Box::new(read(record)?)),
        event::Kind::SessionNamed => KernelEvent::SessionNamed(Box::new(read(record)?)),
        event::Kind::SessionFreed => KernelEvent::SessionFreed(read(record)?),
        event::Kind::SessionOther => KernelEvent::SessionOther(read(record)?),
        event::Kind::Packet => KernelEvent::Packet(Box::new(read(record)?)),
    })
}

fn read<T: FromBytes>(record: &[u8]) -> Result<T, Malformed> {
    T::read_from_prefix(record).map(|(value, _)| value).map_err(|_| Malformed)
}

/// A record of the `CONTENT` ring, its payload still in the ring.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// Session.
    pub session: SessionIdentity,
    /// Its process.
    pub process: ProcessKey,
    /// Direction.
    pub direction: Direction,
    /// Position of the first byte.
    pub offset: u64,
    /// Bytes that the other direction had moved before.
    pub opposite: u64,
    /// At the return of the library call.
    pub at: Moment,
    /// Sequence number in the session.
    pub seq: u32,
    /// The session's name is unknown and this is a bounded prefix of a write.
    pub prefix: bool,
    /// Plaintext: never logged, never stored.
    pub payload: &'a [u8],
}

impl std::fmt::Debug for Chunk<'_> {
    /// Where it belongs and how long it is, never what it says.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Chunk { session, direction, offset, payload, .. } = self;
        write!(f, "Chunk({session:?}, {direction:?} at {offset}, {} bytes)", payload.len())
    }
}

/// Reads a record of the `CONTENT` ring.
pub fn parse_chunk(record: &[u8]) -> Result<Chunk<'_>, Malformed> {
    let (head, rest) = ChunkHead::read_from_prefix(record).map_err(|_| Malformed)?;
    let payload = rest.get(..head.payload_len as usize).ok_or(Malformed)?;
    let direction = match WireDirection::from_wire(head.direction).ok_or(Malformed)? {
        WireDirection::Sent => Direction::Sent,
        WireDirection::Received => Direction::Received,
    };
    Ok(Chunk {
        session: SessionIdentity { tgid: head.tgid, ssl: head.ssl, opened_ns: head.opened_ns },
        process: process_key(head.tgid, head.start_ns),
        direction,
        offset: head.offset,
        opposite: head.opposite,
        at: Moment(head.at_ns),
        seq: head.seq,
        prefix: head.flags & abi::content::FLAG_PREFIX != 0,
        payload,
    })
}

/// True if `payload` can be the first bytes of a client's stream: an HTTP/1.1 request line or the HTTP/2 preface.
pub fn starts_a_request(payload: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] = [
        b"GET ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"PATCH ",
        b"HEAD ",
        b"OPTIONS ",
        b"CONNECT ",
        b"PRI * HTTP/2",
    ];
    METHODS.iter().any(|method| payload.starts_with(method))
}

/// The host name in a record, lower case and without its final dot; `None` if it is not one.
pub fn host_name(name: &[u8], len: u32) -> Option<std::sync::Arc<str>> {
    let name = name.get(..len as usize)?;
    let name = name.strip_suffix(b".").unwrap_or(name);
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if name.is_empty() || !name.iter().all(good) {
        return None;
    }
    std::str::from_utf8(name).ok().map(|text| text.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0_u32..12) {
            let mut record = bytes;
            if record.len() >= 4 {
                record[..4].copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = parse(&record);
            if let Ok(chunk) = parse_chunk(&record) {
                prop_assert!(chunk.payload.len() <= record.len());
            }
            if let Some(name) = host_name(&record, kind) {
                prop_assert!(!name.is_empty() && name.len() <= record.len());
            }
        }
    }

    #[test]
    fn a_payload_longer_than_its_record_is_malformed() {
        let check = |payload_len: u32, held: usize, expected: Result<usize, Malformed>| {
            let mut head = ChunkHead::new_zeroed();
            head.payload_len = payload_len;
            let mut record = head.as_bytes().to_vec();
            record.resize(record.len() + held, b'x');
            assert_eq!(parse_chunk(&record).map(|chunk| chunk.payload.len()), expected);
        };
        check(0, 0, Ok(0));
        check(5, 256, Ok(5));
        check(256, 256, Ok(256));
        check(257, 256, Err(Malformed));
        check(u32::MAX, 256, Err(Malformed));
    }

    #[test]
    fn a_payload_is_not_printed() {
        let mut head = ChunkHead::new_zeroed();
        head.payload_len = 6;
        let record = [head.as_bytes(), b"secret"].concat();
        let chunk = parse_chunk(&record).expect("a chunk");
        let owned = crate::shards::Payload::copy_of(chunk.payload);
        for text in [format!("{chunk:?}"), format!("{chunk:#?}"), format!("{owned:?}")] {
            assert!(!text.contains("secret") && !text.contains("115"), "{text}");
            assert!(text.contains('6'), "{text}");
        }
    }

    #[test]
    fn host_names_are_normalised_or_refused() {
        let check = |text: &str, expected: Option<&str>| {
            let len = u32::try_from(text.len()).expect("short");
            assert_eq!(host_name(text.as_bytes(), len).as_deref(), expected);
        };
        check("api.openai.com", Some("api.openai.com"));
        check("API.OpenAI.com.", Some("api.openai.com"));
        check("", None);
        check(".", None);
        check("a b", None);
        check("a\nb", None);
    }
}
