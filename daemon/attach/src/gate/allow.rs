//! The lists. Everything that may be loaded is on this page; everything else may not.

use super::Rule;
use super::helpers;
use super::instruction::{CALL, CALL_HELPER, CALL_KFUNC, CALL_SUBPROGRAM, Instruction, LOAD_IMM64};
use crate::sys::bpf::ProgType;

/// The kinds of program that can only observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `tracepoint`, `tp`
    Tracepoint,
    /// `raw_tracepoint`, `raw_tp` (not `.w`, which may write its arguments)
    RawTracepoint,
    /// `socket`: for our own tap only
    SocketFilter,
    /// `uprobe`
    Uprobe,
    /// `uretprobe`
    Uretprobe,
    /// `uprobe.multi`
    UprobeMulti,
    /// `uretprobe.multi`
    UretprobeMulti,
}

impl Kind {
    /// Name in the vocabulary of section names.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Tracepoint => "tracepoint",
            Kind::RawTracepoint => "raw_tracepoint",
            Kind::SocketFilter => "socket",
            Kind::Uprobe => "uprobe",
            Kind::Uretprobe => "uretprobe",
            Kind::UprobeMulti => "uprobe.multi",
            Kind::UretprobeMulti => "uretprobe.multi",
        }
    }

    /// The program type that the kernel is told.
    pub const fn prog_type(self) -> ProgType {
        match self {
            Kind::Tracepoint => ProgType::Tracepoint,
            Kind::RawTracepoint => ProgType::RawTracepoint,
            Kind::SocketFilter => ProgType::SocketFilter,
            Kind::Uprobe | Kind::Uretprobe | Kind::UprobeMulti | Kind::UretprobeMulti => ProgType::Kprobe,
        }
    }

    /// True for the sections that only newer loaders know; judged, but not loadable by this one.
    pub const fn is_multi(self) -> bool {
        matches!(self, Kind::UprobeMulti | Kind::UretprobeMulti)
    }

    /// True for programs that run in an application's context at a place in its code.
    pub const fn is_uprobe(self) -> bool {
        matches!(self, Kind::Uprobe | Kind::Uretprobe | Kind::UprobeMulti | Kind::UretprobeMulti)
    }
}

/// What a section that may hold a program is.
pub(super) enum SectionKind {
    /// A program of an allowed kind, with the attach target that its name states.
    Allowed(Kind, Option<String>),
    /// Code that programs share.
    Subprograms,
    /// A kind that is known and refused: its name.
    Refused(String),
    /// Nothing this gate knows.
    Unknown,
}

/// Sections of kinds that exist and are refused, so that the refusal can name the kind. Being absent from this list
/// allows nothing: it only makes the refusal say `unknown section`.
const REFUSED: &[&str] = &[
    "xdp",
    "xdp.frags",
    "tc",
    "tcx",
    "netkit",
    "classifier",
    "action",
    "cgroup",
    "cgroup_skb",
    "lsm_cgroup",
    "sk_msg",
    "sk_skb",
    "sockops",
    "sk_lookup",
    "sk_reuseport",
    "lsm",
    "lsm.s",
    "fmod_ret",
    "fmod_ret.s",
    "fentry",
    "fentry.s",
    "fexit",
    "fexit.s",
    "fsession",
    "freplace",
    "struct_ops",
    "struct_ops.s",
    "netfilter",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "lwt_seg6local",
    "flow_dissector",
    "perf_event",
    "kprobe",
    "kretprobe",
    "kprobe.multi",
    "kretprobe.multi",
    "kprobe.session",
    "ksyscall",
    "kretsyscall",
    "uprobe.s",
    "uretprobe.s",
    "uprobe.session",
    "uprobe.multi.s",
    "uretprobe.multi.s",
    "usdt",
    "iter",
    "iter.s",
    "syscall",
    "raw_tp.w",
    "raw_tracepoint.w",
    "tp_btf",
    "lirc_mode2",
    "hid",
    "sched_ext",
];

