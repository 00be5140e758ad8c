//! The tap: copies of packets of one interface, of which those that carry a name are handed out, and those of QUIC
//! connections are counted.
//!
//! Attached only to an AF_PACKET socket of the attacher. It always returns 0, so the socket never delivers anything;
//! it cannot touch the packet, which is a copy. Ethernet with and without a VLAN tag, devices without a link header, IPv4,
//! IPv6 with extension headers; of fragments the first one only, because the others have no ports.

use core::mem::MaybeUninit;

use abi::control::{DatagramKey, DatagramState};
use abi::counter::Counter;
use abi::event::{Kind, PACKET_MAX, PACKET_RECORDS_MAX, Packet, PacketKind, Tuple};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::socket_filter;
use aya_ebpf::programs::SkBuffContext;

use crate::maps::{DATAGRAMS, EVENTS, HELLOS};
use crate::note::{add, count, lose};
use crate::process::head;
use crate::pure::opaque;
use crate::pure::packet::{
    Extension, PEEK, datagram, extension, hello_record_len, hello_slot, is_client_hello,
};

const ETHERNET: u32 = 14;
const VLAN_TAG: u32 = 4;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_HEADER: u32 = 8;
const LOOPBACK_IFINDEX: u32 = 1;
const PACKET_OUTGOING: u32 = 4;
/// IPv6 extension headers that are walked.
const EXTENSIONS_MAX: u32 = 6;
/// How long the rest of a ClientHello is waited for before its slot may be taken, ns.
const HELLO_WAIT_NS: u64 = 2_000_000_000;

/// Looks at one packet, delivers none.
#[socket_filter]
fn tap(ctx: SkBuffContext) -> i64 {
    count(Counter::TapPackets, 1);
    let _ = look(&ctx);
    0
}

#[inline(always)]
fn look(ctx: &SkBuffContext) -> Option<()> {
    // SAFETY: the kernel passes a valid context.
    let (ifindex, pkt_type) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).pkt_type) };
    // A packet passes the loopback interface twice, out and in.
    if ifindex == LOOPBACK_IFINDEX && pkt_type == PACKET_OUTGOING {
        return None;
    }
    let (at, protocol) = network(ctx)?;
    let header = if protocol == ETH_P_IP { ipv4(ctx, at)? } else { ipv6(ctx, at)? };
    let Header { local, remote, kind, transport, end } = header;
    let start: [u8; UDP_HEADER as usize] = load(ctx, transport)?;
    let mut key = DatagramKey {
        tuple: Tuple {
            local,
            remote,
            local_port: u16::from_be_bytes([start[0], start[1]]),
            remote_port: u16::from_be_bytes([start[2], start[3]]),
            protocol: u16::from(kind),
            reserved: 0,
        },
        ifindex,
        reserved: 0,
    };
    if kind == UDP {
        let len = u32::from(u16::from_be_bytes([start[4], start[5]]));
        look_at_datagram(ctx, &mut key, transport + UDP_HEADER, end, len)
    } else {
        let sequence = u32::from_be_bytes([start[4], start[5], start[6], start[7]]);
        look_at_segment(ctx, &key, transport, end, sequence)
    }
}

#[inline(always)]
fn look_at_segment(
    ctx: &SkBuffContext,
    key: &DatagramKey,
    transport: u32,
    end: u32,
    sequence: u32,
) -> Option<()> {
    let [words]: [u8; 1] = load(ctx, transport + 12)?;
    let payload = transport + u32::from(words >> 4) * 4;
    if payload >= end {
        return None;
    }
    let ports = u32::from(key.tuple.local_port) << 16 | u32::from(key.tuple.remote_port);
    let slot = HELLOS.get_ptr_mut(hello_slot(ports))?;
    // SAFETY: `slot` points into the map. Two processors may use one slot at once: then a sequence number does not fit
    // and a hello is given up.
    let slot = unsafe { &mut *slot };
    let len = end - payload;
    if slot.left != 0 && slot.ports == ports && slot.next == sequence {
        let rest = if len < slot.left { len } else { slot.left };
        let left = slot.left - rest;
        slot.next = sequence.wrapping_add(rest);
        slot.left = if emit(ctx, key, PacketKind::HelloRest, payload, rest) { left } else { 0 };
        return Some(());
    }
    if len < PEEK as u32 {
        return None;
    }
    let start: [u8; PEEK] = load(ctx, payload)?;
    if !is_client_hello(&start) {
        return None;
    }
    let record = hello_record_len(&start);
    // A hole would make another name of the rest: after one nothing more is handed out.
    if emit(ctx, key, PacketKind::ClientHello, payload, len) && record > len {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        if slot.left != 0 && now.wrapping_sub(slot.since_ns) < HELLO_WAIT_NS {
            count(Counter::LostHelloSplit, 1);
        }
        slot.ports = ports;
        slot.next = sequence.wrapping_add(len);
        slot.left = record - len;
        slot.since_ns = now;
    }
    Some(())
}

