//! What is listed, fetched and managed: whose model it is, whether it came as a stream, how it failed. It uses nothing.

use meter::exchange::Exchange;

use crate::harness::{answer, call, tokens};

/// `operation model streamed batch class code`
fn summary(exchange: &Exchange) -> String {
    let show = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let error = exchange.error.as_ref();
    [
        exchange.operation.to_owned(),
        show(exchange.model.as_deref()),
        show(exchange.streaming.map(|streamed| if streamed { "streamed" } else { "whole" })),
        if exchange.batch { "batch" } else { "-" }.to_owned(),
        show(error.and_then(|error| error.class.as_deref())),
        show(error.and_then(|error| error.code.as_deref())),
    ]
    .join(" ")
}

#[test]
fn what_is_fetched_names_its_model_and_its_error() {
    let check = |host: &str, request: &str, status: u16, label: &str, reply: &str, expected: &str| {
        let sent = format!("{request} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        let fields = format!("Content-Type: {label}\r\n");
        for cuts in [usize::MAX, 1] {
            let outcome = call(host, sent.as_bytes(), &answer(status, &fields, reply.as_bytes()), &[cuts]);
            assert_eq!(summary(outcome.one()), expected, "{request}: {reply}");
            assert_eq!(tokens(outcome.one()), "-,-,-,-,-");
            assert!(!outcome.printed.contains("prose"), "a body shows itself: {}", outcome.printed);
        }
    };
    let (openai, json) = ("api.openai.com", "application/json; charset=utf-8");
    let run = r#"{"id":"run_1","model":"gpt-x","status":"completed","instructions":"prose","usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
    check(openai, "GET /v1/threads/t/runs/r", 200, json, run, "assistants gpt-x whole - - -");
    let list = format!(r#"{{"data":[{run}],"has_more":false}}"#);
    check(openai, "GET /v1/threads/t/runs", 200, json, &list, "assistants - whole - - -");
    // Each event tells of an object of its own.
    let events = format!("event: thread.run.completed\ndata: {run}\n\ndata: [DONE]\n\n");
    check(
        openai,
        "POST /v1/threads/t/runs",
        200,
        "Text/Event-Stream; charset=utf-8",
        &events,
        "assistants - streamed - - -",
    );
    let refused = r#"{"error":{"message":"prose","type":"invalid_request_error","code":"invalid_thread"}}"#;
    check(
        openai,
        "POST /v1/threads/t/runs",
        400,
        json,
        refused,
        "assistants - whole - invalid_request_error invalid_thread",
    );
    check(
        openai,
        "GET /v1/models",
        401,
        json,
        refused,
        "models - whole - invalid_request_error invalid_thread",
    );
    let job = r#"{"object":"fine_tuning.job","model":"gpt-x","status":"queued"}"#;
    check(openai, "GET /v1/fine_tuning/jobs/j", 200, json, job, "fine_tuning gpt-x whole - - -");
    // Results are a file of one document a line.
    let results =
        "{\"custom_id\":\"a\",\"response\":{\"body\":{\"usage\":{\"prompt_tokens\":5}}}}\n".repeat(2);
    let file = "application/octet-stream";
    check(openai, "GET /v1/files/f/content", 200, file, &results, "files - streamed - - -");
    check(
        "api.anthropic.com",
        "GET /v1/messages/batches/b/results",
        200,
        "application/x-jsonl",
        "{\"custom_id\":\"a\",\"result\":{\"message\":{\"model\":\"claude\",\"usage\":{\"input_tokens\":5}}}}\n",
        "batch_results - streamed batch - -",
    );
    check(
        "generativelanguage.googleapis.com",
        "DELETE /v1beta/cachedContents/c",
        403,
        json,
        r#"{"error":{"code":403,"message":"prose","status":"PERMISSION_DENIED"}}"#,
        "cached_contents - whole - PERMISSION_DENIED 403",
    );
    check(
        "bedrock-agent-runtime.us-east-1.amazonaws.com",
        "POST /retrieveAndGenerateStream",
        200,
        "application/vnd.amazon.eventstream",
        "prose",
        "retrieval - streamed - - -",
    );
}
