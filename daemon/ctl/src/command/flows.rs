//! `venturi flows`: connections to providers, the newest at the bottom.

use jiff::Timestamp;
use proto::v1::{Flow, ListFlowsRequest};

use crate::action::Listing;
use crate::client::Client;
use crate::command::{TABLE_ROWS, page_limit, range};
use crate::failure::{Failure, Outcome};
use crate::output::json::{self, Object};
use crate::output::table::Column;
use crate::output::{Look, print, table, text};

/// Asks page by page and prints.
pub(crate) async fn run(
    client: &Client,
    listing: Listing,
    json: bool,
    now: Timestamp,
) -> Result<Outcome, Failure> {
    let limit = if json { listing.limit } else { listing.limit.or(Some(TABLE_ROWS)) };
    let mut request = ListFlowsRequest {
        tenant: listing.tenant,
        range: range(listing.since, now),
        descending: limit.is_some(),
        ..ListFlowsRequest::default()
    };
    let mut newest: Vec<Flow> = Vec::new();
    loop {
        request.limit = page_limit(limit.map(|limit| limit - newest.len() as u64));
        let page = client.flows(request.clone()).await?;
        match limit {
            Some(_) => newest.extend(page.flows),
            None => print(&page.flows.iter().map(|flow| object(flow).into_line()).collect::<String>())?,
        }
        let full = limit.is_some_and(|limit| newest.len() as u64 >= limit);
        if full || page.next_cursor.is_empty() {
            break;
        }
        request.cursor = page.next_cursor;
    }
    newest.truncate(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)));
    newest.reverse();
    if json {
        print(&newest.iter().map(|flow| object(flow).into_line()).collect::<String>())?;
    } else if newest.is_empty() {
        print("no connection to a provider was seen\n")?;
    } else {
        print(&table::of(Look::of_stdout(), COLUMNS, &newest))?;
    }
    Ok(Outcome::Good)
}

fn object(flow: &Flow) -> Object {
    Object::new()
        .text("id", &flow.id)
        .time("started_at", flow.started_at.as_ref())
        .time("ended_at", flow.ended_at.as_ref())
        .text("protocol", &flow.protocol)
        .text("local_address", &flow.local_address)
        .text("remote_address", &flow.remote_address)
        .text("provider", &flow.provider)
        .text("host", &flow.host)
        .text("identified_by", &flow.identified_by)
        .text("seen", &flow.seen)
        .opt("bytes_sent", flow.bytes_sent)
        .opt("bytes_received", flow.bytes_received)
        .text("bytes_missing_reason", &flow.bytes_missing_reason)
        .text("coverage", &flow.coverage)
        .text("reason", &flow.reason)
        .object("workload", json::workload(flow.workload.as_ref()))
        .object("owner", json::owner(flow.owner.as_ref()))
        .real("confidence", Some(flow.confidence))
        .text("band", &flow.band)
}

const COLUMNS: &[Column<Flow>] = &[
    Column {
        heading: "STARTED (UTC)",
        width: 19,
        dispensable: 3,
        right: false,
        cell: |flow| text::clock(flow.started_at.as_ref()),
    },
    Column {
        heading: "PROVIDER",
        width: 10,
        dispensable: 0,
        right: false,
        cell: |flow| text::name(&flow.provider),
    },
    Column { heading: "HOST", width: 28, dispensable: 4, right: false, cell: |flow| text::name(&flow.host) },
    Column {
        heading: "BY",
        width: 18,
        dispensable: 7,
        right: false,
        cell: |flow| text::name(&flow.identified_by),
    },
    Column {
        heading: "REMOTE",
        width: 22,
        dispensable: 6,
        right: false,
        cell: |flow| text::name(&flow.remote_address),
    },
    Column {
        heading: "SENT",
        width: 10,
        dispensable: 0,
        right: true,
        cell: |flow| text::bytes_or(flow.bytes_sent),
    },
    Column {
        heading: "RECEIVED",
        width: 10,
        dispensable: 0,
        right: true,
        cell: |flow| text::bytes_or(flow.bytes_received),
    },
    Column {
        heading: "WORKLOAD",
        width: 24,
        dispensable: 0,
        right: false,
        cell: |flow| text::workload(flow.workload.as_ref()),
    },
    Column {
        heading: "OWNER",
        width: 18,
        dispensable: 2,
        right: false,
        cell: |flow| text::owner(flow.owner.as_ref()),
    },
    Column { heading: "COVERAGE", width: 24, dispensable: 1, right: false, cell: coverage },
    Column { heading: "ID", width: 8, dispensable: 5, right: false, cell: |flow| text::short_id(&flow.id) },
];

fn coverage(flow: &Flow) -> String {
    match flow.reason.as_str() {
        "" => text::name(&flow.coverage),
        reason => format!("{} ({})", text::name(&flow.coverage), text::clean(reason)),
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::Workload;

    use super::*;

    fn flow() -> Flow {
        Flow {
            id: "attr_019ca95e4afa0000000000000000000a".into(),
            started_at: Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 }),
            protocol: "tcp".into(),
            local_address: "10.0.0.1:5000".into(),
            remote_address: "10.0.0.2:443".into(),
            bytes_sent: Some(3 << 20),
            provider: "openai".into(),
            host: "api.openai.com".into(),
            identified_by: "sni".into(),
            seen: "connect".into(),
            workload: Some(Workload {
                pid: Some(42),
                exe: Some("/usr/bin/curl".into()),
                ..Workload::default()
            }),
            coverage: "metadata_only".into(),
            reason: "upgraded".into(),
            ..Flow::default()
        }
    }

    #[test]
    fn a_flow_reads_as_a_row_and_as_json() {
        let expected = "\
STARTED (UTC)        PROVIDER  HOST            BY   REMOTE           SENT  RECEIVED  WORKLOAD  OWNER  COVERAGE                  ID
2026-03-01 12:00:00  openai    api.openai.com  sni  10.0.0.2:443  3.0 MiB         -  curl[42]  -      metadata_only (upgraded)  0000000a
";
        assert_eq!(table::of(Look::default(), COLUMNS, &[flow()]), expected);
        let json = object(&flow()).into_value();
        assert_eq!(json["bytes_sent"], 3 << 20);
        assert_eq!(json.get("bytes_received"), None, "unknown is absent");
        assert_eq!(json.get("ended_at"), None, "still open");
    }
}
