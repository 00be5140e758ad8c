//! Drives the pipeline with a rendered exchange, as capture would.

use std::sync::{Arc, LazyLock};

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
use serde_json::{Map, Value, json};

use e2e::corpus::render::Pieces;

/// What the pipeline said of a rendered exchange.
pub(crate) struct Seen {
    /// Every exchange it found; one, if all is well, and none for a host that is no provider.
    pub(crate) exchanges: Vec<Exchange>,
    /// Bytes it could not account for or lost.
    pub(crate) lost: u64,
}

impl Seen {
    /// The exchange, if there is exactly one.
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        match self.exchanges.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The answers of a session; what was transcribed beside them is none.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &Exchange> {
        self.exchanges.iter().filter(|exchange| exchange.operation != "transcription")
    }

    /// The object of the report: absent where unknown. The answers of a session are summed.
    pub(crate) fn to_json(&self, id: &str, rendering: &str) -> Value {
        let mut object = Map::new();
        object.insert("id".into(), id.into());
        object.insert("rendering".into(), rendering.into());
        if let Some(exchange) = self.exchange().or_else(|| self.answers().next()) {
            object.insert("provider".into(), exchange.provider.as_ref().into());
            object.insert("operation".into(), exchange.operation.into());
            put(&mut object, "model", model(exchange).map(Value::from));
            put(&mut object, "requested_model", exchange.requested_model.as_deref().map(Value::from));
            put(&mut object, "streaming", exchange.streaming.map(Value::from));
            let usage = self.exchange().map_or_else(|| self.sum(), usage);
            if !usage.is_empty() {
                object.insert("usage".into(), Value::Object(usage));
            }
            if !exchange.finish_reasons.is_empty() {
                object.insert(
                    "finish_reasons".into(),
                    exchange.finish_reasons.iter().map(|word| word.as_str()).collect::<Value>(),
                );
            }
            if !exchange.tools.is_empty() {
                let tools = exchange.tools.iter().map(|tool| (tool.name.to_string(), json!(tool.calls)));
                object.insert("tools".into(), tools.collect::<Map<String, Value>>().into());
            }
            put(&mut object, "reason", exchange.reason.map(|reason| json!(reason.as_str())));
        }
        Value::Object(object)
    }

    /// Counts of all answers of a session together; a class that one of them does not have is not known.
    fn sum(&self) -> Map<String, Value> {
        let mut all = self.answers().map(usage);
        let first = all.next().unwrap_or_default();
        all.fold(first, |mut sum, usage| {
            let both = |name: &String| Some(sum.get(name)?.as_u64()? + usage.get(name)?.as_u64()?);
            let names: Vec<(String, Option<u64>)> =
                sum.keys().map(|name| (name.clone(), both(name))).collect();
            sum = Map::new();
            for (name, count) in names {
                put(&mut sum, &name, count.map(Value::from));
            }
            sum
        })
    }
}

fn put(object: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value);
    }
}

/// The model that answered; the one asked for where the answer does not say.
pub(crate) fn model(exchange: &Exchange) -> Option<&str> {
    exchange.model.as_deref().or(exchange.requested_model.as_deref())
}

/// Counts by the API's names, absent where unknown.
pub(crate) fn usage(exchange: &Exchange) -> Map<String, Value> {
    let usage = &exchange.usage;
    let mut object = Map::new();
    for (name, count) in [
        ("input_tokens", usage.input),
        ("output_tokens", usage.output),
        ("cache_read_input_tokens", usage.cache_read),
        ("cache_creation_input_tokens", usage.cache_creation),
        ("cache_creation_5m_input_tokens", usage.cache_creation_5m),
        ("cache_creation_1h_input_tokens", usage.cache_creation_1h),
        ("reasoning_output_tokens", usage.reasoning),
        ("audio_input_tokens", usage.audio_input),
        ("audio_output_tokens", usage.audio_output),
        ("image_input_tokens", usage.image_input),
        ("image_output_tokens", usage.image_output),
        ("total_tokens", usage.total),
        ("web_search_requests", usage.web_search_requests),
    ] {
        put(&mut object, name, count.map(Value::from));
    }
    for (detail, count) in usage.details.iter() {
        object.insert(detail.as_str().to_owned(), Value::from(count));
    }
    object
}

static DIRECTORY: LazyLock<Arc<Directory>> = LazyLock::new(|| Arc::new(Directory::builtin()));
static CATALOGUE: LazyLock<Arc<Catalogue>> = LazyLock::new(|| {
    Arc::new(Catalogue::vendored().unwrap_or_else(|error| panic!("vendored catalogue: {error}")))
});

/// Runs what is on a connection, whose host name shows itself in the request.
pub(crate) fn drive(pieces: &Pieces) -> Seen {
    run(None, pieces.iter().map(|(direction, bytes)| (*direction, bytes.as_slice(), false)), false)
}

/// The same without the pieces that are `missing`; its host name is known.
pub(crate) fn damaged(host: &str, pieces: &Pieces, missing: &[bool], joined_late: bool) -> Seen {
    let host = HostEvidence { host: host.into(), identified_by: IdentifiedBy::Sni };
    let pieces = pieces.iter().zip(missing);
    let pieces = pieces.map(|((direction, bytes), missing)| (*direction, bytes.as_slice(), *missing));
    run(Some(host), pieces, joined_late)
}

fn run<'a>(
    host: Option<HostEvidence>,
    pieces: impl Iterator<Item = (Direction, &'a [u8], bool)>,
    joined_late: bool,
) -> Seen {
    let mut pipeline = Pipeline::new(PipelineOptions {
        directory: Arc::clone(&DIRECTORY),
        owners: Arc::new(OwnerIndex::empty(0, UnixNanos(0))),
        catalogue: Arc::clone(&CATALOGUE),
        clock: WallClock::default(),
        fingerprint_keys: FingerprintKeys::default(),
        attempts: Attempts::new([3; 16]),
        id_seed: 1,
        detect_by_path: true,
        fence_panics: false,
    });
    let (session, process) = (SessionId(1), ProcessKey { pid: 1, start_ticks: 1 });
    let workload = Workload::unknown(process);
    let mut now = 0;
    let mut tick = || {
        now += 1_000;
        Moment(now)
    };
    pipeline.handle(Input::Opened { session, process, workload, host, joined_late }, tick());
    let mut ends = [0, 0];
    for (direction, bytes, missing) in pieces {
        let [sent, received] = &mut ends;
        let (end, opposite) = match direction {
            Direction::Sent => (sent, *received),
            Direction::Received => (received, *sent),
        };
        if !missing {
            let chunk = Input::Chunk { session, direction, offset: *end, opposite, bytes };
            pipeline.handle(chunk, tick());
        }
        *end += bytes.len() as u64;
    }
    let [sent, received] = ends;
    pipeline.handle(Input::Closed { session, sent, received }, tick());
    let mut seen = Seen { exchanges: Vec::new(), lost: 0 };
    while let Some(output) = pipeline.poll() {
        match output {
            Output::Record(record) => {
                if let Subject::Exchange(exchange) = record.subject {
                    seen.exchanges.push(*exchange);
                }
            }
            Output::Lost { bytes, .. } => seen.lost += bytes,
            Output::Verdict { .. } => {}
        }
    }
    seen
}
