//! Calls as providers answer them: sizes, fields and events as in their public references.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::wire::{Shape, h1, h2, websocket};

/// A request and its answer, before any framing.
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) host: &'static str,
    pub(super) target: &'static str,
    pub(super) request_fields: Vec<(&'static str, String)>,
    pub(super) request_body: Vec<u8>,
    pub(super) response_fields: Vec<(&'static str, String)>,
    /// The answer's body, one element for each write of the server.
    pub(super) writes: Vec<Vec<u8>>,
    /// The JSON texts in the answer.
    pub(super) documents: Vec<Vec<u8>>,
    /// `writes` is compressed.
    pub(super) packed: bool,
}

/// Every call in every form that is measured.
pub(super) fn shapes() -> anyhow::Result<Vec<Shape>> {
    let short = chat_streamed("chat, streamed, 30 events", 30);
    let long = chat_streamed("chat, streamed, 1,000 events", 1_000);
    let small = chat("chat, JSON of 2 KB", 200, 2_000);
    let large = chat("chat, JSON of 200 KB", 200, 200_000);
    Ok(vec![
        h1(&short),
        h1(&long),
        h1(&small),
        h1(&large),
        h1(&chat("chat, request of 200 KB", 200_000, 500)),
        h1(&gzip("chat, streamed, 1,000 events, gzip", chat_streamed("", 1_000))?),
        h1(&gzip("chat, JSON of 200 KB, gzip", chat("", 200, 200_000))?),
        h2(&short),
        h2(&long),
        h2(&small),
        h2(&large),
        h1(&messages_streamed("Anthropic messages, streamed, 500 events", 500)),
        h2(&messages_streamed("Anthropic messages, streamed, 500 events", 500)),
        h1(&responses_streamed("responses, streamed, 500 events", 500)),
        websocket(&realtime("realtime, 200 events", 200)),
    ])
}

/// What the official clients of OpenAI and Anthropic send with every request, but for the credential.
fn request_fields(client: &str) -> Vec<(&'static str, String)> {
    let fields = [
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
        ("content-type", "application/json"),
        ("user-agent", client),
        ("x-stainless-arch", "x64"),
        ("x-stainless-async", "false"),
        ("x-stainless-lang", "python"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-package-version", "3.54.0"),
        ("x-stainless-read-timeout", "600"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-runtime", "CPython"),
        ("x-stainless-runtime-version", "3.13.1"),
    ];
    fields.map(|(name, value)| (name, value.to_owned())).to_vec()
}

/// What OpenAI answers with, as of 2025-11.
fn response_fields() -> Vec<(&'static str, String)> {
    let fields = [
        ("date", "Wed, 12 Nov 2025 14:55:14 GMT"),
        ("content-type", "application/json"),
        ("openai-organization", "org-0123456789abcdef"),
        ("openai-processing-ms", "625"),
        ("openai-project", "proj_0123456789abcdef"),
        ("openai-version", "2020-10-01"),
        ("x-envoy-upstream-service-time", "640"),
        ("x-ratelimit-limit-requests", "30000"),
        ("x-ratelimit-limit-tokens", "150000000"),
        ("x-ratelimit-remaining-requests", "29999"),
        ("x-ratelimit-remaining-tokens", "149999990"),
        ("x-ratelimit-reset-requests", "2ms"),
        ("x-ratelimit-reset-tokens", "0s"),
        ("x-request-id", "req_430a9dd3a94b4a5cb0ab660e6bf61b2a"),
        ("server", "cloudflare"),
        ("cf-ray", "99d6de818c59d66b-IAD"),
    ];
    fields.map(|(name, value)| (name, value.to_owned())).to_vec()
}

/// What Anthropic answers with, as of 2025-10.
fn anthropic_response_fields() -> Vec<(&'static str, String)> {
    let fields = [
        ("date", "Sat, 25 Oct 2025 07:45:48 GMT"),
        ("content-type", "application/json"),
        ("anthropic-ratelimit-requests-limit", "1000"),
        ("anthropic-ratelimit-requests-remaining", "999"),
        ("anthropic-ratelimit-requests-reset", "2025-10-25T07:45:45Z"),
        ("anthropic-ratelimit-tokens-limit", "120000"),
        ("anthropic-ratelimit-tokens-remaining", "120000"),
        ("anthropic-ratelimit-tokens-reset", "2025-10-25T07:45:48Z"),
        ("request-id", "req_011CUTYZriFsb8NeDTUHeZ8x"),
        ("anthropic-organization-id", "00000000-0123-4567-89ab-0123456789ab"),
        ("via", "1.1 google"),
        ("server", "cloudflare"),
        ("cf-ray", "994018a289c0eb24-SJC"),
    ];
    fields.map(|(name, value)| (name, value.to_owned())).to_vec()
}

/// A key as long as real ones.
const KEY: &str = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqr\
                   stuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmno";

const EVENTS: &str = "text/event-stream; charset=utf-8";

fn chat_request(prompt: usize, stream: bool) -> Vec<u8> {
    let content = "Summarise this: \u{e4}\u{f6} \"quoted\" text\n".repeat(prompt / 36 + 1);
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": content}]});
    if stream {
        body["stream"] = Value::Bool(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body.to_string().into_bytes()
}

fn usage() -> Value {
    json!({"prompt_tokens": 1200, "completion_tokens": 340, "total_tokens": 1540,
        "prompt_tokens_details": {"cached_tokens": 1000}, "completion_tokens_details": {"reasoning_tokens": 5}})
}

fn openai(name: &'static str) -> Call {
    Call {
        name,
        host: "api.openai.com",
        target: "/v1/chat/completions",
        request_fields: [
            request_fields("OpenAI/Python 3.54.0"),
            vec![("authorization", format!("Bearer {KEY}"))],
        ]
        .concat(),
        request_body: Vec::new(),
        response_fields: response_fields(),
        writes: Vec::new(),
        documents: Vec::new(),
        packed: false,
    }
}

fn chat(name: &'static str, prompt: usize, bytes: usize) -> Call {
    let content = "An answer with \"quotes\", a newline\n and \u{fc}mlauts. ".repeat(bytes / 48 + 1);
    let document = json!({"id": "chatcmpl-0123456789", "object": "chat.completion", "created": 1_760_000_000,
        "model": "gpt-4o-2024-08-06", "service_tier": "default",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": usage()})
    .to_string()
    .into_bytes();
    let request_body = chat_request(prompt, false);
    Call { request_body, writes: vec![document.clone()], documents: vec![document], ..openai(name) }
}

fn chat_streamed(name: &'static str, events: usize) -> Call {
    let chunk = |choices: Value, usage: Value| {
        json!({"id": "chatcmpl-0123456789abcdefghij", "object": "chat.completion.chunk", "created": 1_760_000_000,
            "model": "gpt-4o-2024-08-06", "service_tier": "default", "system_fingerprint": "fp_0123456789",
            "choices": choices, "usage": usage, "obfuscation": "x8K2mQ"})
    };
    let word = |number| {
        let delta = json!({"content": format!(" word{number}")});
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]), Value::Null)
    };
    let stop = chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), Value::Null);
    let last = [stop, chunk(json!([]), usage())];
    let mut call = streamed(openai(name), (0..events).map(word).chain(last), false);
    call.writes.push(b"data: [DONE]\n\n".to_vec());
    Call { request_body: chat_request(200, true), ..call }
}

fn messages_streamed(name: &'static str, events: usize) -> Call {
    let usage = json!({"input_tokens": 1200, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1000,
        "output_tokens": 1, "service_tier": "standard"});
    let message = json!({"id": "msg_0123456789", "type": "message", "role": "assistant", "content": [],
        "model": "claude-sonnet-4-20250514", "stop_reason": null, "stop_sequence": null, "usage": usage});
    let block = json!({"type": "text", "text": ""});
    let first = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
    ];
    let word = |number| {
        let delta = json!({"type": "text_delta", "text": format!(" word{number}")});
        json!({"type": "content_block_delta", "index": 0, "delta": delta})
    };
    let last = [
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"output_tokens": 340}}),
        json!({"type": "message_stop"}),
    ];
    let call = Call {
        host: "api.anthropic.com",
        target: "/v1/messages",
        request_fields: [
            request_fields("Anthropic/Python 0.72.0"),
            vec![("anthropic-version", "2023-06-01".to_owned()), ("x-api-key", KEY.to_owned())],
        ]
        .concat(),
        response_fields: anthropic_response_fields(),
        request_body: json!({"model": "claude-sonnet-4-20250514", "max_tokens": 1024, "stream": true,
            "messages": [{"role": "user", "content": "Summarise this."}]})
        .to_string()
        .into_bytes(),
        ..openai(name)
    };
    streamed(call, first.into_iter().chain((0..events).map(word)).chain(last), true)
}

