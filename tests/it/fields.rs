//! Every fact of a call that the provider and the client state reaches the record as it was sent: limits, retries, error
//! codes, tools, choices, ids, accounts. Real SDKs make the calls; what they are answered is written here.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use e2e::clients::World;
use e2e::daemon::Daemon;
use e2e::lab::Lab;
use e2e::needs_kernel;
use e2e::provider::Recorded;
use e2e::toolbox::{Toolbox, workspace};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// An answer to be given for `id`.
struct Answer {
    id: &'static str,
    status: u16,
    fields: &'static str,
    body: &'static str,
}

/// A refusal that the SDK answers with a retry, what the retry gets, and a stream.
const ANSWERS: [Answer; 3] = [
    Answer {
        id: "limited",
        status: 429,
        fields: "content-type: application/json
            x-request-id: req_lab_limited
            x-ratelimit-limit-requests: 500
            x-ratelimit-remaining-requests: 0
            x-ratelimit-reset-requests: 1m30.5s
            x-ratelimit-limit-tokens: 30000
            x-ratelimit-remaining-tokens: 29999
            x-ratelimit-reset-tokens: 2ms
            retry-after-ms: 20
            openai-organization: org-lab",
        body: r#"{"error":{"message":"Rate limit reached for the lab","type":"requests","param":null,
            "code":"rate_limit_exceeded"}}"#,
    },
    Answer {
        id: "answered",
        status: 200,
        fields: "content-type: application/json
            x-request-id: req_lab_answered
            x-ratelimit-remaining-requests: 499
            openai-organization: org-served
            openai-project: proj_served",
        body: r#"{"id":"chatcmpl-1","object":"chat.completion","created":1760000000,"model":"gpt-4o-2024-08-06",
            "service_tier":"flex","choices":[
              {"index":0,"finish_reason":"tool_calls","logprobs":null,"message":{"role":"assistant","content":null,
                "tool_calls":[
                  {"id":"c1","type":"function","function":{"name":"look_up","arguments":"{}"}},
                  {"id":"c2","type":"function","function":{"name":"send_mail","arguments":"{}"}},
                  {"id":"c3","type":"function","function":{"name":"look_up","arguments":"{}"}}]}},
              {"index":1,"finish_reason":"length","logprobs":null,"message":{"role":"assistant","content":"half an"}}],
            "usage":{"prompt_tokens":4001,"completion_tokens":77,"total_tokens":4078,
              "prompt_tokens_details":{"cached_tokens":1024,"audio_tokens":3},
              "completion_tokens_details":{"reasoning_tokens":11,"audio_tokens":2}}}"#,
    },
    Answer {
        id: "streamed",
        status: 200,
        fields: "content-type: text/event-stream; charset=utf-8
            request-id: req_lab_streamed
            anthropic-organization-id: 00000000-0000-0000-0000-00000000abcd
            anthropic-ratelimit-input-tokens-limit: 100000
            anthropic-ratelimit-input-tokens-remaining: 99000
            anthropic-ratelimit-input-tokens-reset: 2026-10-25T07:45:48Z
            anthropic-ratelimit-requests-remaining: 999",
        body: r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5-20250929","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":5002,"cache_creation_input_tokens":30,"cache_read_input_tokens":200,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":1,"service_tier":"priority"}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"toolu_1","name":"get_weather","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":88}}

event: message_stop
data: {"type":"message_stop"}

"#,
    },
];

