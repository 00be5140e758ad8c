//! What has expired is gone for good and counted, what has not is untouched, and old spend stays known.

use std::collections::BTreeSet;
use std::time::Duration;

use meter::record::{Record, RecordId};
use meter::time::UnixNanos;
use proptest::prelude::*;

use super::samples::{EPOCH_NS, sample};
use super::{Home, layout_in, options, tenant};
use crate::rollup::HOUR_NS;
use crate::{ListQuery, Options, Retention, Stores, UsageQuery};

const TENANTS: [&str; 2] = ["ads", "search"];
/// Samples lie in so many hours.
const HOURS: u64 = 12;

fn hours(hours: u64) -> Duration {
    Duration::from_nanos(hours * HOUR_NS)
}

fn open(home: &Home, retention: Retention) -> Stores {
    // The other tenant keeps everything.
    let retention_of = vec![(tenant(TENANTS[0]), retention)];
    home.open_with(Options { retention_of, ..options() })
}

fn keep(records: u64, rollups: u64, bytes: u64) -> Retention {
    Retention { records_age: hours(records), rollups_age: hours(rollups), records_bytes_max: bytes }
}

fn listed(stores: &Stores, name: &str) -> BTreeSet<RecordId> {
    let query = ListQuery { limit: 10_000, ..ListQuery::default() };
    let page = stores.reader(&tenant(name)).unwrap().list(&query).unwrap();
    page.records.iter().map(|record| record.id).collect()
}

fn exchanges(stores: &Stores, since: u64, until: u64) -> u64 {
    let query =
        UsageQuery { since: Some(UnixNanos(since)), until: Some(UnixNanos(until)), ..UsageQuery::default() };
    let rows = stores.reader(&tenant(TENANTS[0])).unwrap().usage(&query).unwrap();
    rows.iter().map(|row| row.exchanges).sum()
}

fn hour(record: &Record) -> u64 {
    record.started_at.0 / HOUR_NS
}

fn is_exchange(record: &Record) -> bool {
    matches!(record.subject, meter::record::Subject::Exchange(_))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_has_expired_is_gone_and_nothing_else(
        offsets in proptest::collection::vec(0..HOURS * HOUR_NS / 1_000_000, 1..900),
        age in 1..HOURS,
        more in 0..HOURS,
        now in 0..2 * HOURS * HOUR_NS,
        cut in 0..HOURS * HOUR_NS,
    ) {
        let home = Home::new(&TENANTS);
        let stores = open(&home, keep(age, age + more, u64::MAX));
        let make = |name: &'static str| {
            let numbered = offsets.iter().enumerate();
            numbered.map(move |(seed, offset)| sample(name, offset * 1_000_000, seed as u64)).collect::<Vec<_>>()
        };
        let records = make(TENANTS[0]);
        prop_assert_eq!(stores.commit(&records).lost(), 0);
        prop_assert_eq!(stores.commit(&make(TENANTS[1])).lost(), 0);
        let now = EPOCH_NS + now;
        stores.upkeep(UnixNanos(now));

        let first_hour = (now - age * HOUR_NS) / HOUR_NS;
        let first_rollup_hour = (now - (age + more) * HOUR_NS) / HOUR_NS;
        let kept: BTreeSet<_> =
            records.iter().filter(|record| hour(record) >= first_hour).map(|record| record.id).collect();
        let check = |stores: &Stores| {
            assert_eq!(listed(stores, TENANTS[0]), kept);
            assert_eq!(listed(stores, TENANTS[1]).len(), records.len());
            let states = stores.states();
            assert_eq!(states[0].records, kept.len() as u64);
            assert_eq!(states[0].records_expired, (records.len() - kept.len()) as u64);
            assert_eq!((states[0].records_missing, states[1].records_missing), (0, 0));
            assert_eq!((states[1].records, states[1].records_expired), (records.len() as u64, 0));
            // Hours whose calls are gone count as a whole.
            let (since, until) = (EPOCH_NS + cut, EPOCH_NS + HOURS * HOUR_NS);
            let horizon = records.iter().map(hour).filter(|hour| *hour < first_hour).max().map_or(0, |hour| hour + 1);
            let counts = |record: &&Record| {
                is_exchange(record)
                    && hour(record) >= first_rollup_hour
                    && (record.started_at.0 >= since || hour(record) < horizon && hour(record) >= since / HOUR_NS)
            };
            // An hour before the first roll-up that still has records does not exist: roll-ups are kept longer.
            assert_eq!(exchanges(stores, since, until), records.iter().filter(counts).count() as u64);
        };
        check(&stores);
        drop(stores);
        check(&open(&home, keep(age, age + more, u64::MAX)));
    }
}

#[test]
fn the_oldest_go_first_when_there_are_too_many() {
    let home = Home::new(&TENANTS);
    let stores = open(&home, keep(10_000, 10_000, 300_000));
    let records: Vec<_> = (0..2_000).map(|n| sample(TENANTS[0], n * 10_000_000_000, n)).collect();
    assert_eq!(stores.commit(&records).lost(), 0);
    let all = stores.states()[0].records_bytes;
    assert!(all > 600_000, "{all} bytes");
    stores.upkeep(UnixNanos(EPOCH_NS + HOURS * HOUR_NS));
    let state = stores.states().remove(0);
    let largest = all / 200;
    assert!((300_000 - largest..=300_000).contains(&state.records_bytes), "{} bytes", state.records_bytes);
    assert_eq!(state.records + state.records_expired, 2_000);
    let kept = listed(&stores, TENANTS[0]);
    let newest: BTreeSet<_> = records[2_000 - kept.len()..].iter().map(|record| record.id).collect();
    assert_eq!(kept, newest);
    assert_eq!(state.oldest, records.get(2_000 - kept.len()).map(|record| UnixNanos(hour(record) * HOUR_NS)));
    let counted = records.iter().filter(|record| is_exchange(record)).count() as u64;
    assert_eq!(exchanges(&stores, EPOCH_NS, EPOCH_NS + HOURS * HOUR_NS), counted, "old spend stays known");
    // What is stored later is counted on.
    assert_eq!(stores.commit(&[sample(TENANTS[0], HOURS * HOUR_NS, 9_999)]).lost(), 0);
    assert_eq!(stores.states()[0].records, state.records + 1);
}

/// The disk as it is right after: a machine that loses its power here has not brought anything back.
#[test]
fn what_has_expired_does_not_come_back() {
    let home = Home::new(&TENANTS);
    let stores = open(&home, keep(2, 2, u64::MAX));
    for round in 0..6_u64 {
        let records: Vec<_> = (0..300)
            .map(|n| sample(TENANTS[0], round * HOUR_NS + n * 1_000_000, round * 1_000 + n))
            .collect();
        assert_eq!(stores.commit(&records).lost(), 0);
        stores.upkeep(UnixNanos(EPOCH_NS + (round + 1) * HOUR_NS));
        let kept = listed(&stores, TENANTS[0]);
        assert_eq!(kept.len(), 300 * usize::try_from(round + 1).unwrap().min(2));

        let copy = tempfile::tempdir().unwrap();
        super::faults::copy_tree(home.dir.path(), copy.path());
        let prepared = crate::prepare(&layout_in(copy.path()), &home.tenants, None).unwrap();
        let later = crate::open(prepared, options());
        assert_eq!(listed(&later, TENANTS[0]), kept);
        assert_eq!(later.states()[0].records_missing, 0, "expired is not lost");
        assert_eq!(later.states()[0].records_expired, stores.states()[0].records_expired);
    }
}
