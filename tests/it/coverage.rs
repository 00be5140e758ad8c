//! What cannot be metered is said, with the reason; what is older than the daemon is found.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use e2e::clients::{self, Call, Client};
use e2e::daemon::Daemon;
use e2e::needs_kernel;
use e2e::toolbox::Toolbox;
use serde_json::Value;

use e2e::lab::Lab;

#[test]
fn an_http2_session_is_captured_and_exact() {
    needs_kernel!("an_http2_session_is_captured_and_exact");
    let lab = Lab::new(&["h2", "http/1.1"]);
    let world = lab.at_distance(Duration::from_millis(20));
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let warm_up = [Call::new("chat", false, 690_000)];
    clients::run(Client::CurlHttp2, &world, lab.path(), &warm_up).expect("a first run of the executable");
    let calls: Vec<Call> = (0..6).map(|run| Call::new("chat", run % 2 == 0, 700_000 + run)).collect();
    let (_, reports) = clients::run(Client::CurlHttp2, &world, lab.path(), &calls).expect("its reports");
    assert!(reports.iter().all(clients::Report::ok), "{reports:?}");
    let record = |records: &[Value], call: &Call| {
        records.iter().find(|record| record["usage"]["input_tokens"] == call.input).cloned()
    };
    let records = daemon
        .calls_until(|records| calls.iter().all(|call| record(records, call).is_some()))
        .expect("a record of each call");
    for call in &calls {
        let record = record(&records, call).expect("just found");
        assert_eq!(record["usage"]["output_tokens"], call.output, "{record}");
        assert_eq!(record["streaming"], call.stream, "{record}");
        assert_eq!(record["reason"], "no_rules", "nothing of the call is unknown: {record}");
    }
    wait_for_coverage(&daemon, |row| row["provider"] == "openai" && row["verdict"] == "captured");
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

#[test]
fn processes_and_connections_older_than_the_daemon_are_found() {
    needs_kernel!("processes_and_connections_older_than_the_daemon_are_found");
    let lab = Lab::new(&["http/1.1"]);
    let python = Toolbox::get().python.as_ref().expect("Python with the SDKs");
    // Connected, one call made, then waiting for a line before each further call.
    let script = r#"
import json, sys, openai
client = openai.OpenAI(api_key="sk-lab-old", max_retries=0)
for line in sys.stdin:
    number = int(line)
    order = f"lab input={number} output=5 cached=0 reasoning=0"
    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": order}])
    print(number, flush=True)
"#;
    let mut command = lab.world.command(lab.path(), python).expect("a command");
    let mut child =
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
    let mut input = child.stdin.take().expect("its input");
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut call = |number: u64| {
        writeln!(input, "{number}").expect("an order");
        let mut line = String::new();
        output.read_line(&mut line).expect("an answer");
        assert_eq!(line.trim(), number.to_string(), "the call failed");
    };
    call(800_001);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    wait_for(&daemon, "the old process is armed", |doctor| counter(doctor, "armed_processes") > 0);
    // What goes by before the kernel is told whose session it is, is missing: such a call is told without usage. The
    // first that begins later is exact.
    let moved =
        |doctor: &Value| ["unknown", "ai"].map(|of| counter(doctor, &format!("kernel_{of}_bytes_seen")));
    let mut before = moved(&doctor(&daemon));
    let exact = (800_002..800_010).find(|number| {
        call(*number);
        let now = moved(&wait_for(&daemon, "the call's bytes", |doctor| moved(doctor) != before));
        let [unknown, _] = std::mem::replace(&mut before, now);
        unknown == now[0]
    });
    let exact = exact.expect("a call that begins when the session is known");
    let found = |records: &[Value]| records.iter().any(|record| record["usage"]["input_tokens"] == exact);
    let records = daemon.calls_until(found).expect("the last call");
    assert!(
        records.iter().all(|record| record["usage"]["input_tokens"] != 800_001),
        "made before the daemon"
    );
    let record = records.iter().find(|record| record["usage"]["input_tokens"] == exact).expect("just found");
    assert_eq!(record["workload"]["pid"], child.id());
    assert!(records.len() as u64 <= exact - 800_001, "more records than calls: {records:?}");
    let pid = child.id();
    drop(input);
    child.wait().expect("its end");
    // A connection whose beginning was not seen is recorded when it is over for good, at the latest at the daemon's end.
    assert_eq!(daemon.stop().expect("an exit code"), 0);
    let daemon = Daemon::start(lab.path(), "").expect("a daemon on the same store");
    let flows = daemon.json_lines(&["flows", "--json", "--limit", "1000"]).expect("flows");
    let old = |flow: &Value| flow["seen"] == "at_start" && flow["workload"]["pid"] == pid;
    assert!(flows.iter().any(old), "{flows:?}");
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// The first coverage row that satisfies `wanted`, waited for.
fn wait_for_coverage(daemon: &Daemon, wanted: impl Fn(&Value) -> bool) -> Value {
    let row = |doctor: &Value| doctor["process_coverage"].as_array()?.iter().find(|row| wanted(row)).cloned();
    let doctor = wait_for(daemon, "a row of coverage", |doctor| row(doctor).is_some());
    row(&doctor).expect("just found")
}

fn doctor(daemon: &Daemon) -> Value {
    daemon.json_lines(&["doctor", "--json"]).expect("a doctor's report").remove(0)
}

/// A doctor's report that satisfies `wanted`, waited for.
fn wait_for(daemon: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = std::time::Instant::now();
    loop {
        let doctor = doctor(daemon);
        if wanted(&doctor) {
            return doctor;
        }
        let coverage = &doctor["process_coverage"];
        assert!(started.elapsed() < e2e::daemon::PATIENCE, "not {what}: {coverage}\n{}", daemon.log());
        e2e::daemon::pause();
    }
}

/// A counter of the doctor's report.
fn counter(doctor: &Value, name: &str) -> u64 {
    let entry =
        doctor["counters"].as_array().and_then(|list| list.iter().find(|entry| entry["name"] == name));
    entry.and_then(|entry| entry["value"].as_u64()).unwrap_or(0)
}
