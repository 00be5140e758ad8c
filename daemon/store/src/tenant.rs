//! One tenant's store: opening and quarantine, the one writer, rows that verify.
//!
//! The writer holds the lock from the first row until the flush has returned, so no reader sees a record that a crash
//! could take back. After a failed write the database is closed: what was applied and not flushed is not shown either.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use aws_lc_rs::error::Unspecified;
use meter::attribution::TenantName;
use meter::record::{Record, RecordId, Subject};
use prost::Message as _;
use zeroize::Zeroizing;

use crate::database::{Database, Failed, QUARANTINE, Tuning, quarantine};
use crate::format::{self, Dimensions, IDENTITY_FORMAT, Meta};
use crate::key::{Namer, Secret};
use crate::layout::{DATABASE, PreparedTenant};
use crate::rollup::{self, Groups, HOUR_NS, Sums, hour_of};
use crate::seal::{Row, Sealer};
use crate::state::{CommitError, Durability, StoreState, TenantCommit, TenantState};

/// Records per atomic batch: bounds what a batch holds in memory and what a crash can take back unacknowledged.
const BATCH_MAX: usize = 256;
/// How long a failed database rests before a write tries to open it again.
const REVIVE_AFTER: Duration = Duration::from_secs(5);
/// Distinct broken rows remembered, so that each is counted once.
const REFUSED_MAX: usize = 4096;

pub(crate) struct Tenant {
    pub(crate) name: TenantName,
    dir: PathBuf,
    sealer: Sealer,
    namer: Namer,
    fingerprint: Secret,
    tuning: Tuning,
    reserve_bytes: u64,
    slot: RwLock<Slot>,
    quarantined: Mutex<String>,
    recoveries: AtomicU64,
    lost: AtomicU64,
    /// Records that were acknowledged and are no longer there, ever.
    missing: AtomicU64,
    refused: Mutex<HashSet<Box<[u8]>>>,
    /// Keeps other daemons out as long as anyone can reach the database.
    _lock: Arc<File>,
}

/// The database, or why there is none.
enum Slot {
    Open { database: Database, records: u64 },
    Failed { why: Failed, since: Instant },
}

impl Tenant {
    /// Opens the tenant's database. If that is damaged it is moved aside and an empty one opened; if that fails too,
    /// the tenant stays closed and is tried again later.
    pub(crate) fn open(
        prepared: PreparedTenant,
        tuning: Tuning,
        reserve_bytes: u64,
        directory_lock: Arc<File>,
    ) -> Result<Tenant, Unspecified> {
        let PreparedTenant { name, dir, store, data_key } = prepared;
        let sealer = Sealer::new(&data_key, name.as_str(), store)?;
        let namer = Namer::new(&data_key.derive(store, "names")?);
        let fingerprint = data_key.derive(store, "fingerprints")?;
        let tenant = Tenant {
            name,
            dir,
            sealer,
            namer,
            fingerprint,
            tuning,
            reserve_bytes,
            slot: RwLock::new(Slot::Failed { why: Failed::damaged("not opened"), since: Instant::now() }),
            quarantined: Mutex::default(),
            recoveries: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            missing: AtomicU64::new(0),
            refused: Mutex::default(),
            _lock: directory_lock,
        };
        let slot = match tenant.open_database() {
            Err(why) if !why.surroundings => tenant.start_empty(&why),
            other => other.into(),
        };
        *tenant.write_lock() = slot;
        Ok(tenant)
    }

