//! OpenAI, and everybody who speaks like it.

use super::{CHAT, check, check_events, check_post};

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
    // What a connector put in is part of the input, on top of what the prompt was by the provider's own arithmetic.
    check(
        "api.mistral.ai",
        "/v1/conversations",
        r#"{"outputs":[],"usage":{"prompt_tokens":55,"completion_tokens":188,"total_tokens":7355,"connector_tokens":7112,"connectors":{"web_search":1}}}"#,
        "in=7167 out=188 total=7355 searches=1 tool_input_tokens=7112",
    );
    check(
        "api.mistral.ai",
        "/v1/conversations/c/restart",
        r#"{"usage":{"prompt_tokens":55,"completion_tokens":8,"total_tokens":63,"connector_tokens":null}}"#,
        "in=55 out=8 total=63",
    );
    check(
        "api.together.xyz",
        CHAT,
        r#"{"usage":{"prompt_tokens":8,"completion_tokens":2,"cached_tokens":3}}"#,
        "in=8 out=2 read=3",
    );
    check(
        "api.cloudflare.com",
        "/client/v4/accounts/a/ai/run/@cf/meta/llama-3",
        r#"{"result":{"response":"x","usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}},"success":true,"errors":[],"messages":[]}"#,
        "in=8 out=2 total=10",
    );
    check_events(
        "api.cloudflare.com",
        "/client/v4/accounts/a/ai/run/@cf/meta/llama-3",
        &[
            r#"{"response":"x","p":"abc"}"#,
            r#"{"response":"","usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}}"#,
            "[DONE]",
        ],
        "in=8 out=2 total=10",
    );
    check(
        "dashscope.aliyuncs.com",
        "/api/v1/services/aigc/text-generation/generation",
        r#"{"output":{"text":"x","finish_reason":"stop"},"usage":{"input_tokens":8,"output_tokens":2,"total_tokens":10},"request_id":"r"}"#,
        "in=8 out=2 total=10",
    );
    // What a proxy says that it cost, in its fields.
    check_post(
        "api.portkey.ai",
        CHAT,
        "{}",
        "x-litellm-response-cost: 2.85e-05\r\n",
        r#"{"usage":{"prompt_tokens":8,"completion_tokens":2}}"#,
        "in=8 out=2 cost=0.0000285",
    );
    check_post("api.portkey.ai", CHAT, "{}", "x-litellm-response-cost: None\r\n", "{}", "(not_reported)");
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
    check(
        "api.openai.com",
        "/v1/decisions",
        r#"{"answers":[],"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4,"cache_write_tokens":0},"output_tokens":2,"output_tokens_details":{"reasoning_tokens":1},"total_tokens":11}}"#,
        "in=9 out=2 read=4 write=0 think=1 total=11",
    );
    check(
        "api.perplexity.ai",
        responses,
        r#"{"usage":{"input_tokens":90,"output_tokens":5,"total_tokens":95,"input_tokens_details":{"cache_read_input_tokens":10,"cache_creation_input_tokens":20},"cost":{"currency":"USD","input_cost":0.1,"output_cost":0.2,"total_cost":0.3}}}"#,
        "in=90 out=5 read=10 write=20 total=95 cost=0.3",
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
    // What is known at the start is not what is billed: an answer that breaks off or fails tells no usage.
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":1}}}"#;
    let failed = r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#;
    check_events("api.anthropic.com", messages, &[start], "(interrupted)");
    check_events("api.anthropic.com", messages, &[start, failed], "(interrupted)");
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
