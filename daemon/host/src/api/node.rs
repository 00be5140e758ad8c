//! Status and coverage of the node.
//!
//! Whoever has any grant gets the status, without the stores of tenants that are not theirs; the list of processes
//! belongs to operators, because it names other tenants' workloads.

use std::sync::Arc;

use abi::attacher::{Limit, LoadedProgram};
use abi::counter::Counter;
use meter::attribution::TenantName;
use meter::record::Coverage;
use meter::time::UnixNanos;
use proto::v1;
use proto::v1::node_server::Node;
use tonic::{Request, Response, Status};

use super::access::{Principal, Refusal};
use super::{Serving, convert};
use crate::capture::status::{CaptureSnapshot, CoverageRow, realtime};
use crate::doctor;
use crate::telemetry::{CaptureMode, Degradation, Severity, Telemetry};

/// Implements `Node`.
#[derive(Clone, Debug)]
pub(super) struct NodeQueries(pub(super) Arc<Serving>);

#[tonic::async_trait]
impl Node for NodeQueries {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::NodeStatus>, Status> {
        let principal = self.0.principal(&request)?;
        if !principal.is_granted() {
            return Err(self.0.refuse(&request, &Refusal::NotGranted));
        }
        let serving = Arc::clone(&self.0);
        // Reading /proc blocks. What is known of the stores was published by their writers: this waits for no disk.
        let status = tokio::task::spawn_blocking(move || node_status(&serving.telemetry, &principal)).await;
        status.map(Response::new).map_err(|_| Status::internal("the status could not be put together"))
    }

    async fn get_coverage(
        &self,
        request: Request<v1::GetCoverageRequest>,
    ) -> Result<Response<v1::Coverage>, Status> {
        if !self.0.principal(&request)?.sees_node() {
            return Err(self.0.refuse(&request, &Refusal::NotGranted));
        }
        let rows = self.0.telemetry.capture.coverage();
        Ok(Response::new(v1::Coverage { processes: rows.iter().map(process_coverage).collect() }))
    }
}

fn node_status(telemetry: &Telemetry, principal: &Principal) -> v1::NodeStatus {
    let now = realtime();
    let capture = telemetry.capture.snapshot();
    let mut degradations = telemetry.degradations(&capture, now);
    // Another tenant's name, directory and losses are not shown.
    let visible = |entry: &Degradation| match entry.tenant() {
        Some(tenant) => {
            principal.sees_node() || TenantName::new(tenant).is_some_and(|name| principal.reads(&name))
        }
        None => true,
    };
    degradations.retain(|(entry, _)| visible(entry));
    let degraded = degradations.iter().any(|(entry, _)| entry.severity() == Severity::Degraded);
    let armed = telemetry.mode == CaptureMode::Live && capture.armed && !capture.lost;
    let state = match (capture.lost, degraded) {
        (true, _) => "capture_lost",
        (false, true) => "degraded",
        (false, false) => "ok",
    };
    let covered = |wanted: fn(Coverage) -> bool| {
        capture.coverage.iter().filter(|row| wanted(row.verdict)).count() as u64
    };
    v1::NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: Some(convert::timestamp(telemetry.started_at)),
        capture_mode: telemetry.mode.as_str().to_owned(),
        armed,
        state: state.to_owned(),
        kernel: Some(kernel(telemetry, &capture)),
        degradations: degradations.iter().map(|(entry, since)| degradation(entry, *since)).collect(),
        losses: losses(telemetry, &capture),
        counters: counters(telemetry, &capture),
        programs: capture.programs.iter().map(program).collect(),
        processes: processes(&capture),
        tenants: tenants(telemetry, principal, now),
        catalogue: Some(catalogue(telemetry, now)),
        index: Some(index(telemetry)),
        tap: Some(v1::TapState {
            mode: telemetry.tap.as_str().to_owned(),
            open_now: capture.tap.open_now,
            opened: capture.tap.opened,
            open_ppm: capture.tap.open_ppm,
        }),
        processes_captured: covered(|verdict| verdict == Coverage::Captured),
        processes_metadata_only: covered(|verdict| matches!(verdict, Coverage::MetadataOnly(_))),
        processes_dark: covered(|verdict| matches!(verdict, Coverage::Dark(_))),
        capture_scope: telemetry.scope.as_str().to_owned(),
        not_armed_reason: if armed { String::new() } else { not_armed_reason(telemetry, &degradations) },
        records_pending: telemetry.writer.pending(),
    }
}

fn not_armed_reason(telemetry: &Telemetry, degradations: &[(Degradation, UnixNanos)]) -> String {
    let first = degradations.iter().find(|(entry, _)| entry.severity() == Severity::Degraded);
    match (first, telemetry.mode) {
        (Some((entry, _)), _) => entry.words().0,
        (None, CaptureMode::Live) => "probes are being attached".to_owned(),
        (None, _) => "capture is off".to_owned(),
    }
}

