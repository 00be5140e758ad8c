//! What a store says of itself: published by whoever changes it, so that asking waits for no disk.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use meter::attribution::TenantName;
use meter::time::UnixNanos;

use crate::database::QUARANTINE;
use crate::layout::DATABASE;
use crate::life::{Housed, Mark, Slot, Tally};
use crate::retention::oldest_hour;
use crate::rollup::HOUR_NS;
use crate::state::{Durability, StoreState, TenantState};
use crate::tenant::{Tenant, lock};

/// A disk that has not answered for so long is said to be stuck.
const STUCK_AFTER: Duration = Duration::from_secs(3);

/// The store as it was when it last changed.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    tally: Tally,
    durability: Durability,
    failure: Option<String>,
}

impl Default for Published {
    fn default() -> Published {
        Published {
            tally: Tally::default(),
            durability: Durability::Degraded,
            failure: Some("not opened".into()),
        }
    }
}

impl Published {
    /// What the database holds.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }
}

/// The directory as it was when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    database_bytes: u64,
    aside_bytes: u64,
    aside: usize,
    aside_records: u64,
    oldest_hour: Option<u64>,
}

/// Work on the disk that has begun and not ended.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<Vec<Instant>>);

impl UnderWay {
    /// Work begins; it ends when the guard is dropped.
    pub(crate) fn begin(&self) -> WorkGuard<'_> {
        let began = Instant::now();
        self.all().push(began);
        WorkGuard { under_way: self, began }
    }

    /// For how long the oldest work has been going on.
    fn longest(&self) -> Option<Duration> {
        self.all().iter().min().map(Instant::elapsed)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct WorkGuard<'a> {
    under_way: &'a UnderWay,
    began: Instant,
}

impl Drop for WorkGuard<'_> {
    fn drop(&mut self) {
        let mut all = self.under_way.all();
        if let Some(place) = all.iter().position(|began| *began == self.began) {
            all.swap_remove(place);
        }
    }
}

impl Tenant {
    /// Makes known what the store is like now.
    pub(crate) fn publish(&self, housed: &Housed) {
        *lock(&self.published) = match &housed.slot {
            Slot::Open { database, tally } => {
                Published { tally: *tally, durability: database.durability, failure: None }
            }
            Slot::Failed { why, .. } => {
                Published { failure: Some(why.detail.clone()), ..Published::default() }
            }
        };
    }

    /// Looks at the directory; may take as long as the disk does.
    pub(crate) fn measure(&self) {
        let oldest_hour = self.read(|database, _| oldest_hour(database)).ok().flatten();
        let mut found = Measured { oldest_hour, ..Measured::default() };
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.contains(QUARANTINE) {
                found.aside += 1;
                found.aside_bytes += bytes_below(&entry.path(), 4);
                found.aside_records += Mark::read(&entry.path()).map_or(0, |mark| mark.records);
            } else if name == DATABASE {
                found.database_bytes += bytes_below(&entry.path(), 4);
            }
        }
        *lock(&self.measured) = found;
    }

    /// For how long the disk has not answered, if that is longer than a disk takes.
    pub(crate) fn stuck_for(&self) -> Option<Duration> {
        self.under_way.longest().filter(|longest| *longest >= STUCK_AFTER)
    }

    /// Answers at once.
    pub(crate) fn state(&self) -> TenantState {
        let Published { tally, durability, failure } = lock(&self.published).clone();
        let measured = *lock(&self.measured);
        let quarantined = lock(&self.quarantined).clone();
        let stuck_for = self.stuck_for();
        let sealed = self.name.as_str() == TenantName::UNASSIGNED;
        let state = match &failure {
            _ if stuck_for.is_some() => StoreState::Stuck,
            Some(_) => StoreState::Failed,
            None if !quarantined.is_empty() => StoreState::Quarantined,
            None if sealed => StoreState::Sealed,
            None => StoreState::Open,
        };
        let mut words = Vec::new();
        if let Some(stuck_for) = stuck_for {
            words.push(format!("the disk has not answered for {} s", stuck_for.as_secs()));
        }
        words.extend(failure.as_ref().map(|why| format!("no database: {why}")));
        if !quarantined.is_empty() {
            words.push(quarantined);
        } else if measured.aside > 0 {
            words.push(format!(
                "{} quarantined database(s) in {}: keep or delete them",
                measured.aside,
                self.dir.display()
            ));
        }
        let missing = self.missing.load(Ordering::Relaxed);
        if missing > 0 {
            words.push(format!(
                "{missing} stored records are gone: damage on disk; restore a backup if they matter"
            ));
        }
        if durability == Durability::Degraded && failure.is_none() {
            words.push("a flush was not seen to reach the disk: records may be lost with the power".into());
        }
        TenantState {
            tenant: self.name.clone(),
            state,
            key_custody: "local",
            records: tally.records,
            records_bytes: tally.bytes,
            oldest: measured.oldest_hour.map(|hour| UnixNanos(hour.saturating_mul(HOUR_NS))),
            database_bytes: measured.database_bytes,
            disk_bytes: measured.database_bytes + measured.aside_bytes,
            durability,
            stuck_for,
            detail: words.join("; "),
            retention: self.retention,
            recoveries: self.recoveries.load(Ordering::Relaxed),
            rows_refused: lock(&self.refused).len() as u64,
            records_lost: self.lost.load(Ordering::Relaxed),
            records_missing: missing,
            records_expired: tally.expired,
            records_aside: measured.aside_records,
        }
    }
}

fn bytes_below(dir: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && depth > 0 => bytes_below(&entry.path(), depth - 1),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
