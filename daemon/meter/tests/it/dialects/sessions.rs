//! What is spoken over WebSockets, event streams in both directions and gRPC.

use meter::pipeline::Direction::Received;

use super::counts;
use crate::answers;
use crate::grpc::{bytes, message, number};
use crate::harness::{Driver, call};
use crate::http2::{PREFACE, block, frame};
use crate::websocket::frame_bytes;

/// The last answer of a session in which the server says this.
fn check(host: &str, target: &str, said: &[&str], expected: &str) {
    let fields = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    let mut received = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n").into_bytes();
    said.iter().for_each(|text| received.extend(frame_bytes(Received, 0x81, text.as_bytes())));
    for cuts in [usize::MAX, 1, 11] {
        let outcome = call(host, request.as_bytes(), &received, &[cuts]);
        let last = outcome.exchanges.last().expect("an answer");
        assert_eq!(counts(last), expected, "{host}: {said:?}");
    }
}

#[test]
fn answers_of_sessions() {
    let openai = "/v1/realtime?model=gpt-realtime";
    check(
        "api.openai.com",
        openai,
        &[
            r#"{"type":"response.done","response":{"usage":{"total_tokens":253,"input_tokens":132,"output_tokens":121,"input_token_details":{"text_tokens":107,"audio_tokens":13,"image_tokens":12,"cached_tokens":64,"cached_tokens_details":{"text_tokens":40,"audio_tokens":20,"image_tokens":4}},"output_token_details":{"text_tokens":30,"audio_tokens":91}}}}"#,
        ],
        "in=132 out=121 read=64 audio_in=13 audio_out=91 image_in=12 total=253 text_input_tokens=107 \
         cached_text_input_tokens=40 cached_audio_input_tokens=20 cached_image_input_tokens=4 text_output_tokens=30",
    );
    check(
        "api.openai.com",
        openai,
        &[
            r#"{"type":"conversation.item.input_audio_transcription.completed","usage":{"type":"duration","seconds":2.5}}"#,
        ],
        "audio_input_ms=2500",
    );
    // Responses that a Live session has made, whichever stands first: the event or its envelope's kind.
    let created =
        r#"{"event":{"type":"response.created","response":{"id":"r","usage":null}},"type":"response.event"}"#;
    for done in [
        r#"{"type":"response.event","event":{"type":"response.completed","response":{"status":"completed","usage":{"input_tokens":9,"output_tokens":4}}}}"#,
        r#"{"event":{"response":{"usage":{"input_tokens":9,"output_tokens":4},"status":"completed"},"type":"response.completed"},"type":"response.event"}"#,
    ] {
        check("api.openai.com", "/v1/live/sessions", &[created, done], "in=9 out=4");
    }
    check(
        "api.x.ai",
        "/v1/realtime",
        &[
            r#"{"type":"response.done","response":{"usage":{}},"usage":{"input_tokens":156,"input_token_details":{"text_tokens":10,"audio_tokens":146,"grok_tokens":0},"output_tokens":185,"output_token_details":{"text_tokens":15,"audio_tokens":170},"total_tokens":341,"output_audio_seconds":3.38,"billable_audio_seconds":5}}"#,
        ],
        "in=156 out=185 audio_in=146 audio_out=170 total=341 text_input_tokens=10 text_output_tokens=15 \
         audio_output_ms=3380 billable_audio_ms=5000",
    );
    check(
        "us-central1-aiplatform.googleapis.com",
        "/ws/google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent",
        &[
            r#"{"usageMetadata":{"promptTokenCount":9,"responseTokenCount":4,"totalTokenCount":13,"trafficType":"ON_DEMAND","responseTokensDetails":[{"modality":"AUDIO","tokenCount":4}]}}"#,
        ],
        "in=9 out=4 audio_out=4 total=13 tier=ON_DEMAND",
    );
}

/// Source: "Handling output events with the bidirectional API", Amazon Nova: each event has the totals so far.
#[test]
fn conversations_with_nova() {
    let event = |input: u64, speech: u64, output: u64| {
        format!(
            r#"{{"event":{{"usageEvent":{{"details":{{"delta":{{"input":{{"speechTokens":7,"textTokens":7}}}},"total":{{"input":{{"speechTokens":{speech},"textTokens":3}},"output":{{"speechTokens":{output},"textTokens":0}}}}}},"totalInputTokens":{input},"totalOutputTokens":{output},"totalTokens":{}}}}}}}"#,
            input + output
        )
    };
    let end = r#"{"event":{"completionEnd":{"stopReason":"END_TURN"}}}"#;
    let chunk =
        |json: &str| answers::message("chunk", &format!(r#"{{"bytes":"{}"}}"#, base64(json.as_bytes())));
    let body = [chunk(&event(13, 10, 0)), chunk(&event(30, 27, 41)), chunk(end)].concat();
    let request = "POST /model/amazon.nova-sonic-v1%3A0/invoke-with-bidirectional-stream HTTP/1.1\r\nHost: \
                   bedrock-runtime.us-east-1.amazonaws.com\r\nContent-Length: 2\r\n\r\n{}";
    for size in [1 << 20, 17] {
        let received =
            crate::harness::chunked("Content-Type: application/vnd.amazon.eventstream\r\n", &body, size);
        let outcome = call("", request.as_bytes(), &received, &[usize::MAX]);
        assert_eq!(counts(outcome.one()), "in=30 out=41 audio_in=27 audio_out=41 total=71");
        assert_eq!(outcome.one().finish_reasons.as_slice(), ["END_TURN"]);
    }
}

/// With padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let bits =
            three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let digit = |at: usize| char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]);
        (0..4).map(move |at| if at <= three.len() { digit(at) } else { '=' }).collect::<Vec<char>>()
    };
    bytes.chunks(3).flat_map(group).collect()
}

/// Methods of xAI's services: `SamplingUsage` is in another place in each.
#[test]
fn methods_of_xai() {
    let usage = [number(1, 4), number(2, 9), number(3, 13), number(7, 5), number(8, 2)].concat();
    let answer = |usage_field| [bytes(6, b"grok-4"), bytes(usage_field, &usage)].concat();
    let read = "in=9 out=4 read=5 total=13 sources=2";
    for (path, reply, expected) in [
        ("/xai_api.Chat/GetCompletion", answer(9), read),
        ("/xai_api.Chat/GetDeferredCompletion", [bytes(1, &answer(9)), number(2, 1)].concat(), read),
        // Not ready yet.
        ("/xai_api.Chat/GetDeferredCompletion", number(2, 3), "(not_reported)"),
        (
            "/xai_api.Image/GenerateImage",
            [
                bytes(1, &bytes(1, b"x")),
                bytes(1, &bytes(1, b"y")),
                bytes(2, b"grok-imagine"),
                bytes(3, &usage),
            ]
            .concat(),
            "in=9 out=4 read=5 total=13 images=2 sources=2",
        ),
    ] {
        let mut driver = Driver::new("api.x.ai", false);
        let head = [(":method", "POST"), (":path", path), ("content-type", "application/grpc")];
        driver
            .sent(&[PREFACE, &frame(1, 4, 1, &block(&head)), &frame(0, 1, 1, &message(false, b""))].concat());
        let head = [(":status", "200"), ("content-type", "application/grpc")];
        let trailers = frame(1, 5, 1, &block(&[("grpc-status", "0")]));
        let body = frame(0, 0, 1, &message(false, &reply));
        driver.received(&[frame(1, 4, 1, &block(&head)), body, trailers].concat());
        driver.close();
        assert_eq!(counts(driver.outcome().one()), expected, "{path}");
    }
}
