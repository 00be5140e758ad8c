//! Requests as providers document them, and what they are for.

use super::{Directory, DirectoryError, PathError, UserPath, UserProvider};

/// `METHOD target`, and `operation dialect model flags`: `+` inference, `!` telling, `b` batch.
fn check(directory: &Directory, provider: &str, request: &str, expected: &str) {
    let (method, target) = request.split_once(' ').unwrap_or(("POST", request));
    let found = directory.operation(provider, method, target);
    let flag = |is: bool, sign: &'static str| if is { sign } else { "" };
    let seen = format!(
        "{} {} {} {}{}{}",
        found.name,
        found.dialect.map_or("-", |dialect| dialect.name),
        found.model.unwrap_or("-"),
        flag(found.inference, "+"),
        flag(found.telling, "!"),
        flag(found.batch, "b"),
    );
    assert_eq!(seen.trim_end(), expected, "{provider}: {request}");
}

#[test]
fn documented_requests_are_recognised() {
    let directory = Directory::builtin();
    let check = |provider: &str, cases: &[(&str, &str)]| {
        for (request, expected) in cases {
            check(&directory, provider, request, expected);
        }
    };
    check(
        "openai",
        &[
            ("/v1/chat/completions", "chat openai_chat - +!"),
            ("/v1/chat/completions?x=/v1/responses", "chat openai_chat - +!"),
            ("https://api.openai.com/v1/chat/completions", "chat openai_chat - +!"),
            ("/v1/chat/completions/", "chat openai_chat - +!"),
            ("/v1/completions", "text_completion openai_chat - +!"),
            ("/v1/engines/davinci/completions", "text_completion openai_chat davinci +!"),
            ("/v1/responses", "chat openai_responses - +!"),
            ("/v1/responses/compact", "chat openai_responses - +"),
            ("/v1/responses/input_tokens", "count_tokens object -"),
            ("GET /v1/responses/resp_1?stream=true", "fetch_response openai_responses -"),
            ("DELETE /v1/responses/resp_1", "fetch_response openai_responses -"),
            ("/v1/responses/resp_1/cancel", "cancel openai_responses -"),
            ("/v1/embeddings", "embeddings embeddings - +!"),
            ("/v1/images/generations", "image_generation openai_images - +"),
            ("/v1/images/edits", "image_generation openai_images - +"),
            ("/v1/images/variations", "image_generation openai_images - +"),
            ("/v1/audio/speech", "speech openai_audio - +"),
            ("/v1/audio/transcriptions", "transcription openai_audio - +"),
            ("/v1/audio/translations", "translation openai_audio - +"),
            ("/v1/moderations", "moderation embeddings - +"),
            ("/v1/batches", "create_batch object - b"),
            ("GET /v1/batches/batch_1", "fetch_batch object - b"),
            ("/v1/batches/batch_1/cancel", "cancel object - b"),
            ("/v1/files", "files object -"),
            ("GET /v1/files/file-1/content", "files object -"),
            ("DELETE /v1/files/file-1", "files object -"),
            ("/v1/uploads/upload_1/parts", "files object -"),
            ("GET /v1/models", "models object -"),
            ("/v1/threads/thread_1/messages", "assistants object -"),
            ("GET /v1/threads/thread_1/runs/run_1", "assistants object -"),
            ("/v1/conversations", "conversations object -"),
            ("/v1/realtime/client_secrets", "realtime_session object -"),
            ("GET /v1/live/sessions", "realtime openai_realtime - +"),
            ("/v1/live/sessions", "realtime_session object -"),
            ("GET /v1/live/sessions/s/attach", "other - -"),
            ("/v1/videos", "video_generation object - +"),
            ("GET /v1/videos/video_1", "fetch_prediction object -"),
            ("/v1/traces/ingest", "other - -"),
            ("GET /v1/chat/completions", "fetch_response object -"),
            ("GET /v1/chat/completions/c_1/messages", "fetch_response object -"),
            ("/v1/chat/completions/c_1", "fetch_response object -"),
            ("/v1/decisions", "decision openai_responses - +"),
            ("GET /v1/fine_tuning/jobs/j/events", "fine_tuning object -"),
            ("/v1/vector_stores/vs_1/search", "vector_stores object -"),
            ("/v1/vector_stores/vs_1/files", "vector_stores object -"),
            ("/v1/videos/edits", "video_generation object - +"),
            ("GET /v1/organization/usage/embeddings", "other - -"),
            ("/", "other - -"),
            ("", "other - -"),
        ],
    );
    check(
        "azure",
        &[
            (
                "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21",
                "chat openai_chat my-gpt +!",
            ),
            ("//openai/deployments/my-gpt/completions", "text_completion openai_chat my-gpt +!"),
            ("/openai/deployments/my-emb/embeddings", "embeddings embeddings my-emb +"),
            ("/openai/deployments/w/audio/transcriptions", "transcription openai_audio w +"),
            ("/openai/deployments/d/images/generations", "image_generation openai_images d +"),
            ("/openai/v1/responses", "chat openai_responses - +!"),
            ("/openai/responses?api-version=1", "chat openai_responses - +"),
            ("/models/chat/completions?api-version=1", "chat openai_chat - +!"),
            ("/anthropic/v1/messages", "chat anthropic_messages - +!"),
        ],
    );
    check(
        "anthropic",
        &[
            ("/v1/messages?beta=true", "chat anthropic_messages - +!"),
            ("/v1/messages/count_tokens", "count_tokens object -"),
            ("/v1/messages/batches", "create_batch object - b"),
            ("GET /v1/messages/batches", "fetch_batch object - b"),
            ("GET /v1/messages/batches/msgbatch_1", "fetch_batch object - b"),
            ("GET /v1/messages/batches/msgbatch_1/results", "batch_results object - b"),
            ("/v1/messages/batches/msgbatch_1/cancel", "cancel object - b"),
            ("/v1/complete", "text_completion anthropic_messages - +"),
        ],
    );
    check(
        "gemini",
        &[
            (
                "/v1beta/models/gemini-2.5-pro:generateContent?key=x",
                "generate_content gemini gemini-2.5-pro +!",
            ),
            (
                "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
                "generate_content gemini gemini-2.5-pro +!",
            ),
            ("/v1beta/tunedModels/mine:generateContent", "generate_content gemini mine +!"),
            ("/v1beta/models/g:countTokens", "count_tokens object g"),
            ("/v1beta/models/g:embedContent", "embeddings gemini g +"),
            ("/v1beta/models/g:batchEmbedContents", "embeddings gemini g +"),
            ("/v1beta/models/g:batchGenerateContent", "create_batch object g b"),
            ("GET /v1beta/batches/b1", "fetch_batch object - b"),
            ("/v1beta/batches/b1:cancel", "cancel object - b"),
            ("/v1beta/models/imagen-4:predict", "predict gemini imagen-4 +"),
            ("/v1beta/models/veo-3:predictLongRunning", "video_generation object veo-3"),
            ("/v1beta/interactions", "generate_content gemini_interactions - +"),
            ("GET /v1beta/interactions/i1", "fetch_response gemini_interactions -"),
            ("/v1beta/cachedContents", "cached_contents object -"),
            ("PATCH /v1beta/cachedContents/c1", "cached_contents object -"),
            ("/upload/v1beta/files", "files object -"),
            ("GET /v1beta/files/f1:download", "files object -"),
            ("/v1beta/openai/chat/completions", "chat openai_chat - +!"),
        ],
    );
    let google = "/v1/projects/p/locations/l/publishers";
    check(
        "vertex",
        &[
            (&format!("{google}/google/models/g:generateContent"), "generate_content gemini g +!"),
            (&format!("{google}/google/models/e:predict"), "predict gemini e +"),
            (
                &format!("{google}/anthropic/models/claude@1:rawPredict"),
                "chat anthropic_messages claude@1 +!",
            ),
            (
                &format!("{google}/anthropic/models/claude@1:streamRawPredict"),
                "chat anthropic_messages claude@1 +!",
            ),
            (&format!("{google}/anthropic/models/count-tokens:rawPredict"), "count_tokens object -"),
            (&format!("{google}/mistralai/models/m:rawPredict"), "chat openai_chat m +"),
            ("/v1/projects/p/locations/l/endpoints/42:generateContent", "generate_content gemini 42 +!"),
            ("/v1/projects/p/locations/l/endpoints/openapi/chat/completions", "chat openai_chat - +!"),
            ("/v1/projects/p/locations/l/batchPredictionJobs", "create_batch object - b"),
        ],
    );
    check(
        "bedrock",
        &[
            (
                "/model/us.amazon.nova-lite-v1%3A0/converse",
                "chat bedrock_converse us.amazon.nova-lite-v1%3A0 +",
            ),
            ("/model/m/converse-stream", "chat bedrock_converse m +"),
            ("/model/m/invoke", "chat bedrock_invoke m +"),
            ("/model/us.anthropic.claude-x/invoke", "chat anthropic_messages us.anthropic.claude-x +"),
            (
                "/model/anthropic.claude-x/invoke-with-response-stream",
                "chat anthropic_messages anthropic.claude-x +",
            ),
            (
                "/model/amazon.titan-embed-text-v2:0/invoke",
                "embeddings bedrock_invoke amazon.titan-embed-text-v2:0 +",
            ),
            ("/model/cohere.rerank-v3-5%3A0/invoke", "rerank bedrock_invoke cohere.rerank-v3-5%3A0 +"),
            (
                "/model/amazon.nova-canvas-v1:0/invoke",
                "image_generation bedrock_invoke amazon.nova-canvas-v1:0 +",
            ),
            ("/model/m/count-tokens", "count_tokens object m"),
            ("/guardrail/g/version/1/apply", "guardrail object -"),
            ("/async-invoke", "video_generation object -"),
            ("/guardrail-checks/invoke", "guardrail object -"),
            (
                "/model/amazon.nova-sonic-v1:0/invoke-with-bidirectional-stream",
                "realtime bedrock_invoke amazon.nova-sonic-v1:0 +",
            ),
            ("/v1/chat/completions", "chat openai_chat - +!"),
        ],
    );
    check(
        "cohere",
        &[
            ("/v1/chat", "chat cohere - +"),
            ("/v2/chat", "chat cohere - +"),
            ("/v1/generate", "text_completion cohere - +"),
            ("/v2/embed", "embeddings cohere - +"),
            ("/v2/rerank", "rerank embeddings - +"),
            ("/v1/tokenize", "count_tokens object -"),
            ("/compatibility/v1/chat/completions", "chat openai_chat - +!"),
        ],
    );
    for (provider, request, expected) in [
        ("mistral", "/v1/fim/completions", "text_completion openai_chat - +"),
        ("mistral", "/v1/agents/completions", "chat openai_chat - +"),
        ("mistral", "/v1/conversations/c/restart", "chat openai_chat - +"),
        ("mistral", "/v1/conversations", "chat openai_chat - +"),
        ("mistral", "/v1/ocr", "ocr embeddings - +"),
        ("mistral", "/v1/chat/moderations", "moderation embeddings - +"),
        ("mistral", "/v1/batch/jobs", "create_batch object - b"),
        ("mistral", "GET /v1/batch/jobs/j?inline=true", "fetch_batch object - b"),
        ("groq", "/openai/v1/chat/completions", "chat openai_chat - +!"),
        ("groq", "/openai/v1/audio/transcriptions", "transcription openai_audio - +"),
        ("deepseek", "/chat/completions", "chat openai_chat - +!"),
        ("deepseek", "/beta/completions", "text_completion openai_chat - +!"),
        ("deepseek", "/anthropic/v1/messages", "chat anthropic_messages - +!"),
        ("xai", "/v1/stt", "transcription openai_audio - +"),
        ("xai", "/v1/tts", "speech openai_audio - +"),
        ("xai", "GET /v1/batches/b/results", "batch_results object - b"),
        ("xai", "GET /v1/chat/deferred-completion/r", "chat openai_chat - +"),
        ("xai", "/xai_api.Chat/GetDeferredCompletion", "chat xai_grpc_deferred - +!"),
        ("xai", "/xai_api.Chat/StartDeferredCompletion", "other - -"),
        ("xai", "/xai_api.Image/GenerateImage", "image_generation xai_grpc_images - +!"),
        ("xai", "/xai_api.Tokenize/TokenizeText", "count_tokens object -"),
        ("together", "/v1/rerank", "rerank embeddings - +"),
        ("fireworks", "/inference/v1/chat/completions", "chat openai_chat - +!"),
        ("openrouter", "/api/v1/chat/completions", "chat openai_chat - +!"),
        ("openrouter", "/api/v1/messages", "chat anthropic_messages - +!"),
        ("perplexity", "/chat/completions", "chat openai_chat - +!"),
        ("huggingface", "/together/v1/chat/completions", "chat openai_chat - +!"),
        ("huggingface", "/hf-inference/models/org/name", "task - org/name +"),
        ("huggingface", "/models/org/name", "task - org/name +"),
        ("huggingface", "/hf-inference/models/org/name/pipeline/feature-extraction", "task - org/name +"),
        ("huggingface", "/models/gpt2", "task - - +"),
        ("cerebras", "/v1/chat/completions", "chat openai_chat - +!"),
        ("voyage", "/v1/embeddings", "embeddings embeddings - +!"),
        ("voyage", "/v1/multimodalembeddings", "embeddings embeddings - +"),
        ("voyage", "/v1/contextualizedembeddings", "embeddings embeddings - +"),
        ("ollama", "/api/chat", "chat ollama - +!"),
        ("ollama", "/api/generate", "text_completion ollama - +!"),
        ("ollama", "/api/embed", "embeddings ollama - +"),
        ("ollama", "/api/embeddings", "embeddings ollama - +"),
        ("ollama", "/api/show", "models object -"),
        ("local", "/v1/chat/completions", "chat openai_chat - +!"),
        ("local", "/completion", "text_completion model_server - +"),
        ("local", "/generate", "text_completion model_server - +"),
        ("local", "/generate_stream", "text_completion model_server - +"),
        ("local", "/v1/score", "rerank embeddings - +"),
        ("databricks", "/serving-endpoints/dbrx/invocations", "chat openai_chat dbrx +"),
        ("databricks", "/serving-endpoints/chat/completions", "chat openai_chat - +!"),
        ("cloudflare", "/client/v4/accounts/a/ai/v1/chat/completions", "chat openai_chat - +!"),
        ("cloudflare", "/client/v4/accounts/a/ai/run/@cf/meta/llama-3", "task workers_ai @cf/meta/llama-3 +"),
        ("cloudflare_gateway", "/v1/a/gw/workers-ai/@cf/meta/llama-3", "task workers_ai @cf/meta/llama-3 +"),
        ("snowflake", "/api/v2/cortex/inference:complete", "chat openai_chat - +"),
        ("dashscope", "/api/v1/services/aigc/text-generation/generation", "chat openai_responses - +"),
        ("writer", "/v1/chat", "chat openai_chat - +"),
        ("replicate", "/v1/models/o/n/predictions", "task replicate o/n +"),
        ("replicate", "/v1/deployments/o/n/predictions?x=1", "task replicate o/n +"),
        ("replicate", "/v1/predictions", "task replicate - +"),
        ("replicate", "GET /v1/predictions/p", "fetch_prediction replicate -"),
        ("watsonx", "/ml/v1/text/generation?version=2025-02-11", "text_completion watsonx - +"),
        ("watsonx", "/ml/v1/deployments/d/text/chat_stream", "chat watsonx_chat d +"),
        ("watsonx", "/ml/v1-beta/generation/text", "text_completion - - +"),
        ("gateway", "/mcp", "mcp mcp - !"),
        ("gateway", "/api/mcp/", "mcp mcp - !"),
        ("gateway", "GET /mcp", "mcp_listen mcp -"),
        ("gateway", "DELETE /mcp", "mcp_end - -"),
        ("github_copilot", "/mcp/readonly", "mcp mcp - !"),
    ] {
        super::paths_tests::check(&directory, provider, request, expected);
    }
}

