//! CPU that the daemon adds to an application per write+read pair: to AI processes beside a bare probe pair, to others
//! beside nothing.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use e2e::daemon::Daemon;
use e2e::lab::Lab;
use e2e::toolbox::{Toolbox, workspace};
use serde_json::Value;

use crate::measure::{Ratio, median};
use crate::report::Report;

/// Pairs per round.
const PAIRS: u64 = 1_500;
/// Bytes of a small write: a request without content.
const SMALL: usize = 0;
/// Bytes of a large write: one TLS record.
const LARGE: usize = 16_384;
const AI: &str = "api.openai.com";
const OTHER: &str = "www.example.org";

/// A client that makes a round of pairs when told to.
struct Pairs {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Pairs {
    fn start(lab: &Lab, python: &Path, host: &str, bytes: usize) -> anyhow::Result<Pairs> {
        let mut command = lab.world.command(lab.path(), python)?;
        command.arg(workspace().join("bench/clients/pairs.py"));
        command.args([host, &PAIRS.to_string(), &bytes.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Pairs { child, input, output })
    }

    /// CPU nanoseconds per pair of one round.
    fn round(&mut self) -> anyhow::Result<f64> {
        writeln!(self.input, "go")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let report: Value = serde_json::from_str(&line)?;
        report["cpu_ns"].as_f64().context("CPU time")
    }
}

impl Drop for Pairs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the processors from going idle while it lives, with threads that run only when nobody else wants to.
///
/// On a virtual machine, waking a processor that sleeps costs the waker several microseconds. Whatever keeps the others
/// awake, a daemon for one, would make an application look cheaper than it is alone.
struct Awake {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    fn start() -> anyhow::Result<Awake> {
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..std::thread::available_parallelism()?.get() {
            let over = Arc::clone(&over);
            threads.push(std::thread::spawn(move || {
                run_only_when_idle();
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }));
        }
        Ok(Awake { over, threads })
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Puts this thread into the scheduler's idle class.
#[expect(unsafe_code, reason = "sched_setscheduler(2) has no safe wrapper")]
fn run_only_when_idle() {
    // SAFETY: plain data, all zeros are valid; the call reads it and changes this thread alone.
    unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters);
    }
}

/// What was measured of AI processes with writes of one size.
#[derive(Default)]
struct Ai {
    none: Vec<f64>,
    bare: Vec<f64>,
    daemon: Vec<f64>,
}

/// Pairs of (without, with) the daemon.
type Compared = Vec<(f64, f64)>;

/// Runs `rounds` interleaved rounds of: no daemon, bare probes, daemon.
pub(crate) fn run(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::new(&["http/1.1"]);
    let _awake = Awake::start()?;
    let python = Toolbox::get().python.as_ref().context("Python")?;
    let stranger = copy_of(python)?;
    let (mut small, mut large) = (Ai::default(), Ai::default());
    let (mut first, mut settled, mut never) = (Compared::new(), Compared::new(), Compared::new());
    for round in 0..rounds {
        eprint!("\rapplication cost: round {} of {rounds}   ", round + 1);
        let mut ai = [Pairs::start(&lab, python, AI, SMALL)?, Pairs::start(&lab, python, AI, LARGE)?];
        // The same executable as the AI processes, without an AI session; and another executable.
        let mut known = Pairs::start(&lab, python, OTHER, SMALL)?;
        let mut unknown = Pairs::start(&lab, &stranger, OTHER, SMALL)?;
        for (process, measured) in ai.iter_mut().zip([&mut small, &mut large]) {
            process.round()?;
            measured.none.push(process.round()?);
            let probes = bare::attach(process.child.id())?;
            measured.bare.push(process.round()?);
            drop(probes);
        }
        known.round()?;
        let known_none = known.round()?;
        unknown.round()?;
        let unknown_none = unknown.round()?;

        let started = Daemon::start(lab.path(), "")?;
        for (process, measured) in ai.iter_mut().zip([&mut small, &mut large]) {
            process.round()?;
            measured.daemon.push(process.round()?);
        }
        // What was measured is the price of being seen.
        let seen = 3 * usize::try_from(PAIRS)?;
        started.calls_until(|calls| calls.len() > seen).context("the daemon did not see the calls")?;
        first.push((known_none, known.round()?));
        settled.push((known_none, known.round()?));
        unknown.round()?;
        never.push((unknown_none, unknown.round()?));
        started.stop()?;
    }
    eprintln!();
    std::fs::remove_file(&stranger)?;
    report.section("CPU added per write+read pair of an AI process", "at most 1.3 x a bare probe pair");
    small.report("small writes", report);
    large.report("writes of 16 KB", report);
    report.section("Processes without AI sessions, with / without the daemon", "at most 1.01");
    report.row("executable used for AI elsewhere, first round", &Ratio::of(&first).figures());
    report.row("executable used for AI elsewhere, later", &Ratio::of(&settled).figures());
    report.row("executable never used for AI", &Ratio::of(&never).figures());
    Ok(())
}

impl Ai {
    fn report(&self, name: &str, report: &mut Report) {
        let added = |with: &[f64]| -> Vec<f64> {
            with.iter().zip(&self.none).map(|(with, none)| with - none).collect()
        };
        let (bare, daemon) = (added(&self.bare), added(&self.daemon));
        let ratios: Compared = bare.iter().copied().zip(daemon.iter().copied()).collect();
        let times = [
            ("us without anything", Some(median(&self.none) / 1e3)),
            ("us bare adds", Some(median(&bare) / 1e3)),
            ("us daemon adds", Some(median(&daemon) / 1e3)),
        ];
        report.row(name, &[&times[..], &Ratio::of(&ratios).figures()].concat());
    }
}

/// The interpreter as another executable: beside the original, so that it finds its library.
fn copy_of(python: &Path) -> anyhow::Result<PathBuf> {
    let copy = python.with_file_name("python-without-ai");
    let _ = std::fs::remove_file(&copy);
    std::fs::copy(std::fs::canonicalize(python)?, &copy).context("copying the interpreter")?;
    Ok(copy)
}

/// The peer: the cheapest possible BPF program at entry and return of the same two functions of one process.
#[expect(
    unsafe_code,
    reason = "bpf(2) and perf_event_open(2) have no safe wrapper, and the bench must not use ours"
)]
mod bare {
    use std::ffi::CString;
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use anyhow::{Context, bail};

