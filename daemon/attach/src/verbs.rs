//! The request loop: reads one fixed-size request after the other and answers each, by the allowlist of its verb.
//!
//! Attach and open are answered in order. Detach and tap-close are answered from the thread that closes, when the
//! kernel has let go. A request that is malformed in any way is refused, never interpreted.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use abi::attacher::{Hook, Refusal, Reply, Request, StateFile, Verb};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::closer::{Closer, Held, close_all};
use crate::files::{self, Dropped, Files, Lease};
use crate::loader::Loaded;
use crate::owners::Owners;
use crate::process;
use crate::tap::Taps;
use crate::uprobes::{ATTACHMENTS_MAX, Attached, InFile, Uprobes};

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NotAllowed,
    Gone,
    Limit,
    Stale,
    Kernel(i32),
}

impl Refused {
    pub(crate) fn from_io(error: &io::Error) -> Refused {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR | libc::ENODEV | libc::ENXIO) => Refused::Gone,
            Some(libc::ELOOP | libc::EXDEV) => Refused::NotAllowed,
            Some(libc::EMFILE | libc::ENFILE) => Refused::Limit,
            other => Refused::Kernel(other.unwrap_or(libc::EIO)),
        }
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Refused {
        Refused::from_io(&io::Error::from(errno))
    }
}

/// What a verb gives back.
#[derive(Default)]
struct Done {
    value: u64,
    opened: Option<files::Opened>,
    descriptor: Option<OwnedFd>,
}

/// Everything a request can touch.
pub(crate) struct Server {
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) loaded: Loaded,
    pub(crate) files: Files,
    pub(crate) uprobes: Uprobes,
    pub(crate) taps: Taps,
    /// Closes uprobes.
    pub(crate) detacher: Closer,
    /// Closes taps.
    pub(crate) tap_closer: Closer,
    /// Finds holders of sockets; `None` where the kernel does not tell them.
    pub(crate) owners: Option<Owners>,
}

/// Whether main is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Here,
    Gone,
}

