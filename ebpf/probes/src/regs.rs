//! Arguments, result and stack pointer of a probed function, for the CPU the object is built for.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::programs::{ProbeContext, RetProbeContext};

use crate::maps::CallKey;

/// The key of the call that begins.
#[inline(always)]
pub(crate) fn entered(ctx: &ProbeContext) -> CallKey {
    // SAFETY: the kernel passes the registers at the function's first instruction.
    CallKey { pid_tgid: bpf_get_current_pid_tgid(), stack: unsafe { stack_pointer(ctx.regs.cast()) } }
}

/// The key of the call that ends: the one that [`entered`] gave.
#[inline(always)]
pub(crate) fn returned(ctx: &RetProbeContext) -> CallKey {
    // SAFETY: the kernel passes the registers just after the return.
    let stack = unsafe { stack_pointer(ctx.regs.cast()) };
    // The return popped its address, which is 8 bytes on x86_64; aarch64 keeps it in a register.
    let popped = if cfg!(bpf_target_arch = "x86_64") { 8 } else { 0 };
    CallKey { pid_tgid: bpf_get_current_pid_tgid(), stack: stack.wrapping_sub(popped) }
}

/// Argument `n` of a function, 0 where the architecture passes it in memory.
#[inline(always)]
pub(crate) fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    ctx.arg::<u64>(n).unwrap_or(0)
}

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
unsafe fn stack_pointer(regs: *const aya_ebpf::bindings::pt_regs) -> u64 {
    // SAFETY: the caller passes the context of a uprobe.
    unsafe { (*regs).rsp }
}

#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
unsafe fn stack_pointer(regs: *const aya_ebpf::bindings::pt_regs) -> u64 {
    // SAFETY: the caller passes the context of a uprobe.
    unsafe { (*regs).sp }
}
