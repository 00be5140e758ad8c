//! `venturi calls`: calls to providers, the newest at the bottom; with `--follow` as they end.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use proto::v1::{AttributionRecord, ListAttributionsRequest};

use crate::action::{Calls, Listing};
use crate::client::Client;
use crate::command::{TABLE_ROWS, page_limit, range};
use crate::failure::{Failure, Outcome};
use crate::follow::{BackOff, Cursor, Waiting, trouble};
use crate::output::json::Object;
use crate::output::table::Rolling;
use crate::output::{Look, call, print, table};

/// A watch that was silent for so long may be so because a store fails.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// Lists or follows.
pub(crate) async fn run(
    client: Client,
    socket: &Path,
    calls: Calls,
    json: bool,
    now: Timestamp,
) -> Result<Outcome, Failure> {
    let Calls { follow, listing } = calls;
    if !follow {
        return list(&client, listing, json, now).await;
    }
    let cursor = Cursor::new(listing.since.map(|since| since.resolve(now)));
    let mut sink = Sink::new(json, listing.limit)?;
    let mut say = |words: &str| eprintln!("venturi: {words}");
    let mut waiting = Waiting::new(&mut say);
    self::follow(client, socket, &listing.tenant, cursor, &mut |record| sink.show(record), &mut waiting).await
}

/// Without a limit every call is printed as its page arrives, oldest first; with one the newest are gathered backwards.
async fn list(client: &Client, listing: Listing, json: bool, now: Timestamp) -> Result<Outcome, Failure> {
    let limit = if json { listing.limit } else { listing.limit.or(Some(TABLE_ROWS)) };
    let mut request = ListAttributionsRequest {
        tenant: listing.tenant,
        range: range(listing.since, now),
        descending: limit.is_some(),
        ..ListAttributionsRequest::default()
    };
    let mut newest: Vec<AttributionRecord> = Vec::new();
    loop {
        request.limit = page_limit(None);
        let page = client.attributions(request.clone()).await?;
        match limit {
            Some(_) => newest.extend(page.records.into_iter().filter(|record| record.exchange.is_some())),
            None => print(&lines(&page.records))?,
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
        print(&lines(&newest))?;
    } else if newest.is_empty() {
        print("no call to a provider was seen\n")?;
    } else {
        print(&table::of(Look::of_stdout(), call::COLUMNS, &newest))?;
    }
    Ok(Outcome::Good)
}

fn lines(records: &[AttributionRecord]) -> String {
    records.iter().filter_map(call::object).map(Object::into_line).collect()
}

/// Shows one call; true if no more are wanted.
pub(crate) type Show<'a> = dyn FnMut(&AttributionRecord) -> Result<bool, Failure> + 'a;

/// Shows calls as they become durable, until `--limit` is reached or the reader goes away. A daemon that restarts, or whose
/// store fails, is waited for, which `waiting` says; one that was never there is an error.
pub(crate) async fn follow(
    client: Client,
    socket: &Path,
    tenant: &str,
    mut cursor: Cursor,
    show: &mut Show<'_>,
    waiting: &mut Waiting<'_>,
) -> Result<Outcome, Failure> {
    let mut back_off = BackOff::new();
    let mut connected = Some(client);
    loop {
        let attempt = match connected.take() {
            Some(client) => Ok(client),
            None => Client::connect(socket).await,
        };
        let ended = match attempt {
            Ok(client) => watch(&client, tenant, &mut cursor, show, &mut back_off, waiting).await,
            Err(failure) => Err(failure),
        };
        match ended {
            Ok(Watch::Enough) => return Ok(Outcome::Good),
            Err(failure) if !failure.may_pass() => return Err(failure),
            Err(failure) => waiting.begin(&failure.to_string()),
            Ok(Watch::Ended) => {}
        }
        tokio::time::sleep(back_off.pause()).await;
    }
}

/// How a watch ended without an error.
enum Watch {
    /// The reader has what it asked for.
    Enough,
    /// The daemon ended it.
    Ended,
}

async fn watch(
    client: &Client,
    tenant: &str,
    cursor: &mut Cursor,
    show: &mut Show<'_>,
    back_off: &mut BackOff,
    waiting: &mut Waiting<'_>,
) -> Result<Watch, Failure> {
    let (began, mut records) = client.watch(cursor.request(tenant)).await?;
    cursor.began(&began);
    loop {
        let Ok(next) = tokio::time::timeout(SILENT_FOR, records.message()).await else {
            // A daemon that cannot say how it is will not serve the watch either, which its end shows.
            if let Ok(status) = client.status().await {
                match trouble(&status, tenant) {
                    Some(why) => waiting.begin(&why),
                    None => waiting.end(),
                }
            }
            continue;
        };
        let Some(record) = next.map_err(|status| Failure::Refused(Box::new(status)))? else {
            return Ok(Watch::Ended);
        };
        waiting.end();
        back_off.reset();
        cursor.passed(&record);
        if record.exchange.is_some() && show(&record)? {
            return Ok(Watch::Enough);
        }
    }
}

/// Where followed calls go: one line each, at once.
struct Sink {
    /// `None`: JSON.
    table: Option<Rolling<AttributionRecord>>,
    /// Calls still wanted; `None`: all.
    left: Option<u64>,
}

impl Sink {
    fn new(json: bool, limit: Option<u64>) -> Result<Sink, Failure> {
        let table = (!json).then(|| Rolling::new(Look::of_stdout(), call::COLUMNS));
        if let Some(table) = &table {
            print(&format!("{}\n", table.heading()))?;
        }
        Ok(Sink { table, left: limit })
    }

    /// Shows one call; true if it was the last one wanted.
    fn show(&mut self, record: &AttributionRecord) -> Result<bool, Failure> {
        let line = match &self.table {
            Some(table) => format!("{}\n", table.row(record)),
            None => lines(std::slice::from_ref(record)),
        };
        print(&line)?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(self.left == Some(0))
    }
}
