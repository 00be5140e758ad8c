//! How much memory bodies of any size and any number of exchanges take, against the bounds that `limits` states.

use meter::limits::{EXCHANGE_BYTES, INFLATE_BYTES, SESSION_BYTES};

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
}

/// What a streamed exchange is allowed, its record with attribution and price included.
const ALLOCATIONS_MAX: u64 = 10;

#[test]
fn a_streamed_exchange_allocates_little() {
    let body =
        "{\"model\":\"gpt-4o\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"messages\":[]}";
    let request = post("/v1/chat/completions", body);
    let event = |json: &str| {
        let event = format!("data: {json}\n\n");
        format!("{:x}\r\n{event}\r\n", event.len())
    };
    let delta = event(
        "{\"model\":\"gpt-4o-2024-08-06\",\"service_tier\":\"default\",\"choices\":[{\"delta\":{\"content\":\" a\"}}]}",
    );
    let stop =
        event("{\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}");
    let usage = event(
        "{\"model\":\"gpt-4o-2024-08-06\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":200}}",
    );
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
                x-request-id: req_0123456789abcdef\r\n\r\n";
    let received = [head, &delta.repeat(200), &stop, &usage, &event("[DONE]"), "0\r\n\r\n"].concat();

    let mut world = World::new();
    let session = world.open("api.openai.com");
    let mut exchange = |watched: bool| {
        let mut run = || {
            world.sent(session, request.as_bytes());
            // As the kernel hands it out: pieces that end anywhere.
            for piece in received.as_bytes().chunks(777) {
                world.received(session, piece);
            }
        };
        let seen = if watched { watch(run).1 } else { (run(), Default::default()).1 };
        assert_eq!(world.records().iter().map(tokens).collect::<Vec<_>>(), [(Some(5), Some(200))]);
        seen
    };
    // What a session makes once is not the exchange's.
    exchange(false);
    let seen = exchange(true);
    println!("{} allocations, at most {} bytes", seen.allocations, seen.most);
    assert!(seen.allocations <= ALLOCATIONS_MAX, "{seen:?}");
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
