//! The system calls that no safe wrapper offers: `bpf(2)` and `perf_event_open(2)`.
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
