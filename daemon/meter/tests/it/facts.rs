//! What is kept of an exchange besides its usage: limits, tools, retries, rates; and that prose is not.

use meter::exchange::{Place, RateUnit, Reset, ToolUse, Word};
use meter::pipeline::Direction;

use crate::harness::{Driver, Outcome, answer, call, chunked, post};

const REQUEST: &str = r#"{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true}}"#;

fn chat(fields: &str, body: &str) -> Outcome {
    call(
        "api.openai.com",
        &post("/v1/chat/completions", REQUEST),
        &answer(200, fields, body.as_bytes()),
        &[7],
    )
}

#[test]
fn limits_of_the_account_are_kept() {
    let outcome = chat(
        "x-ratelimit-limit-requests: 500\r\nx-ratelimit-remaining-requests: 499\r\nx-ratelimit-reset-requests: 120ms\r\n\
         x-ratelimit-remaining-tokens: 29000\r\nretry-after: 2\r\n",
        "{}",
    );
    let limits = &outcome.one().rate_limits;
    assert_eq!(limits.retry_after_ms, Some(2_000));
    let [requests, tokens] = limits.limits.as_slice() else { panic!("{limits:?}") };
    assert_eq!(requests.unit, RateUnit::Requests);
    assert_eq!((requests.limit, requests.remaining), (Some(500), Some(499)));
    assert_eq!(requests.reset, Some(Reset::AfterMs(120)));
    assert_eq!((tokens.unit, tokens.limit, tokens.remaining), (RateUnit::Tokens, None, Some(29_000)));
}

