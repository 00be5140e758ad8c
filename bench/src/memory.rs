//! Proportional set size of both processes, idle and loaded.

use anyhow::Context;
use e2e::clients::{self, Call, Client};
use e2e::daemon::Daemon;
use e2e::lab::Lab;

use crate::report::Report;

/// Reports the PSS of main and attacher before and after 2,000 calls.
pub(crate) fn run(report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "")?;
    report.section("Memory, proportional set size in MiB", "at most 40 idle, both processes");
    measure("idle", &daemon, report)?;
    let calls: Vec<Call> =
        (0..2_000).map(|seed| Call::new("chat", seed % 2 == 0, 1_000_000 + seed)).collect();
    clients::run(Client::PythonHttpx, &lab.world, lab.path(), &calls)?;
    daemon.calls_until(|records| records.len() >= 1_900)?;
    measure("after 2,000 calls", &daemon, report)?;
    daemon.stop()?;
    Ok(())
}

fn measure(when: &str, daemon: &Daemon, report: &mut Report) -> anyhow::Result<()> {
    let main = daemon.child.id();
    let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
    let attacher: u32 = children.split_whitespace().next().context("the attacher")?.parse()?;
    let (main, attacher) = (pss_mib(main)?, pss_mib(attacher)?);
    let sum = Some(main + attacher);
    report.row(when, &[("venturid", Some(main)), ("venturi-attach", Some(attacher)), ("sum", sum)]);
    Ok(())
}

fn pss_mib(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("Pss in smaps_rollup")?;
    let kib: f64 = line.split_whitespace().next().context("a number")?.parse()?;
    Ok(kib / 1024.0)
}