impl Server {
    /// Reads and answers one request.
    pub(crate) fn serve_one(&mut self) -> Peer {
        // One byte more than a request: a longer message is then recognised as malformed.
        let mut buffer = [0u8; size_of::<Request>() + 1];
        let len = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return Peer::Gone,
            Ok(len) => len,
            Err(Errno::EINTR | Errno::EAGAIN) => return Peer::Here,
            Err(error) => {
                tracing::info!(%error, "the socket to main failed");
                return Peer::Gone;
            }
        };
        let started = Instant::now();
        match Request::read_from_bytes(buffer.get(..len).unwrap_or_default()) {
            Ok(request) => self.answer(&request, started),
            Err(_) => {
                tracing::warn!(len, "main sent a message that is no request");
                self.reply(0, Err(Refused::NotAllowed), started)
            }
        }
    }

    fn answer(&mut self, request: &Request, started: Instant) -> Peer {
        let id = request.id;
        // What was written before the request came is not attached to any more.
        self.note_writes();
        let result = match Verb::from_wire(request.verb) {
            Some(Verb::Attach) => self.attach(request),
            Some(Verb::Detach) => match self.uprobes.take(request.value) {
                Some(attached) => return self.close_later(id, attached, started),
                None => Err(Refused::Gone),
            },
            Some(Verb::TapOpen) => self.tap_open(request),
            Some(Verb::TapClose) => match self.taps.take(request.value) {
                Some(socket) => return self.close_tap_later(id, socket, started),
                None => Err(Refused::Gone),
            },
            Some(Verb::OpenMaps) => open_maps(request),
            Some(Verb::OpenMapped) => self.open_mapped(request),
            Some(Verb::OpenState) => open_state(request),
            Some(Verb::SocketOwner) => match self.find_owner(request, started) {
                Ok(()) => return Peer::Here,
                Err(refused) => Err(refused),
            },
            Some(Verb::Misses) => self.misses(request),
            None => Err(Refused::NotAllowed),
        };
        if let Err(refused) = &result {
            tracing::debug!(verb = request.verb, pid = request.pid, ?refused, "request refused");
        }
        let peer = self.reply(id, result, started);
        self.let_go_of_dropped();
        peer
    }

    /// Lets go of everything on files that were written, and tells main.
    pub(crate) fn note_writes(&mut self) {
        self.files.note_writes();
        self.let_go_of_dropped();
    }

    fn let_go_of_dropped(&mut self) {
        for Dropped { number, written } in self.files.take_dropped() {
            let (attached, sites) = self.uprobes.take_file(number);
            if !attached.is_empty() {
                tracing::info!(file = number, attachments = attached.len(), "a file with probes was written");
            }
            let (links, leases): (Vec<_>, Vec<_>) =
                attached.into_iter().map(|attached| (attached.links, attached.lease)).unzip();
            if !(leases.is_empty() && sites.is_empty()) {
                self.detacher.close(links.into_iter().flatten().collect(), move || {
                    close_all(sites);
                    drop(leases);
                });
            }
            if written {
                let mut notice = blank(0, Instant::now());
                (notice.refusal, notice.file) = (Refusal::Stale.wire(), number);
                // Main being gone is noticed by the loop that reads.
                let _ = send(&self.socket, &notice, None);
            }
        }
    }

    fn attach(&mut self, request: &Request) -> Result<Done, Refused> {
        let places = places(request)?;
        if request.pid == 0 && !places.iter().all(|(hook, _)| hook.is_once_per_session()) {
            // A hook per read or write on every process of a library is what must never happen.
            return Err(Refused::NotAllowed);
        }
        if self.uprobes.len() >= ATTACHMENTS_MAX {
            return Err(Refused::Limit);
        }
        let file = self.files.get(request.file)?;
        if !places.iter().all(|(_, offset)| file.is_code(*offset)) {
            return Err(Refused::NotAllowed);
        }
        let check = |pid| if pid == 0 { Ok(()) } else { process::is_the_one(pid, request.start_ticks) };
        check(request.pid)?;
        let idle = self.uprobes.take_idle_sites();
        if !idle.is_empty() {
            self.detacher.close(idle, || ());
        }
        let file = InFile { number: request.file, fd: file.fd(), lease: file.lease() };
        let lease = Lease::clone(&file.lease);
        let attached = self.uprobes.attach(&self.loaded, file, request.pid, &places);
        let number = attached.map_err(|(error, links)| {
            self.detacher.close(links, move || drop(lease));
            Refused::from_io(&error)
        })?;
        // Asked again: the process may have ended, and its id be taken by another one, in between.
        if let Err(refused) = check(request.pid) {
            if let Some(Attached { links, lease, .. }) = self.uprobes.take(number) {
                self.detacher.close(links, move || drop(lease));
            }
            return Err(refused);
        }
        Ok(Done { value: number, ..Done::default() })
    }

    fn tap_open(&mut self, request: &Request) -> Result<Done, Refused> {
        let filter = self.loaded.program("tap").ok_or(Refused::Gone)?;
        self.taps.open(request.value, filter)?;
        Ok(Done { value: request.value, ..Done::default() })
    }

    fn find_owner(&self, request: &Request, started: Instant) -> Result<(), Refused> {
        let owners = self.owners.as_ref().ok_or(Refused::NotAllowed)?;
        let uid = u32::try_from(request.end).map_err(|_| Refused::NotAllowed)?;
        let (socket, id) = (Arc::clone(&self.socket), request.id);
        let answer = move |found: Result<(u32, u64), Refused>| {
            let mut reply = blank(id, started);
            match found {
                Ok((pid, start_ticks)) => (reply.value, reply.file) = (u64::from(pid), start_ticks),
                Err(_) => reply.refusal = Refusal::Gone.wire(),
            }
            // Main being gone is noticed by the loop that reads.
            let _ = send(&socket, &reply, None);
        };
        if owners.find(request.value, uid, answer) { Ok(()) } else { Err(Refused::Limit) }
    }

    fn misses(&self, request: &Request) -> Result<Done, Refused> {
        let id = u32::try_from(request.value).map_err(|_| Refused::NotAllowed)?;
        let value = self.loaded.misses(id).map_err(|error| Refused::from_io(&error))?;
        Ok(Done { value, ..Done::default() })
    }

    fn open_mapped(&mut self, request: &Request) -> Result<Done, Refused> {
        process::is_the_one(request.pid, request.start_ticks)?;
        let (opened, descriptor) = self.files.open_mapped(request.pid, request.value, request.end)?;
        Ok(Done { opened: Some(opened), descriptor: Some(descriptor), ..Done::default() })
    }

    fn close_later(&self, id: u64, attached: Attached, started: Instant) -> Peer {
        let Attached { links, lease, .. } = attached;
        self.close(&self.detacher, links, id, started, move || drop(lease))
    }

    fn close_tap_later(&self, id: u64, socket: OwnedFd, started: Instant) -> Peer {
        self.close(&self.tap_closer, vec![socket.into()], id, started, || ())
    }

    /// Closes on another thread, then does what comes `afterwards` and answers.
    fn close(
        &self,
        closer: &Closer,
        held: Vec<Held>,
        id: u64,
        started: Instant,
        afterwards: impl FnOnce() + Send + 'static,
    ) -> Peer {
        let socket = Arc::clone(&self.socket);
        let backlog = closer.backlog();
        closer.close(held, move || {
            afterwards();
            let mut reply = blank(id, started);
            reply.detach_backlog = backlog;
            // Main being gone is noticed by the loop that reads.
            let _ = send(&socket, &reply, None);
        });
        Peer::Here
    }

    fn reply(&self, id: u64, result: Result<Done, Refused>, started: Instant) -> Peer {
        let mut reply = blank(id, started);
        reply.detach_backlog = self.detacher.backlog();
        let mut descriptor = None;
        match result {
            Ok(done) => {
                reply.value = done.value;
                descriptor = done.descriptor;
                if let Some(opened) = done.opened {
                    (reply.file, reply.device, reply.inode) = (opened.number, opened.device, opened.inode);
                }
            }
            Err(Refused::NotAllowed) => reply.refusal = Refusal::NotAllowed.wire(),
            Err(Refused::Gone) => reply.refusal = Refusal::Gone.wire(),
            Err(Refused::Limit) => reply.refusal = Refusal::Limit.wire(),
            Err(Refused::Stale) => reply.refusal = Refusal::Stale.wire(),
            Err(Refused::Kernel(errno)) => {
                reply.refusal = Refusal::Kernel.wire();
                reply.errno = errno.unsigned_abs();
            }
        }
        match send(&self.socket, &reply, descriptor.as_ref()) {
            Ok(()) => Peer::Here,
            Err(_) => Peer::Gone,
        }
    }
}

