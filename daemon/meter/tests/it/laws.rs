//! Laws that hold for every input.

use std::io::Write;

use meter::exchange::Reason;
use meter::http::Header;
use meter::http::body::Decoder;
use meter::limits::{Budget, EXPANSION_FLOOR, EXPANSION_RATIO_MAX};
use meter::llm::json::{Paths, Scanner, Value, Visitor};
use meter::pipeline::Direction;
use proptest::prelude::*;

use crate::harness::{Driver, answer, call, chunked, post, tokens};

/// What must not be found anywhere.
const MARKER: &str = "x9q-marker-of-a-body-7zk";

fn stream() -> String {
    let delta = format!(
        "data: {{\"id\":\"c1\",\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\
         \"{MARKER} \\u00e9\\ud83d\\ude00 \\\"quoted\\\"\"}},\"finish_reason\":null}}],\"usage\":null}}\r\n\r\n"
    );
    format!(
        "\u{feff}: comment {MARKER}\r\n\r\n{}event: x\r\ndata: {{\"model\":\"gpt-4o-2024-08-06\",\"choices\":[],\
         \"usage\":\r\ndata: {{\"prompt_tokens\":12,\"completion_tokens\":34,\"total_tokens\":46,\
         \"prompt_tokens_details\":{{\"cached_tokens\":5.0}},\"completion_tokens_details\":{{\"reasoning_tokens\":\"7\"\
         }}}}}}\r\n\r\ndata: [DONE]\r\n\r\n",
        delta.repeat(5)
    )
}

