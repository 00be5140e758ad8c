//! Keys and values of the maps that main and the attacher fill, and the settings fixed at load.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a reversed name in the host trie. Longer names are matched by their last 128 bytes.
pub const HOST_KEY_BYTES: usize = 128;

/// Key of the `HOSTS` LPM trie: a lower-case name, reversed. An exact name ends with a zero byte, a domain whose
/// subdomains match ends with a dot (`moc.ianepo.ipa\0`, `moc.ianepo.ipa.`).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HostKey {
    /// Significant bits of `name`.
    pub prefix_bits: u32,
    /// The reversed name.
    pub name: [u8; HOST_KEY_BYTES],
}

crate::wire_enum! {
    /// What is known of a session; decides what leaves the kernel.
    Verdict {
        /// No name seen: prefixes only.
        Unknown = 0,
        /// An AI provider: plaintext is captured.
        Ai = 1,
        /// Not an AI provider: nothing is copied.
        NotAi = 2,
        /// An AI provider whose content is not wanted (any more): bytes are counted, nothing is copied.
        MetadataOnly = 3,
    }
}

/// Key of the `SESSIONS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SessionKey {
    /// The `SSL*`.
    pub ssl: u64,
    /// The process.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// Value of the `SESSIONS` map. Written by the kernel; main writes `VERDICTS` instead, so that no update is lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SessionState {
    /// First sight, `CLOCK_MONOTONIC` ns: the generation of a reused `SSL*`.
    pub opened_ns: u64,
    /// Start of the process.
    pub start_ns: u64,
    /// Bytes written since arming.
    pub sent: u64,
    /// Bytes read since arming.
    pub received: u64,
    /// Next sequence number.
    pub seq: u32,
    /// A [`Verdict`].
    pub verdict: u32,
    /// Prefixes handed out.
    pub prefix_writes: u32,
    /// Calls that moved bytes while the session was not known to be with a provider.
    pub other_calls: u32,
}

/// Key of the `VERDICTS` map: main's decision on a session of unknown name, or to stop capturing one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VerdictKey {
    /// The `SSL*`.
    pub ssl: u64,
    /// [`SessionState::opened_ns`] of the session meant: a reused address is another session.
    pub opened_ns: u64,
    /// The process.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of the `DATAGRAMS` map: a QUIC connection as one tapped interface shows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DatagramKey {
    /// Sender of the first Initial, the client, is `local`.
    pub tuple: crate::event::Tuple,
    /// Interface index.
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
}

/// Value of the `DATAGRAMS` map: what passed while a tap was open, from the client's first Initial on. Bytes are UDP
/// payload, retransmissions of QUIC included. Made and counted by the kernel, removed by main.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DatagramState {
    /// First datagram, `CLOCK_MONOTONIC` ns.
    pub first_ns: u64,
    /// Latest datagram.
    pub last_ns: u64,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub received: u64,
}

/// Capacity of the `SESSIONS` map.
pub const SESSIONS_MAX: u32 = 65_536;
/// Capacity of the `VERDICTS` map.
pub const VERDICTS_MAX: u32 = 16_384;
/// Capacity of the `PROGRAMS` map.
pub const PROGRAMS_MAX: u32 = 16_384;
/// Capacity of the `LOOKUPS` map.
pub const LOOKUPS_MAX: u32 = 4_096;
/// Capacity of the `DATAGRAMS` map.
pub const DATAGRAMS_MAX: u32 = 4_096;

/// An offset that is not known on this kernel.
pub const OFFSET_UNKNOWN: u32 = u32::MAX;

