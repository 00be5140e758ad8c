//! `venturi spend`: cost and tokens, summed by what was asked for.

use jiff::Timestamp;
use proto::v1::{QueryUsageRequest, UsageRow};

use crate::action::{GroupKey, Spend};
use crate::client::Client;
use crate::command::range;
use crate::failure::{Failure, Outcome};
use crate::output::json::{self, Object};
use crate::output::{Look, print, table, text};

/// Asks and prints.
pub(crate) async fn run(
    client: &Client,
    spend: Spend,
    json: bool,
    now: Timestamp,
) -> Result<Outcome, Failure> {
    let Spend { mut by, since, bucket, tenant } = spend;
    let mut seen = Vec::new();
    by.retain(|key| {
        !seen.contains(key) && {
            seen.push(*key);
            true
        }
    });
    let answer = client
        .usage(QueryUsageRequest {
            tenant,
            range: range(Some(since), now),
            group_by: by.iter().map(|key| key.as_str().to_owned()).collect(),
            bucket_seconds: bucket.unwrap_or(0),
        })
        .await?;
    let text = if json {
        answer.rows.iter().map(|row| object(row, &by, bucket.is_some()).into_line()).collect()
    } else if answer.rows.is_empty() {
        "no call to a provider was seen in that time\n".to_owned()
    } else {
        render(answer.rows, &by, bucket.is_some(), Look::of_stdout())
    };
    print(&text)?;
    Ok(Outcome::Good)
}

fn object(row: &UsageRow, by: &[GroupKey], bucketed: bool) -> Object {
    let start = if bucketed { row.bucket_start.as_ref() } else { None };
    let group = by.iter().fold(Object::new(), |group, key| group.text(key.as_str(), value(row, *key)));
    Object::new()
        .time("bucket_start", start)
        .object("group", group)
        .set("exchanges", row.exchanges)
        .set("exchanges_without_usage", row.exchanges_without_usage)
        .set("exchanges_without_cost", row.exchanges_without_cost)
        .set("errors", row.errors)
        .object("usage", json::usage(row.usage.as_ref()))
        .opt("amount_usd", row.amount_usd.clone())
        .opt("eligible_usd", row.eligible_usd.clone())
}

fn value(row: &UsageRow, key: GroupKey) -> &str {
    row.group.get(key.as_str()).map_or("", String::as_str)
}

/// One row per group, by bucket and then by name.
fn render(mut rows: Vec<UsageRow>, by: &[GroupKey], bucketed: bool, look: Look) -> String {
    rows.sort_by_cached_key(|row| {
        let start = row.bucket_start.as_ref().filter(|_| bucketed).map(|start| start.seconds);
        (start, by.iter().map(|key| value(row, *key).to_owned()).collect::<Vec<_>>())
    });
    let mut headings: Vec<String> = by.iter().map(|key| key.as_str().to_uppercase()).collect();
    if bucketed {
        headings.insert(0, "FROM (UTC)".to_owned());
    }
    let names = headings.len();
    headings.extend(
        ["CALLS", "INPUT", "CACHED", "OUTPUT", "COST", "ELIGIBLE", "NO COST", "ERRORS"].map(str::to_owned),
    );
    let cells = rows.iter().map(|row| {
        let mut cells: Vec<String> = by.iter().map(|key| text::name(value(row, *key))).collect();
        if bucketed {
            cells.insert(0, text::clock(row.bucket_start.as_ref()));
        }
        let usage = row.usage.clone().unwrap_or_default();
        cells.extend([
            text::count(row.exchanges),
            text::count_or(usage.input_tokens),
            text::count_or(usage.cache_read_input_tokens),
            text::count_or(usage.output_tokens),
            text::dollars_or(row.amount_usd.as_ref()),
            text::dollars_or(row.eligible_usd.as_ref()),
            text::count(row.exchanges_without_cost),
            text::count(row.errors),
        ]);
        cells
    });
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let right: Vec<usize> = (names..headings.len()).collect();
    // Of calls, input, cached, output, cost, eligible, no cost and errors those that a narrow terminal does without.
    let dispensable = [0, 1, 3, 6, 5, 2, 7].map(|at| names + at);
    table::of_cells(look, &headings, cells.collect(), &right, &dispensable)
}

