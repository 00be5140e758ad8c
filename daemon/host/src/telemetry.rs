//! What the daemon says of itself: its log, and every limitation in force with its effect and its remedy.
//!
//! A limitation is a [`Degradation`], a closed enum: whatever makes an answer incomplete has a variant that reaches
//! `status`, `doctor` and metrics. Those of severity *note* cost nothing that is asked for; the others make the node
//! `degraded`. Payload never reaches a log; identifiers go into fields.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use abi::attacher::Limit;
use arc_swap::ArcSwap;
use meter::attribution::OwnerIndex;
use meter::pricing::{Catalogue, PriceState};
use meter::time::UnixNanos;
use store::{CommitError, Durability, StoreState, Stores};
use tracing_subscriber::EnvFilter;

use crate::capture::status::{CaptureSnapshot, CaptureStatus};
use crate::config::{Log, Scope, TapMode};
use crate::writer::Figures;

/// Reports a panic by its place alone. Its message may quote what was being parsed (a string index out of bounds shows
/// the string), and payload must not reach a log.
pub fn keep_panics_quiet() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let line = panic_line(panic.location(), thread.name());
        // Nothing can be done if stderr is closed.
        let _ = writeln!(std::io::stderr(), "{line}");
    }));
}

/// What is said of a panic: by construction nothing of its message.
fn panic_line(place: Option<&std::panic::Location<'_>>, thread: Option<&str>) -> String {
    let thread = thread.unwrap_or("unnamed");
    match place {
        Some(place) => format!("venturid: thread {thread} panicked at {}:{}", place.file(), place.line()),
        None => format!("venturid: thread {thread} panicked"),
    }
}

/// Sends our own log to stderr. `RUST_LOG` wins over the configuration. Later calls do nothing.
pub fn log_to_stderr(log: Log) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        // Our own crates at the level asked for; libraries only when something is wrong.
        EnvFilter::new(format!("warn,host={0},store={0},meter={0},venturid={0}", log.level))
    });
    // Colour only where a person looks and did not ask for none (https://no-color.org).
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let format =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    // Fails only if a subscriber is set already, as in tests.
    let _ = if log.json { format.json().try_init() } else { format.with_target(false).try_init() };
}

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureMode {
    /// The kernel.
    Live,
    /// A recorded capture.
    Replay,
    /// Nowhere: only the store is served.
    Off,
}

impl CaptureMode {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            CaptureMode::Live => "live",
            CaptureMode::Replay => "replay",
            CaptureMode::Off => "off",
        }
    }
}

/// How bad a limitation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is missing; something is slower or less confined.
    Note,
    /// Something is missing.
    Degraded,
}

impl Severity {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Degraded => "degraded",
        }
    }
}

/// A limitation in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Degradation {
    /// The attacher could not be started, or said why it loaded nothing.
    CaptureUnavailable {
        /// In words.
        why: String,
    },
    /// A limit that the attacher reported, with its own words where it has some.
    Capture(Limit, String),
    /// The attacher died.
    CaptureLost,
    /// What is shown comes from a recorded capture.
    Replaying,
    /// Main runs with the rights it was started with, because it was not started by root.
    NotConfined,
    /// A tenant's database was moved aside.
    Quarantined {
        /// Which.
        tenant: String,
        /// What the store says.
        detail: String,
    },
    /// A tenant has no database at the moment.
    StoreFailed {
        /// Which.
        tenant: String,
        /// What the store says.
        detail: String,
    },
    /// A tenant's disk does not answer.
    StoreStuck {
        /// Which.
        tenant: String,
        /// Since when.
        since: UnixNanos,
    },
    /// A database is several times as large as what is in it.
    StoreBloated {
        /// Whose.
        tenant: String,
        /// Bytes on disk.
        disk_bytes: u64,
        /// Bytes of records.
        records_bytes: u64,
    },
    /// A flush may not survive power loss.
    NotDurable {
        /// Which tenant.
        tenant: String,
        /// What the store says.
        detail: String,
    },
    /// Records are counted, not stored, because free space is below the reserve.
    DiskFull {
        /// Bytes free for us.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },
    /// Records are counted, not stored, because their tenant has no store.
    NoStore {
        /// Which.
        tenant: String,
    },
    /// The price catalogue has expired.
    StalePrices,
    /// The owner index is too old: records get no owner.
    StaleIndex,
    /// The kernel could not be asked for processes and connections older than the daemon.
    NoInventory {
        /// Why.
        why: String,
    },
}

