//! What capture knows of itself, for `status`, `doctor`, coverage and metrics: one writer per figure, snapshots out.
//!
//! Counters only grow. Everything that capture did not see or had to drop has a [`Loss`] of its own; a loss that is
//! only logged does not exist. No name or payload of a session that is not an AI session is ever kept here.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::attacher::{Hello, LIMITS_MAX, Limit, LoadedProgram, PROGRAMS_MAX};
use abi::counter::Counter;
use arc_swap::ArcSwap;
use meter::exchange::Reason;
use meter::record::{Coverage, Record, Subject};
use meter::time::{Moment, UnixNanos};
use meter::workload::{ProcessKey, Workload};

/// Why user space dropped or skipped something. The kernel's own reasons are [`Counter`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Loss {
    /// A ring record was shorter than its head says, or of an unknown kind (records).
    MalformedRecord,
    /// The planner's inbox was full (events).
    PlannerFull,
    /// A shard's channel was full (plaintext bytes; a gap in the session).
    ShardFull,
    /// Plaintext that waited for its session's workload beyond the limit (bytes; a gap in the session).
    HeldOverflow,
    /// A shard's inbox was full of messages; the shard gave up its sessions (messages).
    ShardOverrun,
    /// A shard's pipeline panicked and was replaced (panics).
    ShardPanicked,
    /// The table of connections was full (connections).
    FlowsFull,
    /// The table of processes was full of those that are of use (processes).
    ProcessesFull,
    /// A process that ended was forgotten before the end of its connections could be told, to make room (processes).
    ProcessesEvictedEnded,
    /// A living process that nothing was known to be done about was forgotten, to make room (processes).
    ProcessesEvictedIdle,
    /// The table of executables and libraries was full of those that are used (files).
    LibrariesFull,
    /// The attacher had no room for another attachment (attach requests).
    AttachmentsFull,
    /// The table of sessions was full (sessions).
    SessionsFull,
    /// Content came of a process that is not followed any more (sessions).
    SessionsOrphaned,
    /// A connection of unknown name for which no tap could be opened (connections).
    TapRefused,
    /// A ClientHello that was handed out in part and held no name so far (packets).
    HelloIncomplete,
    /// A packet of the tap that could not be parsed (packets).
    PacketUnparsed,
    /// A verdict that could not be written to the kernel's map (verdicts).
    VerdictLost,
    /// The kernel's full table of TLS sessions forgot the least recently used (sessions, at least).
    SessionsEvicted,
    /// The kernel's full table of verdicts forgot the least recently used (verdicts, at least).
    VerdictsEvicted,
    /// The kernel's full table of programs with sessions forgot the least recently used (processes, at least).
    ProgramsEvicted,
    /// The kernel's full table of `getaddrinfo` calls forgot the least recently used: what it returned stays unknown
    /// (calls, at least).
    LookupsEvicted,
    /// The kernel skipped one of our programs because another program ran on that CPU (runs). Not known before Linux 5.12.
    ProgramSkipped,
}

