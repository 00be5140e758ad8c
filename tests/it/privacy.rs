//! Plaintext only where it belongs: one process with both kinds of sessions, and nothing of the other kind anywhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use e2e::daemon::{Daemon, PATIENCE, pause};
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

/// What a call said is not in the memory of either process any more once it is recorded. The rings between kernel and
/// daemon are the exception: their pages are read-only for us and are overwritten as they come round.
#[test]
fn nothing_of_a_call_stays_in_memory() {
    needs_kernel!("nothing_of_a_call_stays_in_memory");
    let (prompt, key) = ("prompt-that-must-go-b41c77e0", "sk-must-go-5d20f3a9c1");
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let world = lab.at_distance(Duration::from_millis(5));
    let curl = Toolbox::get().curl.as_ref().expect("curl");
    // The first of an executable may go by before it is armed.
    for stream in [false, false, true, false, true, false] {
        let body = json!({"model": "gpt-4o", "stream": stream, "messages": [
            {"role": "system", "content": format!("{prompt} ").repeat(200)},
            {"role": "user", "content": "lab input=7001 output=11"},
        ]});
        let mut command = world.command(lab.path(), curl).expect("a command");
        command.args(["--http1.1", "-sS", "-f", "-H", "content-type: application/json"]);
        command.arg("-H").arg(format!("authorization: Bearer {key}")).arg("--data-raw").arg(body.to_string());
        let output = command.arg("https://api.openai.com/v1/chat/completions").output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let metered = |records: &[Value]| {
        records.iter().filter(|record| record["usage"]["input_tokens"] == 7001).count() >= 2
    };
    daemon.calls_until(metered).expect("calls whose content was seen");

    let secrets = [prompt, key, "An answer that must not be kept"];
    // The search finds what is there: in our own memory.
    assert!(!memory_with(std::process::id(), &secrets).is_empty());
    let started = Instant::now();
    loop {
        let pids = [daemon.child.id(), attacher_of(daemon.child.id())];
        let found: Vec<String> = pids.iter().flat_map(|pid| memory_with(*pid, &secrets)).collect();
        if found.is_empty() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "still there:\n{}", found.join("\n"));
        pause();
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

fn attacher_of(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("venturi-attach")
}

/// Where in a process's memory one of `needles` is, the rings of BPF left out.
fn memory_with(pid: u32, needles: &[&str]) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut found = Vec::new();
    let readable = |line: &&str| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with('r'));
    for line in maps.lines().filter(readable).filter(|line| !line.contains("bpf-map")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bound = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (first, last) = range.map(|(first, last)| (bound(first), bound(last))).expect("a range");
        let mut bytes = vec![0; usize::try_from(last - first).expect("a size")];
        // What cannot be read (a guard page, what was unmapped meanwhile) holds nothing.
        let held = memory.read_at(&mut bytes, first).unwrap_or(0);
        for needle in needles {
            if bytes[..held].windows(needle.len()).any(|window| window == needle.as_bytes()) {
                found.push(format!("{pid}: {needle:?} in {line}"));
            }
        }
    }
    found
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
