//! What the dialects read, as a table: answers made by us in the providers' formats.

use std::io::Write;

use meter::exchange::{Exchange, Reason, ToolUse};

use crate::harness::{answer, call, chunked, tokens};

struct Case {
    name: &'static str,
    host: &'static str,
    target: &'static str,
    body: &'static str,
    status: u16,
    fields: &'static str,
    answer: &'static str,
    /// `operation model tokens reason`
    expected: &'static str,
}

const CHAT: Case = Case {
    name: "",
    host: "api.openai.com",
    target: "/v1/chat/completions",
    body: "{\"model\":\"asked\"}",
    status: 200,
    fields: "Content-Type: application/json\r\n",
    answer: "",
    expected: "",
};
const RESPONSES: Case = Case { target: "/v1/responses", ..CHAT };
const MESSAGES: Case = Case { host: "api.anthropic.com", target: "/v1/messages?beta=true", ..CHAT };
const SSE: &str = "Content-Type: text/event-stream\r\n";

const CASES: &[Case] = &[
    Case {
        name: "chat",
        answer: r#"{"id":"c","model":"served","choices":[{"message":{"content":"a","tool_calls":[{"function":{"name":"t"}}]},"finish_reason":"stop"}],"service_tier":"default","usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":2}}}"#,
        expected: "chat served 10,5,4,-,2 ok",
        ..CHAT
    },
    Case {
        name: "usage as floats and text, duplicate keys, nulls",
        answer: r#" {"usage":{"prompt_tokens":1},"model":"served","usage":{"prompt_tokens":10.0,"completion_tokens":"5","total_tokens":1.5e1,"prompt_tokens":11,"prompt_tokens":null}}"#,
        expected: "chat served 11,5,-,-,- ok",
        ..CHAT
    },
    Case {
        name: "reasoning on top, by the provider's own total",
        host: "api.x.ai",
        answer: r#"{"model":"served","usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":35,"completion_tokens_details":{"reasoning_tokens":20}}}"#,
        expected: "chat served 10,25,-,-,20 ok",
        ..CHAT
    },
    Case {
        name: "a stream whose usage was not asked for",
        body: r#"{"model":"asked","stream":true}"#,
        fields: SSE,
        answer: "data: {\"model\":\"served\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: [DONE]\n\n",
        expected: "chat served -,-,-,-,- stream_usage_not_requested",
        ..CHAT
    },
    Case {
        name: "usage in every chunk: the last counts; no [DONE]",
        host: "api.perplexity.ai",
        target: "/chat/completions",
        fields: SSE,
        answer: "data: {\"model\":\"served\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"reasoning_tokens\":1}}\r\n\r\ndata: {\"model\":\"served\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":9}}\r\n\r\n",
        expected: "chat served 1,9,-,-,- ok",
        ..CHAT
    },
    Case {
        name: "the same usage twice",
        host: "api.groq.com",
        target: "/openai/v1/chat/completions",
        fields: SSE,
        answer: "data: {\"model\":\"served\",\"x_groq\":{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
        expected: "chat served 7,2,-,-,- ok",
        ..CHAT
    },
    Case {
        name: "events under application/json, comments, no last blank line",
        answer: ": PROCESSING\n\ndata:{\"model\":\"served\"}\n\n: x\ndata: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}",
        expected: "chat served 3,4,-,-,- ok",
        ..CHAT
    },
    Case {
        name: "an error under text/event-stream",
        status: 404,
        fields: SSE,
        answer: r#"{"error":{"message":"secret words","type":"invalid_request_error","code":"model_not_found"}}"#,
        expected: "chat - -,-,-,-,- not_reported",
        ..CHAT
    },
    Case {
        name: "deployment in the path",
        host: "res.openai.azure.com",
        target: "//openai/deployments/my%2Dgpt/chat/completions?api-version=1",
        body: "{}",
        fields: SSE,
        answer: "data: {\"choices\":[],\"model\":\"\",\"prompt_filter_results\":[]}\n\ndata: {\"model\":\"served\",\"choices\":[{}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n",
        expected: "chat served 3,4,-,-,- ok",
        ..CHAT
    },
    Case {
        name: "responses",
        answer: r#"{"id":"r","status":"completed","model":"served","output":[{"type":"function_call","name":"t"}],"usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":3,"cache_write_tokens":2},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":4},"total_tokens":15}}"#,
        expected: "chat served 10,5,3,2,4 ok",
        ..RESPONSES
    },
    Case {
        name: "responses, streamed",
        fields: SSE,
        answer: "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"served\",\"status\":\"in_progress\",\"usage\":null}}\n\nevent: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"served\",\"status\":\"completed\",\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\n",
        expected: "chat served 1,2,-,-,- ok",
        ..RESPONSES
    },
    Case {
        name: "counting tokens is no inference",
        target: "/v1/responses/input_tokens",
        answer: r#"{"input_tokens":10,"usage":{"input_tokens":10}}"#,
        expected: "count_tokens - -,-,-,-,- not_inference",
        ..CHAT
    },
    Case {
        name: "messages",
        answer: r#"{"model":"served","type":"message","content":[{"type":"tool_use","name":"t"}],"stop_reason":"tool_use","usage":{"input_tokens":3,"cache_creation_input_tokens":20,"cache_read_input_tokens":100,"cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":0},"output_tokens":7,"service_tier":"standard"}}"#,
        expected: "chat served 123,7,100,20,- ok",
        ..MESSAGES
    },
    Case {
        name: "messages, streamed: cumulative, last value of each count",
        fields: SSE,
        answer: "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"served\",\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":30,\"output_tokens\":9}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        expected: "chat served 35,9,5,-,- ok",
        ..MESSAGES
    },
    Case {
        name: "an error after a good status",
        fields: SSE,
        answer: "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"served\"}}\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"secret words\"}}\n\n",
        expected: "chat served -,-,-,-,- not_reported",
        ..MESSAGES
    },
    Case {
        name: "counting tokens of messages",
        target: "/v1/messages/count_tokens",
        answer: r#"{"input_tokens":10}"#,
        expected: "count_tokens - -,-,-,-,- not_inference",
        ..MESSAGES
    },
];

