//! The entry points that machines attack. Each takes any bytes, checks the laws of its parser, and panics if one is
//! broken. A stable test runs them over the committed corpus.

use std::sync::{Arc, OnceLock};

use meter::attribution::OwnerIndex;
use meter::directory::Directory;
use meter::exchange::{IdentifiedBy, Reason, SessionId};
use meter::flow::Piece;
use meter::http::body::Decoder;
use meter::http::sse::{Events, Sse};
use meter::http::{End, Header, Key, Protocol, RequestHead, ResponseHead, Sink};
use meter::limits::{Budget, DECODE_BUFFER, EXPANSION_FLOOR, EXPANSION_RATIO_MAX};
use meter::llm::json::{Paths, Scanner, Value, Visitor};
use meter::loss::Tally;
use meter::pipeline::{
    Attempts, Direction, FingerprintKeys, HostEvidence, Input, Output, Pipeline, PipelineOptions,
};
use meter::pricing::Catalogue;
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload};

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

/// What a protocol reported, without bodies.
#[derive(Default)]
struct Recorder {
    body: u64,
    open: Vec<Key>,
}

impl Sink for Recorder {
    fn request(&mut self, key: Key, _: &RequestHead<'_>) {
        assert!(!self.open.contains(&key), "a key is used once");
        self.open.push(key);
    }
    fn request_data(&mut self, _: Key, data: Piece<'_>) {
        self.body += data.len();
    }
    fn request_end(&mut self, _: Key, _: End) {}
    fn response(&mut self, _: Key, head: &ResponseHead<'_>) {
        assert!(head.status == 0 || head.status >= 101);
    }
    fn response_data(&mut self, _: Key, data: Piece<'_>) {
        self.body += data.len();
    }
    fn response_end(&mut self, key: Key, _: End) {
        self.open.retain(|open| *open != key);
    }
    fn orphan(&mut self, _: Reason) {}
    fn upgraded(&mut self) {}
}

/// HTTP/1 and the detection of what is spoken: every byte is accounted for, every request ends.
pub fn h1(data: &[u8]) {
    let (late, data) = match data {
        [first, rest @ ..] => (first & 1 != 0, rest),
        [] => return,
    };
    let budget = Budget::new();
    let mut protocol = Protocol::new(late);
    let (mut tally, mut sink) = (Tally::default(), Recorder::default());
    for step in steps(data) {
        let (direction, piece) = match step {
            Step::Bytes(direction, bytes) => (direction, Piece::Bytes(bytes)),
            Step::Gap(direction, bytes) => (direction, Piece::Gap(bytes)),
        };
        protocol.push(direction, piece, &budget, &mut tally, &mut sink);
    }
    protocol.finish(None, &mut tally, &mut sink);
    assert!(tally.is_conserved(), "bytes unaccounted for: {tally:?}");
    assert!(sink.body <= tally.seen);
    assert!(sink.open.is_empty(), "requests without end: {:?}", sink.open);
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
