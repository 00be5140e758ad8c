//! The store behaves like a map that is never lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use meter::attribution::confidence::Band;
use meter::exchange::{RateLimits, Reason, ToolUse, Usage, Withheld};
use meter::record::{Record, RecordId, Subject};
use meter::time::UnixNanos;
use proptest::prelude::*;

use super::samples::{EPOCH_NS, sample};
use super::{Home, tenant};
use crate::rollup::HOUR_NS;
use crate::{GroupKey, Kind, ListQuery, ReadError, TenantReader, UsageQuery, UsageRow};

const TENANTS: [&str; 2] = ["ads", "search"];
/// Samples lie in so many hours.
const HOURS: u64 = 5;

#[derive(Clone, Debug)]
enum Step {
    /// Commit records made from (tenant, offset, seed).
    Commit(Vec<(bool, u64, u64)>),
    /// Close and open again.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few seeds and offsets, so that ids repeat.
    let record = (any::<bool>(), 0..HOURS * HOUR_NS / 1_000, 0u64..300)
        .prop_map(|(first, offset, seed)| (first, offset * 1_000, seed));
    let again = (any::<bool>(), prop_oneof![Just(0), Just(HOUR_NS - 1), Just(HOUR_NS)], 0u64..3);
    let commit =
        proptest::collection::vec(prop_oneof![4 => record, 1 => again], 0..60).prop_map(Step::Commit);
    proptest::collection::vec(prop_oneof![5 => commit, 1 => Just(Step::Reopen)], 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map_that_survives(
        steps in steps(),
        cuts in (0..HOURS * HOUR_NS, 0..HOURS * HOUR_NS),
    ) {
        let home = Home::new(&TENANTS);
        let mut stores = home.open();
        let mut model: [BTreeMap<RecordId, Record>; 2] = Default::default();
        for step in steps {
            match step {
                Step::Commit(list) => {
                    let make = |&(first, offset, seed): &(bool, u64, u64)| {
                        sample(TENANTS[usize::from(first)], offset, seed)
                    };
                    let records: Vec<Record> = list.iter().map(make).collect();
                    let outcome = stores.commit(&records);
                    prop_assert_eq!(outcome.lost(), 0);
                    let written: usize = outcome.tenants.iter().map(|entry| entry.written.len()).sum();
                    let before: usize = model.iter().map(BTreeMap::len).sum();
                    for ((first, ..), record) in list.iter().zip(records) {
                        model[usize::from(*first)].entry(record.id).or_insert(record);
                    }
                    prop_assert_eq!(written, model.iter().map(BTreeMap::len).sum::<usize>() - before);
                }
                Step::Reopen => {
                    drop(stores);
                    stores = home.open();
                }
            }
        }
        let since = EPOCH_NS + cuts.0.min(cuts.1);
        let until = EPOCH_NS + cuts.0.max(cuts.1);
        for (index, name) in TENANTS.into_iter().enumerate() {
            let reader = stores.reader(&tenant(name)).unwrap();
            check_listing(&reader, &model[index], since, until);
            check_usage(&reader, &model[index], name, since, until);
            let state = &stores.states()[index];
            prop_assert_eq!(state.records, model[index].len() as u64);
            prop_assert_eq!(state.rows_refused, 0);
        }
    }
}

fn check_listing(reader: &TenantReader, model: &BTreeMap<RecordId, Record>, since: u64, until: u64) {
    for record in model.values() {
        assert_eq!(reader.get(record.id).unwrap().as_ref(), Some(record));
    }
    assert_eq!(reader.get(RecordId(1)).unwrap(), None);
    let ranges =
        [(None, None), (Some(UnixNanos(since)), Some(UnixNanos(until))), (None, Some(UnixNanos(since)))];
    for kind in [Kind::Any, Kind::Exchange, Kind::Flow] {
        for descending in [false, true] {
            for (since, until) in ranges {
                let wanted = |record: &&Record| {
                    let kind = match record.subject {
                        Subject::Exchange(_) => kind != Kind::Flow,
                        Subject::Flow(_) => kind != Kind::Exchange,
                    };
                    kind && since.is_none_or(|since| record.started_at >= since)
                        && until.is_none_or(|until| record.started_at < until)
                };
                let mut expected: Vec<&Record> = model.values().filter(wanted).collect();
                if descending {
                    expected.reverse();
                }
                let query = ListQuery { kind, since, until, after: None, limit: 7, descending };
                let listed = all_pages(reader, query);
                assert_eq!(listed.iter().collect::<Vec<_>>(), expected);
            }
        }
    }
}

fn all_pages(reader: &TenantReader, mut query: ListQuery) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let page = reader.list(&query).unwrap();
        assert!(page.records.len() <= query.limit);
        records.extend(page.records);
        query.after = page.next;
        if page.next.is_none() {
            return records;
        }
    }
}