fn summary(exchange: &Exchange) -> String {
    let reason = exchange.reason.map_or("ok", Reason::as_str);
    format!(
        "{} {} {} {reason}",
        exchange.operation,
        exchange.model.as_deref().unwrap_or("-"),
        tokens(exchange)
    )
}

#[test]
fn answers_are_read() {
    for case in CASES {
        let sent = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{}",
            case.target,
            case.host,
            case.body.len(),
            case.body
        );
        let whole = answer(case.status, case.fields, case.answer.as_bytes());
        for cuts in [&[usize::MAX] as &[usize], &[1], &[7, 1, 40]] {
            let outcome = call(case.host, sent.as_bytes(), &whole, cuts);
            let exchange = outcome.one();
            assert_eq!(summary(exchange), case.expected, "{}", case.name);
            assert!(!outcome.printed.contains("secret words"), "{}: an error's message is kept", case.name);
            let streamed = case.answer.contains("data:") || case.fields == SSE;
            assert_eq!(exchange.streaming, Some(streamed), "{}", case.name);
        }
    }
}

#[test]
fn details_are_kept() {
    let case = &CASES[0];
    let sent =
        format!("POST {} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{}", case.target, case.body.len(), case.body);
    let outcome = call(case.host, sent.as_bytes(), &answer(200, case.fields, case.answer.as_bytes()), &[9]);
    let exchange = outcome.one();
    assert_eq!(exchange.tools, [ToolUse { name: "t".into(), calls: Some(1) }]);
    assert_eq!(exchange.finish_reasons.as_slice(), ["stop"]);
    assert_eq!(exchange.service_tier.as_deref(), Some("default"));
    assert_eq!(exchange.dialect, Some("openai_chat"));
    assert_eq!(exchange.requested_model.as_deref(), Some("asked"));
}

