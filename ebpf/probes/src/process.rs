//! Processes that begin, change their program, and end: so that the short-lived are known before they vanish.

use abi::control::OFFSET_UNKNOWN;
use abi::counter::Counter;
use abi::event::{Exec, Exit, Fork, Head, Kind};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{raw_tracepoint, tracepoint};
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};

use crate::maps::{EVENTS, PROGRAMS, setting};
use crate::note::lose;
use crate::task::{current, current_tgid, describe, int, pointer, start_ns, tgid_of};

/// The head of a record of `T`.
#[inline(always)]
pub(crate) fn head<T>(kind: Kind) -> Head {
    // SAFETY: no arguments.
    Head { kind: kind.wire(), len: size_of::<T>() as u32, at_ns: unsafe { bpf_ktime_get_ns() } }
}

/// `sched:sched_process_exec`, in the context of the process, after the exec.
#[tracepoint(category = "sched", name = "sched_process_exec")]
fn sched_process_exec(_ctx: TracePointContext) -> u32 {
    forget_sessions(current_tgid());
    let Some(mut record) = EVENTS.reserve::<Exec>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return 0;
    };
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted.
    unsafe {
        (*out).head = head::<Exec>(Kind::Exec);
        describe(&raw mut (*out).task);
    }
    record.submit(0);
    0
}

/// Raw tracepoint `sched_process_fork(parent, child)`, in the context of the parent. Threads are left out.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    let child = ctx.arg::<u64>(1);
    let child_tgid = tgid_of(child);
    if child_tgid == 0 || child_tgid != int(child, setting!(task_pid)) {
        return 0;
    }
    let Some(mut record) = EVENTS.reserve::<Fork>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return 0;
    };
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted.
    unsafe {
        (*out).head = head::<Fork>(Kind::Fork);
        describe(&raw mut (*out).task);
        (*out).child_tgid = child_tgid;
        (*out).reserved = 0;
        (*out).child_start_ns = start_ns(child);
    }
    record.submit(0);
    0
}

/// `sched:sched_process_exit`, in the context of a thread that ends. `signal->live` was decremented before, so the
/// last thread sees 0 (and, of several that end at once, perhaps more than one).
#[tracepoint(category = "sched", name = "sched_process_exit")]
fn sched_process_exit(_ctx: TracePointContext) -> u32 {
    let task = current();
    if setting!(signal_live) == OFFSET_UNKNOWN || setting!(task_signal) == OFFSET_UNKNOWN {
        let pid_tgid = bpf_get_current_pid_tgid();
        if pid_tgid >> 32 != pid_tgid & 0xffff_ffff {
            return 0;
        }
    } else if int(pointer(task, setting!(task_signal)), setting!(signal_live)) != 0 {
        return 0;
    }
    let tgid = current_tgid();
    forget_sessions(tgid);
    let Some(mut record) = EVENTS.reserve::<Exit>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return 0;
    };
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted.
    unsafe {
        (*out).head = head::<Exit>(Kind::Exit);
        (*out).start_ns = start_ns(task);
        (*out).tgid = tgid;
        (*out).reserved = 0;
    }
    record.submit(0);
    0
}

/// Sessions of this process id that were opened until now belong to a program that is gone.
#[inline(always)]
fn forget_sessions(tgid: u32) {
    if let Some(since) = PROGRAMS.get_ptr_mut(&tgid) {
        // SAFETY: `since` points into the map; no argument for the helper.
        unsafe { *since = bpf_ktime_get_ns() };
    }
}
