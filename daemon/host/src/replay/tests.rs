//! The built-in recording gives the calls that it was made of; anything else is read or refused.

use meter::attribution::{OwnerConfig, OwnerIndex};
use meter::pipeline::{Attempts, FingerprintKeys, Input, Output, Pipeline, PipelineOptions};
use meter::pricing::Catalogue;
use meter::record::Subject;
use proptest::prelude::*;

use super::*;
use crate::capture::status::realtime;
use crate::shards::{Meter, Shards};

struct Plain(Pipeline);

impl Meter for Plain {
    fn handle(&mut self, input: Input<'_>, now: Moment) {
        self.0.handle(input, now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.0.poll()
    }

    fn deadline(&self) -> Option<Moment> {
        self.0.deadline()
    }
}

#[test]
fn the_built_in_recording_gives_its_four_calls_and_two_flows() {
    let directory = Arc::new(Directory::builtin());
    let owners = OwnerIndex::compile(&OwnerConfig::default(), 1, realtime());
    let options = PipelineOptions {
        directory: Arc::clone(&directory),
        owners: Arc::new(owners.expect("no rules")),
        catalogue: Arc::new(Catalogue::vendored().expect("a catalogue")),
        clock: wall_clock(),
        fingerprint_keys: FingerprintKeys::default(),
        attempts: Attempts::new([3; 16]),
        id_seed: 1,
        detect_by_path: true,
        fence_panics: false,
    };
    let status = CaptureStatus::new();
    let (writer, records) = crate::writer::queue();
    let make = move |_| Plain(Pipeline::new(options.clone()));
    let shards = Shards::start(2, make, writer, Arc::clone(&status)).expect("threads");
    let recording = Recording::load(None).expect("a recording");
    Replay::start(recording, directory, shards.senders(), status).expect("a thread").finish();
    shards.stop();
    let mut seen: Vec<_> = records
        .iter()
        .map(|record| match record.subject {
            Subject::Exchange(exchange) => {
                let usage = (exchange.usage.input, exchange.usage.cache_read, exchange.usage.output);
                let model = exchange.model.or(exchange.requested_model).unwrap_or_default();
                let streaming = exchange.streaming.unwrap_or_default();
                format!("{} {model} {:?} streamed={streaming} {usage:?}", exchange.provider, exchange.status)
            }
            Subject::Flow(flow) => format!("flow {:?} {:?}", flow.provider, flow.bytes_sent),
        })
        .collect();
    seen.sort();
    let expected = [
        "anthropic claude-opus-4-1 Some(529) streamed=false (None, None, None)",
        "anthropic claude-sonnet-4-5-20250929 Some(200) streamed=false (Some(2460), Some(2048), Some(61))",
        "flow Some(\"anthropic\") Some(2210)",
        "flow Some(\"openai\") Some(1924)",
        "openai gpt-4o-2024-08-06 Some(200) streamed=false (Some(1210), Some(1024), Some(3))",
        "openai gpt-4o-mini-2024-07-18 Some(200) streamed=true (Some(14), Some(0), Some(5))",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn what_is_not_understood_is_named() {
    let check = |text: &str, expected: &str| {
        let error = Recording::parse(text.as_bytes()).map(|_| ()).expect_err("must be refused");
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    };
    check("", "line 1: not a recorded capture");
    check("venturi-replay 2\n", "line 1: not a recorded capture");
    check("venturi-replay 1\nnonsense 1\n", "line 2: \"nonsense\": not understood");
    check("venturi-replay 1\nopen 1 7 host\n", "no process 7");
    check("venturi-replay 1\nsent 1 0 3\nabc\n", "no session 1");
    check("venturi-replay 1\nprocess 7 0 a /a\nopen 1 7 h\nsent 1 0 9\nabc\n", "less payload than promised");
    check("venturi-replay 1\nprocess 7 0 a /a\nopen 1 7 h\nsent 1 0 2\nabc\n", "no line feed");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut text = b"venturi-replay 1\nprocess 7 0 a /a\nopen 1 7 h\n".to_vec();
        text.extend(bytes);
        let _ = Recording::parse(&text);
    }
}
