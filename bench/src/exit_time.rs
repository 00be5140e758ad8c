//! How long SIGTERM takes with many armed processes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::Context;
use e2e::daemon::Daemon;
use e2e::lab::Lab;
use e2e::toolbox::Toolbox;

use crate::report::Report;

/// Each process resolves a provider's name, makes one session, then waits for its input to end.
const SCRIPT: &str = r#"
import socket, ssl, sys
raw = socket.create_connection(("api.openai.com", 443))
session = ssl.create_default_context().wrap_socket(raw, server_hostname="api.openai.com")
print("open", flush=True)
sys.stdin.read()
"#;

/// Arms `processes` processes, then stops the daemon.
pub(crate) fn run(processes: usize, report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "")?;
    let python = Toolbox::get().python.as_ref().context("Python")?;
    let mut children: Vec<Child> = Vec::new();
    for _ in 0..processes {
        let mut command = lab.world.command(lab.path(), python)?;
        let mut child = command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        children.push(child);
    }
    let armed = || -> anyhow::Result<usize> {
        let doctor = daemon.json_lines(&["doctor", "--json"])?;
        let rows = doctor[0]["process_coverage"].as_array().cloned().unwrap_or_default();
        Ok(rows.iter().filter(|row| !row["armed_at"].is_null()).count())
    };
    let waited = Instant::now();
    let mut count = armed()?;
    while count < processes && waited.elapsed() < e2e::daemon::PATIENCE {
        e2e::daemon::pause();
        count = armed()?;
    }
    let started = Instant::now();
    let code = daemon.stop()?;
    let seconds = started.elapsed().as_secs_f64();
    report.section("Exit time with armed processes", "");
    report.row(
        &format!("{count} armed processes, SIGTERM to the exit"),
        &[("s", Some(seconds)), ("exit code", Some(f64::from(code)))],
    );
    for child in &mut children {
        if let Some(mut input) = child.stdin.take() {
            let _ = input.flush();
        }
        let _ = child.wait();
    }
    Ok(())
}