impl Loss {
    /// Every reason.
    pub const ALL: [Loss; 23] = [
        Loss::MalformedRecord,
        Loss::PlannerFull,
        Loss::ShardFull,
        Loss::HeldOverflow,
        Loss::ShardOverrun,
        Loss::ShardPanicked,
        Loss::FlowsFull,
        Loss::ProcessesFull,
        Loss::ProcessesEvictedEnded,
        Loss::ProcessesEvictedIdle,
        Loss::LibrariesFull,
        Loss::AttachmentsFull,
        Loss::SessionsFull,
        Loss::SessionsOrphaned,
        Loss::TapRefused,
        Loss::HelloIncomplete,
        Loss::PacketUnparsed,
        Loss::VerdictLost,
        Loss::SessionsEvicted,
        Loss::VerdictsEvicted,
        Loss::ProgramsEvicted,
        Loss::LookupsEvicted,
        Loss::ProgramSkipped,
    ];

    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Loss::MalformedRecord => "malformed_record",
            Loss::PlannerFull => "planner_full",
            Loss::ShardFull => "shard_full_bytes",
            Loss::HeldOverflow => "held_overflow_bytes",
            Loss::ShardOverrun => "shard_overrun",
            Loss::ShardPanicked => "shard_panicked",
            Loss::FlowsFull => "flows_full",
            Loss::ProcessesFull => "processes_full",
            Loss::ProcessesEvictedEnded => "processes_evicted_ended",
            Loss::ProcessesEvictedIdle => "processes_evicted_idle",
            Loss::LibrariesFull => "libraries_full",
            Loss::AttachmentsFull => "attachments_full",
            Loss::SessionsFull => "sessions_full",
            Loss::SessionsOrphaned => "sessions_orphaned",
            Loss::TapRefused => "tap_refused",
            Loss::HelloIncomplete => "hello_incomplete",
            Loss::PacketUnparsed => "packet_unparsed",
            Loss::VerdictLost => "verdict_lost",
            Loss::SessionsEvicted => "sessions_evicted",
            Loss::VerdictsEvicted => "verdicts_evicted",
            Loss::ProgramsEvicted => "programs_evicted",
            Loss::LookupsEvicted => "lookups_evicted",
            Loss::ProgramSkipped => "program_skipped",
        }
    }
}

/// What is counted without being a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Tally {
    /// Connections that were followed and are not recorded: no evidence of a provider.
    FlowsOther,
    /// Connections to a provider that ended (or were open when the daemon stopped).
    FlowsRecorded,
    /// AI sessions that were opened.
    Sessions,
    /// Calls that went by before the process was armed.
    LateAttach,
    /// Attach requests that were done.
    Attached,
    /// Attach requests that were refused.
    AttachRefused,
    /// Files that were written while they were held, and let go for it.
    FilesRewritten,
    /// Connections of unknown name whose name was looked for on the wire.
    TapWanted,
    /// Connections of unknown name that were answered from the cache without a tap.
    TapCached,
    /// Connections of unknown name that no tap was opened for (loopback, other ports, other interfaces).
    TapSkipped,
    /// Connections of unknown name whose ClientHello an open tap did not see within two seconds.
    TapInVain,
    /// Names read from a ClientHello or a QUIC Initial.
    NamesFromWire,
    /// Lookups of a provider's name for which a tap was opened, because datagrams might follow.
    TapExpected,
    /// QUIC connections to a provider whose process was not found.
    FlowsUnowned,
}

impl Tally {
    /// Every tally.
    pub const ALL: [Tally; 14] = [
        Tally::FlowsOther,
        Tally::FlowsRecorded,
        Tally::Sessions,
        Tally::LateAttach,
        Tally::Attached,
        Tally::AttachRefused,
        Tally::FilesRewritten,
        Tally::TapWanted,
        Tally::TapCached,
        Tally::TapSkipped,
        Tally::TapInVain,
        Tally::NamesFromWire,
        Tally::TapExpected,
        Tally::FlowsUnowned,
    ];

    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Tally::FlowsOther => "flows_other",
            Tally::FlowsRecorded => "flows_recorded",
            Tally::Sessions => "sessions",
            Tally::LateAttach => "late_attach",
            Tally::Attached => "attached",
            Tally::AttachRefused => "attach_refused",
            Tally::FilesRewritten => "files_rewritten",
            Tally::TapWanted => "tap_wanted",
            Tally::TapCached => "tap_cached",
            Tally::TapSkipped => "tap_skipped",
            Tally::TapInVain => "tap_in_vain",
            Tally::NamesFromWire => "names_from_wire",
            Tally::TapExpected => "tap_expected",
            Tally::FlowsUnowned => "flows_unowned",
        }
    }
}

/// Coverage of one process towards one provider host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoverageRow {
    /// Who.
    pub workload: Arc<Workload>,
    /// Provider from the directory; `None` while only an address or a lookup points at it.
    pub provider: Option<Arc<str>>,
    /// Host name.
    pub host: Arc<str>,
    /// Verdict.
    pub verdict: Coverage,
    /// First sight of the process talking to the host.
    pub first_seen: UnixNanos,
    /// When its probes were live; `None` while they are not.
    pub armed_at: Option<UnixNanos>,
    /// Exchanges metered, those without usage included.
    pub exchanges: u64,
    /// Calls missed because they went by before arming.
    pub late_attach: u64,
    /// File name of the TLS library that carries the probes.
    pub library: Option<Arc<str>>,
}

