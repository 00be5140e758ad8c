//! How much memory bodies of any size and any number of exchanges take, against the bounds that `limits` states.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use meter::limits::{BUFFERED_BYTES_MAX, EXCHANGE_BYTES, HPACK_STEP_BYTES, INFLATE_BYTES, SESSION_BYTES};

use crate::allocator::{unwatched, watch};
use crate::world::{World, tokens};

const KIB: i64 = 1024;

#[test]
fn an_embeddings_answer_of_100_mb_costs_kilobytes() {
    let numbers = "0.0123456789,-0.9876543210,".repeat(4_096);
    let embedding = format!("{{\"object\":\"embedding\",\"index\":0,\"embedding\":[{}0.5]}},", numbers);
    let times = 100_000_000 / embedding.len() + 1;
    let tail =
        "{}],\"model\":\"text-embedding-3-large\",\"usage\":{\"prompt_tokens\":8191,\"total_tokens\":8191}}";
    let head = "{\"object\":\"list\",\"data\":[";
    let length = head.len() + embedding.len() * times + tail.len();
    assert!(length >= 100_000_000);

    let mut world = World::new();
    let session = world.open("api.openai.com");
    let request = post("/v1/embeddings", "{\"model\":\"text-embedding-3-large\",\"input\":[\"a\"]}");
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}");
    let (records, seen) = watch(|| {
        world.sent(session, request.as_bytes());
        world.received(session, answer.as_bytes());
        for _ in 0..times {
            world.received(session, embedding.as_bytes());
        }
        world.received(session, tail.as_bytes());
        world.records()
    });
    assert_eq!(records.iter().map(tokens).collect::<Vec<_>>(), [(Some(8_191), None)]);
    assert!(seen.most < 32 * KIB, "{seen:?}");
}

#[test]
fn an_upload_of_2_gb_costs_kilobytes() {
    const CHUNK: usize = 16 * 1024;
    let chunk = vec![0x55; CHUNK];
    let opening = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\n\
                   Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n";
    let closing = "\r\n--b--\r\n";
    let times = 2_000_000_000 / CHUNK + 1;
    let length = opening.len() + times * CHUNK + closing.len();

    let mut world = World::new();
    let session = world.open("api.openai.com");
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Type: multipart/form-data; \
         boundary=b\r\nContent-Length: {length}\r\n\r\n{opening}"
    );
    let answer =
        answer("{\"text\":\"a\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":4}}");
    let (records, seen) = watch(|| {
        world.sent(session, head.as_bytes());
        for _ in 0..times {
            world.sent(session, &chunk);
        }
        world.sent(session, closing.as_bytes());
        world.received(session, answer.as_bytes());
        world.records()
    });
    assert_eq!(records.iter().map(tokens).collect::<Vec<_>>(), [(Some(14), Some(4))]);
    assert!(seen.most < 32 * KIB, "{seen:?}");
}

#[test]
fn sessions_and_exchanges_take_what_their_bounds_say() {
    const MANY: usize = 500;
    let request = post("/v1/chat/completions", "{\"model\":\"gpt-4o\",\"stream\":true}");
    let plain = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-request-id: req_0123456789\r\n\
                 x-ratelimit-remaining-requests: 499\r\n\r\n";
    let event = "data: {\"model\":\"gpt-4o-2024-08-06\",\"service_tier\":\"default\",\"choices\":[{\"delta\":\
                 {\"content\":\"a\",\"tool_calls\":[{\"function\":{\"name\":\"look_up\"}}]},\"finish_reason\":\"stop\"}]}";
    let event = format!("{:x}\r\n{event}\r\n", event.len());

    let mut world = World::new();
    world.open("api.openai.com");
    let (sessions, seen) = watch(|| {
        unwatched(|| (0..MANY).collect::<Vec<_>>())
            .iter()
            .map(|_| world.open("api.openai.com"))
            .collect::<Vec<_>>()
    });
    let each = seen.held / MANY as i64;
    assert!(each <= SESSION_BYTES as i64, "a quiet session takes {each} bytes");

    let mut open = |fields: &str| {
        let head = plain.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        let (_, seen) = watch(|| {
            for session in &sessions {
                world.sent(*session, request.as_bytes());
                world.received(*session, head.as_bytes());
                world.received(*session, event.as_bytes());
            }
        });
        seen.most / MANY as i64
    };
    let each = open("");
    // The protocol's own state, made with the first exchange, belongs to the session.
    assert!(each <= (EXCHANGE_BYTES + SESSION_BYTES) as i64, "an open exchange takes {each} bytes");

    let mut world = World::new();
    let sessions: Vec<usize> = (0..MANY).map(|_| world.open("api.openai.com")).collect();
    let head = plain.replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
    let (_, seen) = watch(|| {
        for session in &sessions {
            world.sent(*session, request.as_bytes());
            world.received(*session, head.as_bytes());
            world.received(*session, b"a\r\n\x1f\x8b\x08\0\0\0\0\0\0\0\r\n");
        }
    });
    let each = seen.most / MANY as i64;
    let bound = (EXCHANGE_BYTES + SESSION_BYTES + INFLATE_BYTES) as i64;
    assert!(each <= bound, "a compressed exchange takes {each} bytes");

    let mut world = World::new();
    let sessions: Vec<usize> = (0..MANY).map(|_| world.open("api.openai.com")).collect();
    let [sent, received] = chat().over_http2(0);
    let (_, seen) = watch(|| {
        for session in &sessions {
            world.sent(*session, &sent);
            world.received(*session, &received);
        }
        unwatched(|| assert_eq!(world.records().len(), MANY));
    });
    let each = seen.held / MANY as i64;
    let bound = (SESSION_BYTES + 2 * HPACK_STEP_BYTES) as i64;
    assert!(each <= bound, "a quiet HTTP/2 session with its tables takes {each} bytes");
}