/// Classifies a section by its name.
pub(super) fn section(name: &str) -> SectionKind {
    let (prefix, rest) =
        name.split_once('/').map_or((name, None), |(prefix, rest)| (prefix, Some(rest.to_owned())));
    let kind = match prefix {
        "tracepoint" | "tp" => Kind::Tracepoint,
        "raw_tracepoint" | "raw_tp" => Kind::RawTracepoint,
        "socket" => Kind::SocketFilter,
        "uprobe" => Kind::Uprobe,
        "uretprobe" => Kind::Uretprobe,
        "uprobe.multi" => Kind::UprobeMulti,
        "uretprobe.multi" => Kind::UretprobeMulti,
        ".text" => return SectionKind::Subprograms,
        _ if prefix.starts_with(".text.") => return SectionKind::Subprograms,
        // Optional programs of libbpf carry a leading question mark.
        _ if REFUSED.contains(&prefix.trim_start_matches('?')) => {
            return SectionKind::Refused(name.to_owned());
        }
        _ => return SectionKind::Unknown,
    };
    SectionKind::Allowed(kind, rest)
}

/// Tracepoints that fire per connection or per process. A hook that fires per packet or per system call would make
/// every process of the node pay, so it is not here.
const TRACEPOINTS: &[&str] = &[
    "sock/inet_sock_set_state",
    "sched/sched_process_exec",
    "sched/sched_process_exit",
    "sched/sched_process_fork",
];
const RAW_TRACEPOINTS: &[&str] =
    &["sched_process_fork", "sched_process_exec", "sched_process_exit", "inet_sock_set_state"];

/// Whether a program of this kind may be attached to this target.
pub(crate) fn target(kind: Kind, target: &str) -> bool {
    match kind {
        Kind::Tracepoint => TRACEPOINTS.contains(&target),
        Kind::RawTracepoint => RAW_TRACEPOINTS.contains(&target),
        // Uprobe targets are files and offsets, judged with each attach request; a filter has none.
        Kind::SocketFilter | Kind::Uprobe | Kind::Uretprobe | Kind::UprobeMulti | Kind::UretprobeMulti => {
            true
        }
    }
}

/// Helpers that read, count or hand out. Numbers are stable kernel interface.
const HELPERS: &[(i32, &str)] = &[
    (1, "map_lookup_elem"),
    (2, "map_update_elem"),
    (3, "map_delete_elem"),
    (4, "probe_read, where a kernel lacks the four below"),
    (5, "ktime_get_ns"),
    (8, "get_smp_processor_id"),
    (14, "get_current_pid_tgid"),
    (15, "get_current_uid_gid"),
    (16, "get_current_comm"),
    (26, "skb_load_bytes"),
    (35, "get_current_task"),
    (45, "probe_read_str"),
    (68, "skb_load_bytes_relative"),
    (80, "get_current_cgroup_id"),
    (112, "probe_read_user"),
    (113, "probe_read_kernel"),
    (114, "probe_read_user_str"),
    (115, "probe_read_kernel_str"),
    (125, "ktime_get_boot_ns"),
    (130, "ringbuf_output"),
    (131, "ringbuf_reserve"),
    (132, "ringbuf_submit"),
    (133, "ringbuf_discard"),
    (134, "ringbuf_query"),
];
const TAIL_CALL: i32 = 12;

/// What is wrong with one instruction of a program of this kind.
pub(super) fn instruction(kind: Kind, instruction: &Instruction) -> Option<(Rule, String)> {
    match (instruction.code, instruction.src) {
        (CALL, CALL_HELPER) if instruction.imm == TAIL_CALL => {
            Some((Rule::TailCall, "bpf_tail_call".to_owned()))
        }
        (CALL, CALL_HELPER) if HELPERS.iter().any(|(number, _)| *number == instruction.imm) => None,
        (CALL, CALL_HELPER) => Some((Rule::Helper, helpers::name(instruction.imm))),
        (CALL, CALL_SUBPROGRAM) => None,
        (CALL, CALL_KFUNC) => Some((Rule::Kfunc, format!("kernel function with BTF id {}", instruction.imm))),
        // 0: a number; 1: a map; 2: a map's value. 3 to 6 are kernel variables, callbacks and map indices.
        (LOAD_IMM64, 0..=2) => None,
        (LOAD_IMM64, source) => Some((Rule::Opcode, format!("64-bit immediate of kind {source}"))),
        (code, _) if opcode(kind, code) => None,
        (code, _) => Some((Rule::Opcode, format!("opcode {code:#04x}"))),
    }
}

