//! The life of one tenant's database: opened, failed, opened again, moved aside.
//!
//! A failure of the **surroundings** (no space, no rights, too few descriptors) says nothing about the database: it is
//! closed and tried again after a rest ([`crate::Options::revive_after`]) until it works. A failure by **damage** closes it too, and it is read
//! again as after a power loss, which is what sled recovers from. If it will not open, or if it fails by damage
//! [`STRIKES_MAX`] times within [`STRIKES_WITHIN`], it is moved aside whole and an empty one takes its place: its
//! records are not shown, but none is gone, and what follows is stored.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::database::{Database, Failed, close_failed, quarantine};
use crate::format::{IDENTITY_FORMAT, Meta};
use crate::layout::DATABASE;
use crate::rows::{ALL, META};
use crate::seal::Row;
use crate::tenant::{Tenant, lock};

/// Failures by damage after which a database that still opens is moved aside.
const STRIKES_MAX: usize = 3;
/// Older failures do not count.
const STRIKES_WITHIN: Duration = Duration::from_secs(3_600);
/// How long records are counted when a database is opened.
const COUNT_MAX: Duration = Duration::from_secs(2);

/// The database, or why there is none, and how often it was damaged.
pub(crate) struct Housed {
    pub(crate) slot: Slot,
    strikes: Vec<Instant>,
}

pub(crate) enum Slot {
    Open { database: Database, tally: Tally },
    Failed { why: Failed, since: Instant },
}

/// What a database holds; stored in it with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Records.
    pub(crate) records: u64,
    /// Bytes of their rows.
    pub(crate) bytes: u64,
    /// Records that retention has deleted.
    pub(crate) expired: u64,
    /// Retention has deleted records of hours before this one.
    pub(crate) horizon: u64,
    /// Number of the next record that is committed.
    pub(crate) next: u64,
    /// Which database it is: random, so that positions in another one are known.
    pub(crate) age: u64,
}

impl Tally {
    pub(crate) fn encode(self) -> Vec<u8> {
        let Tally { records, bytes, expired, horizon, next, age } = self;
        Meta { format: IDENTITY_FORMAT, records, bytes, expired, horizon, next, age }.encode_to_vec()
    }

    fn decode(plain: &[u8]) -> Option<Tally> {
        let Meta { format, records, bytes, expired, horizon, next, age } = Meta::decode(plain).ok()?;
        (format == IDENTITY_FORMAT).then_some(Tally { records, bytes, expired, horizon, next, age })
    }

    fn of_a_new_database() -> Result<Tally, Failed> {
        let mut age = [0; 8];
        aws_lc_rs::rand::fill(&mut age).map_err(|_| Failed::around("no random numbers"))?;
        Ok(Tally { age: u64::from_be_bytes(age), ..Tally::default() })
    }
}

impl Housed {
    pub(crate) fn empty() -> Housed {
        Housed {
            slot: Slot::Failed { why: Failed::damaged("not opened"), since: Instant::now() },
            strikes: Vec::new(),
        }
    }

    fn opened(&mut self, opened: Result<(Database, Tally), Failed>) {
        self.slot = match opened {
            Ok((database, tally)) => Slot::Open { database, tally },
            Err(why) => Slot::Failed { why, since: Instant::now() },
        };
    }
}

impl Tenant {
    /// Opens the database; a damaged one is moved aside and an empty one opened. If that fails too there is none, and it
    /// is tried again later.
    pub(crate) fn open_or_replace(&self, housed: &mut Housed) {
        match self.open_database() {
            Err(why) if !why.surroundings => self.start_empty(housed, &why),
            other => housed.opened(other),
        }
    }

    /// Opens a failed database again when it has rested.
    pub(crate) fn revive(&self, housed: &mut Housed) {
        if let Slot::Failed { since, .. } = housed.slot
            && since.elapsed() >= self.revive_after
        {
            self.open_or_replace(housed);
        }
    }

    /// The database failed: closes it, and replaces it if it was damaged too often.
    pub(crate) fn fail(&self, housed: &mut Housed, why: Failed) {
        tracing::warn!(tenant = self.name.as_str(), detail = why.detail, "store failed, will be reopened");
        let now = Instant::now();
        if !why.surroundings {
            housed.strikes.retain(|strike| now.duration_since(*strike) < STRIKES_WITHIN);
            housed.strikes.push(now);
        }
        let closed = Slot::Failed { why: why.clone(), since: now };
        if let Slot::Open { database, .. } = std::mem::replace(&mut housed.slot, closed) {
            close_failed(database, &self.dir.join(DATABASE));
        }
        if housed.strikes.len() >= STRIKES_MAX {
            let detail = format!("it failed {STRIKES_MAX} times by damage, at last: {}", why.detail);
            self.start_empty(housed, &Failed::damaged(detail));
        }
    }

