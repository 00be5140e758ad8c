//! What main asks of the attacher, and what it answers: fixed-size messages over a `SOCK_SEQPACKET` pair.
//!
//! Start: the attacher sends [`Hello`] with the descriptors named in its `descriptors` list, in that order, or a
//! `Hello` whose `refusal` says why nothing was loaded. Then main sends one [`Request`] after the other, without
//! waiting; each is answered by one [`Reply`] with the same `id` (attach and open in order, detach and tap-close
//! later, from another thread). The end of either side is end-of-file for the other. A `Reply` with `id` 0 and
//! [`Refusal::Stale`] answers no request: it is the *notice* that `file` was written, and that everything attached to
//! it is being let go.
//!
//! The attacher trusts no request: each verb has an allowlist of its own (see the variants of [`Verb`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

crate::wire_enum! {
    /// What is asked.
    Verb {
        /// Attach one kind of TLS or resolver probe set at absolute file offsets of a file that was opened before by
        /// [`Verb::OpenMapped`] (`file`), for one process (`pid`) or, only for the once-per-session kinds, for all
        /// (`pid` 0). Answer: `value` is the attachment's number, `took_ns` how long it took.
        Attach = 1,
        /// Detach attachment `value`. Answered when done.
        Detach = 2,
        /// Open a tap on interface `value`. Refused for an interface that has one.
        TapOpen = 3,
        /// Close the tap on interface `value`. Answered when done.
        TapClose = 4,
        /// Descriptor of `/proc/PID/maps`, read-only.
        OpenMaps = 5,
        /// Descriptor of the file mapped in process `pid` at `value..end`, read-only, executable mappings of regular
        /// files only. `file` of the reply names it for [`Verb::Attach`].
        OpenMapped = 6,
        /// Descriptor of a container runtime's state file for container id `path`, namespace before a slash where
        /// the runtime has them. `value` is a [`StateFile`].
        OpenState = 7,
        /// The process of user `end` that holds the socket with inode number `value`: `value` of the answer is its id,
        /// `file` its start in ticks. Answered from another thread; from Linux 5.14.
        SocketOwner = 8,
        /// How often the kernel skipped the program with id `value` because another one ran on that CPU
        /// (`bpf_prog_info.recursion_misses`, Linux 5.12). Own programs only. Answer: `value`.
        Misses = 9,
    }
}

crate::wire_enum! {
    /// Which state file of which runtime.
    StateFile {
        /// `/run/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID/config.json`
        ContainerdBundle = 1,
        /// `/var/lib/docker/containers/ID/config.v2.json`
        DockerConfig = 2,
        /// `/run/containers/storage/overlay-containers/ID/userdata/config.json` (Podman, CRI-O)
        ContainersStorage = 3,
        /// `/var/lib/containers/storage/overlay-containers/ID/userdata/config.json`
        ContainersStorageRoot = 4,
        /// `/run/runc/ID/state.json`
        RuncState = 5,
    }
}

crate::wire_enum! {
    /// Which program is attached at an offset.
    Hook {
        /// `getaddrinfo` entry and return (any pid).
        Getaddrinfo = 1,
        /// `SSL_ctrl` entry (any pid).
        SslCtrl = 2,
        /// `SSL_free` entry (any pid).
        SslFree = 3,
        /// `SSL_write(ssl, buf, num) -> int` entry and return (one pid).
        SslWrite = 4,
        /// `SSL_write_ex(ssl, buf, num, *written) -> 1` entry and return (one pid).
        SslWriteEx = 5,
        /// `SSL_read(ssl, buf, num) -> int` entry and return (one pid).
        SslRead = 6,
        /// `SSL_read_ex(ssl, buf, num, *readbytes) -> 1` entry and return (one pid).
        SslReadEx = 7,
        /// `SSL_write_ex2(ssl, buf, num, flags, *written) -> 1` entry and return (one pid).
        SslWriteEx2 = 8,
    }
}

impl Hook {
    /// True for hooks that trap once per session and may therefore be attached for every process of a library.
    pub const fn is_once_per_session(self) -> bool {
        matches!(self, Hook::Getaddrinfo | Hook::SslCtrl | Hook::SslFree)
    }
}

crate::wire_enum! {
    /// Why a request was not done.
    Refusal {
        /// Done.
        None = 0,
        /// The request's fields are outside the verb's allowlist.
        NotAllowed = 1,
        /// No such process, mapping, interface, attachment or state file (any more).
        Gone = 2,
        /// The kernel refused; `errno` says how.
        Kernel = 3,
        /// A limit of the attacher is reached (attachments, files, taps).
        Limit = 4,
        /// The file was written since it was opened, or what was attached to its former content is still being let go,
        /// or it is not held open any more: open it again, a little later.
        Stale = 5,
    }
}

/// Offsets of one attach request.
pub const HOOKS_MAX: usize = 16;
/// Bytes of a container id with its namespace.
pub const PATH_MAX: usize = 192;

/// One program at one place of a file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Place {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// A [`Hook`].
    pub hook: u32,
    /// Zero.
    pub reserved: u32,
}

