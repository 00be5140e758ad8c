//! A number is right or it is not there: answers of every dialect that break off, lose their middle or lose their tail.

use meter::exchange::{Exchange, Reason, Usage};
use meter::pipeline::Direction;
use proptest::prelude::*;

use crate::harness::{Driver, chunked, post};

/// What an answer says: counts that are consistent, and text that looks like usage.
#[derive(Clone, Debug)]
struct Said {
    input: u64,
    output: u64,
    cached: u64,
    text: String,
    parts: usize,
}

fn said() -> impl Strategy<Value = Said> {
    let word = prop_oneof![
        Just("\\\"usage\\\":{\\\"prompt_tokens\\\":1,\\\"output_tokens\\\":2}".to_owned()),
        Just("data: [DONE]\\n\\nevent: message_stop\\n\\n".to_owned()),
        Just("}]}\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\n\\r\\n".to_owned()),
        "[ -!#-\\[\\]-~]{0,40}",
    ];
    (10u64..100_000, 10u64..10_000, 0u64..10, word, 1usize..6)
        .prop_map(|(input, output, cached, text, parts)| Said { input, output, cached, text, parts })
}

/// A dialect's answer in one of its forms.
struct Form {
    name: &'static str,
    host: &'static str,
    target: &'static str,
    /// Body of the answer.
    body: fn(&Said) -> Vec<u8>,
}

const CHAT: Form = Form {
    name: "chat",
    host: "api.openai.com",
    target: "/v1/chat/completions",
    body: |said| {
        format!(
            r#"{{"model":"m","choices":[{{"message":{{"content":"{}"}},"finish_reason":"stop"}}],"usage":{}}}"#,
            said.text,
            chat_usage(said)
        )
        .into_bytes()
    },
};

