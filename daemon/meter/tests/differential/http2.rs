//! HTTP/2 beside the `h2` crate: its client and its server talk over a pipe, with generated settings, heads, bodies,
//! trailers, interim responses, pushes and resets; many streams at a time.

use std::collections::BTreeMap;
use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason as Code, RecvStream, SendStream, client, server};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use meter::exchange::Reason;
use meter::http::End;
use proptest::prelude::*;

use crate::log::{Fields, Message, fields_of, read};
use crate::tape::{Tap, Tape, converse};

/// What the two sides agree on before the first request.
#[derive(Clone, Debug)]
struct Settings {
    window: u32,
    frame: u32,
    client_table: u32,
    server_table: u32,
    pipe: usize,
}

/// One call and its answer.
#[derive(Clone, Debug)]
struct Call {
    method: Method,
    target: String,
    fields: HeaderMap,
    body: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    interim: bool,
    push: bool,
    status: u16,
    answer_fields: HeaderMap,
    answer: Vec<Bytes>,
    answer_trailers: Option<HeaderMap>,
    fate: Fate,
}

/// How a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// The server resets the stream instead of ending the answer.
    Broken,
    /// The server resets the stream instead of answering.
    Refused,
    /// The server answers completely without reading the request.
    Unread,
}

/// What both sides saw of a call, by its stream.
#[derive(Debug, Default)]
struct Seen {
    requests: BTreeMap<u64, Message>,
    responses: BTreeMap<u64, Message>,
}

async fn collect(body: &mut RecvStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let Ok(part) = part else { return (all, false) };
        all.extend_from_slice(&part);
        let _ = body.flow_control().release_capacity(part.len());
    }
    let good = body.trailers().await.is_ok();
    (all, good)
}

fn send(mut stream: SendStream<Bytes>, parts: &[Bytes], trailers: Option<HeaderMap>, reset: bool) {
    let last = parts.len();
    for (at, part) in parts.iter().enumerate() {
        let end = at + 1 == last && trailers.is_none() && !reset;
        // Fails if the other side has reset the stream, which is a fate like any other.
        let _ = stream.send_data(part.clone(), end);
    }
    match trailers {
        _ if reset => stream.send_reset(Code::INTERNAL_ERROR),
        Some(trailers) => drop(stream.send_trailers(trailers)),
        None if parts.is_empty() => drop(stream.send_data(Bytes::new(), true)),
        None => {}
    }
}

fn bodiless(parts: &[Bytes], trailers: &Option<HeaderMap>) -> bool {
    parts.is_empty() && trailers.is_none()
}

/// The server's side of one call; what it was asked.
async fn answer(
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    calls: &[Call],
) -> (u64, Message) {
    let stream = u64::from(respond.stream_id().as_u32());
    let number = request.headers().get("call").and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let call = number.and_then(|number| calls.get(number)).expect("the call's number is a field of it");
    let (head, mut body) = request.into_parts();
    let mut seen = Message {
        start: format!(
            "{} {}{}",
            head.method,
            head.uri.authority().map_or("", |name| name.as_str()),
            call.target
        ),
        fields: fields_of(&head.headers),
        ..Message::default()
    };
    assert_eq!(head.uri.path_and_query().map(|target| target.as_str()), Some(call.target.as_str()));
    if call.fate != Fate::Unread {
        seen.body = collect(&mut body).await.0;
    }
    if call.interim {
        let hints = Response::builder().status(103).header("link", "</style.css>").body(());
        respond.send_informational(hints.expect("a status and a field")).expect("the stream is open");
    }
    // One push a connection: h2 may send the promises of several streams out of order, which its client refuses.
    if number == calls.iter().position(|call| call.push) {
        let pushed = Request::get("https://api.example.com/pushed").header("x-pushed", "1").body(());
        if let Ok(mut pushed) = respond.push_request(pushed.expect("an address and a field"))
            && let Ok(mut stream) = pushed.send_response(Response::new(()), false)
        {
            let _ = stream.send_data(Bytes::from_static(b"{\"usage\":{}}"), true);
        }
    }
    if call.fate == Fate::Refused {
        respond.send_reset(Code::REFUSED_STREAM);
        return (stream, seen);
    }
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(call.status).expect("a status");
    *response.headers_mut() = call.answer_fields.clone();
    let ends = bodiless(&call.answer, &call.answer_trailers) && call.fate != Fate::Broken;
    if let Ok(stream) = respond.send_response(response, ends)
        && !ends
    {
        send(stream, &call.answer, call.answer_trailers.clone(), call.fate == Fate::Broken);
    }
    (stream, seen)
}

