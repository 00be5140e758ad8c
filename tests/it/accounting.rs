//! Bytes and calls as the client counts them.

use std::time::Duration;

use e2e::daemon::Daemon;
use e2e::needs_kernel;
use e2e::relay::Distance;
use e2e::toolbox::{Toolbox, workspace};
use serde_json::Value;

use e2e::lab::Lab;

#[test]
fn a_body_sent_in_many_attempts_counts_once() {
    needs_kernel!("a_body_sent_in_many_attempts_counts_once");
    let lab = Lab::new(&["http/1.1"]);
    // Narrow, so that the socket is full and stays full for longer than the client's timeout, whatever the machine.
    let world = lab.behind(Distance { delay: Duration::from_millis(100), window: Some(128 * 1024) });
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let python = Toolbox::get().python.as_ref().expect("Python");
    let run = |number: u64| -> Value {
        let mut command = world.command(lab.path(), python).expect("a command");
        command.arg(workspace().join("tests/clients/big.py")).arg(number.to_string());
        let output = command.output().expect("its end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("its report")
    };
    run(600_001);
    let report = run(600_002);
    assert_eq!(report["ok"], true, "{report}");
    assert!(report["timeouts"].as_u64() > Some(0), "no write had to be tried again: {report}");
    let found = |records: &[Value]| records.iter().any(|record| record["usage"]["input_tokens"] == 600_002);
    let records = daemon.calls_until(found).expect("the call");
    let record =
        records.iter().find(|record| record["usage"]["input_tokens"] == 600_002).expect("just found");
    assert_eq!(record["request_bytes"], 3_000_000, "{record}");
    assert_eq!(record["model"], "gpt-4o-2024-08-06");
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}
