//! The recordings beside the repository as they are served: every one on a connection of its own, one after the other
//! through one pipeline.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use e2e::corpus::render::{self, Pieces};
use e2e::corpus::{self, Line};
use meter::exchange::{IdentifiedBy, SessionId};
use meter::pipeline::{Direction, HostEvidence, Input, Output, Pipeline};
use meter::record::Subject;
use meter::time::Moment;
use meter::workload::{ProcessKey, Workload};

use super::limits;
use crate::allocations;
use crate::measure::{side, take_turns};
use crate::report::Report;

/// How long each side of a comparison is measured.
const SPAN: Duration = Duration::from_millis(3_000);

/// Which recordings, and how they travel.
struct Selection {
    name: &'static str,
    pieces: fn(&Line) -> Option<Pieces>,
    takes: fn(&Line) -> bool,
}

const SELECTIONS: &[Selection] = &[
    Selection { name: "h1, all", pieces: http1, takes: |_| true },
    Selection { name: "h2, all", pieces: http2, takes: |_| true },
    Selection { name: "h1, event streams", pieces: http1, takes: |line| line.protocol == "sse" },
    Selection { name: "h2, event streams", pieces: http2, takes: |line| line.protocol == "sse" },
    Selection { name: "h1, gzip", pieces: http1, takes: is_gzip },
    Selection { name: "WebSocket", pieces: |line| render::rendering(line, "ws"), takes: |_| true },
    Selection { name: "gRPC", pieces: |line| served(line, "grpc"), takes: |_| true },
];

fn http1(line: &Line) -> Option<Pieces> {
    render::rendering(line, "h1")
}

fn http2(line: &Line) -> Option<Pieces> {
    served(line, "h2")
}

fn is_gzip(line: &Line) -> bool {
    line.wire_body.as_ref().is_some_and(|body| body.starts_with(&GZIP))
}

/// RFC 1952, 2.3.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// As HTTP/2, if the conformance run has it under this name: heads are packed in all of them.
fn served(line: &Line, wanted: &str) -> Option<Pieces> {
    render::rendering(line, wanted).map(|_| render::together_as_http2(&[line]))
}

/// Where the recordings are.
fn recordings() -> PathBuf {
    e2e::toolbox::workspace().join("../shared/corpus/exchanges.jsonl.gz")
}

/// Measures the selections whose name contains `only`, or says loudly that there is nothing to measure.
pub(super) fn run(only: &str, report: &mut Report) -> anyhow::Result<()> {
    let path = recordings();
    report.section("Meter over recorded exchanges, one core, a connection for each", "");
    if !path.exists() {
        report.not_measured(&format!("there are no recordings at {}", path.display()));
        return Ok(());
    }
    for selection in SELECTIONS.iter().filter(|selection| selection.name.contains(only)) {
        selection.measure(&path, report)?;
    }
    Ok(())
}

impl Selection {
    fn measure(&self, path: &Path, report: &mut Report) -> anyhow::Result<()> {
        let (mut served, mut documents, mut packed) = (Vec::new(), Vec::new(), Vec::new());
        for line in corpus::lines(path)? {
            let line = line?;
            if (self.takes)(&line)
                && let Some(pieces) = (self.pieces)(&line)
            {
                documents.extend(json_of(&line));
                served.push(Served { host: line.host().into(), pieces });
                packed.extend(line.wire_body.filter(|body| body.starts_with(&GZIP)));
            }
        }
        let whole: Vec<u8> =
            served.iter().flat_map(|one| &one.pieces).flat_map(|(_, bytes)| bytes).copied().collect();
        let workload = Workload::unknown(ProcessKey { pid: 1, start_ticks: 1 });
        let mut metered = Metered { pipeline: super::pipeline(true)?, workload, session: 0, records: 0 };
        let mut sides = vec![side(|| metered.all(&served)), limits::copy(&whole)];
        let mut columns = vec!["x memcpy"];
        if !documents.is_empty() {
            columns.push("x simd-json");
            sides.push(side(|| limits::parse(&documents)));
        }
        // Where some are compressed and most are not, unpacking says nothing.
        if packed.len() == served.len() {
            columns.extend(["x flate2", "x flate2 + simd-json"]);
            sides.push(side(|| packed.iter().for_each(|body| limits::unpack(body))));
            sides.push(side(|| {
                packed.iter().for_each(|body| limits::unpack(body));
                limits::parse(&documents);
            }));
        }
        let turns = take_turns(SPAN, &mut sides)?;
        drop(sides);
        let (before, records) = (allocations::made(), metered.records);
        metered.all(&served);
        let exchanges = served.len() as f64;
        let allocations = (allocations::made() - before) as f64 / exchanges;
        anyhow::ensure!(metered.records > records, "{}: nothing was recorded", self.name);
        let [meter, peers @ ..] = turns.as_slice() else { anyhow::bail!("nothing was measured") };
        let megabytes = whole.len() as f64 / 1e6;
        let name = format!("{} ({})", self.name, served.len());
        let peers = columns.iter().zip(peers);
        report.row(&name, &super::figures(megabytes, exchanges, meter.seconds, allocations, peers));
        Ok(())
    }
}