/// Two tables of [`HPACK_TABLE_MAX`](meter::limits::HPACK_TABLE_MAX) for each session would be 2 GiB.
#[test]
fn tables_of_head_fields_of_all_sessions_are_bounded() {
    const MANY: usize = 1200;
    let check = |what: &str, value: &[u8], len: &[u8]| {
        let field = [&[0x40, 1, b'a'][..], len, value].concat();
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for number in 0..17 {
            // The first makes the table as large as it may be.
            let opening: &[u8] = if number == 0 { &[0x3f, 0xe1, 0xff, 0x03] } else { &[] };
            frame(&mut sent, 1, 5, number * 2 + 1, &[opening, &field.repeat(4_000 / field.len())].concat());
        }
        let mut world = World::new();
        let sessions: Vec<usize> = (0..MANY).map(|_| world.open("api.openai.com")).collect();
        let (_, seen) = watch(|| sessions.iter().for_each(|session| world.sent(*session, &sent)));
        println!("{what}: {seen:?}");
        let bound = (BUFFERED_BYTES_MAX + MANY * SESSION_BYTES) as i64;
        assert!(seen.most <= bound, "{what}: {seen:?}");
        assert!(seen.most > (BUFFERED_BYTES_MAX / 2) as i64, "{what} fill no table: {seen:?}");
    };
    check("fields of 40 bytes, whose entries cost most", &[b'b'; 40], &[40]);
    // 127 and 3,823 in groups of seven bits (RFC 7541, 5.1).
    check("fields of 3,950 bytes", &[b'b'; 3_950], &[0x7f, 0xef, 0x1d]);
}

/// What a streamed exchange is allowed, its record with attribution and price included.
const ALLOCATIONS_MAX: u64 = 10;

/// The same where it is the first of its connection: the session, what its protocol holds, the tables of head fields.
const ALLOCATIONS_FRESH_MAX: u64 = 14;

#[test]
fn a_streamed_exchange_allocates_little() {
    let (chat, messages, responses) = (chat(), messages(), responses());
    let check = |what: &str, host: &str, mut pieces: Box<dyn FnMut(u32) -> [Vec<u8>; 2]>| {
        let mut world = World::new();
        let mut session = world.open(host);
        let mut exchange = |fresh: bool, number: u32| {
            let [sent, received] = pieces(number);
            let (_, seen) = watch(|| {
                if fresh {
                    session = world.open(host);
                }
                world.sent(session, &sent);
                // As the kernel hands it out: pieces that end anywhere.
                received.chunks(777).for_each(|piece| world.received(session, piece));
            });
            let counts = world.records().iter().map(tokens).collect::<Vec<_>>();
            assert_eq!(counts, [(Some(5), Some(200))], "{what}, exchange {number}");
            seen
        };
        // What the first session makes is the pipeline's.
        exchange(true, 0);
        for (seen, when, most) in [
            (exchange(true, 0), "with its connection", ALLOCATIONS_FRESH_MAX),
            (exchange(false, 1), "on a kept connection", ALLOCATIONS_MAX),
        ] {
            println!("{what}, {when}: {} allocations, at most {} bytes", seen.allocations, seen.most);
            assert!(seen.allocations <= most, "{what}, {when}: {seen:?}");
        }
    };
    for (what, call) in [("chat", &chat), ("messages", &messages), ("responses", &responses)] {
        let [plain, packed] = [call.over_http1(false), call.over_http1(true)];
        check(&format!("{what}, HTTP/1"), call.host, Box::new(move |_| plain.clone()));
        check(&format!("{what}, HTTP/1, gzip"), call.host, Box::new(move |_| packed.clone()));
        let call = call.clone();
        check(&format!("{what}, HTTP/2"), call.host, Box::new(move |number| call.over_http2(number)));
    }
}

