//! Entry points of the meter.

use std::sync::{Arc, OnceLock};

use ed25519_dalek::{Signer, SigningKey};
use meter::attribution::OwnerIndex;
use meter::directory::Directory;
use meter::exchange::{Exchange, IdentifiedBy, Reason, SessionId};
use meter::flow::Piece;
use meter::http::body::Decoder;
use meter::http::eventstream::EventStream;
use meter::http::grpc::{Messages, Part};
use meter::http::hpack;
use meter::http::sse::{Events, Sse};
use meter::http::{End, Header, Key, Protocol, RequestHead, ResponseHead, Sink};
use meter::limits::{
    Budget, DECODE_BUFFER, EXPANSION_FLOOR, EXPANSION_RATIO_MAX, HEAD_BYTES_MAX, HEADERS_MAX,
};
use meter::llm::json::{Paths, Scanner, Value, Visitor};
use meter::llm::protobuf;
use meter::loss::Tally;
use meter::pipeline::{
    Attempts, Direction, FingerprintKeys, HostEvidence, Input, Output, Pipeline, PipelineOptions,
};
use meter::pricing::{Catalogue, price};
use meter::record::Subject;
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload};

/// A name, which is also that of its folder in the corpus, and what is attacked.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("h1", h1),
    ("h2", h2),
    ("hpack", hpack),
    ("sse", sse),
    ("json", json),
    ("body", body),
    ("eventstream", eventstream),
    ("grpc", grpc),
    ("websocket", websocket),
    ("protobuf", protobuf),
    ("answer", answer),
    ("pipeline", pipeline),
    ("catalogue", catalogue),
    ("cgroup", cgroup),
];

/// One step on a session: bits of the first byte say what, the second how much.
enum Step<'a> {
    Bytes(Direction, &'a [u8]),
    Gap(Direction, u64),
}

fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let [what, amount, rest @ ..] = data else { return None };
        let direction = if what & 1 == 0 { Direction::Sent } else { Direction::Received };
        if what & 2 != 0 {
            data = rest;
            return Some(Step::Gap(direction, u64::from(*amount)));
        }
        let len = (usize::from(*amount) + if what & 4 != 0 { 256 } else { 0 }).min(rest.len());
        let (bytes, later) = rest.split_at(len);
        data = later;
        Some(Step::Bytes(direction, bytes))
    })
}

/// What a protocol reported.
#[derive(Default)]
struct Recorder {
    body: u64,
    open: Vec<Key>,
    /// Every report, data of one message put together.
    log: Vec<(Key, bool, String, Vec<u8>)>,
}

impl Recorder {
    fn note(&mut self, key: Key, response: bool, what: String) {
        self.log.push((key, response, what, Vec::new()));
    }

    fn data(&mut self, key: Key, response: bool, data: Piece<'_>) {
        self.body += data.len();
        match data {
            Piece::Gap(bytes) => self.note(key, response, format!("gap {bytes}")),
            Piece::Bytes(bytes) => {
                let last = self.log.iter_mut().rev().find(|(k, r, ..)| (*k, *r) == (key, response));
                match last {
                    Some((.., text, all)) if text == "data" => all.extend_from_slice(bytes),
                    _ => self.log.push((key, response, "data".to_owned(), bytes.to_vec())),
                }
            }
        }
    }

    /// What can be compared however the pieces of two directions interleave.
    fn sorted(mut self) -> Vec<(Key, bool, String, Vec<u8>)> {
        self.log.sort_by_key(|(key, response, ..)| (*key, *response));
        self.log
    }
}

