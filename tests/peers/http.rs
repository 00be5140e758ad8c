//! HTTP/1.1 and HTTP/2: Node's servers and nginx, asked by Node, Python's httpx and curl.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meter::attribution::OwnerIndex;
use meter::directory::Directory;
use meter::exchange::{Exchange, IdentifiedBy, SessionId};
use meter::pipeline::{
    Attempts, Direction, FingerprintKeys, HostEvidence, Input, Output, Pipeline, PipelineOptions,
};
use meter::pricing::Catalogue;
use meter::record::Subject;
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload};
use serde_json::{Value, json};

use crate::recorder::{Recorder, Recording, Server};
use crate::{Running, needs, script};

/// What both sides have to say of a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    status: u64,
    model: String,
    input: u64,
    output: u64,
    cached: u64,
}

/// A call of which the answer is JSON or a stream, and whatever else `more` says.
fn call(number: u64, stream: bool, words: u64, more: Value) -> Value {
    let mut call = json!({"model": "gpt-4o", "stream": stream, "input": number, "output": number + 7,
        "cached": number / 3, "words": words, "status": 200, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Say it again. ".repeat(20)}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        call[key] = value.clone();
    }
    call
}

/// Every shape that the Node server has, both ways.
fn shapes() -> Vec<Value> {
    let more = [
        json!({}),
        json!({"coding": "gzip"}),
        json!({"coding": "deflate"}),
        json!({"coding": "br"}),
        json!({"trailers": true}),
        json!({"hints": true}),
        json!({"expect": true}),
        json!({"chunked": true, "status": 201}),
    ];
    let mut number = 1_000;
    let mut calls = Vec::new();
    for more in more {
        for (stream, words) in [(false, 3), (true, 3), (false, 9_000), (true, 400)] {
            number += 1;
            calls.push(call(number, stream, words, more.clone()));
        }
    }
    calls
}

fn answer_of(said: &Value) -> Option<Answer> {
    Some(Answer {
        status: said["status"].as_u64()?,
        model: said["model"].as_str()?.to_owned(),
        input: said["input"].as_u64()?,
        output: said["output"].as_u64()?,
        cached: said["cached"].as_u64()?,
    })
}

/// What a client prints, a line for each call, sorted.
fn made(command: &mut Command, calls: &[Value]) -> Vec<Answer> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
    let lines: String = calls.iter().map(|call| format!("{call}\n")).collect();
    child.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success(), "the client ended with {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    let said = text.lines().map(|line| serde_json::from_str(line).expect("a JSON line"));
    let mut answers: Vec<Answer> =
        said.map(|said: Value| answer_of(&said).unwrap_or_else(|| panic!("incomplete: {said}"))).collect();
    answers.sort();
    answers
}

/// What the meter makes of recorded connections.
fn metered(recordings: &[Recording]) -> Vec<Exchange> {
    let mut pipeline = Pipeline::new(PipelineOptions {
        directory: Arc::new(Directory::builtin()),
        owners: Arc::new(OwnerIndex::empty(0, UnixNanos(0))),
        catalogue: Arc::new(Catalogue::vendored().expect("the vendored catalogue")),
        clock: WallClock::default(),
        fingerprint_keys: FingerprintKeys::default(),
        attempts: Attempts::new([9; 16]),
        id_seed: 1,
        detect_by_path: false,
        fence_panics: false,
    });
    let process = ProcessKey { pid: 1, start_ticks: 1 };
    let mut exchanges = Vec::new();
    for (number, recording) in (1..).zip(recordings) {
        let session = SessionId(number);
        let host = HostEvidence { host: "api.openai.com".into(), identified_by: IdentifiedBy::Sni };
        let workload = Workload::unknown(process);
        let opened = Input::Opened { session, process, workload, host: Some(host), joined_late: false };
        pipeline.handle(opened, Moment(1));
        let mut ends = [0, 0];
        for (now, (direction, bytes)) in (2..).zip(recording) {
            let end = &mut ends[usize::from(*direction == Direction::Received)];
            let chunk = Input::Chunk { session, direction: *direction, offset: *end, bytes };
            pipeline.handle(chunk, Moment(now));
            *end += bytes.len() as u64;
        }
        pipeline.handle(Input::Closed { session, sent: ends[0], received: ends[1] }, Moment(u64::MAX / 2));
        while let Some(output) = pipeline.poll() {
            match output {
                Output::Record(record) => match record.subject {
                    Subject::Exchange(exchange) => exchanges.push(*exchange),
                    Subject::Flow(_) => panic!("no flow was told"),
                },
                Output::Lost { reason, bytes, .. } => panic!("{bytes} bytes lost: {reason:?}"),
                Output::Verdict { .. } => {}
            }
        }
    }
    exchanges
}

