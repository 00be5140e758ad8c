//! Meter throughput and allocations on one core, exchanges as they are served, beside what other code takes for the same
//! bytes. All of them take turns. A ratio above 1 says that the meter is the faster of the two.
//!
//! - `simd-json`: every JSON document of both directions, unframed and unpacked, parsed into a borrowed value;
//! - `flate2`, where answers are compressed: unpacking alone;
//! - `flate2 + simd-json`: unpacking and then parsing, so that the other too begins with the bytes of the wire;
//! - `memcpy`: all bytes of the exchange;
//! - `httparse`: the two heads of HTTP/1.1 alone; `h2`: all frames of HTTP/2, by the crate of that name.
//!
//! First calls that are made here, one after the other on one connection; then recorded ones, where they lie beside the
//! repository, each on a connection of its own.

mod calls;
mod limits;
mod recorded;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use meter::attribution::{OwnerIndex, TenantName};
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
use crate::measure::{Turns, side, take_turns};
use crate::report::{Figure, Report};
use wire::{Connection, Shape};

/// How long each side of a comparison is measured.
const SPAN: Duration = Duration::from_millis(1_500);

/// Exchanges over which allocations are counted.
const COUNTED: u64 = 200;

/// Measures every shape, then the recordings, of which the name contains `only`.
pub(crate) fn run(only: &str, report: &mut Report) -> anyhow::Result<()> {
    report.section("Meter, one core", "at least 0.5 x simd-json, above 1 on streamed answers");
    for shape in calls::shapes()?.iter().filter(|shape| shape.name.contains(only)) {
        measure(shape, report)?;
    }
    recorded::run(only, report)
}

fn measure(shape: &Shape, report: &mut Report) -> anyhow::Result<()> {
    let Shape { name, documents, heads, packed, connection, .. } = shape;
    let mut metered = Metered::new(shape)?;
    let mut sides = vec![
        side(|| metered.exchange()),
        side(|| limits::parse(documents)),
        limits::copy(&[&connection.sent[..], &connection.received].concat()),
    ];
    let mut columns = vec!["x simd-json", "x memcpy"];
    if let Some(heads) = heads {
        columns.push("x httparse");
        sides.push(side(|| limits::read_heads(heads)));
    } else if connection.streams.is_some() {
        columns.push("x h2");
        sides.push(Box::new(|span| limits::h2_seconds(span, connection)));
    }
    if let Some(packed) = packed {
        columns.extend(["x flate2", "x flate2 + simd-json"]);
        sides.push(side(|| limits::unpack(packed)));
        sides.push(side(|| {
            limits::unpack(packed);
            limits::parse(documents);
        }));
    }
    let turns = take_turns(SPAN, &mut sides)?;
    drop(sides);
    let allocations = metered.allocations();
    metered.check(name)?;
    let [meter, peers @ ..] = turns.as_slice() else { anyhow::bail!("nothing was measured") };
    let megabytes = (connection.sent.len() + connection.received.len()) as f64 / 1e6;
    report.row(name, &figures(megabytes, 1.0, meter.seconds, allocations, columns.iter().zip(peers)));
    Ok(())
}

/// Columns of both tables, of a run of `exchanges` that took `seconds`.
fn figures<'a>(
    megabytes: f64,
    exchanges: f64,
    seconds: f64,
    allocations: f64,
    peers: impl Iterator<Item = (&'a &'static str, &'a Turns)>,
) -> Vec<Figure> {
    let mut ratios: Vec<Figure> = PEERS.iter().map(|peer| (*peer, None)).collect();
    for (peer, turns) in peers {
        for (_, ratio) in ratios.iter_mut().filter(|(name, _)| name == peer) {
            *ratio = Some(turns.of_first);
        }
    }
    let own = [
        ("MB/s", Some(megabytes / seconds)),
        ("exchanges/s", Some(exchanges / seconds)),
        ("allocations", Some(allocations)),
    ];
    own.into_iter().chain(ratios).collect()
}

/// What the meter is compared with.
const PEERS: [&str; 6] =
    ["x simd-json", "x flate2", "x flate2 + simd-json", "x memcpy", "x httparse", "x h2"];

/// A pipeline as the daemon has it.
fn pipeline(detect_by_path: bool) -> anyhow::Result<Pipeline> {
    let mut fingerprint_keys = FingerprintKeys::default();
    fingerprint_keys.insert(TenantName::new(TenantName::DEFAULT).context("a tenant")?, [7; 32]);
    Ok(Pipeline::new(PipelineOptions {
        directory: Arc::new(Directory::builtin()),
        owners: Arc::new(OwnerIndex::empty(1, UnixNanos(0))),
        catalogue: Arc::new(Catalogue::vendored()?),
        clock: WallClock { offset_ns: 0 },
        fingerprint_keys,
        attempts: Attempts::new([3; 16]),
        id_seed: 1,
        detect_by_path,
        fence_panics: true,
    }))
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
        // Pieces of 16 KB, as TLS records hand them out.
        let [sent, received] = shape.connection.opening.clone();
        metered.chunk(Direction::Sent, &sent);
        metered.chunk(Direction::Received, &received);
        while metered.pipeline.poll().is_some() {}
        Ok(metered)
    }

    /// Allocations per exchange: pipeline, attribution and price included, of a known host and a session that is kept
    /// alive.
    fn allocations(&mut self) -> f64 {
        let before = allocations::made();
        (0..COUNTED).for_each(|_| self.exchange());
        (allocations::made() - before) as f64 / COUNTED as f64
    }

    /// That each exchange became a record with counts.
    fn check(&self, name: &str) -> anyhow::Result<()> {
        let Metered { records, exchanges, .. } = self;
        anyhow::ensure!(records == exchanges, "{name}: {records} whole records of {exchanges} exchanges");
        Ok(())
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
