//! What each dialect reads of answers in the providers' documented formats, as a table: made by us, with the oddities
//! that the formats allow.

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

#[test]
fn chat_completions() {
    check(
        "api.openai.com",
        CHAT,
        r#"{"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":7},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":4,"accepted_prediction_tokens":3,"rejected_prediction_tokens":2}},"service_tier":"flex"}"#,
        "in=19 out=10 read=0 think=0 audio_in=7 audio_out=4 total=29 accepted_prediction_tokens=3 rejected_prediction_tokens=2 tier=flex",
    );
    // Nothing is nothing: nulls, empty objects, wrong types, negative numbers, fractions.
    for nothing in [
        r#"{"usage":null}"#,
        r#"{"usage":{}}"#,
        r#"{"usage":[]}"#,
        r#"{"usage":"10"}"#,
        r#"{"usage":{"prompt_tokens":null,"completion_tokens":null}}"#,
        r#"{"usage":{"prompt_tokens":-1}}"#,
        r#"{"usage":{"prompt_tokens":1.5}}"#,
        r#"{"usage":{"prompt_tokens":"many"}}"#,
        r#"{"usage":{"prompt_tokens":18446744073709551616}}"#,
        r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":10}"}}]}"#,
    ] {
        check("api.openai.com", CHAT, nothing, "(not_reported)");
    }
    check(
        "api.openai.com",
        CHAT,
        "\u{feff}\r\n { \"us\\u0061ge\" :\t{ \"completion_tokens\" : 4e0 , \"prompt_tokens\" : \"12\" } }\n",
        "in=12 out=4",
    );
    check(
        "api.openai.com",
        CHAT,
        r#"{"usage":{"prompt_tokens":5000000000,"completion_tokens":0}}"#,
        "in=5000000000 out=0",
    );
    check(
        "api.deepseek.com",
        "/chat/completions",
        r#"{"usage":{"prompt_tokens":100,"completion_tokens":5,"total_tokens":105,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}}"#,
        "in=100 out=5 read=64 total=105",
    );
    check(
        "api.x.ai",
        CHAT,
        r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":18,"prompt_tokens_details":{"text_tokens":6,"image_tokens":4},"completion_tokens_details":{"reasoning_tokens":3},"num_sources_used":2,"cost_in_usd_ticks":"1043500"}}"#,
        "in=10 out=8 think=3 image_in=4 total=18 text_input_tokens=6 sources=2 cost=0.00010435",
    );
    check(
        "openrouter.ai",
        "/api/v1/chat/completions",
        r#"{"usage":{"prompt_tokens":280,"completion_tokens":61,"cost":0.0002365,"is_byok":false,"cost_details":{"upstream_inference_cost":1.5},"prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":9,"video_tokens":258},"server_tool_use":{"web_search_requests":2}}}"#,
        "in=280 out=61 read=0 write=9 searches=2 video_input_tokens=258 cost=0.0002365",
    );
    check(
        "api.perplexity.ai",
        "/chat/completions",
        r#"{"usage":{"prompt_tokens":8,"completion_tokens":20,"citation_tokens":300,"num_search_queries":4,"reasoning_tokens":7,"cost":{"input_tokens_cost":0.1,"total_cost":0.006}}}"#,
        "in=8 out=20 think=7 citation_tokens=300 search_queries=4 cost=0.006",
    );
    check(
        "api.mistral.ai",
        CHAT,
        r#"{"usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10,"num_cached_tokens":5,"prompt_audio_seconds":3}}"#,
        "in=8 out=2 total=10 audio_input_ms=3000",
    );
    check(
        "api.together.xyz",
        CHAT,
        r#"{"usage":{"prompt_tokens":8,"completion_tokens":2,"cached_tokens":3}}"#,
        "in=8 out=2 read=3",
    );
    // A cache that is larger than the input is told as it was reported.
    check(
        "r.services.ai.azure.com",
        "/models/chat/completions",
        r#"{"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":161}}}"#,
        "in=7 out=2 read=161",
    );
}

