//! HTTP/1.1 beside `hyper`: its client and its server talk over a pipe; then each of them reads what we wrote by hand
//! with all the freedom that RFC 9112 gives.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meter::http::End;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::log::{Log, Message, fields_of, read};
use crate::tape::{Tap, Tape, converse};

/// A body and how it is framed.
#[derive(Clone, Debug)]
enum Body {
    None,
    Sized(Bytes),
    Chunked { parts: Vec<Bytes>, trailer: bool },
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Body::None => Vec::new(),
            Body::Sized(bytes) => bytes.to_vec(),
            Body::Chunked { parts, .. } => parts.concat(),
        }
    }

    fn sent(&self) -> BoxBody<Bytes, Infallible> {
        match self {
            Body::None => Empty::new().boxed(),
            Body::Sized(bytes) => Full::new(bytes.clone()).boxed(),
            Body::Chunked { parts, trailer } => {
                let mut frames: Vec<_> = parts.iter().map(|part| Ok(Frame::data(part.clone()))).collect();
                if *trailer {
                    let fields = HeaderMap::from_iter([(TRAILER, HeaderValue::from_static("1"))]);
                    frames.push(Ok(Frame::trailers(fields)));
                }
                BoxBody::new(StreamBody::new(futures::stream::iter(frames)))
            }
        }
    }

    /// Says that a trailer comes, without which hyper sends none.
    fn announce(&self, fields: &mut HeaderMap) {
        if let Body::Chunked { trailer: true, .. } = self {
            fields.insert(header::TRAILER, HeaderValue::from_static("x-trailer"));
        }
    }
}

const TRAILER: HeaderName = HeaderName::from_static("x-trailer");

/// One call and its answer.
#[derive(Clone, Debug)]
struct Call {
    method: Method,
    target: &'static str,
    fields: HeaderMap,
    body: Body,
    expect: bool,
    status: u16,
    answer_fields: HeaderMap,
    answer: Body,
}

/// What one side saw, in order.
type Seen = Arc<Mutex<Vec<Message>>>;

async fn whole(start: String, fields: &HeaderMap, body: Incoming) -> Message {
    let body = body.collect().await.map(|body| body.to_bytes().to_vec());
    let end = if body.is_ok() { Some(End::Complete) } else { None };
    Message { start, fields: fields_of(fields), body: body.unwrap_or_default(), end }
}

/// Hyper's server on `pipe`; it notes what it is asked.
async fn serve(pipe: DuplexStream, calls: Vec<Call>, seen: Seen) {
    let service = service_fn(|request: Request<Incoming>| {
        let (calls, seen) = (calls.clone(), Arc::clone(&seen));
        async move {
            let (head, body) = request.into_parts();
            let asked = whole(format!("{} {}", head.method, head.uri), &head.headers, body).await;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let call = calls.get(seen.len());
            seen.push(asked);
            let mut response = Response::new(call.map_or(Body::None, |call| call.answer.clone()).sent());
            if let Some(call) = call {
                *response.status_mut() = StatusCode::from_u16(call.status).unwrap_or_default();
                *response.headers_mut() = call.answer_fields.clone();
                call.answer.announce(response.headers_mut());
            }
            Ok::<_, Infallible>(response)
        }
    });
    // A connection that the client closes first ends with an error, which says nothing about what was read.
    let _ = hyper::server::conn::http1::Builder::new()
        .pipeline_flush(true)
        .half_close(true)
        .serve_connection(TokioIo::new(pipe), service)
        .await;
}

