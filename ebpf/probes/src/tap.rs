//! The tap: copies of packets of one interface, of which those that carry a name are handed out.
//!
//! Attached only to an AF_PACKET socket of the attacher. It always returns 0, so the socket never delivers anything;
//! it cannot touch the packet, which is a copy.

use abi::counter::Counter;
use abi::event::{Kind, PACKET_MAX, Packet, PacketKind, Tuple};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::macros::socket_filter;
use aya_ebpf::programs::SkBuffContext;

use crate::maps::EVENTS;
use crate::note::{count, lose};
use crate::process::head;
use crate::pure::opaque;
use crate::pure::packet::{PEEK, datagram, hello_record_len, is_client_hello};

const ETHERNET: u32 = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const LOOPBACK_IFINDEX: u32 = 1;
const PACKET_OUTGOING: u32 = 4;

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
    let protocol = u16::from_be(ctx.skb.protocol() as u16);
    if !matches!(protocol, ETH_P_IP | ETH_P_IPV6) {
        return None;
    }
    let mut tuple =
        Tuple { local: [0; 16], remote: [0; 16], local_port: 0, remote_port: 0, protocol: 0, reserved: 0 };
    let network = network_offset(ctx, protocol)?;
    let (transport, end) =
        if protocol == ETH_P_IP { ipv4(ctx, network, &mut tuple)? } else { ipv6(ctx, network, &mut tuple)? };
    let ports: [u8; 4] = load(ctx, transport)?;
    tuple.local_port = u16::from_be_bytes([ports[0], ports[1]]);
    tuple.remote_port = u16::from_be_bytes([ports[2], ports[3]]);
    let payload = if tuple.protocol == u16::from(TCP) {
        let [words]: [u8; 1] = load(ctx, transport + 12)?;
        transport + u32::from(words >> 4) * 4
    } else {
        transport + 8
    };
    if payload + PEEK as u32 > end {
        return None;
    }
    let start: [u8; PEEK] = load(ctx, payload)?;
    let wire_len = end - payload;
    let kind = if tuple.protocol == u16::from(UDP) {
        datagram(tuple.local_port, &start)?
    } else if is_client_hello(&start) {
        if hello_record_len(&start) > wire_len {
            count(Counter::LostHelloSplit, 1);
        }
        PacketKind::ClientHello
    } else {
        return None;
    };
    emit(ctx, ifindex, kind, &tuple, payload, wire_len);
    Some(())
}

/// Where the network header is: after Ethernet, or at the start for devices without a link header and for cooked
/// sockets.
#[inline(always)]
fn network_offset(ctx: &SkBuffContext, protocol: u16) -> Option<u32> {
    let version = if protocol == ETH_P_IP { 4 } else { 6 };
    let start: [u8; 16] = load(ctx, 0)?;
    if u16::from_be_bytes([start[12], start[13]]) == protocol && start[14] >> 4 == version {
        Some(ETHERNET)
    } else if start[0] >> 4 == version {
        Some(0)
    } else {
        None
    }
}

/// Reads an IPv4 header (RFC 791); where the transport header and the packet end. Later fragments have no ports.
#[inline(always)]
fn ipv4(ctx: &SkBuffContext, at: u32, tuple: &mut Tuple) -> Option<(u32, u32)> {
    let header: [u8; 20] = load(ctx, at)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if fragment != 0 || !matches!(header[9], TCP | UDP) {
        return None;
    }
    tuple.protocol = u16::from(header[9]);
    tuple.local[10..12].copy_from_slice(&[0xff; 2]);
    tuple.remote[10..12].copy_from_slice(&[0xff; 2]);
    tuple.local[12..].copy_from_slice(&header[12..16]);
    tuple.remote[12..].copy_from_slice(&header[16..20]);
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    Some((at + u32::from(header[0] & 15) * 4, packet_end(ctx, at, total)))
}

/// Reads an IPv6 header (RFC 8200); packets with extension headers are left out.
#[inline(always)]
fn ipv6(ctx: &SkBuffContext, at: u32, tuple: &mut Tuple) -> Option<(u32, u32)> {
    let header: [u8; 40] = load(ctx, at)?;
    if !matches!(header[6], TCP | UDP) {
        return None;
    }
    tuple.protocol = u16::from(header[6]);
    tuple.local.copy_from_slice(&header[8..24]);
    tuple.remote.copy_from_slice(&header[24..40]);
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let total = if payload == 0 { 0 } else { payload + 40 };
    Some((at + 40, packet_end(ctx, at, total)))
}

/// The end of the packet: link layers pad short ones, and a length of 0 is a large packet that was not cut yet.
#[inline(always)]
fn packet_end(ctx: &SkBuffContext, at: u32, total: u32) -> u32 {
    let len = ctx.skb.len();
    if total != 0 && at + total < len { at + total } else { len }
}

#[inline(always)]
fn emit(ctx: &SkBuffContext, ifindex: u32, kind: PacketKind, tuple: &Tuple, payload: u32, wire_len: u32) {
    let Some(mut record) = EVENTS.reserve::<Packet>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return;
    };
    let mut len = u64::from(wire_len);
    if len > PACKET_MAX as u64 {
        len = PACKET_MAX as u64;
        count(Counter::LostPacketTruncated, 1);
    }
    // Written so that verifiers before 6.3, too, see a length from 1 to `PACKET_MAX`: to them `!= 0` says nothing.
    let beyond_first = opaque(len.wrapping_sub(1));
    if beyond_first >= PACKET_MAX as u64 {
        record.discard(0);
        return;
    }
    let len = opaque(beyond_first) + 1;
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; `len` is at most the array's length. Every field is written before the
    // record is submitted, the data as far as its length says.
    unsafe {
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), payload, (&raw mut (*out).data).cast(), len as u32) != 0 {
            record.discard(0);
            return;
        }
        (*out).head = head::<Packet>(Kind::Packet);
        (*out).tuple = *tuple;
        (*out).packet_kind = kind.wire();
        (*out).ifindex = ifindex;
        (*out).wire_len = wire_len;
        (*out).data_len = len as u32;
    }
    record.submit(0);
    count(Counter::TapPacketsEmitted, 1);
}

/// Copies bytes of the packet.
#[inline(always)]
fn load<const N: usize>(ctx: &SkBuffContext, at: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the helper checks the range and writes `N` bytes.
    let failed = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
    if failed == 0 { Some(bytes) } else { None }
}
