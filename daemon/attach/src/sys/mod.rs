//! The system calls that no safe wrapper offers: `bpf(2)`, `perf_event_open(2)`, `setpriority(2)`.
//!
//! Each function takes checked arguments and owned or borrowed descriptors and returns an owned descriptor or the
//! kernel's error. No policy lives here.

pub(crate) mod bpf;
pub(crate) mod perf;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{SockType, getsockopt, sockopt};

/// Takes over a descriptor that the parent has left at this number, if it is a sequenced-packet socket.
#[expect(unsafe_code, reason = "a descriptor that came through exec is known by its number only")]
pub(crate) fn adopt(fd: i32) -> io::Result<OwnedFd> {
    if fd < 3 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: called once, at the start, before anything else is opened: nobody else owns this number. If it is not
    // open at all, the query below fails and nothing is closed.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    match getsockopt(&socket, sockopt::SockType) {
        Ok(SockType::SeqPacket) => {}
        other => {
            // Not ours to close.
            let raw = std::os::fd::IntoRawFd::into_raw_fd(socket);
            let why = other.map_or_else(|error| error.to_string(), |kind| format!("it is {kind:?}"));
            return Err(io::Error::other(format!("descriptor {raw} is no SOCK_SEQPACKET socket: {why}")));
        }
    }
    // The descriptor must not reach a program that this process would ever execute.
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    debug_assert_eq!(socket.as_raw_fd(), fd);
    Ok(socket)
}

/// Gives freed memory back to the system: reading the kernel's type information leaves 15 MB of it.
#[expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; releases only memory that the allocator holds free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Of the thread that attaches; 0 is ordinary, -20 the most urgent.
const URGENT: libc::c_int = -10;

/// Lets the calling thread, and those it makes, go before others: what attaches races with an application's first write,
/// and on a busy node an ordinary thread waits that long for a processor alone.
///
/// # Errors
/// There is no CAP_SYS_NICE, and the priority is not that already.
pub(crate) fn go_first() -> io::Result<()> {
    set_priority(URGENT)
}

/// Lets the calling thread wait its turn.
pub(crate) fn go_last() {
    // Whoever has no right to be raised may lower itself, and was not raised where it may not.
    let _ = set_priority(0);
}

#[expect(unsafe_code, reason = "setpriority(2) has no safe wrapper")]
fn set_priority(nice: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers; id 0 is the calling thread (on Linux not the process: setpriority(2)).
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
