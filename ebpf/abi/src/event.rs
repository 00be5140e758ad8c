//! Records of the `EVENTS` ring: what happened to processes, connections, names and sessions. No payload.
//!
//! Every record starts with [`Head`]; `kind` says which struct follows. Times are `CLOCK_MONOTONIC` nanoseconds.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::NAME_MAX;

crate::wire_enum! {
    /// Which struct a record is.
    Kind {
        /// [`Connect`]
        Connect = 1,
        /// [`Established`]
        Established = 2,
        /// [`Closed`]
        Closed = 3,
        /// [`Exec`]
        Exec = 4,
        /// [`Fork`]
        Fork = 5,
        /// [`Exit`]
        Exit = 6,
        /// [`Lookup`]
        Lookup = 7,
        /// [`SessionNamed`]
        SessionNamed = 8,
        /// [`SessionFreed`]
        SessionFreed = 9,
        /// [`Packet`]
        Packet = 10,
        /// [`SessionOther`]
        SessionOther = 11,
    }
}

/// First field of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Head {
    /// A [`Kind`].
    pub kind: u32,
    /// Length of the whole record in bytes, this head included.
    pub len: u32,
    /// When, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
}

/// The process in whose context an event happened.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Task {
    /// Start of the thread group leader, `CLOCK_BOOTTIME` ns; 0 where BTF is missing. Field 22 of `/proc/PID/stat`
    /// is the same time in units of 10 ms.
    pub start_ns: u64,
    /// Inode of the cgroup2 directory; 1 (the root) where the process is in v1 hierarchies only.
    pub cgroup_id: u64,
    /// `st_dev` of the executable as the kernel encodes it (`major << 20 | minor`); 0 unknown.
    pub exe_dev: u64,
    /// Inode of the executable; 0 unknown.
    pub exe_ino: u64,
    /// Process id (thread group), as seen from the initial pid namespace.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Real user id.
    pub uid: u32,
    /// Thread group id of the parent; 0 unknown.
    pub parent_tgid: u32,
    /// Command name, NUL padded.
    pub comm: [u8; 16],
}

/// Both ends of a connection. IPv4 addresses are mapped (`::ffff:a.b.c.d`). Ports are in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tuple {
    /// Local address.
    pub local: [u8; 16],
    /// Remote address.
    pub remote: [u8; 16],
    /// Local port; 0 at CLOSE -> SYN_SENT.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// 6 (TCP) or 17 (UDP).
    pub protocol: u16,
    /// Zero.
    pub reserved: u16,
}

/// CLOSE -> SYN_SENT, in the context of the caller of `connect`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Connect {
    /// Kind `Connect`.
    pub head: Head,
    /// Who connects.
    pub task: Task,
    /// Kernel address of the socket: the key that joins the events of one connection.
    pub socket: u64,
    /// Local port is 0 here.
    pub tuple: Tuple,
}

/// SYN_SENT -> ESTABLISHED (softirq context: the task is the one remembered from [`Connect`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Established {
    /// Kind `Established`.
    pub head: Head,
    /// As in [`Connect`].
    pub socket: u64,
    /// Complete tuple.
    pub tuple: Tuple,
    /// Process that connected.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
    /// Its start, as in [`Task::start_ns`].
    pub start_ns: u64,
}

/// Last transition to CLOSE of a connection whose [`Connect`] was seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Closed {
    /// Kind `Closed`.
    pub head: Head,
    /// As in [`Connect`].
    pub socket: u64,
    /// Complete tuple, unless the connection was refused.
    pub tuple: Tuple,
    /// When it connected.
    pub connected_ns: u64,
    /// When it was established; 0 never.
    pub established_ns: u64,
    /// Payload bytes sent, from `tcp_sock.bytes_sent` less `bytes_retrans`; meaningful if `has_bytes` is 1.
    pub bytes_sent: u64,
    /// Payload bytes received, from `tcp_sock.bytes_received` less one for the peer's FIN.
    pub bytes_received: u64,
    /// Process that connected.
    pub tgid: u32,
    /// 1 if the byte counts were read, 0 without BTF.
    pub has_bytes: u32,
    /// As in [`Task::start_ns`].
    pub start_ns: u64,
}

/// A process replaced its program.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Exec {
    /// Kind `Exec`.
    pub head: Head,
    /// After the exec.
    pub task: Task,
}

/// A process (not a thread) was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Fork {
    /// Kind `Fork`.
    pub head: Head,
    /// The parent.
    pub task: Task,
    /// The child's process id.
    pub child_tgid: u32,
    /// Zero.
    pub reserved: u32,
    /// The child's start, as in [`Task::start_ns`].
    pub child_start_ns: u64,
}

