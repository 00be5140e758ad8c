//! From start to end of the process: look, confine, load, attach, greet, serve, let go.
//!
//! Everything that needs more than the exact capability set (finding or mounting tracefs, raising limits) is done
//! first, then the rest is dropped, and only then anything is loaded: what works, works with the small set.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::attacher::{
    DESCRIPTORS_MAX, DETAIL_MAX, Descriptor, Hello, LIMITS_MAX, Limit, LoadedProgram, PROGRAMS_MAX,
};
use abi::control::Settings;
use aya::maps::Array;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};
use zerocopy::{FromZeros, IntoBytes};

use crate::closer::{Closer, Held, close_all};
use crate::files::{Files, raise_descriptor_limit};
use crate::life;
use crate::loader::{self, Loaded, PROGRAMS, Sizes, Stop, Target};
use crate::logging;
use crate::owners::Owners;
use crate::settings::{self, tracefs::Tracefs};
use crate::sys::bpf;
use crate::sys::perf;
use crate::tap::{self, Taps};
use crate::uprobes::{Uprobes, Way};
use crate::verbs::{Peer, Server, send_with};

/// The kernel programs, compiled for this architecture's register layout.
#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/objects/probes.x86_64.o");
/// The kernel programs, compiled for this architecture's register layout.
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/objects/probes.aarch64.o");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static OBJECT: &[u8] = &[];

/// Descriptors that main gets, and the maps they are.
const HANDED_OUT: [(Descriptor, &str); 7] = [
    (Descriptor::Events, "EVENTS"),
    (Descriptor::Content, "CONTENT"),
    (Descriptor::Hosts, "HOSTS"),
    (Descriptor::Verdicts, "VERDICTS"),
    (Descriptor::Counters, "COUNTERS"),
    (Descriptor::Sessions, "SESSIONS"),
    (Descriptor::Datagrams, "DATAGRAMS"),
];

/// The kernel programs that are compiled in.
pub fn embedded_object() -> &'static [u8] {
    OBJECT
}

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Descriptor of the socket to main.
    pub fd: i32,
    /// MiB of the ring `EVENTS`, a power of two.
    pub events_mib: u32,
    /// MiB of the ring `CONTENT`, a power of two.
    pub content_mib: u32,
    /// Whether main may open a tap on a loopback interface.
    pub allow_loopback_tap: bool,
    /// Whether `uprobe_multi` is used where it works.
    pub allow_uprobe_multi: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { fd: 3, events_mib: 4, content_mib: 16, allow_loopback_tap: false, allow_uprobe_multi: true }
    }
}

/// Serves main on `socket` until either side ends. `Err` means that capture did not start; main has been told why.
///
/// # Errors
/// The explanation that main got too.
pub fn run(socket: OwnedFd, options: &Options) -> Result<(), String> {
    let started = Instant::now();
    logging::start();
    let signals = block_signals().map_err(|error| format!("signals: {error}"))?;
    let socket = Arc::new(socket);
    let mut limits = Limits::default();
    let mut armed = match arm(&socket, options, &mut limits) {
        Ok(armed) => armed,
        Err(stop) => {
            limits.add(stop.0, &stop.1);
            let hello = hello(None, &limits, started);
            // If main is gone too there is nobody left to tell but stderr.
            let _ = send_with(&socket, hello.as_bytes(), &[]);
            return Err(stop.1);
        }
    };
    let hello = hello(Some(&armed), &limits, started);
    let descriptors: Vec<i32> = HANDED_OUT
        .iter()
        .filter_map(|(_, map)| armed.server.loaded.map(map))
        .map(|fd| fd.as_raw_fd())
        .collect();
    if let Err(error) = send_with(&socket, hello.as_bytes(), &descriptors) {
        tracing::info!(%error, "main is gone before it was greeted");
        return Ok(());
    }
    tracing::info!(
        programs = hello.program_count,
        took_ms = hello.took_ns / 1_000_000,
        multi = armed.server.loaded.multi,
        "armed"
    );
    serve(&mut armed.server, &signals);
    let_go(armed);
    Ok(())
}

