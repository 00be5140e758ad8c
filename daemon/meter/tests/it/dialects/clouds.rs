//! Google and Amazon.

use super::{check, check_events, check_post};

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
