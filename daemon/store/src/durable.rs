//! Makes sled's `flush` reach `fsync`, and checks that it does.
//!
//! sled 0.34 calls `sync_file_range`, which does not make data durable (no metadata, no cache flush of the device), and
//! falls back to `fsync` where the kernel answers ENOSYS. So this module defines `sync_file_range` for the whole program
//! and answers ENOSYS; the daemon's system call filter does the same for callers that do not go through the symbol.
//! `fsync` is defined here too, as the plain system call, only so that the self-check can see that it happens.
#![expect(unsafe_code, reason = "defines two C functions and makes two system calls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Inode of the file that the running self-check watches; 0 none.
static WATCHED_INODE: AtomicU64 = AtomicU64::new(0);
/// `fsync` calls on it that succeeded.
static WATCHED_SYNCS: AtomicU64 = AtomicU64::new(0);
/// `sync_file_range` calls on it that were answered ENOSYS.
static WATCHED_REFUSALS: AtomicU64 = AtomicU64::new(0);
/// One self-check at a time.
static CHECK: Mutex<()> = Mutex::new(());

/// Answers ENOSYS, whatever the arguments.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(fd: RawFd, _offset: i64, _length: i64, _flags: libc::c_uint) -> libc::c_int {
    count_if_watched(fd, &WATCHED_REFUSALS);
    // SAFETY: the calling thread's errno is always writable.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// Inode of the file whose `fsync` fails, in tests: the one place through which everything of a store reaches the disk.
#[cfg(test)]
pub(crate) static BROKEN_INODE: AtomicU64 = AtomicU64::new(0);

/// The system call, counted while a self-check watches the file.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: RawFd) -> libc::c_int {
    #[cfg(test)]
    if is_inode(fd, BROKEN_INODE.load(Ordering::Relaxed)) {
        // SAFETY: the calling thread's errno is always writable.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    // SAFETY: fsync takes a descriptor and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_fsync, fd) };
    if result == 0 {
        count_if_watched(fd, &WATCHED_SYNCS);
    }
    // The kernel's answer is 0 or -1.
    result as libc::c_int
}

fn count_if_watched(fd: RawFd, counter: &AtomicU64) {
    if is_inode(fd, WATCHED_INODE.load(Ordering::Relaxed)) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn is_inode(fd: RawFd, inode: u64) -> bool {
    if inode == 0 || fd < 0 {
        return false;
    }
    // SAFETY: not -1, and the caller keeps it open during the call.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    nix::sys::stat::fstat(file).is_ok_and(|stat| stat.st_ino == inode)
}

/// Whether `flush`, which must write to `file` and flush it, reached `fsync` on `file`, and `sync_file_range` cannot
/// stand in for it.
pub(crate) fn check(file: &File, flush: impl FnOnce() -> bool) -> bool {
    let _one = CHECK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Ok(stat) = nix::sys::stat::fstat(file) else { return false };
    WATCHED_SYNCS.store(0, Ordering::Relaxed);
    WATCHED_REFUSALS.store(0, Ordering::Relaxed);
    WATCHED_INODE.store(stat.st_ino, Ordering::Relaxed);
    let flushed = flush();
    WATCHED_INODE.store(0, Ordering::Relaxed);
    let synced = WATCHED_SYNCS.load(Ordering::Relaxed) > 0;
    let refused = WATCHED_REFUSALS.load(Ordering::Relaxed) > 0 || kernel_refuses(file);
    flushed && synced && refused
}

/// True if the system call itself answers ENOSYS (a filter is installed).
fn kernel_refuses(file: &File) -> bool {
    // SAFETY: sync_file_range with a length of 0 and no flags starts nothing and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_sync_file_range, file.as_raw_fd(), 0_i64, 0_i64, 0_u32) };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
}