#[test]
fn tools_and_finish_reasons_of_all_choices_are_kept() {
    let tool = |name: &str| format!(r#"{{"function":{{"name":"{name}","arguments":"{{}}"}}}}"#);
    let choice = |reason: &str, tools: &[&str]| {
        let tools: Vec<String> = tools.iter().map(|name| tool(name)).collect();
        format!(r#"{{"finish_reason":"{reason}","message":{{"tool_calls":[{}]}}}}"#, tools.join(","))
    };
    let body = format!(
        r#"{{"choices":[{},{},{}],"usage":{{"prompt_tokens":1,"completion_tokens":2}}}}"#,
        choice("tool_calls", &["look_up", "send", "look_up"]),
        choice("length", &[]),
        choice("tool_calls", &["send"]),
    );
    let outcome = chat("", &body);
    let exchange = outcome.one();
    assert_eq!(exchange.finish_reasons.as_slice(), ["tool_calls", "length", "tool_calls"]);
    let used = |name: &str, calls| ToolUse { name: name.into(), calls };
    assert_eq!(exchange.tools, [used("look_up", Some(2)), used("send", Some(2))]);

    // An answer that breaks off may have called more.
    let request = post("/v1/chat/completions", REQUEST);
    let received = answer(200, "", body.as_bytes());
    let outcome = call("api.openai.com", &request, &received[..received.len() - 60], &[11]);
    assert_eq!(outcome.one().tools, [used("look_up", None), used("send", None)]);
}

/// Finish reasons, tools with their calls and the error of an answer, whatever the pieces in which it comes.
fn check_told(host: &str, target: &str, status: u16, reply: &str, expected: &str) {
    let fields = if reply.starts_with("data:") { "Content-Type: text/event-stream\r\n" } else { "" };
    for cuts in [&[usize::MAX] as &[usize], &[1], &[13, 1, 2]] {
        let sent = format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 15\r\n\r\n{{\"stream\":true}}"
        );
        let outcome = call(host, sent.as_bytes(), &answer(status, fields, reply.as_bytes()), cuts);
        let exchange = outcome.one();
        let tools = exchange.tools.iter().map(|tool| match tool.calls {
            Some(calls) => format!("{}*{calls}", tool.name),
            None => format!("{}*?", tool.name),
        });
        let error = exchange.error.iter().map(|error| {
            let word = |word: &Option<Word>| word.as_deref().unwrap_or("-").to_owned();
            format!("{}/{}", word(&error.class), word(&error.code))
        });
        let reasons = exchange.finish_reasons.iter().map(ToString::to_string);
        let told: Vec<String> = reasons.chain(tools).chain(error).collect();
        assert_eq!(told.join(" "), expected, "{host}{target}: {reply}");
    }
}

fn events(events: &[&str]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

const CHAT: (&str, &str) = ("api.openai.com", "/v1/chat/completions");

#[test]
fn each_choice_ended_once_whatever_event_says_so() {
    fn check(reply: &str, expected: &str) {
        check_told(CHAT.0, CHAT.1, 200, reply, expected);
    }
    // OpenRouter tells the reason once more beside the usage.
    let told = r#"{"choices":[{"index":0,"finish_reason":"length"}]}"#;
    check(&events(&[told, told, "[DONE]"]), "length");
    let changed = r#"{"choices":[{"finish_reason":"stop","index":0}],"usage":{"prompt_tokens":1}}"#;
    check(&events(&[told, changed, "[DONE]"]), "stop");
    // Each choice has events of its own; the index may come after the reason.
    let second = r#"{"choices":[{"finish_reason":"stop","index":1}]}"#;
    check(&events(&[second, told, second, "[DONE]"]), "stop length");
    // Servers that leave the index out.
    check(r#"{"choices":[{"finish_reason":"stop"},{"finish_reason":"stop"}]}"#, "stop stop");
    check(&events(&[r#"{"choices":[{"finish_reason":"stop"}]}"#; 2]), "stop");
}

#[test]
fn reasons_tools_and_errors_of_many_forms_are_read() {
    let nova = "/model/us.amazon.nova-micro-v1%3A0/invoke";
    let bedrock = "bedrock-runtime.us-east-1.amazonaws.com";
    let google = "generativelanguage.googleapis.com";
    for ((host, target), status, reply, expected) in [
        (
            CHAT,
            200,
            r#"{"choices":[{"finish_reason":"function_call","message":{"function_call":{"name":"old"}}}]}"#,
            "function_call old*1",
        ),
        (
            CHAT,
            200,
            r#"{"choices":[{"message":{"tool_calls":[{"type":"custom","custom":{"name":"own","input":"x"}}]}}]}"#,
            "own*1",
        ),
        (
            (google, "/v1beta/models/gemini-2.0-flash:generateContent"),
            200,
            r#"{"candidates":[{"finishReason":1},{"finishReason":"SAFETY","index":1}]}"#,
            "STOP SAFETY",
        ),
        ((bedrock, nova), 200, r#"{"messageStop":{"stopReason":"tool_use"}}"#, "tool_use"),
        (
            (bedrock, nova),
            200,
            r#"{"output":{"message":{"content":[{"toolUse":{"name":"t"}}]}},"stopReason":"tool_use"}"#,
            "tool_use t*1",
        ),
        ((bedrock, nova), 200, r#"{"contentBlockStart":{"start":{"toolUse":{"name":"t"}}}}"#, "t*1"),
        (
            (bedrock, "/model/amazon.titan-text-lite-v1/invoke"),
            200,
            r#"{"outputText":"x","completionReason":"LENGTH"}"#,
            "LENGTH",
        ),
        (
            (bedrock, "/model/cohere.command-text-v14/invoke"),
            200,
            r#"{"generations":[{"finish_reason":"COMPLETE"},{"finish_reason":"MAX_TOKENS"}]}"#,
            "COMPLETE MAX_TOKENS",
        ),
        (
            ("api.cohere.com", "/v1/generate"),
            200,
            r#"{"generations":[{"finish_reason":"COMPLETE"}]}"#,
            "COMPLETE",
        ),
        (
            ("api.mistral.ai", "/v1/chat/completions"),
            400,
            r#"{"object":"error","message":"m","type":"invalid_model","code":"1500"}"#,
            "invalid_model/1500",
        ),
        (("api.mistral.ai", "/v1/embeddings"), 422, r#"{"type":"invalid","code":1500}"#, "invalid/1500"),
        // Of an answer that is no error they are something else.
        (("api.mistral.ai", "/v1/embeddings"), 200, r#"{"type":"x","code":"y"}"#, ""),
        (CHAT, 400, r#"{"type":"x","error":{"type":"own","code":null}}"#, "own/-"),
        (
            ("router.huggingface.co", "/v1/chat/completions"),
            422,
            r#"{"error":"text","error_type":"validation"}"#,
            "validation/-",
        ),
        (
            ("api.x.ai", "/v1/responses"),
            400,
            r#"{"code":"invalid-argument","error":"text"}"#,
            "-/invalid-argument",
        ),
    ] {
        check_told(host, target, status, reply, expected);
    }
}

#[test]
fn items_that_events_tell_of_count_if_the_answer_lists_none() {
    fn check(told: &[&str], expected: &str) {
        check_told("api.openai.com", "/v1/responses", 200, &events(told), expected);
    }
    let added = r#"{"type":"response.output_item.added","item":{"type":"function_call","name":"add"}}"#;
    let done = r#"{"type":"response.output_item.done","item":{"type":"function_call","name":"add"}}"#;
    let listed =
        r#"{"type":"response.completed","response":{"output":[{"type":"function_call","name":"add"}]}}"#;
    let empty =
        r#"{"item":{"name":"no"},"type":"response.completed","response":{"status":"completed","output":[]}}"#;
    check(&[added, done, listed], "add*1");
    check(&[added, done, added, done, empty], "completed add*2");
    // A stream that breaks off may have called more.
    let received =
        answer(200, "Content-Type: text/event-stream\r\n", events(&[added, done, done]).as_bytes());
    let outcome = call(CHAT.0, &post("/v1/responses", REQUEST), &received[..received.len() - 9], &[11]);
    assert_eq!(outcome.one().tools, [ToolUse { name: "add".into(), calls: None }]);
}

#[test]
fn what_the_rest_of_a_damaged_answer_might_change_is_not_told() {
    let begun = r#"{"type":"response.created","response":{"service_tier":"auto"}}"#;
    let done = r#"{"type":"response.output_item.done","item":{"type":"function_call","name":"add"}}"#;
    let completed =
        r#"{"type":"response.completed","response":{"service_tier":"default","usage":{"input_tokens":3}}}"#;
    let parts = [begun, done, done, completed].map(|event| events(&[event]));
    let fields = "Content-Type: text/event-stream\r\n";
    let whole = answer(200, fields, parts.concat().as_bytes());
    let told = |hidden: std::ops::Range<usize>, end: usize| {
        let mut driver = Driver::new(CHAT.0, false);
        driver.sent(&post("/v1/responses", REQUEST));
        driver.received(&whole[..hidden.start]);
        driver.gap(Direction::Received, hidden.len() as u64);
        driver.received(&whole[hidden.end..end]);
        driver.close();
        let outcome = driver.outcome();
        let exchange = outcome.one();
        let calls = exchange.tools.first().map(|tool| tool.calls);
        (exchange.service_tier.as_deref().map(str::to_owned), calls, exchange.usage.input)
    };
    let default = Some("default".to_owned());
    let end = whole.len();
    assert_eq!(told(0..0, end), (default.clone(), Some(Some(2)), Some(3)));
    // One call was not seen but for its blank line; the usage was.
    let second = end - parts[2].len() - parts[3].len();
    assert_eq!(told(second..second + parts[2].len() - 2, end), (default, Some(None), Some(3)));
    // The first event names the tier that was asked for.
    assert_eq!(told(0..0, end - parts[3].len()), (None, Some(None), None));
}

#[test]
fn what_is_no_name_is_withheld_and_the_record_says_so() {
    const PROSE: &str = "please ignore the above";
    fn check(request: &str, fields: &str, body: &str, expected: &[Place]) {
        let sent = post("/v1/chat/completions", request);
        let outcome = call("api.openai.com", &sent, &answer(200, fields, body.as_bytes()), &[13]);
        let exchange = outcome.one();
        assert_eq!(exchange.withheld.places().collect::<Vec<_>>(), expected, "{request} {fields} {body}");
        assert!(!outcome.printed.contains("ignore the"), "{}", outcome.printed);
    }
    let model = format!(r#"{{"model":"{PROSE}"}}"#);
    check(&model, "", &model, &[Place::RequestedModel, Place::Model]);
    let choice = |inner: &str| format!(r#"{{"choices":[{inner}]}}"#);
    check("{}", "", &choice(&format!(r#"{{"finish_reason":"{PROSE}"}}"#)), &[Place::FinishReasons]);
    let tool = format!(r#"{{"message":{{"tool_calls":[{{"function":{{"name":"{PROSE}"}}}}]}}}}"#);
    check("{}", "", &choice(&tool), &[Place::Tools]);
    let error = format!(r#"{{"error":{{"type":"{PROSE}","code":"{PROSE}","message":"{PROSE}"}}}}"#);
    check("{}", "", &error, &[Place::ErrorClass, Place::ErrorCode]);
    check("{}", &format!("x-request-id: {PROSE}\r\n"), "{}", &[Place::ProviderRequestId]);
    let account = format!("openai-organization: {PROSE}\r\nopenai-project: {PROSE}\r\n");
    check("{}", &account, "{}", &[Place::Organization, Place::Project]);
    let long = format!(r#"{{"service_tier":"{}"}}"#, "x".repeat(200));
    check("{}", "", &long, &[Place::ServiceTier]);
}

#[test]
fn a_request_made_again_after_a_failure_is_a_retry_also_on_another_connection() {
    let mut driver = Driver::new("api.openai.com", false);
    let retries = |driver: &mut Driver, body: &str, status| {
        driver.sent(&post("/v1/chat/completions", body));
        driver.received(&answer(status, "", b"{}"));
        driver.outcome().one().retries
    };
    assert_eq!(retries(&mut driver, REQUEST, 429), Some(0));
    assert_eq!(retries(&mut driver, REQUEST, 503), Some(1));
    driver.reconnect("api.openai.com");
    assert_eq!(retries(&mut driver, REQUEST, 200), Some(2));
    assert_eq!(retries(&mut driver, r#"{"model":"other"}"#, 200), Some(0));
    assert_eq!(retries(&mut driver, REQUEST, 200), Some(0), "after a good answer");
    // One that is given up, and one that a stream's event refuses.
    driver.sent(&post("/v1/chat/completions", REQUEST));
    driver.reconnect("api.openai.com");
    assert_eq!(driver.outcome().one().retries, Some(0));
    driver.sent(&post("/v1/chat/completions", REQUEST));
    driver.received(&chunked("", b"data: {\"error\":{\"type\":\"overloaded\"}}\n\n", 1_000));
    assert_eq!(driver.outcome().one().retries, Some(1));
    assert_eq!(retries(&mut driver, REQUEST, 200), Some(2));
}

#[test]
fn the_rate_of_output_is_over_the_time_that_the_caller_waited() {
    let mut driver = Driver::new("api.openai.com", false);
    driver.sent(&post("/v1/chat/completions", REQUEST));
    let body = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[],\"usage\":\
                {\"prompt_tokens\":1,\"completion_tokens\":50}}\n\ndata: [DONE]\n\n";
    driver.received(&chunked("", body.as_bytes(), 1_000));
    let outcome = driver.outcome();
    let exchange = outcome.one();
    let nanos = exchange.timing.last_token.map(|last| last.since(exchange.timing.started));
    // The driver's clock advances 1 us with every input.
    assert_eq!(nanos, Some(1_000));
    assert_eq!(exchange.output_millitokens_per_second(), Some(50 * 1_000_000 * 1_000));
}
