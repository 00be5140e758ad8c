//! Meter throughput and allocations on one core, exchanges as they are served, beside the limits of the same run: a
//! copy of the bytes, a full `simd-json` parse of the JSON in them, `httparse` on the heads or the `h2` crate on the
//! frames, and `flate2` on what is compressed. Then recorded exchanges, where they lie beside the repository. A ratio
//! above 1 says that the meter is the faster of the two.

mod calls;
mod limits;
mod recorded;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use meter::attribution::index::OwnerIndex;
use meter::directory::Directory;
use meter::exchange::{IdentifiedBy, SessionId};
use meter::pipeline::{
    Attempts, Direction, FingerprintKeys, HostEvidence, Input, Output, Pipeline, PipelineOptions,
};
use meter::pricing::Catalogue;
use meter::record::Subject;
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload};

use crate::allocations;
use crate::measure::seconds_per_run;
use wire::{Connection, Shape};

const SPAN: Duration = Duration::from_millis(1_500);

/// Exchanges over which allocations are counted.
const COUNTED: u64 = 200;

/// Prints one line per shape.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("## Meter, one core (aim: at least 0.5 x simd-json, above 1 on streamed answers)");
    println!(
        "{:40} {:>7} {:>11} {:>11} {:>11} {:>9} {:>10} {:>7} {:>9}",
        "shape",
        "MB/s",
        "exchanges/s",
        "allocations",
        "x simd-json",
        "x memcpy",
        "x httparse",
        "x h2",
        "x flate2"
    );
    for shape in calls::shapes()? {
        let Shape { name, documents, heads, packed, .. } = &shape;
        let megabytes = (shape.connection.sent.len() + shape.connection.received.len()) as f64 / 1e6;
        let (meter, allocations) = meter(&shape)?;
        let parsed = seconds_per_run(SPAN, || limits::parse(documents));
        let copied = limits::copy_seconds(SPAN / 4, &shape.connection);
        let of_meter = |seconds: Option<f64>| {
            seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.3}", seconds / meter))
        };
        let headed = heads.as_ref().map(|heads| seconds_per_run(SPAN / 4, || limits::read_heads(heads)));
        let framed = match heads {
            None if shape.connection.streams.is_some() => Some(limits::h2_seconds(SPAN, &shape.connection)?),
            _ => None,
        };
        let unpacked = packed.as_ref().map(|packed| seconds_per_run(SPAN / 2, || limits::unpack(packed)));
        println!(
            "{name:40} {:7.0} {:11.0} {allocations:11.1} {:11.2} {:9.3} {:>10} {:>7} {:>9}",
            megabytes / meter,
            1.0 / meter,
            parsed / meter,
            copied / meter,
            of_meter(headed),
            of_meter(framed),
            of_meter(unpacked)
        );
    }
    recorded::run()
}

/// A pipeline as the daemon has it.
fn pipeline(detect_by_path: bool) -> anyhow::Result<Pipeline> {
    Ok(Pipeline::new(PipelineOptions {
        directory: Arc::new(Directory::builtin()),
        owners: Arc::new(OwnerIndex::empty(1, UnixNanos(0))),
        catalogue: Arc::new(Catalogue::vendored()?),
        clock: WallClock { offset_ns: 0 },
        fingerprint_keys: FingerprintKeys::default(),
        attempts: Attempts::new([3; 16]),
        id_seed: 1,
        detect_by_path,
        fence_panics: true,
    }))
}

/// Seconds and allocations per exchange, pipeline, attribution and price included: session of a known host that is
/// kept alive, pieces of 16 KB.
fn meter(shape: &Shape) -> anyhow::Result<(f64, f64)> {
    let mut metered = Metered::new(shape)?;
    let seconds = seconds_per_run(SPAN, || metered.exchange());
    let before = allocations::made();
    (0..COUNTED).for_each(|_| metered.exchange());
    let allocations = (allocations::made() - before) as f64 / COUNTED as f64;
    let Metered { records, exchanges, .. } = metered;
    anyhow::ensure!(records == exchanges, "{}: {records} whole records of {exchanges} exchanges", shape.name);
    Ok((seconds, allocations))
}

/// A session that has the same exchange again and again.
struct Metered {
    pipeline: Pipeline,
    connection: Connection,
    /// Bytes of each direction so far.
    ends: [u64; 2],
    now: u64,
    exchanges: u64,
    /// Records with counts of both directions.
    records: u64,
}

const SESSION: SessionId = SessionId(1);

impl Metered {
    fn new(shape: &Shape) -> anyhow::Result<Metered> {
        let mut pipeline = pipeline(false)?;
        let process = ProcessKey { pid: 1, start_ticks: 1 };
        let host = HostEvidence { host: shape.host.into(), identified_by: IdentifiedBy::TlsHostnameCall };
        let opened = Input::Opened {
            session: SESSION,
            process,
            workload: Workload::unknown(process),
            host: Some(host),
            joined_late: false,
        };
        pipeline.handle(opened, Moment(1));
        let connection = shape.connection.clone();
        let mut metered = Metered { pipeline, connection, ends: [0; 2], now: 1, exchanges: 0, records: 0 };
        let [sent, received] = shape.connection.opening.clone();
        metered.chunk(Direction::Sent, &sent);
        metered.chunk(Direction::Received, &received);
        while metered.pipeline.poll().is_some() {}
        Ok(metered)
    }

    fn exchange(&mut self) {
        self.connection.next_stream();
        let [sent, received] =
            [std::mem::take(&mut self.connection.sent), std::mem::take(&mut self.connection.received)];
        self.chunk(Direction::Sent, &sent);
        self.chunk(Direction::Received, &received);
        (self.connection.sent, self.connection.received) = (sent, received);
        while let Some(output) = self.pipeline.poll() {
            if let Output::Record(record) = output
                && let Subject::Exchange(exchange) = &record.subject
            {
                let usage = &exchange.usage;
                self.records += u64::from(usage.input.is_some() && usage.output.is_some());
            }
        }
        self.exchanges += 1;
    }

    fn chunk(&mut self, direction: Direction, bytes: &[u8]) {
        let end = &mut self.ends[usize::from(direction == Direction::Received)];
        for bytes in bytes.chunks(16 * 1024) {
            self.now += 1_000;
            let chunk = Input::Chunk { session: SESSION, direction, offset: *end, opposite: 0, bytes };
            self.pipeline.handle(chunk, Moment(self.now));
            *end += bytes.len() as u64;
        }
    }
}
