//! Questions to exactly one tenant. A listing takes the lock for a stretch of rows at a time, so that a long one does
//! not hold up the writer.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use meter::money::PicoUsd;
use meter::record::{Record, RecordId};
use meter::time::UnixNanos;

use crate::database::Failed;
use crate::format::Dimensions;
use crate::query::{
    GroupKey, Kind, LIMIT_DEFAULT, LIMIT_MAX, ListQuery, Page, ReadError, UsageQuery, UsageRow,
};
use crate::rollup::{self, Groups, HOUR_NS, Sums};
use crate::rows::{hour_of_key, id_bounds, id_of, record_key, rollup_bounds};
use crate::seal::{Row, claimed};
use crate::tenant::Tenant;

/// Rows read under one hold of the lock.
const STRETCH_ROWS: usize = 2_000;

/// Reads the flushed records of exactly one tenant. Cheap to clone. Blocks, also for the time of another thread's
/// flush: not for a thread that drives async tasks. Answers with an error when a flush takes seconds.
#[derive(Clone)]
pub struct TenantReader(pub(crate) Arc<Tenant>);

impl std::fmt::Debug for TenantReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TenantReader").field(&self.0.name.as_str()).finish()
    }
}

impl TenantReader {
    /// The record, or `None` if there is none of that id, or its row does not verify (counted).
    ///
    /// # Errors
    /// [`ReadError::Failed`].
    pub fn get(&self, id: RecordId) -> Result<Option<Record>, ReadError> {
        let key = record_key(id);
        let frame = self.0.read(|database, _| database.get(&key)).map_err(|why| self.failed(why))?;
        Ok(frame.and_then(|frame| self.0.open_record(&key, &frame)))
    }

    /// A page of records. Rows that do not verify are counted and left out.
    ///
    /// # Errors
    /// [`ReadError::Failed`].
    pub fn list(&self, query: &ListQuery) -> Result<Page, ReadError> {
        let limit = match query.limit {
            0 => LIMIT_DEFAULT,
            limit => limit.min(LIMIT_MAX),
        };
        let since = query.since.map_or(0, |time| time.0);
        let until = query.until.map_or(u64::MAX, |time| time.0);
        let Some(newest) = until.checked_sub(1).filter(|newest| *newest >= since) else {
            return Ok(Page::default());
        };
        let (mut first, mut last) = id_bounds(since, newest);
        if query.until.is_none() {
            last = RecordId(u128::MAX);
        }
        match query.after {
            Some(RecordId(after)) if query.descending => match after.checked_sub(1) {
                Some(below) => last = last.min(RecordId(below)),
                None => return Ok(Page::default()),
            },
            Some(RecordId(after)) => match after.checked_add(1) {
                Some(above) => first = first.max(RecordId(above)),
                None => return Ok(Page::default()),
            },
            None => {}
        }
        let in_range = |time: UnixNanos| time.0 >= since && (query.until.is_none() || time.0 < until);
        let mut page = Page::default();
        self.walk(first, last, query.descending, |key, frame| {
            let wanted = match (query.kind, claimed(frame)) {
                (Kind::Exchange, Some(Row::Flow)) | (Kind::Flow, Some(Row::Exchange)) => false,
                (Kind::Any | Kind::Exchange | Kind::Flow, _) => true,
            };
            if !wanted {
                return true;
            }
            let Some(record) = self.0.open_record(key, frame).filter(|record| in_range(record.started_at))
            else {
                return true;
            };
            if page.records.len() == limit {
                page.next = page.records.last().map(|record| record.id);
                return false;
            }
            page.records.push(record);
            true
        })?;
        Ok(page)
    }

    /// Sums over exchanges, ordered by bucket, then group: from the roll-ups for whole hours, from the records for the
    /// parts of an hour at either end and for hours whose roll-ups do not verify. Of hours whose records have expired
    /// the roll-ups are all there is: they count as a whole.
    ///
    /// # Errors
    /// [`ReadError::BadQuery`] for a width that is not a multiple of an hour, else [`ReadError::Failed`].
    pub fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, ReadError> {
        if !query.bucket_seconds.is_multiple_of(3_600) {
            return Err(ReadError::BadQuery("bucket_seconds must be a multiple of 3600"));
        }
        let since = query.since.map_or(0, |time| time.0);
        let until = query.until.map_or(u64::MAX, |time| time.0);
        if since >= until {
            return Ok(Vec::new());
        }
        let mut table = Table::new(self.0.name.as_str(), query);
        let horizon = self.0.tally().horizon;
        let (since, until) =
            (outward(since, horizon, u64::wrapping_div), outward(until, horizon, u64::div_ceil));
        let first_whole = since.div_ceil(HOUR_NS);
        let end_whole = if query.until.is_none() { u64::MAX / HOUR_NS + 1 } else { until / HOUR_NS };
        if first_whole >= end_whole {
            self.add_records(&mut table, since, until)?;
            return Ok(table.rows());
        }
        let mut broken = BTreeSet::new();
        let mut whole: BTreeMap<u64, Vec<(Dimensions, Sums)>> = BTreeMap::new();
        let (from, to) = rollup_bounds(first_whole, end_whole - 1);
        let scanned = self.0.read(|database, _| {
            database.scan(&from, &to, false, |key, frame| {
                let Some(hour) = hour_of_key(key) else { return true };
                match self.0.open_sums(key, frame) {
                    Some(sums) => whole.entry(hour).or_default().push(sums),
                    None => drop(broken.insert(hour)),
                }
                true
            })
        });
        scanned.map_err(|why| self.failed(why))?;
        for (hour, groups) in whole.iter().filter(|(hour, _)| !broken.contains(hour)) {
            for (dimensions, sums) in groups {
                table.add(hour * HOUR_NS, dimensions, sums);
            }
        }
        for hour in broken {
            self.add_records(&mut table, hour * HOUR_NS, (hour * HOUR_NS).saturating_add(HOUR_NS))?;
        }
        if since < first_whole * HOUR_NS {
            self.add_records(&mut table, since, first_whole * HOUR_NS)?;
        }
        if query.until.is_some() && end_whole * HOUR_NS < until {
            self.add_records(&mut table, end_whole * HOUR_NS, until)?;
        }
        Ok(table.rows())
    }

