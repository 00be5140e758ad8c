//! Keys of rows. `c` and a number: what was committed under that number. `m`: the row that describes the database. `r`
//! and an id: a record. `u`, an hour and a name: a roll-up.
//! Numbers are big endian, so that keys are ordered by time.

use meter::record::RecordId;

use crate::rollup::HOUR_NS;

/// Key of the row that describes the database.
pub(crate) const META: &[u8] = b"m";
/// Before and behind the keys of all records and roll-ups.
pub(crate) const ALL: (&[u8], &[u8]) = (b"r", b"v");

/// Key of the row that names the record which was committed under that number.
pub(crate) fn commit_key(number: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = b'c';
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// First and last possible key of commits from `number` on.
pub(crate) fn commit_bounds(number: u64) -> ([u8; 9], [u8; 9]) {
    (commit_key(number), commit_key(u64::MAX))
}

/// The number that a commit's key tells.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(b"c")?.try_into().ok()?))
}

/// Key of a record's row.
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

/// First and last possible id of a record that started in the range of nanoseconds.
pub(crate) fn id_bounds(first_ns: u64, last_ns: u64) -> (RecordId, RecordId) {
    let id = |ns: u64| u128::from(ns / 1_000_000) << 80;
    (RecordId(id(first_ns)), RecordId(id(last_ns) | ((1 << 80) - 1)))
}

/// The hour in which the record of that id started.
pub(crate) fn hour_of_id(id: RecordId) -> u64 {
    // 48 bits of milliseconds.
    u64::try_from(id.0 >> 80).unwrap_or(u64::MAX) / (HOUR_NS / 1_000_000)
}

/// First and last possible key of the records of an hour.
pub(crate) fn hour_bounds(hour: u64) -> ([u8; 17], [u8; 17]) {
    let start = hour.saturating_mul(HOUR_NS);
    let (first, last) = id_bounds(start, start.saturating_add(HOUR_NS - 1));
    (record_key(first), record_key(last))
}

/// Key of the roll-up of an hour for the dimensions of that name.
pub(crate) fn rollup_key(hour: u64, name: &[u8; 16]) -> [u8; 25] {
    let mut key = [0; 25];
    key[0] = b'u';
    key[1..9].copy_from_slice(&hour.to_be_bytes());
    key[9..].copy_from_slice(name);
    key
}

/// First and last possible key of the roll-ups of the hours `first..=last`.
pub(crate) fn rollup_bounds(first: u64, last: u64) -> ([u8; 25], [u8; 25]) {
    (rollup_key(first, &[0; 16]), rollup_key(last, &[0xff; 16]))
}

/// The hour that a roll-up's key names.
pub(crate) fn hour_of_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
}
