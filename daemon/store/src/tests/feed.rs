//! A feed against a model: each follower gets what was committed from its position on, in that order, each record once.

use std::str::FromStr as _;

use meter::record::{Record, RecordId, Subject};
use meter::time::UnixNanos;
use proptest::prelude::*;

use super::samples::{EPOCH_NS, sample};
use super::{Home, options, tenant};
use crate::rollup::HOUR_NS;
use crate::{FeedQuery, Kind, Options, Position, Retention, Stores, TenantReader};

const NAME: &str = "ads";
const HOURS: u64 = 6;

#[derive(Clone, Debug)]
enum Step {
    /// Commit samples made from (offset, seed); some ids repeat.
    Commit(Vec<(u64, u64)>),
    /// A follower takes one stretch of at most so many.
    Take(usize, usize),
    /// Close and open again.
    Reopen,
    /// Records of hours before this one expire.
    Expire(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (0..HOURS * HOUR_NS / 1_000_000, 0_u64..400).prop_map(|(ms, seed)| (ms * 1_000_000, seed));
    let step = prop_oneof![
        4 => proptest::collection::vec(record, 1..40).prop_map(Step::Commit),
        6 => (0..FOLLOWERS.len(), 1_usize..30).prop_map(|(who, limit)| Step::Take(who, limit)),
        1 => Just(Step::Reopen),
        1 => (0..HOURS).prop_map(Step::Expire),
    ];
    proptest::collection::vec(step, 1..40)
}

const FOLLOWERS: [(Kind, Option<u64>); 4] =
    [(Kind::Any, None), (Kind::Exchange, None), (Kind::Flow, Some(2)), (Kind::Any, Some(4))];

fn query(who: usize, limit: usize) -> FeedQuery {
    let (kind, hour) = FOLLOWERS[who];
    FeedQuery { kind, since: hour.map(|hour| UnixNanos(EPOCH_NS + hour * HOUR_NS)), limit }
}

fn wants(who: usize, record: &Record) -> bool {
    let (kind, hour) = FOLLOWERS[who];
    let of_kind = match record.subject {
        Subject::Exchange(_) => kind != Kind::Flow,
        Subject::Flow(_) => kind != Kind::Exchange,
    };
    of_kind && hour.is_none_or(|hour| record.started_at.0 >= EPOCH_NS + hour * HOUR_NS)
}

fn open(home: &Home) -> Stores {
    let keep = Retention {
        records_age: std::time::Duration::from_nanos(HOUR_NS),
        rollups_age: std::time::Duration::from_nanos(HOUR_NS),
        ..Retention::default()
    };
    home.open_with(Options { retention: keep, ..options() })
}

fn reader(stores: &Stores) -> TenantReader {
    stores.reader(&tenant(NAME)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_feed_tells_every_commit_once_and_in_order(steps in steps()) {
        let home = Home::new(&[NAME]);
        let mut stores = open(&home);
        // Everything that was committed, in order; what expired is taken out where nobody has taken it yet.
        let mut model: Vec<Record> = Vec::new();
        let mut positions = [reader(&stores).beginning(); FOLLOWERS.len()];
        let mut told: [Vec<RecordId>; FOLLOWERS.len()] = Default::default();
        // Told, or expired before.
        let mut done = [0_usize; FOLLOWERS.len()];
        let mut first_hour = 0;
        for step in steps {
            match step {
                Step::Commit(list) => {
                    for (offset, seed) in list {
                        let record = sample(NAME, offset, seed);
                        // What has expired and comes again is another commit; the model need not know that.
                        if record.started_at.0 / HOUR_NS < first_hour { continue; }
                        let outcome = stores.commit(std::slice::from_ref(&record));
                        prop_assert_eq!(outcome.lost(), 0);
                        if !outcome.tenants[0].written.is_empty() {
                            model.push(record);
                        }
                    }
                }
                Step::Take(who, limit) => {
                    let stretch = reader(&stores).committed(positions[who], &query(who, limit)).unwrap();
                    prop_assert!(stretch.records.len() <= limit);
                    for (record, behind) in &stretch.records {
                        told[who].push(record.id);
                        prop_assert!(*behind <= stretch.next && *behind > positions[who]);
                        // What a client would send and get back.
                        prop_assert_eq!(Position::from_str(&behind.to_string()), Ok(*behind));
                    }
                    positions[who] = stretch.next;
                    prop_assert!(!stretch.complete || stretch.next == reader(&stores).end());
                    let expected: Vec<_> = told[who].clone();
                    // Everything wanted up to the last one told is told, unless it had expired by then.
                    let alive = |record: &&Record| record.started_at.0 / HOUR_NS >= first_hour;
                    let mut place = done[who];
                    for id in &expected[expected.len() - stretch.records.len()..] {
                        let next = model[place..].iter().position(|record| wants(who, record) && alive(&record));
                        place += next.expect("a record that was committed") + 1;
                        prop_assert_eq!(*id, model[place - 1].id);
                    }
                    if stretch.complete {
                        let left = model[place..].iter().filter(alive).find(|record| wants(who, record));
                        prop_assert_eq!(left.map(|record| record.id), None);
                        place = model.len();
                    }
                    done[who] = place;
                }
                Step::Reopen => {
                    drop(stores);
                    stores = open(&home);
                }
                Step::Expire(hour) => {
                    let now = EPOCH_NS + (hour + 1) * HOUR_NS;
                    stores.upkeep(UnixNanos(now));
                    first_hour = first_hour.max(now / HOUR_NS - 1);
                }
            }
        }
    }
}

/// Told once, whatever becomes of the database; a replaced one is told from its beginning.
#[test]
fn a_position_of_another_database_is_the_beginning() {
    let (one, two) = (Home::new(&[NAME]), Home::new(&[NAME]));
    let (first, second) = (one.open(), two.open());
    for stores in [&first, &second] {
        let records: Vec<_> = (0..10).map(|n| sample(NAME, n * 1_000_000, n)).collect();
        assert_eq!(stores.commit(&records).lost(), 0);
    }
    let all = FeedQuery { limit: 100, ..FeedQuery::default() };
    let end = reader(&first).end();
    assert!(reader(&first).committed(end, &all).unwrap().records.is_empty());
    let again = reader(&second).committed(end, &all).unwrap();
    assert_eq!((again.records.len(), again.complete), (10, true));
    assert_eq!(again.next, reader(&second).end());
    // A backup that was put back knows less than the client: what comes next is told.
    let ahead = Position::from_str(&end.to_string().replace("-10", "-12")).unwrap();
    assert_eq!(reader(&first).committed(ahead, &all).unwrap().next, end);
    for text in ["", "-", "7", "0000000000000001-", "0000000000000001-x", "1-1", "0000000000000001-+1"] {
        assert_eq!(Position::from_str(text), Err(()), "{text:?}");
    }
}

/// What has expired leaves nothing behind that grows.
#[test]
fn expired_commits_are_forgotten() {
    let home = Home::new(&[NAME]);
    let stores = open(&home);
    let records: Vec<_> = (0..3_000).map(|n| sample(NAME, n % 2 * 3 * HOUR_NS + n, n)).collect();
    assert_eq!(stores.commit(&records).lost(), 0);
    stores.upkeep(UnixNanos(EPOCH_NS + 100 * HOUR_NS));
    let end = reader(&stores).end();
    drop(stores);
    let database = home.database(NAME);
    assert_eq!(database.scan_prefix(b"c").count() + database.scan_prefix(b"r").count(), 0);
    drop(database);
    let stores = open(&home);
    assert_eq!(reader(&stores).end(), end, "numbers are not given twice");
}