/// The client's side of one call; what it was answered.
async fn ask(mut client: client::SendRequest<Bytes>, number: usize, call: Call) -> (u64, Message) {
    poll_fn(|cx| client.poll_ready(cx)).await.expect("the connection lives");
    let mut request = Request::new(());
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = format!("https://api.example.com{}", call.target).parse().expect("an address");
    *request.headers_mut() = call.fields.clone();
    request.headers_mut().insert("call", HeaderValue::from(number));
    let ends = bodiless(&call.body, &call.trailers);
    let (response, stream) = client.send_request(request, ends).expect("the connection lives");
    let key = u64::from(response.stream_id().as_u32());
    if !ends {
        send(stream, &call.body, call.trailers.clone(), false);
    }
    let mut seen = Message::default();
    match response.await {
        Ok(response) => {
            let (head, mut body) = response.into_parts();
            let (data, good) = collect(&mut body).await;
            seen.start = head.status.as_u16().to_string();
            seen.fields = fields_of(&head.headers);
            seen.body = data;
            seen.end = Some(if good { End::Complete } else { End::Cut(Reason::Interrupted) });
        }
        Err(_) => seen.end = Some(End::Cut(Reason::NoResponse)),
    }
    (key, seen)
}

async fn talk(settings: &Settings, calls: &[Call], tape: &Tape) -> Seen {
    let (near, far) = tokio::io::duplex(settings.pipe);
    let near = Tap { inner: near, tape: tape.clone() };
    let mut client = client::Builder::new();
    client
        .initial_window_size(settings.window)
        .max_frame_size(settings.frame)
        .header_table_size(settings.client_table)
        .max_concurrent_reset_streams(1_000)
        .enable_push(true);
    let mut server = server::Builder::new();
    server
        .initial_window_size(settings.window)
        .max_frame_size(settings.frame)
        .header_table_size(settings.server_table);
    let (client, server) =
        tokio::join!(client.handshake::<_, Bytes>(near), server.handshake::<_, Bytes>(far));
    let ((asking, connection), mut serving) = (client.expect("a client"), server.expect("a server"));
    let mut seen = Seen::default();
    let client_side = async {
        let asked = calls.iter().enumerate().map(|(number, call)| ask(asking.clone(), number, call.clone()));
        let answered = futures::future::join_all(asked).await;
        drop(asking);
        answered
    };
    let server_side = async {
        let mut answers = Vec::new();
        let answering = std::sync::Arc::new(calls.to_vec());
        while let Some(Ok((request, respond))) = serving.accept().await {
            let calls = answering.clone();
            answers.push(tokio::spawn(async move { answer(request, respond, &calls).await }));
        }
        futures::future::join_all(answers).await
    };
    let (answered, asked, _) = tokio::join!(client_side, server_side, connection);
    seen.responses.extend(answered);
    seen.requests.extend(asked.into_iter().map(|asked| asked.expect("no panic while answering")));
    seen
}

fn fields(most: usize) -> impl Strategy<Value = HeaderMap> {
    const KNOWN: [&str; 10] = [
        "content-type",
        "authorization",
        "user-agent",
        "x-request-id",
        "cookie",
        "accept-encoding",
        "etag",
        "openai-organization",
        "vary",
        "x-a",
    ];
    // Few values, so that later heads take them from the table; visible ASCII, tabs and bytes above it.
    let value = prop_oneof![
        3 => prop::sample::select(vec!["application/json", "", "Bearer sk-1", "gzip, deflate", "a", "200"])
            .prop_map(|text| text.as_bytes().to_vec()),
        2 => "[ -~]{0,40}".prop_map(|text| text.trim().as_bytes().to_vec()),
        1 => prop::collection::vec(prop_oneof![0x21u8..0x7f, 0x80u8..=0xff], 0..30),
        1 => (1usize..3_000).prop_map(|len| vec![b'z'; len]),
    ];
    prop::collection::vec((prop::sample::select(KNOWN.to_vec()), value, any::<bool>()), 0..most).prop_map(
        |list| {
            let mut map = HeaderMap::new();
            for (name, value, secret) in list {
                let mut value = HeaderValue::from_bytes(&value).expect("no control characters");
                value.set_sensitive(secret);
                map.append(HeaderName::from_static(name), value);
            }
            map
        },
    )
}