    /// Adds the exchanges that started in `since..until`, one by one.
    fn add_records(&self, table: &mut Table<'_>, since: u64, until: u64) -> Result<(), ReadError> {
        let (first, last) = id_bounds(since, until - 1);
        let mut hours: BTreeMap<u64, Groups> = BTreeMap::new();
        self.walk(first, last, false, |key, frame| {
            if claimed(frame) == Some(Row::Flow) {
                return true;
            }
            if let Some(record) = self.0.open_record(key, frame)
                && (since..until).contains(&record.started_at.0)
            {
                rollup::count(hours.entry(rollup::hour_of(record.started_at)).or_default(), &record);
            }
            true
        })?;
        for (hour, groups) in hours {
            for (dimensions, sums) in groups {
                table.add(hour * HOUR_NS, &dimensions, &sums);
            }
        }
        Ok(())
    }

    /// Visits the rows of records `first..=last` in order until `visit` answers false.
    fn walk(
        &self,
        mut first: RecordId,
        mut last: RecordId,
        descending: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadError> {
        while first <= last {
            let (from, to) = (record_key(first), record_key(last));
            let (mut seen, mut done, mut newest) = (0, false, None);
            let scanned = self.0.read(|database, _| {
                database.scan(&from, &to, descending, |key, frame| {
                    seen += 1;
                    newest = id_of(key);
                    done = !visit(key, frame);
                    !done && seen < STRETCH_ROWS
                })
            });
            scanned.map_err(|why| self.failed(why))?;
            let Some(RecordId(reached)) = newest.filter(|_| !done && seen == STRETCH_ROWS) else {
                return Ok(());
            };
            let next = if descending { reached.checked_sub(1) } else { reached.checked_add(1) };
            match next {
                Some(below) if descending => last = RecordId(below),
                Some(above) => first = RecordId(above),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    pub(crate) fn failed(&self, why: Failed) -> ReadError {
        ReadError::Failed { tenant: self.0.name.as_str().to_owned(), detail: why.detail }
    }
}

/// `time`, moved to a whole hour if it lies in one before `horizon`.
fn outward(time: u64, horizon: u64, to_hours: fn(u64, u64) -> u64) -> u64 {
    if time / HOUR_NS < horizon { to_hours(time, HOUR_NS).saturating_mul(HOUR_NS) } else { time }
}

/// Start of a bucket, and values in the order of the query's keys.
type Place = (u64, Vec<Option<Arc<str>>>);

/// Sums by bucket and group, while they are added up.
struct Table<'a> {
    tenant: Arc<str>,
    query: &'a UsageQuery,
    sums: BTreeMap<Place, Sums>,
    earliest: Option<u64>,
}

impl<'a> Table<'a> {
    fn new(tenant: &str, query: &'a UsageQuery) -> Table<'a> {
        Table { tenant: tenant.into(), query, sums: BTreeMap::new(), earliest: None }
    }

    fn add(&mut self, hour_start: u64, dimensions: &Dimensions, sums: &Sums) {
        let width = self.query.bucket_seconds.saturating_mul(1_000_000_000);
        let bucket = hour_start.checked_div(width).map_or(0, |index| index * width);
        self.earliest = Some(self.earliest.map_or(hour_start, |earliest| earliest.min(hour_start)));
        let group = self.query.group_by.iter().map(|key| self.value(*key, dimensions)).collect();
        self.sums.entry((bucket, group)).or_default().add(sums);
    }

    fn value(&self, key: GroupKey, dimensions: &Dimensions) -> Option<Arc<str>> {
        let text = match key {
            GroupKey::Tenant => return Some(self.tenant.clone()),
            GroupKey::Team => dimensions.team.as_deref(),
            GroupKey::Service => dimensions.service.as_deref(),
            GroupKey::CostCentre => dimensions.cost_centre.as_deref(),
            GroupKey::Environment => dimensions.environment.as_deref(),
            GroupKey::Workload => Some(dimensions.workload.as_str()),
            GroupKey::Provider => Some(dimensions.provider.as_str()),
            GroupKey::Model => dimensions.model.as_deref(),
        };
        text.map(Arc::from)
    }

    fn rows(self) -> Vec<UsageRow> {
        let whole_range = self.query.since.map(|since| since.0).or(self.earliest).unwrap_or(0);
        let one_bucket = self.query.bucket_seconds == 0;
        let row = |((bucket, group), sums): (Place, Sums)| UsageRow {
            bucket_start: UnixNanos(if one_bucket { whole_range } else { bucket }),
            group: self.query.group_by.iter().copied().zip(group).collect(),
            exchanges: sums.exchanges,
            exchanges_without_usage: sums.without_usage,
            exchanges_without_cost: sums.without_cost,
            errors: sums.errors,
            usage: sums.usage,
            amount: sums.amount.map(PicoUsd),
            eligible: sums.eligible.map(PicoUsd),
        };
        self.sums.into_iter().map(row).collect()
    }
}
