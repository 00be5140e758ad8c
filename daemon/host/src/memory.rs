//! Keeps the C library's heap small: the daemon is a guest on every node.
//!
//! A dozen threads would each get a heap that keeps what it once needed, and what the start parses (catalogue, maps,
//! ELF files) is ten times of what stays. Nothing here changes what the program does; without glibc it is empty.
#![expect(unsafe_code, reason = "the C library has no safe interface for it")]

/// Large blocks go back to the kernel when they are freed, instead of growing the heap.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 256 * 1024;

/// Sets the limits. Called first of all, before there is a second thread.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    // SAFETY: there is one thread, and the calls only set numbers. A failure leaves the defaults.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE_BYTES);
    }
}

/// Gives unused pages of the heap back to the kernel. Takes about a millisecond.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
