//! A shard's promises, shown by a pipeline that writes down what it is told.

use std::collections::VecDeque;

use meter::exchange::IdentifiedBy;
use meter::pipeline::{Direction, SessionVerdict};
use meter::workload::Workload;

use super::sessions::{HELD_BYTES_MAX, HELD_NS_MAX};
use super::*;

/// Writes down its inputs; `boom` in a payload panics.
#[derive(Default)]
struct Diary {
    lines: Vec<String>,
    outputs: VecDeque<Output>,
}

impl Meter for Diary {
    fn handle(&mut self, input: Input<'_>, _now: Moment) {
        let line = match input {
            Input::Opened { session, process, workload, host, joined_late } => format!(
                "open {} pid={} {} host={} late={joined_late}",
                session.0,
                process.pid,
                workload.evidence.as_str(),
                host.map_or("-".into(), |host| host.host.to_string()),
            ),
            Input::Named { session, host } => format!("named {} {}", session.0, host.host),
            Input::Resolved { session, workload } => {
                format!("resolved {} {}", session.0, workload.evidence.as_str())
            }
            Input::Chunk { session, direction, offset, bytes, .. } => {
                assert!(bytes != b"boom", "told to");
                self.outputs.push_back(Output::Verdict { session, verdict: SessionVerdict::Capture });
                format!("chunk {} {direction:?} {offset}+{}", session.0, bytes.len())
            }
            Input::Closed { session, sent, received } => format!("closed {} {sent}/{received}", session.0),
            Input::Missed { host, reason, .. } => format!("missed {} {}", host.host, reason.as_str()),
            Input::Flow { .. } => "flow".into(),
            Input::Tick => "tick".into(),
        };
        self.lines.push(line);
    }

    fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn deadline(&self) -> Option<Moment> {
        None
    }
}

const PROCESS: ProcessKey = ProcessKey { pid: 7, start_ticks: 1 };

fn identity(ssl: u64) -> SessionIdentity {
    SessionIdentity { tgid: 7, ssl, opened_ns: 100 }
}

fn host() -> HostEvidence {
    HostEvidence { host: "api.openai.com".into(), identified_by: IdentifiedBy::TlsHostnameCall }
}

fn open(ssl: u64) -> ToShard {
    ToShard::Open(Box::new(Open {
        identity: identity(ssl),
        session: SessionId(ssl),
        process: PROCESS,
        workload: Workload::unknown(PROCESS),
        host: Some(host()),
        joined_late: false,
    }))
}

fn chunk(ssl: u64, offset: u64, bytes: &[u8]) -> ToShard {
    ToShard::Chunk(OwnedChunk {
        identity: identity(ssl),
        process: PROCESS,
        direction: Direction::Sent,
        offset,
        opposite: 0,
        at: Moment(5),
        payload: Payload::copy_of(bytes),
    })
}

fn close(ssl: u64, sent: Option<u64>) -> ToShard {
    ToShard::Close { identity: identity(ssl), sent, received: None }
}

fn check(messages: Vec<(u64, ToShard)>, expected: &[&str]) {
    let mut sessions = Sessions::new(Arc::new(AtomicU64::new(1000)), CaptureStatus::new());
    let mut diary = Diary::default();
    for (now, message) in messages {
        sessions.open_overdue(&mut diary, Moment(now));
        sessions.handle(&mut diary, message, Moment(now));
    }
    assert_eq!(diary.lines, expected);
    assert_eq!(sessions.held_bytes, sessions.table.values().map(|session| session.held_bytes).sum::<usize>());
}

#[test]
fn content_waits_for_its_session_and_comes_in_order() {
    check(
        vec![
            (1, chunk(1, 0, b"abc")),
            (2, chunk(1, 3, b"de")),
            (3, open(1)),
            (4, chunk(1, 5, b"f")),
            (5, close(1, None)),
        ],
        &[
            "open 1 pid=7 unknown host=api.openai.com late=false",
            "chunk 1 Sent 0+3",
            "chunk 1 Sent 3+2",
            "chunk 1 Sent 5+1",
            "closed 1 6/0",
        ],
    );
}

#[test]
fn a_session_nobody_opens_is_opened_with_an_unknown_workload() {
    check(
        vec![(1, chunk(2, 0, b"abc")), (1 + HELD_NS_MAX, chunk(2, 3, b"d")), (2 + HELD_NS_MAX, open(2))],
        &[
            "open 1000 pid=7 unknown host=- late=true",
            "chunk 1000 Sent 0+3",
            "chunk 1000 Sent 3+1",
            "resolved 1000 unknown",
            "named 1000 api.openai.com",
        ],
    );
}

#[test]
fn a_name_may_come_before_or_after_the_content() {
    check(
        vec![
            (1, ToShard::Named(identity(3), host())),
            (2, chunk(3, 0, b"abc")),
            (3, close(3, Some(9))),
            (4, open(4)),
            (5, ToShard::Named(identity(4), host())),
        ],
        &[
            "open 1000 pid=7 unknown host=api.openai.com late=true",
            "chunk 1000 Sent 0+3",
            "closed 1000 9/0",
            "open 4 pid=7 unknown host=api.openai.com late=false",
            "named 4 api.openai.com",
        ],
    );
}

#[test]
fn an_ended_session_is_not_opened_again_by_what_comes_late() {
    check(
        vec![(1, open(5)), (2, close(5, None)), (3, chunk(5, 0, b"x")), (4, open(5)), (5, close(5, None))],
        &["open 5 pid=7 unknown host=api.openai.com late=false", "closed 5 0/0"],
    );
}

#[test]
fn waiting_content_is_bounded_and_the_rest_is_a_gap() {
    let big = vec![b'x'; HELD_BYTES_MAX - 1];
    let large = HELD_BYTES_MAX as u64;
    check(
        vec![
            (1, chunk(6, 0, &big)),
            (2, chunk(6, large - 1, b"yz")),
            (3, chunk(6, large + 1, b"w")),
            (4, open(6)),
        ],
        &[
            "open 6 pid=7 unknown host=api.openai.com late=false",
            &format!("chunk 6 Sent 0+{}", large - 1),
            &format!("chunk 6 Sent {}+1", large + 1),
        ],
    );
}

#[test]
fn a_panic_is_counted_and_the_thread_goes_on() {
    let status = CaptureStatus::new();
    let (writer, _records) = crate::writer::queue();
    let shards = Shards::start(1, |_| Diary::default(), writer, Arc::clone(&status)).expect("threads");
    let (decided, decisions) = std::sync::mpsc::channel();
    shards.on_learnt(move |learnt| match learnt {
        Learnt::Decided(decision) => decided.send(decision.identity.ssl).expect("the test listens"),
        Learnt::Host(..) => {}
    });
    let senders = shards.senders();
    for message in [open(1), chunk(1, 0, b"boom"), open(2), chunk(2, 0, b"fine")] {
        senders.session(&identity(1), message);
    }
    assert_eq!(decisions.recv().expect("the thread goes on"), 2);
    shards.stop();
    let panics = status
        .snapshot()
        .losses
        .iter()
        .find(|(loss, _)| *loss == Loss::ShardPanicked)
        .map(|(_, count)| *count);
    assert_eq!(panics, Some(1));
}
