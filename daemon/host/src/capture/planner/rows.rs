//! The coverage table: how far the calls of each process to each of its hosts are seen.
//!
//! A host of a process has a row from the first sign of it on, whatever became of its calls, and keeps it for a while
//! after the process ended.

use super::*;

/// Hosts of one process that have a row of their own.
const HOSTS_MAX: usize = 64;

/// Coverage of a process towards a host, without its workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who.
    pub process: ProcessKey,
    /// Provider.
    pub provider: Option<Arc<str>>,
    /// Host.
    pub host: Arc<str>,
    /// Verdict.
    pub verdict: Coverage,
    /// First sight.
    pub first_seen: Moment,
    /// When its probes were live.
    pub armed_at: Option<Moment>,
    /// Calls missed.
    pub late_attach: u64,
    /// File name of the library that carries the probes.
    pub library: Option<Arc<str>>,
}

/// What is known of a process towards one host.
#[derive(Debug)]
pub(super) struct HostState {
    pub(super) first_seen: Moment,
    pub(super) late: u64,
    pub(super) captured: bool,
    pub(super) metadata: Option<Reason>,
}

impl Planner {
    /// The coverage table if it changed since the last call, first seen first.
    pub fn changed_rows(&mut self) -> Option<Vec<Row>> {
        if !std::mem::take(&mut self.rows_changed) {
            return None;
        }
        let mut rows = self.past_rows.clone();
        rows.extend(self.processes.values().flat_map(|process| self.rows_of(process)));
        rows.sort_by_key(|row| (row.first_seen, row.process));
        Some(rows)
    }

    /// True if [`Planner::changed_rows`] has something to say.
    pub fn has_changed_rows(&self) -> bool {
        self.rows_changed
    }

    pub(super) fn note_host(&mut self, pid: u32, host: &Arc<str>, at: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.hosts.contains_key(host) || process.hosts.len() >= HOSTS_MAX {
            return;
        }
        let state = HostState { first_seen: at, late: 0, captured: false, metadata: None };
        process.hosts.insert(Arc::clone(host), state);
        self.rows_changed = true;
    }

    /// The coverage of one process towards each of its hosts.
    pub(super) fn rows_of(&self, process: &Process) -> Vec<Row> {
        let row = |(host, state): (&Arc<str>, &HostState)| Row {
            process: process.key,
            provider: self.provider(host),
            host: Arc::clone(host),
            verdict: process.verdict(state, self.options.scope),
            first_seen: state.first_seen,
            armed_at: process.armed_at,
            late_attach: state.late,
            library: process.library.clone(),
        };
        process.hosts.iter().map(row).collect()
    }
}

impl Process {
    fn verdict(&self, host: &HostState, scope: Scope) -> Coverage {
        match (scope, host.metadata, self.armed_at, self.dark) {
            (Scope::Off, ..) => Coverage::Dark(DarkReason::SwitchedOff),
            (_, Some(reason), ..) if !host.captured => Coverage::MetadataOnly(reason),
            (_, _, Some(_), _) => Coverage::Captured,
            (_, _, None, Some(reason)) => Coverage::Dark(reason),
            (_, _, None, None) => Coverage::MetadataOnly(Reason::LateAttach),
        }
    }
}
