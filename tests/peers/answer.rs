//! What clients say of their answers, and what the meter says of what passed between them and their servers.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

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
use serde_json::Value;

use crate::recorder::Recording;

/// What both sides have to say of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Answer {
    /// Of HTTP; clients of what travels over it do not say.
    pub(crate) status: Option<u64>,
    pub(crate) model: Option<String>,
    pub(crate) input: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) cached: Option<u64>,
    pub(crate) audio_input: Option<u64>,
    pub(crate) audio_output: Option<u64>,
    /// Name of what went wrong.
    pub(crate) error: Option<String>,
}

impl Answer {
    /// As a client reports it.
    pub(crate) fn said(said: &Value) -> Answer {
        let text = |name: &str| said[name].as_str().map(str::to_owned);
        let count = |name: &str| said[name].as_u64();
        let answer = Answer {
            status: count("status"),
            model: text("model"),
            input: count("input"),
            output: count("output"),
            cached: count("cached"),
            audio_input: count("audio_input"),
            audio_output: count("audio_output"),
            error: text("error"),
        };
        let counts = [answer.input, answer.output, answer.cached];
        assert!(answer.error.is_some() || counts.iter().all(Option::is_some), "incomplete: {said}");
        answer
    }

    /// As the meter has it.
    pub(crate) fn of(exchange: &Exchange) -> Answer {
        let usage = &exchange.usage;
        Answer {
            status: exchange.status.map(u64::from),
            model: exchange.model.as_deref().map(str::to_owned),
            input: usage.input,
            output: usage.output,
            cached: usage.cache_read,
            audio_input: usage.audio_input,
            audio_output: usage.audio_output,
            error: exchange.error.as_ref().and_then(|error| error.class.as_deref().map(str::to_owned)),
        }
    }
}

/// What the client that `command` starts says of `calls`, a JSON line for each answer, sorted.
pub(crate) fn made(command: &mut Command, calls: &[Value]) -> Vec<Answer> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
    let lines: String = calls.iter().map(|call| format!("{call}\n")).collect();
    child.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success(), "the client ended with {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    let mut answers: Vec<Answer> =
        text.lines().map(|line| Answer::said(&serde_json::from_str(line).expect("a JSON line"))).collect();
    answers.sort();
    answers
}

/// What the meter makes of connections with `host`: every byte metered, nothing unknown.
pub(crate) fn metered(host: &str, recordings: &[Recording]) -> Vec<Exchange> {
    let mut pipeline = Pipeline::new(PipelineOptions {
        directory: Arc::new(Directory::builtin()),
        owners: Arc::new(OwnerIndex::empty(0, UnixNanos(0))),
        catalogue: Arc::new(Catalogue::vendored().expect("the vendored catalogue")),
        clock: WallClock::default(),
        fingerprint_keys: FingerprintKeys::default(),
        attempts: Attempts::new([9; 16]),
        id_seed: 1,
        detect_by_path: false,
        fence_panics: false,
    });
    let process = ProcessKey { pid: 1, start_ticks: 1 };
    let mut exchanges = Vec::new();
    for (number, recording) in (1..).zip(recordings) {
        let session = SessionId(number);
        let host = HostEvidence { host: host.into(), identified_by: IdentifiedBy::Sni };
        let workload = Workload::unknown(process);
        let opened = Input::Opened { session, process, workload, host: Some(host), joined_late: false };
        pipeline.handle(opened, Moment(1));
        let mut ends = [0, 0];
        for (now, (direction, bytes)) in (2..).zip(recording) {
            let end = &mut ends[usize::from(*direction == Direction::Received)];
            let chunk = Input::Chunk { session, direction: *direction, offset: *end, opposite: 0, bytes };
            pipeline.handle(chunk, Moment(now));
            *end += bytes.len() as u64;
        }
        pipeline.handle(Input::Closed { session, sent: ends[0], received: ends[1] }, Moment(u64::MAX / 2));
        while let Some(output) = pipeline.poll() {
            match output {
                Output::Record(record) => match record.subject {
                    Subject::Exchange(exchange) => exchanges.push(*exchange),
                    Subject::Flow(_) => panic!("no flow was told"),
                },
                Output::Lost { reason, bytes, .. } => panic!("{bytes} bytes lost: {reason:?}"),
                Output::Verdict { .. } => {}
            }
        }
    }
    exchanges
}

/// The meter says of `exchanges` what the client was answered, with the reason for nothing unknown but what failed.
pub(crate) fn agree(what: &str, answers: &[Answer], exchanges: &[Exchange]) {
    for exchange in exchanges {
        assert_eq!(exchange.reason.is_some(), exchange.error.is_some(), "{what}: {exchange:?}");
    }
    let told = answers.first().is_some_and(|answer| answer.status.is_some());
    let mut seen: Vec<Answer> = exchanges.iter().map(Answer::of).collect();
    seen.iter_mut().filter(|_| !told).for_each(|answer| answer.status = None);
    seen.sort();
    assert_eq!(seen, answers, "{what}");
}
