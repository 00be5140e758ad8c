//! A local provider: answers in the formats of OpenAI chat completions, OpenAI responses and Anthropic messages,
//! streamed and not, over HTTP/1.1 and HTTP/2 by ALPN, with exactly the token counts that the prompt asks for.
//!
//! The last user message is an order, not a prompt: `lab input=1200 output=34 cached=1000 reasoning=5 chunks=3`. What
//! is not ordered gets a default, so that any request has a lawful answer. With `x-lab-replay: ID` the provider
//! answers with a recorded exchange instead; with several ids an SDK's first attempt gets the first, its retry the next. Everything it served is counted for comparison with the client's count.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, Infallible>;

/// A recorded answer.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// HTTP status.
    pub status: u16,
    /// Headers, without those of the transport.
    pub headers: Vec<(String, String)>,
    /// Body as it travelled.
    pub body: Bytes,
}

/// What the provider served so far.
#[derive(Debug, Default)]
pub struct Served {
    /// Requests answered.
    pub requests: AtomicU64,
    /// Body bytes received.
    pub request_body_bytes: AtomicU64,
    /// TLS connections accepted.
    pub connections: AtomicU64,
    /// Of these, HTTP/2 ones.
    pub http2_connections: AtomicU64,
    /// Recorded answers by id.
    pub recorded: Mutex<HashMap<String, Recorded>>,
}

/// Starts a provider on `listen` that speaks TLS with `tls` until the runtime ends.
pub async fn spawn(listen: SocketAddr, tls: Arc<rustls::ServerConfig>) -> anyhow::Result<Arc<Served>> {
    let served = Arc::new(Served::default());
    let listener = TcpListener::bind(listen).await?;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let state = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = acceptor.accept(stream).await else { return };
                state.connections.fetch_add(1, Ordering::Relaxed);
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                state.http2_connections.fetch_add(u64::from(h2), Ordering::Relaxed);
                let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&state)));
                let io = TokioIo::new(stream);
                // A client that hangs up in the middle is part of the tests.
                let _ = if h2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                };
            });
        }
    });
    Ok(served)
}

/// The snapshot that a provider answers with when asked for `model`.
pub fn served_model(model: &str) -> String {
    match model {
        "gpt-4o" => "gpt-4o-2024-08-06".to_owned(),
        "gpt-4o-mini" => "gpt-4o-mini-2024-07-18".to_owned(),
        "claude-sonnet-4-5" => "claude-sonnet-4-5-20250929".to_owned(),
        other => format!("{other}-2026-01-15"),
    }
}

/// What the last user message orders.
struct Order {
    input: u64,
    output: u64,
    cached: u64,
    reasoning: u64,
    chunks: u64,
    pause: Duration,
    status: u16,
}

impl Order {
    fn from_request(body: &Value) -> Order {
        let mut text = String::new();
        collect_text(body.get("messages").or_else(|| body.get("input")).unwrap_or(&Value::Null), &mut text);
        let number = |key: &str, default: u64| {
            text.split_whitespace()
                .rev()
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
                .unwrap_or(default)
        };
        Order {
            input: number("input", 21),
            output: number("output", 9),
            cached: number("cached", 0),
            reasoning: number("reasoning", 0),
            chunks: number("chunks", 3),
            pause: Duration::from_millis(number("pause_ms", 0)),
            status: u16::try_from(number("status", 200)).unwrap_or(200),
        }
    }
}

fn collect_text(value: &Value, text: &mut String) {
    match value {
        Value::String(part) => {
            text.push(' ');
            text.push_str(part);
        }
        Value::Array(items) => items.iter().for_each(|item| collect_text(item, text)),
        Value::Object(map) => {
            for key in ["content", "text"] {
                map.get(key).iter().for_each(|item| collect_text(item, text));
            }
        }
        _ => {}
    }
}