    /// Holds the probes; dropping detaches them.
    pub(super) struct Probes {
        _events: Vec<OwnedFd>,
        _program: OwnedFd,
        _file: File,
    }

    /// Attaches `r0 = 0; exit` to `SSL_write_ex` and `SSL_read_ex` of process `pid`, entry and return.
    pub(super) fn attach(pid: u32) -> anyhow::Result<Probes> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let line = maps.lines().find(|line| line.contains("libssl.so")).context("libssl in the process")?;
        let path = line.split_whitespace().nth(5).context("its path")?;
        let file = File::open(path)?;
        let program = load()?;
        let kind: u32 =
            std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")?.trim().parse()?;
        let mut events = Vec::new();
        for name in ["SSL_write_ex", "SSL_read_ex"] {
            let offset = e2e::elf::file_offset(path, name)?;
            for config in [0, 1] {
                events.push(event(kind, config, path, offset, pid, &program)?);
            }
        }
        Ok(Probes { _events: events, _program: program, _file: file })
    }

    fn load() -> anyhow::Result<OwnedFd> {
        const INSTRUCTIONS: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
        let license = CString::new("GPL")?;
        // union bpf_attr of BPF_PROG_LOAD: type, count, instructions, license.
        #[repr(C)]
        struct Attr {
            kind: u32,
            count: u32,
            instructions: u64,
            license: u64,
            rest: [u64; 15],
        }
        let attr = Attr {
            kind: 2,
            count: 2,
            instructions: INSTRUCTIONS.as_ptr() as u64,
            license: license.as_ptr() as u64,
            rest: [0; 15],
        };
        // SAFETY: the attribute block and what it points to live until the call returns.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, 5, &raw const attr, size_of::<Attr>()) };
        owned(fd, "bpf(BPF_PROG_LOAD)")
    }

    fn event(
        kind: u32,
        config: u64,
        path: &str,
        offset: u64,
        pid: u32,
        program: &OwnedFd,
    ) -> anyhow::Result<OwnedFd> {
        let path = CString::new(path)?;
        // struct perf_event_attr, PERF_ATTR_SIZE_VER0 with config1 and config2 (VER1, VER2) zero-extended.
        #[repr(C)]
        struct Attr {
            kind: u32,
            size: u32,
            config: u64,
            before: [u64; 5],
            config1: u64,
            config2: u64,
            rest: [u64; 7],
        }
        let attr = Attr {
            kind,
            size: u32::try_from(size_of::<Attr>())?,
            config,
            before: [0; 5],
            config1: path.as_ptr() as u64,
            config2: offset,
            rest: [0; 7],
        };
        // SAFETY: the attribute block and the path it points to live until the call returns.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, -1, -1, 8) };
        let event = owned(fd, "perf_event_open")?;
        const SET_BPF: libc::c_ulong = 0x4004_2408;
        const ENABLE: libc::c_ulong = 0x2400;
        // SAFETY: both descriptors are open; the requests take an integer.
        let done = unsafe {
            libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) == 0
                && libc::ioctl(event.as_raw_fd(), ENABLE, 0) == 0
        };
        if !done {
            bail!("attaching the bare program: {}", std::io::Error::last_os_error());
        }
        Ok(event)
    }

    fn owned(fd: libc::c_long, what: &str) -> anyhow::Result<OwnedFd> {
        if fd < 0 {
            bail!("{what}: {}", std::io::Error::last_os_error());
        }
        // SAFETY: the kernel just returned this descriptor and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
    }
}
