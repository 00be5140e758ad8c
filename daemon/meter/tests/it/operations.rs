//! What a request is for, where more than its path decides: remote procedure calls, and bodies on hosts that the user
//! named.

use std::sync::Arc;

use meter::directory::{Directory, UserProvider};
use meter::exchange::Exchange;
use meter::pipeline::PipelineOptions;

use crate::harness::{Driver, Outcome, answer, options, tokens};

/// Words that stand in bodies only.
const SECRET: &str = "x9q-marker-of-a-body-7zk";

/// One call on a connection of unknown host.
fn call(options: PipelineOptions, head: &str, body: &str, status: u16, fields: &str, reply: &str) -> Outcome {
    let mut driver = Driver::with(options, "", false);
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    driver.sent(request.as_bytes());
    driver.received(&answer(status, fields, reply.as_bytes()));
    driver.close();
    driver.outcome()
}

/// `provider operation tools error-class error-code reason`
fn summary(exchange: &Exchange) -> String {
    let error = exchange.error.as_ref();
    let show = |text: Option<&str>| text.unwrap_or("-").to_owned();
    [
        exchange.provider.to_string(),
        exchange.operation.to_owned(),
        exchange
            .tools
            .iter()
            .map(|tool| format!("{}*{}", tool.name, tool.calls.map_or("?".into(), |calls| calls.to_string())))
            .collect::<Vec<_>>()
            .join(","),
        show(error.and_then(|error| error.class.as_deref())),
        show(error.and_then(|error| error.code.as_deref())),
        show(exchange.reason.map(|reason| reason.as_str())),
    ]
    .join(" ")
}

