//! For each real client: the stored record has the exact model, token classes, cost, process and owner.

use std::time::Duration;

use e2e::clients::{self, Call, Client, Report};
use e2e::daemon::Daemon;
use e2e::needs_kernel;
use e2e::provider::served_model;
use meter::money::PicoUsd;
use serde_json::Value;

use e2e::lab::Lab;

/// Both APIs a client speaks, streamed and not; counts unique within the test.
fn calls_of(client: Client, seed: &mut u64) -> Vec<Call> {
    let apis: &[&'static str] = match client {
        Client::PythonAnthropic | Client::PythonAnthropicAsync => &["messages"],
        Client::PythonHttpx | Client::NodeFetch | Client::Curl => &["chat", "responses", "messages"],
        client if client.is_http2() => &["chat", "responses", "messages"],
        _ => &["chat", "responses"],
    };
    let mut calls = Vec::new();
    for api in apis {
        for stream in [false, true] {
            *seed += 1;
            calls.push(Call::new(api, stream, *seed));
        }
    }
    calls
}

/// The record of `call` among `records`.
fn record_of<'a>(call: &Call, records: &'a [Value]) -> Option<&'a Value> {
    records.iter().find(|record| record["usage"]["input_tokens"] == call.input)
}

/// A rule on a fact of the kernel.
const OWNERS: &str = "[[owner]]\nmatch = { user = \"root\" }\nteam = \"lab\"\nservice = \"clients\"\n";

#[test]
fn every_client_is_recorded_exactly() {
    needs_kernel!("every_client_is_recorded_exactly");
    let lab = Lab::new(&["h2", "http/1.1"]);
    // A network's distance: on bare loopback the first call of a process may win the race against its arming, which
    // the first-call tests measure.
    let world = lab.at_distance(Duration::from_millis(20));
    let daemon = Daemon::start(lab.path(), OWNERS).expect("an armed daemon");
    let mut seed = 0;
    let mut problems = Vec::new();
    for client in Client::ALL {
        let warm_up = [Call::new(calls_of(*client, &mut seed)[0].api, false, 400_000 + seed)];
        clients::run(*client, &world, lab.path(), &warm_up).expect("a first run of the executable");
        let calls = calls_of(*client, &mut seed);
        let (pid, reports) = clients::run(*client, &world, lab.path(), &calls).expect("the client's reports");
        assert!(reports.iter().all(Report::ok), "{client:?} failed: {reports:?}");
        let all = |records: &[Value]| calls.iter().all(|call| record_of(call, records).is_some());
        match daemon.calls_until(all) {
            Ok(records) => {
                for call in &calls {
                    let record = record_of(call, &records).expect("just found");
                    let report = reports.iter().find(|report| report.is_of(call)).expect("its report");
                    problems.extend(differences(*client, pid, call, report, record));
                }
            }
            Err(error) => problems.push(format!("{client:?}: {error:#}")),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// What the call costs by the published list prices of November 2026, US dollars per million tokens: gpt-4o 2.50, cached
/// 1.25, output 10; claude-sonnet-4-5 3, cached 0.30, output 15.
fn list_price(call: &Call) -> String {
    let (input, cached, output) = if call.api == "messages" {
        (3_000_000, 300_000, 15_000_000)
    } else {
        (2_500_000, 1_250_000, 10_000_000)
    };
    let pico = (call.input - call.cached) * input + call.cached * cached + call.output * output;
    PicoUsd(u128::from(pico)).to_string()
}

/// What the record says otherwise than the call that was made and what its client counted.
fn differences(client: Client, pid: u32, call: &Call, report: &Report, record: &Value) -> Vec<String> {
    // curl is a child of the script: another process each time.
    let pid = report.value["pid"].as_u64().unwrap_or(u64::from(pid));
    let provider = if call.api == "messages" { "anthropic" } else { "openai" };
    let mut wanted = vec![
        ("/provider", Value::from(provider)),
        ("/requested_model", Value::from(call.model.as_str())),
        ("/model", Value::from(served_model(&call.model))),
        ("/streaming", Value::from(call.stream)),
        ("/status", Value::from(200)),
        ("/usage/input_tokens", Value::from(call.input)),
        ("/usage/output_tokens", Value::from(call.output)),
        ("/usage/cache_read_input_tokens", Value::from(call.cached)),
        ("/owner/tenant", Value::from("default")),
        ("/owner/team", Value::from("lab")),
        ("/owner/service", Value::from("clients")),
        ("/band", Value::from("chargeback_eligible")),
        ("/cost/amount_usd", Value::from(list_price(call))),
        ("/cost/kind", Value::from("computed")),
        ("/request_bytes", report.value["sent"].clone()),
        ("/response_bytes", report.value["received"].clone()),
        ("/workload/pid", Value::from(pid)),
    ];
    if call.api != "messages" {
        wanted.push(("/usage/reasoning_output_tokens", Value::from(call.reasoning)));
    }
    wanted
        .into_iter()
        .filter(|(pointer, want)| record.pointer(pointer) != Some(want))
        .map(|(pointer, want)| {
            format!("{client:?} {call:?}: {pointer} is {:?}, not {want}", record.pointer(pointer))
        })
        .collect()
}

fn http2_connections(lab: &Lab) -> u64 {
    lab.ai.http2_connections.load(std::sync::atomic::Ordering::Relaxed)
}

/// The laboratory itself: every client is served, whether or not a daemon runs.
#[test]
fn the_laboratory_serves_every_client() {
    needs_kernel!("the_laboratory_serves_every_client");
    let lab = Lab::new(&["h2", "http/1.1"]);
    let mut seed = 0;
    for client in Client::ALL {
        let before = http2_connections(&lab);
        let calls = calls_of(*client, &mut seed);
        let (_, reports) =
            clients::run(*client, &lab.world, lab.path(), &calls).expect("the client's reports");
        assert_eq!(reports.len(), calls.len(), "{client:?}");
        assert!(reports.iter().all(Report::ok), "{client:?}: {reports:?}");
        assert_eq!(http2_connections(&lab) > before, client.is_http2(), "{client:?}");
    }
    let served = lab.ai.requests.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(served, seed, "requests served and calls made");
}
