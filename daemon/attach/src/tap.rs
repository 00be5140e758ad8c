//! The tap: a packet socket whose filter looks at packets, hands some to the ring buffer and returns 0, so that the
//! socket itself never delivers one.
//!
//! The filter is attached before the socket is bound; there is no moment at which packets queue up. The descriptor
//! never leaves this process: whoever holds a packet socket can also send frames.
#![expect(unsafe_code, reason = "interface ioctls and SO_ATTACH_BPF take raw structures")]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::verbs::Refused;

/// Open taps; one per egress interface.
pub(crate) const TAPS_MAX: usize = 64;

/// Open taps by interface index.
pub(crate) struct Taps {
    open: BTreeMap<u32, OwnedFd>,
    loopback_allowed: bool,
}

impl Taps {
    pub(crate) fn new(loopback_allowed: bool) -> Taps {
        Taps { open: BTreeMap::new(), loopback_allowed }
    }

    /// Opens a tap on an interface that has none.
    pub(crate) fn open(&mut self, interface: u64, filter: BorrowedFd<'_>) -> Result<(), Refused> {
        let index = u32::try_from(interface).ok().filter(|index| *index != 0 && *index <= i32::MAX as u32);
        let index = index.ok_or(Refused::NotAllowed)?;
        if self.open.contains_key(&index) {
            return Err(Refused::NotAllowed);
        }
        if self.open.len() >= TAPS_MAX {
            return Err(Refused::Limit);
        }
        let socket = filtered_socket(filter).map_err(|error| Refused::from_io(&error))?;
        if is_loopback(&socket, index).map_err(|error| Refused::from_io(&error))? && !self.loopback_allowed {
            return Err(Refused::NotAllowed);
        }
        bind(&socket, index).map_err(|error| Refused::from_io(&error))?;
        self.open.insert(index, socket);
        Ok(())
    }

    /// Takes a tap out; closing the descriptor closes it.
    pub(crate) fn take(&mut self, interface: u64) -> Option<OwnedFd> {
        u32::try_from(interface).ok().and_then(|index| self.open.remove(&index))
    }

    /// Takes everything out.
    pub(crate) fn take_all(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.open).into_values().collect()
    }
}

/// A packet socket that is bound to nothing and has the filter: also the test whether taps are possible here.
pub(crate) fn filtered_socket(filter: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: plain system call without pointers.
    let raw = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a non-negative result is a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let program = filter.as_raw_fd();
    // SAFETY: the option value is a descriptor number of the stated length, read during the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            std::ptr::from_ref(&program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn is_loopback(socket: &OwnedFd, index: u32) -> io::Result<bool> {
    // SAFETY: the structure is plain old data; all zero is its empty value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = index as i32;
    for command in [libc::SIOCGIFNAME, libc::SIOCGIFFLAGS] {
        // SAFETY: both commands read and write one `ifreq`; the first fills in the name that the second reads.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), command as _, &raw mut request) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the second command has written the flags member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(i32::from(flags) & libc::IFF_LOOPBACK != 0)
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: the structure is plain old data; all zero is its empty value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the address is a `sockaddr_ll` of the stated length.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