#[test]
fn streams_of_chat_completions() {
    let host = "api.openai.com";
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    let delta = r#"{"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],"usage":null}"#;
    check_events(host, CHAT, &[delta, delta, usage, "[DONE]"], "in=3 out=4");
    check_events(host, CHAT, &[delta, usage], "in=3 out=4");
    check_events(host, CHAT, &[usage, delta, "[DONE]"], "in=3 out=4");
    check_events(host, CHAT, &[delta, "[DONE]"], "(stream_usage_not_requested)");
    check_events(
        host,
        CHAT,
        &[delta, r#"{"error":{"message":"x","type":"server_error"}}"#],
        "(not_reported)",
    );
    check_events(
        host,
        CHAT,
        &["", "null", "[]", "{}", "\"x\"", "{\"broken\":", usage, "[DONE]"],
        "in=3 out=4",
    );
    // A prompt filter comes first and is no usage; later chunks repeat what was counted so far.
    let filter = r#"{"choices":[],"model":"","prompt_filter_results":[{"prompt_index":0}]}"#;
    check_events("r.openai.azure.com", CHAT, &[filter, delta, usage, "[DONE]"], "in=3 out=4");
    let more = r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":3,"completion_tokens":9}}"#;
    check_events("api.perplexity.ai", "/chat/completions", &[usage, more], "in=3 out=9");
}

#[test]
fn responses_and_messages() {
    let responses = "/v1/responses";
    check(
        "api.openai.com",
        responses,
        r#"{"status":"completed","usage":{"input_tokens":90,"input_tokens_details":{"cached_tokens":10,"cache_write_tokens":60,"cache_write_tokens_details":{"ttl_30m_tokens":20,"ttl_12h_tokens":40}},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":95}}"#,
        "in=90 out=5 read=10 write=60 think=2 total=95 cache_creation_30m_input_tokens=20 cache_creation_12h_input_tokens=40",
    );
    // Asked for in the background: usage comes later, and is not told twice.
    check("api.openai.com", responses, r#"{"status":"queued","usage":null}"#, "(not_reported)");
    check_events(
        "api.openai.com",
        responses,
        &[
            r#"{"type":"response.created","response":{"usage":null}}"#,
            r#"{"type":"response.something.new","usage_hint":{"input_tokens":999}}"#,
            r#"{"type":"response.incomplete","response":{"usage":{"input_tokens":1,"output_tokens":2}}}"#,
        ],
        "in=1 out=2",
    );
    check_events(
        "api.openai.com",
        responses,
        &[r#"{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"},"usage":null}}"#],
        "(not_reported)",
    );
    let messages = "/v1/messages";
    check(
        "api.anthropic.com",
        messages,
        r#"{"usage":{"input_tokens":3,"cache_creation_input_tokens":30,"cache_read_input_tokens":100,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":7,"output_tokens_details":{"thinking_tokens":5},"server_tool_use":{"web_search_requests":2,"web_fetch_requests":1},"service_tier":"priority"}}"#,
        "in=133 out=7 read=100 write=30 5m=10 1h=20 think=5 searches=2 web_fetch_requests=1 tier=priority",
    );
    check_events(
        "api.anthropic.com",
        messages,
        &[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"cache_read_input_tokens":null,"output_tokens":1}}}"#,
            r#"{"type":"content_block_start","content_block":{"type":"server_tool_use","name":"web_search"}}"#,
            r#"{"type":"content_block_of_tomorrow","usage":null}"#,
            r#"{"type":"message_delta","usage":{"output_tokens":40}}"#,
            r#"{"type":"message_delta","usage":{"input_tokens":31772,"output_tokens":50,"server_tool_use":{"web_search_requests":1}}}"#,
            r#"{"type":"message_stop"}"#,
        ],
        "in=31772 out=50 searches=1",
    );
}