/// A recording as bytes on a connection.
struct Served {
    host: Arc<str>,
    pieces: Pieces,
}

struct Metered {
    pipeline: Pipeline,
    /// Of the process that has all connections.
    workload: Arc<Workload>,
    session: u64,
    /// Exchanges told.
    records: u64,
}

impl Metered {
    fn all(&mut self, served: &[Served]) {
        for one in served {
            self.session += 1;
            self.one(one);
        }
    }

    fn one(&mut self, served: &Served) {
        let session = SessionId(self.session);
        let host =
            HostEvidence { host: Arc::clone(&served.host), identified_by: IdentifiedBy::TlsHostnameCall };
        let workload = Arc::clone(&self.workload);
        let process = workload.process;
        let mut now = self.session << 32;
        let opened = Input::Opened { session, process, workload, host: Some(host), joined_late: false };
        self.pipeline.handle(opened, Moment(now));
        let mut ends = [0, 0];
        for (direction, bytes) in &served.pieces {
            let end = &mut ends[usize::from(*direction == Direction::Received)];
            for bytes in bytes.chunks(16 * 1024) {
                now += 1_000;
                let chunk = Input::Chunk { session, direction: *direction, offset: *end, opposite: 0, bytes };
                self.pipeline.handle(chunk, Moment(now));
                *end += bytes.len() as u64;
            }
        }
        let [sent, received] = ends;
        self.pipeline.handle(Input::Closed { session, sent, received }, Moment(now + 1));
        while let Some(output) = self.pipeline.poll() {
            if let Output::Record(record) = output {
                self.records += u64::from(matches!(record.subject, Subject::Exchange(_)));
            }
        }
    }
}

/// The JSON texts of both directions, unframed and unpacked: what a parser has to read for the same knowledge.
fn json_of(line: &Line) -> Vec<Vec<u8>> {
    let frames = line.frames.iter().map(|(_, text)| text.as_bytes());
    let events: Vec<&[u8]> = match line.protocol.as_str() {
        "sse" => line
            .response_body
            .split(|byte| *byte == b'\n')
            .filter_map(|text| text.strip_prefix(b"data:"))
            .collect(),
        "ndjson" => line.response_body.split(|byte| *byte == b'\n').collect(),
        "aws-eventstream" => payloads(&line.response_body),
        _ => vec![&line.response_body],
    };
    let texts = std::iter::once(line.request_body.as_slice()).chain(events).chain(frames);
    let is_json = |text: &&[u8]| simd_json::to_borrowed_value(&mut text.to_vec()).is_ok();
    texts.filter(is_json).map(<[u8]>::to_vec).collect()
}

/// Payloads of the messages of an AWS event stream: a prelude of both lengths and a checksum, headers, payload, a
/// checksum.
fn payloads(mut stream: &[u8]) -> Vec<&[u8]> {
    let length = |at: &[u8]| at.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize);
    let mut found = Vec::new();
    while let (Some(total), Some(headers)) = (length(stream), stream.get(4..).and_then(length)) {
        let (Some(payload), Some(rest)) =
            (total.checked_sub(4).and_then(|end| stream.get(12 + headers..end)), stream.get(total..))
        else {
            break;
        };
        found.push(payload);
        stream = rest;
    }
    found
}