#[test]
fn any_target_is_answered() {
    let directory = Directory::builtin();
    let long = "/v1".repeat(100_000) + "/chat/completions";
    check(&directory, "openai", &format!("POST {long}"), "chat openai_chat - +!");
    for odd in
        ["://", "http://", ":", "/:", "/:generateContent", "///", "?", "#", "/model//converse", "/\u{fffd}"]
    {
        check(&directory, "openai", &format!("POST {odd}"), "other - -");
    }
}

fn user(hosts: &[&str], dialect: Option<&str>, paths: &[(&str, &str, Option<&str>)]) -> UserProvider {
    UserProvider {
        name: "gw".into(),
        hosts: hosts.iter().map(|host| (*host).into()).collect(),
        dialect: dialect.map(Into::into),
        paths: paths
            .iter()
            .map(|(path, operation, dialect)| UserPath {
                path: (*path).into(),
                operation: (*operation).into(),
                dialect: dialect.map(Into::into),
            })
            .collect(),
    }
}

#[test]
fn users_add_paths() {
    let mut directory = Directory::builtin();
    let entry = user(&["gw.corp"], None, &[("/llm/{model}/ask", "chat", Some("openai_chat"))]);
    directory.extend(&[entry]).unwrap();
    check(&directory, "gw", "/llm/gpt-x/ask", "chat openai_chat gpt-x +");
    check(&directory, "openai", "/llm/gpt-x/ask", "other - -");
    assert!(directory.operation("gw", "POST", "/elsewhere").by_shape);
    assert!(!directory.operation("gw", "GET", "/elsewhere").by_shape);
    directory.extend(&[user(&["gw2.corp"], Some("ollama"), &[])]).unwrap();
    check(&directory, "gw", "/elsewhere", "chat ollama - +");
    check(&directory, "gw", "GET /elsewhere", "other - -");
}

