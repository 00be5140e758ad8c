//! First calls: what share of the calls of a fresh process is captured, by distance. What is missed says `late_attach`.

use std::time::Duration;

use e2e::clients::{self, Call, Client};
use e2e::daemon::Daemon;
use e2e::needs_kernel;
use serde_json::Value;

use e2e::lab::Lab;

/// Runs of a fresh process per distance and client.
const RUNS: u64 = 8;

#[test]
fn nothing_is_missed_silently_and_nothing_at_all_from_5_ms_on() {
    needs_kernel!("nothing_is_missed_silently_and_nothing_at_all_from_5_ms_on");
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let mut seed = 0;
    println!("client        delay/dir  run     calls  captured  late_attach");
    for (client, api) in [(Client::PythonHttpx, "chat"), (Client::NodeFetch, "chat"), (Client::Curl, "chat")]
    {
        for delay_ms in [5, 20, 50, 0] {
            let world = lab.at_distance(Duration::from_millis(delay_ms));
            for (kind, runs) in [("first", 1), ("second", 1), ("later", RUNS)] {
                let before = late(&daemon.calls().expect("calls"));
                let mut calls = Vec::new();
                for _ in 0..runs {
                    seed += 1;
                    let call = Call::new(api, false, 100_000 + seed);
                    let (_, reports) = clients::run(client, &world, lab.path(), std::slice::from_ref(&call))
                        .expect("reports");
                    assert!(reports.iter().all(clients::Report::ok), "{reports:?}");
                    calls.push(call);
                }
                let captured = |records: &[Value]| calls.iter().filter(|call| has(call, records)).count();
                let settled = |records: &[Value]| captured(records) + (late(records) - before) >= calls.len();
                let records = daemon.calls_until(settled).expect("every call is recorded or late");
                let (captured, late) = (captured(&records), late(&records) - before);
                println!(
                    "{:12}  {delay_ms:6} ms  {kind:6}  {:5}  {captured:8}  {late:11}",
                    format!("{client:?}"),
                    calls.len()
                );
                assert_eq!(
                    captured + late,
                    calls.len(),
                    "{client:?} at {delay_ms} ms: counted twice: {}",
                    Value::from(records.clone())
                );
                if delay_ms >= 5 && kind == "later" {
                    assert_eq!(
                        captured,
                        calls.len(),
                        "{client:?} at {delay_ms} ms: missed, though the executable was seen before: run {:?}",
                        calls.iter().position(|call| !has(call, &records))
                    );
                }
            }
        }
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

fn has(call: &Call, records: &[Value]) -> bool {
    records.iter().any(|record| record["usage"]["input_tokens"] == call.input)
}

fn late(records: &[Value]) -> usize {
    records.iter().filter(|record| record["reason"] == "late_attach").count()
}
