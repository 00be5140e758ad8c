//! Plaintext only where it belongs: one process with both kinds of sessions, and nothing of the other kind anywhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use e2e::daemon::Daemon;
use e2e::needs_kernel;
use e2e::toolbox::{Toolbox, workspace};
use serde_json::{Value, json};

use e2e::lab::Lab;

const MARKER: &str = "not-for-venturi-7f3a9c51";

/// The most that may leave the kernel of a session whose host is not yet known, in bytes.
const PREFIX: u64 = 8 * 512;

/// A client with both kinds of sessions that waits for the word to go on.
struct Mixed {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Mixed {
    /// Lets it go on, and returns what it counted.
    fn totals(mut self) -> Value {
        writeln!(self.input, "go").expect("the word");
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("its totals");
        assert!(self.child.wait().expect("its end").success(), "the client failed");
        serde_json::from_str(&text).expect("its totals")
    }
}

#[test]
fn other_sessions_of_an_ai_process_stay_in_the_kernel() {
    needs_kernel!("other_sessions_of_an_ai_process_stay_in_the_kernel");
    let lab = Lab::new(&["http/1.1"]);
    let world = lab.at_distance(Duration::from_millis(5));
    let python = Toolbox::get().python.as_ref().expect("Python with the SDKs");
    let (threads, rounds) = (4, 5);
    let start = |base: usize| -> Mixed {
        let mut command = world.command(lab.path(), python).expect("a command");
        command.arg(workspace().join("tests/clients/mixed.py"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
        let mut input = child.stdin.take().expect("its input");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let plan = json!({"rounds": rounds, "threads": threads, "marker": MARKER, "base": base});
        writeln!(input, "{plan}").expect("a plan");
        let mut line = String::new();
        output.read_line(&mut line).expect("a word");
        assert_eq!(line, "early\n", "its first session is open");
        Mixed { child, input, output }
    };
    // The first run makes the executable known. Its first session, to another host, is older than the daemon.
    let first = start(500_000);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let totals = first.totals();
    let nameless = totals["nameless"]["calls"].as_u64().expect("a count");
    let early = counters(&daemon);
    let prefixes = early["kernel_prefix_bytes_emitted"].as_u64().unwrap_or(0);
    assert!(prefixes <= (nameless + 2) * PREFIX, "prefixes beyond their bound: {early}");
    // Also in the second the first session is open before the process is armed for anything it does later.
    let before = counters(&daemon);
    let seen = daemon.calls().expect("calls").len();
    let totals = start(600_000).totals();
    assert!(
        totals["reused"].as_u64() > Some(0),
        "no SSL object stood where one of the other kind was: {totals}"
    );
    let expected = usize::try_from(totals["ai"]["calls"].as_u64().expect("a count")).expect("small");
    assert_eq!(expected, threads * rounds * 2);
    let records = daemon.calls_until(|records| records.len() >= seen + expected).expect("all calls");
    let second: Vec<&Value> =
        records.iter().filter(|record| record["usage"]["input_tokens"].is_u64()).collect();
    for thread in 0..threads {
        for round in 0..rounds {
            for turn in 0..2 {
                let number = 600_000 + thread * 10_000 + round * 10 + turn;
                let hits =
                    second.iter().filter(|record| record["usage"]["input_tokens"] == number as u64).count();
                assert_eq!(hits, 1, "records of call {number} among {}", Value::from(records.clone()));
            }
        }
    }
    assert!(records.iter().all(|record| record["host"] != "www.example.org"), "a non-AI call was recorded");

    let after = counters(&daemon);
    let grown = |name: &str| after[name].as_u64().unwrap_or(0) - before[name].as_u64().unwrap_or(0);
    assert!(grown("kernel_not_ai_bytes_seen") > 0, "the other sessions did pass armed calls: {after}");
    assert_eq!(
        after["kernel_not_ai_bytes_emitted"].as_u64().unwrap_or(0),
        0,
        "bytes of other sessions left the kernel"
    );
    let nameless = totals["nameless"]["calls"].as_u64().expect("a count");
    assert!(
        grown("kernel_prefix_bytes_emitted") <= (nameless + 2) * PREFIX,
        "prefixes beyond their bound: {after}"
    );
    for question in [
        &["calls", "--json"] as &[&str],
        &["flows", "--json"],
        &["doctor", "--json"],
        &["spend", "--by", "team,model"],
    ] {
        let answer = daemon.venturi(question).expect("an answer");
        let shown = String::from_utf8_lossy(&answer.stdout).contains(MARKER);
        assert!(!shown, "the marker is in the answer to {question:?}");
    }
    let lab_dir = lab.path().to_path_buf();
    assert_eq!(daemon.stop().expect("an exit code"), 0);
    let hits = files_with(&lab_dir, MARKER.as_bytes());
    assert!(hits.is_empty(), "the marker is in {hits:?}");
    for secret in ["sk-lab-mixed", "An answer that must not be kept"] {
        let hits = files_with(&lab_dir, secret.as_bytes());
        assert!(hits.is_empty(), "{secret:?} is in {hits:?}");
    }
}

/// Kernel counters by name, from `venturi doctor --json`.
fn counters(daemon: &Daemon) -> Value {
    let doctor = daemon.json_lines(&["doctor", "--json"]).expect("a doctor's report");
    let lists = ["counters", "losses"].iter().filter_map(|list| doctor[0][*list].as_array());
    let pairs = lists
        .flatten()
        .map(|entry| (entry["name"].as_str().unwrap_or("").to_owned(), entry["value"].clone()));
    Value::Object(pairs.collect())
}

/// Files below `dir` that contain `needle`.
fn files_with(dir: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
        {
            found.push(path.display().to_string());
        }
    }
    found
}
