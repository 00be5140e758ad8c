//! Main's side of the attacher: start it, receive its descriptors, ask it, notice its end.
//!
//! [`spawn`] is called once, while main is still root and single-threaded: it forks and executes `venturi-attach` with
//! one end of a `SOCK_SEQPACKET` pair as descriptor 3 and waits for its [`Hello`]. [`Attacher::start`] then reads
//! replies on a thread of its own; any number of requests may be outstanding, and replies come in any order.
//!
//! Every request ends exactly once: with the attacher's answer, or with [`Lost`] when the attacher is gone. Sending
//! never blocks: a full socket is the answer `Limit`. This module trusts the attacher for descriptors and numbers, and
//! never for lengths.
#![expect(
    unsafe_code,
    reason = "descriptor 3 is prepared between fork and exec, and received descriptors are adopted"
)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use abi::attacher::{
    DESCRIPTORS_MAX, Descriptor, HOOKS_MAX, Hello, PATH_MAX, Place, Refusal, Reply, Request, Verb,
};
use anyhow::{Context, bail, ensure};
use meter::workload::ProcessKey;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, recvmsg, send, shutdown,
    socketpair,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::priority::Reserved;

/// The descriptor on which the attacher finds its socket.
pub const ATTACHER_SOCKET: RawFd = 3;

/// Name of the thread that reads its answers.
pub(super) const THREAD: &str = "attacher";

/// How the attacher is started.
#[derive(Clone, Debug)]
pub struct AttacherConfig {
    /// Path of `venturi-attach`.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// How long loading may take until it is given up.
    pub hello_timeout: Duration,
}

/// The running attacher, before [`Attacher::start`].
#[derive(Debug)]
pub struct AttacherHandle {
    child: Child,
    pidfd: Option<OwnedFd>,
    socket: OwnedFd,
}

impl AttacherHandle {
    /// Process id of the attacher.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// The attacher's first message with the descriptors that came along.
#[derive(Debug)]
pub struct Greeting {
    /// What was loaded, or why nothing was.
    pub hello: Box<Hello>,
    /// Rings and maps, by what they are.
    pub descriptors: BTreeMap<Descriptor, OwnedFd>,
}

impl Greeting {
    /// True if programs are loaded and tracepoints attached.
    pub fn armed(&self) -> bool {
        self.hello.armed == 1
    }

    /// The attacher's explanation of what stops or limits capture; empty if nothing does.
    pub fn detail(&self) -> String {
        let len = (self.hello.detail_len as usize).min(self.hello.detail.len());
        String::from_utf8_lossy(&self.hello.detail[..len]).into_owned()
    }
}

/// Forks and executes the attacher and waits for its greeting.
///
/// # Errors
/// The binary cannot be executed, it ends or stays silent before its greeting, or it speaks another version.
pub fn spawn(config: &AttacherConfig) -> anyhow::Result<(AttacherHandle, Greeting)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context("making the socket pair for venturi-attach")?;
    let mut command = Command::new(&config.binary);
    command.args(&config.arguments).stdin(Stdio::null());
    let inherited = theirs.as_raw_fd();
    // SAFETY: between fork and exec only `dup2` and `fcntl` are called, both async-signal-safe, on a descriptor that
    // `theirs` keeps open until after `spawn` returns.
    unsafe {
        command.pre_exec(move || inherit_as_socket(inherited));
    }
    let child = command.spawn().with_context(|| {
        format!("starting {}: is venturi-attach installed beside venturid?", config.binary.display())
    })?;
    drop(theirs);
    let pidfd = pidfd_open(child.id());
    let handle = AttacherHandle { child, pidfd, socket: ours };
    let greeting = receive_greeting(&handle, config.hello_timeout)?;
    Ok((handle, greeting))
}