#[test]
fn every_fact_of_a_call_is_recorded_as_it_was_sent() {
    needs_kernel!("every_fact_of_a_call_is_recorded_as_it_was_sent");
    let lab = Lab::new(&["http/1.1"]);
    // A network's distance, so that the first call does not win the race against the arming of its process.
    let world = lab.at_distance(Duration::from_millis(5));
    let owner = "[[owner]]\nmatch = { user = \"root\" }\nteam = \"lab\"\n";
    let daemon = Daemon::start(lab.path(), owner).expect("an armed daemon");
    let mut recorded = lab.ai.recorded.lock().expect("no panic while it was held");
    for Answer { id, status, fields, body } in ANSWERS {
        let headers = fields.lines().filter_map(|line| line.trim().split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        recorded.insert(id.to_owned(), Recorded { status, headers, body: Bytes::from(body) });
    }
    drop(recorded);

    let order = |sdk: &str, model: &str, replay: &str| {
        let headers =
            json!({"x-lab-replay": replay, "traceparent": format!("00-{TRACE}-00f067aa0ba902b7-01")});
        json!({"sdk": sdk, "model": model, "headers": headers, "organization": "org-asked", "project": "proj_asked"})
    };
    send(&lab, &world, &[order("anthropic", "warm-up", "streamed")]);
    daemon.calls_until(|calls| !calls.is_empty()).expect("the first call of the executable");
    send(
        &lab,
        &world,
        &[order("openai", "gpt-4o", "limited answered"), order("anthropic", "claude-sonnet-4-5", "streamed")],
    );
    let of = |calls: &[Value], id: &str, model: &str| {
        let found =
            calls.iter().find(|call| call["provider_request_id"] == id && call["requested_model"] == model);
        found.cloned()
    };
    let wanted = [
        ("req_lab_limited", "gpt-4o"),
        ("req_lab_answered", "gpt-4o"),
        ("req_lab_streamed", "claude-sonnet-4-5"),
    ];
    let calls = daemon
        .calls_until(|calls| wanted.iter().all(|(id, model)| of(calls, id, model).is_some()))
        .expect("all three exchanges");
    let [limited, answered, streamed] = wanted.map(|(id, model)| of(&calls, id, model).expect("just found"));

    check(
        &limited,
        json!({
            "provider": "openai", "host": "api.openai.com", "operation": "chat", "status": 429, "streaming": false,
            "error_class": "requests", "error_code": "rate_limit_exceeded", "reason": "not_reported",
            "organization": "org-lab", "project": "proj_asked", "trace_id": TRACE, "retries": 0, "retry_after_ms": 20,
            "rate_limits": {"requests": {"limit": 500, "remaining": 0, "reset_after_ms": 90_500},
                "tokens": {"limit": 30_000, "remaining": 29_999, "reset_after_ms": 2}},
        }),
        &["model", "usage", "finish_reasons", "tools", "withheld"],
    );
    check(
        &answered,
        json!({
            "model": "gpt-4o-2024-08-06", "status": 200, "service_tier": "flex", "streaming": false, "retries": 1,
            "organization": "org-served", "project": "proj_served", "trace_id": TRACE,
            "finish_reasons": ["tool_calls", "length"], "tools": ["look_up", "send_mail"],
            "tool_calls": [{"name": "look_up", "calls": 2}, {"name": "send_mail", "calls": 1}],
            "rate_limits": {"requests": {"remaining": 499}},
            "usage": {"input_tokens": 4_001, "output_tokens": 77, "total_tokens": 4_078,
                "cache_read_input_tokens": 1_024, "reasoning_output_tokens": 11, "audio_input_tokens": 3,
                "audio_output_tokens": 2},
        }),
        &["error_class", "error_code", "reason", "retry_after_ms", "withheld", "batch"],
    );
    check(
        &streamed,
        json!({
            "provider": "anthropic", "model": "claude-sonnet-4-5-20250929", "status": 200, "service_tier": "priority",
            "streaming": true, "retries": 0, "organization": "00000000-0000-0000-0000-00000000abcd",
            "trace_id": TRACE, "finish_reasons": ["tool_use"], "tools": ["get_weather"],
            "tool_calls": [{"name": "get_weather", "calls": 1}],
            "rate_limits": {"requests": {"remaining": 999}, "input_tokens": {"limit": 100_000, "remaining": 99_000,
                "reset_at": "2026-10-25T07:45:48.000000Z"}},
            "usage": {"input_tokens": 5_232, "output_tokens": 88, "cache_read_input_tokens": 200,
                "cache_creation_input_tokens": 30, "cache_creation_5m_input_tokens": 10,
                "cache_creation_1h_input_tokens": 20},
        }),
        &["error_class", "error_code", "reason", "retry_after_ms", "withheld", "project"],
    );

    // One key, one fingerprint; nothing of the key.
    let fingerprint = limited["api_key_fingerprint"].as_str().expect("a fingerprint");
    assert!(
        fingerprint.len() == 32 && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{fingerprint}"
    );
    for call in [&limited, &answered, &streamed] {
        assert_eq!(call["api_key_fingerprint"], fingerprint);
        assert!(call["request_bytes"].as_u64() > Some(50), "{call}");
        assert!(call["response_bytes"].as_u64() > Some(50), "{call}");
        assert!(call["timing"]["total_ms"].as_f64() >= call["timing"]["first_byte_ms"].as_f64(), "{call}");
        assert!(!call.to_string().contains("question"), "{call}");
    }
    for call in [&answered, &streamed] {
        let output = call["usage"]["output_tokens"].as_f64().expect("output");
        let timing = &call["timing"];
        let until = timing["last_token_ms"].as_f64().or(timing["total_ms"].as_f64()).expect("an end");
        let rate = timing["output_tokens_per_second"].as_f64().expect("a rate");
        assert!((rate - output / until * 1e3).abs() < 0.01, "{rate} for {output} in {until} ms");
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// Runs the SDKs in a process of their own.
fn send(lab: &Lab, world: &World, orders: &[Value]) {
    let python = Toolbox::get().python.as_ref().expect("Python with the SDKs");
    let mut command = world.command(lab.path(), python).expect("a command");
    command.arg(workspace().join("tests/clients/fields.py"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
    let mut input = child.stdin.take().expect("its input");
    for order in orders {
        writeln!(input, "{order}").expect("an order");
    }
    drop(input);
    let output = child.wait_with_output().expect("its end");
    let reports = String::from_utf8(output.stdout).expect("text");
    assert_eq!(reports.matches("\"ok\": true").count(), orders.len(), "{reports}");
}

/// Compares the members of `wanted` with the call's; `absent` are keys that must not be there.
fn check(call: &Value, wanted: Value, absent: &[&str]) {
    for (key, value) in wanted.as_object().expect("an object") {
        assert_eq!(&call[key], value, "{key} of {call}");
    }
    for key in absent {
        assert_eq!(call.get(*key), None, "{key} of {call}");
    }
}