fn request() -> Vec<u8> {
    post(
        "/v1/chat/completions",
        &format!(
            "{{\"messages\":[{{\"content\":\"{MARKER} {{[\\\"\"}}],\"model\":\"gpt-4o\",\"stream\":true,\
             \"stream_options\":{{\"include_usage\":true}}}}"
        ),
    )
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn cut_anywhere_same_result(cuts in prop::collection::vec(1usize..400, 1..12), size in 1usize..900, packed: bool) {
        let plain = stream();
        let (fields, body) = match packed {
            true => ("Content-Encoding: gzip\r\n", gzip(plain.as_bytes())),
            false => ("", plain.into_bytes()),
        };
        let fields = format!("{fields}Content-Type: text/event-stream\r\n");
        let outcome = call("api.openai.com", &request(), &chunked(&fields, &body, size), &cuts);
        let exchange = outcome.one();
        prop_assert_eq!(tokens(exchange), "12,34,5,-,7");
        prop_assert_eq!(exchange.model.as_deref(), Some("gpt-4o-2024-08-06"));
        prop_assert_eq!(exchange.requested_model.as_deref(), Some("gpt-4o"));
        prop_assert_eq!(exchange.streaming, Some(true));
        prop_assert_eq!(exchange.reason, None);
        prop_assert_eq!(outcome.lost_bytes(), 0);
        prop_assert!(!outcome.printed.contains(MARKER), "a body shows itself");
        prop_assert!(!outcome.printed.contains("sk-test-1"), "a key shows itself");
    }

    #[test]
    fn nothing_of_a_body_shows_itself_wherever_it_breaks_off(upto in 0usize..3000, gap in 0u64..3000) {
        let mut driver = Driver::new("api.openai.com", false);
        let sent = request();
        driver.sent(&sent[..upto.min(sent.len())]);
        let received = chunked("", stream().as_bytes(), 333);
        driver.received(&received[..upto.min(received.len())]);
        let state = format!("{:?}", driver.pipeline);
        prop_assert!(!state.contains(MARKER), "a body shows itself in {}", state);
        driver.gap(Direction::Received, gap);
        driver.received(&received[upto.min(received.len())..]);
        driver.close();
        let outcome = driver.outcome();
        prop_assert!(!outcome.printed.contains(MARKER));
        prop_assert!(outcome.lost_bytes() <= driver.moved());
        for exchange in &outcome.exchanges {
            // A number is right or it is not there.
            let known = tokens(exchange);
            prop_assert!(known == "12,34,5,-,7" || known == "-,-,-,-,-", "{}", known);
            prop_assert!(exchange.usage.is_unknown() == exchange.reason.is_some());
        }
    }

    #[test]
    fn a_hole_never_gives_a_wrong_number(at in 0usize..1800, len in 1usize..900, streamed: bool) {
        let body = stream();
        let json = b"{\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{\"message\":{\"content\":\"hello\"}}],\"usage\":\
            {\"prompt_tokens\":12,\"completion_tokens\":34,\"prompt_tokens_details\":{\"cached_tokens\":5},\
            \"completion_tokens_details\":{\"reasoning_tokens\":7}}}";
        let received = if streamed { chunked("", body.as_bytes(), 1_000_000) } else { answer(200, "", json) };
        let (from, upto) = (at.min(received.len()), at.saturating_add(len).min(received.len()));
        let mut driver = Driver::new("api.openai.com", false);
        driver.sent(&request());
        driver.received(&received[..from]);
        driver.gap(Direction::Received, (upto - from) as u64);
        driver.received(&received[upto..]);
        driver.close();
        let outcome = driver.outcome();
        for exchange in &outcome.exchanges {
            let known = tokens(exchange);
            prop_assert!(known == "12,34,5,-,7" || known == "-,-,-,-,-", "{} with a hole {}..{}", known, from, upto);
        }
        if from < upto {
            prop_assert!(outcome.lost.iter().any(|(reason, bytes)| *reason == Reason::Gap && *bytes >= (upto - from) as u64));
        }
    }

    #[test]
    fn any_bytes_are_accounted_for(pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20), late: bool) {
        let mut driver = Driver::new("api.openai.com", late);
        for (sent, bytes) in &pieces {
            if *sent { driver.sent(bytes) } else { driver.received(bytes) }
        }
        driver.close();
        let outcome = driver.outcome();
        prop_assert!(outcome.lost_bytes() <= driver.moved());
    }

    #[test]
    fn any_bytes_decode_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..2000), which in 0usize..4) {
        let value: &[u8] = [b"gzip".as_slice(), b"deflate", b"br", b"zstd"][which];
        let mut decoder = Decoder::new(&[Header { name: "content-encoding", value }], &Budget::new());
        let mut made = 0u64;
        let _ = decoder.push(&bytes, &mut |part| made += part.len() as u64);
        prop_assert!(made <= EXPANSION_FLOOR + (bytes.len() as u64 + 1) * EXPANSION_RATIO_MAX + 8192);
    }

    #[test]
    fn json_agrees_with_a_full_parser(value in json(), cuts in prop::collection::vec(1usize..20, 1..6)) {
        let paths = Paths::new(&[("/a", 'a'), ("/b/a", 'b'), ("/b/*", 'c'), ("/*/a", 'd'), ("/c/b/a", 'e')]);
        let text = serde_json::to_string(&value).unwrap_or_default();
        let (mut scanner, mut seen) = (Scanner::default(), Seen::default());
        for piece in crate::harness::cut(text.as_bytes(), &cuts) {
            scanner.push(&paths, piece, &mut seen);
        }
        scanner.finish(&paths, &mut seen);
        let mut wanted = Vec::new();
        let mut want = |field: char, value: Option<&serde_json::Value>| wanted.extend(value.map(|value| (field, show(value))));
        want('a', value.pointer("/a"));
        want('b', value.pointer("/b/a"));
        for element in value.pointer("/b").and_then(|b| b.as_array()).into_iter().flatten() {
            want('c', Some(element));
        }
        for element in value.as_array().into_iter().flatten() {
            want('d', element.pointer("/a"));
        }
        want('e', value.pointer("/c/b/a"));
        wanted.sort();
        seen.0.sort();
        prop_assert_eq!(seen.0, wanted, "{}", text);
    }
}

/// Values as text.
#[derive(Default)]
struct Seen(Vec<(char, String)>);

impl Visitor<char> for Seen {
    fn value(&mut self, field: char, value: Value<'_>) {
        self.0.push((
            field,
            match value {
                Value::Null => "null".to_owned(),
                Value::Bool(bool) => bool.to_string(),
                Value::Number(text) => String::from_utf8_lossy(text).into_owned(),
                Value::Text { bytes, .. } => format!("\"{}", String::from_utf8_lossy(bytes)),
                Value::Object => "{".to_owned(),
                Value::Array => "[".to_owned(),
            },
        ));
    }
}

fn show(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => format!("\"{text}"),
        serde_json::Value::Object(_) => "{".to_owned(),
        serde_json::Value::Array(_) => "[".to_owned(),
        other => other.to_string(),
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[ -~éß😀\\\\\"\n\t]{0,20}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[abcd]", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn a_bomb_is_given_up() {
    let zeros = vec![0; 64 << 20];
    let twice = gzip(&gzip(&zeros));
    let mut decoder =
        Decoder::new(&[Header { name: "content-encoding", value: b"gzip, gzip" }], &Budget::new());
    let mut made = 0u64;
    let result = decoder.push(&twice, &mut |part| made += part.len() as u64);
    assert_eq!(result, Err(Reason::LimitReached));
    assert!(made < 80 << 20, "{made}");
}
