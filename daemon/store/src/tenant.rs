//! One tenant's store: the one writer, rows that verify.
//!
//! The writer holds the gate from the first row until the flush has returned, so no reader sees a record that a crash
//! could take back. After a failed write the database is closed: what was applied and not flushed is not shown either.
//! How a database is opened and replaced is in [`crate::life`], what is said of it in [`crate::report`].

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use meter::attribution::TenantName;
use meter::record::{Record, RecordId, Subject};
use prost::Message as _;
use zeroize::Zeroizing;

use crate::database::{Database, Failed, Tuning};
use crate::format::{self, Dimensions};
use crate::gate::Gate;
use crate::key::{Namer, Secret};
use crate::layout::PreparedTenant;
use crate::life::{Housed, Slot, Tally, row_bytes};
use crate::report::{Measured, Published, UnderWay};
use crate::retention::Retention;
use crate::rollup::{self, Groups, Sums, hour_of};
use crate::rows::{META, hour_bounds, id_of, record_key, rollup_key};
use crate::seal::{Row, Sealer};
use crate::state::{CommitError, TenantCommit};
use crate::stores::Options;

/// Records per atomic batch: bounds what a batch holds in memory and what a crash can take back unacknowledged.
const BATCH_MAX: usize = 256;
/// How long a reader waits for a flush; one that takes longer is a disk that does not answer.
const READER_PATIENCE: Duration = Duration::from_secs(2);
/// Distinct broken rows remembered, so that each is counted once.
const REFUSED_MAX: usize = 4096;

pub(crate) struct Tenant {
    pub(crate) name: TenantName,
    pub(crate) dir: PathBuf,
    pub(crate) sealer: Sealer,
    namer: Namer,
    fingerprint: Secret,
    pub(crate) tuning: Tuning,
    reserve_bytes: u64,
    pub(crate) revive_after: Duration,
    pub(crate) retention: Retention,
    pub(crate) gate: Gate<Housed>,
    pub(crate) under_way: UnderWay,
    pub(crate) published: Mutex<Published>,
    pub(crate) measured: Mutex<Measured>,
    pub(crate) quarantined: Mutex<String>,
    pub(crate) recoveries: AtomicU64,
    pub(crate) lost: AtomicU64,
    /// Records that were acknowledged and are no longer there, ever.
    pub(crate) missing: AtomicU64,
    pub(crate) refused: Mutex<HashSet<Box<[u8]>>>,
    /// Keeps other daemons out as long as anyone can reach the database.
    _lock: Arc<File>,
}

impl Tenant {
    /// Opens the tenant's database. If that is damaged it is moved aside and an empty one opened; if that fails too,
    /// the tenant stays closed and is tried again later.
    pub(crate) fn open(
        prepared: PreparedTenant,
        options: &Options,
        directory_lock: Arc<File>,
    ) -> Result<Tenant, Unspecified> {
        let PreparedTenant { name, dir, store, data_key } = prepared;
        let sealer = Sealer::new(&data_key, name.as_str(), store)?;
        let namer = Namer::new(&data_key.derive(store, "names")?);
        let fingerprint = data_key.derive(store, "fingerprints")?;
        let retention = options.retention_of(&name);
        let tenant = Tenant {
            name,
            dir,
            sealer,
            namer,
            fingerprint,
            tuning: Tuning { cache_bytes: options.cache_bytes, flush_every_ms: options.flush_every_ms },
            reserve_bytes: options.reserve_bytes,
            revive_after: options.revive_after,
            retention,
            gate: Gate::new(Housed::empty()),
            under_way: UnderWay::default(),
            published: Mutex::default(),
            measured: Mutex::default(),
            quarantined: Mutex::default(),
            recoveries: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            missing: AtomicU64::new(0),
            refused: Mutex::default(),
            _lock: directory_lock,
        };
        let mut housed = tenant.gate.write();
        tenant.open_or_replace(&mut housed);
        tenant.publish(&housed);
        drop(housed);
        tenant.measure();
        Ok(tenant)
    }

