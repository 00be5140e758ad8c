//! A recorded capture, played through the same shards where the kernel's is not to be had.
//!
//! What is played is made up by us: no traffic of anybody is in it. `venturid` says `capture_mode = replay`, and every
//! record says so too by its workloads, which belong to no process of this machine.
//!
//! # Format
//! A file begins with the line `venturi-replay 1`. Then come records, a line of words separated by blanks each; the
//! words `sent` and `received` are followed by as many bytes of payload as the line says and a line feed.
//!
//! ```text
//! process PID UID COMM EXE [UNIT]           a workload
//! open SESSION PID HOST                     a session, named by the call to the TLS library
//! sent SESSION MS LEN                       payload, MS after the start
//! received SESSION MS LEN
//! close SESSION MS
//! flow PID MS ENDED_MS LOCAL REMOTE HOST SENT RECEIVED
//! ```
//!
//! Reading is total: a line that is not understood is an error that names it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use meter::directory::Directory;
use meter::exchange::IdentifiedBy;
use meter::pipeline::{Direction, HostEvidence};
use meter::record::{Coverage, Flow, FlowSeen};
use meter::time::Moment;
use meter::workload::{ProcessKey, Workload};

use crate::capture::event::SessionIdentity;
use crate::capture::status::{CaptureStatus, CoverageRow, monotonic, wall_clock};
use crate::shards::{Open, OwnedChunk, Payload, ShardSenders, ToShard};

/// The recorded capture that is built in: a chat in three calls and a message, streamed and compressed.
static BUILT_IN: &[u8] = include_bytes!("demo.replay");
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Longest sleep between looks whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// A recorded capture, checked.
#[derive(Debug, Default)]
pub struct Recording {
    processes: HashMap<u32, Arc<Workload>>,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Open { session: u64, pid: u32, host: Arc<str> },
    Content { session: u64, pid: u32, ms: u64, direction: Direction, offset: u64, payload: Payload },
    Close { session: u64, pid: u32, ms: u64 },
    Flow(Box<FlowStep>),
}

#[derive(Debug)]
struct FlowStep {
    pid: u32,
    ms: u64,
    ended_ms: u64,
    local: SocketAddr,
    remote: SocketAddr,
    host: Arc<str>,
    sent: u64,
    received: u64,
}

impl Step {
    fn ms(&self) -> u64 {
        match self {
            Step::Open { .. } => 0,
            Step::Content { ms, .. } | Step::Close { ms, .. } => *ms,
            Step::Flow(flow) => flow.ended_ms,
        }
    }
}