/// State of the tap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapSnapshot {
    /// Taps open at the moment.
    pub open_now: u64,
    /// Taps opened since start.
    pub opened: u64,
    /// Share of the time since start during which at least one was open, parts per million.
    pub open_ppm: u64,
}

/// Times from the event that made a process wanted to its probes being live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArmingSnapshot {
    /// Processes armed since start.
    pub count: u64,
    /// Median of the last 1,024, ns.
    pub p50_ns: Option<u64>,
    /// 99th percentile of the last 1,024, ns.
    pub p99_ns: Option<u64>,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct CaptureSnapshot {
    /// Programs are loaded, tracepoints attached, the attacher alive.
    pub armed: bool,
    /// The attacher was there and is gone.
    pub lost: bool,
    /// Kernel counters, summed over CPUs, every [`Counter`] in order.
    pub counters: Vec<(Counter, u64)>,
    /// Drops of user space by reason, zeros included.
    pub losses: Vec<(Loss, u64)>,
    /// What else was counted, zeros included.
    pub tallies: Vec<(Tally, u64)>,
    /// Bytes that reached the pipeline and were not metered, by its reason.
    pub unmetered: Vec<(Reason, u64)>,
    /// Coverage, first seen first.
    pub coverage: Vec<CoverageRow>,
    /// Tap.
    pub tap: TapSnapshot,
    /// Arming.
    pub arming: ArmingSnapshot,
    /// Attachments waiting to be detached, as of the attacher's last answer.
    pub detach_backlog: u64,
    /// Limits in force, from the attacher.
    pub limits: Vec<Limit>,
    /// The attacher's explanation of the first limit that stops capture.
    pub detail: String,
    /// Loaded programs as the kernel reports them: the proof of read-only.
    pub programs: Vec<LoadedProgram>,
    /// How often the kernel skipped a program, by its id; programs it does not tell of are missing.
    pub skipped: BTreeMap<u32, u64>,
    /// Start to armed, ns.
    pub took_ns: u64,
    /// Effective capabilities of the attacher.
    pub attacher_capabilities: u64,
    /// Process id of the attacher.
    pub attacher_pid: Option<u32>,
}

/// Shared by the threads of capture; read by the API.
#[derive(Default)]
pub struct CaptureStatus {
    armed: AtomicBool,
    lost: AtomicBool,
    losses: [AtomicU64; Loss::ALL.len()],
    tallies: [AtomicU64; Tally::ALL.len()],
    detach_backlog: AtomicU64,
    counters: Mutex<Vec<u64>>,
    unmetered: Mutex<BTreeMap<Reason, u64>>,
    coverage: ArcSwap<Vec<CoverageRow>>,
    exchanges: Mutex<HashMap<(ProcessKey, Arc<str>), Metered>>,
    tap: Mutex<TapSnapshot>,
    arming: Mutex<Arming>,
    greeting: Mutex<Option<GreetingFacts>>,
    skipped: Mutex<BTreeMap<u32, u64>>,
}

#[derive(Clone, Copy, Default)]
struct Metered {
    exchanges: u64,
    late: u64,
}

#[derive(Default)]
struct Arming {
    count: u64,
    last: Vec<u64>,
}

struct GreetingFacts {
    limits: Vec<Limit>,
    detail: String,
    programs: Vec<LoadedProgram>,
    took_ns: u64,
    capabilities: u64,
    pid: u32,
}

/// Arming times kept for the percentiles.
const ARMING_SAMPLES_MAX: usize = 1024;
/// Processes with a host whose exchanges are counted; beyond it the oldest information of the API is the sum only.
const METERED_MAX: usize = 16_384;

impl CaptureStatus {
    /// Nothing armed, nothing counted.
    pub fn new() -> Arc<CaptureStatus> {
        Arc::new(CaptureStatus::default())
    }