/// A call that is answered with events: 5 tokens in, 200 out.
#[derive(Clone)]
struct Call {
    host: &'static str,
    target: &'static str,
    body: &'static str,
    events: Vec<String>,
}

fn chat() -> Call {
    let event = |rest: &str| format!("data: {{\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{rest}}}\n\n");
    let delta = event("{\"delta\":{\"content\":\" a\"}}],\"service_tier\":\"default\"");
    let stop = event("{\"delta\":{},\"finish_reason\":\"stop\"}]");
    let usage = event("],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":200}");
    let mut events = vec![delta; 200];
    events.extend([stop, usage, "data: [DONE]\n\n".into()]);
    let body =
        "{\"model\":\"gpt-4o\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"messages\":[]}";
    Call { host: "api.openai.com", target: "/v1/chat/completions", body, events }
}

fn messages() -> Call {
    let event = |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{rest}}}\n\n");
    let start = event(
        "message_start",
        "\"message\":{\"model\":\"claude-sonnet-4-20250514\",\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}",
    );
    let delta =
        event("content_block_delta", "\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" a\"}");
    let over =
        event("message_delta", "\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":200}");
    let mut events = vec![start];
    events.extend(vec![delta; 200]);
    events.extend([over, event("message_stop", "\"a\":1")]);
    let body = "{\"model\":\"claude-sonnet-4-20250514\",\"stream\":true,\"messages\":[]}";
    Call { host: "api.anthropic.com", target: "/v1/messages", body, events }
}

fn responses() -> Call {
    let event = |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{rest}}}\n\n");
    let delta = event("response.output_text.delta", "\"output_index\":0,\"delta\":\" a\"");
    let done = event(
        "response.completed",
        "\"response\":{\"status\":\"completed\",\"model\":\"gpt-4o-2024-08-06\",\"service_tier\":\"default\",\
         \"usage\":{\"input_tokens\":5,\"output_tokens\":200}}",
    );
    let mut events = vec![delta; 200];
    events.push(done);
    let body = "{\"model\":\"gpt-4o\",\"stream\":true,\"input\":\"a\"}";
    Call { host: "api.openai.com", target: "/v1/responses", body, events }
}

impl Call {
    /// What is sent and received; `packed` is gzip that is flushed with every event.
    fn over_http1(&self, packed: bool) -> [Vec<u8>; 2] {
        let coding = if packed { "Content-Encoding: gzip\r\n" } else { "" };
        let mut received = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{coding}Transfer-Encoding: chunked\r\n\
             x-request-id: req_0123456789abcdef\r\n\r\n"
        )
        .into_bytes();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut write = |bytes: &[u8]| {
            received.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
            received.extend_from_slice(bytes);
            received.extend_from_slice(b"\r\n");
        };
        for event in &self.events {
            if packed {
                encoder.write_all(event.as_bytes()).and_then(|()| encoder.flush()).expect("room");
                write(&std::mem::take(encoder.get_mut()));
            } else {
                write(event.as_bytes());
            }
        }
        if packed {
            write(&encoder.finish().expect("room"));
        }
        write(b"");
        [post(self.target, self.body).into_bytes(), received]
    }

    /// The exchange `number` of a connection. The first fills the tables of both directions, the others refer to them.
    fn over_http2(&self, number: u32) -> [Vec<u8>; 2] {
        let stream = number * 2 + 1;
        let request = [
            (":method", "POST"),
            (":path", self.target),
            (":authority", self.host),
            ("authorization", "Bearer sk-1"),
            ("user-agent", "OpenAI/Python 1.2.3"),
        ];
        let response = [
            (":status", "200"),
            ("content-type", "text/event-stream"),
            ("x-request-id", "req_0123456789abcdef"),
        ];
        let block = |fields: &[(&str, &str)]| -> Vec<u8> {
            if number > 0 {
                return (0..fields.len() as u8).rev().map(|age| 0x80 | (62 + age)).collect();
            }
            let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
            fields.iter().flat_map(|(name, value)| [vec![0x40], text(name), text(value)].concat()).collect()
        };
        let opening = if number == 0 { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" } else { "" };
        let mut sent = opening.as_bytes().to_vec();
        frame(&mut sent, 1, 4, stream, &block(&request));
        frame(&mut sent, 0, 1, stream, self.body.as_bytes());
        let mut received = Vec::new();
        frame(&mut received, 1, 4, stream, &block(&response));
        for (left, event) in (0..self.events.len()).rev().zip(&self.events) {
            frame(&mut received, 0, u8::from(left == 0), stream, event.as_bytes());
        }
        [sent, received]
    }
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: api.openai.com\r\nAuthorization: Bearer sk-1\r\nUser-Agent: OpenAI/Python \
         1.2.3\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