async fn answer(request: Request<Incoming>, served: Arc<Served>) -> Result<Response<Body>, Infallible> {
    let number = served.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let attempt = field("x-stainless-retry-count").and_then(|count| count.parse().ok()).unwrap_or(0);
    let replay = field("x-lab-replay").and_then(|ids| ids.split(' ').nth(attempt)).map(str::to_owned);
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    served.request_body_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    if let Some(id) = replay {
        let recorded = served.recorded.lock().map(|map| map.get(&id).cloned()).unwrap_or_default();
        return Ok(replayed(recorded));
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let order = Order::from_request(&asked);
    let model = asked["model"].as_str().unwrap_or("unknown").to_owned();
    let streamed = asked["stream"].as_bool().unwrap_or(false);
    let call =
        Call { number, model, include_usage: asked["stream_options"]["include_usage"] == json!(true), order };
    if call.order.status >= 400 {
        return Ok(call.error(&path));
    }
    Ok(match (path.as_str(), streamed) {
        ("/v1/chat/completions", false) => call.respond(call.chat()),
        ("/v1/chat/completions", true) => call.stream(call.chat_events()),
        ("/v1/responses", false) => call.respond(call.responses()),
        ("/v1/responses", true) => call.stream(call.responses_events()),
        ("/v1/messages", false) => call.respond(call.messages()),
        ("/v1/messages", true) => call.stream(call.messages_events()),
        ("/page" | "/echo", _) => plain(StatusCode::OK, format!("page of {} bytes\n", body.len())),
        _ => plain(StatusCode::NOT_FOUND, format!("no such path: {path}\n")),
    })
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).boxed()
}

fn replayed(recorded: Option<Recorded>) -> Response<Body> {
    let Some(recorded) = recorded else {
        return plain(StatusCode::NOT_FOUND, "no such recording\n".to_owned());
    };
    let mut builder = Response::builder().status(recorded.status);
    for (name, value) in &recorded.headers {
        builder = builder.header(name, value);
    }
    builder
        .body(full(recorded.body))
        .unwrap_or_else(|error| plain(StatusCode::INTERNAL_SERVER_ERROR, format!("recording: {error}\n")))
}

/// One request with what it gets.
struct Call {
    number: u64,
    model: String,
    include_usage: bool,
    order: Order,
}

impl Call {
    fn served_model(&self) -> String {
        served_model(&self.model)
    }

    fn respond(&self, body: Value) -> Response<Body> {
        let builder = Response::builder().header("content-type", "application/json");
        self.identify(builder).body(full(body.to_string())).unwrap_or_else(|_| Response::new(full("")))
    }

    fn identify(&self, builder: hyper::http::response::Builder) -> hyper::http::response::Builder {
        let id = format!("req_lab_{:08}", self.number);
        builder.header("x-request-id", &id).header("request-id", &id)
    }

    fn error(&self, path: &str) -> Response<Body> {
        let error = json!({"message": "as ordered", "type": "invalid_request_error", "code": "lab_error", "param": null});
        let body = match path {
            "/v1/messages" => {
                json!({"type": "error", "error": {"type": "invalid_request_error", "message": "as ordered"}})
            }
            _ => json!({ "error": error }),
        };
        let mut response = self.respond(body);
        *response.status_mut() = StatusCode::from_u16(self.order.status).unwrap_or(StatusCode::BAD_REQUEST);
        response
    }