impl Degradation {
    /// Stable snake-case name.
    pub fn kind(&self) -> String {
        match self {
            Degradation::CaptureUnavailable { .. } => "capture_unavailable".into(),
            Degradation::Capture(limit, _) => snake_case(limit.variant_name()),
            Degradation::CaptureLost => "capture_lost".into(),
            Degradation::Replaying => "replaying".into(),
            Degradation::NotConfined => "not_confined".into(),
            Degradation::Quarantined { .. } => "store_quarantined".into(),
            Degradation::StoreFailed { .. } => "store_failed".into(),
            Degradation::StoreStuck { .. } => "store_stuck".into(),
            Degradation::StoreBloated { .. } => "store_bloated".into(),
            Degradation::NotDurable { .. } => "not_durable".into(),
            Degradation::DiskFull { .. } => "disk_full".into(),
            Degradation::NoStore { .. } => "no_store_for_tenant".into(),
            Degradation::StalePrices => "stale_prices".into(),
            Degradation::StaleIndex => "stale_index".into(),
            Degradation::NoInventory { .. } => "no_inventory".into(),
        }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Degradation::Capture(Limit::NoUprobeMulti | Limit::NoWarmEvent | Limit::MainNeedsCapBpf, _)
            | Degradation::NotConfined
            | Degradation::StoreBloated { .. }
            | Degradation::StalePrices => Severity::Note,
            _ => Severity::Degraded,
        }
    }

    /// The tenant whose business it is, if it is not the node's.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Degradation::Quarantined { tenant, .. }
            | Degradation::StoreFailed { tenant, .. }
            | Degradation::StoreStuck { tenant, .. }
            | Degradation::StoreBloated { tenant, .. }
            | Degradation::NotDurable { tenant, .. }
            | Degradation::NoStore { tenant } => Some(tenant),
            _ => None,
        }
    }

    /// What is lost by it, and what to do.
    pub fn words(&self) -> (String, String) {
        let (effect, remedy) = match self {
            Degradation::CaptureUnavailable { why } => (
                format!("nothing is captured: {why}"),
                "start venturid as root with venturi-attach beside it",
            ),
            Degradation::Capture(limit, detail) => {
                let (effect, remedy) = limit_words(*limit);
                let effect =
                    if detail.is_empty() { effect.to_owned() } else { format!("{effect}: {detail}") };
                (effect, remedy)
            }
            Degradation::CaptureLost => {
                ("nothing is captured any more: venturi-attach has ended".into(), "restart venturid")
            }
            Degradation::Replaying => (
                "records come from a recorded capture, not from this node".into(),
                "start venturid without --replay",
            ),
            Degradation::NotConfined => (
                "main runs as the user who started it".into(),
                "start venturid as root: it gives up root's rights itself",
            ),
            Degradation::Quarantined { tenant, detail } => (
                format!("older records of tenant {tenant} are not shown: {detail}"),
                "look at the database that was moved aside in the state directory",
            ),
            Degradation::StoreFailed { tenant, detail } => (
                format!("records of tenant {tenant} are counted, not stored, and none are shown: {detail}"),
                "nothing if it passes: the database is tried again by itself; else see the state directory's disk",
            ),
            Degradation::StoreStuck { tenant, .. } => (
                format!(
                    "the disk does not answer: records of tenant {tenant} wait, then are counted, and none are shown"
                ),
                "look at the disk of the state directory; storing goes on by itself",
            ),
            Degradation::StoreBloated { tenant, disk_bytes, records_bytes } => (
                format!(
                    "the database of tenant {tenant} takes {} MiB for {} MiB of records",
                    disk_bytes >> 20,
                    records_bytes >> 20
                ),
                "nothing is missing; it gives back space by and by, a restart helps",
            ),
            Degradation::NotDurable { tenant, detail } => (
                format!("records of tenant {tenant} may be lost with the machine's power: {detail}"),
                "run venturid with its system call filter, on a file system whose fsync works",
            ),
            Degradation::DiskFull { free, reserve } => (
                format!(
                    "records are counted, not stored: {} MiB are free, {} MiB are kept in reserve",
                    free >> 20,
                    reserve >> 20
                ),
                "free space on the disk of the state directory, or lower store.reserve_mib; storing goes on by itself",
            ),
            Degradation::NoStore { tenant } => (
                format!("records of tenant {tenant} are counted, not stored: it has no store"),
                "add the tenant to the configuration and restart venturid",
            ),
            Degradation::StalePrices => (
                "prices may have changed since the catalogue expired".into(),
                "install a newer release or catalogue",
            ),
            Degradation::StaleIndex => {
                ("records get no owner (index_stale)".into(), "see the log for the index builder")
            }
            Degradation::NoInventory { why } => (
                format!("connections and processes older than the daemon are not known: {why}"),
                "start venturid as root",
            ),
        };
        (effect, remedy.to_owned())
    }
}

