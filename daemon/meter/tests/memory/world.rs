//! A pipeline with sessions to drive.

use std::sync::Arc;

use meter::attribution::{OwnerIndex, TenantName};
use meter::directory::Directory;
use meter::exchange::{IdentifiedBy, SessionId};
use meter::pipeline::{
    Attempts, Direction, FingerprintKeys, HostEvidence, Input, Output, Pipeline, PipelineOptions,
};
use meter::pricing::Catalogue;
use meter::record::{Record, Subject};
use meter::time::{Moment, UnixNanos, WallClock};
use meter::workload::{ProcessKey, Workload};

/// A pipeline and the positions of its sessions.
pub(crate) struct World {
    pipeline: Pipeline,
    now: u64,
    ends: Vec<[u64; 2]>,
}

impl World {
    pub(crate) fn new() -> World {
        let mut fingerprint_keys = FingerprintKeys::default();
        let tenant = TenantName::new(TenantName::DEFAULT).expect("a lawful name");
        fingerprint_keys.insert(tenant, [7; 32]);
        let pipeline = Pipeline::new(PipelineOptions {
            directory: Arc::new(Directory::builtin()),
            owners: Arc::new(OwnerIndex::empty(0, UnixNanos(0))),
            catalogue: Arc::new(Catalogue::vendored().expect("a catalogue")),
            clock: WallClock { offset_ns: 1_700_000_000_000_000_000 },
            fingerprint_keys,
            attempts: Attempts::new([5; 16]),
            id_seed: 1,
            detect_by_path: true,
            fence_panics: false,
        });
        World { pipeline, now: 0, ends: Vec::new() }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.now += 1_000;
        self.pipeline.handle(input, Moment(self.now));
    }

    /// A new session to `host`; its number.
    pub(crate) fn open(&mut self, host: &str) -> usize {
        let number = self.ends.len();
        self.ends.push([0; 2]);
        let process = ProcessKey { pid: 7, start_ticks: 7 };
        let host = HostEvidence { host: host.into(), identified_by: IdentifiedBy::Sni };
        self.handle(Input::Opened {
            session: SessionId(number as u64),
            process,
            workload: Workload::unknown(process),
            host: Some(host),
            joined_late: false,
        });
        number
    }

    pub(crate) fn sent(&mut self, session: usize, bytes: &[u8]) {
        self.chunk(session, Direction::Sent, bytes);
    }

    pub(crate) fn received(&mut self, session: usize, bytes: &[u8]) {
        self.chunk(session, Direction::Received, bytes);
    }

    fn chunk(&mut self, session: usize, direction: Direction, bytes: &[u8]) {
        let at = usize::from(direction == Direction::Received);
        let offset = self.ends[session][at];
        self.handle(Input::Chunk {
            session: SessionId(session as u64),
            direction,
            offset,
            opposite: 0,
            bytes,
        });
        self.ends[session][at] += bytes.len() as u64;
    }

    /// Bytes that were not seen.
    pub(crate) fn gap(&mut self, session: usize, bytes: u64) {
        self.ends[session][1] += bytes;
    }

    pub(crate) fn close(&mut self, session: usize) {
        let [sent, received] = self.ends[session];
        self.handle(Input::Closed { session: SessionId(session as u64), sent, received });
    }

    /// The records made since the last look.
    pub(crate) fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while let Some(output) = self.pipeline.poll() {
            if let Output::Record(record) = output {
                records.push(*record);
            }
        }
        records
    }
}

/// Input and output tokens of a record about a call.
pub(crate) fn tokens(record: &Record) -> (Option<u64>, Option<u64>) {
    match &record.subject {
        Subject::Exchange(exchange) => (exchange.usage.input, exchange.usage.output),
        Subject::Flow(_) => (None, None),
    }
}