/// The tier decides the price: it is the answer's, and fast mode stands above it.
#[test]
fn the_tier_is_what_was_served() {
    for (speed, expected) in
        [("", "standard"), (",\"speed\":\"standard\"", "standard"), (",\"speed\":\"fast\"", "fast")]
    {
        let body = format!(
            "{{\"model\":\"served\",\"usage\":{{\"input_tokens\":1,\"output_tokens\":2,\"service_tier\":\"standard\"{speed}}}}}"
        );
        let sent = format!("POST {} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}", MESSAGES.target);
        let outcome =
            call(MESSAGES.host, sent.as_bytes(), &answer(200, MESSAGES.fields, body.as_bytes()), &[9]);
        assert_eq!(outcome.one().service_tier.as_deref(), Some(expected), "{speed}");
    }
}

#[test]
fn the_first_token_is_the_first_event_with_output() {
    let mut driver = crate::harness::Driver::new("api.openai.com", false);
    driver.sent(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
    let stream = chunked(
        "",
        b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: [DONE]\n\n",
        10,
    );
    for piece in stream.chunks(16) {
        driver.received(piece);
    }
    driver.close();
    let outcome = driver.outcome();
    let timing = outcome.one().timing;
    let order =
        [Some(timing.started), timing.first_byte, timing.first_token, timing.last_token, timing.ended];
    assert!(order.iter().all(Option::is_some), "{timing:?}");
    assert!(order.is_sorted() && timing.first_token < timing.last_token, "{timing:?}");
}

#[test]
fn content_codings_are_undone() {
    // Longer than any buffer, and hard to compress.
    let numbers: String =
        (0..40_000u64).map(|n| format!("{},", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let plain = CASES[0].answer.replacen('{', &format!("{{\"data\":[{numbers}0],"), 1);
    let plain = plain.as_bytes();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
    };
    let zlib = |bytes: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
    };
    let raw = |bytes: &[u8]| {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap_or_default();
    // A frame that is passed over (RFC 8878, 3.1.2), and blocks that are not compressed (RFC 7932, 9.2).
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'x', b'y', b'z'];
    let stored = |bytes: &[u8]| {
        let mut coded: Vec<u8> = Vec::new();
        for (at, block) in bytes.chunks(1 << 16).enumerate() {
            // The stream begins with a bit for its window.
            let head = (((1 << 16) | (block.len() as u32 - 1)) << 3) << u32::from(at == 0);
            coded.extend(&head.to_le_bytes()[..3]);
            coded.extend(block);
        }
        coded.push(3);
        coded
    };
    let mut named = vec![0x1f, 0x8b, 8, 8 | 4 | 16 | 2, 0, 0, 0, 0, 0, 3, 2, 0, 9, 9];
    named.extend_from_slice(b"name\0comment\0\x01\x02");
    named.extend_from_slice(&gzip(plain)[10..]);
    let sent = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    for (coding, body) in [
        ("gzip", gzip(plain)),
        ("x-gzip", named),
        ("GZIP", [gzip(&plain[..40]), gzip(&plain[40..])].concat()),
        ("gzip", [gzip(plain), vec![0; 20]].concat()),
        ("deflate", zlib(plain)),
        ("deflate", raw(plain)),
        ("br", stored(plain)),
        ("zstd", zstd(plain)),
        ("zstd", [zstd(&plain[..40]), skipped.to_vec(), zstd(&plain[40..]), skipped.to_vec()].concat()),
        ("gzip, zstd", zstd(&gzip(plain))),
        ("gzip\r\ncontent-encoding: zstd", zstd(&gzip(plain))),
        ("gzip,\r\n\tzstd", zstd(&gzip(plain))),
        ("zstd,deflate , identity", raw(&zstd(plain))),
    ] {
        for cuts in [&[usize::MAX] as &[usize], &[1430, 1, 90], &[16_384]] {
            let fields = format!("Content-Encoding: {coding}\r\n");
            let outcome = call("api.openai.com", sent, &answer(200, &fields, &body), cuts);
            assert_eq!(summary(outcome.one()), CASES[0].expected, "{coding}");
        }
    }
    // Coded for the way, and in chunks or until the connection ends.
    for (fields, body) in [
        ("Transfer-Encoding: gzip, chunked\r\n", chunked("", &gzip(plain), 3000)),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            chunked("", &gzip(plain), 3000),
        ),
        (
            "Content-Encoding: zstd\r\nTransfer-Encoding: deflate, chunked\r\n",
            chunked("", &zlib(&zstd(plain)), 3000),
        ),
        ("Transfer-Encoding: gzip\r\nContent-Length: 5\r\n", [b"\r\n\r\n", gzip(plain).as_slice()].concat()),
    ] {
        let body_at = body.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        let received = [format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes(), &body[body_at..]].concat();
        let outcome = call("api.openai.com", sent, &received, &[777]);
        assert_eq!(summary(outcome.one()), CASES[0].expected, "{fields}");
    }
    for (coding, body, reason) in [
        ("gzip", plain.to_vec(), Reason::Undecodable),
        ("lzma", plain.to_vec(), Reason::Undecodable),
        ("gzip, gzip, gzip, gzip", plain.to_vec(), Reason::LimitReached),
        ("br", vec![0xff; 40], Reason::Undecodable),
        ("zstd", vec![0xff; 40], Reason::Undecodable),
    ] {
        let fields = format!("Content-Encoding: {coding}\r\n");
        let outcome = call("api.openai.com", sent, &answer(200, &fields, &body), &[9]);
        assert_eq!(outcome.one().reason, Some(reason), "{coding}");
    }
}