fn responses_streamed(name: &'static str, events: usize) -> Call {
    let response = |status: &str, usage: Value| {
        json!({"id": "resp_0123456789", "object": "response", "created_at": 1_760_000_000, "status": status,
            "model": "gpt-4o-2024-08-06", "service_tier": "default", "output": [], "usage": usage})
    };
    let started = json!({"type": "response.created", "sequence_number": 0, "response": response("in_progress", Value::Null)});
    let word = |number| {
        json!({"type": "response.output_text.delta", "sequence_number": number, "item_id": "msg_0123456789",
            "output_index": 0, "content_index": 0, "delta": format!(" word{number}"), "logprobs": []})
    };
    let usage = json!({"input_tokens": 1200, "input_tokens_details": {"cached_tokens": 1000},
        "output_tokens": 340, "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 1540});
    let done = json!({"type": "response.completed", "sequence_number": events, "response": response("completed", usage)});
    let call = Call {
        target: "/v1/responses",
        request_body: json!({"model": "gpt-4o", "stream": true, "input": "Summarise this."})
            .to_string()
            .into_bytes(),
        ..openai(name)
    };
    streamed(call, [started].into_iter().chain((1..events).map(word)).chain([done]), true)
}

fn realtime(name: &'static str, events: usize) -> Call {
    let started = json!({"type": "response.created", "event_id": "event_0",
        "response": {"id": "resp_0", "object": "realtime.response", "status": "in_progress"}});
    let word = |number| {
        json!({"type": "response.output_text.delta", "event_id": format!("event_{number}"), "response_id": "resp_0",
            "item_id": "item_0", "output_index": 0, "content_index": 0, "delta": format!(" word{number}")})
    };
    let usage = json!({"total_tokens": 1540, "input_tokens": 1200, "output_tokens": 340,
        "input_token_details": {"cached_tokens": 1000}});
    let done = json!({"type": "response.done", "event_id": "event_9",
        "response": {"id": "resp_0", "object": "realtime.response", "status": "completed", "usage": usage}});
    let events = [started].into_iter().chain((0..events).map(word)).chain([done]);
    let documents: Vec<Vec<u8>> = events.map(|event| event.to_string().into_bytes()).collect();
    Call {
        target: "/v1/realtime?model=gpt-realtime",
        request_body: json!({"type": "response.create"}).to_string().into_bytes(),
        writes: documents.clone(),
        documents,
        ..openai(name)
    }
}

/// Server-sent events, each written by itself, with the name of the event where the provider gives one.
fn streamed(call: Call, events: impl Iterator<Item = Value>, named: bool) -> Call {
    let (mut writes, mut documents) = (Vec::new(), Vec::new());
    for event in events {
        let document = event.to_string();
        let name = match event["type"].as_str() {
            Some(kind) if named => format!("event: {kind}\n"),
            _ => String::new(),
        };
        writes.push(format!("{name}data: {document}\n\n").into_bytes());
        documents.push(document.into_bytes());
    }
    let mut response_fields = call.response_fields;
    for (_, value) in response_fields.iter_mut().filter(|(name, _)| *name == "content-type") {
        EVENTS.clone_into(value);
    }
    Call { writes, documents, response_fields, ..call }
}

/// The same, compressed as one gzip member that is flushed with every write.
fn gzip(name: &'static str, mut call: Call) -> anyhow::Result<Call> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let last = call.writes.len().saturating_sub(1);
    for (at, write) in call.writes.iter_mut().enumerate() {
        encoder.write_all(write)?;
        if at == last {
            encoder.try_finish()?;
        } else {
            encoder.flush()?;
        }
        *write = std::mem::take(encoder.get_mut());
    }
    call.response_fields.push(("content-encoding", "gzip".to_owned()));
    Ok(Call { name, packed: true, ..call })
}
