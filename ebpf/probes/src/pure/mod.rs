//! What can be decided without the kernel; tested on the host.

pub(crate) mod bytes;
pub(crate) mod clip;
pub(crate) mod name;
pub(crate) mod packet;
pub(crate) mod request;

/// `value`, but the compiler forgets what it knows of it: it must neither turn arithmetic into branches, each of
/// which is a path for the verifier, nor leave out a comparison from which the verifier learns a bound.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// See above; on the host nothing needs hiding.
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn opaque(value: u64) -> u64 {
    value
}