#[inline(always)]
fn look_at_datagram(
    ctx: &SkBuffContext,
    key: &mut DatagramKey,
    payload: u32,
    end: u32,
    udp_len: u32,
) -> Option<()> {
    let len = end.checked_sub(payload)?;
    // The first fragment states the length of the whole datagram.
    let bytes = u64::from(if udp_len > UDP_HEADER { udp_len - UDP_HEADER } else { len });
    let known = DATAGRAMS.get_ptr_mut(&*key);
    if let Some(state) = known {
        // SAFETY: `state` points into the map.
        unsafe {
            add(&raw mut (*state).sent, bytes);
            (*state).last_ns = bpf_ktime_get_ns();
        }
    }
    if len < PEEK as u32 {
        return None;
    }
    let start: [u8; PEEK] = load(ctx, payload)?;
    let kind = datagram(key.tuple.local_port, &start);
    if known.is_none() && kind != Some(PacketKind::DnsAnswer) {
        swap(&mut key.tuple);
        let answered = DATAGRAMS.get_ptr_mut(&*key);
        swap(&mut key.tuple);
        if let Some(state) = answered {
            // SAFETY: `state` points into the map.
            unsafe {
                add(&raw mut (*state).received, bytes);
                (*state).last_ns = bpf_ktime_get_ns();
            }
            return None;
        }
        if kind == Some(PacketKind::QuicInitial) {
            follow(key, bytes);
        }
    }
    let _ = emit(ctx, key, kind?, payload, len);
    Some(())
}

/// Counts a connection from its client's first Initial on.
#[inline(always)]
fn follow(key: &DatagramKey, bytes: u64) {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let state = DatagramState { first_ns: now, last_ns: now, sent: bytes, received: 0 };
    if DATAGRAMS.insert(key, &state, u64::from(BPF_NOEXIST)).is_err() {
        lose(Counter::LostDatagramsFull, 1);
    }
}

#[inline(always)]
fn swap(tuple: &mut Tuple) {
    let Tuple { local, remote, local_port, remote_port, protocol, reserved } = *tuple;
    *tuple = Tuple {
        local: remote,
        remote: local,
        local_port: remote_port,
        remote_port: local_port,
        protocol,
        reserved,
    };
}

/// Where the network header is, and its protocol: after Ethernet, after a VLAN tag that no device took off, or at the
/// start for devices without a link header and for cooked sockets.
#[inline(always)]
fn network(ctx: &SkBuffContext) -> Option<(u32, u16)> {
    let start: [u8; 20] = load(ctx, 0)?;
    let ethernet = u16::from_be_bytes([start[12], start[13]]);
    let stated = u16::from_be(ctx.skb.protocol() as u16);
    if let Some(version) = ip_version(ethernet)
        && start[14] >> 4 == version
        && stated == ethernet
    {
        return Some((ETHERNET, ethernet));
    }
    let tagged = u16::from_be_bytes([start[16], start[17]]);
    if ethernet == ETH_P_8021Q
        && let Some(version) = ip_version(tagged)
        && start[18] >> 4 == version
    {
        return Some((ETHERNET + VLAN_TAG, tagged));
    }
    let version = ip_version(stated)?;
    if start[0] >> 4 == version { Some((0, stated)) } else { None }
}

#[inline(always)]
fn ip_version(protocol: u16) -> Option<u8> {
    match protocol {
        ETH_P_IP => Some(4),
        ETH_P_IPV6 => Some(6),
        _ => None,
    }
}

/// What the network header says.
struct Header {
    local: [u8; 16],
    remote: [u8; 16],
    /// [`TCP`] or [`UDP`].
    kind: u8,
    /// Where the transport header is.
    transport: u32,
    /// Where the packet ends.
    end: u32,
}

/// Reads an IPv4 header (RFC 791). Later fragments have no ports.
#[inline(always)]
fn ipv4(ctx: &SkBuffContext, at: u32) -> Option<Header> {
    let header: [u8; 20] = load(ctx, at)?;
    if !matches!(header[9], TCP | UDP) {
        return None;
    }
    if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
        count(Counter::LostFragments, 1);
        return None;
    }
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    Some(Header {
        local: mapped([header[12], header[13], header[14], header[15]]),
        remote: mapped([header[16], header[17], header[18], header[19]]),
        kind: header[9],
        transport: at + u32::from(header[0] & 15) * 4,
        end: packet_end(ctx, at, total),
    })
}

