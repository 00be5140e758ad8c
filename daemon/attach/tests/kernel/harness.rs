//! Starts `venturi-attach` as `venturid` does, and speaks its protocol.
#![expect(unsafe_code, reason = "a descriptor is passed through exec, and received descriptors are adopted")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use abi::attacher::{
    DESCRIPTORS_MAX, Descriptor, Hello, Hook, Limit, PATH_MAX, Place, Refusal, Reply, Request, Verb,
};
use aya::maps::{Map, MapData, RingBuf};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair,
};
use zerocopy::{FromZeros, IntoBytes};

/// Nothing that a test waits for takes longer on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// True if kernel tests can run; else says so.
#[track_caller]
pub(crate) fn can_run(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() && std::path::Path::new("/sys/fs/bpf").exists() {
        return true;
    }
    assert!(
        std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none_or(|value| value != "1"),
        "{test} must run here: it needs root and BPF"
    );
    eprintln!("SKIPPED {test}: needs root and BPF");
    false
}

pub(crate) struct Attacher {
    pub(crate) child: Child,
    pub(crate) hello: Box<Hello>,
    socket: Option<OwnedFd>,
    descriptors: HashMap<u32, OwnedFd>,
    early: HashMap<u64, (Reply, Option<OwnedFd>)>,
    next: u64,
}

impl Attacher {
    /// Starts it and waits for its greeting, which must say that it is armed.
    pub(crate) fn armed(arguments: &[&str]) -> Attacher {
        let attacher = Attacher::start(arguments, |command| command);
        assert_eq!(attacher.hello.armed, 1, "{}", attacher.detail());
        attacher
    }

