//! A link of a test's own into a network namespace, and frames as they come over links.
#![expect(unsafe_code, reason = "raw frames need a packet socket and its address")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

const NEAR4: Ipv4Addr = Ipv4Addr::new(198, 18, 80, 1);
const FAR4: Ipv4Addr = Ipv4Addr::new(198, 18, 80, 2);
const NEAR6: Ipv6Addr = Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, 1);
const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, 2);
const UDP: u8 = 17;

/// A veth pair whose far end is in a network namespace of its own.
pub(crate) struct Link {
    name: String,
    pub(crate) ifindex: u64,
    raw: OwnedFd,
    /// Tests of one process run at the same time and share the addresses.
    _turn: std::sync::MutexGuard<'static, ()>,
}

static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Link {
    /// `None`, and said loudly, where links cannot be made.
    pub(crate) fn new(name: &str) -> Option<Link> {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (near, far) = (format!("v{name}0"), format!("v{name}1"));
        let _ = ip(&["link", "del", &near]);
        let _ = ip(&["netns", "del", name]);
        if !ip(&["netns", "add", name]) {
            eprintln!("SKIPPED link {name}: network namespaces cannot be made");
            return None;
        }
        for arguments in [
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("addr add {NEAR4}/30 dev {near}"),
            format!("addr add {NEAR6}/64 dev {near} nodad"),
            format!("link set {near} up"),
            format!("-n {name} addr add {FAR4}/30 dev {far}"),
            format!("-n {name} addr add {FAR6}/64 dev {far} nodad"),
            format!("-n {name} link set {far} up"),
        ] {
            assert!(ip(&arguments.split(' ').collect::<Vec<_>>()), "ip {arguments}");
        }
        let index = std::fs::read_to_string(format!("/sys/class/net/{near}/ifindex")).expect("its number");
        let ifindex = index.trim().parse().expect("a number");
        Some(Link { name: name.to_owned(), ifindex, raw: packet_socket(), _turn: turn })
    }

    /// An address at the far end.
    pub(crate) fn far(&self, family: &str) -> SocketAddr {
        if family == "IPv4" { SocketAddr::new(FAR4.into(), 0) } else { SocketAddr::new(FAR6.into(), 0) }
    }

    /// Runs `make` in the far namespace; its sockets stay there.
    pub(crate) fn inside<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("the namespace");
        let thread = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            make()
        });
        thread.join().expect("made")
    }

    /// Sends a frame out of the near end.
    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the structure is plain old data; all zero is its empty value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
        address.sll_ifindex = i32::try_from(self.ifindex).expect("small");
        // SAFETY: the buffers are of the stated lengths and read during the call.
        let sent = unsafe {
            libc::sendto(
                self.raw.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &format!("v{}0", self.name)]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let status = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A packet socket that receives nothing.
fn packet_socket() -> OwnedFd {
    // SAFETY: plain system call without pointers; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(raw >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(raw)
    }
}

/// What is before a UDP header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    vlan: bool,
    v6: bool,
    /// IPv6 extension headers; of IPv4, a 44 says that this is a fragment.
    extensions: &'static [u8],
    /// Where the fragment begins, 8 bytes each.
    fragment: u16,
    back: bool,
}

impl Frame {
    const fn new(vlan: bool, v6: bool, extensions: &'static [u8], fragment: u16) -> Frame {
        Frame { vlan, v6, extensions, fragment, back: false }
    }

    /// Every shape that is read.
    pub(crate) const ALL: [Frame; 9] = [
        Frame::new(false, false, &[], 0),
        Frame::new(true, false, &[], 0),
        Frame::new(false, false, &[44], 0),
        Frame::new(false, true, &[], 0),
        Frame::new(true, true, &[], 0),
        Frame::new(false, true, &[0], 0),
        Frame::new(false, true, &[60, 43, 60], 0),
        Frame::new(false, true, &[44], 0),
        Frame::new(true, true, &[0, 60, 43, 44, 51, 60], 0),
    ];
    pub(crate) const LATER_FRAGMENT_V4: Frame = Frame::new(false, false, &[44], 180);
    pub(crate) const LATER_FRAGMENT_V6: Frame = Frame::new(false, true, &[0, 44], 180);
    pub(crate) const SEVEN_EXTENSIONS: Frame = Frame::new(false, true, &[60; 7], 0);

    /// The other direction.
    pub(crate) fn back(self) -> Frame {
        Frame { back: !self.back, ..self }
    }

    /// A datagram in this frame.
    pub(crate) fn of(self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        let len = u16::try_from(payload.len() + 8).expect("short");
        for field in [source, destination, len, 0] {
            datagram.extend(field.to_be_bytes());
        }
        datagram.extend_from_slice(payload);
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if self.vlan {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [8, 0] });
        if self.v6 {
            self.v6(&datagram, &mut frame)
        } else {
            self.v4(&datagram, &mut frame)
        }
        frame
    }

    fn v4(self, datagram: &[u8], frame: &mut Vec<u8>) {
        let total = u16::try_from(datagram.len() + 20).expect("short");
        let more = if self.extensions.is_empty() { 0 } else { 0x2000 };
        let (from, to) = if self.back { (FAR4, NEAR4) } else { (NEAR4, FAR4) };
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1]);
        frame.extend((more | self.fragment).to_be_bytes());
        frame.extend([64, UDP, 0, 0]);
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend_from_slice(datagram);
    }

    fn v6(self, datagram: &[u8], frame: &mut Vec<u8>) {
        let mut headers = Vec::new();
        for (index, kind) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(index + 1).copied().unwrap_or(UDP);
            match kind {
                44 => {
                    headers.extend([next, 0]);
                    headers.extend((self.fragment << 3 | 1).to_be_bytes());
                    headers.extend([0, 0, 0, 9]);
                }
                // Four words beside the first two: 24 bytes.
                51 => headers.extend([[next, 4].as_slice(), &[0; 22]].concat()),
                // A padding option, 16 bytes in all.
                _ => headers.extend([[next, 1, 1, 12].as_slice(), &[0; 12]].concat()),
            }
        }
        let len = u16::try_from(headers.len() + datagram.len()).expect("short");
        let (from, to) = if self.back { (FAR6, NEAR6) } else { (NEAR6, FAR6) };
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([self.extensions.first().copied().unwrap_or(UDP), 64]);
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend(headers);
        frame.extend_from_slice(datagram);
    }
}

/// A TLS record of `len` bytes that is taken for a ClientHello, every byte telling its place.
pub(crate) fn client_hello(len: usize) -> Vec<u8> {
    let body = u16::try_from(len - 5).expect("a record");
    let mut hello = vec![0x16, 3, 1];
    hello.extend(body.to_be_bytes());
    hello.extend([1, 0]);
    hello.extend((u16::try_from(len - 9).expect("a record")).to_be_bytes());
    hello.extend((hello.len()..len).map(|at| (at % 251) as u8));
    hello
}

/// A datagram of `len` bytes that is taken for an Initial of version 1.
pub(crate) fn quic_initial(len: usize) -> Vec<u8> {
    let mut datagram = vec![0xc3, 0, 0, 0, 1, 8];
    datagram.extend((datagram.len()..len).map(|at| (at % 251) as u8));
    datagram
}