const FORMS: &[Form] = &[
    CHAT,
    Form {
        name: "chat, streamed",
        body: |said| {
            let usage = format!(r#"{{"model":"m","choices":[],"usage":{}}}"#, chat_usage(said));
            events(
                said,
                |text| (String::new(), chat_delta(text, "null")),
                &[("", usage), ("", "[DONE]".into())],
            )
        },
        ..CHAT
    },
    Form {
        name: "chat, cumulative usage in every event",
        host: "api.perplexity.ai",
        target: "/chat/completions",
        body: |said| {
            let interim = |text: &str| {
                (String::new(), chat_delta(text, r#"{"prompt_tokens":1,"completion_tokens":1}"#))
            };
            events(said, interim, &[("", chat_delta("", &chat_usage(said))), ("", "[DONE]".into())])
        },
    },
    Form {
        name: "responses",
        target: "/v1/responses",
        body: |said| {
            format!(
                r#"{{"model":"m","status":"completed","output":[{{"content":[{{"text":"{}"}}]}}],"usage":{}}}"#,
                said.text,
                plain_usage(said)
            )
            .into_bytes()
        },
        ..CHAT
    },
    Form {
        name: "responses, streamed",
        target: "/v1/responses",
        body: |said| {
            let delta = |text: &str| {
                let kind = "response.output_text.delta";
                (kind.to_owned(), format!(r#"{{"type":"{kind}","delta":"{text}"}}"#))
            };
            let kind = "response.completed";
            let last =
                format!(r#"{{"type":"{kind}","response":{{"model":"m","usage":{}}}}}"#, plain_usage(said));
            events(said, delta, &[(kind, last)])
        },
        ..CHAT
    },
    Form {
        name: "messages",
        host: "api.anthropic.com",
        target: "/v1/messages",
        body: |said| {
            format!(
                r#"{{"model":"m","content":[{{"text":"{}"}}],"stop_reason":"end_turn","usage":{}}}"#,
                said.text,
                messages_usage(said, said.output)
            )
            .into_bytes()
        },
    },
    Form {
        name: "messages, streamed",
        host: "api.anthropic.com",
        target: "/v1/messages",
        body: |said| {
            let mut body = event(
                "message_start",
                &format!(
                    r#"{{"type":"message_start","message":{{"model":"m","usage":{}}}}}"#,
                    messages_usage(said, 1)
                ),
            );
            let delta = |text: &str| {
                let kind = "content_block_delta";
                (kind.to_owned(), format!(r#"{{"type":"{kind}","delta":{{"text":"{text}"}}}}"#))
            };
            let last = format!(
                r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{{"output_tokens":{}}}}}"#,
                said.output
            );
            let stop = r#"{"type":"message_stop"}"#.to_owned();
            body.extend(events(said, delta, &[("message_delta", last), ("message_stop", stop)]));
            body
        },
    },
    Form {
        name: "generateContent",
        host: "generativelanguage.googleapis.com",
        target: "/v1beta/models/m:generateContent",
        body: |said| gemini(&said.text, &gemini_usage(said)).into_bytes(),
    },
    Form {
        name: "streamGenerateContent, events",
        host: "generativelanguage.googleapis.com",
        target: "/v1beta/models/m:streamGenerateContent?alt=sse",
        body: |said| {
            let interim = |text: &str| {
                (String::new(), gemini(text, r#"{"promptTokenCount":1,"candidatesTokenCount":1}"#))
            };
            events(said, interim, &[("", gemini("", &gemini_usage(said)))])
        },
    },
    Form {
        name: "streamGenerateContent, an array",
        host: "generativelanguage.googleapis.com",
        target: "/v1beta/models/m:streamGenerateContent",
        body: |said| {
            let interim = gemini(&said.text, r#"{"promptTokenCount":1,"candidatesTokenCount":1}"#);
            format!("[{},\n{}]", vec![interim; said.parts].join(",\n"), gemini("", &gemini_usage(said)))
                .into_bytes()
        },
    },
    Form {
        name: "converse",
        host: "bedrock-runtime.us-east-1.amazonaws.com",
        target: "/model/m/converse",
        body: |said| {
            format!(
                r#"{{"output":{{"message":{{"content":[{{"text":"{}"}}]}}}},"stopReason":"end_turn","usage":{}}}"#,
                said.text,
                converse_usage(said)
            )
            .into_bytes()
        },
    },
    Form {
        name: "converse-stream",
        host: "bedrock-runtime.us-east-1.amazonaws.com",
        target: "/model/m/converse-stream",
        body: |said| {
            let delta = message("contentBlockDelta", &format!(r#"{{"delta":{{"text":"{}"}}}}"#, said.text));
            let mut body = delta.repeat(said.parts);
            body.extend(message("messageStop", r#"{"stopReason":"end_turn"}"#));
            body.extend(message("metadata", &format!(r#"{{"usage":{}}}"#, converse_usage(said))));
            body
        },
    },
    Form {
        name: "cohere, streamed",
        host: "api.cohere.com",
        target: "/v2/chat",
        body: |said| {
            let delta = |text: &str| {
                let kind = "content-delta";
                let data =
                    format!(r#"{{"type":"{kind}","delta":{{"message":{{"content":{{"text":"{text}"}}}}}}}}"#);
                (kind.to_owned(), data)
            };
            let usage = format!(
                r#"{{"tokens":{{"input_tokens":{},"output_tokens":{}}},"cached_tokens":{}}}"#,
                said.input, said.output, said.cached
            );
            let last =
                format!(r#"{{"type":"message-end","delta":{{"finish_reason":"COMPLETE","usage":{usage}}}}}"#);
            events(said, delta, &[("message-end", last)])
        },
    },
    Form {
        name: "ollama, a document per line",
        host: "localhost:11434",
        target: "/api/chat",
        body: |said| {
            let part =
                format!("{{\"model\":\"m\",\"message\":{{\"content\":\"{}\"}},\"done\":false}}\n", said.text);
            let last = format!(
                "{{\"model\":\"m\",\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":{},\"eval_count\":{}}}\n",
                said.input, said.output
            );
            (part.repeat(said.parts) + &last).into_bytes()
        },
    },
    Form {
        name: "embeddings",
        target: "/v1/embeddings",
        body: |said| {
            let numbers = "0.25,".repeat(said.parts * 20);
            let usage = format!(r#"{{"prompt_tokens":{0},"total_tokens":{0}}}"#, said.input);
            format!(r#"{{"data":[{{"embedding":[{numbers}1]}}],"model":"m","usage":{usage}}}"#).into_bytes()
        },
        ..CHAT
    },
];

/// What happens to an answer. Positions are shares of its length, in thousandths.
#[derive(Clone, Debug)]
enum Damage {
    /// The client hangs up here.
    Disconnect(usize),
    /// These bytes are not seen.
    Hole(usize, usize),
    /// Nothing from here on is seen, although it travelled.
    Tail(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0usize..1_000).prop_map(Damage::Disconnect),
        (0usize..1_000, 1usize..500).prop_map(|(at, len)| Damage::Hole(at, len)),
        (0usize..1_000).prop_map(Damage::Tail),
    ]
}

/// How the answer's end is told.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunks,
    Close,
}

fn render(body: &[u8], framing: Framing) -> Vec<u8> {
    match framing {
        Framing::Length => {
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
        }
        Framing::Chunks => chunked("", body, 97),
        Framing::Close => [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", body].concat(),
    }
}

fn run(form: &Form, received: &[u8], damage: Option<&Damage>) -> Vec<Exchange> {
    let mut driver = Driver::new(form.host, false);
    let request = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
    driver.sent(&post(form.target, request));
    let place = |share: usize| received.len() * share / 1_000;
    match damage {
        None => driver.received(received),
        Some(Damage::Disconnect(at)) => driver.received(&received[..place(*at)]),
        Some(Damage::Hole(at, len)) => {
            let (from, upto) = (place(*at), place((at + len).min(1_000)));
            driver.received(&received[..from]);
            driver.gap(Direction::Received, (upto - from) as u64);
            driver.received(&received[upto..]);
        }
        Some(Damage::Tail(at)) => {
            driver.received(&received[..place(*at)]);
            driver.gap(Direction::Received, (received.len() - place(*at)) as u64);
        }
    }
    driver.close();
    driver.outcome().exchanges
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_answer_never_gives_a_wrong_number(
        said in said(),
        framing in prop_oneof![Just(Framing::Length), Just(Framing::Chunks), Just(Framing::Close)],
        damages in prop::collection::vec(damage(), 4),
    ) {
        for form in FORMS {
            let received = render(&(form.body)(&said), framing);
            let whole = run(form, &received, None);
            prop_assert_eq!(whole.len(), 1, "{}", form.name);
            let truth = whole[0].usage;
            // Without a terminal event or a length nobody knows whether a stream was whole.
            let certain = whole[0].reason.is_none();
            prop_assert!(certain || matches!(framing, Framing::Close), "{}: {:?}", form.name, whole[0].reason);
            if certain {
                prop_assert_eq!(truth.input, Some(said.input), "{}", form.name);
            }
            for damage in &damages {
                for exchange in run(form, &received, Some(damage)) {
                    let Exchange { usage, reason, status, .. } = exchange;
                    let right = usage == truth || usage == Usage::default();
                    prop_assert!(right, "{} {damage:?} {framing:?}: {usage:?}, not {truth:?}", form.name);
                    prop_assert_eq!(usage.is_unknown(), reason.is_some(), "{} {:?} {:?} {:?}", form.name, damage, usage, reason);
                    let honest = matches!(
                        reason,
                        None | Some(Reason::Gap | Reason::Interrupted | Reason::NoResponse | Reason::NotReported)
                    );
                    prop_assert!(honest, "{} {damage:?}: {reason:?}", form.name);
                    // That the provider reported nothing can only be said of what was seen to its end.
                    let cut = !matches!(damage, Damage::Hole(..)) && status.is_some() && !matches!(framing, Framing::Close);
                    prop_assert!(!cut || reason != Some(Reason::NotReported), "{} {damage:?}", form.name);
                }
            }
        }
    }
}

fn event(name: &str, data: &str) -> Vec<u8> {
    let name = if name.is_empty() { String::new() } else { format!("event: {name}\n") };
    format!("{name}data: {data}\n\n").into_bytes()
}

/// One event for every part of the text, then the last ones.
fn events(said: &Said, part: impl Fn(&str) -> (String, String), last: &[(&str, String)]) -> Vec<u8> {
    let (name, data) = part(&said.text);
    let mut body = event(&name, &data).repeat(said.parts);
    last.iter().for_each(|(name, data)| body.extend(event(name, data)));
    body
}

fn chat_delta(text: &str, usage: &str) -> String {
    format!(r#"{{"model":"m","choices":[{{"delta":{{"content":"{text}"}}}}],"usage":{usage}}}"#)
}

fn chat_usage(said: &Said) -> String {
    format!(
        r#"{{"prompt_tokens":{},"completion_tokens":{},"prompt_tokens_details":{{"cached_tokens":{}}}}}"#,
        said.input, said.output, said.cached
    )
}

fn plain_usage(said: &Said) -> String {
    format!(
        r#"{{"input_tokens":{},"output_tokens":{},"input_tokens_details":{{"cached_tokens":{}}}}}"#,
        said.input, said.output, said.cached
    )
}

/// Anthropic counts what was read from the cache apart.
fn messages_usage(said: &Said, output: u64) -> String {
    format!(
        r#"{{"input_tokens":{},"cache_read_input_tokens":{},"output_tokens":{output}}}"#,
        said.input - said.cached,
        said.cached
    )
}

fn converse_usage(said: &Said) -> String {
    format!(
        r#"{{"inputTokens":{},"outputTokens":{},"cacheReadInputTokens":{}}}"#,
        said.input - said.cached,
        said.output,
        said.cached
    )
}

fn gemini(text: &str, usage: &str) -> String {
    format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}}}],"usageMetadata":{usage},"modelVersion":"m"}}"#
    )
}

fn gemini_usage(said: &Said) -> String {
    format!(
        r#"{{"promptTokenCount":{},"candidatesTokenCount":{},"cachedContentTokenCount":{}}}"#,
        said.input, said.output, said.cached
    )
}

/// A message of an AWS event stream.
fn message(kind: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [(":message-type", "event"), (":event-type", kind)] {
        headers.push(u8::try_from(name.len()).unwrap_or(0));
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let word = |number: usize| u32::try_from(number).unwrap_or(0).to_be_bytes();
    let checksum = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_be_bytes()
    };
    let mut message = word(16 + headers.len() + payload.len()).to_vec();
    message.extend_from_slice(&word(headers.len()));
    message.extend_from_slice(&checksum(&message));
    message.extend_from_slice(&headers);
    message.extend_from_slice(payload.as_bytes());
    message.extend_from_slice(&checksum(&message));
    message
}