    pub(crate) fn fingerprint_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*self.fingerprint.bytes())
    }

    /// Stores the records, all of this tenant, and flushes.
    pub(crate) fn commit(&self, records: &[&Record]) -> TenantCommit {
        let mut written = Vec::with_capacity(records.len());
        let result = {
            let _under_way = self.under_way.begin();
            let mut housed = self.gate.write();
            let result = self.commit_locked(&mut housed, records, &mut written);
            self.publish(&housed);
            result
        };
        let duplicates = if result.is_ok() { records.len() - written.len() } else { 0 };
        if result.is_err() {
            self.lost.fetch_add(records.len() as u64, Ordering::Relaxed);
            written.clear();
        }
        TenantCommit { tenant: self.name.clone(), records: records.len(), duplicates, result, written }
    }

    fn commit_locked(
        &self,
        housed: &mut Housed,
        records: &[&Record],
        written: &mut Vec<RecordId>,
    ) -> Result<(), CommitError> {
        self.find_room()?;
        self.revive(housed);
        let (database, tally) = match &mut housed.slot {
            Slot::Open { database, tally } => (database, tally),
            Slot::Failed { why, .. } => return Err(CommitError::Failed(why.detail.clone())),
        };
        let mut result = Ok(());
        for chunk in records.chunks(BATCH_MAX) {
            result = self.write_batch(database, tally, chunk, written);
            if result.is_err() {
                break;
            }
        }
        match result.and_then(|()| database.flush()) {
            Ok(()) => {
                self.mark(tally);
                Ok(())
            }
            Err(why) => {
                let detail = why.detail.clone();
                self.fail(housed, why);
                Err(CommitError::Failed(detail))
            }
        }
    }

    /// What a commit asks first: is more free on the disk than must stay free.
    pub(crate) fn find_room(&self) -> Result<(), CommitError> {
        let (free, reserve) = (free_bytes(&self.dir).unwrap_or(u64::MAX), self.reserve_bytes);
        if free < reserve { Err(CommitError::DiskFull { free, reserve }) } else { Ok(()) }
    }

    /// Applies records, their roll-ups and the tally as one batch.
    fn write_batch(
        &self,
        database: &Database,
        tally: &mut Tally,
        records: &[&Record],
        written: &mut Vec<RecordId>,
    ) -> Result<(), Failed> {
        let sealed = |row, key: &[u8], plain: &[u8]| {
            self.sealer.seal(row, key, plain).map_err(|_| Failed::around("the cipher library failed"))
        };
        let mut after = *tally;
        let mut rows = Vec::with_capacity(records.len() + 8);
        let mut ids = HashSet::with_capacity(records.len());
        let mut hours: BTreeMap<u64, Groups> = BTreeMap::new();
        for record in records {
            let key = record_key(record.id);
            if ids.contains(&record.id) || database.contains(&key)? {
                continue;
            }
            ids.insert(record.id);
            let row = match record.subject {
                Subject::Exchange(_) => Row::Exchange,
                Subject::Flow(_) => Row::Flow,
            };
            let frame = sealed(row, &key, &format::encode(record))?;
            after.records = after.records.saturating_add(1);
            after.bytes = after.bytes.saturating_add(row_bytes(&key, &frame));
            rows.push((key.to_vec(), Some(frame)));
            rows.push(self.commit_row(after.next, record.id)?);
            after.next += 1;
            rollup::count(hours.entry(hour_of(record.started_at)).or_default(), record);
        }
        if ids.is_empty() {
            return Ok(());
        }
        for (hour, groups) in hours {
            for (dimensions, more) in groups {
                let key = rollup_key(hour, &self.namer.name(&dimensions.encode_to_vec()));
                let mut sums = self.sums_so_far(database, hour, &key, &dimensions)?;
                sums.add(&more);
                let frame = sealed(Row::Rollup, &key, &sums.encode(&dimensions))?;
                rows.push((key.to_vec(), Some(frame)));
            }
        }
        rows.push((META.to_vec(), Some(sealed(Row::Meta, META, &after.encode())?)));
        database.apply(rows)?;
        *tally = after;
        written.extend(ids);
        Ok(())
    }

    /// The sums stored for a group, computed from the records if the row does not verify.
    fn sums_so_far(
        &self,
        database: &Database,
        hour: u64,
        key: &[u8],
        dimensions: &Dimensions,
    ) -> Result<Sums, Failed> {
        let Some(frame) = database.get(key)? else { return Ok(Sums::default()) };
        if let Some((_, sums)) =
            self.open_row(Row::Rollup, key, &frame).and_then(|plain| Sums::decode(&plain))
        {
            return Ok(sums);
        }
        self.refuse(key);
        let mut groups = Groups::new();
        let (first, last) = hour_bounds(hour);
        database.scan(&first, &last, false, |key, frame| {
            if let Some(record) = self.open_record(key, frame)
                && hour_of(record.started_at) == hour
            {
                rollup::count(&mut groups, &record);
            }
            true
        })?;
        Ok(groups.remove(dimensions).unwrap_or_default())
    }

    /// The record in a row; `None`, counted, if the row does not verify.
    pub(crate) fn open_record(&self, key: &[u8], frame: &[u8]) -> Option<Record> {
        let record = match crate::seal::claimed(frame) {
            Some(row @ (Row::Exchange | Row::Flow)) => {
                let id = id_of(key)?;
                self.open_row(row, key, frame).and_then(|plain| format::decode(id, &plain))
            }
            _ => None,
        };
        if record.is_none() {
            self.refuse(key);
        }
        record
    }

    /// The sums in a row; `None`, counted, if the row does not verify.
    pub(crate) fn open_sums(&self, key: &[u8], frame: &[u8]) -> Option<(Dimensions, Sums)> {
        let sums = self.open_row(Row::Rollup, key, frame).and_then(|plain| Sums::decode(&plain));
        if sums.is_none() {
            self.refuse(key);
        }
        sums
    }

    pub(crate) fn open_row(&self, row: Row, key: &[u8], frame: &[u8]) -> Option<Vec<u8>> {
        self.sealer.open(row, key, frame).ok()
    }

    pub(crate) fn refuse(&self, key: &[u8]) {
        let mut refused = lock(&self.refused);
        if refused.len() < REFUSED_MAX && refused.insert(key.into()) {
            tracing::warn!(tenant = self.name.as_str(), "a stored row does not verify and is not shown");
        }
    }

    /// Reads from the database, unless a writer waits for the disk for longer than a reader does.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Database, &Tally) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        // Whoever comes when it is known to be stuck need not wait to find out.
        let patience = if self.stuck_for().is_some() { Duration::ZERO } else { READER_PATIENCE };
        match self.gate.read(patience).as_deref() {
            Some(Housed { slot: Slot::Open { database, tally }, .. }) => work(database, tally),
            Some(Housed { slot: Slot::Failed { why, .. }, .. }) => Err(why.clone()),
            None => Err(Failed::around("the disk does not answer")),
        }
    }

    /// What the database holds, as last published.
    pub(crate) fn tally(&self) -> Tally {
        lock(&self.published).tally()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}
