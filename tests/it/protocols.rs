//! What travels over WebSockets and gRPC, between real clients and servers with TLS between them: exact, or told as
//! what cannot be read.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::daemon::{Daemon, PATIENCE, pause};
use e2e::lab::Lab;
use e2e::needs_kernel;
use e2e::toolbox::{grpc_node, peer_python, workspace};
use serde_json::{Value, json};

/// A server of plaintext on loopback, ended with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(command: &mut Command) -> Server {
        let mut child = command.arg("serve").stdout(Stdio::piped()).spawn().expect("a server");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("its output")).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).expect("where it listens");
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        Server { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script(name: &str) -> PathBuf {
    workspace().join("tests/clients").join(name)
}

const MODEL: &str = "gemini-2.5-flash";

/// Runs the client that `command` starts with `calls`; its pid and what it says of each answer.
fn answers(mut command: Command, calls: &[Value]) -> (u32, Vec<Value>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
    let pid = child.id();
    let lines: String = calls.iter().map(|call| format!("{call}\n")).collect();
    child.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success(), "the client ended with {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    let said: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(said.iter().all(|answer| answer["error"].is_null()), "{said:?}");
    (pid, said)
}

/// Every answer that process `pid` reports is recorded with exactly its counts and `facts`, and nothing else is.
fn recorded(daemon: &Daemon, pid: u32, answers: &[Value], facts: &[(&str, Value)]) {
    let of_pid =
        |record: &Value| record["workload"]["pid"] == pid && record["usage"]["input_tokens"].is_u64();
    let records = daemon
        .calls_until(|records| records.iter().filter(|record| of_pid(record)).count() >= answers.len())
        .expect("a record of each answer");
    assert_eq!(records.iter().filter(|record| of_pid(record)).count(), answers.len(), "{records:?}");
    for answer in answers {
        let record = records
            .iter()
            .find(|record| of_pid(record) && record["usage"]["input_tokens"] == answer["input"])
            .unwrap_or_else(|| panic!("no record of {answer}: {records:?}"));
        let told = [
            ("/model", &answer["model"]),
            ("/usage/output_tokens", &answer["output"]),
            ("/usage/cache_read_input_tokens", &answer["cached"]),
        ];
        for (pointer, want) in told.into_iter().chain(facts.iter().map(|(pointer, want)| (*pointer, want))) {
            assert_eq!(record.pointer(pointer).unwrap_or(&Value::Null), want, "{pointer}: {record}");
        }
    }
}

fn turns(number: u64) -> Vec<Value> {
    let turn = |(number, words): (u64, u64)| json!({"input": number, "output": 40, "cached": number / 3, "audio": 0, "words": words});
    (number..).zip([3, 300]).map(turn).collect()
}

#[test]
fn sessions_over_websockets_are_recorded_exactly() {
    needs_kernel!("sessions_over_websockets_are_recorded_exactly");
    let python = peer_python().expect("Python with websockets");
    let lab = Lab::new(&["http/1.1"]);
    let server = Server::start(Command::new(&python).arg(script("ws_peer.py")));
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    for (host, api, model, provider, dialect) in [
        ("api.openai.com", "realtime", "gpt-realtime", "openai", "openai_realtime"),
        (
            "generativelanguage.googleapis.com",
            "live",
            "models/gemini-live-2.5-flash",
            "gemini",
            "gemini_live",
        ),
    ] {
        let world = lab.fronting(host, server.port, &["http/1.1"], Duration::from_millis(5));
        let client = |sessions: &[Value]| {
            let mut command = world.command(lab.path(), &python).expect("a command");
            command.arg(script("ws_peer.py")).arg("call").arg(format!("wss://{host}"));
            answers(command, sessions)
        };
        let session = |compression: Option<&str>, number| json!({"api": api, "model": model, "compression": compression, "turns": turns(number)});
        client(&[session(None, 100)]);
        let (pid, answers) = client(&[session(None, 1_000), session(Some("deflate"), 2_000)]);
        assert_eq!(answers.len(), 4, "{api}: a report for each turn");
        let facts = [
            ("/provider", json!(provider)),
            ("/host", json!(host)),
            ("/dialect", json!(dialect)),
            ("/requested_model", json!(model)),
            ("/streaming", json!(true)),
        ];
        recorded(&daemon, pid, &answers, &facts);
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

fn grpc_calls(number: u64) -> Vec<Value> {
    let shapes = [(false, None), (true, None), (false, Some("gzip")), (true, Some("gzip"))];
    let call = |(number, (stream, coding)): (u64, (bool, Option<&str>))| {
        json!({"model": MODEL, "stream": stream, "coding": coding, "error": null, "words": 50,
            "input": number, "output": 40, "cached": number / 3})
    };
    (number..).zip(shapes).map(call).collect()
}

/// Node speaks TLS with the OpenSSL inside its executable, where we read it. Python's `grpcio` has a BoringSSL of its own
/// without names: its calls cannot be read, and that is what is told of its connections, which the tap names.
#[test]
fn grpc_is_recorded_exactly_or_told_as_unread() {
    needs_kernel!("grpc_is_recorded_exactly_or_told_as_unread");
    let python = peer_python().expect("Python with grpcio");
    let (node, modules) = grpc_node().expect("Node with gRPC");
    let lab = Lab::new(&["h2"]);
    let node_server =
        Server::start(Command::new(&node).arg(script("grpc_peer.mjs")).env("LAB_NODE_MODULES", &modules));
    let python_server = Server::start(Command::new(&python).arg(script("grpc_peer.py")));
    let (gemini, vertex) = ("generativelanguage.googleapis.com", "us-central1-aiplatform.googleapis.com");
    let fronting = |host, server: &Server| lab.fronting(host, server.port, &["h2"], Duration::from_millis(5));
    let (to_gemini, to_vertex) = (fronting(gemini, &python_server), fronting(vertex, &node_server));
    let unread = fronting(gemini, &python_server);
    // On loopback the tap looks only at what is said to be a gateway.
    let gateway = format!("[capture]\nloopback_gateways = [\"{}:443\"]\n", unread.hosts[gemini]);
    let daemon = Daemon::start(lab.path(), &gateway).expect("an armed daemon");

    for (host, api, world) in [(gemini, "gemini", to_gemini), (vertex, "vertex", to_vertex)] {
        let client = |calls: &[Value]| {
            let mut command = world.command(lab.path(), &node).expect("a command");
            command.arg(script("grpc_peer.mjs")).args(["call", api, host]);
            command.env("LAB_NODE_MODULES", &modules);
            answers(command, calls)
        };
        client(&grpc_calls(100)[..1]);
        let (pid, answers) = client(&grpc_calls(1_000));
        assert_eq!(answers.len(), 4, "{api}: an answer for each call");
        let facts = [
            ("/provider", json!(api)),
            ("/host", json!(host)),
            ("/operation", json!("generate_content")),
            ("/requested_model", json!(MODEL)),
        ];
        recorded(&daemon, pid, &answers, &facts);
    }

    let mut command = unread.command(lab.path(), &python).expect("a command");
    command.arg(script("grpc_peer.py")).args(["call", gemini]);
    let (pid, answers) = answers(command, &grpc_calls(3_000));
    assert_eq!(answers.len(), 4, "the calls were answered");
    let flow = flow_of(&daemon, pid);
    assert_eq!([&flow["provider"], &flow["identified_by"]], ["gemini", "sni"], "{flow}");
    // Python maps an OpenSSL as well. Where that was armed before the connection, it is known that another library made
    // it; where it was not, the arming may just have come too late.
    let told = (flow["coverage"].as_str(), flow["reason"].as_str());
    let unread = [("metadata_only", "late_attach"), ("dark", "unknown_tls_library")];
    assert!(unread.map(|(coverage, reason)| (Some(coverage), Some(reason))).contains(&told), "{flow}");
    let calls = daemon.calls().expect("calls");
    assert!(
        calls.iter().all(|call| call["workload"]["pid"] != pid || call["usage"]["input_tokens"].is_null())
    );
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// The flow of process `pid`, waited for.
fn flow_of(daemon: &Daemon, pid: u32) -> Value {
    let started = std::time::Instant::now();
    loop {
        let flows = daemon.json_lines(&["flows", "--json", "--limit", "1000"]).expect("flows");
        if let Some(flow) = flows.iter().find(|flow| flow["workload"]["pid"] == pid) {
            return flow.clone();
        }
        assert!(started.elapsed() < PATIENCE, "no flow of {pid}: {flows:?}\n{}", daemon.log());
        pause();
    }
}