/// What holds the kernel side together.
struct Armed {
    server: Server,
    /// Tracepoint attachments.
    always: Vec<Held>,
    /// See [`perf::warm_event`].
    _warm: Option<OwnedFd>,
    settings: Settings,
}

/// Limits in the order found; `detail` explains the first that stops, or all that do not.
#[derive(Default)]
struct Limits {
    found: Vec<Limit>,
    detail: String,
}

impl Limits {
    fn add(&mut self, limit: Limit, detail: &str) {
        tracing::warn!(limit = limit.variant_name(), "{detail}");
        if !self.found.contains(&limit) {
            self.found.push(limit);
        }
        if !self.detail.is_empty() {
            self.detail.push_str("; ");
        }
        self.detail.push_str(detail);
    }

    /// Makes the explanation of what stopped capture the only one.
    fn stopping(&self) -> &str {
        &self.detail
    }
}

fn arm(socket: &Arc<OwnedFd>, options: &Options, limits: &mut Limits) -> Result<Armed, Stop> {
    let kernel = life::kernel_version();
    if kernel < (5, 8) {
        let why = format!("Linux {}.{} is too old: ring buffers and CAP_BPF need 5.8", kernel.0, kernel.1);
        return Err((Limit::KernelTooOld, why));
    }
    let needed = life::needed(kernel);
    let missing = life::missing(&needed);
    if !nix::unistd::geteuid().is_root() || !missing.is_empty() {
        let missing = if missing.is_empty() { "uid 0".to_owned() } else { missing.join(", ") };
        let why = format!(
            "venturi-attach lacks {missing}; start venturid as root, or grant these in its unit or pod"
        );
        return Err((Limit::MissingCapability, why));
    }
    let tracefs = Tracefs::find_or_mount().map_err(|why| (Limit::NoTracefs, why))?;
    let found = settings::find(&tracefs).map_err(|why| (Limit::NoTracepoint, why))?;
    for (limit, why) in &found.limits {
        limits.add(*limit, why);
    }
    // Before 5.11 maps are charged to this limit; where it cannot be raised the kernel says so at load.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    // Kernels with `perf_event_paranoid` above 2 (Debian, Ubuntu) let nobody without CAP_SYS_ADMIN open a perf event:
    // those that are always needed are opened while this process still has it, and get their programs later.
    let warm = perf::warm_event()
        .map_err(|error| limits.add(Limit::NoWarmEvent, &format!("perf event: {error}")))
        .ok();
    let events = open_tracepoints(&tracefs);
    if let Err(error) = crate::sys::go_first() {
        tracing::info!(%error, "attaching waits its turn on a busy node: no CAP_SYS_NICE at the start");
    }
    life::confine(&needed)
        .map_err(|why| (Limit::MissingCapability, format!("dropping capabilities: {why}")))?;

    let sizes = Sizes { events_bytes: options.events_mib << 20, content_bytes: options.content_mib << 20 };
    let mut loaded = loader::load(OBJECT, &found.settings, sizes, options.allow_uprobe_multi)?;
    name_ourselves(&mut loaded, socket)?;
    let always = attach_always(&loaded, events, limits)?;
    let way = uprobe_way(&loaded, tracefs, limits);
    let thread =
        |name| Closer::start(name).map_err(|error| (Limit::LoadRefused, format!("thread {name}: {error}")));
    let (detacher, tap_closer) = (thread("detach")?, thread("tap-close")?);
    try_tap(&loaded, &tap_closer, limits);
    if kernel < (5, 19) {
        limits.add(Limit::MainNeedsCapBpf, "before Linux 5.19 reading maps needs CAP_BPF: main must keep it");
    }
    logging::follow_kernel(&mut loaded.ebpf);
    crate::sys::give_back_memory();
    let server = Server {
        socket: Arc::clone(socket),
        loaded,
        files: Files::watching(),
        uprobes: Uprobes::new(way),
        taps: Taps::new(options.allow_loopback_tap),
        detacher,
        tap_closer,
        owners: Owners::start()
            .inspect_err(|error| tracing::warn!(%error, "processes of UDP sockets stay unknown"))
            .ok(),
    };
    Ok(Armed { server, always, _warm: warm, settings: found.settings })
}