#[inline(always)]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Reads an IPv6 header and the extension headers after it (RFC 8200).
#[inline(always)]
fn ipv6(ctx: &SkBuffContext, at: u32) -> Option<Header> {
    let header: [u8; 8] = load(ctx, at)?;
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let total = if payload == 0 { 0 } else { payload + 40 };
    let (mut kind, mut transport) = (header[6], at + 40);
    let mut walked = 0;
    while !matches!(kind, TCP | UDP) {
        if walked == EXTENSIONS_MAX {
            count(Counter::LostHeadersTooMany, 1);
            return None;
        }
        walked += 1;
        let start: [u8; 4] = load(ctx, transport)?;
        match extension(kind, start) {
            Extension::Skip(len) => transport += len,
            Extension::LaterFragment => {
                if matches!(start[0], TCP | UDP) {
                    count(Counter::LostFragments, 1);
                }
                return None;
            }
            Extension::Other => return None,
        }
        kind = start[0];
    }
    let (local, remote) = (load(ctx, at + 8)?, load(ctx, at + 24)?);
    Some(Header { local, remote, kind, transport, end: packet_end(ctx, at, total) })
}

/// The end of the packet: link layers pad short ones, and a length of 0 is a large packet that was not cut yet.
#[inline(always)]
fn packet_end(ctx: &SkBuffContext, at: u32, total: u32) -> u32 {
    let len = ctx.skb.len();
    if total != 0 && at + total < len { at + total } else { len }
}

/// Hands out a payload: a datagram in one record, a ClientHello in as many as it takes. False if not all of it.
#[inline(always)]
fn emit(ctx: &SkBuffContext, key: &DatagramKey, kind: PacketKind, payload: u32, wire_len: u32) -> bool {
    let hello = matches!(kind, PacketKind::ClientHello | PacketKind::HelloRest);
    let records_max = if hello { PACKET_RECORDS_MAX as u32 } else { 1 };
    let mut done = 0;
    let mut records = 0;
    while records < PACKET_RECORDS_MAX as u32 {
        if records == records_max || done >= wire_len {
            break;
        }
        let kind = if records > 0 { PacketKind::HelloRest } else { kind };
        if !emit_record(ctx, key, kind.wire(), payload + done, wire_len - done) {
            return false;
        }
        done += PACKET_MAX as u32;
        records += 1;
    }
    if done < wire_len {
        count(Counter::LostPacketTruncated, 1);
    }
    done >= wire_len
}

/// Hands out up to [`PACKET_MAX`] bytes. False if there was no room for them.
#[inline(always)]
fn emit_record(ctx: &SkBuffContext, key: &DatagramKey, kind: u32, payload: u32, wire_len: u32) -> bool {
    let Some(mut record) = EVENTS.reserve::<Packet>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return false;
    };
    let mut len = u64::from(wire_len);
    if len > PACKET_MAX as u64 {
        len = PACKET_MAX as u64;
    }
    // Written so that verifiers before 6.3, too, see a length from 1 to `PACKET_MAX`: to them `!= 0` says nothing.
    let beyond_first = opaque(len.wrapping_sub(1));
    if beyond_first >= PACKET_MAX as u64 {
        record.discard(0);
        return false;
    }
    let len = opaque(beyond_first) + 1;
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; `len` is at most the array's length. Every field is written before the
    // record is submitted, the data as far as its length says.
    unsafe {
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), payload, (&raw mut (*out).data).cast(), len as u32) != 0 {
            record.discard(0);
            return false;
        }
        (*out).head = head::<Packet>(Kind::Packet);
        (*out).tuple = key.tuple;
        (*out).packet_kind = kind;
        (*out).ifindex = key.ifindex;
        (*out).wire_len = wire_len;
        (*out).data_len = len as u32;
    }
    record.submit(0);
    count(Counter::TapPacketsEmitted, 1);
    true
}

/// Copies bytes of the packet. The array is not zeroed before: for that the compiler would call a function with a
/// pointer to the stack, and whatever else lies there could then not be told from what the function may write.
#[inline(always)]
fn load<const N: usize>(ctx: &SkBuffContext, at: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper checks the range and writes `N` bytes, or fails.
    let failed = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
    // SAFETY: they were written.
    if failed == 0 { Some(unsafe { bytes.assume_init() }) } else { None }
}