fn check_usage(
    reader: &TenantReader,
    model: &BTreeMap<RecordId, Record>,
    name: &str,
    since: u64,
    until: u64,
) {
    let groups =
        [vec![], vec![GroupKey::Team], vec![GroupKey::Workload, GroupKey::Model], GroupKey::ALL.to_vec()];
    for group_by in groups {
        for bucket_seconds in [0, 3_600, 7_200] {
            let ranges = [(None, None), (Some(since), Some(until)), (Some(since), None), (None, Some(until))];
            for (since, until) in ranges {
                let (since, until) = (since.map(UnixNanos), until.map(UnixNanos));
                let query = UsageQuery { since, until, group_by: group_by.clone(), bucket_seconds };
                assert_eq!(reader.usage(&query).unwrap(), expected_usage(model, name, &query), "{query:?}");
            }
        }
    }
}

/// The sums, added up from the records themselves.
fn expected_usage(model: &BTreeMap<RecordId, Record>, name: &str, query: &UsageQuery) -> Vec<UsageRow> {
    let inside = |record: &&Record| {
        query.since.is_none_or(|since| record.started_at >= since)
            && query.until.is_none_or(|until| record.started_at < until)
    };
    let mut rows: BTreeMap<(u64, Vec<Option<String>>), UsageRow> = BTreeMap::new();
    let mut earliest = None;
    for record in model.values().filter(inside) {
        let Subject::Exchange(exchange) = &record.subject else { continue };
        let hour = record.started_at.0 / HOUR_NS * HOUR_NS;
        earliest = Some(earliest.unwrap_or(hour).min(hour));
        let width = query.bucket_seconds * 1_000_000_000;
        let bucket = hour.checked_div(width).map_or(0, |index| index * width);
        let owner = &record.attribution.owner;
        let value = |key: &GroupKey| match key {
            GroupKey::Tenant => Some(name.to_owned()),
            GroupKey::Team => owner.team.as_deref().map(str::to_owned),
            GroupKey::Service => owner.service.as_deref().map(str::to_owned),
            GroupKey::CostCentre => owner.cost_centre.as_deref().map(str::to_owned),
            GroupKey::Environment => owner.environment.as_deref().map(str::to_owned),
            GroupKey::Workload => Some(record.workload.group_name()),
            GroupKey::Provider => Some(exchange.provider.to_string()),
            GroupKey::Model => {
                exchange.model.as_deref().or(exchange.requested_model.as_deref()).map(str::to_owned)
            }
        };
        let group: Vec<Option<String>> = query.group_by.iter().map(value).collect();
        let row = rows.entry((bucket, group.clone())).or_insert_with(|| UsageRow {
            bucket_start: UnixNanos(bucket),
            group: query
                .group_by
                .iter()
                .copied()
                .zip(group.into_iter().map(|text| text.map(Arc::from)))
                .collect(),
            ..UsageRow::default()
        });
        row.exchanges += 1;
        row.errors +=
            u64::from(exchange.error.is_some() || exchange.status.is_some_and(|status| status >= 400));
        let adds = exchange.inference
            || exchange.reason.is_some_and(|reason| reason != meter::exchange::Reason::NotInference);
        if !adds {
            continue;
        }
        row.exchanges_without_usage += u64::from(exchange.usage.is_unknown());
        add(&mut row.usage, &exchange.usage);
        match record.cost.as_ref().and_then(|cost| cost.amount) {
            None => row.exchanges_without_cost += 1,
            Some(amount) => {
                let eligible = record.attribution.confidence.band() == Band::ChargebackEligible;
                let part = if eligible { amount } else { Default::default() };
                row.amount = Some(row.amount.unwrap_or_default().plus(amount).unwrap());
                row.eligible = Some(row.eligible.unwrap_or_default().plus(part).unwrap());
            }
        }
    }
    let start = query.since.map(|since| since.0).or(earliest).unwrap_or(0);
    let mut rows: Vec<UsageRow> = rows.into_values().collect();
    if query.bucket_seconds == 0 {
        rows.iter_mut().for_each(|row| row.bucket_start = UnixNanos(start));
    }
    rows
}

