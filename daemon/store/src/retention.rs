//! Expiry: records by age and by size, roll-ups by age alone and later, so that old spend stays known when its calls are
//! gone.
//!
//! Deleted in batches, oldest first, each atomic with the tally that counts it and flushed before the next: what has
//! expired stays so after a crash, and a store that is being emptied stores and answers in between. Nothing is deleted
//! because a disk is full: that is for whoever set the limits.

use std::time::Duration;

use meter::time::UnixNanos;

use crate::database::{Change, Database, Failed};
use crate::life::{Slot, Tally, row_bytes};
use crate::rollup::HOUR_NS;
use crate::rows::{META, commit_bounds, hour_of_id, id_bounds, id_of, record_key, rollup_bounds};
use crate::seal::Row;
use crate::tenant::Tenant;

/// Rows deleted under one hold of the lock.
const BATCH_ROWS: usize = 512;

/// How long and how much of a tenant is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Records that started longer ago are deleted, hour by hour.
    pub records_age: Duration,
    /// Hourly sums that are older are deleted. Not shorter than `records_age`.
    pub rollups_age: Duration,
    /// Bytes of records, as sealed, beyond which the oldest are deleted. The files of a database are larger: it gives
    /// back space by and by.
    pub records_bytes_max: u64,
}

impl Default for Retention {
    /// 30 days and 1 GiB of records; 400 days of sums, so that a year can be compared with the one before.
    fn default() -> Retention {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Retention { records_age: days(30), rollups_age: days(400), records_bytes_max: 1 << 30 }
    }
}

impl Retention {
    /// First hour of which records are kept, and of which roll-ups are.
    fn first_hours(&self, now: UnixNanos) -> (u64, u64) {
        let first =
            |age: Duration| now.0.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)) / HOUR_NS;
        (first(self.records_age), first(self.rollups_age.max(self.records_age)))
    }
}

impl Tenant {
    /// Deletes what has expired by `now`, until nothing has or the database fails.
    pub(crate) fn expire(&self, now: UnixNanos) {
        loop {
            let more = {
                let _under_way = self.under_way.begin();
                let mut housed = self.gate.write();
                self.revive(&mut housed);
                let result = match &mut housed.slot {
                    Slot::Open { database, tally } => self.expire_batch(database, tally, now),
                    Slot::Failed { .. } => Ok(false),
                };
                let more = result.unwrap_or_else(|why| {
                    self.fail(&mut housed, why);
                    false
                });
                self.publish(&housed);
                more
            };
            if !more {
                return;
            }
        }
    }

    /// Deletes one batch; false if there was nothing to delete.
    fn expire_batch(&self, database: &Database, tally: &mut Tally, now: UnixNanos) -> Result<bool, Failed> {
        let (first_hour, first_rollup_hour) = self.retention.first_hours(now);
        let mut after = *tally;
        let mut rows = Vec::new();
        let (first, last) = id_bounds(0, u64::MAX);
        database.scan(&record_key(first), &record_key(last), false, |key, frame| {
            let hour = id_of(key).map_or(0, hour_of_id);
            if rows.len() == BATCH_ROWS
                || hour >= first_hour && after.bytes <= self.retention.records_bytes_max
            {
                return false;
            }
            rows.push((key.to_vec(), None));
            after.records = after.records.saturating_sub(1);
            after.bytes = after.bytes.saturating_sub(row_bytes(key, frame));
            after.expired = after.expired.saturating_add(1);
            after.horizon = after.horizon.max(hour + 1);
            true
        })?;
        if rows.is_empty() && first_rollup_hour > 0 {
            let (from, to) = rollup_bounds(0, first_rollup_hour - 1);
            database.scan(&from, &to, false, |key, _| {
                rows.push((key.to_vec(), None));
                rows.len() < BATCH_ROWS
            })?;
        }
        if rows.is_empty() {
            rows = self.commits_of_nothing(database)?;
        }
        if rows.is_empty() {
            return Ok(false);
        }
        let meta = self.sealer.seal(Row::Meta, META, &after.encode());
        let meta = meta.map_err(|_| Failed::around("the cipher library failed"))?;
        rows.push((META.to_vec(), Some(meta)));
        database.apply(rows)?;
        database.flush()?;
        *tally = after;
        self.mark(tally);
        Ok(true)
    }
}

impl Tenant {
    /// The oldest commits, as far as none of their records is there any more.
    fn commits_of_nothing(&self, database: &Database) -> Result<Vec<Change>, Failed> {
        let (first, last) = commit_bounds(0);
        let mut commits = Vec::new();
        database.scan(&first, &last, false, |key, frame| {
            commits.push((key.to_vec(), self.open_commit(key, frame)));
            commits.len() < BATCH_ROWS
        })?;
        let mut gone = Vec::new();
        for (key, id) in commits {
            if id.is_some_and(|id| database.contains(&record_key(id)).unwrap_or(true)) {
                break;
            }
            gone.push((key, None));
        }
        Ok(gone)
    }
}

/// The hour of the oldest record in the database.
pub(crate) fn oldest_hour(database: &Database) -> Result<Option<u64>, Failed> {
    let (first, last) = id_bounds(0, u64::MAX);
    let mut oldest = None;
    database.scan(&record_key(first), &record_key(last), false, |key, _| {
        oldest = id_of(key).map(hour_of_id);
        false
    })?;
    Ok(oldest)
}