#[test]
fn remote_procedure_calls_are_told_apart() {
    let check = |head: &str, body: &str, status: u16, reply: &str, expected: &str| {
        let body = body.replace("SECRET", SECRET);
        let reply = reply.replace("SECRET", SECRET);
        for events in [false, true] {
            let (fields, reply) = match events && !reply.is_empty() {
                true => (
                    "Content-Type: text/event-stream\r\n",
                    format!(": ping\n\nevent: message\ndata: {reply}\n\n"),
                ),
                false => ("Content-Type: application/json\r\n", reply.clone()),
            };
            let outcome = call(options(), head, &body, status, fields, &reply);
            assert_eq!(summary(outcome.one()), expected, "{body}");
            assert_eq!(tokens(outcome.one()), "-,-,-,-,-");
            assert!(!outcome.printed.contains(SECRET), "a body shows itself: {body}");
        }
    };
    let mcp = "POST /mcp HTTP/1.1\r\nHost: tools.example";
    check(
        mcp,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","clientInfo":{"name":"SECRET"}}}"#,
        200,
        r#"{"jsonrpc":"2.0","id":0,"result":{"serverInfo":{"name":"SECRET"}}}"#,
        "mcp mcp_initialize  - - not_inference",
    );
    check(
        mcp,
        r#"{"method":"tools/list","jsonrpc":"2.0","id":1}"#,
        200,
        r#"{"result":{"tools":[{"name":"look_up","description":"SECRET","inputSchema":{"properties":{"name":{"name":"SECRET"}}}},{"title":"SECRET","name":"send"}],"nextCursor":"SECRET"}}"#,
        "mcp mcp_list_tools look_up*0,send*0 - - not_inference",
    );
    // Batches, as version 2025-03-26 has them: what all are for, and all tools.
    check(
        mcp,
        r#"[{"id":1,"method":"tools/call","params":{"name":"a"}},{"params":{"name":"b","arguments":{"name":"SECRET"}},"method":"tools/call","id":2},{"id":3,"method":"tools/call","params":{"name":"a"}}]"#,
        200,
        r#"[{"id":1,"result":{"content":[{"text":"SECRET"}]}},{"id":2,"error":{"code":-32603,"message":"SECRET"}}]"#,
        "mcp mcp_call_tool a*2,b*1 - -32603 not_inference",
    );
    check(
        mcp,
        r#"[{"method":"notifications/initialized"},{"id":1,"method":"tools/list"},{"id":2,"method":"prompts/get","params":{"name":"SECRET"}}]"#,
        200,
        r#"[{"id":1,"result":{"tools":[{"name":"a"}]}},{"id":2,"result":{"messages":["SECRET"]}}]"#,
        "mcp mcp_batch a*0 - - not_inference",
    );
    check(mcp, "[]", 400, "{}", "mcp mcp  - - not_inference");
    check(
        mcp,
        r#"[{"id":1,"result":{}},7,"SECRET",[{"method":"tools/list"}]]"#,
        202,
        "",
        "mcp mcp  - - not_inference",
    );
    check(
        mcp,
        r#"{"id":2,"params":{"arguments":{"question":"SECRET","name":"SECRET"},"name":"ask\u005fquestion"},"method":"tools\/call"}"#,
        200,
        r#"{"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"SECRET"}],"isError":false}}"#,
        "mcp mcp_call_tool ask_question*1 - - not_inference",
    );
    check(
        mcp,
        r#"{"id":2,"method":"tools/call","params":{"name":"t","arguments":{}}}"#,
        200,
        r#"{"result":{"content":[{"text":"SECRET"}],"isError":true}}"#,
        "mcp mcp_call_tool t*1 tool_error - not_inference",
    );
    check(
        mcp,
        r#"{"id":3,"method":"tools/call","params":{"name":"t"}}"#,
        200,
        r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"SECRET"}}"#,
        "mcp mcp_call_tool t*1 - -32602 not_inference",
    );
    check(mcp, r#"{"method":"notifications/initialized"}"#, 202, "", "mcp mcp_notify  - - not_inference");
    check(
        mcp,
        r#"{"id":4,"method":"resources/read","params":{"uri":"SECRET"}}"#,
        200,
        "{}",
        "mcp mcp_read_resource  - - not_inference",
    );
    check(
        mcp,
        r#"{"id":4,"method":"prompts/get","params":{"name":"p"}}"#,
        200,
        "{}",
        "mcp mcp_get_prompt  - - not_inference",
    );
    check(mcp, r#"{"id":4,"method":"vendor/thing"}"#, 200, "{}", "mcp mcp  - - not_inference");
    check(mcp, r#"{"id":4,"result":{}}"#, 202, "", "mcp mcp  - - not_inference");
    check(mcp, "", 400, "{}", "mcp mcp  - - not_inference");
    // Its own header fields tell, wherever it lives.
    let elsewhere = "POST / HTTP/1.1\r\nHost: tools.example\r\nMCP-Protocol-Version: 2025-06-18\r\nMcp-Session-Id: x9q-marker-of-a-body-7zk";
    check(elsewhere, r#"{"method":"ping","id":1}"#, 200, "{}", "mcp mcp_ping  - - not_inference");
    let of_provider = "POST /mcp/x/issues HTTP/1.1\r\nHost: api.githubcopilot.com\r\nMcp-Session-Id: 1";
    check(
        of_provider,
        r#"{"method":"tools/list","id":1}"#,
        200,
        "{}",
        "github_copilot mcp_list_tools  - - not_inference",
    );
}

#[test]
fn unknown_hosts_are_left_alone_unless_told_otherwise() {
    let mcp = "POST /mcp HTTP/1.1\r\nHost: tools.example";
    let body = r#"{"method":"ping","id":1}"#;
    let quiet = PipelineOptions { detect_by_path: false, ..options() };
    assert!(call(quiet, mcp, body, 200, "", "{}").exchanges.is_empty());
    let other = "POST /rpc HTTP/1.1\r\nHost: tools.example";
    assert!(call(options(), other, body, 200, "", "{}").exchanges.is_empty());
}

#[test]
fn bodies_tell_on_hosts_that_the_user_named() {
    let mut directory = Directory::builtin();
    let user =
        UserProvider { name: "ours".into(), hosts: vec!["llm.corp:8000".into()], ..UserProvider::default() };
    directory.extend(&[user]).expect("a good entry");
    let directory = Arc::new(directory);
    let check = |head: &str, body: &str, reply: &str, expected: &str| {
        let options = PipelineOptions { directory: Arc::clone(&directory), ..options() };
        let head = format!("{head} HTTP/1.1\r\nHost: llm.corp:8000");
        let outcome = call(options, &head, body, 200, "", reply);
        let exchange = outcome.one();
        let dialect = exchange.dialect.unwrap_or("-");
        let reason = exchange.reason.map_or("ok", |reason| reason.as_str());
        let seen =
            format!("{} {} {dialect} {} {reason}", exchange.provider, exchange.operation, tokens(exchange));
        assert_eq!(seen, expected, "{head} {body}");
    };
    let openai = r#"{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    check(
        "POST /ask",
        r#"{"model":"m","messages":[{"role":"user"}]}"#,
        openai,
        "ours chat openai_chat 3,4,-,-,- ok",
    );
    check("POST /ask", r#"{"prompt":"x"}"#, openai, "ours chat openai_chat 3,4,-,-,- ok");
    check("GET /ask", r#"{"messages":[]}"#, openai, "ours other - -,-,-,-,- not_inference");
    check("POST /ask", r#"{"query":"x"}"#, openai, "ours other - -,-,-,-,- not_inference");
    check(
        "POST /ask",
        r#"{"messages":[],"anthropic_version":"x"}"#,
        r#"{"usage":{"input_tokens":3,"cache_read_input_tokens":2,"output_tokens":4}}"#,
        "ours chat anthropic_messages 5,4,2,-,- ok",
    );
    check(
        "POST /ask",
        r#"{"contents":[]}"#,
        r#"{"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4}}"#,
        "ours generate_content gemini 3,4,-,-,- ok",
    );
    check("POST /v1/chat/completions", "{}", openai, "ours chat openai_chat 3,4,-,-,- ok");
}
