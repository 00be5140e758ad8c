//! HTTP/1.1 and HTTP/2: Node's servers and nginx, asked by Node, Python's httpx and curl.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::toolbox;
use serde_json::{Value, json};

use crate::answer::{Answer, agree, made, metered};
use crate::recorder::{Recorder, Recording, Server};
use crate::{Running, available, runtime, script, serving};

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

/// The meter says of `recordings` what the client said it was answered, and knows which answers were streams.
fn compare(what: &str, calls: &[Value], answers: &[Answer], recordings: &[Recording]) {
    assert_eq!(answers.len(), calls.len(), "{what}: answers");
    let exchanges = metered("api.openai.com", recordings);
    for exchange in &exchanges {
        let call = calls.iter().find(|call| call["input"].as_u64() == exchange.usage.input);
        let call = call.unwrap_or_else(|| panic!("{what}: nobody made {exchange:?}"));
        assert_eq!(exchange.streaming, call["stream"].as_bool(), "{what}: {call}");
        assert_eq!(exchange.requested_model.as_deref(), Some("gpt-4o"), "{what}: {call}");
    }
    agree(what, answers, &exchanges);
}

/// Node's servers and their ports for HTTP/1.1 and HTTP/2.
fn node_servers(node: &Path) -> (Running, u16, u16) {
    let (running, ports) = serving(Command::new(node).arg(script("peer.mjs")));
    (running, ports("http1"), ports("http2"))
}

#[test]
fn node_servers_are_metered_as_their_clients_count() {
    let test = "node_servers_are_metered_as_their_clients_count";
    let Some(node) = available(test, toolbox::which("node")) else { return };
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
    if let Some(python) = available(test, toolbox::peer_python()) {
        let recorder = runtime.block_on(Recorder::before(Server::Port(http2)));
        let answers = made(&mut httpx(&python, recorder.port), &calls);
        compare("httpx, http2", &calls, &answers, &recorder.recordings());
    }
}

/// httpx over HTTP/2, several calls at a time on one connection.
fn httpx(python: &Path, port: u16) -> Command {
    let mut client = Command::new(python);
    client.arg(script("httpx_peer.py")).arg(port.to_string());
    client
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
            Answer::said(&said)
        })
        .collect()
}

/// False for curls before 8.0: these put HTTP/2 a second time on a connection that they know to speak it, and end with
/// "Error in the HTTP2 framing layer" before they send a byte (<https://github.com/curl/curl/issues/10634>).
fn reuses_http2(curl: &Path) -> bool {
    let output = Command::new(curl).arg("--version").output().expect("curl");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let major = said.split_whitespace().nth(1).and_then(|version| version.split('.').next()?.parse().ok());
    major.is_some_and(|major: u32| major >= 8)
}

#[test]
fn nginx_is_metered_as_its_clients_count() {
    let test = "nginx_is_metered_as_its_clients_count";
    let (Some(program), Some(node)) =
        (available(test, toolbox::which("nginx")), available(test, toolbox::which("node")))
    else {
        return;
    };
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
        if version == "http2"
            && let Some(python) = available(test, toolbox::peer_python())
        {
            let recorder = runtime.block_on(Recorder::before(socket.clone()));
            let answers = made(&mut httpx(&python, recorder.port), &calls);
            compare("httpx, http2", &calls, &answers, &recorder.recordings());
        }
        if let Some(program) = available(test, toolbox::which("curl")) {
            let recorder = runtime.block_on(Recorder::before(socket));
            let at_once = if version == "http2" && !reuses_http2(&program) { 1 } else { calls.len() };
            let answer = |calls| curl(&program, folder.path(), version, recorder.port, calls);
            let mut answers: Vec<Answer> = calls.chunks(at_once).flat_map(answer).collect();
            answers.sort();
            compare(&format!("curl, {version}"), &calls, &answers, &recorder.recordings());
        }
    }
}