fn kernel(telemetry: &Telemetry, capture: &CaptureSnapshot) -> v1::Kernel {
    let greeted = telemetry.mode == CaptureMode::Live && capture.attacher_pid.is_some();
    v1::Kernel {
        release: crate::privileges::kernel_release().unwrap_or_default(),
        architecture: doctor::ARCHITECTURE.to_owned(),
        btf: doctor::has_btf(),
        tracefs: doctor::has_tracefs(),
        uprobe_multi: greeted.then(|| !capture.limits.contains(&Limit::NoUprobeMulti)),
    }
}

fn degradation(entry: &Degradation, since: UnixNanos) -> v1::Degradation {
    let (effect, remedy) = entry.words();
    v1::Degradation {
        kind: entry.kind(),
        effect,
        remedy,
        since: Some(convert::timestamp(since)),
        severity: entry.severity().as_str().to_owned(),
    }
}

fn counter(name: impl Into<String>, value: u64, unit: &str) -> v1::Counter {
    v1::Counter { name: name.into(), value, unit: unit.to_owned() }
}

/// Every loss by reason, zeros included: a reason that is not listed could not be told from one that never happened.
fn losses(telemetry: &Telemetry, capture: &CaptureSnapshot) -> Vec<v1::Counter> {
    let kernel = capture.counters.iter().filter(|(which, _)| is_loss(*which));
    let mut losses: Vec<v1::Counter> = kernel
        .map(|(which, value)| counter(format!("kernel_{}", kernel_name(*which)), *value, kernel_unit(*which)))
        .collect();
    losses.extend(capture.losses.iter().map(|(loss, value)| {
        let name = loss.as_str();
        counter(name, *value, if name.ends_with("_bytes") { "bytes" } else { "records" })
    }));
    losses.extend(telemetry.writer.losses().map(|(name, value)| counter(name, value, "records")));
    let unmetered = capture.unmetered.iter();
    losses.extend(
        unmetered.map(|(why, bytes)| counter(format!("unmetered_{}", why.as_str()), *bytes, "bytes")),
    );
    losses
}

fn counters(telemetry: &Telemetry, capture: &CaptureSnapshot) -> Vec<v1::Counter> {
    let kernel = capture.counters.iter().filter(|(which, _)| !is_loss(*which));
    let mut counters: Vec<v1::Counter> = kernel
        .map(|(which, value)| counter(format!("kernel_{}", kernel_name(*which)), *value, kernel_unit(*which)))
        .collect();
    counters.extend(capture.tallies.iter().map(|(tally, value)| counter(tally.as_str(), *value, "events")));
    counters.extend(telemetry.writer.counters().map(|(name, value, unit)| counter(name, value, unit)));
    counters.push(counter("detach_backlog", capture.detach_backlog, "attachments"));
    counters.push(counter("armed_processes", capture.arming.count, "processes"));
    let percentiles = [("arming_p50_ns", capture.arming.p50_ns), ("arming_p99_ns", capture.arming.p99_ns)];
    counters.extend(
        percentiles.into_iter().filter_map(|(name, value)| Some(counter(name, value?, "nanoseconds"))),
    );
    // One that was never skipped is told by the sum in the losses.
    counters.extend(capture.programs.iter().filter_map(|of| {
        let skipped = capture.skipped.get(&of.id).copied().filter(|count| *count > 0)?;
        Some(counter(format!("skipped_{}", program(of).name), skipped, "runs"))
    }));
    if capture.took_ns > 0 {
        counters.push(counter("start_to_armed_ns", capture.took_ns, "nanoseconds"));
    }
    counters
}

fn is_loss(which: Counter) -> bool {
    which.variant_name().starts_with("Lost") || which == Counter::CallTailBytesSkipped
}

/// `LostEventsRingFull` as `lost_events_ring_full`.
fn kernel_name(which: Counter) -> String {
    let mut name = String::new();
    for c in which.variant_name().chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

fn kernel_unit(which: Counter) -> &'static str {
    let name = which.variant_name();
    match which {
        _ if name.contains("Bytes") => "bytes",
        Counter::LostEventsRingFull | Counter::LostContentRingFull => "records",
        Counter::LostCallEntry | Counter::LostSessionsFull | Counter::LookupsSeen => "calls",
        Counter::LostFlowsFull | Counter::LostDatagramsFull => "connections",
        Counter::LostHelloSplit => "hellos",
        Counter::SessionsInserted
        | Counter::SessionsRemoved
        | Counter::ProgramsInserted
        | Counter::LookupsInserted
        | Counter::LookupsRemoved
        | Counter::VerdictsRemoved => "entries",
        _ if name.starts_with("Sessions") => "sessions",
        _ => "packets",
    }
}

