//! Which packets carry a name.

use abi::event::PacketKind;

/// Bytes of a transport payload that decide.
pub(crate) const PEEK: usize = 8;

/// A TCP segment that begins with a TLS handshake record that begins with a ClientHello.
#[inline(always)]
pub(crate) fn is_client_hello(start: &[u8; PEEK]) -> bool {
    start[0] == 0x16 && start[1] == 3 && start[5] == 1
}

/// Bytes that the TLS record of a ClientHello needs, its header included.
#[inline(always)]
pub(crate) fn hello_record_len(start: &[u8; PEEK]) -> u32 {
    5 + (u32::from(start[3]) << 8 | u32::from(start[4]))
}

/// Slots for ClientHellos of which more is to come, a power of two.
pub(crate) const HELLO_SLOTS: u32 = 256;

/// The slot of a connection, by its ports.
#[inline(always)]
pub(crate) fn hello_slot(ports: u32) -> u32 {
    ports.wrapping_mul(0x9e37_79b1) >> 24
}

/// What an IPv6 extension header says of what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    /// Its length, bytes.
    Skip(u32),
    /// It is the head of a later fragment: what follows is the middle of something.
    LaterFragment,
    /// None of those that may precede a transport header.
    Other,
}

/// Reads the first bytes of a header of kind `kind` (RFC 8200 section 4; RFC 4302 for authentication).
#[inline(always)]
pub(crate) fn extension(kind: u8, start: [u8; 4]) -> Extension {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    let words = u32::from(start[1]);
    match kind {
        HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => Extension::Skip((words + 1) * 8),
        AUTHENTICATION => Extension::Skip((words + 2) * 4),
        FRAGMENT if u16::from_be_bytes([start[2], start[3]]) >> 3 != 0 => Extension::LaterFragment,
        FRAGMENT => Extension::Skip(8),
        _ => Extension::Other,
    }
}

/// What a UDP datagram is taken for.
#[inline(always)]
pub(crate) fn datagram(source_port: u16, start: &[u8; PEEK]) -> Option<PacketKind> {
    const DNS: u16 = 53;
    const QUIC_V1: u32 = 1;
    const QUIC_V2: u32 = 0x6b33_43cf;
    if source_port == DNS {
        // QR of the header's flags: an answer.
        return if start[2] & 0x80 != 0 { Some(PacketKind::DnsAnswer) } else { None };
    }
    if start[0] & 0xc0 != 0xc0 {
        return None;
    }
    let version = u32::from_be_bytes([start[1], start[2], start[3], start[4]]);
    let packet_type = start[0] >> 4 & 3;
    let initial = (version == QUIC_V1 && packet_type == 0) || (version == QUIC_V2 && packet_type == 1);
    if initial { Some(PacketKind::QuicInitial) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_hellos() {
        for (start, expected) in [
            ([0x16, 3, 1, 2, 0, 1, 0, 1], Some(517)),
            ([0x16, 3, 3, 0, 10, 1, 0, 0], Some(15)),
            ([0x16, 3, 3, 0, 10, 2, 0, 0], None),
            ([0x17, 3, 3, 0, 10, 1, 0, 0], None),
            (*b"GET / HT", None),
        ] {
            let hello = is_client_hello(&start).then(|| hello_record_len(&start));
            assert_eq!(hello, expected, "{start:?}");
        }
    }

    #[test]
    fn every_port_pair_has_a_slot() {
        for ports in [0, 1, u32::MAX, 443, 50_000 << 16 | 443, 0x8000_0000] {
            assert!(hello_slot(ports) < HELLO_SLOTS, "{ports}");
        }
    }

    #[test]
    fn extension_headers() {
        for (kind, start, expected) in [
            (0, [6, 0, 0, 0], Extension::Skip(8)),
            (43, [6, 2, 0, 0], Extension::Skip(24)),
            (60, [6, 255, 0, 0], Extension::Skip(2048)),
            (51, [6, 4, 0, 0], Extension::Skip(24)),
            (44, [17, 0, 0, 1], Extension::Skip(8)),
            (44, [17, 0, 0, 8], Extension::LaterFragment),
            (50, [6, 0, 0, 0], Extension::Other),
            (59, [6, 0, 0, 0], Extension::Other),
        ] {
            assert_eq!(extension(kind, start), expected, "{kind} {start:?}");
        }
    }

    #[test]
    fn datagrams() {
        for (port, start, expected) in [
            (53, [0, 1, 0x81, 0x80, 0, 1, 0, 1], Some(PacketKind::DnsAnswer)),
            (53, [0, 1, 0x01, 0x00, 0, 1, 0, 1], None),
            (40000, [0xc3, 0, 0, 0, 1, 8, 0, 0], Some(PacketKind::QuicInitial)),
            (40000, [0xd3, 0x6b, 0x33, 0x43, 0xcf, 8, 0, 0], Some(PacketKind::QuicInitial)),
            (40000, [0xc3, 0x6b, 0x33, 0x43, 0xcf, 8, 0, 0], None),
            (40000, [0xe3, 0, 0, 0, 1, 8, 0, 0], None),
            (40000, [0x43, 0, 0, 0, 1, 8, 0, 0], None),
            (40000, [0; 8], None),
        ] {
            assert_eq!(datagram(port, &start), expected, "{port} {start:?}");
        }
    }
}
