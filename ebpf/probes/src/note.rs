//! Counting, and the rare line of log: a counter says how much, a line says that it happens at all.
//!
//! A line names the counter by its number in [`abi::counter`]. It goes to the ring `AYA_LOGS`, at most once per second,
//! CPU and counter; the normal path writes none.

use abi::counter::Counter;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

use crate::maps::{COUNTERS, NOTED};

/// Pause between two lines for one counter on one CPU.
const PAUSE_NS: u64 = 1_000_000_000;

/// Adds to a counter of this CPU. Atomic, because a task may be preempted within the addition.
#[inline(always)]
pub(crate) fn count(counter: Counter, by: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter.wire()) {
        // SAFETY: the map's values are aligned 64-bit integers that live as long as the program.
        unsafe { add(slot, by) };
    }
}

/// Counts a loss and lets it be known.
#[inline(always)]
pub(crate) fn lose(counter: Counter, by: u64) {
    count(counter, by);
    log(counter.wire(), by);
}

/// A function of its own, so that the formatting is in the object once and off the callers' stack.
#[inline(never)]
fn log(counter: u32, by: u64) {
    let Some(slot) = NOTED.get_ptr_mut(counter) else { return };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: `slot` points into the map; at worst a preempted task makes us log a line more.
    unsafe {
        if now.wrapping_sub(*slot) < PAUSE_NS {
            return;
        }
        *slot = now;
    }
    aya_log_ebpf::warn!((), "counter {} grew by {}", counter, by);
}

/// The one atomic addition that every kernel with a ring buffer has (`BPF_XADD`, without a result). The compiler's
/// own atomics do not exist on the BPF target.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn add(slot: *mut u64, by: u64) {
    // SAFETY: the caller passes a map value.
    unsafe {
        core::arch::asm!("lock *(u64 *)({slot} + 0) += {by}", slot = in(reg) slot, by = in(reg) by, options(nostack));
    }
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn add(slot: *mut u64, by: u64) {
    // SAFETY: the caller passes a map value.
    unsafe { core::sync::atomic::AtomicU64::from_ptr(slot) }
        .fetch_add(by, core::sync::atomic::Ordering::Relaxed);
}