/// The meter says of `recordings` what the client said it was answered, and knows which answers were streams.
fn compare(what: &str, calls: &[Value], answers: &[Answer], recordings: &[Recording]) {
    assert_eq!(answers.len(), calls.len(), "{what}: answers");
    let exchanges = metered(recordings);
    let mut seen: Vec<Answer> = exchanges
        .iter()
        .map(|exchange| {
            let call = calls.iter().find(|call| call["input"].as_u64() == exchange.usage.input);
            let call = call.unwrap_or_else(|| panic!("{what}: nobody made {exchange:?}"));
            assert_eq!(exchange.streaming, call["stream"].as_bool(), "{what}: {call}");
            assert_eq!(exchange.requested_model.as_deref(), Some("gpt-4o"), "{what}: {call}");
            assert_eq!(exchange.reason, None, "{what}: {call}");
            Answer {
                status: exchange.status.map_or(0, u64::from),
                model: exchange.model.as_deref().unwrap_or_default().to_owned(),
                input: exchange.usage.input.unwrap_or_default(),
                output: exchange.usage.output.unwrap_or_default(),
                cached: exchange.usage.cache_read.unwrap_or_default(),
            }
        })
        .collect();
    seen.sort();
    assert_eq!(seen, answers, "{what}");
}

/// Node's servers and their ports for HTTP/1.1 and HTTP/2.
fn node_servers(node: &Path) -> (Running, u16, u16) {
    let child = Command::new(node)
        .arg(script("peer.mjs"))
        .arg("serve")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a server");
    let mut running = Running(child);
    let mut line = String::new();
    let stdout = running.0.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("where it listens");
    let ports: Value = serde_json::from_str(&line).expect("a JSON line");
    let port = |name: &str| u16::try_from(ports[name].as_u64().expect("a port")).expect("a port");
    (running, port("http1"), port("http2"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

#[test]
fn node_servers_are_metered_as_their_clients_count() {
    let test = "node_servers_are_metered_as_their_clients_count";
    let Some(node) = needs(test, "node") else { return };
    let runtime = runtime();
    let (_running, http1, http2) = node_servers(&node);
    let calls = shapes();
    for (version, port) in [("http1", http1), ("http2", http2)] {
        let recorder = runtime.block_on(Recorder::before(Server::Port(port)));
        let mut client = Command::new(&node);
        client.arg(script("peer.mjs")).arg(version).arg(recorder.port.to_string());
        let answers = made(&mut client, &calls);
        compare(version, &calls, &answers, &recorder.recordings());
    }
}

/// nginx in front of Node: HTTP/1.1 and HTTP/2 by prior knowledge on sockets of their own, with its own gzip.
fn nginx(nginx: &Path, folder: &Path, upstream: u16) -> Running {
    let at = folder.display();
    let mut servers = String::new();
    for version in ["http1", "http2"] {
        let more = if version == "http2" { " http2" } else { "" };
        servers.push_str(&format!(
            "server {{ listen unix:{at}/{version}{more}; location / {{ proxy_pass http://127.0.0.1:{upstream};
                proxy_http_version 1.1; proxy_set_header Connection ''; }} }}\n"
        ));
    }
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
        events {{ worker_connections 64; }}
        http {{ access_log off; gzip on; gzip_proxied any; gzip_min_length 0;
            gzip_types application/json text/event-stream; keepalive_requests 10000;
            client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
            uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
            {servers} }}"
    );
    std::fs::write(folder.join("nginx.conf"), config).expect("a file");
    let running = Running(
        Command::new(nginx)
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .spawn()
            .expect("nginx"),
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while !["http1", "http2"]
        .iter()
        .all(|name| std::os::unix::net::UnixStream::connect(folder.join(name)).is_ok())
    {
        let log = || std::fs::read_to_string(folder.join("error.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "nginx does not listen: {}", log());
        std::thread::yield_now();
    }
    running
}

/// curl makes `calls` one after the other on one connection; the bodies as it decoded them.
fn curl(curl: &Path, folder: &Path, version: &str, port: u16, calls: &[Value]) -> Vec<Answer> {
    let mut curl = Command::new(curl);
    for (index, call) in calls.iter().enumerate() {
        if index > 0 {
            curl.arg("--next");
        }
        let version = if version == "http2" { "--http2-prior-knowledge" } else { "--http1.1" };
        curl.args([
            "--silent",
            "--show-error",
            "--compressed",
            version,
            "-H",
            "Content-Type: application/json",
        ])
        .args(["-H", "Host: api.openai.com", "--data", &call.to_string(), "--write-out", "%{http_code}\n"])
        .arg("-o")
        .arg(folder.join(format!("{index}.body")))
        .arg(format!("http://127.0.0.1:{port}/v1/chat/completions"));
    }
    let output = curl.output().expect("curl");
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    let statuses = String::from_utf8(output.stdout).expect("text");
    statuses
        .lines()
        .enumerate()
        .map(|(index, status)| {
            let body = std::fs::read_to_string(folder.join(format!("{index}.body"))).expect("a body");
            let documents = body.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
            let mut last = documents.filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let last = last.rfind(|said| said["usage"].is_object()).expect("an answer with usage");
            let usage = &last["usage"];
            let said = json!({"status": status.parse::<u64>().expect("a status"), "model": last["model"],
                "input": usage["prompt_tokens"], "output": usage["completion_tokens"],
                "cached": usage["prompt_tokens_details"]["cached_tokens"]});
            answer_of(&said).unwrap_or_else(|| panic!("incomplete: {said}"))
        })
        .collect()
}

#[test]
fn nginx_is_metered_as_its_clients_count() {
    let test = "nginx_is_metered_as_its_clients_count";
    let (Some(program), Some(node)) = (needs(test, "nginx"), needs(test, "node")) else { return };
    let runtime = runtime();
    let (_upstream, http1, _) = node_servers(&node);
    let folder = tempfile::tempdir().expect("a folder");
    let _running = nginx(&program, folder.path(), http1);
    let calls: Vec<Value> = shapes()
        .into_iter()
        .filter(|call| call["hints"].is_null() && call["expect"].is_null())
        .map(|mut call| {
            call["accept"] = json!("gzip");
            call
        })
        .collect();
    for version in ["http1", "http2"] {
        let socket = Server::Socket(folder.path().join(version));
        let recorder = runtime.block_on(Recorder::before(socket.clone()));
        let mut client = Command::new(&node);
        client.arg(script("peer.mjs")).arg(version).arg(recorder.port.to_string());
        let answers = made(&mut client, &calls);
        compare(&format!("node, {version}"), &calls, &answers, &recorder.recordings());
        if let Some(program) = needs(test, "curl") {
            let recorder = runtime.block_on(Recorder::before(socket));
            // This curl loses its way in HTTP/2 on a connection that it keeps.
            let at_once = if version == "http2" { 1 } else { calls.len() };
            let answer = |calls| curl(&program, folder.path(), version, recorder.port, calls);
            let mut answers: Vec<Answer> = calls.chunks(at_once).flat_map(answer).collect();
            answers.sort();
            compare(&format!("curl, {version}"), &calls, &answers, &recorder.recordings());
        }
    }
}
