//! Connections that processes of this node open: TCP, both families, from `connect` to the last state.
//!
//! Identity is taken at CLOSE -> SYN_SENT only, which runs in the context of the caller of `connect`; every later
//! transition may run in any context, so it is joined by the address of the socket. Sockets that a server accepted
//! never pass SYN_SENT and are not followed.

use abi::control::OFFSET_UNKNOWN;
use abi::counter::Counter;
use abi::event::{Closed, Connect, Established, Kind, Tuple};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;

use crate::maps::{EVENTS, FLOWS, FlowState, is_self, setting};
use crate::note::lose;
use crate::process::head;
use crate::pure::bytes::{payload_received, payload_sent};
use crate::task::{current, current_tgid, describe, int, long, start_ns};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;

const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const CLOSING: u32 = 11;

/// `enum sock_flags`: the peer's FIN was taken.
const SOCK_DONE: u64 = 1 << 1;

/// `sock:inet_sock_set_state`
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
fn inet_sock_set_state(ctx: TracePointContext) -> u32 {
    let record = ctx.as_ptr() as u64;
    if u32::from(short(record, setting!(tp_protocol))) != IPPROTO_TCP {
        return 0;
    }
    let socket = long(record, setting!(tp_skaddr));
    let (old, new) = (int(record, setting!(tp_oldstate)), int(record, setting!(tp_newstate)));
    match (old, new) {
        (CLOSE, SYN_SENT) => connect(record, socket),
        (_, ESTABLISHED) => established(record, socket),
        (_, CLOSE) => closed(record, socket),
        (_, CLOSE_WAIT | CLOSING) => {
            if let Some(flow) = FLOWS.get_ptr_mut(&socket) {
                // SAFETY: `flow` points into the map.
                unsafe { (*flow).peer_finished = 1 };
            }
        }
        _ => {}
    }
    0
}

#[inline(always)]
fn connect(record: u64, socket: u64) {
    let tgid = current_tgid();
    let family = u32::from(short(record, setting!(tp_family)));
    if is_self(tgid) || !matches!(family, AF_INET | AF_INET6) {
        return;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut flow = FlowState {
        tuple: Tuple {
            local: [0; 16],
            remote: [0; 16],
            local_port: 0,
            remote_port: 0,
            protocol: IPPROTO_TCP as u16,
            reserved: 0,
        },
        connected_ns: now,
        established_ns: 0,
        start_ns: start_ns(current()),
        tgid,
        peer_finished: 0,
    };
    read_tuple(record, family, &mut flow.tuple);
    if FLOWS.insert(&socket, &flow, 0).is_err() {
        lose(Counter::LostFlowsFull, 1);
    }
    let Some(mut entry) = EVENTS.reserve::<Connect>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted.
    unsafe {
        (*out).head = head::<Connect>(Kind::Connect);
        (*out).head.at_ns = now;
        describe(&raw mut (*out).task);
        (*out).socket = socket;
        (*out).tuple = flow.tuple;
    }
    entry.submit(0);
}

#[inline(always)]
fn established(record: u64, socket: u64) {
    let Some(flow) = FLOWS.get_ptr_mut(&socket) else { return };
    // SAFETY: `flow` points into the map; this socket's transitions are serialised by its lock.
    let flow = unsafe { &mut *flow };
    // SAFETY: no arguments.
    flow.established_ns = unsafe { bpf_ktime_get_ns() };
    read_tuple(record, u32::from(short(record, setting!(tp_family))), &mut flow.tuple);
    let Some(mut entry) = EVENTS.reserve::<Established>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted.
    unsafe {
        (*out).head = head::<Established>(Kind::Established);
        (*out).socket = socket;
        (*out).tuple = flow.tuple;
        (*out).tgid = flow.tgid;
        (*out).reserved = 0;
        (*out).start_ns = flow.start_ns;
    }
    entry.submit(0);
}

#[inline(always)]
fn closed(record: u64, socket: u64) {
    let Some(flow) = FLOWS.get_ptr_mut(&socket) else { return };
    // SAFETY: `flow` points into the map; this socket's transitions are serialised by its lock.
    let flow = unsafe { &mut *flow };
    if flow.tuple.local_port == 0 {
        flow.tuple.local_port = short(record, setting!(tp_sport));
    }
    match EVENTS.reserve::<Closed>(0) {
        None => lose(Counter::LostEventsRingFull, 1),
        Some(mut entry) => {
            let out = entry.as_mut_ptr();
            let has_bytes =
                setting!(tcp_bytes_sent) != OFFSET_UNKNOWN && setting!(tcp_bytes_received) != OFFSET_UNKNOWN;
            // SAFETY: `out` is the reserved record; every field is written before it is submitted.
            unsafe {
                (*out).head = head::<Closed>(Kind::Closed);
                (*out).socket = socket;
                (*out).tuple = flow.tuple;
                (*out).connected_ns = flow.connected_ns;
                (*out).established_ns = flow.established_ns;
                (*out).bytes_sent = payload_sent(
                    long(socket, setting!(tcp_bytes_sent)),
                    long(socket, setting!(tcp_bytes_retrans)),
                );
                (*out).bytes_received = payload_received(
                    long(socket, setting!(tcp_bytes_received)),
                    flow.peer_finished == 1 || long(socket, setting!(sock_sk_flags)) & SOCK_DONE != 0,
                );
                (*out).tgid = flow.tgid;
                (*out).has_bytes = u32::from(has_bytes);
                (*out).start_ns = flow.start_ns;
            }
            entry.submit(0);
        }
    }
    let _ = FLOWS.remove(&socket);
}

/// Fills both ends from the tracepoint's record; IPv4 is mapped.
#[inline(always)]
fn read_tuple(record: u64, family: u32, tuple: &mut Tuple) {
    tuple.local_port = short(record, setting!(tp_sport));
    tuple.remote_port = short(record, setting!(tp_dport));
    if family == AF_INET {
        tuple.local = mapped(int(record, setting!(tp_saddr)));
        tuple.remote = mapped(int(record, setting!(tp_daddr)));
    } else {
        address(record, setting!(tp_saddr_v6), &mut tuple.local);
        address(record, setting!(tp_daddr_v6), &mut tuple.remote);
    }
}

/// `::ffff:a.b.c.d` from the four bytes as they are in memory.
#[inline(always)]
fn mapped(v4: u32) -> [u8; 16] {
    let [a, b, c, d] = v4.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
fn address(record: u64, offset: u32, out: &mut [u8; 16]) {
    if offset != OFFSET_UNKNOWN {
        // SAFETY: the helper checks the address and writes 16 bytes.
        unsafe {
            bpf_probe_read_kernel(
                out.as_mut_ptr().cast(),
                16,
                record.wrapping_add(u64::from(offset)) as *const _,
            )
        };
    }
}

#[inline(always)]
fn short(record: u64, offset: u32) -> u16 {
    let mut value = 0u16;
    if offset != OFFSET_UNKNOWN {
        // SAFETY: the helper checks the address and writes 2 bytes.
        unsafe {
            bpf_probe_read_kernel(
                (&raw mut value).cast(),
                2,
                record.wrapping_add(u64::from(offset)) as *const _,
            )
        };
    }
    value
}