fn inherit_as_socket(fd: RawFd) -> io::Result<()> {
    if fd == ATTACHER_SOCKET {
        // SAFETY: plain system call on a descriptor that is open in the child.
        let done = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        return if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    }
    // SAFETY: plain system call; descriptor 3 of the child belongs to nobody else after the fork.
    let done = unsafe { libc::dup2(fd, ATTACHER_SOCKET) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor that becomes readable when the process ends; `None` before Linux 5.3, where end-of-file must do.
fn pidfd_open(pid: u32) -> Option<OwnedFd> {
    // SAFETY: `pidfd_open` takes a number and flags; a non-negative result is a new descriptor of ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

fn receive_greeting(handle: &AttacherHandle, timeout: Duration) -> anyhow::Result<Greeting> {
    let limit = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(handle.socket.as_fd(), PollFlags::POLLIN)];
    let events = poll(&mut ready, limit).context("waiting for venturi-attach")?;
    ensure!(events > 0, "venturi-attach did not answer within {} s", timeout.as_secs());

    let mut hello = Box::new(Hello::new_zeroed());
    let (len, mut descriptors) =
        receive(&handle.socket, hello.as_mut_bytes()).context("reading the greeting of venturi-attach")?;
    if len == 0 {
        bail!("venturi-attach ended before it said what it loaded; its last message on stderr says why");
    }
    ensure!(
        len == size_of::<Hello>(),
        "venturi-attach sent a greeting of {len} bytes: it is of another version"
    );
    ensure!(
        hello.version == abi::VERSION,
        "venturi-attach speaks version {} and venturid {}: install both from one package",
        hello.version,
        abi::VERSION
    );
    let mut named = BTreeMap::new();
    let count = (hello.descriptor_count as usize).min(DESCRIPTORS_MAX);
    for (wire, descriptor) in hello.descriptors[..count].iter().zip(descriptors.drain(..)) {
        if let Some(which) = Descriptor::from_wire(*wire) {
            named.insert(which, descriptor);
        }
    }
    Ok(Greeting { hello, descriptors: named })
}

/// One message with the descriptors beside it. A length of 0 is end-of-file.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    if let Ok(messages) = message.cmsgs() {
        for entry in messages {
            if let ControlMessageOwned::ScmRights(raw) = entry {
                // SAFETY: the kernel has just installed these descriptors for us; nobody else owns them.
                descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
    }
    Ok((message.bytes, descriptors))
}

/// The attacher is gone: nothing can be attached, detached or opened any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("venturi-attach is gone")]
pub struct Lost;

/// What came back for one request.
#[derive(Debug)]
pub struct Answer {
    /// As the attacher sent it.
    pub reply: Reply,
    /// Descriptor, for the verbs that give one.
    pub descriptor: Option<OwnedFd>,
}

impl Answer {
    /// `None` if the request was done, else why not. A refusal that this version does not know counts as `Kernel`.
    pub fn refusal(&self) -> Option<Refusal> {
        match Refusal::from_wire(self.reply.refusal) {
            Some(Refusal::None) => None,
            Some(refusal) => Some(refusal),
            None => Some(Refusal::Kernel),
        }
    }

    fn limit() -> Answer {
        let mut reply = Reply::new_zeroed();
        reply.refusal = Refusal::Limit.wire();
        Answer { reply, descriptor: None }
    }
}

/// What is done with an answer; runs on the client thread and must not block.
type Then = Box<dyn FnOnce(Result<Answer, Lost>) + Send>;

/// Told the number of a file that was written; runs on the client thread and must not block.
type OnRewritten = Box<dyn Fn(u64) + Send + Sync>;

/// Asks the attacher. Cheap to clone; the connection ends when the last clone and the reading thread are gone, or at
/// [`Attacher::close`].
#[derive(Clone)]
pub struct Attacher {
    shared: Arc<Shared>,
}

struct Shared {
    socket: OwnedFd,
    next_id: AtomicU64,
    outstanding: Mutex<HashMap<u64, Then>>,
    on_rewritten: OnceLock<OnRewritten>,
    /// Requests whose answer was not handed on yet.
    unanswered: AtomicUsize,
    lost: AtomicBool,
    child: Mutex<Child>,
    pid: u32,
}

impl Attacher {
    /// Starts the thread that reads replies. `on_lost` runs once on that thread when the attacher has ended or
    /// closed its side, also after [`Attacher::close`].
    ///
    /// # Errors
    /// The thread cannot be made.
    pub(crate) fn start(
        handle: AttacherHandle,
        threads: &mut Reserved,
        on_lost: impl FnOnce() + Send + 'static,
    ) -> anyhow::Result<Attacher> {
        let AttacherHandle { child, pidfd, socket } = handle;
        let shared = Arc::new(Shared {
            socket,
            next_id: AtomicU64::new(1),
            outstanding: Mutex::default(),
            on_rewritten: OnceLock::new(),
            unanswered: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            pid: child.id(),
            child: Mutex::new(child),
        });
        let reader = Arc::clone(&shared);
        let run = move || {
            read_replies(&reader, pidfd.as_ref());
            reader.fail_all();
            on_lost();
        };
        threads.start(THREAD, run).context("starting the thread that talks to venturi-attach")?;
        Ok(Attacher { shared })
    }

    /// Who is told, from now on, that a file was written and that everything attached to it is being let go. Only the
    /// first call counts.
    pub fn on_rewritten(&self, sink: impl Fn(u64) + Send + Sync + 'static) {
        // An error means that a sink is there already: capture starts once.
        let _ = self.shared.on_rewritten.set(Box::new(sink));
    }

    /// Process id of the attacher.
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// True once the attacher is gone.
    pub fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Acquire)
    }

    /// True if every request was answered and every answer handed on.
    pub fn is_idle(&self) -> bool {
        self.shared.unanswered.load(Ordering::Acquire) == 0
    }

    /// Sends a request; `then` gets its answer on the client thread.
    pub fn ask(&self, mut request: Request, then: impl FnOnce(Result<Answer, Lost>) + Send + 'static) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        request.id = id;
        self.shared.unanswered.fetch_add(1, Ordering::AcqRel);
        self.shared.table().insert(id, Box::new(then));
        if self.is_lost() {
            return self.shared.finish(id, Err(Lost));
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.shared.socket.as_raw_fd(), request.as_bytes(), flags) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS) => self.shared.finish(id, Ok(Answer::limit())),
            Err(_) => self.shared.finish(id, Err(Lost)),
        }
    }

    /// Sends a request and waits for its answer, at most `timeout`.
    ///
    /// # Errors
    /// `BrokenPipe` if the attacher is gone, `TimedOut`, or what the refusal means (`PermissionDenied` for a request
    /// outside the allowlist, `NotFound` for something gone).
    pub fn call(&self, request: Request, timeout: Duration) -> io::Result<Answer> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.ask(request, move |answer| {
            // An error means that the caller no longer waits.
            let _ = sender.try_send(answer);
        });
        let answer = match receiver.recv_timeout(timeout) {
            Ok(answer) => answer.map_err(|lost| io::Error::new(io::ErrorKind::BrokenPipe, lost))?,
            Err(_) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "venturi-attach did not answer in time"));
            }
        };
        match answer.refusal() {
            None => Ok(answer),
            Some(Refusal::NotAllowed) => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
            Some(Refusal::Gone) => Err(io::Error::from(io::ErrorKind::NotFound)),
            Some(Refusal::Limit) => Err(io::Error::from(io::ErrorKind::QuotaExceeded)),
            Some(_) => {
                Err(io::Error::from_raw_os_error(i32::try_from(answer.reply.errno).unwrap_or(libc::EIO)))
            }
        }
    }

    /// Ends the connection: the attacher detaches everything and exits. Waits for that at most `patience`; true if it
    /// has ended.
    pub fn close(&self, patience: Duration) -> bool {
        // An error means that the other side is already gone.
        let _ = shutdown(self.shared.socket.as_raw_fd(), Shutdown::Both);
        let deadline = std::time::Instant::now() + patience;
        loop {
            if self.has_exited() {
                return true;
            }
            if std::time::Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn has_exited(&self) -> bool {
        let mut child = self.shared.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Where waiting fails the child was reaped elsewhere.
        child.try_wait().map_or(true, |status| status.is_some())
    }
}

impl Shared {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Then>> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, id: u64, answer: Result<Answer, Lost>) {
        let then = self.table().remove(&id);
        if let Some(then) = then {
            then(answer);
            self.unanswered.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn fail_all(&self) {
        self.lost.store(true, Ordering::Release);
        let all = std::mem::take(&mut *self.table());
        for then in all.into_values() {
            then(Err(Lost));
            self.unanswered.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn read_replies(shared: &Shared, pidfd: Option<&OwnedFd>) {
    let mut buffer = vec![0_u8; size_of::<Reply>()];
    loop {
        let mut watched = vec![PollFd::new(shared.socket.as_fd(), PollFlags::POLLIN)];
        watched.extend(pidfd.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        let readable = watched[0].any().unwrap_or(true);
        let ended = watched.get(1).is_some_and(|fd| fd.any().unwrap_or(true));
        if !readable {
            if ended {
                return;
            }
            continue;
        }
        let Ok((len, mut descriptors)) = receive(&shared.socket, &mut buffer) else { return };
        if len == 0 {
            return;
        }
        let Ok((reply, _)) = Reply::read_from_prefix(buffer.get(..len).unwrap_or_default()) else { continue };
        // No request has this id.
        if reply.id == 0 {
            if let (Some(Refusal::Stale), Some(sink)) =
                (Refusal::from_wire(reply.refusal), shared.on_rewritten.get())
            {
                sink(reply.file);
            }
            continue;
        }
        shared.finish(reply.id, Ok(Answer { reply, descriptor: descriptors.pop() }));
    }
}

/// An empty request of a verb.
fn request(verb: Verb) -> Request {
    let mut request = Request::new_zeroed();
    request.verb = verb.wire();
    request
}

/// Asks for `/proc/PID/maps`.
pub fn open_maps(process: ProcessKey) -> Request {
    Request { pid: process.pid, start_ticks: process.start_ticks, ..request(Verb::OpenMaps) }
}

/// Asks for the file mapped at exactly `start..end` of a process.
pub fn open_mapped(process: ProcessKey, start: u64, end: u64) -> Request {
    Request {
        pid: process.pid,
        start_ticks: process.start_ticks,
        value: start,
        end,
        ..request(Verb::OpenMapped)
    }
}

/// Asks to attach `places` (at most [`HOOKS_MAX`]; more are cut off) of a file: for one process, or for all of them.
pub fn attach(process: Option<ProcessKey>, file: u64, places: &[Place]) -> Request {
    let mut request = request(Verb::Attach);
    if let Some(process) = process {
        request.pid = process.pid;
        request.start_ticks = process.start_ticks;
    }
    request.file = file;
    let count = places.len().min(HOOKS_MAX);
    request.places[..count].copy_from_slice(&places[..count]);
    request.place_count = u32::try_from(count).unwrap_or_default();
    request
}

/// Asks to detach an attachment.
pub fn detach(attachment: u64) -> Request {
    Request { value: attachment, ..request(Verb::Detach) }
}

/// Asks to open a tap on an interface.
pub fn tap_open(ifindex: u32) -> Request {
    Request { value: u64::from(ifindex), ..request(Verb::TapOpen) }
}

/// Asks to close the tap on an interface.
pub fn tap_close(ifindex: u32) -> Request {
    Request { value: u64::from(ifindex), ..request(Verb::TapClose) }
}

/// Asks which process of user `uid` holds the socket with this inode number.
pub fn socket_owner(inode: u64, uid: u32) -> Request {
    Request { value: inode, end: u64::from(uid), ..request(Verb::SocketOwner) }
}

/// Asks how often the kernel skipped the program with this id.
pub fn misses(program: u32) -> Request {
    Request { value: u64::from(program), ..request(Verb::Misses) }
}

/// Asks for a state file of a container runtime; `None` if `id` is longer than travels.
pub fn open_state(kind: abi::attacher::StateFile, id: &str) -> Option<Request> {
    let mut request = request(Verb::OpenState);
    request.value = u64::from(kind.wire());
    request.path.get_mut(..id.len())?.copy_from_slice(id.as_bytes());
    request.path_len = u32::try_from(id.len().min(PATH_MAX)).ok()?;
    Some(request)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use nix::sys::socket::sendmsg;

    use super::*;

    /// A handle whose other end the test plays; the child is a process that ends at once.
    fn handle() -> (AttacherHandle, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .expect("socketpair");
        let child = Command::new("/bin/true").spawn().expect("spawn");
        (AttacherHandle { child, pidfd: None, socket: ours }, theirs)
    }

    fn reply_with(other: &OwnedFd, id: u64, value: u64, descriptor: Option<&OwnedFd>) {
        let mut reply = Reply::new_zeroed();
        reply.id = id;
        reply.value = value;
        let raw: Vec<RawFd> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        sendmsg::<()>(other.as_raw_fd(), &[IoSlice::new(reply.as_bytes())], control, MsgFlags::empty(), None)
            .expect("send");
    }

    #[test]
    fn answers_find_their_requests_in_any_order_and_loss_ends_the_rest() {
        let (handle, other) = handle();
        let (lost_sender, lost) = mpsc::channel();
        let attacher = Attacher::start(handle, &mut Reserved::default(), move || {
            lost_sender.send(()).expect("the test listens");
        })
        .expect("start");
        let (sender, answers) = mpsc::channel();
        for index in 0..3_u64 {
            let sender = sender.clone();
            let request = detach(100 + index);
            attacher.ask(request, move |answer| {
                let seen = answer.map(|a| (a.reply.value, a.descriptor.is_some()));
                sender.send((index, seen)).expect("the test listens");
            });
        }
        let mut ids = Vec::new();
        for _ in 0..3 {
            let mut buffer = vec![0_u8; size_of::<Request>()];
            let (len, _) = receive(&other, &mut buffer).expect("request");
            assert_eq!(len, size_of::<Request>());
            let (request, _) = Request::read_from_prefix(&buffer).expect("request");
            assert_eq!(Verb::from_wire(request.verb), Some(Verb::Detach));
            ids.push((request.id, request.value));
        }
        reply_with(&other, ids[2].0, ids[2].1, Some(&other));
        reply_with(&other, ids[0].0, ids[0].1, None);
        assert_eq!(answers.recv().expect("answer"), (2, Ok((102, true))));
        assert_eq!(answers.recv().expect("answer"), (0, Ok((100, false))));
        drop(other);
        assert_eq!(answers.recv().expect("answer"), (1, Err(Lost)));
        lost.recv().expect("told once");
        assert!(attacher.is_lost());
        let late = attacher.call(detach(1), Duration::from_secs(5)).expect_err("the attacher is gone");
        assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
        assert!(attacher.close(Duration::from_secs(5)));
    }

    #[test]
    fn a_binary_that_is_missing_or_silent_is_an_error_with_a_remedy() {
        let check = |binary: &str, arguments: &[&str], expected: &str| {
            let config = AttacherConfig {
                binary: binary.into(),
                arguments: arguments.iter().map(OsString::from).collect(),
                hello_timeout: Duration::from_secs(20),
            };
            let error = spawn(&config).map(|_| ()).expect_err("must fail");
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        };
        check("/nonexistent/venturi-attach", &[], "installed beside venturid");
        check("/bin/true", &[], "ended before it said what it loaded");
        check("/bin/sh", &["-c", "[ -S /proc/self/fd/3 ]; exit $?"], "ended before it said what it loaded");
    }
}