fn program(of: &LoadedProgram) -> v1::LoadedProgram {
    let name = of.name.split(|byte| *byte == 0).next().unwrap_or_default();
    v1::LoadedProgram {
        id: of.id,
        name: String::from_utf8_lossy(name).into_owned(),
        r#type: program_type(of.prog_type),
        instructions: of.instructions,
        tag: of.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Names of `enum bpf_prog_type` that may be loaded; any other would be a violation, shown by number.
fn program_type(wire: u32) -> String {
    match wire {
        1 => "socket_filter".to_owned(),
        2 => "kprobe (uprobe)".to_owned(),
        5 => "tracepoint".to_owned(),
        17 => "raw_tracepoint".to_owned(),
        other => format!("type {other}"),
    }
}

fn processes(capture: &CaptureSnapshot) -> Vec<v1::ProcessPrivileges> {
    let main = doctor::privileges(std::process::id()).map(|found| ("main", found));
    let attacher = capture.attacher_pid.and_then(doctor::privileges).map(|found| ("attacher", found));
    let shown = |(role, found): (&str, doctor::Privileges)| v1::ProcessPrivileges {
        role: role.to_owned(),
        pid: found.pid,
        uid: found.uid,
        capabilities: found.capabilities,
        no_new_privs: found.no_new_privs,
        seccomp: found.seccomp,
        pss_bytes: found.pss_bytes,
        packet_sockets: found.packet_sockets,
        rss_bytes: found.rss_bytes,
    };
    main.into_iter().chain(attacher).map(shown).collect()
}

fn tenants(telemetry: &Telemetry, principal: &Principal, now: UnixNanos) -> Vec<v1::TenantState> {
    let states = telemetry.stores.states();
    let visible = states.into_iter().filter(|state| principal.sees_node() || principal.reads(&state.tenant));
    visible
        .map(|state| v1::TenantState {
            tenant: state.tenant.as_str().to_owned(),
            state: state.state.as_str().to_owned(),
            key_custody: state.key_custody.to_owned(),
            records: state.records,
            disk_bytes: state.disk_bytes,
            durability: state.durability.as_str().to_owned(),
            detail: state.detail,
            stuck_since: state.stuck_for.map(|stuck_for| {
                let nanos = u64::try_from(stuck_for.as_nanos()).unwrap_or(u64::MAX);
                convert::timestamp(UnixNanos(now.0.saturating_sub(nanos)))
            }),
            records_bytes: state.records_bytes,
            oldest: state.oldest.map(convert::timestamp),
            records_lost: state.records_lost,
            records_missing: state.records_missing,
            records_expired: state.records_expired,
            records_aside: state.records_aside,
            rows_refused: state.rows_refused,
            retention: Some(v1::Retention {
                records_seconds: state.retention.records_age.as_secs(),
                rollups_seconds: state.retention.rollups_age.as_secs(),
                records_bytes_max: state.retention.records_bytes_max,
            }),
        })
        .collect()
}

fn catalogue(telemetry: &Telemetry, now: UnixNanos) -> v1::CatalogueState {
    let catalogue = &telemetry.catalogue;
    v1::CatalogueState {
        version: catalogue.version(),
        source: catalogue.source().as_str().to_owned(),
        issued_at: Some(convert::timestamp(catalogue.issued_at())),
        expires_at: Some(convert::timestamp(catalogue.expires_at())),
        price_state: catalogue.state(now).as_str().to_owned(),
        prices: catalogue.entries() as u64,
    }
}

fn index(telemetry: &Telemetry) -> v1::IndexState {
    let index = telemetry.index.load();
    v1::IndexState {
        generation: index.generation(),
        built_at: Some(convert::timestamp(index.built_at())),
        max_staleness_ms: index.max_staleness_ns() / 1_000_000,
        rules: index.rules() as u64,
    }
}

fn process_coverage(row: &CoverageRow) -> v1::ProcessCoverage {
    let (verdict, reason) = convert::coverage(row.verdict);
    v1::ProcessCoverage {
        workload: Some(convert::workload(&row.workload)),
        provider: row.provider.as_deref().unwrap_or_default().to_owned(),
        host: row.host.to_string(),
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        first_seen: Some(convert::timestamp(row.first_seen)),
        armed_at: row.armed_at.map(convert::timestamp),
        exchanges: row.exchanges,
        late_attach: row.late_attach,
        library: row.library.as_deref().unwrap_or_default().to_owned(),
    }
}
