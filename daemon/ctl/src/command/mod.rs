//! One module per command: ask, turn the answer into text, print it, say how it ended.

pub(crate) mod calls;
mod doctor;
mod explain;
mod flows;
mod spend;
mod status;

use jiff::Timestamp;
use proto::v1::{NodeStatus, TimeRange};

use crate::action::{Action, Cli};
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::output::text::stamp;
use crate::since::Since;

/// Rows of a table that nobody asked a number for.
const TABLE_ROWS: u64 = 50;
/// Records asked for at once: about a megabyte.
const PAGE_RECORDS: u64 = 500;

/// Carries out what the command line asks for.
pub(crate) async fn run(cli: Cli) -> Result<Outcome, Failure> {
    let Cli { socket, json, action } = cli;
    let client = match Client::connect(&socket).await {
        Ok(client) => client,
        Err(failure) if matches!(action, Action::Doctor) => return doctor::without_daemon(failure, json),
        Err(failure) => return Err(failure),
    };
    let now = Timestamp::now();
    match action {
        Action::Status => status::run(&client, json, now).await,
        Action::Doctor => doctor::run(&client, json, now).await,
        Action::Flows(listing) => flows::run(&client, listing, json, now).await,
        Action::Calls(calls) => calls::run(client, &socket, calls, json, now).await,
        Action::Spend(spend) => spend::run(&client, spend, json, now).await,
        Action::Explain(explain) => explain::run(&client, explain, json).await,
    }
}

/// What the state of the node means for the exit code.
fn outcome_of(status: &NodeStatus) -> Outcome {
    match status.state.as_str() {
        "capture_lost" => Outcome::CaptureLost,
        "ok" if status.armed && status.capture_mode == "live" => Outcome::Good,
        _ => Outcome::Degraded,
    }
}

fn range(since: Option<Since>, now: Timestamp) -> Option<TimeRange> {
    since.map(|since| TimeRange { since: Some(stamp(since.resolve(now))), until: None })
}

fn page_limit(wanted: Option<u64>) -> u32 {
    let records = wanted.unwrap_or(PAGE_RECORDS).min(PAGE_RECORDS);
    u32::try_from(records).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_armed_live_node_is_good() {
        fn check(state: &str, armed: bool, capture_mode: &str, expected: Outcome) {
            let status = NodeStatus {
                state: state.into(),
                armed,
                capture_mode: capture_mode.into(),
                ..NodeStatus::default()
            };
            assert_eq!(outcome_of(&status), expected, "{state} {armed} {capture_mode}");
        }
        check("ok", true, "live", Outcome::Good);
        check("ok", false, "live", Outcome::Degraded);
        check("ok", true, "replay", Outcome::Degraded);
        check("ok", true, "off", Outcome::Degraded);
        check("degraded", true, "live", Outcome::Degraded);
        check("capture_lost", true, "live", Outcome::CaptureLost);
        check("something_new", true, "live", Outcome::Degraded);
        check("", false, "", Outcome::Degraded);
    }
}