/// The last thread of a process ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Exit {
    /// Kind `Exit`.
    pub head: Head,
    /// As in [`Task::start_ns`].
    pub start_ns: u64,
    /// The process.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// Number of addresses of an answer that travel.
pub const LOOKUP_ADDRESSES_MAX: usize = 8;

/// `getaddrinfo` of a name that matches the provider directory: once at its entry (`returned` 0, no addresses), once
/// at its return.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Lookup {
    /// Kind `Lookup`.
    pub head: Head,
    /// Who asks.
    pub task: Task,
    /// 0 at entry, 1 at return.
    pub returned: u32,
    /// What `getaddrinfo` returned, as an unsigned number; 0 is success.
    pub error: u32,
    /// Addresses that follow.
    pub address_count: u32,
    /// Bytes of `name`.
    pub name_len: u32,
    /// The answer, IPv4 mapped.
    pub addresses: [[u8; 16]; LOOKUP_ADDRESSES_MAX],
    /// The name asked for, as written by the caller.
    pub name: [u8; NAME_MAX],
}

/// A TLS session was given its host name (`SSL_ctrl(ssl, 55, ..)`). Sent for names that match the provider
/// directory; for others only the counter moves.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SessionNamed {
    /// Kind `SessionNamed`.
    pub head: Head,
    /// Whose session.
    pub task: Task,
    /// The `SSL*`.
    pub ssl: u64,
    /// When the session was opened as far as we saw: with `ssl` and the process its identity.
    pub opened_ns: u64,
    /// A [`crate::control::Verdict`].
    pub verdict: u32,
    /// Bytes of `name`.
    pub name_len: u32,
    /// The name, as written by the caller.
    pub name: [u8; NAME_MAX],
}

/// `SSL_free` of a session that was in the session table with a verdict other than not-AI.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SessionFreed {
    /// Kind `SessionFreed`.
    pub head: Head,
    /// As in [`SessionNamed`].
    pub ssl: u64,
    /// As in [`SessionNamed`].
    pub opened_ns: u64,
    /// Bytes written through the session after arming.
    pub sent: u64,
    /// Bytes read through the session after arming.
    pub received: u64,
    /// As in [`Task::start_ns`].
    pub start_ns: u64,
    /// The process.
    pub tgid: u32,
    /// Content records reserved or lost for this session: the last sequence number plus one.
    pub records: u32,
}

/// Calls of a session after which it is told again that it is no AI session.
pub const OTHER_CALLS: u32 = 64;

/// A session of an armed process moved bytes and is not with a provider: sent at its first such call if its name says
/// so, and at call [`OTHER_CALLS`] also if it has no name and nothing it wrote has shown a provider.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SessionOther {
    /// Kind `SessionOther`.
    pub head: Head,
    /// As in [`Task::start_ns`].
    pub start_ns: u64,
    /// The process.
    pub tgid: u32,
    /// Calls that moved bytes: 1 or [`OTHER_CALLS`].
    pub calls: u32,
}

crate::wire_enum! {
    /// What a packet of the tap was taken for.
    PacketKind {
        /// TCP segment that starts with a TLS handshake record holding a ClientHello (RFC 8446 section 4.1.2).
        ClientHello = 1,
        /// UDP datagram with a long header, type Initial (RFC 9000 section 17.2.2; RFC 9369 for version 2).
        QuicInitial = 2,
        /// DNS answer over UDP port 53.
        DnsAnswer = 3,
        /// What follows a [`PacketKind::ClientHello`] that was longer than its segment or than [`PACKET_MAX`], in order
        /// and without a hole.
        HelloRest = 4,
    }
}

/// Bytes of a packet that travel in one record.
pub const PACKET_MAX: usize = 2048;
/// Records that one packet of a ClientHello gives: segments are joined before the tap sees them.
pub const PACKET_RECORDS_MAX: usize = 4;

/// A packet selected by the tap: transport payload only.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Packet {
    /// Kind `Packet`.
    pub head: Head,
    /// Sender is `local`: for a ClientHello the client.
    pub tuple: Tuple,
    /// A [`PacketKind`].
    pub packet_kind: u32,
    /// Interface index.
    pub ifindex: u32,
    /// Length of the transport payload on the wire.
    pub wire_len: u32,
    /// Bytes of `data` that are filled.
    pub data_len: u32,
    /// The payload's first bytes.
    pub data: [u8; PACKET_MAX],
}