/// Hyper's client on `pipe`, one call after the other; what it was answered.
async fn ask(pipe: Tap<DuplexStream>, calls: &[Call]) -> Vec<Message> {
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.allow_spaces_after_header_name_in_responses(true);
    let (mut client, connection) = builder.handshake(TokioIo::new(pipe)).await.expect("a client");
    let asking = async move {
        let mut answers = Vec::new();
        for call in calls {
            if client.ready().await.is_err() {
                break;
            }
            let mut request = Request::new(call.body.sent());
            *request.method_mut() = call.method.clone();
            *request.uri_mut() = call.target.parse().expect("an address");
            *request.headers_mut() = call.fields.clone();
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("api.example.com"));
            request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
            call.body.announce(request.headers_mut());
            if call.expect {
                request.headers_mut().insert(header::EXPECT, HeaderValue::from_static("100-continue"));
            }
            let Ok(response) = client.send_request(request).await else { break };
            let (head, body) = response.into_parts();
            answers.push(whole(head.status.as_u16().to_string(), &head.headers, body).await);
        }
        answers
    };
    tokio::join!(asking, async { drop(connection.await) }).0
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    const NAMES: [&str; 6] = ["content-type", "authorization", "x-request-id", "set-cookie", "vary", "x-a"];
    let value = prop_oneof![
        "[!-~]([ -~]{0,40}[!-~])?".prop_map(String::into_bytes),
        Just(Vec::new()),
        prop::collection::vec(prop_oneof![0x21u8..0x7f, 0x80u8..=0xff], 1..30),
        (1usize..3_000).prop_map(|len| vec![b'z'; len]),
    ];
    prop::collection::vec((prop::sample::select(NAMES.to_vec()), value), 0..6).prop_map(|list| {
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).expect("no control characters");
        let mut map = HeaderMap::new();
        for (name, text) in &list {
            map.append(HeaderName::from_static(name), value(text));
        }
        map
    })
}

