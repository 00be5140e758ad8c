//! The law that an answer tells the same whole and streamed, for every dialect that has both.

use proptest::prelude::*;

use super::counts;
use crate::answers::message;
use crate::harness::{answer, call};

/// What an answer used.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// Without what was cached.
    fresh: u64,
    cached: u64,
    /// Without reasoning.
    said: u64,
    thought: u64,
}

fn told(host: &str, target: &str, body: &[u8]) -> String {
    let sent = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{{}}");
    counts(call(host, sent.as_bytes(), &answer(200, "", body), &[usize::MAX]).one())
}

fn events(data: &[String]) -> Vec<u8> {
    data.iter().map(|data| format!("data: {data}\n\n")).collect::<String>().into_bytes()
}

/// A target, and the body of what it answers.
type Form = (&'static str, Vec<u8>);

/// Hosts, and the same answer of each in all its forms, whole first.
fn forms(used: Used) -> Vec<(&'static str, Vec<Form>)> {
    let Used { fresh, cached, said, thought } = used;
    let (input, output) = (fresh + cached, said + thought);
    let total = input + output;
    let chat = format!(
        r#""usage":{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}},"completion_tokens_details":{{"reasoning_tokens":{thought}}}}}"#
    );
    let early = r#""usage":{"prompt_tokens":1,"completion_tokens":0,"total_tokens":1}"#;
    let responses = format!(
        r#"{{"id":"r","status":"completed","usage":{{"output_tokens_details":{{"reasoning_tokens":{thought}}},"input_tokens":{input},"output_tokens":{output},"total_tokens":{total},"input_tokens_details":{{"cached_tokens":{cached}}}}}}}"#
    );
    let messages = format!(
        r#""usage":{{"input_tokens":{fresh},"cache_read_input_tokens":{cached},"cache_creation_input_tokens":0,"output_tokens":{output},"output_tokens_details":{{"thinking_tokens":{thought}}}}}"#
    );
    let start =
        format!(r#""usage":{{"input_tokens":{fresh},"cache_read_input_tokens":{cached},"output_tokens":1}}"#);
    let gemini = format!(
        r#"{{"usageMetadata":{{"promptTokenCount":{input},"candidatesTokenCount":{said},"thoughtsTokenCount":{thought},"cachedContentTokenCount":{cached},"totalTokenCount":{total}}}}}"#
    );
    let first = r#"{"usageMetadata":{"promptTokenCount":1,"totalTokenCount":1}}"#.to_owned();
    let converse = format!(
        r#"{{"usage":{{"inputTokens":{fresh},"outputTokens":{output},"totalTokens":{total},"cacheReadInputTokens":{cached},"cacheWriteInputTokens":0}}}}"#
    );
    let cohere = format!(
        r#""usage":{{"billed_units":{{"input_tokens":{fresh},"output_tokens":{said}}},"tokens":{{"input_tokens":{input},"output_tokens":{output}}},"cached_tokens":{cached}}}"#
    );
    let ollama = format!(r#"{{"done":true,"prompt_eval_count":{input},"eval_count":{output}}}"#);
    let interaction = format!(
        r#"{{"status":"completed","usage":{{"total_input_tokens":{input},"total_output_tokens":{said},"total_thought_tokens":{thought},"total_cached_tokens":{cached},"total_tokens":{total}}}}}"#
    );
    let one =
        |target, whole: String, streamed: Vec<u8>| vec![(target, whole.into_bytes()), (target, streamed)];
    vec![
        (
            "api.openai.com",
            one(
                "/v1/chat/completions",
                format!("{{{chat}}}"),
                events(&[r#"{"usage":null}"#.into(), format!(r#"{{"choices":[],{chat}}}"#), "[DONE]".into()]),
            ),
        ),
        (
            "api.perplexity.ai",
            one("/chat/completions", format!("{{{chat}}}"), events(&[format!("{{{early}}}"), format!("{{{chat}}}")])),
        ),
        (
            "api.groq.com",
            one(
                "/openai/v1/chat/completions",
                format!("{{{chat}}}"),
                events(&[format!(r#"{{"x_groq":{{{chat}}}}}"#), format!(r#"{{"choices":[],{chat}}}"#), "[DONE]".into()]),
            ),
        ),
        (
            "api.openai.com",
            one(
                "/v1/responses",
                responses.clone(),
                events(&[
                    r#"{"type":"response.created","response":{"id":"r","status":"in_progress","usage":null}}"#.into(),
                    format!(r#"{{"type":"response.completed","response":{responses}}}"#),
                ]),
            ),
        ),
        (
            "api.anthropic.com",
            one(
                "/v1/messages",
                format!("{{{messages}}}"),
                events(&[
                    format!(r#"{{"type":"message_start","message":{{{start}}}}}"#),
                    format!(r#"{{"type":"message_delta",{messages}}}"#),
                    r#"{"type":"message_stop"}"#.into(),
                ]),
            ),
        ),
        (
            "generativelanguage.googleapis.com",
            vec![
                ("/v1beta/models/g:generateContent", gemini.clone().into_bytes()),
                ("/v1beta/models/g:streamGenerateContent?alt=sse", events(&[first.clone(), gemini.clone()])),
                ("/v1beta/models/g:streamGenerateContent", format!("[{first},\r\n{gemini}]").into_bytes()),
            ],
        ),
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            vec![
                ("/model/m/converse", converse.clone().into_bytes()),
                ("/model/m/converse-stream", message("metadata", &converse)),
            ],
        ),
        (
            "api.cohere.com",
            one(
                "/v2/chat",
                format!("{{{cohere}}}"),
                events(&[format!(r#"{{"type":"message-end","delta":{{{cohere}}}}}"#)]),
            ),
        ),
        (
            "localhost:11434",
            one("/api/chat", ollama.clone(), format!("{{\"done\":false}}\n{ollama}\n").into_bytes()),
        ),
        (
            "generativelanguage.googleapis.com",
            one(
                "/v1beta/interactions",
                interaction.clone(),
                events(&[format!(r#"{{"event_type":"interaction.completed","interaction":{interaction}}}"#)]),
            ),
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_tells_the_same_whole_and_streamed(
        (fresh, cached, said, thought) in (0u64..1 << 40, 0u64..1 << 40, 0u64..1 << 40, 0u64..1 << 40),
    ) {
        for (host, forms) in forms(Used { fresh, cached, said, thought }) {
            let told: Vec<String> = forms.iter().map(|(target, body)| told(host, target, body)).collect();
            let both = [format!("in={} ", fresh + cached), format!("out={}", said + thought)];
            prop_assert!(told[0].starts_with(&both.concat()), "{}: {}", host, told[0]);
            prop_assert!(told.iter().all(|one| *one == told[0]), "{}: {:?}", host, told);
        }
    }
}