/// Plain arithmetic, jumps, loads and stores; packet loads in a socket filter.
fn opcode(kind: Kind, code: u8) -> bool {
    let (class, operation) = (code & 0x07, code & 0xf0);
    match class {
        // BPF_LD: absolute and indirect packet loads of 1, 2, 4 bytes.
        0x00 => kind == Kind::SocketFilter && matches!(code, 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50),
        // BPF_LDX and BPF_ST: BPF_MEM (0x60); BPF_MEMSX (0x80) for loads.
        0x01 => matches!(code & 0xe0, 0x60 | 0x80),
        0x02 => code & 0xe0 == 0x60,
        // BPF_STX: BPF_MEM, and BPF_ATOMIC (0xc0) of 4 and 8 bytes.
        0x03 => code & 0xe0 == 0x60 || matches!(code, 0xc3 | 0xdb),
        0x04 | 0x07 => operation <= 0xd0,
        // BPF_JMP without the indirect call (0x8d); BPF_JMP32 without call and exit.
        0x05 => operation <= 0xd0 && code != 0x8d,
        _ => operation <= 0xd0 && !matches!(operation, 0x80 | 0x90),
    }
}

const MAP_TYPES: &[(u32, &str)] =
    &[(1, "hash"), (2, "array"), (6, "percpu_array"), (9, "lru_hash"), (11, "lpm_trie"), (27, "ringbuf")];
/// `BPF_F_NO_PREALLOC`, `BPF_F_RDONLY_PROG`, `BPF_F_MMAPABLE`.
const MAP_FLAGS: u32 = 1 | 1 << 7 | 1 << 10;

/// Name of an allowed map type, `other` for any other.
pub(crate) fn map_type_name(map_type: u32) -> &'static str {
    MAP_TYPES.iter().find(|(number, _)| *number == map_type).map_or("other", |(_, name)| name)
}

/// Whether maps of this type and with these flags may exist.
pub(crate) fn map_is_allowed(map_type: u32, flags: u32) -> bool {
    MAP_TYPES.iter().any(|(number, _)| *number == map_type) && flags & !MAP_FLAGS == 0
}

/// What is wrong with a map.
pub(super) fn map(map: &aya_obj::maps::Map) -> Vec<(Rule, String)> {
    let mut wrong = Vec::new();
    if !MAP_TYPES.iter().any(|(number, _)| *number == map.map_type()) {
        let known = KNOWN_MAP_TYPES.get(map.map_type() as usize).copied().unwrap_or("unknown");
        wrong.push((Rule::MapType, format!("{known} ({})", map.map_type())));
    }
    if map.map_flags() & !MAP_FLAGS != 0 {
        wrong.push((Rule::MapFlags, format!("flags {:#x}", map.map_flags() & !MAP_FLAGS)));
    }
    if map.pinning() != aya_obj::maps::PinningType::None {
        wrong.push((Rule::MapFlags, "pinned: other processes could open it".to_owned()));
    }
    wrong
}

/// `enum bpf_map_type`, for refusals.
#[rustfmt::skip]
const KNOWN_MAP_TYPES: &[&str] = &[
    "unspec", "hash", "array", "prog_array", "perf_event_array", "percpu_hash", "percpu_array", "stack_trace",
    "cgroup_array", "lru_hash", "lru_percpu_hash", "lpm_trie", "array_of_maps", "hash_of_maps", "devmap", "sockmap",
    "cpumap", "xskmap", "sockhash", "cgroup_storage", "reuseport_sockarray", "percpu_cgroup_storage", "queue", "stack",
    "sk_storage", "devmap_hash", "struct_ops", "ringbuf", "inode_storage", "task_storage", "bloom_filter",
    "user_ringbuf", "cgrp_storage", "arena", "insn_array",
];