fn add(sum: &mut Usage, more: &Usage) {
    let plus = |sum: &mut Option<u64>, more: Option<u64>| {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0) + more);
        }
    };
    plus(&mut sum.input, more.input);
    plus(&mut sum.output, more.output);
    plus(&mut sum.cache_read, more.cache_read);
    plus(&mut sum.cache_creation, more.cache_creation);
    plus(&mut sum.cache_creation_5m, more.cache_creation_5m);
    plus(&mut sum.cache_creation_1h, more.cache_creation_1h);
    plus(&mut sum.reasoning, more.reasoning);
    plus(&mut sum.audio_input, more.audio_input);
    plus(&mut sum.audio_output, more.audio_output);
    plus(&mut sum.image_input, more.image_input);
    plus(&mut sum.image_output, more.image_output);
    plus(&mut sum.total, more.total);
    plus(&mut sum.web_search_requests, more.web_search_requests);
    sum.details.add_all(&more.details);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_field_survives_the_disk_format(seed in any::<u64>(), offset in 0..HOURS * HOUR_NS) {
        let record = sample("ads", offset, seed);
        prop_assert_eq!(crate::format::decode(record.id, &crate::format::encode(&record)), Some(record));
    }

    #[test]
    fn any_bytes_decode_or_not_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = crate::format::decode(RecordId(1), &bytes);
        let _ = crate::rollup::Sums::decode(&bytes);
    }
}

#[test]
fn a_field_from_the_future_is_passed_over() {
    let record = sample("ads", 0, 1);
    let mut bytes = crate::format::encode(&record);
    bytes.extend_from_slice(&[0xfa, 0x3e, 3, b'n', b'e', b'w']);
    assert_eq!(crate::format::decode(record.id, &bytes), Some(record));
}

#[test]
fn long_listings_cross_stretches() {
    let home = Home::new(&["ads"]);
    let stores = home.open();
    let records: Vec<Record> = (0..4_500).map(|seed| sample("ads", seed * 1_000_000, seed)).collect();
    assert_eq!(stores.commit(&records).lost(), 0);
    let reader = stores.reader(&tenant("ads")).unwrap();
    for descending in [false, true] {
        let query = ListQuery { limit: 10_000, descending, ..ListQuery::default() };
        assert_eq!(reader.list(&query).unwrap().records.len(), 4_500);
    }
}

#[test]
fn a_bucket_is_whole_hours() {
    let home = Home::new(&["ads"]);
    let stores = home.open();
    let reader = stores.reader(&tenant("ads")).unwrap();
    let query = UsageQuery { bucket_seconds: 1_800, ..UsageQuery::default() };
    assert!(matches!(reader.usage(&query), Err(ReadError::BadQuery(_))));
    assert!(stores.reader(&tenant("other")).is_none());
    assert!(stores.fingerprint_key(&tenant("other")).is_none());
    assert_eq!(stores.commit(&[sample("other", 0, 1)]).lost(), 1);
    assert_eq!(stores.homeless(), 1);
}

/// A call as the first version wrote it: two calls of `look_up` and one of `send`, usage 1,200 and 34, reason
/// `interrupted`, cost unknown.
const FIRST_FORMAT: &str = "\
    0880e2cfaa061081e2cfaa061a8a01080710011a066f70656e6169220e6170692e6f70656e61692e636f6d2805320b6f\
    70656e61695f636861743a0463686174400152066770742d346f60c8016a0808b009102260d2098a010a746f6f6c5f63\
    616c6c739201076c6f6f6b5f757092010473656e649201076c6f6f6b5f75709a01057265715f31d0010ad80114e20106\
    080510062809e801072a06082a1063600132160a090a0764656661756c741001180120a846400b48023a13100418072a\
    0d756e6b6e6f776e5f7573616765";

#[test]
fn records_of_the_first_format_are_still_understood() {
    let bytes: Vec<u8> = (0..FIRST_FORMAT.len() / 2)
        .map(|at| u8::from_str_radix(&FIRST_FORMAT[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let record = crate::format::decode(RecordId(1), &bytes).expect("a readable record");
    let Subject::Exchange(exchange) = &record.subject else { panic!("a call") };
    let calls = |name: &str, calls| ToolUse { name: name.into(), calls: Some(calls) };
    assert_eq!(exchange.tools, [calls("look_up", 2), calls("send", 1)]);
    assert_eq!(exchange.usage.input, Some(1_200));
    assert_eq!(exchange.reason, Some(Reason::Interrupted));
    assert_eq!(exchange.rate_limits, RateLimits::default());
    assert_eq!((exchange.retries, exchange.withheld), (None, Withheld::default()));
    assert_eq!(record.cost.as_ref().and_then(|cost| cost.reason), Some("unknown_usage"));
    assert_eq!(crate::format::decode(record.id, &crate::format::encode(&record)), Some(record));
}