/// Tells the programs which processes are ours, so that they never look at their traffic.
fn name_ourselves(loaded: &mut Loaded, socket: &Arc<OwnedFd>) -> Result<(), Stop> {
    let refused = |why: String| (Limit::LoadRefused, format!("map SELF: {why}"));
    let main =
        getsockopt(socket, sockopt::PeerCredentials).map_err(|error| refused(error.to_string()))?.pid();
    let map = loaded.ebpf.map_mut("SELF").ok_or_else(|| refused("there is none".to_owned()))?;
    let mut own = Array::<_, u32>::try_from(map).map_err(|error| refused(error.to_string()))?;
    for (index, pid) in [(0, main.unsigned_abs()), (1, std::process::id())] {
        own.set(index, pid, 0).map_err(|error| refused(error.to_string()))?;
    }
    Ok(())
}

fn uprobe_way(loaded: &Loaded, tracefs: Tracefs, limits: &mut Limits) -> Way {
    tracefs.remove_stale_uprobes();
    if loaded.multi {
        return Way::Multi;
    }
    limits.add(
        Limit::NoUprobeMulti,
        "no uprobe_multi with a process filter (Linux 6.10): uprobes go through tracefs and perf events",
    );
    if let Err(error) = perf::warm_event() {
        let why = format!(
            "perf events are refused to a process without CAP_SYS_ADMIN ({error}): no TLS call is captured; \
             sysctl kernel.perf_event_paranoid=2, or use Linux 6.10 or newer"
        );
        limits.add(Limit::NoUprobes, &why);
    }
    Way::Traced(tracefs)
}

/// Events on the tracepoints, by program, without programs yet.
fn open_tracepoints(tracefs: &Tracefs) -> BTreeMap<&'static str, Result<OwnedFd, String>> {
    let mut events = BTreeMap::new();
    for (name, _, target) in PROGRAMS {
        if let Target::Tracepoint(category, event) = target {
            let id = tracefs.id(category, event);
            let opened =
                id.and_then(|id| perf::tracepoint(id, 0).map_err(|error| format!("perf event: {error}")));
            events.insert(*name, opened);
        }
    }
    events
}

/// Attaches what is on all the time. Without connections there is nothing to capture; without process events short
/// lives are missed, which is a limit.
fn attach_always(
    loaded: &Loaded,
    mut events: BTreeMap<&'static str, Result<OwnedFd, String>>,
    limits: &mut Limits,
) -> Result<Vec<Held>, Stop> {
    let mut attached = Vec::new();
    for (name, _, target) in PROGRAMS {
        let Some(program) = loaded.program(name) else { continue };
        let result = match target {
            Target::OnRequest => continue,
            Target::Tracepoint(..) => {
                events.remove(name).unwrap_or_else(|| Err("no event".to_owned())).and_then(|event| {
                    perf::run_program(&event, program).map_err(|error| error.to_string())?;
                    Ok(event)
                })
            }
            Target::RawTracepoint(event) => {
                bpf::raw_tracepoint_open(event, program).map_err(|error| error.to_string())
            }
        };
        match result {
            Ok(fd) => attached.push(fd.into()),
            Err(why) if *name == "inet_sock_set_state" => {
                return Err((Limit::NoTracepoint, format!("attaching {name}: {why}")));
            }
            Err(why) => limits.add(Limit::NoTracepoint, &format!("attaching {name}: {why}")),
        }
    }
    Ok(attached)
}