    pub(crate) fn fingerprint_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*self.fingerprint.bytes())
    }

    /// Stores the records, all of this tenant, and flushes.
    pub(crate) fn commit(&self, records: &[&Record]) -> TenantCommit {
        let mut slot = self.write_lock();
        let mut written = Vec::with_capacity(records.len());
        let result = self.commit_locked(&mut slot, records, &mut written);
        drop(slot);
        let duplicates = if result.is_ok() { records.len() - written.len() } else { 0 };
        if result.is_err() {
            self.lost.fetch_add(records.len() as u64, Ordering::Relaxed);
            written.clear();
        }
        TenantCommit { tenant: self.name.clone(), records: records.len(), duplicates, result, written }
    }

    fn commit_locked(
        &self,
        slot: &mut Slot,
        records: &[&Record],
        written: &mut Vec<RecordId>,
    ) -> Result<(), CommitError> {
        let free = free_bytes(&self.dir).unwrap_or(u64::MAX);
        if free < self.reserve_bytes {
            return Err(CommitError::DiskFull { free, reserve: self.reserve_bytes });
        }
        self.revive(slot);
        let (database, count) = match slot {
            Slot::Open { database, records } => (database, records),
            Slot::Failed { why, .. } => return Err(CommitError::Failed(why.detail.clone())),
        };
        let mut result = Ok(());
        for chunk in records.chunks(BATCH_MAX) {
            result = self.write_batch(database, count, chunk, written);
            if result.is_err() {
                break;
            }
        }
        match result.and_then(|()| database.flush()) {
            Ok(()) => {
                self.mark(*count);
                Ok(())
            }
            Err(why) => {
                tracing::warn!(
                    tenant = self.name.as_str(),
                    detail = why.detail,
                    "store failed, will be reopened"
                );
                let detail = why.detail.clone();
                *slot = Slot::Failed { why, since: Instant::now() };
                Err(CommitError::Failed(detail))
            }
        }
    }

    /// Applies records, their roll-ups and the count as one batch.
    fn write_batch(
        &self,
        database: &Database,
        count: &mut u64,
        records: &[&Record],
        written: &mut Vec<RecordId>,
    ) -> Result<(), Failed> {
        let sealed = |row, key: &[u8], plain: &[u8]| {
            let failed = |_| Failed { detail: "the cipher library failed".into(), surroundings: true };
            self.sealer.seal(row, key, plain).map_err(failed)
        };
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
            rows.push((key.to_vec(), sealed(row, &key, &format::encode(record))?));
            rollup::count(hours.entry(hour_of(record.started_at)).or_default(), record);
        }
        if ids.is_empty() {
            return Ok(());
        }
        for (hour, groups) in hours {
            for (dimensions, more) in groups {
                let key = self.rollup_key(hour, &dimensions);
                let mut sums = self.sums_so_far(database, hour, &key, &dimensions)?;
                sums.add(&more);
                rows.push((key.to_vec(), sealed(Row::Rollup, &key, &sums.encode(&dimensions))?));
            }
        }
        let total = count.saturating_add(ids.len() as u64);
        rows.push((META.to_vec(), sealed(Row::Meta, META, &meta(total))?));
        database.apply(rows)?;
        *count = total;
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

    fn open_row(&self, row: Row, key: &[u8], frame: &[u8]) -> Option<Vec<u8>> {
        self.sealer.open(row, key, frame).ok()
    }

    fn refuse(&self, key: &[u8]) {
        let mut refused = lock(&self.refused);
        if refused.len() < REFUSED_MAX && refused.insert(key.into()) {
            tracing::warn!(tenant = self.name.as_str(), "a stored row does not verify and is not shown");
        }
    }

    /// The database for reading, held as long as the guard lives.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Database) -> Result<T, Failed>) -> Result<T, Failed> {
        match &*self.read_lock() {
            Slot::Open { database, .. } => work(database),
            Slot::Failed { why, .. } => Err(why.clone()),
        }
    }

    fn open_database(&self) -> Result<(Database, u64), Failed> {
        let database = Database::open(&self.dir.join(DATABASE), self.tuning)?;
        let told = match database.get(META)? {
            Some(frame) => self
                .open_row(Row::Meta, META, &frame)
                .and_then(|plain| Meta::decode(&plain[..]).ok())
                .filter(|meta| meta.format == IDENTITY_FORMAT)
                .map(|meta| meta.records)
                .ok_or_else(|| {
                    Failed::damaged("it is not this store's database, or its first row is damaged")
                })?,
            None => {
                let mut strangers = false;
                database.scan(b"r", b"v", false, |_, _| {
                    strangers = true;
                    false
                })?;
                if strangers {
                    return Err(Failed::damaged("its first row is missing"));
                }
                let frame = self.sealer.seal(Row::Meta, META, &meta(0));
                let frame = frame.map_err(|_| Failed::damaged("the cipher library failed"))?;
                database.apply(vec![(META.to_vec(), frame)])?;
                database.flush()?;
                0
            }
        };
        let counted = count_records(&database)?;
        let records = counted.unwrap_or(told);
        self.note_missing(told, records);
        Ok((database, records))
    }

    /// Compares what is there with what was: sled recovers from damage by forgetting, without an error.
    fn note_missing(&self, told: u64, records: u64) {
        let mark = Mark::read(&self.dir).unwrap_or(Mark { records: 0, missing: 0 });
        let gone = mark.records.max(told).saturating_sub(records);
        if gone > 0 {
            tracing::warn!(
                tenant = self.name.as_str(),
                gone,
                "stored records are gone: the database was damaged"
            );
        }
        self.missing.store(mark.missing.saturating_add(gone), Ordering::Relaxed);
        self.mark(records);
    }

    /// Notes how many records are flushed. Not synced: after a power loss the mark may be older than the database,
    /// which proves nothing, but never newer.
    fn mark(&self, records: u64) {
        let mark = Mark { records, missing: self.missing.load(Ordering::Relaxed) };
        if let Err(error) = fs::write(self.dir.join(MARK), mark.to_bytes()) {
            tracing::debug!(tenant = self.name.as_str(), %error, "the mark was not written");
        }
    }

    fn start_empty(&self, why: &Failed) -> Slot {
        let moved = match quarantine(&self.dir.join(DATABASE)) {
            Ok(moved) => moved,
            Err(error) => {
                let detail = format!("{}; it could not be moved aside: {error}", why.detail);
                return Err(Failed { detail, surroundings: true }).into();
            }
        };
        self.recoveries.fetch_add(1, Ordering::Relaxed);
        // They are not gone, they are aside.
        self.mark(0);
        *lock(&self.quarantined) = format!(
            "the database would not open ({}); it was moved to {}, and an empty one serves",
            why.detail,
            moved.display()
        );
        tracing::warn!(tenant = self.name.as_str(), detail = why.detail, moved = %moved.display(), "store quarantined");
        self.open_database().into()
    }

    fn revive(&self, slot: &mut Slot) {
        if let Slot::Failed { since, .. } = slot
            && since.elapsed() >= REVIVE_AFTER
        {
            *slot = self.open_database().into();
        }
    }

    pub(crate) fn state(&self) -> TenantState {
        let quarantined = lock(&self.quarantined).clone();
        let sealed = self.name.as_str() == TenantName::UNASSIGNED;
        let (records, durability, failure) = match &*self.read_lock() {
            Slot::Open { database, records } => (*records, database.durability, None),
            Slot::Failed { why, .. } => (0, Durability::Degraded, Some(why.detail.clone())),
        };
        let state = match failure {
            None if quarantined.is_empty() && sealed => StoreState::Sealed,
            None if quarantined.is_empty() => StoreState::Open,
            _ => StoreState::Quarantined,
        };
        let mut detail = failure.as_ref().map(|why| format!("no database: {why}")).unwrap_or_default();
        let mut say = |text: String| {
            if !detail.is_empty() {
                detail.push_str("; ");
            }
            detail.push_str(&text);
        };
        let aside = self.databases_aside();
        if !quarantined.is_empty() {
            say(quarantined);
        } else if aside > 0 {
            say(format!("{aside} quarantined database(s) in {}: keep or delete them", self.dir.display()));
        }
        let missing = self.missing.load(Ordering::Relaxed);
        if missing > 0 {
            say(format!(
                "{missing} stored records are gone: damage on disk; restore a backup if they matter"
            ));
        }
        if durability == Durability::Degraded && failure.is_none() {
            say("a flush was not seen to reach the disk: records may be lost with the power".into());
        }
        TenantState {
            tenant: self.name.clone(),
            state,
            key_custody: "local",
            records,
            disk_bytes: bytes_below(&self.dir, 4),
            durability,
            detail,
            recoveries: self.recoveries.load(Ordering::Relaxed),
            rows_refused: lock(&self.refused).len() as u64,
            records_lost: self.lost.load(Ordering::Relaxed),
            records_missing: missing,
        }
    }

    fn databases_aside(&self) -> usize {
        let Ok(entries) = fs::read_dir(&self.dir) else { return 0 };
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(QUARANTINE)).count()
    }

    fn rollup_key(&self, hour: u64, dimensions: &Dimensions) -> [u8; 25] {
        let mut key = [0; 25];
        key[0] = b'u';
        key[1..9].copy_from_slice(&hour.to_be_bytes());
        key[9..].copy_from_slice(&self.namer.name(&dimensions.encode_to_vec()));
        key
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Slot> {
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Slot> {
        self.slot.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Result<(Database, u64), Failed>> for Slot {
    fn from(opened: Result<(Database, u64), Failed>) -> Slot {
        match opened {
            Ok((database, records)) => Slot::Open { database, records },
            Err(why) => Slot::Failed { why, since: Instant::now() },
        }
    }
}

/// The records in the database; `None` if counting takes too long. Reads every page, so that one that cannot be read
/// shows at once.
fn count_records(database: &Database) -> Result<Option<u64>, Failed> {
    let (started, mut records, mut finished) = (Instant::now(), 0_u64, true);
    database.scan(b"r", b"v", false, |key, _| {
        records += u64::from(key.first() == Some(&b'r'));
        finished = records % 1024 != 0 || started.elapsed() < COUNT_MAX;
        finished
    })?;
    Ok(finished.then_some(records))
}

/// What was flushed at last, in a file beside the database.
struct Mark {
    records: u64,
    missing: u64,
}

impl Mark {
    fn to_bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.records.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.missing.to_be_bytes());
        let sum = crc32c::crc32c(&bytes[..16]);
        bytes[16..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn read(dir: &Path) -> Option<Mark> {
        let bytes: [u8; 20] = fs::read(dir.join(MARK)).ok()?.try_into().ok()?;
        let (records, rest) = bytes.split_first_chunk::<8>()?;
        let (missing, sum) = rest.split_first_chunk::<8>()?;
        let whole = crc32c::crc32c(&bytes[..16]).to_be_bytes() == *sum;
        whole.then(|| Mark { records: u64::from_be_bytes(*records), missing: u64::from_be_bytes(*missing) })
    }
}

const MARK: &str = "mark";
/// How long records are counted when a database is opened.
const COUNT_MAX: Duration = Duration::from_secs(2);

/// Key of the row that describes the database.
const META: &[u8] = b"m";

fn meta(records: u64) -> Vec<u8> {
    Meta { format: IDENTITY_FORMAT, records }.encode_to_vec()
}

/// Key of a record's row: ordered as its id, and so by time.
pub(crate) fn record_key(id: RecordId) -> [u8; 17] {
    let mut key = [0; 17];
    key[0] = b'r';
    key[1..].copy_from_slice(&id.0.to_be_bytes());
    key
}

/// The record that a row's key names.
pub(crate) fn id_of(key: &[u8]) -> Option<RecordId> {
    let id = key.strip_prefix(b"r")?.try_into().ok()?;
    Some(RecordId(u128::from_be_bytes(id)))
}

/// First and last possible key of the roll-ups of the hours `first..=last`.
pub(crate) fn rollup_bounds(first: u64, last: u64) -> ([u8; 25], [u8; 25]) {
    let mut keys = ([0; 25], [0xff; 25]);
    (keys.0[0], keys.1[0]) = (b'u', b'u');
    keys.0[1..9].copy_from_slice(&first.to_be_bytes());
    keys.1[1..9].copy_from_slice(&last.to_be_bytes());
    keys
}

/// The hour that a roll-up's key names.
pub(crate) fn hour_of_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
}

/// First and last possible id of a record that started in the range of nanoseconds.
pub(crate) fn id_bounds(first_ns: u64, last_ns: u64) -> (RecordId, RecordId) {
    let id = |ns: u64| u128::from(ns / 1_000_000) << 80;
    (RecordId(id(first_ns)), RecordId(id(last_ns) | ((1 << 80) - 1)))
}

fn hour_bounds(hour: u64) -> ([u8; 17], [u8; 17]) {
    let start = hour.saturating_mul(HOUR_NS);
    let (first, last) = id_bounds(start, start.saturating_add(HOUR_NS - 1));
    (record_key(first), record_key(last))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
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
