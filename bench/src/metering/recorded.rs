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
use crate::measure::seconds_per_run;

const SPAN: Duration = Duration::from_millis(3_000);

/// Which recordings, and how they travel.
struct Selection {
    name: &'static str,
    rendering: &'static str,
    takes: fn(&Line) -> bool,
}

const SELECTIONS: &[Selection] = &[
    Selection { name: "h1, all", rendering: "h1", takes: |_| true },
    Selection { name: "h2, all", rendering: "h2", takes: |_| true },
    Selection { name: "h1, event streams", rendering: "h1", takes: |line| line.protocol == "sse" },
    Selection { name: "h2, event streams", rendering: "h2", takes: |line| line.protocol == "sse" },
    Selection { name: "h1, compressed", rendering: "h1", takes: |line| line.wire_body.is_some() },
    Selection { name: "WebSocket", rendering: "ws", takes: |_| true },
    Selection { name: "gRPC", rendering: "grpc", takes: |_| true },
];

/// Where the recordings are.
fn recordings() -> PathBuf {
    e2e::toolbox::workspace().join("../shared/corpus/exchanges.jsonl.gz")
}

/// Prints one line per selection, or says loudly that there is nothing to measure.
pub(super) fn run() -> anyhow::Result<()> {
    let path = recordings();
    println!("\n## Meter over recorded exchanges, one core, a connection for each");
    if !path.exists() {
        println!("NOT MEASURED: there are no recordings at {}", path.display());
        return Ok(());
    }
    println!(
        "{:40} {:>9} {:>7} {:>11} {:>11} {:>11} {:>9}",
        "recordings", "exchanges", "MB/s", "exchanges/s", "allocations", "x simd-json", "x memcpy"
    );
    for selection in SELECTIONS {
        selection.measure(&path)?;
    }
    Ok(())
}

impl Selection {
    fn measure(&self, path: &Path) -> anyhow::Result<()> {
        let (mut served, mut documents) = (Vec::new(), Vec::new());
        for line in corpus::lines(path)? {
            let line = line?;
            let rendered = render::renderings(&line).into_iter().find(|(name, _)| *name == self.rendering);
            if let Some((_, Some(pieces))) = rendered
                && (self.takes)(&line)
            {
                documents.extend(json_of(&line));
                served.push(Served { host: line.host().into(), pieces });
            }
        }
        let bytes: Vec<&[u8]> =
            served.iter().flat_map(|one| &one.pieces).map(|(_, bytes)| bytes.as_slice()).collect();
        let whole = bytes.concat();
        let mut metered = Metered { pipeline: super::pipeline(true)?, session: 0, records: 0 };
        let seconds = seconds_per_run(SPAN, || metered.all(&served));
        let (before, records) = (allocations::made(), metered.records);
        metered.all(&served);
        let allocations = (allocations::made() - before) as f64 / served.len() as f64;
        anyhow::ensure!(metered.records > records, "{}: nothing was recorded", self.name);
        let parsed = match documents.as_slice() {
            [] => "-".to_owned(),
            some => format!("{:.2}", seconds_per_run(SPAN, || limits::parse(some)) / seconds),
        };
        let mut to = vec![0; whole.len()];
        let copied = seconds_per_run(SPAN / 4, || {
            to.copy_from_slice(std::hint::black_box(&whole));
            std::hint::black_box(&to);
        });
        println!(
            "{:40} {:9} {:7.0} {:11.0} {allocations:11.1} {parsed:>11} {:9.3}",
            self.name,
            served.len(),
            whole.len() as f64 / 1e6 / seconds,
            served.len() as f64 / seconds,
            copied / seconds,
        );
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
        let (session, process) = (SessionId(self.session), ProcessKey { pid: 1, start_ticks: 1 });
        let host =
            HostEvidence { host: Arc::clone(&served.host), identified_by: IdentifiedBy::TlsHostnameCall };
        let workload = Workload::unknown(process);
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
