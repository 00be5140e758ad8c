//! What each dialect reads of answers in the providers' documented formats, as a table: made by us, with the oddities
//! that the formats allow.

mod alike;
mod anthropic;
mod clouds;
mod errors;
mod openai;
mod others;
mod sessions;

use meter::exchange::Exchange;

use crate::harness::{answer, call};

/// Every count that is known, by its name in short.
fn counts(exchange: &Exchange) -> String {
    let usage = &exchange.usage;
    let named = [
        ("in", usage.input),
        ("out", usage.output),
        ("read", usage.cache_read),
        ("write", usage.cache_creation),
        ("5m", usage.cache_creation_5m),
        ("1h", usage.cache_creation_1h),
        ("think", usage.reasoning),
        ("audio_in", usage.audio_input),
        ("audio_out", usage.audio_output),
        ("image_in", usage.image_input),
        ("image_out", usage.image_output),
        ("total", usage.total),
        ("searches", usage.web_search_requests),
    ];
    let named = named.into_iter().filter_map(|(name, count)| count.map(|count| format!("{name}={count}")));
    let details = usage.details.iter().map(|(detail, count)| format!("{}={count}", detail.as_str()));
    let cost = exchange.reported_cost.map(|cost| format!("cost={}", cost.0));
    let tier = exchange.service_tier.as_ref().map(|tier| format!("tier={tier}"));
    let reason = exchange.reason.map(|reason| format!("({})", reason.as_str()));
    named.chain(details).chain(cost).chain(tier).chain(reason).collect::<Vec<_>>().join(" ")
}

/// Whole, and cut into small pieces.
fn check_post(host: &str, target: &str, body: &str, fields: &str, reply: &str, expected: &str) {
    let sent =
        format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for cuts in [&[usize::MAX] as &[usize], &[1], &[13, 1, 2]] {
        let outcome = call(host, sent.as_bytes(), &answer(200, fields, reply.as_bytes()), cuts);
        assert_eq!(counts(outcome.one()), expected, "{host}{target}: {reply}");
    }
}

fn check(host: &str, target: &str, reply: &str, expected: &str) {
    check_post(host, target, "{}", "", reply, expected);
}

/// Events of a stream.
fn check_events(host: &str, target: &str, events: &[&str], expected: &str) {
    for (before, end) in
        [("data: ", "\n\n"), ("data:", "\r\n\r\n"), (": PROCESSING\n\nid: 1\ndata: ", "\r\r")]
    {
        let stream: String = events.iter().map(|event| format!("{before}{event}{end}")).collect();
        check_post(
            host,
            target,
            r#"{"stream":true}"#,
            "Content-Type: text/event-stream\r\n",
            &stream,
            expected,
        );
    }
}

const CHAT: &str = "/v1/chat/completions";
