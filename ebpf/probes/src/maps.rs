//! Every map, and the settings that the attacher fixes at load.
//!
//! Sizes are what a node with tens of thousands of connections needs; the attacher may change those of the rings.
//! Hash maps are preallocated: tracing programs must not allocate on kernels with real-time locking.

use abi::control::{
    DATAGRAMS_MAX, DatagramKey, DatagramState, HOST_KEY_BYTES, LOOKUPS_MAX, PROGRAMS_MAX, SESSIONS_MAX,
    SessionKey, SessionState, Settings, VERDICTS_MAX, VerdictKey,
};
use abi::event::Tuple;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};

use crate::pure::packet::HELLO_SLOTS;

/// Records of [`abi::event`].
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Records of [`abi::content`].
#[map]
pub(crate) static CONTENT: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// The provider directory: [`abi::control::HostKey`] to the provider's index. Filled by main.
#[map]
pub(crate) static HOSTS: LpmTrie<[u8; HOST_KEY_BYTES], u32> = LpmTrie::with_max_entries(4096, 0);

/// TLS sessions. The least recently used is forgotten when it is full: processes that die do not free theirs.
#[map]
pub(crate) static SESSIONS: LruHashMap<SessionKey, SessionState> =
    LruHashMap::with_max_entries(SESSIONS_MAX, 0);

/// Main's decisions on sessions, an [`abi::control::Verdict`] each.
#[map]
pub(crate) static VERDICTS: LruHashMap<VerdictKey, u32> = LruHashMap::with_max_entries(VERDICTS_MAX, 0);

/// [`abi::counter::Counter`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::counter::COUNT as u32, 0);

/// Connections of ours to follow, by the kernel address of the socket.
#[map]
pub(crate) static FLOWS: HashMap<u64, FlowState> = HashMap::with_max_entries(32768, 0);

/// Library calls between entry and return. Entries are removed at the return; the rest (a call that never returns)
/// is forgotten when the map is full.
#[map]
pub(crate) static CALLS: LruHashMap<CallKey, Call> = LruHashMap::with_max_entries(16384, 0);

/// `getaddrinfo` between entry and return, names of providers only. A call that never returns (its process was killed)
/// leaves an entry behind; the least recently used is forgotten when it is full, which the counters show.
#[map]
pub(crate) static LOOKUPS: LruHashMap<CallKey, LookupCall> = LruHashMap::with_max_entries(LOOKUPS_MAX, 0);

/// Processes that have sessions, with the time of their last exec (or of their end, should the id be used again):
/// a session opened before it belonged to another program.
#[map]
pub(crate) static PROGRAMS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(PROGRAMS_MAX, 0);

/// QUIC connections that open taps follow. Main removes what ended or is of no interest.
#[map]
pub(crate) static DATAGRAMS: HashMap<DatagramKey, DatagramState> =
    HashMap::with_max_entries(DATAGRAMS_MAX, 0);

/// ClientHellos of which more is to come, each in the slot that [`hello_slot`](crate::pure::packet::hello_slot) says:
/// bounded without a queue, one that is given up for another is counted.
#[map]
pub(crate) static HELLOS: Array<HelloRest> = Array::with_max_entries(HELLO_SLOTS, 0);

/// Process ids of main and of the attacher, whose own traffic is never looked at; 0 is nobody.
#[map]
pub(crate) static SELF: Array<u32> = Array::with_max_entries(2, 0);

/// When a CPU logged last for a counter, ns.
#[map]
pub(crate) static NOTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::counter::COUNT as u32, 0);

/// Overridden at load with what this kernel's BTF and tracefs say.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings::UNKNOWN;

/// Value of [`FLOWS`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct FlowState {
    pub(crate) tuple: Tuple,
    pub(crate) connected_ns: u64,
    pub(crate) established_ns: u64,
    pub(crate) start_ns: u64,
    pub(crate) tgid: u32,
    /// 1 once a state was reached that only the peer's FIN leads to.
    pub(crate) peer_finished: u32,
}

/// Value of [`HELLOS`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct HelloRest {
    /// Sender's port in the upper half, receiver's in the lower.
    pub(crate) ports: u32,
    /// TCP sequence number of the next byte.
    pub(crate) next: u32,
    /// Bytes to come; 0 is an empty slot.
    pub(crate) left: u32,
    pub(crate) reserved: u32,
    /// When the slot was taken, ns.
    pub(crate) since_ns: u64,
}

/// Key of [`CALLS`] and [`LOOKUPS`]. The stack pointer tells nested calls of one thread apart (TLS inside TLS).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CallKey {
    pub(crate) pid_tgid: u64,
    /// At the function's first instruction.
    pub(crate) stack: u64,
}

/// Value of [`CALLS`]: the arguments, which the return does not see.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) ssl: u64,
    pub(crate) buffer: u64,
    /// Where the library writes how many bytes it moved; 0 for the variants that return it.
    pub(crate) moved: u64,
}

/// Value of [`LOOKUPS`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LookupCall {
    pub(crate) name: u64,
    /// `struct addrinfo **`
    pub(crate) result: u64,
}

/// One field of [`SETTINGS`].
macro_rules! setting {
    ($field:ident) => {
        $crate::maps::setting_at(core::mem::offset_of!(abi::control::Settings, $field))
    };
}
pub(crate) use setting;

/// Reads a field so that the compiler cannot use the default, which is overridden at load. Use [`setting!`].
#[inline(always)]
pub(crate) fn setting_at(offset: usize) -> u32 {
    // SAFETY: every field is a `u32`, the static is initialised and frozen before the programs run.
    unsafe { core::ptr::read_volatile((&raw const SETTINGS).cast::<u8>().add(offset).cast::<u32>()) }
}

/// True for main and the attacher.
#[inline(always)]
pub(crate) fn is_self(tgid: u32) -> bool {
    SELF.get(0).is_some_and(|own| *own == tgid) || SELF.get(1).is_some_and(|own| *own == tgid)
}