fn open_maps(request: &Request) -> Result<Done, Refused> {
    process::is_the_one(request.pid, request.start_ticks)?;
    Ok(Done { descriptor: Some(files::open_maps(request.pid)?), ..Done::default() })
}

fn open_state(request: &Request) -> Result<Done, Refused> {
    let which =
        u32::try_from(request.value).ok().and_then(StateFile::from_wire).ok_or(Refused::NotAllowed)?;
    let container = request.path.get(..request.path_len as usize).ok_or(Refused::NotAllowed)?;
    Ok(Done { descriptor: Some(files::open_state(which, container)?), ..Done::default() })
}

/// The places of an attach request: at least one, all of known hooks.
fn places(request: &Request) -> Result<Vec<(Hook, u64)>, Refused> {
    let meant = request.places.get(..request.place_count as usize).ok_or(Refused::NotAllowed)?;
    if meant.is_empty() {
        return Err(Refused::NotAllowed);
    }
    let known = meant.iter().map(|place| Hook::from_wire(place.hook).map(|hook| (hook, place.offset)));
    known.collect::<Option<Vec<_>>>().ok_or(Refused::NotAllowed)
}

fn blank(id: u64, started: Instant) -> Reply {
    let mut reply = Reply::new_zeroed();
    reply.id = id;
    reply.refusal = Refusal::None.wire();
    reply.took_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    reply
}

/// Sends one message, whole, with at most one descriptor beside it.
fn send(socket: &OwnedFd, reply: &Reply, descriptor: Option<&OwnedFd>) -> nix::Result<()> {
    let descriptors: Vec<i32> = descriptor.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    send_with(socket, reply.as_bytes(), &descriptors)
}

/// Sends one message with descriptors beside it.
pub(crate) fn send_with(socket: &OwnedFd, bytes: &[u8], descriptors: &[i32]) -> nix::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
        {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}
