//! A tenant's records in the order in which they were committed, from any position on: what a watch is made of.
//!
//! Every commit numbers its records and writes the numbers with them, so a [`Position`] means the same after a restart,
//! however far behind it is: no record is told twice, none is left out but those that have expired, and none overtakes
//! another. A database that was replaced by an empty one begins a new *age*; a position in another age is the beginning
//! of this one.

use std::fmt;
use std::str::FromStr;

use meter::record::{Record, RecordId};
use meter::time::UnixNanos;

use crate::database::{Change, Database, Failed};
use crate::life::Tally;
use crate::query::{Kind, ReadError};
use crate::read::TenantReader;
use crate::rows::{commit_bounds, commit_key, id_bounds, number_of, record_key};
use crate::seal::{Row, claimed};
use crate::tenant::Tenant;

/// Commits looked at under one hold of the lock.
const STRETCH_ROWS: usize = 2_000;

/// A place in the order of commits of one tenant. As text it is a cursor for clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which database, if it was ever replaced.
    age: u64,
    /// Number of the next record.
    next: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.age, self.next)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Position, ()> {
        let (age, next) = text.split_once('-').ok_or(())?;
        let plain = age.len() == 16 && next.bytes().all(|byte| byte.is_ascii_digit());
        let position = plain.then(|| Some((u64::from_str_radix(age, 16).ok()?, next.parse().ok()?)));
        position.flatten().map(|(age, next)| Position { age, next }).ok_or(())
    }
}

/// Which records a feed shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedQuery {
    /// Which subjects.
    pub kind: Kind,
    /// Records with `started_at >= since`.
    pub since: Option<UnixNanos>,
    /// At most so many.
    pub limit: usize,
}

/// A stretch of a feed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stretch {
    /// Records, each with the position behind it.
    pub records: Vec<(Record, Position)>,
    /// Behind everything that was looked at.
    pub next: Position,
    /// Nothing is committed beyond it.
    pub complete: bool,
}

impl TenantReader {
    /// The position before everything that is there.
    pub fn beginning(&self) -> Position {
        Position { age: self.0.tally().age, next: 0 }
    }

    /// The position behind everything that is committed. Answers at once.
    pub fn end(&self) -> Position {
        let Tally { age, next, .. } = self.0.tally();
        Position { age, next }
    }

    /// Records that were committed from `from` on, in that order. Looks at a bounded number: without records and not
    /// complete means that there is more to look at.
    ///
    /// # Errors
    /// [`ReadError::Failed`].
    pub fn committed(&self, from: Position, query: &FeedQuery) -> Result<Stretch, ReadError> {
        self.0
            .read(|database, tally| self.0.stretch(database, tally, from, query))
            .map_err(|why| self.failed(why))
    }
}

impl Tenant {
    fn stretch(
        &self,
        database: &Database,
        tally: &Tally,
        from: Position,
        query: &FeedQuery,
    ) -> Result<Stretch, Failed> {
        let from = if from.age == tally.age { from.next.min(tally.next) } else { 0 };
        let (first, last) = commit_bounds(from);
        let earliest = id_bounds(query.since.map_or(0, |since| since.0), u64::MAX).0;
        let (mut ids, mut looked_at, mut reached) = (Vec::new(), 0, from);
        database.scan(&first, &last, false, |key, frame| {
            let Some(number) = number_of(key) else { return true };
            (looked_at, reached) = (looked_at + 1, number + 1);
            match self.open_commit(key, frame) {
                // Whoever started before that millisecond started before `since`.
                Some(id) if id >= earliest => ids.push((id, number)),
                Some(_) => {}
                None => self.refuse(key),
            }
            looked_at < STRETCH_ROWS && ids.len() < query.limit
        })?;
        let complete = looked_at < STRETCH_ROWS && ids.len() < query.limit;
        let reached = if complete { tally.next } else { reached };
        let place = |next| Position { age: tally.age, next };
        let mut records = Vec::with_capacity(ids.len());
        for (id, number) in ids {
            let key = record_key(id);
            // It may have expired.
            let Some(frame) = database.get(&key)? else { continue };
            let wanted = match (query.kind, claimed(&frame)) {
                (Kind::Exchange, Some(Row::Flow)) | (Kind::Flow, Some(Row::Exchange)) => false,
                (Kind::Any | Kind::Exchange | Kind::Flow, _) => true,
            };
            let record = wanted.then(|| self.open_record(&key, &frame)).flatten();
            let in_time = |record: &Record| query.since.is_none_or(|since| record.started_at >= since);
            records.extend(record.filter(in_time).map(|record| (record, place(number + 1))));
        }
        Ok(Stretch { records, next: place(reached), complete })
    }

    /// The row that says which record was committed as number `number`.
    pub(crate) fn commit_row(&self, number: u64, id: RecordId) -> Result<Change, Failed> {
        let key = commit_key(number);
        let frame = self.sealer.seal(Row::Commit, &key, &id.0.to_be_bytes());
        Ok((key.to_vec(), Some(frame.map_err(|_| Failed::around("the cipher library failed"))?)))
    }

    pub(crate) fn open_commit(&self, key: &[u8], frame: &[u8]) -> Option<RecordId> {
        let plain = self.open_row(Row::Commit, key, frame)?;
        Some(RecordId(u128::from_be_bytes(plain.try_into().ok()?)))
    }
}