fn limit_words(limit: Limit) -> (&'static str, &'static str) {
    match limit {
        Limit::MissingCapability => (
            "nothing is captured",
            "start as root with CAP_BPF, CAP_PERFMON, CAP_NET_RAW, CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE",
        ),
        Limit::NoTracefs => ("nothing is captured", "mount -t tracefs tracefs /sys/kernel/tracing"),
        Limit::KernelTooOld => ("nothing is captured", "use Linux 5.8 or newer with BPF enabled"),
        Limit::GateRefused => {
            ("nothing is captured: the programs are not read-only", "reinstall venturi; report this")
        }
        Limit::LoadRefused => {
            ("nothing is captured: the kernel refused a program", "report this with `uname -r`")
        }
        Limit::ReadBackDiffers => (
            "nothing is captured: the kernel holds other programs than were approved",
            "report this with `uname -r`",
        ),
        Limit::NoBtf => (
            "bytes of connections and start times of processes are unknown",
            "use a kernel with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux)",
        ),
        Limit::NoUprobeMulti => {
            ("arming a process takes a few ms more", "nothing is missing; Linux 6.10 and newer do better")
        }
        Limit::NoTap => ("no host names from the wire", "grant CAP_NET_RAW to venturi-attach"),
        Limit::NoWarmEvent => {
            ("arming a process takes up to 30 ms", "lower kernel.perf_event_paranoid to 2 or less")
        }
        Limit::NoObject => {
            ("nothing is captured: no probes for this architecture", "install the package for this machine")
        }
        Limit::NoTracepoint => {
            ("part of the connections or processes is not seen", "use a kernel with CONFIG_TRACEPOINTS")
        }
        Limit::NoUprobes => (
            "no TLS call is captured: the kernel refuses probes to a process without CAP_SYS_ADMIN",
            "sysctl kernel.perf_event_paranoid=2, or use Linux 6.10 or newer",
        ),
        Limit::MainNeedsCapBpf => (
            "main keeps CAP_BPF behind its system call filter",
            "nothing is missing; Linux 5.19 and newer do without",
        ),
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// Everything that status is made of. One per daemon, shared.
pub struct Telemetry {
    /// When the daemon started.
    pub started_at: UnixNanos,
    /// Where events come from.
    pub mode: CaptureMode,
    /// `capture.scope`.
    pub scope: Scope,
    /// `capture.tap`.
    pub tap: TapMode,
    /// Figures of capture.
    pub capture: Arc<CaptureStatus>,
    /// Figures of the writer.
    pub writer: Arc<Figures>,
    /// The stores.
    pub stores: Stores,
    /// The owner index in force.
    pub index: Arc<ArcSwap<OwnerIndex>>,
    /// The price catalogue in force.
    pub catalogue: Arc<Catalogue>,
    /// What was found out at start and holds until the end.
    pub at_start: Vec<Degradation>,
    /// When each kind of limitation was first seen.
    pub first_seen: Mutex<BTreeMap<String, UnixNanos>>,
}

impl Telemetry {
    /// Every limitation in force, with the time since when it is known.
    pub fn degradations(&self, capture: &CaptureSnapshot, now: UnixNanos) -> Vec<(Degradation, UnixNanos)> {
        let mut all = self.at_start.clone();
        if capture.lost {
            all.push(Degradation::CaptureLost);
        }
        if self.mode != CaptureMode::Replay {
            // The attacher explains the first limit that stops capture.
            let mut detail = capture.detail.clone();
            for limit in &capture.limits {
                all.push(Degradation::Capture(*limit, std::mem::take(&mut detail)));
            }
        }
        for state in self.stores.states() {
            let tenant = state.tenant.as_str().to_owned();
            if let Some(stuck_for) = state.stuck_for {
                let nanos = u64::try_from(stuck_for.as_nanos()).unwrap_or(u64::MAX);
                let since = UnixNanos(now.0.saturating_sub(nanos));
                all.push(Degradation::StoreStuck { tenant: tenant.clone(), since });
            }
            let detail = state.detail;
            match state.state {
                StoreState::Quarantined => all.push(Degradation::Quarantined { tenant, detail }),
                StoreState::Failed => all.push(Degradation::StoreFailed { tenant, detail }),
                _ if state.durability == Durability::Degraded => {
                    all.push(Degradation::NotDurable { tenant, detail });
                }
                _ if is_bloated(state.database_bytes, state.records_bytes) => {
                    let (disk_bytes, records_bytes) = (state.database_bytes, state.records_bytes);
                    all.push(Degradation::StoreBloated { tenant, disk_bytes, records_bytes });
                }
                _ => {}
            }
        }
        all.extend(self.writer.trouble().and_then(not_committed));
        let stale = self.catalogue.state(now) == PriceState::Stale;
        all.extend(stale.then_some(Degradation::StalePrices));
        all.extend(self.index.load().is_stale(now).then_some(Degradation::StaleIndex));
        self.dated(all, now)
    }

    fn dated(&self, all: Vec<Degradation>, now: UnixNanos) -> Vec<(Degradation, UnixNanos)> {
        let mut first_seen = self.first_seen.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds: Vec<String> = all.iter().map(Degradation::kind).collect();
        first_seen.retain(|kind, _| kinds.contains(kind));
        all.into_iter()
            .zip(kinds)
            .map(|(entry, kind)| {
                let since = match entry {
                    Degradation::StoreStuck { since, .. } => since,
                    _ => *first_seen.entry(kind).or_insert(now),
                };
                (entry, since)
            })
            .collect()
    }
}

/// Why the last commit failed, unless the state of its store tells that already, and better: it may be well again before
/// the next commit.
fn not_committed(error: CommitError) -> Option<Degradation> {
    match error {
        CommitError::DiskFull { free, reserve } => Some(Degradation::DiskFull { free, reserve }),
        CommitError::NoSuchTenant(tenant) => Some(Degradation::NoStore { tenant }),
        CommitError::Failed(_) => None,
    }
}

/// A database of any size has some dead pages; beyond three times its records something is wrong with its cleaning.
fn is_bloated(database_bytes: u64, records_bytes: u64) -> bool {
    const ALWAYS_FINE: u64 = 64 << 20;
    database_bytes > ALWAYS_FINE.saturating_add(records_bytes.saturating_mul(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_reported_by_its_place() {
        let place = std::panic::Location::caller();
        let line = panic_line(Some(place), Some("shard-0"));
        assert_eq!(line, format!("venturid: thread shard-0 panicked at {}:{}", file!(), place.line()));
        assert_eq!(panic_line(None, None), "venturid: thread unnamed panicked");
    }

    #[test]
    fn a_failed_commit_is_one_limitation_with_its_own_remedy() {
        fn check(error: CommitError, expected: Option<(&str, &str)>) {
            let found = not_committed(error).map(|found| (found.kind(), found.words().1));
            match (found, expected) {
                (Some((kind, remedy)), Some((expected, about))) => {
                    assert_eq!(kind, expected);
                    assert!(remedy.contains(about), "{remedy}");
                }
                (found, expected) => assert_eq!(found.map(|(kind, _)| kind), expected.map(|it| it.0.into())),
            }
        }
        check(CommitError::DiskFull { free: 1, reserve: 2 << 20 }, Some(("disk_full", "store.reserve_mib")));
        check(
            CommitError::NoSuchTenant("acme".into()),
            Some(("no_store_for_tenant", "add the tenant to the configuration")),
        );
        // `store_failed` says it, with the tenant.
        check(CommitError::Failed("Input/output error".into()), None);
    }

    #[test]
    fn every_limit_has_a_stable_name_an_effect_and_a_remedy() {
        let mut kinds = std::collections::BTreeSet::new();
        for limit in Limit::ALL {
            let degradation = Degradation::Capture(*limit, "in words".into());
            let (effect, remedy) = degradation.words();
            assert!(effect.ends_with(": in words") && !remedy.is_empty(), "{limit:?}");
            kinds.insert(degradation.kind());
        }
        assert_eq!(kinds.len(), Limit::ALL.len());
        assert!(kinds.contains("no_uprobe_multi") && kinds.contains("main_needs_cap_bpf"), "{kinds:?}");
    }
}