    fn start_empty(&self, housed: &mut Housed, why: &Failed) {
        housed.strikes.clear();
        let moved = match quarantine(&self.dir.join(DATABASE)) {
            Ok(moved) => moved,
            Err(error) => {
                let detail = format!("{}; it could not be moved aside: {error}", why.detail);
                return housed.opened(Err(Failed { detail, surroundings: true }));
            }
        };
        self.recoveries.fetch_add(1, Ordering::Relaxed);
        // They are not gone, they are aside: how many, goes with them.
        if let Err(error) = fs::rename(self.dir.join(MARK), moved.join(MARK)) {
            tracing::debug!(tenant = self.name.as_str(), %error, "the mark did not go with its database");
        }
        *lock(&self.quarantined) = format!(
            "the database failed ({}); it was moved to {}, and an empty one serves",
            why.detail,
            moved.display()
        );
        tracing::warn!(tenant = self.name.as_str(), detail = why.detail, moved = %moved.display(), "store quarantined");
        housed.opened(self.open_database());
    }

    fn open_database(&self) -> Result<(Database, Tally), Failed> {
        let database = Database::open(&self.dir.join(DATABASE), self.tuning)?;
        let told = match database.get(META)? {
            Some(frame) => {
                self.open_row(Row::Meta, META, &frame).and_then(|plain| Tally::decode(&plain)).ok_or_else(
                    || Failed::damaged("it is not this store's database, or its first row is damaged"),
                )?
            }
            None => {
                let mut strangers = false;
                database.scan(ALL.0, ALL.1, false, |_, _| {
                    strangers = true;
                    false
                })?;
                if strangers {
                    return Err(Failed::damaged("its first row is missing"));
                }
                let tally = Tally::of_a_new_database()?;
                let frame = self.sealer.seal(Row::Meta, META, &tally.encode());
                let frame = frame.map_err(|_| Failed::damaged("the cipher library failed"))?;
                database.apply(vec![(META.to_vec(), Some(frame))])?;
                database.flush()?;
                tally
            }
        };
        let counted = count_records(&database)?;
        let (records, bytes) = counted.unwrap_or((told.records, told.bytes));
        let tally = Tally { records, bytes, ..told };
        self.note_missing(&told, &tally);
        Ok((database, tally))
    }

    /// Compares what is there with what was: sled recovers from damage by forgetting, without an error.
    fn note_missing(&self, told: &Tally, found: &Tally) {
        let mark = Mark::read(&self.dir).unwrap_or_default();
        let ever = (mark.records + mark.expired).max(told.records + told.expired);
        let gone = ever.saturating_sub(found.records + found.expired);
        if gone > 0 {
            tracing::warn!(
                tenant = self.name.as_str(),
                gone,
                "stored records are gone: the database was damaged"
            );
        }
        self.missing.store(mark.missing.saturating_add(gone), Ordering::Relaxed);
        self.mark(found);
    }

    /// Notes how many records are flushed. Not synced: after a power loss the mark may be older than the database,
    /// which proves nothing, but never newer.
    pub(crate) fn mark(&self, tally: &Tally) {
        let mark = Mark {
            records: tally.records,
            missing: self.missing.load(Ordering::Relaxed),
            expired: tally.expired,
        };
        if let Err(error) = fs::write(self.dir.join(MARK), mark.to_bytes()) {
            tracing::debug!(tenant = self.name.as_str(), %error, "the mark was not written");
        }
    }
}

/// Records in the database and bytes of their rows; `None` if counting takes too long. Reads every page, so that one
/// that cannot be read shows at once.
fn count_records(database: &Database) -> Result<Option<(u64, u64)>, Failed> {
    let (started, mut records, mut bytes, mut finished) = (Instant::now(), 0_u64, 0_u64, true);
    database.scan(ALL.0, ALL.1, false, |key, frame| {
        if key.first() == Some(&b'r') {
            records += 1;
            bytes += row_bytes(key, frame);
        }
        finished = records % 1024 != 0 || started.elapsed() < COUNT_MAX;
        finished
    })?;
    Ok(finished.then_some((records, bytes)))
}

/// What a row counts for.
pub(crate) fn row_bytes(key: &[u8], frame: &[u8]) -> u64 {
    (key.len() + frame.len()) as u64
}

/// Name of the file beside a database that says what was flushed at last.
pub(crate) const MARK: &str = "mark";

/// What was flushed at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) records: u64,
    missing: u64,
    expired: u64,
}

impl Mark {
    fn to_bytes(self) -> [u8; 28] {
        let mut bytes = [0; 28];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.records, self.missing, self.expired]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        let sum = crc32c::crc32c(&bytes[..24]);
        bytes[24..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The mark in `dir`, if there is a whole one.
    pub(crate) fn read(dir: &Path) -> Option<Mark> {
        let bytes: [u8; 28] = fs::read(dir.join(MARK)).ok()?.try_into().ok()?;
        let (numbers, sum) = bytes.split_last_chunk::<4>()?;
        let whole = crc32c::crc32c(numbers).to_be_bytes() == *sum;
        let number = |index: usize| {
            let place = numbers.get(index * 8..)?.first_chunk::<8>()?;
            Some(u64::from_be_bytes(*place))
        };
        whole.then_some(())?;
        Some(Mark { records: number(0)?, missing: number(1)?, expired: number(2)? })
    }
}