impl Recording {
    /// The one in `file`, or the one that is built in.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or a line of it is not understood.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Recording> {
        let Some(path) = file else {
            return Recording::parse(BUILT_IN).context("the recorded capture that is built in");
        };
        let size =
            std::fs::metadata(path).with_context(|| format!("recorded capture {}", path.display()))?.len();
        ensure!(size <= FILE_BYTES_MAX, "recorded capture {}: larger than 64 MiB", path.display());
        let bytes =
            std::fs::read(path).with_context(|| format!("reading recorded capture {}", path.display()))?;
        Recording::parse(&bytes).with_context(|| format!("recorded capture {}", path.display()))
    }

    /// Reads the format described at the top of this module.
    ///
    /// # Errors
    /// Names the first line that is not understood.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Recording> {
        let mut rest = bytes;
        let mut recording = Recording::default();
        let mut sessions: HashMap<u64, (u32, [u64; 2])> = HashMap::new();
        ensure!(line(&mut rest) == Some("venturi-replay 1"), "line 1: not a recorded capture of version 1");
        let mut number = 1;
        while !rest.is_empty() {
            number += 1;
            let text = line(&mut rest).with_context(|| format!("line {number}: not text"))?;
            let words: Vec<_> = text.split_ascii_whitespace().collect();
            recording.record(&words, &mut rest, &mut sessions).with_context(|| {
                format!("line {number}: {:?}", words.first().copied().unwrap_or_default())
            })?;
        }
        recording.steps.sort_by_key(Step::ms);
        Ok(recording)
    }

    fn record(
        &mut self,
        words: &[&str],
        rest: &mut &[u8],
        sessions: &mut HashMap<u64, (u32, [u64; 2])>,
    ) -> anyhow::Result<()> {
        match *words {
            [] => {}
            ["process", pid, uid, comm, exe, ref unit @ ..] => {
                let pid: u32 = pid.parse()?;
                let workload = Workload {
                    comm: Some(comm.into()),
                    exe: Some(exe.into()),
                    uid: Some(uid.parse()?),
                    unit: unit.first().map(|unit| (*unit).into()),
                    ..(*Workload::unknown(ProcessKey { pid, start_ticks: 1 })).clone()
                };
                self.processes.insert(pid, Arc::new(workload));
            }
            ["open", session, pid, host] => {
                let (session, pid) = (session.parse()?, pid.parse()?);
                ensure!(self.processes.contains_key(&pid), "no process {pid}");
                sessions.insert(session, (pid, [0, 0]));
                self.steps.push(Step::Open { session, pid, host: host.into() });
            }
            [word @ ("sent" | "received"), session, ms, len] => {
                let session = session.parse()?;
                let Some((pid, offsets)) = sessions.get_mut(&session) else { bail!("no session {session}") };
                let (payload, after) =
                    rest.split_at_checked(len.parse()?).context("less payload than promised")?;
                *rest = after.strip_prefix(b"\n").context("no line feed after the payload")?;
                let (direction, offset) = match word {
                    "sent" => (Direction::Sent, &mut offsets[0]),
                    _ => (Direction::Received, &mut offsets[1]),
                };
                let at = *offset;
                *offset += payload.len() as u64;
                let (pid, ms, payload) = (*pid, ms.parse()?, Payload::copy_of(payload));
                self.steps.push(Step::Content { session, pid, ms, direction, offset: at, payload });
            }
            ["close", session, ms] => {
                let session = session.parse()?;
                let Some((pid, _)) = sessions.remove(&session) else { bail!("no session {session}") };
                self.steps.push(Step::Close { session, pid, ms: ms.parse()? });
            }
            ["flow", pid, ms, ended_ms, local, remote, host, sent, received] => {
                let flow = FlowStep {
                    pid: pid.parse()?,
                    ms: ms.parse()?,
                    ended_ms: ended_ms.parse()?,
                    local: local.parse()?,
                    remote: remote.parse()?,
                    host: host.into(),
                    sent: sent.parse()?,
                    received: received.parse()?,
                };
                ensure!(self.processes.contains_key(&flow.pid), "no process {}", flow.pid);
                self.steps.push(Step::Flow(Box::new(flow)));
            }
            _ => bail!("not understood"),
        }
        Ok(())
    }
}

/// Takes a line off; `None` if it is not text.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (line, after) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (*rest, &rest[rest.len()..]),
    };
    *rest = after;
    std::str::from_utf8(line).ok()
}

/// The playing thread.
pub struct Replay {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Replay {
    /// Plays a recording once, at its own pace, from now on.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        recording: Recording,
        directory: Arc<Directory>,
        shards: ShardSenders,
        status: Arc<CaptureStatus>,
    ) -> anyhow::Result<Replay> {
        let stop = Arc::new(AtomicBool::new(false));
        let player = Player { directory, shards, status, start: monotonic(), rows: Vec::new() };
        let thread = {
            let stop = Arc::clone(&stop);
            let run = move || player.run(&recording, &stop);
            std::thread::Builder::new()
                .name("replay".into())
                .spawn(run)
                .context("starting the replay thread")?
        };
        Ok(Replay { stop, thread })
    }

    /// Stops playing and ends the thread.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        if self.thread.join().is_err() {
            tracing::error!("the replay thread ended with a panic");
        }
    }

    /// Waits until everything was played.
    pub fn finish(self) {
        if self.thread.join().is_err() {
            tracing::error!("the replay thread ended with a panic");
        }
    }
}