fn body() -> impl Strategy<Value = Vec<Bytes>> {
    let part = prop_oneof![4 => 1usize..300, 1 => 1usize..40_000];
    prop::collection::vec((part, any::<u8>()), 0..5)
        .prop_map(|parts| parts.into_iter().map(|(len, byte)| Bytes::from(vec![byte; len])).collect())
}

fn call() -> impl Strategy<Value = Call> {
    let method = prop::sample::select(vec![Method::POST, Method::GET, Method::PUT, Method::DELETE]);
    let target = prop::sample::select(vec![
        "/v1/chat/completions",
        "/",
        "/index.html",
        "/v1/models?a=b%20c",
        "/x/y:z",
    ]);
    let odd = prop::sample::select(vec![Fate::Broken, Fate::Refused, Fate::Unread]);
    let fate = prop_oneof![2 => Just(Fate::Answered), 1 => odd];
    let asked = (method, target, fields(6), body(), prop::option::weighted(0.2, fields(3)));
    let status = prop::sample::select(vec![200u16, 204, 206, 304, 400, 404, 429, 500, 529]);
    let answered = (status, fields(6), body(), prop::option::weighted(0.3, fields(3)));
    let how = (prop::bool::weighted(0.2), prop::bool::weighted(0.1), fate);
    (asked, answered, how).prop_map(
        |(
            (method, target, fields, body, trailers),
            (status, answer_fields, answer, answer_trailers),
            (interim, push, fate),
        )| {
            Call {
                method,
                target: target.to_owned(),
                fields,
                body,
                trailers,
                interim,
                push,
                status,
                answer_fields,
                answer,
                answer_trailers,
                fate,
            }
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    let table = || prop::sample::select(vec![0u32, 64, 300, 4_096, 65_536]);
    (100u32..200_000, 16_384u32..100_000, table(), table(), 64usize..100_000).prop_map(
        |(window, frame, client_table, server_table, pipe)| Settings {
            window,
            frame,
            client_table,
            server_table,
            pipe,
        },
    )
}

/// The number that tells calls apart.
fn without_number(fields: &Fields) -> Fields {
    fields.iter().filter(|(name, _)| name != "call").cloned().collect()
}

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn http2_is_read_as_h2_reads_it(
        settings in settings(),
        calls in prop::collection::vec(call(), 1..12),
        cuts in prop::collection::vec(1usize..5_000, 1..8),
    ) {
        let tape = Tape::default();
        let seen = converse(talk(&settings, &calls, &tape));
        let log = read(&tape.take(), &cuts);
        prop_assert_eq!(log.requests.len(), calls.len());
        prop_assert_eq!(log.responses.len(), calls.len());
        for (stream, response) in &seen.responses {
            let (ours, theirs) = (&log.responses[stream], response);
            let request = &log.requests[stream];
            let call = request.fields.iter().find(|(name, _)| name == "call");
            let call = call.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse::<usize>().ok());
            let call = &calls[call.expect("every request has its number")];
            prop_assert_eq!(without_number(&request.fields), fields_of(&call.fields));
            match call.fate {
                Fate::Answered | Fate::Refused => {
                    prop_assert_eq!(ours, theirs);
                    prop_assert_eq!(&request.body, &call.body.concat());
                    prop_assert_eq!(request.end, Some(End::Complete));
                }
                // How much of either body passes before a reset is a race; what passed is a part of it.
                Fate::Broken | Fate::Unread => {
                    prop_assert!(call.body.concat().starts_with(&request.body));
                    prop_assert!(call.answer.concat().starts_with(&ours.body));
                    prop_assert!(ours.body.starts_with(&theirs.body));
                    if theirs.end != Some(End::Cut(Reason::NoResponse)) {
                        prop_assert_eq!((&ours.start, &ours.fields), (&theirs.start, &theirs.fields));
                    }
                    if call.fate == Fate::Unread && theirs.end == Some(End::Complete) {
                        prop_assert_eq!(ours, theirs);
                    }
                    prop_assert!(call.fate == Fate::Unread || matches!(ours.end, Some(End::Cut(_))), "{:?}", ours.end);
                }
            }
            if let Some(asked) = seen.requests.get(stream) {
                prop_assert_eq!((&request.start, &request.fields), (&asked.start, &asked.fields));
                prop_assert!(call.fate == Fate::Unread || request.body == asked.body);
            }
        }
    }
}
