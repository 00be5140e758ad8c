//! Meter throughput on one core, beside a copy of the same bytes and a full `simd-json` parse of their JSON.

use std::sync::Arc;
use std::time::Duration;

use meter::attribution::index::OwnerIndex;
use meter::directory::Directory;
use meter::exchange::{IdentifiedBy, SessionId};
use meter::pipeline::{
    Attempts, Direction, FingerprintKeys, HostEvidence, Input, Output, Pipeline, PipelineOptions,
};
use meter::pricing::Catalogue;
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload};
use serde_json::{Value, json};

use crate::measure::seconds_per_run;

const SPAN: Duration = Duration::from_millis(1_500);

/// Exchanges of one session, rendered once.
struct Shape {
    name: &'static str,
    request: Vec<u8>,
    response: Vec<u8>,
    /// JSON texts inside the response, what `simd-json` has to parse for the same knowledge.
    documents: Vec<Vec<u8>>,
}

/// Prints one line per shape.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("## Meter, one core (aim: at least 0.5 x a full simd-json parse of the same bytes)");
    println!("{:34} {:>9} {:>11} {:>12} {:>12}", "shape", "MB/s", "exchanges/s", "x simd-json", "x memcpy");
    for shape in shapes() {
        let megabytes = (shape.request.len() + shape.response.len()) as f64 / 1e6;
        let meter = meter_seconds(&shape)?;
        let simd = seconds_per_run(SPAN, || {
            for document in &shape.documents {
                let mut text = document.clone();
                assert!(simd_json::to_borrowed_value(&mut text).is_ok());
            }
        });
        let mut copy = vec![0; shape.response.len()];
        let copied = seconds_per_run(SPAN / 4, || {
            copy.copy_from_slice(std::hint::black_box(&shape.response));
            std::hint::black_box(&copy);
        });
        println!(
            "{:34} {:9.0} {:11.0} {:12.2} {:12.3}",
            shape.name,
            megabytes / meter,
            1.0 / meter,
            simd / meter,
            copied / meter
        );
    }
    Ok(())
}

/// Seconds per exchange, pipeline included: session of a known host, keep-alive, chunks of 16 KB.
fn meter_seconds(shape: &Shape) -> anyhow::Result<f64> {
    let mut pipeline = Pipeline::new(PipelineOptions {
        directory: Arc::new(Directory::builtin()),
        owners: Arc::new(OwnerIndex::empty(1, UnixNanos(0))),
        catalogue: Arc::new(Catalogue::vendored()?),
        clock: WallClock { offset_ns: 0 },
        fingerprint_keys: FingerprintKeys::default(),
        attempts: Attempts::new([3; 16]),
        id_seed: 1,
        detect_by_path: false,
        fence_panics: true,
    });
    let session = SessionId(1);
    let process = ProcessKey { pid: 1, start_ticks: 1 };
    let host = HostEvidence { host: "api.openai.com".into(), identified_by: IdentifiedBy::TlsHostnameCall };
    let opened = Input::Opened {
        session,
        process,
        workload: Workload::unknown(process),
        host: Some(host),
        joined_late: false,
    };
    pipeline.handle(opened, Moment(1));
    let (mut sent, mut received, mut now, mut records) = (0, 0, 1_u64, 0_u64);
    let mut runs = 0_u64;
    let seconds = seconds_per_run(SPAN, || {
        for (direction, bytes, offset) in [
            (Direction::Sent, &shape.request, &mut sent),
            (Direction::Received, &shape.response, &mut received),
        ] {
            for piece in bytes.chunks(16 * 1024) {
                now += 1_000;
                pipeline
                    .handle(Input::Chunk { session, direction, offset: *offset, bytes: piece }, Moment(now));
                *offset += piece.len() as u64;
            }
        }
        while let Some(output) = pipeline.poll() {
            records += u64::from(matches!(output, Output::Record(_)));
        }
        runs += 1;
    });
    anyhow::ensure!(records == runs, "{}: {records} records of {runs} exchanges", shape.name);
    Ok(seconds)
}

fn shapes() -> Vec<Shape> {
    vec![
        streamed("chat, streamed, 1,000 events", 1_000, true),
        streamed("chat, streamed, 30 events", 30, true),
        whole("chat, one JSON answer of 2 KB", 2_000),
        whole("chat, one JSON answer of 200 KB", 200_000),
        long_request("chat, request of 200 KB", 200_000),
    ]
}

fn request(prompt: usize, stream: bool) -> Vec<u8> {
    let content = "Summarise this: \u{e4}\u{f6} \"quoted\" text\n".repeat(prompt / 36 + 1);
    let body =
        json!({"model": "gpt-4o", "messages": [{"role": "user", "content": content}], "stream": stream,
        "stream_options": {"include_usage": true}})
        .to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nAuthorization: Bearer sk-bench\r\n\
        Content-Type: application/json\r\nUser-Agent: OpenAI/Python 3.54.0\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn usage() -> Value {
    json!({"prompt_tokens": 1200, "completion_tokens": 340, "total_tokens": 1540,
        "prompt_tokens_details": {"cached_tokens": 1000}, "completion_tokens_details": {"reasoning_tokens": 5}})
}

fn streamed(name: &'static str, events: usize, chunked: bool) -> Shape {
    let chunk = |choices: Value, usage: Value| {
        json!({"id": "chatcmpl-0123456789abcdefghij", "object": "chat.completion.chunk", "created": 1_760_000_000,
            "model": "gpt-4o-2024-08-06", "service_tier": "default", "system_fingerprint": "fp_0123456789",
            "choices": choices, "usage": usage, "obfuscation": "x8K2mQ"})
        .to_string()
    };
    let mut documents: Vec<String> = (0..events)
        .map(|number| chunk(json!([{"index": 0, "delta": {"content": format!(" word{number}")}, "logprobs": null, "finish_reason": null}]), Value::Null))
        .collect();
    documents.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), Value::Null));
    documents.push(chunk(json!([]), usage()));
    let mut body = Vec::new();
    for document in documents.iter().map(String::as_str).chain(["[DONE]"]) {
        let event = format!("data: {document}\n\n");
        if chunked {
            body.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        } else {
            body.extend_from_slice(event.as_bytes());
        }
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\nx-request-id: req_0\r\n\r\n";
    let response = [head.as_bytes(), &body].concat();
    Shape {
        name,
        request: request(200, true),
        response,
        documents: documents.into_iter().map(String::into_bytes).collect(),
    }
}

fn whole(name: &'static str, bytes: usize) -> Shape {
    let content = "An answer with \"quotes\", a newline\n and \u{fc}mlauts. ".repeat(bytes / 48 + 1);
    let document = json!({"id": "chatcmpl-0123456789", "object": "chat.completion", "created": 1_760_000_000,
        "model": "gpt-4o-2024-08-06", "service_tier": "default",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": usage()})
    .to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_0\r\n";
    let response = format!("{head}Content-Length: {}\r\n\r\n{document}", document.len()).into_bytes();
    Shape { name, request: request(200, false), response, documents: vec![document.into_bytes()] }
}

fn long_request(name: &'static str, bytes: usize) -> Shape {
    let mut shape = whole(name, 500);
    shape.request = request(bytes, false);
    let body = shape.request.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    shape.documents.push(shape.request[body..].to_vec());
    shape
}