fn fields(headers: &[Header<'_>]) -> String {
    headers.iter().map(|field| format!("{}={:02x?} ", field.name, field.value)).collect()
}

impl Sink for Recorder {
    fn request(&mut self, key: Key, head: &RequestHead<'_>) {
        assert!(!self.open.contains(&key), "a key is used once");
        self.open.push(key);
        let RequestHead { method, target, authority, headers, .. } = *head;
        self.note(key, false, format!("{method} {target} {authority:?} {}", fields(headers)));
    }
    fn request_data(&mut self, key: Key, data: Piece<'_>) {
        self.data(key, false, data);
    }
    fn request_end(&mut self, key: Key, end: End) {
        self.note(key, false, format!("{end:?}"));
    }
    fn response(&mut self, key: Key, head: &ResponseHead<'_>) {
        assert!(head.status == 0 || head.status >= 101);
        self.note(key, true, format!("{} {}", head.status, fields(head.headers)));
    }
    fn response_data(&mut self, key: Key, data: Piece<'_>) {
        self.data(key, true, data);
    }
    fn response_end(&mut self, key: Key, end: End) {
        self.open.retain(|open| *open != key);
        self.note(key, true, format!("{end:?}"));
    }
    fn orphan(&mut self, _: Reason) {}
    fn upgraded(&mut self) {}
}

/// Runs `data` as steps on a connection, bytes in pieces of at most `size`: every byte is accounted for, every request
/// ends.
fn connection(late: bool, before: &[u8], data: &[u8], size: usize) -> (Tally, Recorder) {
    let budget = Budget::new();
    let mut protocol = Protocol::new(late);
    let (mut tally, mut sink) = (Tally::default(), Recorder::default());
    if !before.is_empty() {
        protocol.push(Direction::Sent, Piece::Bytes(before), &budget, &mut tally, &mut sink);
    }
    for step in steps(data) {
        match step {
            Step::Bytes(direction, bytes) => {
                for piece in bytes.chunks(size) {
                    protocol.push(direction, Piece::Bytes(piece), &budget, &mut tally, &mut sink);
                }
            }
            Step::Gap(direction, bytes) => {
                protocol.push(direction, Piece::Gap(bytes), &budget, &mut tally, &mut sink);
            }
        }
    }
    protocol.finish(None, &mut tally, &mut sink);
    assert!(tally.is_conserved(), "bytes unaccounted for: {tally:?}");
    assert!(sink.body <= tally.seen);
    assert!(sink.open.is_empty(), "requests without end: {:?}", sink.open);
    (tally, sink)
}

/// HTTP/1 and the detection of what is spoken.
pub fn h1(data: &[u8]) {
    let [flags, rest @ ..] = data else { return };
    connection(flags & 1 != 0, b"", rest, usize::MAX);
}

/// HTTP/2 after its preface: cut anywhere, same streams, as long as the place is not lost (it is found again at the
/// beginning of a piece).
pub fn h2(data: &[u8]) {
    let [size, rest @ ..] = data else { return };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (tally, whole) = connection(false, preface, rest, usize::MAX);
    if tally.lost.is_empty() {
        let (tally, cut) = connection(false, preface, rest, usize::from(*size).max(1));
        assert!(tally.lost.is_empty(), "{tally:?}");
        assert_eq!(whole.sorted(), cut.sorted());
    }
}

/// A WebSocket after its handshake: cut anywhere, same messages, as long as the place is not lost (it is found again at
/// the beginning of a piece).
pub fn websocket(data: &[u8]) {
    let [flags, size, rest @ ..] = data else { return };
    let extension = match flags % 3 {
        0 => "x-none",
        1 => "permessage-deflate",
        _ => "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    };
    let handshake = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: {extension}\r\n\r\n"
    );
    let run = |size: usize| {
        let (budget, mut tally, mut heard) = (Budget::new(), Tally::default(), Heard::default());
        let mut protocol = Protocol::new(false);
        let mut push = |direction, piece: Piece<'_>| {
            protocol.push(direction, piece, &budget, &mut tally, &mut heard);
        };
        push(Direction::Sent, Piece::Bytes(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"));
        push(Direction::Received, Piece::Bytes(handshake.as_bytes()));
        for step in steps(rest) {
            match step {
                Step::Bytes(direction, bytes) => {
                    bytes.chunks(size).for_each(|piece| push(direction, Piece::Bytes(piece)));
                }
                Step::Gap(direction, bytes) => push(direction, Piece::Gap(bytes)),
            }
        }
        protocol.finish(None, &mut tally, &mut heard);
        assert!(tally.is_conserved(), "bytes unaccounted for: {tally:?}");
        assert!(heard.over, "a WebSocket without end");
        let bound = EXPANSION_FLOOR.max((tally.seen + 1) * EXPANSION_RATIO_MAX) + DECODE_BUFFER as u64;
        assert!(heard.bytes <= 2 * bound, "expanded to {}", heard.bytes);
        (tally, heard)
    };
    let (tally, whole) = run(usize::MAX);
    if tally.lost.is_empty() {
        let (tally, cut) = run(usize::from(*size).max(1));
        assert!(tally.lost.is_empty(), "{tally:?}");
        // How much of a damaged message is still handed out depends on the pieces; that it is damaged does not. The same
        // goes for one that never ends: the inflater hands out less of it when it was given less at a time.
        assert_eq!(whole.messages, cut.messages);
        assert!(whole.open.iter().zip(&cut.open).all(begin_alike), "{:?} {:?}", whole.open, cut.open);
    }
}

/// True if of two readings of a message that never ended, one is the beginning of the other.
fn begin_alike(pair: (&Open, &Open)) -> bool {
    match pair {
        (Some(Some(one)), Some(Some(other))) => one.starts_with(other) || other.starts_with(one),
        (one, other) => one.is_some() == other.is_some(),
    }
}

/// A message that has begun: what has come of it, or `None` where something is missing.
type Open = Option<Option<Vec<u8>>>;

/// The messages of both directions; `None` where something is missing.
#[derive(Debug, Default)]
struct Heard {
    messages: [Vec<Option<Vec<u8>>>; 2],
    open: [Open; 2],
    bytes: u64,
    over: bool,
}

impl Sink for Heard {
    fn request(&mut self, _: Key, _: &RequestHead<'_>) {}
    fn request_data(&mut self, _: Key, _: Piece<'_>) {}
    fn request_end(&mut self, _: Key, _: End) {}
    fn response(&mut self, _: Key, _: &ResponseHead<'_>) {}
    fn response_data(&mut self, _: Key, _: Piece<'_>) {}
    fn response_end(&mut self, _: Key, _: End) {}
    fn orphan(&mut self, _: Reason) {}
    fn converse(&mut self, _: Key) -> bool {
        true
    }
    fn message(&mut self, _: Key, direction: Direction, part: Piece<'_>) {
        assert!(!self.over, "a message after the end");
        let open = &mut self.open[usize::from(direction == Direction::Received)];
        let message = open.get_or_insert_with(|| Some(Vec::new()));
        match (part, message) {
            (Piece::Bytes(part), Some(message)) => {
                self.bytes += part.len() as u64;
                message.extend_from_slice(part);
            }
            (Piece::Bytes(part), None) => self.bytes += part.len() as u64,
            (Piece::Gap(_), message) => *message = None,
        }
    }
    fn message_end(&mut self, _: Key, direction: Direction) {
        let at = usize::from(direction == Direction::Received);
        let message = self.open[at].take();
        self.messages[at].push(message.unwrap_or(Some(Vec::new())));
    }
    fn hung_up(&mut self, _: Key, _: End) {
        assert!(!std::mem::replace(&mut self.over, true), "it ends twice");
    }
    fn upgraded(&mut self) {}
}

/// Head blocks one after the other, each behind its length: bounded, and the same every time.
pub fn hpack(data: &[u8]) {
    let run = || {
        let (mut decoder, mut rest, mut seen) = (hpack::Decoder::default(), data, Vec::new());
        while let [len, after @ ..] = rest {
            let (block, later) = after.split_at(usize::from(*len).min(after.len()));
            rest = later;
            let fields = decoder.decode(block);
            if let Ok(fields) = &fields {
                assert!(fields.list.len() <= HEADERS_MAX);
                let bytes: usize = fields.list.iter().map(|(name, value)| name.len() + value.len()).sum();
                assert!(bytes <= HEAD_BYTES_MAX);
            } else {
                decoder.forget();
            }
            seen.push(fields.map(|fields| (fields.list, fields.unknown)));
        }
        seen
    };
    assert_eq!(run(), run());
}

/// AWS event stream: cut anywhere, same messages.
pub fn eventstream(data: &[u8]) {
    let [size, rest @ ..] = data else { return };
    // Checksums are made good, so that more than the prelude is reached.
    let mut bytes = Vec::new();
    let mut left = rest;
    while let [headers, payload, after @ ..] = left {
        let (headers, payload) = (usize::from(*headers) & 0x7f, usize::from(*payload));
        let taken = (headers + payload).min(after.len());
        let (body, later) = after.split_at(taken);
        left = later;
        let begin = bytes.len();
        bytes.extend_from_slice(&u32::try_from(taken + 16).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(headers.min(taken)).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&crc(&bytes[begin..]));
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&crc(&bytes[begin..]));
    }
    bytes.extend_from_slice(left);
    let run = |bytes: &[u8], size: usize| {
        let (mut stream, mut seen) = (EventStream::default(), Vec::new());
        for piece in bytes.chunks(size) {
            stream.push(piece, &mut |message| {
                seen.push((message.kind.to_owned(), message.name.to_owned(), message.payload.to_vec()));
            });
        }
        (seen, stream.is_broken())
    };
    for bytes in [bytes.as_slice(), rest] {
        assert_eq!(run(bytes, usize::MAX), run(bytes, usize::from(*size).max(1)));
    }
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

/// Events with their data.
#[derive(Default, PartialEq, Debug)]
struct Log(Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>);

impl Events for Log {
    fn data(&mut self, part: &[u8]) {
        self.1.extend_from_slice(part);
    }
    fn dispatch(&mut self, name: &[u8]) {
        self.0.push((name.to_vec(), std::mem::take(&mut self.1)));
    }
}

/// Server-sent events: cut anywhere, same events.
pub fn sse(data: &[u8]) {
    let (Some(first), rest) = (data.first(), data.get(1..).unwrap_or_default()) else { return };
    let run = |pieces: &[&[u8]]| {
        let (mut sse, mut log) = (Sse::default(), Log::default());
        for piece in pieces {
            sse.push(piece, &mut log);
        }
        sse.finish(&mut log);
        log
    };
    let (left, right) = rest.split_at(usize::from(*first).min(rest.len()));
    let whole = run(&[rest]);
    assert_eq!(whole, run(&[left, right]));
    let bytes: Vec<&[u8]> = rest.chunks(1).collect();
    assert_eq!(whole, run(&bytes));
}

/// Values as they are handed out.
#[derive(Default, PartialEq, Debug)]
struct Values(Vec<(u8, String)>);

impl Visitor<u8> for Values {
    fn value(&mut self, field: u8, value: Value<'_>) {
        let text = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(bool) => bool.to_string(),
            Value::Number(text) => {
                format!("{} {:?} {:?}", String::from_utf8_lossy(text), value.count(), value.scaled(12))
            }
            Value::Text { bytes, whole } => format!("{:?} {whole}", String::from_utf8_lossy(bytes)),
            Value::Object => "{".to_owned(),
            Value::Array => "[".to_owned(),
        };
        self.0.push((field, text));
    }
}

/// JSON: cut anywhere, same values.
pub fn json(data: &[u8]) {
    let (Some(first), rest) = (data.first(), data.get(1..).unwrap_or_default()) else { return };
    let paths = Paths::new(&[("/a", 0), ("/b/c", 1), ("/b/*/d", 2), ("/*/e", 3), ("/b", 4), ("/f/*", 5)]);
    let run = |pieces: &[&[u8]]| {
        let (mut scanner, mut values) = (Scanner::default(), Values::default());
        for piece in pieces {
            scanner.push(&paths, piece, &mut values);
        }
        scanner.finish(&paths, &mut values);
        (values, scanner.documents())
    };
    let (left, right) = rest.split_at(usize::from(*first).min(rest.len()));
    let whole = run(&[rest]);
    assert_eq!(whole, run(&[left, right]));
    let bytes: Vec<&[u8]> = rest.chunks(1).collect();
    assert_eq!(whole, run(&bytes));
}

/// Content codings: bounded expansion, and cut anywhere, same bytes.
pub fn body(data: &[u8]) {
    const CODINGS: [&[u8]; 8] = [
        b"gzip",
        b"deflate",
        b"br",
        b"zstd",
        b"gzip, br",
        b"identity, deflate",
        b"x-gzip,zstd",
        b"gzip,gzip,gzip,gzip",
    ];
    let [which, at, rest @ ..] = data else { return };
    let value = CODINGS.get(usize::from(*which) % CODINGS.len()).copied().unwrap_or(b"gzip");
    let headers = [Header { name: "Content-Encoding", value }];
    let run = |pieces: &[&[u8]]| {
        let mut decoder = Decoder::new(&headers, &Budget::new());
        let mut made = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            result = decoder.push(piece, &mut |part| made.extend_from_slice(part));
        }
        (made, result.is_ok())
    };
    let (left, right) = rest.split_at(usize::from(*at).min(rest.len()));
    let whole = run(&[rest]);
    let bound = EXPANSION_FLOOR.max((rest.len() as u64 + 1) * EXPANSION_RATIO_MAX) + DECODE_BUFFER as u64;
    assert!(
        whole.0.len() as u64 <= bound.saturating_mul(EXPANSION_RATIO_MAX),
        "expanded to {}",
        whole.0.len()
    );
    let cut = run(&[left, right]);
    if whole.1 && cut.1 {
        assert_eq!(whole.0, cut.0);
    }
}

/// The whole pipeline: no panic, every byte accounted for or metered, unknown usage where something is missing.
pub fn pipeline(data: &[u8]) {
    let (flags, data) = match data {
        [first, rest @ ..] => (*first, rest),
        [] => return,
    };
    let mut pipeline = Pipeline::new(options());
    let (session, process) = (SessionId(7), ProcessKey { pid: 1, start_ticks: 1 });
    let host = || HostEvidence { host: "api.openai.com".into(), identified_by: IdentifiedBy::Sni };
    pipeline.handle(
        Input::Opened {
            session,
            process,
            workload: Workload::unknown(process),
            host: (flags & 1 != 0).then(host),
            joined_late: flags & 2 != 0,
        },
        Moment(1),
    );
    let (mut ends, mut now) = ([0u64; 2], 1);
    for step in steps(data) {
        now += 1_000;
        match step {
            Step::Bytes(direction, bytes) => {
                let offset = &mut ends[usize::from(direction == Direction::Received)];
                pipeline.handle(Input::Chunk { session, direction, offset: *offset, bytes }, Moment(now));
                *offset += bytes.len() as u64;
            }
            Step::Gap(direction, bytes) => ends[usize::from(direction == Direction::Received)] += bytes,
        }
    }
    pipeline.handle(Input::Closed { session, sent: ends[0], received: ends[1] }, Moment(now + 1));
    let mut lost = 0u64;
    while let Some(output) = pipeline.poll() {
        match output {
            Output::Lost { bytes, .. } => lost += bytes,
            Output::Record(record) => assert!(record.attribution.confidence.basis_points() <= 9_500),
            Output::Verdict { .. } => {}
        }
    }
    assert!(lost <= ends[0] + ends[1], "more lost than moved");
    assert_eq!(pipeline.sessions(), 0);
}

/// gRPC's framing: cut anywhere, same messages; a hole inside a plain message leaves the framing in step.
pub fn grpc(data: &[u8]) {
    let [flags, size, rest @ ..] = data else { return };
    let coding: &[u8] = if flags & 1 == 0 { b"gzip" } else { b"identity" };
    let headers = [
        Header { name: "content-type", value: b"application/grpc+proto" },
        Header { name: "grpc-encoding", value: coding },
    ];
    let run = |size: usize| {
        let budget = Budget::new();
        let mut messages = Messages::of(&headers, &budget).unwrap_or_else(|| panic!("the head says gRPC"));
        let (mut seen, mut open, mut result) = (Vec::new(), Vec::new(), Ok(()));
        for piece in rest.chunks(size) {
            result = messages.push(piece, &mut |part| match part {
                Part::Data(data) => open.extend_from_slice(data),
                Part::End => seen.push(std::mem::take(&mut open)),
            });
        }
        let _ = messages.gap(u64::from(*flags));
        (seen, result)
    };
    assert_eq!(run(usize::MAX), run(usize::from(*size).max(1)));
}

/// Protobuf: cut anywhere, same values.
pub fn protobuf(data: &[u8]) {
    let [size, rest @ ..] = data else { return };
    let paths = Paths::new(&[("/1", 0), ("/2/1", 1), ("/2/3/1", 2), ("/2/3", 3), ("/15/2", 4), ("/16", 5)]);
    let run = |size: usize| {
        let (mut scanner, mut values) = (protobuf::Scanner::default(), Values::default());
        for piece in rest.chunks(size) {
            scanner.push(&paths, piece, &mut values);
        }
        values
    };
    assert_eq!(run(usize::MAX), run(usize::from(*size).max(1)));
}

/// Where requests go: each kind of request and answer that is read.
const CALLS: &[(&str, &str)] = &[
    ("api.openai.com", "/v1/chat/completions"),
    ("api.openai.com", "/v1/responses"),
    ("api.openai.com", "/v1/completions"),
    ("api.openai.com", "/v1/embeddings"),
    ("api.openai.com", "/v1/images/generations"),
    ("api.openai.com", "/v1/audio/transcriptions"),
    ("api.openai.com", "/v1/moderations"),
    ("api.openai.com", "/v1/batches"),
    ("api.anthropic.com", "/v1/messages"),
    ("api.anthropic.com", "/v1/messages/count_tokens"),
    ("generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-flash:generateContent"),
    ("generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-flash:streamGenerateContent"),
    ("generativelanguage.googleapis.com", "/v1beta/models/gemini-embedding-001:embedContent"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "/model/amazon.nova-lite-v1%3A0/converse-stream"),
    ("api.cohere.com", "/v2/chat"),
    ("api.cohere.com", "/v1/chat"),
    ("api.mistral.ai", "/v1/chat/completions"),
    ("localhost", "/api/chat"),
    ("localhost", "/api/embed"),
    ("openrouter.ai", "/api/v1/chat/completions"),
    ("api.perplexity.ai", "/chat/completions"),
    ("api.voyageai.com", "/v1/embeddings"),
    ("mcp.example.com", "/mcp"),
];

/// One call to one of [`CALLS`], both bodies arbitrary, in sound HTTP: cut anywhere, same exchange; what is not known
/// has a reason.
pub fn answer(data: &[u8]) {
    let [which, split, size, rest @ ..] = data else { return };
    let Some((host, path)) = CALLS.get(usize::from(*which) % CALLS.len()) else { return };
    let (asked, answered) = rest.split_at((usize::from(*split) * 4).min(rest.len()));
    let status = if which & 0x80 == 0 { 200 } else { 429 };
    let run = |size: usize| exchanges(host, path, status, asked, answered, size);
    let (whole, cut) = (run(usize::MAX), run(usize::from(*size).max(1)));
    assert!(whole.len() <= 1, "{} exchanges of one call", whole.len());
    assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
}

/// What the pipeline makes of one call in sound HTTP, in pieces of at most `size`.
fn exchanges(
    host: &str,
    path: &str,
    status: u16,
    asked: &[u8],
    answered: &[u8],
    size: usize,
) -> Vec<Exchange> {
    let message = |start: &str, body: &[u8]| {
        let head = format!("{start}Host: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let sent = message(&format!("POST {path} HTTP/1.1\r\n"), asked);
    let received = message(&format!("HTTP/1.1 {status} X\r\n"), answered);
    let mut pipeline = Pipeline::new(options());
    let (session, process) = (SessionId(7), ProcessKey { pid: 1, start_ticks: 1 });
    let host = HostEvidence { host: host.into(), identified_by: IdentifiedBy::Sni };
    let workload = Workload::unknown(process);
    let opened = Input::Opened { session, process, workload, host: Some(host), joined_late: false };
    pipeline.handle(opened, Moment(1));
    for (direction, bytes) in [(Direction::Sent, &sent), (Direction::Received, &received)] {
        let mut offset = 0;
        for bytes in bytes.chunks(size) {
            pipeline.handle(Input::Chunk { session, direction, offset, bytes }, Moment(2));
            offset += bytes.len() as u64;
        }
    }
    let (sent, received) = (sent.len() as u64, received.len() as u64);
    pipeline.handle(Input::Closed { session, sent, received }, Moment(3));
    let mut exchanges = Vec::new();
    while let Some(output) = pipeline.poll() {
        if let Output::Record(record) = output
            && let Subject::Exchange(exchange) = record.subject
        {
            exchanges.push(*exchange);
        }
    }
    exchanges
}

/// A price catalogue under a good signature: refused or sound, and then it prices.
pub fn catalogue(data: &[u8]) {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    let key = KEY.get_or_init(|| SigningKey::from_bytes(&[7; 32]));
    let message = [Catalogue::DOMAIN, data].concat();
    let signature = key.sign(&message).to_bytes();
    let public = key.verifying_key().to_bytes();
    let source = meter::pricing::CatalogueSource::Live;
    let Ok(catalogue) = Catalogue::verify(data, &signature, &public, source, None) else { return };
    static CALL: OnceLock<Exchange> = OnceLock::new();
    let mut call = CALL.get_or_init(priced_call).clone();
    for (provider, prices) in catalogue.prices().take(8) {
        call.provider = provider.into();
        call.model = Some(prices.model.clone());
        let cost = price(&call, &catalogue, UnixNanos(1_700_000_000_000_000_000));
        assert_eq!(cost.catalogue_version, catalogue.version());
    }
    let again = Catalogue::verify(data, &signature, &public, source, Some(catalogue.trusted()));
    assert!(again.is_ok(), "the same bytes are trusted again");
}

/// An exchange with counts.
fn priced_call() -> Exchange {
    let usage = r#"{"model":"m","usage":{"prompt_tokens":300000,"completion_tokens":20,
        "prompt_tokens_details":{"cached_tokens":7},"completion_tokens_details":{"reasoning_tokens":5}}}"#;
    let mut exchanges =
        exchanges("api.openai.com", "/v1/chat/completions", 200, b"{}", usage.as_bytes(), usize::MAX);
    exchanges.pop().unwrap_or_else(|| panic!("one call is one exchange"))
}

/// `/proc/PID/cgroup` and paths of control groups, which whoever may make groups may name.
pub fn cgroup(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let of_file = meter::workload::cgroup::parse_proc_cgroup(&text);
    let of_path = meter::workload::cgroup::parse_path(&text);
    for identity in [of_file, of_path] {
        let short = |text: &Option<Box<str>>| text.as_ref().is_none_or(|text| text.len() <= data.len() * 3);
        assert!(short(&identity.container_id) && short(&identity.pod_uid) && short(&identity.unit));
    }
}

fn options() -> PipelineOptions {
    static PARTS: OnceLock<(Arc<Directory>, Arc<Catalogue>)> = OnceLock::new();
    let (directory, catalogue) = PARTS.get_or_init(|| {
        let catalogue = Catalogue::vendored().expect("the vendored catalogue is whole");
        (Arc::new(Directory::builtin()), Arc::new(catalogue))
    });
    PipelineOptions {
        directory: Arc::clone(directory),
        owners: Arc::new(OwnerIndex::empty(0, UnixNanos(0))),
        catalogue: Arc::clone(catalogue),
        clock: WallClock::default(),
        fingerprint_keys: FingerprintKeys::default(),
        attempts: Attempts::new([3; 16]),
        id_seed: 1,
        detect_by_path: true,
        fence_panics: false,
    }
}