    /// Keeps what the attacher said of itself.
    pub fn greeted(&self, hello: &Hello, pid: u32) {
        let known = |count: u32, max: usize| (count as usize).min(max);
        let detail = &hello.detail[..known(hello.detail_len, hello.detail.len())];
        let facts = GreetingFacts {
            limits: hello.limits[..known(hello.limit_count, LIMITS_MAX)]
                .iter()
                .filter_map(|wire| Limit::from_wire(*wire))
                .collect(),
            detail: String::from_utf8_lossy(detail).into_owned(),
            programs: hello.programs[..known(hello.program_count, PROGRAMS_MAX)].to_vec(),
            took_ns: hello.took_ns,
            capabilities: hello.capabilities,
            pid,
        };
        *lock(&self.greeting) = Some(facts);
    }

    /// Sets whether capture is armed.
    pub fn set_armed(&self, armed: bool) {
        self.armed.store(armed, Ordering::Release);
    }

    /// The attacher is gone.
    pub fn set_lost(&self) {
        self.lost.store(true, Ordering::Release);
        self.set_armed(false);
    }

    /// Counts a loss.
    pub fn lost(&self, loss: Loss, count: u64) {
        self.losses[loss as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Sets a loss that somebody else counts.
    pub fn lost_in_all(&self, loss: Loss, count: u64) {
        self.losses[loss as usize].store(count, Ordering::Relaxed);
    }

    /// Sets how often the kernel skipped a program.
    pub fn skipped(&self, program: u32, count: u64) {
        let mut all = lock(&self.skipped);
        all.insert(program, count);
        self.lost_in_all(Loss::ProgramSkipped, all.values().sum());
    }

    /// Counts something else.
    pub fn count(&self, tally: Tally, count: u64) {
        self.tallies[tally as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Bytes that the pipeline did not meter.
    pub fn unmetered(&self, reason: Reason, bytes: u64) {
        *lock(&self.unmetered).entry(reason).or_default() += bytes;
    }

    /// Counts a record for its process and host.
    pub fn recorded(&self, record: &Record) {
        let Subject::Exchange(exchange) = &record.subject else { return };
        let mut table = lock(&self.exchanges);
        if table.len() >= METERED_MAX {
            table.clear();
        }
        let metered = table.entry((record.workload.process, Arc::clone(&exchange.host))).or_default();
        metered.exchanges += 1;
        if exchange.reason == Some(Reason::LateAttach) {
            metered.late += 1;
        }
    }

    /// Replaces the coverage table.
    pub fn set_coverage(&self, rows: Vec<CoverageRow>) {
        self.coverage.store(Arc::new(rows));
    }

    /// Replaces the tap's state.
    pub fn set_tap(&self, tap: TapSnapshot) {
        *lock(&self.tap) = tap;
    }

    /// Replaces the kernel counters (index: [`Counter`]).
    pub fn set_counters(&self, counters: Vec<u64>) {
        *lock(&self.counters) = counters;
    }

    /// Attachments waiting to be detached.
    pub fn set_detach_backlog(&self, backlog: u32) {
        self.detach_backlog.store(u64::from(backlog), Ordering::Relaxed);
    }

    /// A process was armed `took` ns after the event that made it wanted.
    pub fn armed_after(&self, took: u64) {
        let mut arming = lock(&self.arming);
        let index = usize::try_from(arming.count).unwrap_or_default() % ARMING_SAMPLES_MAX;
        arming.count += 1;
        match arming.last.get_mut(index) {
            Some(slot) => *slot = took,
            None => arming.last.push(took),
        }
    }

    /// Everything at this moment.
    pub fn snapshot(&self) -> CaptureSnapshot {
        let counters = lock(&self.counters).clone();
        let mut snapshot = CaptureSnapshot {
            armed: self.armed.load(Ordering::Acquire),
            lost: self.lost.load(Ordering::Acquire),
            counters: Counter::ALL
                .iter()
                .map(|c| (*c, counters.get(*c as usize).copied().unwrap_or_default()))
                .collect(),
            losses: Loss::ALL
                .iter()
                .filter(|loss| **loss != Loss::ProgramSkipped || !lock(&self.skipped).is_empty())
                .map(|l| (*l, self.losses[*l as usize].load(Ordering::Relaxed)))
                .collect(),
            tallies: Tally::ALL
                .iter()
                .map(|t| (*t, self.tallies[*t as usize].load(Ordering::Relaxed)))
                .collect(),
            unmetered: lock(&self.unmetered).iter().map(|(reason, bytes)| (*reason, *bytes)).collect(),
            coverage: self.coverage(),
            tap: *lock(&self.tap),
            arming: lock(&self.arming).snapshot(),
            detach_backlog: self.detach_backlog.load(Ordering::Relaxed),
            skipped: lock(&self.skipped).clone(),
            ..CaptureSnapshot::default()
        };
        if let Some(facts) = &*lock(&self.greeting) {
            snapshot.limits.clone_from(&facts.limits);
            snapshot.detail.clone_from(&facts.detail);
            snapshot.programs.clone_from(&facts.programs);
            snapshot.took_ns = facts.took_ns;
            snapshot.attacher_capabilities = facts.capabilities;
            snapshot.attacher_pid = Some(facts.pid);
        }
        snapshot
    }

    /// The coverage table with its counts.
    pub fn coverage(&self) -> Vec<CoverageRow> {
        let metered = lock(&self.exchanges);
        let mut rows = (**self.coverage.load()).clone();
        for row in &mut rows {
            if let Some(counts) = metered.get(&(row.workload.process, Arc::clone(&row.host))) {
                row.exchanges = counts.exchanges.saturating_sub(counts.late);
                row.late_attach = row.late_attach.max(counts.late);
            }
        }
        rows
    }
}

impl Arming {
    fn snapshot(&self) -> ArmingSnapshot {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
        };
        ArmingSnapshot { count: self.count, p50_ns: at(50), p99_ns: at(99) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `CLOCK_MONOTONIC`, the clock of the kernel's records.
pub fn monotonic() -> Moment {
    Moment(clock(nix::time::ClockId::CLOCK_MONOTONIC))
}

/// `CLOCK_REALTIME`.
pub fn realtime() -> UnixNanos {
    UnixNanos(clock(nix::time::ClockId::CLOCK_REALTIME))
}

/// The translation from one to the other as of now; it changes when the wall clock is set.
pub fn wall_clock() -> meter::time::WallClock {
    meter::time::WallClock { offset_ns: realtime().0.saturating_sub(monotonic().0) }
}

fn clock(id: nix::time::ClockId) -> u64 {
    // Both clocks exist on every Linux; 0 would only make durations unknown.
    let Ok(time) = nix::time::clock_gettime(id) else { return 0 };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_cover_the_last_samples_only() {
        let status = CaptureStatus::new();
        assert_eq!(status.snapshot().arming, ArmingSnapshot::default());
        for _ in 0..ARMING_SAMPLES_MAX {
            status.armed_after(1_000_000);
        }
        for _ in 0..ARMING_SAMPLES_MAX {
            status.armed_after(5);
        }
        let expected =
            ArmingSnapshot { count: 2 * ARMING_SAMPLES_MAX as u64, p50_ns: Some(5), p99_ns: Some(5) };
        assert_eq!(status.snapshot().arming, expected);
    }

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let status = CaptureStatus::new();
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            status.lost(loss, index as u64 + 1);
        }
        for (index, tally) in Tally::ALL.into_iter().enumerate() {
            status.count(tally, index as u64 + 1);
        }
        let snapshot = status.snapshot();
        assert!(snapshot.losses.iter().enumerate().all(|(index, (_, count))| *count == index as u64 + 1));
        assert!(snapshot.tallies.iter().enumerate().all(|(index, (_, count))| *count == index as u64 + 1));
        let names: std::collections::HashSet<_> =
            Loss::ALL.iter().map(|l| l.as_str()).chain(Tally::ALL.iter().map(|t| t.as_str())).collect();
        assert_eq!(names.len(), Loss::ALL.len() + Tally::ALL.len());
    }
}