struct Player {
    directory: Arc<Directory>,
    shards: ShardSenders,
    status: Arc<CaptureStatus>,
    start: Moment,
    rows: Vec<CoverageRow>,
}

impl Player {
    fn run(mut self, recording: &Recording, stop: &AtomicBool) {
        for step in &recording.steps {
            let due = self.moment(step.ms());
            loop {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let wait = Duration::from_nanos(due.since(monotonic()));
                if wait.is_zero() {
                    break;
                }
                std::thread::sleep(wait.min(NAP));
            }
            self.play(recording, step);
        }
        tracing::info!(steps = recording.steps.len(), "the recorded capture was played");
    }

    fn moment(&self, ms: u64) -> Moment {
        Moment(self.start.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    fn play(&mut self, recording: &Recording, step: &Step) {
        match step {
            Step::Open { session, pid, host } => {
                let Some(workload) = recording.processes.get(pid) else { return };
                self.cover(workload, host);
                let identity = self.identity(*session, *pid);
                let host =
                    HostEvidence { host: Arc::clone(host), identified_by: IdentifiedBy::TlsHostnameCall };
                let open = Open {
                    identity,
                    session: self.shards.allot_session(),
                    process: workload.process,
                    workload: Arc::clone(workload),
                    host: Some(host),
                    joined_late: false,
                };
                self.shards.session(&identity, ToShard::Open(Box::new(open)));
            }
            Step::Content { session, pid, ms, direction, offset, payload } => self.shards.chunk(OwnedChunk {
                identity: self.identity(*session, *pid),
                process: ProcessKey { pid: *pid, start_ticks: 1 },
                direction: *direction,
                offset: *offset,
                opposite: 0,
                at: self.moment(*ms),
                payload: Payload::copy_of(payload.bytes()),
            }),
            Step::Close { session, pid, .. } => {
                let identity = self.identity(*session, *pid);
                self.shards.session(&identity, ToShard::Close { identity, sent: None, received: None });
            }
            Step::Flow(step) => self.flow(recording, step),
        }
    }

    fn identity(&self, session: u64, pid: u32) -> SessionIdentity {
        SessionIdentity { tgid: pid, ssl: session, opened_ns: self.start.0 }
    }

    fn flow(&self, recording: &Recording, step: &FlowStep) {
        let Some(workload) = recording.processes.get(&step.pid) else { return };
        let (clock, started) = (wall_clock(), self.moment(step.ms));
        let flow = Flow {
            ended_at: Some(clock.at(self.moment(step.ended_ms))),
            local: step.local,
            remote: step.remote,
            protocol: 6,
            bytes_sent: Some(step.sent),
            bytes_received: Some(step.received),
            provider: self.directory.lookup(&step.host).map(|provider| Arc::clone(&provider.name)),
            host: Some(Arc::clone(&step.host)),
            identified_by: Some(IdentifiedBy::TlsHostnameCall),
            seen: FlowSeen::Connect,
            coverage: Coverage::Captured,
        };
        let workload = Arc::clone(workload);
        let message =
            ToShard::Flow { flow: Box::new(flow), workload, started_at: clock.at(started), started };
        self.shards.process(ProcessKey { pid: step.pid, start_ticks: 1 }, message);
    }

    fn cover(&mut self, workload: &Arc<Workload>, host: &Arc<str>) {
        let now = wall_clock().at(self.start);
        self.rows.push(CoverageRow {
            workload: Arc::clone(workload),
            provider: self.directory.lookup(host).map(|provider| Arc::clone(&provider.name)),
            host: Arc::clone(host),
            verdict: Coverage::Captured,
            first_seen: now,
            armed_at: Some(now),
            exchanges: 0,
            late_attach: 0,
            library: Some("replay".into()),
        });
        self.status.set_coverage(self.rows.clone());
    }
}

#[cfg(test)]
mod tests;