fn try_tap(loaded: &Loaded, closer: &Closer, limits: &mut Limits) {
    let Some(filter) = loaded.program("tap") else { return };
    match tap::filtered_socket(filter) {
        Ok(socket) => closer.close(vec![socket.into()], || ()),
        Err(error) => {
            limits.add(Limit::NoTap, &format!("packet socket: {error}; names come from libraries only"))
        }
    }
}

/// SIGINT goes to the whole foreground group: main decides about it. SIGTERM to this process means: let go and end.
fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn serve(server: &mut Server, signals: &SignalFd) {
    let socket = Arc::clone(&server.socket);
    loop {
        let fds = [Some(socket.as_fd()), Some(signals.as_fd()), server.files.writes()];
        let mut waiting: Vec<_> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return tracing::error!(%error, "waiting for main failed"),
        }
        let ready: Vec<bool> = waiting.iter().map(|entry| entry.any().unwrap_or(true)).collect();
        let [from_main, from_signals, from_files] =
            [0, 1, 2].map(|at| ready.get(at).copied().unwrap_or_default());
        while from_signals && let Ok(Some(signal)) = signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                return tracing::info!("asked to end");
            }
        }
        if from_files {
            server.note_writes();
        }
        if from_main && server.serve_one() == Peer::Gone {
            return tracing::info!("main is gone");
        }
    }
}

/// Detaches everything, in parallel: one after the other the kernel would take tens of milliseconds for each.
fn let_go(armed: Armed) {
    let started = Instant::now();
    let Armed { mut server, mut always, .. } = armed;
    let attachments = server.uprobes.len();
    server.uprobes.close();
    always.extend(server.taps.take_all().into_iter().map(Held::from));
    close_all(always);
    // What was being detached already is nearly done; its threads end with the process otherwise.
    while server.detacher.backlog() > 0 && started.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(2));
    }
    tracing::info!(attachments, took_ms = started.elapsed().as_millis() as u64, "detached");
}

fn hello(armed: Option<&Armed>, limits: &Limits, started: Instant) -> Box<Hello> {
    let mut hello = Box::new(Hello::new_zeroed());
    hello.version = abi::VERSION;
    hello.capabilities = life::effective();
    hello.settings = armed.map_or(Settings::UNKNOWN, |armed| armed.settings);
    for (slot, limit) in hello.limits.iter_mut().zip(&limits.found) {
        *slot = limit.wire();
    }
    hello.limit_count = limits.found.len().min(LIMITS_MAX) as u32;
    let detail = truncated(limits.stopping(), DETAIL_MAX).as_bytes();
    hello.detail_len = detail.len() as u32;
    hello.detail.iter_mut().zip(detail).for_each(|(slot, byte)| *slot = *byte);
    if let Some(armed) = armed {
        hello.armed = 1;
        let loaded = &armed.server.loaded;
        let present = HANDED_OUT.iter().filter(|(_, map)| loaded.map(map).is_some());
        let present: Vec<u32> =
            present.map(|(descriptor, _)| descriptor.wire()).take(DESCRIPTORS_MAX).collect();
        hello.descriptor_count = present.len() as u32;
        hello.descriptors.iter_mut().zip(present).for_each(|(slot, descriptor)| *slot = descriptor);
        let programs: &[LoadedProgram] = &loaded.report;
        hello.program_count = programs.len().min(PROGRAMS_MAX) as u32;
        hello.programs.iter_mut().zip(programs).for_each(|(slot, program)| *slot = *program);
    }
    hello.took_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    hello
}

/// The longest prefix of at most `bytes` bytes that ends between characters.
fn truncated(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Takes over the socket that main has left at a descriptor number.
///
/// # Errors
/// It is not a `SOCK_SEQPACKET` socket.
pub fn adopt_socket(fd: i32) -> io::Result<OwnedFd> {
    crate::sys::adopt(fd)
}