    pub(crate) fn start(arguments: &[&str], prepare: impl Fn(&mut Command) -> &mut Command) -> Attacher {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .expect("socketpair");
        let mut command = Command::new(env!("CARGO_BIN_EXE_venturi-attach"));
        command.args(arguments).stdin(Stdio::null());
        let inherited = theirs.as_raw_fd();
        prepare(&mut command);
        // SAFETY: `dup2` is async-signal-safe; `theirs` is open until after the fork.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(inherited, 3) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let child = loop {
            match command.spawn() {
                // A copy of the program may still be open for writing in a child that another test is starting.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now()
                }
                other => break other.expect("start venturi-attach"),
            }
        };
        drop(theirs);
        let mut hello = Box::new(Hello::new_zeroed());
        let (len, received) = receive(&ours, hello.as_mut_bytes());
        assert_eq!(len, size_of::<Hello>(), "greeting");
        assert_eq!(hello.descriptor_count as usize, received.len());
        let descriptors = hello.descriptors.iter().copied().zip(received).collect();
        Attacher { child, hello, socket: Some(ours), descriptors, early: HashMap::new(), next: 1 }
    }

    pub(crate) fn detail(&self) -> String {
        String::from_utf8_lossy(&self.hello.detail[..self.hello.detail_len as usize]).into_owned()
    }

    pub(crate) fn limits(&self) -> &[u32] {
        &self.hello.limits[..self.hello.limit_count as usize]
    }

    /// True, and said loudly, where this kernel refuses uprobes to the attacher: nothing that can be tested is lost.
    pub(crate) fn cannot_probe(&self, what: &str) -> bool {
        let refused = self.limits().contains(&Limit::NoUprobes.wire());
        if refused {
            eprintln!("SKIPPED uprobes by way of {what}: {}", self.detail());
        }
        refused
    }

    /// A map that was handed over.
    pub(crate) fn map(&self, which: Descriptor) -> MapData {
        let fd = self.descriptors[&which.wire()].try_clone().expect("dup");
        MapData::from_fd(fd).expect("a map")
    }

    pub(crate) fn ring(&self, which: Descriptor) -> RingBuf<MapData> {
        RingBuf::try_from(Map::RingBuf(self.map(which))).expect("a ring")
    }

    pub(crate) fn post_raw(&mut self, bytes: &[u8]) {
        send(self.socket.as_ref().expect("open").as_raw_fd(), bytes, MsgFlags::empty()).expect("send");
    }

    pub(crate) fn post(&mut self, mut request: Request) -> u64 {
        request.id = self.next;
        self.next += 1;
        self.post_raw(request.as_bytes());
        request.id
    }

    pub(crate) fn wait(&mut self, id: u64) -> (Reply, Option<OwnedFd>) {
        loop {
            if let Some(found) = self.early.remove(&id) {
                return found;
            }
            let mut reply = Reply::new_zeroed();
            let (len, mut received) = receive(self.socket.as_ref().expect("open"), reply.as_mut_bytes());
            assert_eq!(len, size_of::<Reply>(), "the attacher ended");
            self.early.insert(reply.id, (reply, received.pop()));
        }
    }

    pub(crate) fn ask(&mut self, request: Request) -> (Reply, Option<OwnedFd>) {
        let id = self.post(request);
        self.wait(id)
    }

    /// Asks for something that must be done.
    #[track_caller]
    pub(crate) fn done(&mut self, request: Request) -> (Reply, Option<OwnedFd>) {
        let (reply, descriptor) = self.ask(request);
        assert_eq!(Refusal::from_wire(reply.refusal), Some(Refusal::None), "errno {}", reply.errno);
        (reply, descriptor)
    }

    /// Closes the socket, as the end of main does.
    pub(crate) fn hang_up(&mut self) {
        self.socket = None;
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        self.socket = None;
        let _ = self.child.wait();
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> (usize, Vec<OwnedFd>) {
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = message.expect("recvmsg");
    let mut descriptors = Vec::new();
    for entry in message.cmsgs().expect("control") {
        if let ControlMessageOwned::ScmRights(raw) = entry {
            // SAFETY: the kernel has just installed these for us.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    (message.bytes, descriptors)
}

pub(crate) fn request(verb: Verb) -> Request {
    let mut request = Request::new_zeroed();
    request.verb = verb.wire();
    request
}

pub(crate) fn attach(file: u64, pid: u32, places: &[(Hook, u64)]) -> Request {
    let mut request = request(Verb::Attach);
    (request.file, request.pid, request.place_count) = (file, pid, places.len() as u32);
    for (slot, (hook, offset)) in request.places.iter_mut().zip(places) {
        *slot = Place { offset: *offset, hook: hook.wire(), reserved: 0 };
    }
    request
}

pub(crate) fn with_path(mut request: Request, path: &str) -> Request {
    request.path_len = path.len() as u32;
    let mut padded = [0u8; PATH_MAX];
    padded[..path.len()].copy_from_slice(path.as_bytes());
    request.path = padded;
    request
}

/// Records of a ring until `wanted` has accepted one, or patience ends.
pub(crate) fn read_until(ring: &mut RingBuf<MapData>, mut wanted: impl FnMut(&[u8]) -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        while let Some(record) = ring.next() {
            if wanted(&record) {
                return true;
            }
        }
        let mut waiting =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(ring), nix::poll::PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut waiting, nix::poll::PollTimeout::from(100u8));
    }
    false
}

/// A Python process that is told what to do line by line and answers each line.
pub(crate) struct Python {
    pub(crate) child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Python {
    /// Starts it and waits until it is ready; `None` if it cannot be run.
    pub(crate) fn start(script: &str, arguments: &[&str]) -> Option<Python> {
        Python::begin(script, arguments, None)?.ready()
    }

    /// Starts it with libraries from a folder before those of the system.
    pub(crate) fn start_with_libraries(script: &str, arguments: &[&str], folder: &Path) -> Option<Python> {
        Python::begin(script, arguments, Some(folder))?.ready()
    }

    /// Starts many at the same time.
    pub(crate) fn start_many(count: usize, script: &str) -> Vec<Python> {
        let begun: Vec<Python> = (0..count).filter_map(|_| Python::begin(script, &[], None)).collect();
        begun.into_iter().filter_map(Python::ready).collect()
    }

    fn ready(mut self) -> Option<Python> {
        (self.line() == "ready").then_some(self)
    }

    fn begin(script: &str, arguments: &[&str], libraries: Option<&Path>) -> Option<Python> {
        let mut command = Command::new("python3");
        command.envs(libraries.map(|folder| ("LD_LIBRARY_PATH", folder)));
        command.args(["-c", script]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let (to, from) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        Some(Python { child, to, from })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, line: &str) -> String {
        writeln!(self.to, "{line}").expect("write");
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.from.read_line(&mut line);
        line.trim().to_owned()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Start, end, and permissions of the first mapping whose path contains `part` and whose permissions are these.
pub(crate) fn mapping(pid: u32, part: &str, permissions: &str) -> Option<(u64, u64)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let line = maps.lines().find(|line| line.contains(part) && line.contains(permissions))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Offsets in the file of exported functions.
pub(crate) fn exported(file: OwnedFd, names: &[&str]) -> Vec<u64> {
    use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes).expect("read the library");
    let elf = object::File::parse(bytes.as_slice()).expect("an ELF file");
    let offset = |name: &&str| {
        let symbol = elf.dynamic_symbols().find(|symbol| symbol.name() == Ok(*name)).expect("exported");
        let holds = |segment: &object::Segment<'_, '_>| {
            (segment.address()..segment.address() + segment.size()).contains(&symbol.address())
        };
        let segment = elf.segments().find(holds).expect("a segment");
        symbol.address() - segment.address() + segment.file_range().0
    };
    names.iter().map(offset).collect()
}
