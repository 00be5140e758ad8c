//! What answers say, in every form of every dialect.

use proptest::prelude::*;

use crate::grpc;

/// What an answer says: counts that are consistent, and text that looks like usage.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) input: u64,
    output: u64,
    cached: u64,
    text: String,
    parts: usize,
}

pub(super) fn said() -> impl Strategy<Value = Said> {
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
pub(super) struct Form {
    pub(super) name: &'static str,
    pub(super) host: &'static str,
    pub(super) target: &'static str,
    /// Body of the answer; of a WebSocket the server's messages, one a line.
    pub(super) body: fn(&Said) -> Vec<u8>,
    pub(super) wire: Wire,
    /// It reports what was used, and not what was counted before.
    pub(super) counts: bool,
}

/// What carries a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Http,
    Grpc,
    /// Messages of a WebSocket, deflated with windows that begin anew or that are kept, or not at all.
    Messages(Option<bool>),
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
    wire: Wire::Http,
    counts: true,
};

const LIVE: Form = Form {
    name: "live",
    host: "generativelanguage.googleapis.com",
    target: "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
    body: |said| {
        let part = format!(r#"{{"serverContent":{{"modelTurn":{{"parts":[{{"text":"{}"}}]}}}}}}"#, said.text);
        let usage = format!(
            r#"{{"promptTokenCount":{},"responseTokenCount":{},"cachedContentTokenCount":{}}}"#,
            said.input, said.output, said.cached
        );
        let mut messages = vec![r#"{"setupComplete":{}}"#.to_owned()];
        messages.extend(vec![part; said.parts]);
        messages.push(format!(r#"{{"serverContent":{{"turnComplete":true}},"usageMetadata":{usage}}}"#));
        messages.join("\n").into_bytes()
    },
    wire: Wire::Messages(None),
    counts: true,
};

const REALTIME: Form = Form {
    name: "realtime",
    host: "api.openai.com",
    target: "/v1/realtime",
    body: |said| {
        let delta = format!(r#"{{"type":"response.output_text.delta","delta":"{}"}}"#, said.text);
        let usage = plain_usage(said).replace("input_tokens_details", "input_token_details");
        let mut messages = vec![
            r#"{"type":"session.created","session":{"model":"m"}}"#.to_owned(),
            r#"{"type":"response.created","response":{"id":"r","usage":null}}"#.to_owned(),
        ];
        messages.extend(vec![delta; said.parts]);
        messages.push(format!(
            r#"{{"type":"response.done","response":{{"status":"completed","usage":{usage}}}}}"#
        ));
        messages.join("\n").into_bytes()
    },
    wire: Wire::Messages(None),
    counts: true,
};

/// InvokeModel of a vendor, streamed: JSON in base64 in JSON in messages.
const INVOKE: Form = Form {
    name: "invoke-with-response-stream of Anthropic",
    host: "bedrock-runtime.us-east-1.amazonaws.com",
    target: "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke-with-response-stream",
    body: |said| {
        let start = format!(
            r#"{{"type":"message_start","message":{{"model":"m","usage":{}}}}}"#,
            messages_usage(said, 1)
        );
        let delta = format!(r#"{{"type":"content_block_delta","delta":{{"text":"{}"}}}}"#, said.text);
        let last = format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{{"output_tokens":{}}}}}"#,
            said.output
        );
        let stop = format!(
            r#"{{"type":"message_stop","amazon-bedrock-invocationMetrics":{{"inputTokenCount":{},"outputTokenCount":{},"cacheReadInputTokenCount":{}}}}}"#,
            said.input - said.cached,
            said.output,
            said.cached
        );
        let mut body = chunk(&start);
        body.extend(chunk(&delta).repeat(said.parts));
        body.extend([chunk(&last), chunk(&stop)].concat());
        body
    },
    wire: Wire::Http,
    counts: true,
};

pub(super) const FORMS: &[Form] = &[
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
        ..CHAT
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
        ..CHAT
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
        ..CHAT
    },
    Form {
        name: "generateContent",
        host: "generativelanguage.googleapis.com",
        target: "/v1beta/models/m:generateContent",
        body: |said| gemini(&said.text, &gemini_usage(said)).into_bytes(),
        ..CHAT
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
        ..CHAT
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
        ..CHAT
    },
    Form {
        name: "interactions",
        host: "generativelanguage.googleapis.com",
        target: "/v1beta/interactions",
        body: |said| {
            let outputs = format!(r#"[{{"type":"text","text":"{}"}}]"#, said.text);
            format!(
                r#"{{"model":"m","status":"completed","outputs":{outputs},"usage":{}}}"#,
                interaction_usage(said)
            )
            .into_bytes()
        },
        ..CHAT
    },
    Form {
        name: "interactions, streamed",
        host: "generativelanguage.googleapis.com",
        target: "/v1beta/interactions",
        body: |said| {
            let delta = |text: &str| {
                let data =
                    format!(r#"{{"event_type":"content.delta","delta":{{"type":"text","text":"{text}"}}}}"#);
                ("content.delta".to_owned(), data)
            };
            let kind = "interaction.completed";
            let last = format!(
                r#"{{"event_type":"{kind}","interaction":{{"model":"m","status":"completed","usage":{}}}}}"#,
                interaction_usage(said)
            );
            events(said, delta, &[(kind, last), ("done", "[DONE]".into())])
        },
        ..CHAT
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
        ..CHAT
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
        ..CHAT
    },
    INVOKE,
    Form {
        name: "invoke-with-response-stream of Nova",
        target: "/model/amazon.nova-lite-v1%3A0/invoke-with-response-stream",
        body: |said| {
            let delta = format!(r#"{{"contentBlockDelta":{{"delta":{{"text":"{}"}}}}}}"#, said.text);
            let last = format!(r#"{{"metadata":{{"usage":{}}}}}"#, converse_usage(said));
            [
                chunk(&delta).repeat(said.parts),
                chunk(r#"{"messageStop":{"stopReason":"end_turn"}}"#),
                chunk(&last),
            ]
            .concat()
        },
        ..INVOKE
    },
    Form {
        name: "xAI over gRPC, streamed",
        host: "api.x.ai",
        target: "/xai_api.Chat/GetCompletionChunk",
        body: |said| {
            let text = said.text.as_bytes();
            let chunk = |output: u64| {
                let usage = [
                    grpc::number(1, output),
                    grpc::number(2, said.input),
                    grpc::number(3, said.input + output),
                    grpc::number(7, said.cached),
                ];
                let delta = grpc::bytes(2, &grpc::bytes(1, &grpc::bytes(1, text)));
                grpc::message(
                    false,
                    &[delta, grpc::bytes(4, b"grok-4"), grpc::bytes(6, &usage.concat())].concat(),
                )
            };
            [chunk(1).repeat(said.parts), chunk(said.output)].concat()
        },
        wire: Wire::Grpc,
        ..CHAT
    },
    Form {
        name: "generateContent over gRPC",
        target: "/google.ai.generativelanguage.v1beta.GenerativeService/GenerateContent",
        body: |said| {
            let usage = [
                grpc::number(1, said.input),
                grpc::number(2, said.output),
                grpc::number(3, said.input + said.output),
                grpc::number(4, said.cached),
            ];
            let candidate =
                grpc::bytes(1, &grpc::bytes(1, &grpc::bytes(1, &grpc::bytes(2, said.text.as_bytes()))));
            grpc::message(true, &[candidate, grpc::bytes(3, &usage.concat()), grpc::bytes(4, b"m")].concat())
        },
        wire: Wire::Grpc,
        ..LIVE
    },
    REALTIME,
    Form { name: "realtime, deflated", wire: Wire::Messages(Some(false)), ..REALTIME },
    Form { name: "realtime, deflated anew", wire: Wire::Messages(Some(true)), ..REALTIME },
    LIVE,
    Form { name: "live, deflated", wire: Wire::Messages(Some(false)), ..LIVE },
    Form {
        name: "results of a batch of messages",
        host: "api.anthropic.com",
        target: "/v1/messages/batches/msgbatch_1/results",
        body: |said| {
            let line = format!(
                "{{\"custom_id\":\"a\",\"result\":{{\"type\":\"succeeded\",\"message\":{{\"model\":\"m\",\"usage\":{}}}}}}}\n",
                messages_usage(said, said.output)
            );
            line.repeat(said.parts).into_bytes()
        },
        counts: false,
        ..CHAT
    },
    Form {
        name: "a batch",
        target: "/v1/batches/batch_1",
        body: |said| {
            format!(
                r#"{{"id":"batch_1","object":"batch","status":"completed","model":"m","usage":{}}}"#,
                plain_usage(said)
            )
            .into_bytes()
        },
        counts: false,
        ..CHAT
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
        ..CHAT
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
        ..CHAT
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

fn interaction_usage(said: &Said) -> String {
    format!(
        r#"{{"total_input_tokens":{},"total_output_tokens":{},"total_cached_tokens":{}}}"#,
        said.input, said.output, said.cached
    )
}

/// What InvokeModel streams: a vendor's JSON in base64, and padding.
fn chunk(inner: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut base64 = String::new();
    for part in inner.as_bytes().chunks(3) {
        let bits =
            part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        let digit = |at: usize| char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]);
        base64.extend((0..=part.len()).map(digit));
        base64.extend(std::iter::repeat_n('=', 3 - part.len()));
    }
    message("chunk", &format!(r#"{{"bytes":"{base64}","p":"abcdefghi"}}"#))
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
