//! `getaddrinfo`: the earliest sign that a process is about to talk to a provider, with the addresses it is given.
//!
//! Names that do not match the provider directory are counted and nothing else.

use abi::NAME_MAX;
use abi::control::HOST_KEY_BYTES;
use abi::counter::Counter;
use abi::event::{Kind, LOOKUP_ADDRESSES_MAX, Lookup};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::{ProbeContext, RetProbeContext};

use crate::maps::{EVENTS, HOSTS, LOOKUPS, LookupCall, is_self};
use crate::note::{count, lose};
use crate::process::head;
use crate::pure::name::reversed;
use crate::regs::{argument, entered, returned};
use crate::task::describe;

/// `struct addrinfo`, the same in glibc and musl on 64-bit machines.
#[repr(C)]
struct AddrInfo {
    flags: i32,
    family: i32,
    socktype: i32,
    protocol: i32,
    addrlen: u32,
    padding: u32,
    addr: u64,
    canonname: u64,
    next: u64,
}

/// Nodes of an answer that are looked at: an address comes once per socket type.
const NODES_MAX: u32 = 3 * LOOKUP_ADDRESSES_MAX as u32;

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

/// `getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)`
#[uprobe]
fn getaddrinfo_entry(ctx: ProbeContext) -> u32 {
    let call = LookupCall { name: argument(&ctx, 0), result: argument(&ctx, 3) };
    let key = entered(&ctx);
    if call.name == 0 || is_self((key.pid_tgid >> 32) as u32) {
        return 0;
    }
    count(Counter::LookupsSeen, 1);
    let Some(mut record) = EVENTS.reserve::<Lookup>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return 0;
    };
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted, the arrays as far as
    // their lengths say.
    let matches = unsafe {
        let len = read_name(&raw mut (*out).name, call.name);
        (*out).name_len = len;
        len > 0 && is_provider(&raw const (*out).name, len)
    };
    if !matches {
        record.discard(0);
        return 0;
    }
    // SAFETY: as above.
    unsafe {
        (*out).head = head::<Lookup>(Kind::Lookup);
        describe(&raw mut (*out).task);
        (*out).returned = 0;
        (*out).error = 0;
        (*out).address_count = 0;
    }
    record.submit(0);
    // A call that never returned may have left an entry under this key.
    if LOOKUPS.insert(&key, &call, u64::from(BPF_NOEXIST)).is_ok() {
        count(Counter::LookupsInserted, 1);
    } else {
        let _ = LOOKUPS.insert(&key, &call, 0);
    }
    0
}

/// Return of `getaddrinfo` for a name that matched at its entry.
#[uretprobe]
fn getaddrinfo_return(ctx: RetProbeContext) -> u32 {
    let key = returned(&ctx);
    let Some(call) = LOOKUPS.get_ptr(&key) else { return 0 };
    // SAFETY: `call` points into the map; only this thread writes this key.
    let LookupCall { name, result } = unsafe { *call };
    if LOOKUPS.remove(&key).is_ok() {
        count(Counter::LookupsRemoved, 1);
    }
    let error = ctx.ret::<i32>();
    let Some(mut record) = EVENTS.reserve::<Lookup>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return 0;
    };
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted, the arrays as far as
    // their lengths say.
    unsafe {
        (*out).head = head::<Lookup>(Kind::Lookup);
        describe(&raw mut (*out).task);
        (*out).returned = 1;
        (*out).error = error as u32;
        (*out).address_count = 0;
        (*out).name_len = read_name(&raw mut (*out).name, name);
        if error == 0 {
            read_addresses(out, result);
        }
    }
    record.submit(0);
    0
}

/// Copies a C string of the process; its length without the zero byte, 0 if it cannot be read.
///
/// # Safety
/// `out` points to writable memory of a reserved record.
#[inline(always)]
pub(crate) unsafe fn read_name(out: *mut [u8; NAME_MAX], address: u64) -> u32 {
    // SAFETY: the helper checks the address and writes at most `NAME_MAX` bytes.
    let copied = unsafe { bpf_probe_read_user_str(out.cast(), NAME_MAX as u32, address as *const _) };
    if copied > 0 { (copied - 1) as u32 } else { 0 }
}

/// Is the name in the provider directory?
///
/// # Safety
/// `name` points to a reserved record.
#[inline(always)]
pub(crate) unsafe fn is_provider(name: *const [u8; NAME_MAX], len: u32) -> bool {
    let mut key = Key::new(0, [0; HOST_KEY_BYTES]);
    // SAFETY: the caller's memory; bytes beyond `len` do not influence the result.
    key.prefix_len = reversed(unsafe { &*name }, len as usize, &mut key.data);
    HOSTS.get(&key).is_some()
}

/// Walks the answer; an address that repeats the one before is the same for another socket type.
///
/// The number found and the addresses are kept in the record only: from there they are any bytes to the verifier,
/// which then need not walk every combination of nodes and families.
///
/// # Safety
/// `out` points to a reserved record whose `address_count` is 0.
#[inline(always)]
unsafe fn read_addresses(out: *mut Lookup, result: u64) {
    let mut next = user_long(result);
    let mut nodes = 0;
    while nodes < NODES_MAX && next != 0 {
        nodes += 1;
        let mut info = AddrInfo {
            flags: 0,
            family: 0,
            socktype: 0,
            protocol: 0,
            addrlen: 0,
            padding: 0,
            addr: 0,
            canonname: 0,
            next: 0,
        };
        // SAFETY: the helper checks the address and writes one `AddrInfo`.
        let failed = unsafe {
            bpf_probe_read_user((&raw mut info).cast(), size_of::<AddrInfo>() as u32, next as *const _)
        };
        if failed != 0 {
            break;
        }
        next = info.next;
        // SAFETY: the caller's record; both indices are below the array's length.
        unsafe {
            let found = (&raw const (*out).address_count).read_volatile() as usize;
            if found >= LOOKUP_ADDRESSES_MAX {
                break;
            }
            let addresses = (&raw mut (*out).addresses).cast::<[u64; 2]>();
            let slot = addresses.add(found);
            if !read_address(slot, info.family, info.addr) {
                continue;
            }
            if found > 0 {
                let before = addresses.add(found - 1);
                if before.read_volatile() == slot.read_volatile() {
                    continue;
                }
            }
            (&raw mut (*out).address_count).write_volatile(found as u32 + 1);
        }
    }
}

/// Copies the address of a `sockaddr_in` (mapped) or `sockaddr_in6`.
///
/// # Safety
/// `slot` points to 16 writable bytes of a reserved record.
#[inline(always)]
unsafe fn read_address(slot: *mut [u64; 2], family: i32, sockaddr: u64) -> bool {
    let to = slot.cast::<u8>();
    // SAFETY: the caller's 16 bytes; the helper checks the address.
    let failed = unsafe {
        match family {
            AF_INET => {
                slot.write([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0])]);
                bpf_probe_read_user(to.add(12).cast(), 4, sockaddr.wrapping_add(4) as *const _)
            }
            AF_INET6 => bpf_probe_read_user(to.cast(), 16, sockaddr.wrapping_add(8) as *const _),
            _ => return false,
        }
    };
    failed == 0
}

/// Reads 8 bytes of the process, 0 if they cannot be read.
#[inline(always)]
pub(crate) fn user_long(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address and writes 8 bytes.
    let failed = unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const _) };
    if failed == 0 { value } else { 0 }
}
