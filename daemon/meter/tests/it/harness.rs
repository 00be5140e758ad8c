//! Drives a pipeline with the two streams of one session.

use std::sync::{Arc, LazyLock};

use meter::attribution::{OwnerIndex, TenantName};
use meter::directory::Directory;
use meter::exchange::{Exchange, IdentifiedBy, Reason, SessionId};
use meter::pipeline::{
    Attempts, Direction, FingerprintKeys, HostEvidence, Input, Output, Pipeline, PipelineOptions,
    SessionVerdict,
};
use meter::pricing::Catalogue;
use meter::record::Subject;
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload};

pub(crate) const SESSION: SessionId = SessionId(1);

/// What a session led to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) lost: Vec<(Reason, u64)>,
    pub(crate) verdict: Option<SessionVerdict>,
    /// Every output as it prints itself.
    pub(crate) printed: String,
}

impl Outcome {
    pub(crate) fn lost_bytes(&self) -> u64 {
        self.lost.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The only exchange.
    pub(crate) fn one(&self) -> &Exchange {
        match self.exchanges.as_slice() {
            [one] => one,
            other => panic!("expected one exchange, found {}: {other:?}", other.len()),
        }
    }
}

/// A session being driven.
pub(crate) struct Driver {
    pub(crate) pipeline: Pipeline,
    now: u64,
    ends: [u64; 2],
    /// With each chunk it is told how far the other direction had come, as the kernel tells it.
    pub(crate) both: bool,
}

pub(crate) fn options() -> PipelineOptions {
    static PARTS: LazyLock<(Arc<Directory>, Arc<Catalogue>)> = LazyLock::new(|| {
        let catalogue = Catalogue::vendored().unwrap_or_else(|error| panic!("{error}"));
        (Arc::new(Directory::builtin()), Arc::new(catalogue))
    });
    let mut fingerprint_keys = FingerprintKeys::default();
    if let Some(tenant) = TenantName::new(TenantName::DEFAULT) {
        fingerprint_keys.insert(tenant, [7; 32]);
    }
    PipelineOptions {
        directory: Arc::clone(&PARTS.0),
        owners: Arc::new(OwnerIndex::empty(0, UnixNanos(0))),
        catalogue: Arc::clone(&PARTS.1),
        clock: WallClock { offset_ns: 1_700_000_000_000_000_000 },
        fingerprint_keys,
        attempts: Attempts::new([3; 16]),
        id_seed: 0x1234_5678_9abc_def0,
        detect_by_path: true,
        fence_panics: false,
    }
}

impl Driver {
    /// A session to `host` (empty: unknown) that is seen from its start, unless `joined_late`.
    pub(crate) fn new(host: &str, joined_late: bool) -> Driver {
        Driver::with(options(), host, joined_late)
    }

    /// The same with options of its own.
    pub(crate) fn with(options: PipelineOptions, host: &str, joined_late: bool) -> Driver {
        let mut driver =
            Driver { pipeline: Pipeline::new(options), now: 1_000_000, ends: [0; 2], both: true };
        let process = ProcessKey { pid: 4242, start_ticks: 99 };
        let host = (!host.is_empty())
            .then(|| HostEvidence { host: host.into(), identified_by: IdentifiedBy::TlsHostnameCall });
        let workload = Workload::unknown(process);
        driver.input(Input::Opened { session: SESSION, process, workload, host, joined_late });
        driver
    }

    /// The process goes on with a new connection to `host`.
    pub(crate) fn reconnect(&mut self, host: &str) {
        self.close();
        self.ends = [0; 2];
        let process = ProcessKey { pid: 4242, start_ticks: 99 };
        let host = Some(HostEvidence { host: host.into(), identified_by: IdentifiedBy::TlsHostnameCall });
        let workload = Workload::unknown(process);
        self.input(Input::Opened { session: SESSION, process, workload, host, joined_late: false });
    }

    fn input(&mut self, input: Input<'_>) {
        self.now += 1_000;
        self.pipeline.handle(input, Moment(self.now));
    }

    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        self.chunk(Direction::Sent, bytes);
    }

    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.chunk(Direction::Received, bytes);
    }

    fn chunk(&mut self, direction: Direction, bytes: &[u8]) {
        let at = usize::from(direction == Direction::Received);
        let (offset, opposite) = (self.ends[at], if self.both { self.ends[1 - at] } else { 0 });
        self.input(Input::Chunk { session: SESSION, direction, offset, opposite, bytes });
        self.ends[at] += bytes.len() as u64;
    }

    pub(crate) fn gap(&mut self, direction: Direction, bytes: u64) {
        self.ends[usize::from(direction == Direction::Received)] += bytes;
    }

    pub(crate) fn moved(&self) -> u64 {
        self.ends.iter().sum()
    }

    pub(crate) fn close(&mut self) {
        let [sent, received] = self.ends;
        self.input(Input::Closed { session: SESSION, sent, received });
    }

    pub(crate) fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(output) = self.pipeline.poll() {
            outcome.printed.push_str(&format!("{output:?}"));
            match output {
                Output::Record(record) => {
                    if let Subject::Exchange(exchange) = record.subject {
                        outcome.exchanges.push(*exchange);
                    }
                }
                Output::Lost { reason, bytes, .. } => outcome.lost.push((reason, bytes)),
                Output::Verdict { verdict, .. } => outcome.verdict = Some(verdict),
            }
        }
        outcome
    }
}

/// One call to `host`: both streams, cut at the given sizes (in turn), then closed.
pub(crate) fn call(host: &str, sent: &[u8], received: &[u8], cuts: &[usize]) -> Outcome {
    let mut driver = Driver::new(host, false);
    for piece in cut(sent, cuts) {
        driver.sent(piece);
    }
    for piece in cut(received, cuts) {
        driver.received(piece);
    }
    driver.close();
    driver.outcome()
}

pub(crate) fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    for size in cuts.iter().cycle().copied() {
        if rest.is_empty() || size == 0 {
            break;
        }
        let (piece, later) = rest.split_at(size.min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// A request with a JSON body.
pub(crate) fn post(target: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nHost: api.openai.com\r\nAuthorization: Bearer sk-test-1\r\nUser-Agent: \
         OpenAI/Python 2.8.0\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A response with a body of known length.
pub(crate) fn answer(status: u16, fields: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A chunked response, `size` bytes a chunk, with an extension and a trailer.
pub(crate) fn chunked(fields: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:X};ext=\"1\"\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
    bytes
}

/// `input,output,cache_read,cache_creation,reasoning`, `-` where unknown.
pub(crate) fn tokens(exchange: &Exchange) -> String {
    let usage = &exchange.usage;
    [usage.input, usage.output, usage.cache_read, usage.cache_creation, usage.reasoning]
        .map(|count| count.map_or_else(|| "-".to_owned(), |count| count.to_string()))
        .join(",")
}
