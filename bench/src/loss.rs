//! Loss under unthrottled 16 KB writes: what share of the plaintext does not arrive, and whether all of it is counted.

use anyhow::Context;
use e2e::daemon::Daemon;
use e2e::lab::Lab;
use e2e::toolbox::{Toolbox, workspace};
use serde_json::Value;

use crate::report::Report;

/// Requests of 1 MiB.
const REQUESTS: u64 = 512;

/// Floods one session and compares the client's count with the kernel's.
pub(crate) fn run(report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "")?;
    let python = Toolbox::get().python.as_ref().context("Python")?;
    let flood = |requests: u64| -> anyhow::Result<Value> {
        let mut command = lab.world.command(lab.path(), python)?;
        command.arg(workspace().join("bench/clients/flood.py")).arg(requests.to_string()).arg("0.2");
        Ok(serde_json::from_slice(&command.output()?.stdout)?)
    };
    flood(1)?;
    let counters = || -> anyhow::Result<Value> {
        let doctor = daemon.json_lines(&["doctor", "--json"])?;
        let lists = ["counters", "losses"].iter().filter_map(|list| doctor[0][*list].as_array());
        Ok(Value::Object(
            lists
                .flatten()
                .map(|e| (e["name"].as_str().unwrap_or("").to_owned(), e["value"].clone()))
                .collect(),
        ))
    };
    let before = counters()?;
    let flooded = flood(REQUESTS)?;
    let after = counters()?;
    let grown =
        |name: &str| after[name].as_u64().unwrap_or(0).saturating_sub(before[name].as_u64().unwrap_or(0));
    let sent = flooded["sent"].as_u64().context("bytes sent")?;
    let seconds = flooded["seconds"].as_f64().context("seconds")?;
    let (seen, emitted, lost) = (
        grown("kernel_ai_bytes_seen"),
        grown("kernel_ai_bytes_emitted"),
        grown("kernel_lost_content_ring_full_bytes"),
    );
    let faults = grown("kernel_lost_user_fault_bytes") + grown("kernel_call_tail_bytes_skipped");
    report.section("Loss under unthrottled 16 KB writes", "below 1 %, nothing unaccounted");
    let rest = i128::from(seen) - i128::from(emitted) - i128::from(lost) - i128::from(faults);
    #[expect(clippy::cast_precision_loss, reason = "printed")]
    let [rate, share, seen, emitted, lost, rest] = [
        sent as f64 / seconds / 1e6,
        lost as f64 * 100.0 / seen.max(1) as f64,
        seen as f64,
        emitted as f64,
        lost as f64,
        rest as f64,
    ];
    report.row(
        "requests and the answers to them",
        &[
            ("MB/s written", Some(rate)),
            ("bytes seen", Some(seen)),
            ("bytes emitted", Some(emitted)),
            ("bytes lost", Some(lost)),
            ("% lost", Some(share)),
            ("bytes unaccounted", Some(rest)),
        ],
    );
    daemon.stop()?;
    Ok(())
}
