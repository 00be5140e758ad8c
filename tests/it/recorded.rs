//! Recorded exchanges over the wire: a real client sends the recorded request, the local provider answers with the
//! recorded bytes, and the stored usage is what the recording's ground truth says.

use std::io::{Read, Write};
use std::process::Stdio;

use bytes::Bytes;
use e2e::daemon::Daemon;
use e2e::needs_kernel;
use e2e::provider::Recorded;
use e2e::toolbox::{Toolbox, workspace};
use serde_json::{Value, json};

use e2e::lab::Lab;

/// Recorded exchanges taken of each combination of dialect and form.
const EACH: usize = 12;

#[test]
fn recorded_answers_are_stored_with_their_true_usage() {
    let name = "recorded_answers_are_stored_with_their_true_usage";
    needs_kernel!(name);
    let corpus = workspace().join("../shared/corpus/exchanges.jsonl.gz");
    let Ok(file) = std::fs::File::open(&corpus) else {
        // The recordings are not part of the project, so their absence is no failure anywhere.
        eprintln!("SKIPPED {name}: no recordings at {}", corpus.display());
        return;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("a readable corpus");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let chosen = choose(&lines);
    assert!(chosen.len() > EACH, "too few recordings fit");

    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let python = Toolbox::get().python.as_ref().expect("Python with httpx");
    let send = |items: &[&Value]| {
        let mut command = lab.world.command(lab.path(), python).expect("a command");
        command.arg(workspace().join("tests/clients/replay.py"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
        let mut input = child.stdin.take().expect("its input");
        for item in items {
            let url = item["request"]["url"].as_str().expect("a url");
            let rest = url.strip_prefix("https://").expect("https");
            let (host, target) = rest.split_at(rest.find('/').expect("a path"));
            let order = json!({"id": item["id"], "host": host, "target": target,
                "method": item["request"]["method"], "body": item["request"]["body"]});
            writeln!(input, "{order}").expect("an order");
        }
        drop(input);
        let output = child.wait_with_output().expect("its end");
        let reports = String::from_utf8(output.stdout).expect("text");
        assert!(reports.lines().all(|line| line.contains("\"ok\": true")), "{reports}");
    };
    register(&lab, &chosen);
    send(&chosen[..1]);
    let before = daemon.calls_until(|_| true).expect("calls").len();
    send(&chosen);
    let records =
        daemon.calls_until(|records| records.len() >= before + chosen.len()).expect("every exchange");
    let problems: Vec<String> = chosen.iter().filter_map(|item| missing(item, &records)).collect();
    assert!(problems.is_empty(), "{} of {}:\n{}", problems.len(), chosen.len(), problems.join("\n"));
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// Successful inference with usage, from the hosts that the laboratory plays.
fn choose(lines: &[Value]) -> Vec<&Value> {
    let mut counts = std::collections::BTreeMap::new();
    let fits = |item: &&Value| {
        let url = item["request"]["url"].as_str().unwrap_or("");
        let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap_or("");
        e2e::ca::AI_HOSTS.contains(&host)
            && item["request"]["body"].is_string()
            && item["response"]["body"].is_string()
            && item["response"]["status"] == 200
            && item["expected"]["usage_present"] == true
            && item["expected"]["inference"] != false
            && matches!(item["expected"]["dialect"].as_str(), Some("openai_chat" | "responses" | "anthropic"))
    };
    let mut chosen: Vec<&Value> = lines.iter().filter(fits).collect();
    chosen.retain(|item| {
        let kind = format!("{} {}", item["expected"]["dialect"], item["protocol"]);
        let count = counts.entry(kind).or_insert(0);
        *count += 1;
        *count <= EACH
    });
    chosen
}

/// Tells the provider what to answer.
fn register(lab: &Lab, chosen: &[&Value]) {
    let mut recorded = lab.ai.recorded.lock().expect("no panic while it was held");
    for item in chosen {
        let response = &item["response"];
        let kept = |name: &str| {
            let name = name.to_ascii_lowercase();
            !["content-length", "transfer-encoding", "connection", "content-encoding", "date"]
                .contains(&name.as_str())
        };
        let headers = response["headers"].as_array().into_iter().flatten();
        let headers = headers
            .filter_map(|pair| Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())))
            .filter(|(name, _)| kept(name))
            .collect();
        let body = Bytes::from(response["body"].as_str().unwrap_or("").to_owned());
        let id = item["id"].as_str().expect("an id").to_owned();
        recorded.insert(id, Recorded { status: 200, headers, body });
    }
}

/// What is wrong if no record carries the expected model and usage.
fn missing(item: &Value, records: &[Value]) -> Option<String> {
    let expected = &item["expected"];
    let same = |record: &&Value| {
        ["input_tokens", "output_tokens"]
            .iter()
            .all(|key| record["usage"][key] == expected["normalized"][key])
            && record["model"] == expected["response_model"]
    };
    let found = records.iter().any(|record| same(&record));
    (!found)
        .then(|| format!("{} {}: no record with {}", item["id"], expected["dialect"], expected["normalized"]))
}
