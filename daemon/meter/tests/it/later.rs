//! Answers that are accepted first and fetched later: what they used counts once, wherever it is fetched.

use crate::harness::{Driver, answer, tokens};

/// Requests to `host`, each on a connection of its own, with what is answered and what is recorded of it.
fn check(host: &str, script: &[(&str, &str, &str)]) {
    let mut driver = Driver::new(host, false);
    for (step, (request, reply, expected)) in script.iter().enumerate() {
        driver
            .sent(format!("{request} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes());
        driver.received(&answer(200, "", reply.as_bytes()));
        driver.reconnect(host);
        let outcome = driver.outcome();
        let exchange = outcome.one();
        let reason = exchange.reason.map_or("ok", |reason| reason.as_str());
        assert_eq!(format!("{} {reason}", tokens(exchange)), *expected, "step {step}: {request}");
        assert!(!outcome.printed.contains("resp_"), "an id shows itself: {}", outcome.printed);
    }
}

#[test]
fn what_is_fetched_later_counts_once() {
    let usage = r#""usage":{"input_tokens":5,"output_tokens":2}"#;
    let queued = r#"{"id":"resp_1","status":"queued","usage":null}"#;
    let working = r#"{"id":"resp_1","status":"in_progress","usage":null}"#;
    let done = &format!(r#"{{"id":"resp_1","status":"completed",{usage}}}"#);
    let other = &format!(r#"{{"id":"resp_2","status":"completed",{usage}}}"#);
    let (post, get) = ("POST /v1/responses", "GET /v1/responses/resp_1");
    let nothing = "-,-,-,-,- not_inference";
    check(
        "api.openai.com",
        &[
            (get, done, nothing),
            (post, queued, "-,-,-,-,- not_reported"),
            (get, working, nothing),
            ("GET /v1/responses/resp_2", other, nothing),
            (get, done, "5,2,-,-,- ok"),
            (get, done, nothing),
            // One that was answered at once was counted then.
            (post, other, "5,2,-,-,- ok"),
            ("GET /v1/responses/resp_2", other, nothing),
        ],
    );
    // One that is given up was worked on.
    let cancelled = &format!(r#"{{{usage},"status":"cancelled","id":"resp_1"}}"#);
    check(
        "api.openai.com",
        &[
            (post, queued, "-,-,-,-,- not_reported"),
            ("POST /v1/responses/resp_1/cancel", cancelled, "5,2,-,-,- ok"),
            (get, cancelled, nothing),
        ],
    );
    let starting = r#"{"id":"resp_p","status":"starting","error":null,"metrics":{}}"#;
    let done = r#"{"id":"resp_p","status":"succeeded","metrics":{"input_token_count":9,"output_token_count":4,"predict_time":1.5}}"#;
    check(
        "api.replicate.com",
        &[
            ("POST /v1/models/meta/llama/predictions", starting, "-,-,-,-,- not_reported"),
            ("GET /v1/predictions/resp_p", starting, nothing),
            ("GET /v1/predictions/resp_p", done, "9,4,-,-,- ok"),
            ("GET /v1/predictions/resp_p", done, nothing),
        ],
    );
    let usage = r#""usage":{"total_input_tokens":5,"total_output_tokens":2}"#;
    check(
        "generativelanguage.googleapis.com",
        &[
            (
                "POST /v1beta/interactions",
                r#"{"id":"resp_i","status":"in_progress"}"#,
                "-,-,-,-,- not_reported",
            ),
            (
                "GET /v1beta/interactions/resp_i",
                &format!(r#"{{"id":"resp_i","status":"completed",{usage}}}"#),
                "5,2,-,-,- ok",
            ),
        ],
    );
}
