//! `cargo xtask demo`: a local provider, the daemon, a few calls by the clients that are here, and the answers.

use std::process::ExitCode;

use e2e::ca::AI_HOSTS;
use e2e::clients::{self, Call, Client};
use e2e::daemon::Daemon;
use e2e::lab::Lab;
use e2e::ring;
use e2e::toolbox::Toolbox;

const CONFIG: &str = r#"
[[owner]]
match = { executable = "*python*" }
team = "research"
service = "notebook"

[[owner]]
match = { executable = "*node*" }
team = "shop"
service = "assistant"
"#;

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("venturi-demo").tempdir()?;
    let daemon = match ring::kernel_tests_blocked() {
        None => live(dir.path())?,
        Some(why) => {
            println!("Live capture is not possible here ({why}): showing a replayed capture.\n");
            let daemon = Daemon::spawn(dir.path(), CONFIG, &["--replay"])?;
            daemon.calls_until(|records| !records.is_empty())?;
            daemon
        }
    };
    for arguments in [
        &["status"] as &[&str],
        &["calls", "--limit", "20"],
        &["spend", "--by", "team,model", "--since", "1h"],
        &["flows"],
        &["doctor"],
    ] {
        println!("\n$ venturi {}", arguments.join(" "));
        let output = daemon.venturi(arguments)?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let calls = daemon.calls()?;
    if let Some(id) = calls.first().and_then(|call| call["id"].as_str()) {
        println!("\n$ venturi explain {id}");
        print!("{}", String::from_utf8_lossy(&daemon.venturi(&["explain", id])?.stdout));
    }
    daemon.stop()?;
    Ok(())
}

/// Starts provider and daemon and lets every client that is here make its calls.
fn live(dir: &std::path::Path) -> anyhow::Result<Daemon> {
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(dir, CONFIG)?;
    println!("A local provider answers for {}; the daemon is armed.", AI_HOSTS.join(", "));
    let toolbox = Toolbox::get();
    toolbox.missing.iter().for_each(|line| println!("left out: {line}"));
    let here = [
        (Client::PythonOpenai, "chat", "gpt-4o-mini", toolbox.python.is_some()),
        (Client::PythonAnthropic, "messages", "claude-sonnet-4-5", toolbox.python.is_some()),
        (Client::NodeOpenai, "responses", "gpt-5-mini", toolbox.node.is_some()),
        (Client::Curl, "chat", "gpt-4o", toolbox.curl.is_some()),
    ];
    let mut made = 0;
    for (client, api, model, _) in here.into_iter().filter(|entry| entry.3) {
        let calls: Vec<Call> = (0..2)
            .map(|number| {
                made += 1;
                Call { model: model.to_owned(), ..Call::new(api, number == 1, 100 * made) }
            })
            .collect();
        println!("{client:?} makes {} calls of {model}", calls.len());
        clients::run(client, &lab.world, lab.path(), &calls)?;
    }
    let wanted = usize::try_from(made)?;
    daemon.calls_until(|records| records.len() >= wanted)?;
    Ok(daemon)
}