/// A request.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    /// Chosen by main, repeated in the reply.
    pub id: u64,
    /// A [`Verb`].
    pub verb: u32,
    /// Process, see the verb.
    pub pid: u32,
    /// Process start as in [`crate::event::Task::start_ns`] in units of 10 ms, 0 unknown: refuses a recycled pid.
    pub start_ticks: u64,
    /// See the verb.
    pub value: u64,
    /// End of the mapping for `OpenMapped`.
    pub end: u64,
    /// A file of an earlier reply, for `Attach`.
    pub file: u64,
    /// Places that are meant, for `Attach`.
    pub place_count: u32,
    /// Bytes of `path` that are meant.
    pub path_len: u32,
    /// For `Attach`.
    pub places: [Place; HOOKS_MAX],
    /// For `OpenState`.
    pub path: [u8; PATH_MAX],
}

/// An answer; a descriptor, where the verb gives one, travels beside it.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Reply {
    /// Of the request.
    pub id: u64,
    /// A [`Refusal`].
    pub refusal: u32,
    /// `errno` where the kernel refused.
    pub errno: u32,
    /// See the verb.
    pub value: u64,
    /// Number of the opened file: stable for (device, inode) while the attacher lives.
    pub file: u64,
    /// Device of the opened file.
    pub device: u64,
    /// Inode of the opened file.
    pub inode: u64,
    /// Time the verb took in the attacher, ns.
    pub took_ns: u64,
    /// Attachments waiting to be detached.
    pub detach_backlog: u32,
    /// Zero.
    pub reserved: u32,
}

crate::wire_enum! {
    /// Which descriptor of [`Hello`].
    Descriptor {
        /// Ring buffer `EVENTS`.
        Events = 1,
        /// Ring buffer `CONTENT`.
        Content = 2,
        /// LPM trie `HOSTS`.
        Hosts = 3,
        /// Hash `VERDICTS`.
        Verdicts = 4,
        /// Per-CPU array `COUNTERS`.
        Counters = 5,
        /// Hash `SESSIONS`, read by `doctor` only.
        Sessions = 6,
        /// Hash `DATAGRAMS`.
        Datagrams = 7,
    }
}

crate::wire_enum! {
    /// What limits capture on this node. Shown by `venturi doctor` with the remedy.
    Limit {
        /// Not root, or a capability is missing that loading needs.
        MissingCapability = 1,
        /// tracefs is not mounted and could not be mounted.
        NoTracefs = 2,
        /// Kernel below 5.8, or BPF disabled.
        KernelTooOld = 3,
        /// The gate refused the object.
        GateRefused = 4,
        /// The verifier refused a program.
        LoadRefused = 5,
        /// What the kernel loaded is not what the gate approved.
        ReadBackDiffers = 6,
        /// No BTF: no bytes of flows, no start time of processes.
        NoBtf = 7,
        /// No `uprobe_multi` (before 6.6): attachments go through perf events, detaching is slow.
        NoUprobeMulti = 8,
        /// AF_PACKET socket refused: no names from the wire.
        NoTap = 9,
        /// The perf event that keeps arming fast could not be opened.
        NoWarmEvent = 10,
        /// The embedded object is for another architecture or empty.
        NoObject = 11,
        /// A tracepoint could not be attached.
        NoTracepoint = 12,
        /// Main must keep CAP_BPF (before 5.19) to read maps.
        MainNeedsCapBpf = 13,
        /// No `uprobe_multi`, and perf events are refused to a process without CAP_SYS_ADMIN
        /// (`kernel.perf_event_paranoid` of 3 in Debian's and Ubuntu's kernels): no TLS or resolver call is seen.
        NoUprobes = 14,
    }
}

/// Descriptors in a hello.
pub const DESCRIPTORS_MAX: usize = 8;
/// Limits in a hello.
pub const LIMITS_MAX: usize = 16;
/// Loaded programs in a hello.
pub const PROGRAMS_MAX: usize = 32;
/// Bytes of the explanation in a hello.
pub const DETAIL_MAX: usize = 512;

/// A program as the kernel reports it (`BPF_OBJ_GET_INFO_BY_FD`): the proof of read-only that `doctor` prints.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LoadedProgram {
    /// Kernel id.
    pub id: u32,
    /// `enum bpf_prog_type`.
    pub prog_type: u32,
    /// Instructions handed to the kernel.
    pub instructions: u32,
    /// Zero.
    pub reserved: u32,
    /// Tag over the instructions.
    pub tag: [u8; 8],
    /// Name, NUL padded (the kernel keeps 15 bytes).
    pub name: [u8; 16],
}

/// First message of the attacher.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Hello {
    /// [`crate::VERSION`].
    pub version: u32,
    /// 1 if programs are loaded and tracepoints attached: capture is armed.
    pub armed: u32,
    /// Entries of `descriptors`.
    pub descriptor_count: u32,
    /// Entries of `limits`.
    pub limit_count: u32,
    /// Entries of `programs`.
    pub program_count: u32,
    /// Bytes of `detail`.
    pub detail_len: u32,
    /// Start to armed, ns.
    pub took_ns: u64,
    /// Effective capabilities of the attacher after its drop.
    pub capabilities: u64,
    /// [`Descriptor`] of each descriptor sent along.
    pub descriptors: [u32; DESCRIPTORS_MAX],
    /// [`Limit`] of each limitation.
    pub limits: [u32; LIMITS_MAX],
    /// What is loaded.
    pub programs: [LoadedProgram; PROGRAMS_MAX],
    /// The settings in force.
    pub settings: crate::control::Settings,
    /// Explanation of the first limit that stops capture: what, where, what to do. UTF-8.
    pub detail: [u8; DETAIL_MAX],
}