#[test]
fn google() {
    let generate = "/v1beta/models/gemini-x:generateContent";
    let host = "generativelanguage.googleapis.com";
    let parts = r#"{"usageMetadata":{"promptTokenCount":1000,"candidatesTokenCount":50,"thoughtsTokenCount":20,"toolUsePromptTokenCount":30,"cachedContentTokenCount":400,"totalTokenCount":1100,"promptTokensDetails":[{"modality":"TEXT","tokenCount":100},{"tokenCount":"500","modality":"AUDIO"},{"modality":"VIDEO","tokenCount":300},{"modality":"IMAGE","tokenCount":90},{"modality":"DOCUMENT","tokenCount":10},{"modality":"SMELL","tokenCount":7},{"modality":"TEXT"}],"toolUsePromptTokensDetails":[{"modality":"TEXT","tokenCount":30}],"cacheTokensDetails":[{"modality":"TEXT","tokenCount":80},{"modality":"AUDIO","tokenCount":320}],"candidatesTokensDetails":[{"modality":"TEXT","tokenCount":10},{"modality":"IMAGE","tokenCount":40}],"serviceTier":"standard"}}"#;
    let expected = "in=1030 out=70 read=400 think=20 audio_in=500 image_in=90 image_out=40 total=1100 text_input_tokens=130 video_input_tokens=300 document_input_tokens=10 tool_input_tokens=30 cached_text_input_tokens=80 cached_audio_input_tokens=320 text_output_tokens=10 tier=standard";
    check(host, generate, parts, expected);
    // Each chunk repeats all; elements of one array, or events. Enumerations may be numbers.
    let early =
        r#"{"usageMetadata":{"promptTokenCount":9,"promptTokensDetails":[{"modality":4,"tokenCount":9}]}}"#;
    let stream = "/v1beta/models/gemini-x:streamGenerateContent";
    check_events(host, stream, &[early, parts], expected);
    check(host, stream, &format!("[{early},\r\n{parts}\r\n]"), expected);
    check(host, generate, early, "in=9 audio_in=9");
    check(
        "us-central1-aiplatform.googleapis.com",
        "/v1/projects/p/locations/us-central1/publishers/google/models/g:generateContent",
        r#"{"usageMetadata":{"promptTokenCount":5,"totalTokenCount":5,"trafficType":"ON_DEMAND_FLEX"}}"#,
        "in=5 total=5 tier=ON_DEMAND_FLEX",
    );
    check(
        "aiplatform.googleapis.com",
        "/v1/projects/p/locations/l/publishers/google/models/text-embedding-005:predict",
        r#"{"predictions":[{"embeddings":{"values":[0.1],"statistics":{"token_count":4}}},{"embeddings":{"statistics":{"token_count":6.0}}}],"metadata":{"billableCharacterCount":29}}"#,
        "in=10 characters=29",
    );
    check(
        host,
        "/v1beta/models/imagen-4:predict",
        r#"{"predictions":[{"mimeType":"image/png","bytesBase64Encoded":"AAAA"},{"bytesBase64Encoded":"BBBB"},{"raiFilteredReason":"x"}]}"#,
        "images=2",
    );
    check(
        host,
        "/v1beta/models/e:batchEmbedContents",
        r#"{"embeddings":[{"values":[]}],"usageMetadata":{"promptTokenCount":8,"promptTokenDetails":[{"modality":"TEXT","tokenCount":8}]}}"#,
        "in=8 text_input_tokens=8",
    );
    check_events(
        host,
        "/v1beta/interactions",
        &[
            r#"{"event_type":"content.delta","delta":{"text":"x"}}"#,
            r#"{"event_type":"interaction.completed","interaction":{"usage":{"total_input_tokens":12,"total_output_tokens":3,"total_thought_tokens":2,"total_tool_use_tokens":0,"total_cached_tokens":0,"total_tokens":17,"input_tokens_by_modality":[{"modality":"text","tokens":12}]}}}"#,
        ],
        "in=12 out=5 read=0 think=2 total=17 text_input_tokens=12 tool_input_tokens=0",
    );
}

#[test]
fn bedrock() {
    let host = "bedrock-runtime.us-east-1.amazonaws.com";
    check(
        host,
        "/model/us.anthropic.claude-x/converse",
        r#"{"usage":{"cacheDetails":[{"inputTokens":200,"ttl":"5m"},{"ttl":"1h","inputTokens":97}],"cacheReadInputTokenCount":2074,"cacheReadInputTokens":2074,"cacheWriteInputTokens":297,"inputTokens":3,"outputTokens":61,"totalTokens":2435}}"#,
        "in=2374 out=61 read=2074 write=297 5m=200 1h=97 total=2435",
    );
    check(
        host,
        "/model/amazon.titan-embed-text-v2%3A0/invoke",
        r#"{"embedding":[],"inputTextTokenCount":7}"#,
        "in=7",
    );
    check(
        host,
        "/model/amazon.nova-canvas-v1%3A0/invoke",
        r#"{"images":["AAAA","BBBB"],"error":null}"#,
        "images=2",
    );
    let profile = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fabc/invoke";
    check_post(
        host,
        profile,
        r#"{"anthropic_version":"bedrock-2023-05-31","messages":[]}"#,
        "x-amzn-bedrock-input-token-count: 4\r\n",
        r#"{"usage":{"input_tokens":4,"cache_read_input_tokens":6,"output_tokens":2}}"#,
        "in=10 out=2 read=6",
    );
    // The vendor's answer may say nothing: the service's own fields do.
    check_post(
        host,
        "/model/cohere.command-r-v1%3A0/invoke",
        "{}",
        "x-amzn-bedrock-input-token-count: 4\r\nx-amzn-bedrock-output-token-count: 5\r\n",
        r#"{"text":"x"}"#,
        "in=4 out=5",
    );
}

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
    let one = r#"{"text":"x","meta_info":{"prompt_tokens":5,"completion_tokens":2,"cached_tokens":1}}"#;
    check("/generate", &format!("[{one},{one}]"), "in=10 out=4 read=2");
}