/// Fixed at load, read-only afterwards: where the kernel keeps what the programs read. Offsets in bytes, from the
/// kernel's BTF or from tracefs `format` files; [`OFFSET_UNKNOWN`] where the kernel does not say.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// `sock:inet_sock_set_state`: field `skaddr`.
    pub tp_skaddr: u32,
    /// Field `oldstate`.
    pub tp_oldstate: u32,
    /// Field `newstate`.
    pub tp_newstate: u32,
    /// Field `sport`.
    pub tp_sport: u32,
    /// Field `dport`.
    pub tp_dport: u32,
    /// Field `family`.
    pub tp_family: u32,
    /// Field `protocol`.
    pub tp_protocol: u32,
    /// Field `saddr`.
    pub tp_saddr: u32,
    /// Field `daddr`.
    pub tp_daddr: u32,
    /// Field `saddr_v6`.
    pub tp_saddr_v6: u32,
    /// Field `daddr_v6`.
    pub tp_daddr_v6: u32,
    /// `tcp_sock.bytes_sent`.
    pub tcp_bytes_sent: u32,
    /// `tcp_sock.bytes_received`.
    pub tcp_bytes_received: u32,
    /// `tcp_sock.bytes_retrans`: `bytes_sent` counts retransmissions too, this is what they were.
    pub tcp_bytes_retrans: u32,
    /// `sock_common.skc_flags`, known as `sk_flags` (`tcp_sock` begins with a `sock_common`): bit 1, `SOCK_DONE`, is set exactly when the peer's FIN was
    /// taken, which `bytes_received` counts as one byte.
    pub sock_sk_flags: u32,
    /// `task_struct.group_leader`.
    pub task_group_leader: u32,
    /// `task_struct.start_boottime` (`real_start_time` before 5.5).
    pub task_start_boottime: u32,
    /// `task_struct.real_parent`.
    pub task_real_parent: u32,
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.pid`.
    pub task_pid: u32,
    /// `task_struct.mm`.
    pub task_mm: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `signal_struct.live` (threads still alive, `atomic_t`).
    pub signal_live: u32,
    /// `mm_struct.exe_file`.
    pub mm_exe_file: u32,
    /// `file.f_inode`.
    pub file_f_inode: u32,
    /// `inode.i_ino`.
    pub inode_i_ino: u32,
    /// `inode.i_sb`.
    pub inode_i_sb: u32,
    /// `super_block.s_dev`.
    pub super_block_s_dev: u32,
    /// `CALL_BYTES_MAX` or less: bytes captured of one library call.
    pub call_bytes_max: u32,
    /// Zero.
    pub reserved: u32,
}

impl Settings {
    /// Nothing known of the kernel, everything captured of a call.
    pub const UNKNOWN: Settings = Settings {
        tp_skaddr: OFFSET_UNKNOWN,
        tp_oldstate: OFFSET_UNKNOWN,
        tp_newstate: OFFSET_UNKNOWN,
        tp_sport: OFFSET_UNKNOWN,
        tp_dport: OFFSET_UNKNOWN,
        tp_family: OFFSET_UNKNOWN,
        tp_protocol: OFFSET_UNKNOWN,
        tp_saddr: OFFSET_UNKNOWN,
        tp_daddr: OFFSET_UNKNOWN,
        tp_saddr_v6: OFFSET_UNKNOWN,
        tp_daddr_v6: OFFSET_UNKNOWN,
        tcp_bytes_sent: OFFSET_UNKNOWN,
        tcp_bytes_received: OFFSET_UNKNOWN,
        tcp_bytes_retrans: OFFSET_UNKNOWN,
        sock_sk_flags: OFFSET_UNKNOWN,
        task_group_leader: OFFSET_UNKNOWN,
        task_start_boottime: OFFSET_UNKNOWN,
        task_real_parent: OFFSET_UNKNOWN,
        task_tgid: OFFSET_UNKNOWN,
        task_pid: OFFSET_UNKNOWN,
        task_mm: OFFSET_UNKNOWN,
        task_signal: OFFSET_UNKNOWN,
        signal_live: OFFSET_UNKNOWN,
        mm_exe_file: OFFSET_UNKNOWN,
        file_f_inode: OFFSET_UNKNOWN,
        inode_i_ino: OFFSET_UNKNOWN,
        inode_i_sb: OFFSET_UNKNOWN,
        super_block_s_dev: OFFSET_UNKNOWN,
        call_bytes_max: crate::content::CALL_BYTES_MAX as u32,
        reserved: 0,
    };
}