#[cfg(test)]
mod tests {
    use proto::v1::Usage;

    use super::*;

    fn row(team: &str, hour: i64, amount: Option<&str>) -> UsageRow {
        let mut group = std::collections::HashMap::from([("model".to_owned(), "gpt-4o".to_owned())]);
        if !team.is_empty() {
            group.insert("team".to_owned(), team.to_owned());
        }
        UsageRow {
            bucket_start: Some(prost_types::Timestamp { seconds: 1_772_366_400 + hour * 3_600, nanos: 0 }),
            group,
            exchanges: 3,
            exchanges_without_cost: u64::from(amount.is_none()),
            usage: amount.map(|_| Usage { input_tokens: Some(12_000), ..Usage::default() }),
            amount_usd: amount.map(str::to_owned),
            ..UsageRow::default()
        }
    }

    #[test]
    fn groups_are_rows_and_unknown_is_not_zero() {
        fn check(bucketed: bool, expected: &str) {
            let rows = vec![row("shop", 1, Some("1.500000000000")), row("", 0, None)];
            let by = [GroupKey::Team, GroupKey::Model];
            assert_eq!(render(rows, &by, bucketed, Look::default()), expected);
        }
        check(
            false,
            "\
TEAM  MODEL   CALLS   INPUT  CACHED  OUTPUT   COST  ELIGIBLE  NO COST  ERRORS
-     gpt-4o      3       -       -       -      -         -        1       0
shop  gpt-4o      3  12,000       -       -  $1.50         -        0       0
",
        );
        check(
            true,
            "\
FROM (UTC)           TEAM  MODEL   CALLS   INPUT  CACHED  OUTPUT   COST  ELIGIBLE  NO COST  ERRORS
2026-03-01 12:00:00  -     gpt-4o      3       -       -       -      -         -        1       0
2026-03-01 13:00:00  shop  gpt-4o      3  12,000       -       -  $1.50         -        0       0
",
        );
    }

    #[test]
    fn a_narrow_terminal_shows_fewer_sums_and_breaks_none() {
        fn check(width: u16, expected: &str) {
            let rows = vec![row("shop", 1, Some("1.500000000000"))];
            let look = Look { width: Some(width), colour: false };
            let text = render(rows, &[GroupKey::Team, GroupKey::Model], false, look);
            assert_eq!(text.lines().next(), Some(expected), "{width}");
            assert_eq!(text.lines().count(), 2, "{width}: {text}");
        }
        check(80, "TEAM  MODEL   CALLS   INPUT  CACHED  OUTPUT   COST  ELIGIBLE  NO COST  ERRORS");
        check(72, "TEAM  MODEL   CALLS   INPUT  CACHED  OUTPUT   COST  ELIGIBLE  NO COST");
        check(62, "TEAM  MODEL   CALLS   INPUT  OUTPUT   COST  ELIGIBLE  NO COST");
        check(50, "TEAM  MODEL   CALLS   INPUT  OUTPUT   COST");
        check(24, "TEAM  MODEL    COST");
    }

    #[test]
    fn json_has_a_bucket_only_if_one_was_asked_for() {
        let by = [GroupKey::Team, GroupKey::Model];
        assert_eq!(
            object(&row("", 0, None), &by, false).into_line(),
            "{\"group\":{\"model\":\"gpt-4o\"},\"exchanges\":3,\"exchanges_without_usage\":0,\
             \"exchanges_without_cost\":1,\"errors\":0}\n"
        );
        let json = object(&row("shop", 1, Some("1.5")), &by, true).into_value();
        assert_eq!(json["bucket_start"], "2026-03-01T13:00:00.000000Z");
        assert_eq!(json["amount_usd"], "1.5");
    }
}