#[test]
fn batches_and_their_tier() {
    check(
        "api.anthropic.com",
        "/v1/messages",
        r#"{"usage":{"input_tokens":1,"output_tokens":2,"service_tier":"batch"}}"#,
        "in=1 out=2 tier=batch",
    );
    let flag = |method: &str, target: &str, reply: &str| {
        let sent =
            format!("{method} {target} HTTP/1.1\r\nHost: api.anthropic.com\r\nContent-Length: 0\r\n\r\n");
        let outcome =
            call("api.anthropic.com", sent.as_bytes(), &answer(200, "", reply.as_bytes()), &[usize::MAX]);
        (outcome.one().batch, outcome.one().operation, outcome.one().usage.is_unknown())
    };
    let line = r#"{"result":{"type":"succeeded","message":{"usage":{"input_tokens":1,"output_tokens":2,"service_tier":"batch"}}}}"#;
    assert_eq!(
        flag("GET", "/v1/messages/batches/b/results", &format!("{line}\n{line}\n")),
        (true, "batch_results", true)
    );
    assert_eq!(
        flag("GET", "/v1/messages/batches/b", r#"{"usage":{"input_tokens":1}}"#),
        (true, "fetch_batch", true)
    );
    assert_eq!(flag("POST", "/v1/messages/batches", "{}"), (true, "create_batch", true));
    assert_eq!(flag("POST", "/v1/messages", r#"{"usage":{"service_tier":"batch"}}"#), (true, "chat", true));
    assert_eq!(
        flag("POST", "/v1/messages", r#"{"usage":{"input_tokens":1,"output_tokens":1}}"#),
        (false, "chat", false)
    );
}

/// What a provider's tools did is counted as often as the answer lists it.
#[test]
fn calls_of_the_providers_tools() {
    let usage = r#""usage":{"input_tokens":5,"output_tokens":2}"#;
    let items = r#"[{"type":"reasoning"},{"id":"ws_1","type":"web_search_call","action":{"type":"search","query":"q"}},
        {"action":{"type":"open_page"},"type":"web_search_call"},{"type":"web_search_call","action":{"type":"find_in_page"}},
        {"type":"web_search_call","status":"completed"},{"type":"file_search_call","queries":["web_search_call"]},
        {"type":"code_interpreter_call"},{"type":"code_interpreter_call"},{"type":"message","content":[{"type":"file_search_call"}]}]"#;
    let expected = "in=5 out=2 web_search_calls=2 file_search_calls=1 code_interpreter_calls=2";
    check("api.openai.com", "/v1/responses", &format!(r#"{{"output":{items},{usage}}}"#), expected);
    check("api.openai.com", "/v1/responses", &format!(r#"{{{usage},"output":{items}}}"#), expected);
    check("api.openai.com", "/v1/responses", &format!(r#"{{"output":{items}}}"#), "(not_reported)");
    check_events(
        "api.openai.com",
        "/v1/responses",
        &[
            r#"{"type":"response.created","response":{"output":[],"usage":null}}"#,
            r#"{"type":"response.output_item.done","item":{"type":"web_search_call","action":{"type":"search"}}}"#,
            &format!(
                r#"{{"type":"response.completed","response":{{"output":{},{usage}}}}}"#,
                items.replace('\n', "")
            ),
        ],
        expected,
    );
}

/// Source: "Compaction" of Anthropic's documentation, usage: the sums leave these turns out.
#[test]
fn turns_that_sum_the_conversation_up_are_counted_apart() {
    let iterations = r#"[{"type":"compaction","input_tokens":180000,"cache_read_input_tokens":7,"output_tokens":3500},
        {"input_tokens":23000,"output_tokens":1000,"type":"message"},
        {"cache_creation_input_tokens":9,"input_tokens":20,"output_tokens":1,"type":"compaction"}]"#;
    let usage = format!(r#""usage":{{"input_tokens":23000,"output_tokens":1000,"iterations":{iterations}}}"#);
    let apart = "compaction_input_tokens=180020 compaction_cache_read_input_tokens=7 \
                 compaction_cache_creation_input_tokens=9 compaction_output_tokens=3501";
    let expected = format!("in=23000 out=1000 {apart}");
    check("api.anthropic.com", "/v1/messages", &format!("{{{usage}}}"), &expected);
    // Both events may have them: the later replaces the earlier.
    check_events(
        "api.anthropic.com",
        "/v1/messages",
        &[
            &format!(r#"{{"type":"message_start","message":{{{}}}}}"#, usage.replace('\n', "")),
            &format!(r#"{{"type":"message_delta",{}}}"#, usage.replace('\n', "")),
            r#"{"type":"message_stop"}"#,
        ],
        &expected,
    );
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

#[test]
fn each_image_of_a_stream_counts() {
    let usage = r#""usage":{"input_tokens":5,"output_tokens":272}"#;
    check_events(
        "api.openai.com",
        "/v1/images/generations",
        &[
            r#"{"type":"image_generation.partial_image","b64_json":"AA"}"#,
            &format!(r#"{{"type":"image_generation.completed","b64_json":"AA",{usage}}}"#),
        ],
        "in=5 out=272 images=1",
    );
}