fn body() -> impl Strategy<Value = Body> {
    let part = || {
        let len = prop_oneof![4 => 1usize..300, 1 => 1usize..40_000];
        // Bytes that look like framing are framing nowhere in a body.
        let fill = prop::sample::select(vec![
            &b"HTTP/1.1 200 OK\r\n\r\n"[..],
            b"0\r\n\r\n",
            b"x",
            b"\r\n",
            b"POST / HTTP/1.1\r\n",
        ]);
        (len, fill).prop_map(|(len, fill)| Bytes::from_iter(fill.iter().copied().cycle().take(len)))
    };
    prop_oneof![
        1 => Just(Body::None),
        2 => part().prop_map(Body::Sized),
        3 => (prop::collection::vec(part(), 0..5), any::<bool>())
            .prop_map(|(parts, trailer)| Body::Chunked { parts, trailer }),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let method =
        prop::sample::select(vec![Method::POST, Method::POST, Method::GET, Method::HEAD, Method::PUT]);
    let target = prop::sample::select(vec![
        "/v1/chat/completions",
        "/",
        "/v1/models?a=b%20c",
        "http://api.example.com/x",
    ]);
    let status = prop::sample::select(vec![200u16, 200, 201, 204, 304, 400, 429, 500]);
    (method, target, fields(), body(), any::<bool>(), status, fields(), body()).prop_map(
        |(method, target, fields, body, expect, status, answer_fields, answer)| {
            // hyper sends no body of unknown length with these.
            let bare = matches!(method, Method::GET | Method::HEAD);
            let body = if bare { Body::None } else { body };
            Call { method, target, fields, body, expect, status, answer_fields, answer }
        },
    )
}

/// The same messages in the same order.
fn check(log: &Log, requests: &[Message], responses: &[Message]) -> Result<(), TestCaseError> {
    let ours: Vec<&Message> = log.requests.values().collect();
    prop_assert_eq!(ours, requests.iter().collect::<Vec<_>>());
    let ours: Vec<&Message> = log.responses.values().collect();
    prop_assert_eq!(ours, responses.iter().collect::<Vec<_>>());
    Ok(())
}

fn taken(seen: &Seen) -> Vec<Message> {
    std::mem::take(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A message written by hand.
#[derive(Clone, Debug)]
struct Written {
    bytes: Vec<u8>,
    body: Vec<u8>,
}

/// How a message is written where the standard leaves a choice.
#[derive(Clone, Debug)]
struct Style {
    blank_lines: usize,
    line_end: &'static str,
    colon: &'static str,
    after: &'static str,
    upper: bool,
    coding: &'static str,
    zeros: usize,
    extension: &'static str,
    trailer: &'static str,
}

fn style() -> impl Strategy<Value = Style> {
    let line = (
        0usize..3,
        prop::sample::select(vec!["\r\n", "\r\n", "\n"]),
        prop::sample::select(vec![": ", ":", ":\t ", ":  "]),
    );
    let chunk = (
        prop::sample::select(vec!["chunked", "Chunked", "gzip, chunked"]),
        0usize..4,
        prop::sample::select(vec!["", ";a", ";a=b", ";a=\"b c\"", ";a=b;c=d"]),
        prop::sample::select(vec!["", "x-trailer: 1\r\n", "x-trailer: 1\r\nx-b:\r\n"]),
    );
    let rest = (prop::sample::select(vec!["", " ", "\t"]), any::<bool>());
    (line, chunk, rest).prop_map(
        |((blank_lines, line_end, colon), (coding, zeros, extension, trailer), (after, upper))| Style {
            blank_lines,
            line_end,
            colon,
            after,
            upper,
            coding,
            zeros,
            extension,
            trailer,
        },
    )
}

impl Style {
    fn field(&self, bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
        let name = if self.upper { name.to_ascii_uppercase() } else { name.to_owned() };
        bytes.extend_from_slice(format!("{name}{}", self.colon).as_bytes());
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(format!("{}{}", self.after, self.line_end).as_bytes());
    }

    /// A whole message that begins with `start`; `bodiless` if nothing may follow its head.
    fn write(&self, start: &str, fields: &HeaderMap, body: &Body, bodiless: bool) -> Written {
        let mut bytes = [start, self.line_end].concat().into_bytes();
        for (name, value) in fields {
            self.field(&mut bytes, name.as_str(), value.as_bytes());
        }
        match body {
            Body::None => {}
            Body::Sized(data) => self.field(&mut bytes, "content-length", data.len().to_string().as_bytes()),
            Body::Chunked { .. } => self.field(&mut bytes, "transfer-encoding", self.coding.as_bytes()),
        }
        bytes.extend_from_slice(self.line_end.as_bytes());
        if bodiless {
            return Written { bytes, body: Vec::new() };
        }
        if let Body::Chunked { parts, .. } = body {
            for part in parts {
                let zeros = "0".repeat(self.zeros);
                let size = if self.upper { format!("{:X}", part.len()) } else { format!("{:x}", part.len()) };
                bytes.extend_from_slice(format!("{zeros}{size}{}\r\n", self.extension).as_bytes());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(format!("0{}\r\n{}\r\n", self.extension, self.trailer).as_bytes());
        } else {
            bytes.extend_from_slice(&body.bytes());
        }
        Written { bytes, body: body.bytes() }
    }
}

proptest! {
    #![proptest_config(crate::cases(96))]

    #[test]
    fn http1_is_read_as_hyper_reads_it(
        calls in prop::collection::vec(call(), 1..8),
        pipe in 64usize..100_000,
        cuts in prop::collection::vec(1usize..5_000, 1..8),
    ) {
        let (tape, seen) = (Tape::default(), Seen::default());
        let answers = converse(async {
            let (near, far) = tokio::io::duplex(pipe);
            let near = Tap { inner: near, tape: tape.clone() };
            tokio::join!(ask(near, &calls), serve(far, calls.clone(), Arc::clone(&seen))).0
        });
        prop_assert_eq!(answers.len(), calls.len());
        check(&read(&tape.take(), &cuts), &taken(&seen), &answers)?;
    }

    #[test]
    fn requests_written_by_hand_are_read_as_hyper_reads_them(
        calls in prop::collection::vec((call(), style()), 1..8),
        cuts in prop::collection::vec(1usize..500, 1..8),
    ) {
        let written: Vec<Written> = calls.iter().map(|(call, style)| {
            let start = format!("{}{} {} HTTP/1.1", "\r\n".repeat(style.blank_lines), call.method, call.target);
            style.write(&start, &call.fields, &call.body, false)
        }).collect();
        let bytes: Vec<u8> = written.iter().flat_map(|written| written.bytes.clone()).collect();
        let (tape, seen) = (Tape::default(), Seen::default());
        converse(async {
            // One after the other without waiting for answers.
            let (near, far) = tokio::io::duplex(1 << 20);
            let mut near = Tap { inner: near, tape: tape.clone() };
            let client = async {
                near.write_all(&bytes).await.expect("a pipe");
                near.shutdown().await.expect("a pipe");
                near.read_to_end(&mut Vec::new()).await.expect("a pipe");
            };
            tokio::join!(client, serve(far, Vec::new(), Arc::clone(&seen)))
        });
        let (asked, log) = (taken(&seen), read(&tape.take(), &cuts));
        prop_assert_eq!(asked.len(), calls.len());
        for (asked, written) in asked.iter().zip(&written) {
            prop_assert_eq!(&asked.body, &written.body);
        }
        prop_assert_eq!(log.requests.values().collect::<Vec<_>>(), asked.iter().collect::<Vec<_>>());
        for response in log.responses.values() {
            prop_assert_eq!((response.start.as_str(), response.end), ("200", Some(End::Complete)));
        }
        prop_assert_eq!(log.responses.len(), calls.len());
    }

    #[test]
    fn responses_written_by_hand_are_read_as_hyper_reads_them(
        calls in prop::collection::vec((call(), style(), prop::sample::select(vec![
            "", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "HTTP/1.1 102\r\n\r\n",
        ]), prop::sample::select(vec![" OK", " ", "", " Not what you think"])), 1..8),
        cuts in prop::collection::vec(1usize..500, 1..8),
        until_close: bool,
    ) {
        let mut calls: Vec<_> = calls.into_iter().map(|(mut call, style, interim, reason)| {
            call.body = Body::None;
            call.expect = false;
            // Without length and without chunks an answer ends with the connection.
            if let Body::None = call.answer {
                call.answer = Body::Sized(Bytes::new());
            }
            (call, style, interim, reason)
        }).collect();
        if let Some((call, ..)) = calls.last_mut().filter(|_| until_close) {
            call.status = 200;
            call.method = Method::POST;
            call.answer = Body::None;
        }
        let written: Vec<Written> = calls.iter().map(|(call, style, interim, reason)| {
            let start = format!("{interim}HTTP/1.1 {}{reason}", call.status);
            let bodiless = call.method == Method::HEAD || matches!(call.status, 204 | 304);
            style.write(&start, &call.answer_fields, &call.answer, bodiless)
        }).collect();
        let asked: Vec<Call> = calls.iter().map(|(call, ..)| call.clone()).collect();
        let tape = Tape::default();
        let answers = converse(async {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let near = Tap { inner: near, tape: tape.clone() };
            let server = async {
                for written in &written {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(far.read_u8().await.expect("a request"));
                    }
                    far.write_all(&written.bytes).await.expect("a pipe");
                }
                if until_close {
                    far.write_all(b"until the connection closes").await.expect("a pipe");
                }
                drop(far);
            };
            tokio::join!(ask(near, &asked), server).0
        });
        let log = read(&tape.take(), &cuts);
        prop_assert_eq!(answers.len(), calls.len());
        prop_assert_eq!(log.responses.len(), calls.len());
        let last = calls.len() - 1;
        for (at, (ours, theirs)) in log.responses.values().zip(&answers).enumerate() {
            prop_assert_eq!((&ours.start, &ours.fields, &ours.body), (&theirs.start, &theirs.fields, &theirs.body));
            let end = if until_close && at == last { End::WithConnection } else { End::Complete };
            prop_assert_eq!(ours.end, Some(end));
        }
    }
}