#[test]
fn a_wrong_path_is_named() {
    let check = |paths: &[(&str, &str, Option<&str>)], dialect: Option<&str>, expected: &str| {
        let mut directory = Directory::builtin();
        let problems = directory.extend(&[user(&["gw.corp"], dialect, paths)]).unwrap_err();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.to_string().starts_with(expected), "{problem}");
        assert!(directory.lookup("gw.corp").is_none(), "nothing is added");
    };
    let path = |path| [(path, "chat", None)];
    check(&path("ask"), None, "provider \"gw\": path \"ask\": must begin with \"/\"");
    check(&path(""), None, "provider \"gw\": path \"\": is empty");
    check(&path("/a//b"), None, "provider \"gw\": path \"/a//b\": has an empty segment");
    check(&path("/a/b*"), None, "provider \"gw\": path \"/a/b*\": has a sign");
    check(
        &path("/{model}/a/{model}"),
        None,
        "provider \"gw\": path \"/{model}/a/{model}\": names the model twice",
    );
    check(
        &[("/a", "talk", None)],
        None,
        "provider \"gw\": operation \"talk\" is not known; known are: chat, ",
    );
    check(
        &[("/a", "chat", Some("x"))],
        None,
        "provider \"gw\": dialect \"x\" is not built; built are: openai_chat",
    );
    check(&[], Some("x"), "provider \"gw\": dialect \"x\" is not built");
    check(
        &[("/a/{model}", "chat", None), ("/a/*", "embeddings", None)],
        None,
        "provider \"gw\": path \"/a/*\" is as specific as \"/a/{model}\"",
    );
}

#[test]
fn overlapping_patterns_are_refused() {
    let check = |one: &str, two: &str, refused: bool| {
        let mut directory = Directory::builtin();
        let paths = [(one, "chat", None), (two, "embeddings", None)];
        let problems = directory.extend(&[user(&["gw.corp"], None, &paths)]).err().unwrap_or_default();
        let ambiguous = |problem: &DirectoryError| {
            matches!(problem, DirectoryError::Path { problem: PathError::Ambiguous { .. }, .. })
        };
        assert_eq!(problems.iter().any(ambiguous), refused, "{one} and {two}");
    };
    check("/a/b", "/a/b", true);
    check("/a/b", "/a/c", false);
    check("**/a/b", "**/x/a/b", false);
    check("/*/b", "/a/*", true);
    check("/*/b", "/a/*/*", false);
    check("**/a/**", "**/b/**", true);
    check("/a/**", "/a/b", false);
    check("**/{model}:go", "**/*:go", true);
    check("**/{model}:go", "**/*:stop", false);
    check("/a/{model}/b", "/a/*/c", false);
}