    fn stream(&self, events: Vec<String>) -> Response<Body> {
        let (sender, receiver) = tokio::sync::mpsc::channel::<String>(8);
        let pause = self.order.pause;
        tokio::spawn(async move {
            for event in events {
                if sender.send(event).await.is_err() {
                    return;
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        });
        let frames = futures_stream(receiver);
        let builder = Response::builder().header("content-type", "text/event-stream; charset=utf-8");
        self.identify(builder)
            .body(BodyExt::boxed(StreamBody::new(frames)))
            .unwrap_or_else(|_| Response::new(full("")))
    }

    fn chat_usage(&self) -> Value {
        let order = &self.order;
        json!({
            "prompt_tokens": order.input, "completion_tokens": order.output,
            "total_tokens": order.input + order.output,
            "prompt_tokens_details": {"cached_tokens": order.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": order.reasoning, "audio_tokens": 0},
        })
    }

    fn chat(&self) -> Value {
        json!({
            "id": format!("chatcmpl-lab{}", self.number), "object": "chat.completion", "created": 1_760_000_000,
            "model": self.served_model(),
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null,
                "message": {"role": "assistant", "content": "An answer that must not be kept.", "refusal": null}}],
            "usage": self.chat_usage(), "service_tier": "default", "system_fingerprint": "fp_lab",
        })
    }

    fn chat_events(&self) -> Vec<String> {
        let chunk = |choices: Value, usage: Value| {
            let mut chunk = json!({
                "id": format!("chatcmpl-lab{}", self.number), "object": "chat.completion.chunk",
                "created": 1_760_000_000, "model": self.served_model(), "service_tier": "default", "choices": choices,
            });
            if self.include_usage {
                chunk["usage"] = usage;
            }
            format!("data: {chunk}\n\n")
        };
        let mut events = vec![chunk(
            json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]),
            Value::Null,
        )];
        for part in 0..self.order.chunks {
            let delta = json!({"content": format!("word{part} ")});
            events.push(chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), Value::Null));
        }
        events.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), Value::Null));
        if self.include_usage {
            events.push(chunk(json!([]), self.chat_usage()));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }

    fn response_object(&self, status: &str, usage: Value) -> Value {
        json!({
            "id": format!("resp_lab{}", self.number), "object": "response", "created_at": 1_760_000_000,
            "status": status, "model": self.served_model(), "error": null, "incomplete_details": null,
            "instructions": null, "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0,
            "tool_choice": "auto", "tools": [], "service_tier": "default",
            "output": [{"type": "message", "id": "msg_lab", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": "An answer that must not be kept.", "annotations": []}]}],
            "usage": usage,
        })
    }

    fn responses_usage(&self) -> Value {
        let order = &self.order;
        json!({
            "input_tokens": order.input, "output_tokens": order.output, "total_tokens": order.input + order.output,
            "input_tokens_details": {"cached_tokens": order.cached},
            "output_tokens_details": {"reasoning_tokens": order.reasoning},
        })
    }

    fn responses(&self) -> Value {
        self.response_object("completed", self.responses_usage())
    }

    fn responses_events(&self) -> Vec<String> {
        let mut events = Vec::new();
        let mut push = |name: &str, mut data: Value| {
            data["type"] = json!(name);
            data["sequence_number"] = json!(events.len());
            events.push(format!("event: {name}\ndata: {data}\n\n"));
        };
        push("response.created", json!({"response": self.response_object("in_progress", Value::Null)}));
        for part in 0..self.order.chunks {
            let delta = format!("word{part} ");
            push(
                "response.output_text.delta",
                json!({"item_id": "msg_lab", "output_index": 0, "content_index": 0, "delta": delta, "logprobs": []}),
            );
        }
        push(
            "response.completed",
            json!({"response": self.response_object("completed", self.responses_usage())}),
        );
        events
    }

    /// Anthropic reports uncached, cache-read and cache-write input apart; the order's `input` is their sum.
    fn messages_usage(&self, output: u64) -> Value {
        let order = &self.order;
        json!({
            "input_tokens": order.input - order.cached.min(order.input), "cache_read_input_tokens": order.cached,
            "cache_creation_input_tokens": 0, "output_tokens": output, "service_tier": "standard",
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        })
    }

    fn message_object(&self, content: Value, stop: Value, output: u64) -> Value {
        json!({
            "id": format!("msg_lab{}", self.number), "type": "message", "role": "assistant",
            "model": self.served_model(), "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": self.messages_usage(output),
        })
    }

    fn messages(&self) -> Value {
        let content = json!([{"type": "text", "text": "An answer that must not be kept."}]);
        self.message_object(content, json!("end_turn"), self.order.output)
    }

    fn messages_events(&self) -> Vec<String> {
        let mut events = Vec::new();
        let mut push = |name: &str, mut data: Value| {
            data["type"] = json!(name);
            events.push(format!("event: {name}\ndata: {data}\n\n"));
        };
        push("message_start", json!({"message": self.message_object(json!([]), Value::Null, 1)}));
        push("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}}));
        push("ping", json!({}));
        for part in 0..self.order.chunks {
            let delta = json!({"type": "text_delta", "text": format!("word{part} ")});
            push("content_block_delta", json!({"index": 0, "delta": delta}));
        }
        push("content_block_stop", json!({"index": 0}));
        let delta = json!({"stop_reason": "end_turn", "stop_sequence": null});
        push("message_delta", json!({"delta": delta, "usage": {"output_tokens": self.order.output}}));
        push("message_stop", json!({}));
        events
    }
}

/// The receiver as a stream of body frames.
fn futures_stream(
    mut receiver: tokio::sync::mpsc::Receiver<String>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(Bytes::from(event)))))
    })
}
