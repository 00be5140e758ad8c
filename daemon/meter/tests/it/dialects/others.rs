//! Servers of one's own, predictions, and what is billed in other units than tokens.

use super::{check, check_events, check_post, counts};
use crate::harness::{answer, call};

#[test]
fn other_units() {
    check(
        "api.cohere.com",
        "/v2/chat",
        r#"{"usage":{"billed_units":{"input_tokens":5.0,"output_tokens":12.0,"image_tokens":0},"tokens":{"input_tokens":500.0,"output_tokens":14.0},"cached_tokens":464}}"#,
        "in=500 out=14 read=464 image_in=0 billed_input_tokens=5 billed_output_tokens=12",
    );
    check(
        "api.cohere.com",
        "/v2/rerank",
        r#"{"results":[],"meta":{"billed_units":{"search_units":1}}}"#,
        "search_units=1",
    );
    check("api.cohere.com", "/v2/embed", r#"{"meta":{"billed_units":{"images":3}}}"#, "input_images=3");
    check(
        "openrouter.ai",
        "/api/v1/rerank",
        r#"{"usage":{"cost":0.001,"search_units":1}}"#,
        "search_units=1 cost=0.001",
    );
    check(
        "api.voyageai.com",
        "/v1/multimodalembeddings",
        r#"{"usage":{"text_tokens":5,"image_pixels":2000000,"total_tokens":3576}}"#,
        "in=3576 total=3576 text_input_tokens=5 image_pixels=2000000",
    );
    check("api.voyageai.com", "/v1/rerank", r#"{"usage":{"total_tokens":57}}"#, "in=57 total=57");
    check(
        "api.mistral.ai",
        "/v1/ocr",
        r#"{"pages":[{"index":0}],"model":"m","usage_info":{"pages_processed":1,"doc_size_bytes":18810}}"#,
        "pages=1",
    );
    check(
        "api.openai.com",
        "/v1/images/generations",
        r#"{"created":1,"data":[{"url":"x"},{"b64_json":"AAAA"}]}"#,
        "images=2",
    );
    check(
        "api.openai.com",
        "/v1/images/edits",
        r#"{"data":[{"b64_json":"AAAA"}],"usage":{"input_tokens":50,"input_tokens_details":{"image_tokens":40,"text_tokens":10},"output_tokens":272,"output_tokens_details":{"image_tokens":272,"text_tokens":0},"total_tokens":322}}"#,
        "in=50 out=272 image_in=40 image_out=272 total=322 text_input_tokens=10 text_output_tokens=0 images=1",
    );
    check(
        "api.x.ai",
        "/v1/images/generations",
        r#"{"data":[{"url":"x"}],"usage":{"cost_in_usd_ticks":700000000}}"#,
        "images=1 cost=0.07",
    );
    check(
        "api.perplexity.ai",
        "/v1/embeddings",
        r#"{"usage":{"prompt_tokens":7,"total_tokens":7,"cost":{"currency":"USD","input_cost":0.002,"total_cost":0.002}}}"#,
        "in=7 total=7 cost=0.002",
    );
    check(
        "api.cohere.com",
        "/v2/embed",
        r#"{"meta":{"billed_units":{"input_tokens":12,"text_tokens":5,"image_tokens":7,"pages":2}}}"#,
        "in=12 image_in=7 text_input_tokens=5 pages=2",
    );
    check(
        "us-south.ml.cloud.ibm.com",
        "/ml/v1/text/embeddings",
        r#"{"model_id":"ibm/slate","results":[{"embedding":[0.1]}],"input_token_count":10}"#,
        "in=10",
    );
    // Speech to text that tells how long it was; tokens and usage, where they are, say what is billed.
    let transcript = |reply: &str, expected: &str| check("api.x.ai", "/v1/stt", reply, expected);
    transcript(r#"{"text":"x","language":"en","duration":3.7,"words":[]}"#, "audio_input_ms=3700");
    transcript(r#"{"duration":3.7,"usage":{"type":"duration","seconds":4}}"#, "audio_input_ms=4000");
    transcript(r#"{"usage":{"type":"duration","seconds":4},"duration":3.7}"#, "audio_input_ms=4000");
    transcript(r#"{"usage":{"input_tokens":9,"output_tokens":2},"duration":3.7}"#, "in=9 out=2");
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\0\r\n--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b--\r\n";
    let transcribe = |target: &str, fields: &str, reply: &str, expected: &str| {
        check_post("api.openai.com", target, form, fields, reply, expected);
    };
    let target = "/v1/audio/transcriptions";
    transcribe(
        target,
        "",
        r#"{"text":"x","usage":{"type":"duration","seconds":6.5}}"#,
        "audio_input_ms=6500",
    );
    transcribe(
        "/v1/audio/translations",
        "",
        r#"{"usage":{"seconds":"7","type":"duration"},"text":"x"}"#,
        "audio_input_ms=7000",
    );
    transcribe(
        target,
        "",
        r#"{"usage":{"type":"tokens","input_tokens":26,"input_token_details":{"text_tokens":5,"audio_tokens":21},"output_tokens":4,"total_tokens":30}}"#,
        "in=26 out=4 audio_in=21 total=30 text_input_tokens=5",
    );
    transcribe(target, "Content-Type: text/plain\r\n", "words that were spoken\n", "(not_reported)");
    transcribe(
        target,
        "Content-Type: text/event-stream\r\n",
        "data: {\"type\":\"transcript.text.delta\",\"delta\":\"x\"}\n\ndata: {\"type\":\"transcript.text.done\",\"usage\":{\"input_tokens\":9,\"output_tokens\":2}}\n\n",
        "in=9 out=2",
    );
    check(
        "api.mistral.ai",
        target,
        r#"{"usage":{"prompt_audio_seconds":203,"prompt_tokens":4,"completion_tokens":635,"total_tokens":3264}}"#,
        "in=4 out=635 total=3264 audio_input_ms=203000",
    );
    check(
        "localhost:11434",
        "/api/chat",
        r#"{"done":true,"prompt_eval_count":3,"eval_count":4}"#,
        "in=3 out=4",
    );
    check("localhost:11434", "/api/chat", "{\"done\":false}\n{\"done\":true,\"eval_count\":4}\n", "out=4");
    let cached = r#"{"done":true,"prompt_eval_count":9,"prompt_eval_cached_count":6,"eval_count":4}"#;
    check("localhost:11434", "/api/generate", cached, "in=9 out=4 read=6");
}

#[test]
fn model_servers() {
    // Named by a request that is telling, then on the same connection the server's own endpoint.
    let check = |target: &str, reply: &str, expected: &str| {
        let first = "POST /v1/completions HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 2\r\n\r\n{}";
        let own = format!(
            "POST {target} HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 13\r\n\r\n{{\"prompt\":\"\"}}"
        );
        let replies = [answer(200, "", b"{}"), answer(200, "", reply.as_bytes())].concat();
        let outcome = call("", format!("{first}{own}").as_bytes(), &replies, &[usize::MAX]);
        let exchange = outcome.exchanges.last().expect("two exchanges");
        assert_eq!((&*exchange.provider, counts(exchange)), ("local", expected.to_owned()), "{reply}");
    };
    check(
        "/completion",
        r#"{"content":"x","stop":true,"tokens_evaluated":12,"tokens_predicted":3}"#,
        "in=12 out=3",
    );
    check(
        "/completion",
        "data: {\"content\":\"x\",\"stop\":false,\"tokens_predicted\":1,\"tokens_evaluated\":12}\n\ndata: {\"content\":\"\",\"stop\":true,\"tokens_predicted\":3,\"tokens_evaluated\":12}\n\n",
        "in=12 out=3",
    );
    check(
        "/generate",
        r#"{"text":"x","meta_info":{"finish_reason":{"type":"length","length":8},"prompt_tokens":6,"completion_tokens":8,"cached_tokens":5}}"#,
        "in=6 out=8 read=5",
    );
    check("/generate", r#"{"generated_text":"x"}"#, "(not_reported)");
    check(
        "/generate_stream",
        "data:{\"token\":{\"text\":\"x\"},\"details\":null}\n\ndata:{\"generated_text\":\"xy\",\"details\":{\"finish_reason\":\"length\",\"generated_tokens\":2,\"input_length\":7}}\n\n",
        "in=7 out=2",
    );
    let one = r#"{"text":"x","meta_info":{"prompt_tokens":5,"completion_tokens":2,"cached_tokens":1}}"#;
    check("/generate", &format!("[{one},{one}]"), "in=10 out=4 read=2");
}

#[test]
fn predictions_and_generations() {
    let wait = r#"{"model":"meta/llama","status":"succeeded","metrics":{"input_token_count":9,"output_token_count":4,"predict_time":1.2345,"total_time":2}}"#;
    check("api.replicate.com", "/v1/models/meta/llama/predictions", wait, "in=9 out=4 compute_ms=1234");
    let image = r#"{"status":"succeeded","metrics":{"predict_time":2}}"#;
    check("api.replicate.com", "/v1/predictions", image, "compute_ms=2000");
    check("api.replicate.com", "/v1/predictions", r#"{"status":"starting","error":null}"#, "(not_reported)");
    let watsonx = "us-south.ml.cloud.ibm.com";
    let results = |output: u64, input: u64, stop: &str| {
        format!(
            r#"{{"model_id":"ibm/granite","results":[{{"generated_text":"a","generated_token_count":{output},"input_token_count":{input},"stop_reason":"{stop}"}}]}}"#
        )
    };
    check(watsonx, "/ml/v1/text/generation?version=2025-02-11", &results(2, 7, "eos_token"), "in=7 out=2");
    check_events(
        watsonx,
        "/ml/v1/deployments/d/text/generation_stream",
        &[&results(0, 7, "not_finished"), &results(1, 0, "not_finished"), &results(2, 0, "eos_token")],
        "in=7 out=2",
    );
    let usage = r#""usage":{"completion_tokens":2,"prompt_tokens":7,"total_tokens":9}"#;
    let chat = format!(r#"{{"model_id":"ibm/granite","choices":[{{"finish_reason":"stop"}}],{usage}}}"#);
    check(watsonx, "/ml/v1/text/chat", &chat, "in=7 out=2 total=9");
    check_events(
        watsonx,
        "/ml/v1/text/chat_stream",
        &[
            r#"{"model_id":"ibm/granite","choices":[{"delta":{"content":"a"}}]}"#,
            &format!("{{\"choices\":[],{usage}}}"),
        ],
        "in=7 out=2 total=9",
    );
}
