//! The whole pipeline.

use std::sync::{Arc, OnceLock};

use meter::attribution::OwnerIndex;
use meter::directory::Directory;
use meter::exchange::{Exchange, IdentifiedBy, SessionId};
use meter::pipeline::{
    Attempts, Direction, FingerprintKeys, HostEvidence, Input, Output, Pipeline, PipelineOptions,
};
use meter::pricing::Catalogue;
use meter::record::Subject;
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload};

use super::{Step, steps};

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
                let at = usize::from(direction == Direction::Received);
                // How far the other direction is may be told.
                let (offset, opposite) = (ends[at], if flags & 4 != 0 { ends[1 - at] } else { 0 });
                pipeline.handle(Input::Chunk { session, direction, offset, opposite, bytes }, Moment(now));
                ends[at] += bytes.len() as u64;
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
pub fn exchanges(
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
            pipeline.handle(Input::Chunk { session, direction, offset, opposite: 0, bytes }, Moment(2));
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