/// A message of an AWS event stream.
pub(crate) fn message(name: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (key, value) in [(":message-type", "event"), (":event-type", name)] {
        headers.push(key.len() as u8);
        headers.extend_from_slice(key.as_bytes());
        headers.extend_from_slice(&[7, 0, value.len() as u8]);
        headers.extend_from_slice(value.as_bytes());
    }
    let checksum = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_be_bytes()
    };
    let total = (12 + headers.len() + payload.len() + 4) as u32;
    let mut bytes = total.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&checksum(&bytes.clone()));
    bytes.extend_from_slice(&headers);
    bytes.extend_from_slice(payload.as_bytes());
    bytes.extend_from_slice(&checksum(&bytes.clone()));
    bytes
}

#[test]
fn event_streams_of_bedrock_are_read() {
    let host = "bedrock-runtime.us-east-1.amazonaws.com";
    let converse = [
        message("contentBlockDelta", r#"{"delta":{"text":"x"},"p":"abc"}"#),
        message("messageStop", r#"{"stopReason":"end_turn"}"#),
        message(
            "metadata",
            r#"{"usage":{"inputTokens":5,"outputTokens":2,"totalTokens":10,"cacheReadInputTokens":3}}"#,
        ),
    ]
    .concat();
    // {"type":"message_start","message":{"model":"c","usage":{"input_tokens":4}}} and so on, in base64.
    let invoke = [
        message("chunk", r#"{"bytes":"eyJ0eXBlIjoibWVzc2FnZV9zdGFydCIsIm1lc3NhZ2UiOnsibW9kZWwiOiJjIiwidXNhZ2UiOnsiaW5wdXRfdG9rZW5zIjo0fX19","p":"x"}"#),
        message("chunk", r#"{"bytes":"eyJ0eXBlIjoibWVzc2FnZV9kZWx0YSIsInVzYWdlIjp7Im91dHB1dF90b2tlbnMiOjl9fQ=="}"#),
        message("chunk", r#"{"p":"y","bytes":"eyJ0eXBlIjoibWVzc2FnZV9zdG9wIiwiYW1hem9uLWJlZHJvY2staW52b2NhdGlvbk1ldHJpY3MiOnsiaW5wdXRUb2tlbkNvdW50Ijo0LCJvdXRwdXRUb2tlbkNvdW50IjoxMX19"}"#),
    ]
    .concat();
    let mut damaged = converse.clone();
    if let Some(byte) = damaged.last_mut() {
        *byte ^= 1;
    }
    for (path, body, expected) in [
        ("/model/us.amazon.nova-micro-v1%3A0/converse-stream", converse, "chat - 8,2,3,-,- ok"),
        (
            "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke-with-response-stream",
            invoke,
            "chat c 4,9,-,-,- ok",
        ),
        ("/model/us.amazon.nova-micro-v1%3A0/converse-stream", damaged, "chat - -,-,-,-,- gap"),
    ] {
        let sent = format!("POST {path} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}");
        for cuts in [&[usize::MAX] as &[usize], &[1], &[13, 2]] {
            let outcome = call(host, sent.as_bytes(), &answer(200, "", &body), cuts);
            assert_eq!(summary(outcome.one()), expected, "{path}");
            assert_eq!(outcome.one().streaming, Some(!expected.ends_with("gap")));
        }
    }
}

#[test]
fn other_dialects_are_read() {
    for (host, target, body, expected) in [
        (
            "generativelanguage.googleapis.com",
            "/v1beta/models/gemini-2:generateContent?key=k",
            r#"{"modelVersion":"g","usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":3,"thoughtsTokenCount":4,"toolUsePromptTokenCount":5,"cachedContentTokenCount":2,"totalTokenCount":22}}"#,
            "generate_content g 15,7,2,-,4 ok",
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/models/gemini-2:streamGenerateContent",
            "[{\"usageMetadata\":{\"promptTokenCount\":10}}\r\n,\r\n{\"modelVersion\":\"g\",\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":3}}]",
            "generate_content g 10,3,-,-,- ok",
        ),
        (
            "us-central1-aiplatform.googleapis.com",
            "/v1/projects/p/locations/l/publishers/google/models/e:predict",
            r#"{"predictions":[{"embeddings":{"statistics":{"token_count":4}}},{"embeddings":{"statistics":{"token_count":5}}}]}"#,
            "predict - 9,-,-,-,- ok",
        ),
        (
            "api.openai.com",
            "/v1/embeddings",
            r#"{"model":"e","data":[{"embedding":[0.1,0.2]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            "embeddings e 8,-,-,-,- ok",
        ),
        (
            "api.cohere.com",
            "/v2/chat",
            r#"{"usage":{"billed_units":{"input_tokens":5.0},"tokens":{"input_tokens":500.0,"output_tokens":7.0},"cached_tokens":3}}"#,
            "chat - 500,7,3,-,- ok",
        ),
        (
            "localhost",
            "/api/chat",
            "{\"model\":\"q\",\"message\":{\"content\":\"a\"},\"done\":false}\n{\"model\":\"q\",\"done\":true,\"prompt_eval_count\":6,\"eval_count\":2}\n",
            "chat q 6,2,-,-,- ok",
        ),
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            "/model/amazon.nova-micro-v1:0/invoke",
            r#"{"usage":{"inputTokens":1,"outputTokens":2,"cacheReadInputTokenCount":3,"cacheWriteInputTokenCount":4}}"#,
            "chat - 8,2,3,4,- ok",
        ),
    ] {
        let sent = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{{}}");
        for cuts in [&[usize::MAX] as &[usize], &[1], &[13, 2]] {
            let host = if host == "localhost" { "" } else { host };
            let outcome = call(host, sent.as_bytes(), &answer(200, "", body.as_bytes()), cuts);
            assert_eq!(summary(outcome.one()), expected, "{target}");
        }
    }
}
