//! HTTP/2: frames, head blocks and streams, as a table of scripts.

use meter::exchange::Reason;
use meter::pipeline::Direction::{Received, Sent};

use crate::harness::{Driver, Outcome, tokens};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields as literals that enter the table.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0x40);
        for text in [name, value] {
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

fn ask(stream: u32) -> Vec<u8> {
    let head =
        block(&[(":method", "POST"), (":path", "/v1/chat/completions"), (":authority", "api.openai.com")]);
    [frame(1, 4, stream, &head), frame(0, 1, stream, b"{\"model\":\"m\"}")].concat()
}

/// The same with every field taken from the table of an earlier [`ask`].
fn ask_again(stream: u32) -> Vec<u8> {
    [frame(1, 4, stream, &[0x80 | 64, 0x80 | 63, 0x80 | 62]), frame(0, 1, stream, b"{\"model\":\"m\"}")]
        .concat()
}

/// A call whose head block begins with what changes the size of the table.
fn sized(update: &[u8], call: Vec<u8>) -> Vec<u8> {
    let (length, stream) = (usize::from(call[2]), u32::from(call[8]));
    let (head, rest) = call[9..].split_at(length);
    [&frame(1, 4, stream, &[update, head].concat()), rest].concat()
}

fn usage(input: u64) -> String {
    format!("{{\"model\":\"m\",\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":2}}}}")
}

fn head(stream: u32) -> Vec<u8> {
    frame(1, 4, stream, &[0x88])
}

fn reply(stream: u32, input: u64) -> Vec<u8> {
    [head(stream), frame(0, 1, stream, usage(input).as_bytes())].concat()
}

enum Do {
    Sent(Vec<u8>),
    Received(Vec<u8>),
    Lose(meter::pipeline::Direction, u64),
}

fn run(script: &[Do], late: bool, cut: usize) -> (Outcome, u64) {
    let mut driver = Driver::new("api.openai.com", late);
    for step in script {
        match step {
            Do::Sent(bytes) => bytes.chunks(cut).for_each(|piece| driver.sent(piece)),
            Do::Received(bytes) => bytes.chunks(cut).for_each(|piece| driver.received(piece)),
            Do::Lose(direction, bytes) => driver.gap(*direction, *bytes),
        }
    }
    driver.close();
    (driver.outcome(), driver.moved())
}

fn seen(outcome: &Outcome) -> Vec<String> {
    let mut seen: Vec<String> = outcome
        .exchanges
        .iter()
        .map(|exchange| {
            let status = exchange.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            format!("{status} {} {}", tokens(exchange), exchange.reason.map_or("ok", Reason::as_str))
        })
        .collect();
    seen.sort();
    seen
}

#[test]
fn streams_become_exchanges_wherever_they_are_cut() {
    let settings = frame(4, 0, 0, &[]);
    let begin = Do::Sent([PREFACE, &settings, &ask(1)].concat());
    let body = usage(1);
    let (first, second) = body.split_at(20);
    for (name, script, expected) in [
        (
            "one",
            vec![begin, Do::Received([settings.clone(), reply(1, 1)].concat())],
            vec!["200 1,2,-,-,- ok"],
        ),
        (
            "interleaved, by the table",
            vec![
                Do::Sent([PREFACE, &ask(1), &ask_again(3)].concat()),
                Do::Received(
                    [
                        head(3),
                        head(1),
                        frame(0, 0, 1, first.as_bytes()),
                        frame(0, 1, 3, usage(3).as_bytes()),
                        frame(0, 1, 1, second.as_bytes()),
                    ]
                    .concat(),
                ),
            ],
            vec!["200 1,2,-,-,- ok", "200 3,2,-,-,- ok"],
        ),
        (
            "the table's size changes by settings: emptied, then large enough again",
            vec![
                Do::Sent([PREFACE, &ask(1)].concat()),
                Do::Received([frame(4, 0, 0, &[0, 1, 0, 0, 0, 0]), reply(1, 1)].concat()),
                Do::Sent([frame(4, 1, 0, &[]), sized(&[0x20], ask(3))].concat()),
                Do::Received([frame(4, 0, 0, &[0, 1, 0, 0, 0x10, 0]), reply(3, 3)].concat()),
                // Up to 4,096 bytes: what comes now is kept, what came before was not.
                Do::Sent([frame(4, 1, 0, &[]), sized(&[0x3f, 0xe1, 0x1f], ask(5)), ask_again(7)].concat()),
                Do::Received([reply(5, 5), reply(7, 7)].concat()),
            ],
            vec!["200 1,2,-,-,- ok", "200 3,2,-,-,- ok", "200 5,2,-,-,- ok", "200 7,2,-,-,- ok"],
        ),
        (
            "padding, priority, continuation, interim, trailers, unknown frames",
            vec![
                Do::Sent([PREFACE, &ask(1)].concat()),
                Do::Received(
                    [
                        frame(1, 4, 1, &block(&[(":status", "103")])),
                        frame(1, 8 | 0x20, 1, &[2, 0, 0, 0, 0, 9, 0x88, 0x40, 1, 0, 0]),
                        frame(9, 0, 1, b"x"),
                        frame(9, 4, 1, &[1, b'y']),
                        frame(0x42, 0xff, 0, b"whatever"),
                        frame(0, 8, 1, &[&[5], first.as_bytes(), &[0; 5]].concat()),
                        frame(0, 8, 1, &[3, 0, 0, 0]),
                        frame(0, 0, 1, second.as_bytes()),
                        frame(1, 5, 1, &block(&[("grpc-status", "0")])),
                    ]
                    .concat(),
                ),
            ],
            vec!["200 1,2,-,-,- ok"],
        ),
        (
            "push is passed over, its head is not",
            vec![
                Do::Sent([PREFACE, &ask(1)].concat()),
                Do::Received(
                    [
                        frame(5, 4, 1, &[&[0, 0, 0, 2], block(&[("a", "b")]).as_slice()].concat()),
                        frame(1, 4, 2, &[0x88]),
                        frame(0, 1, 2, usage(9).as_bytes()),
                        reply(1, 1),
                    ]
                    .concat(),
                ),
            ],
            vec!["200 1,2,-,-,- ok"],
        ),
        (
            "ended by empty trailers, after which nothing comes",
            vec![
                Do::Sent([PREFACE, &ask(1)].concat()),
                Do::Received([head(1), frame(0, 0, 1, usage(1).as_bytes()), frame(1, 5, 1, &[])].concat()),
            ],
            vec!["200 1,2,-,-,- ok"],
        ),
        (
            "answered before the request ended: its trailers begin nothing",
            vec![
                Do::Sent([PREFACE, &ask(1)].concat()),
                Do::Received(reply(1, 1)),
                Do::Sent(frame(1, 5, 1, &block(&[("x-checksum", "1")]))),
            ],
            vec!["200 1,2,-,-,- ok"],
        ),
        (
            "reset",
            vec![
                Do::Sent([PREFACE, &ask(1), &ask_again(3), &frame(3, 0, 1, &[0, 0, 0, 8])].concat()),
                Do::Received([frame(3, 0, 3, &[0; 4]), frame(7, 0, 0, &[0; 8])].concat()),
            ],
            vec!["- -,-,-,-,- no_response", "- -,-,-,-,- no_response"],
        ),
        (
            "broken off",
            vec![
                Do::Sent([PREFACE, &ask(1)].concat()),
                Do::Received([head(1), frame(0, 0, 1, first.as_bytes())].concat()),
            ],
            vec!["200 -,-,-,-,- interrupted"],
        ),
    ] {
        for cut in [usize::MAX, 1, 7] {
            let (outcome, moved) = run(&script, false, cut.min(1 << 20));
            assert_eq!(seen(&outcome), expected, "{name}, cut {cut}");
            assert!(outcome.lost_bytes() < moved, "{name}");
        }
    }
}

#[test]
fn holes_stay_with_their_stream() {
    let body = usage(1);
    let answer = reply(1, 1);
    let data = head(1).len() + 9;
    for (name, script, expected) in [
        (
            "inside data",
            vec![
                Do::Sent([PREFACE, &ask(1), &ask_again(3)].concat()),
                Do::Received(answer[..data + 10].to_vec()),
                Do::Lose(Received, 5),
                Do::Received([&answer[data + 15..], &reply(3, 3)].concat()),
            ],
            vec!["200 -,-,-,-,- gap", "200 3,2,-,-,- ok"],
        ),
        (
            "exactly the data",
            vec![
                Do::Sent([PREFACE, &ask(1), &ask_again(3)].concat()),
                Do::Received(answer[..data].to_vec()),
                Do::Lose(Received, body.len() as u64),
                Do::Received(reply(3, 3)),
            ],
            vec!["200 -,-,-,-,- gap", "200 3,2,-,-,- ok"],
        ),
        (
            "across frames: back at the next write",
            vec![
                Do::Sent([PREFACE, &ask(1), &ask_again(3)].concat()),
                Do::Received(answer[..data + 10].to_vec()),
                Do::Lose(Received, 500),
                Do::Received(reply(3, 3)),
            ],
            vec!["200 -,-,-,-,- gap", "200 3,2,-,-,- ok"],
        ),
        (
            "a response head: whatever is in the data, nobody knows what came before",
            vec![
                Do::Sent([PREFACE, &ask(1), &ask_again(3)].concat()),
                Do::Lose(Received, head(1).len() as u64),
                Do::Received(frame(0, 1, 1, body.as_bytes())),
                Do::Received(reply(3, 3)),
            ],
            vec!["- -,-,-,-,- gap", "200 3,2,-,-,- ok"],
        ),
        (
            "a response whose end is not seen either",
            vec![
                Do::Sent([PREFACE, &ask(1), &ask_again(3)].concat()),
                Do::Lose(Received, answer.len() as u64),
                Do::Received(reply(3, 3)),
            ],
            vec!["- -,-,-,-,- gap", "200 3,2,-,-,- ok"],
        ),
        (
            "a request head: answers are read without it",
            vec![
                Do::Sent([PREFACE, &ask(1)].concat()),
                Do::Received(reply(1, 1)),
                Do::Sent(ask(3)[..12].to_vec()),
                Do::Lose(Sent, 300),
                Do::Sent(ask(5)),
                Do::Received(reply(5, 5)),
            ],
            vec!["200 1,2,-,-,- ok", "200 5,2,-,-,- ok"],
        ),
    ] {
        let (outcome, _) = run(&script, false, 1 << 20);
        assert_eq!(seen(&outcome), expected, "{name}: {:?}", outcome.lost);
        assert!(outcome.lost.iter().any(|(reason, _)| *reason == Reason::Gap), "{name}");
    }
}

/// Frames of a connection whose head fields refer to what was said before it was joined.
#[test]
fn a_connection_joined_late_is_read_from_the_next_frame() {
    let rest = || Do::Received(b"rest of a frame".to_vec());
    let event = frame(0, 0, 7, b"data: {\"choices\":[]}\n\n");
    let responses = "{\"usage\":{\"input_tokens\":5,\"output_tokens\":2}}";
    let fetch = frame(1, 5, 9, &[0x82, 0x80 | 63, 0x80 | 62]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, usage(8).as_bytes()).expect("memory");
    let gzip = gzip.finish().expect("memory");
    for (name, script, expected) in [
        (
            "the path is unknown, the usage is found",
            vec![Do::Sent(ask_again(9)), rest(), Do::Received(reply(9, 7))],
            vec!["200 7,2,-,-,- undecodable_head"],
        ),
        (
            "first seen in the middle of a frame",
            vec![
                rest(),
                Do::Sent(b"\xd7 rest of a request".to_vec()),
                Do::Sent(ask_again(9)),
                Do::Received(reply(9, 7)),
            ],
            vec!["200 7,2,-,-,- undecodable_head"],
        ),
        (
            "an answer of another kind",
            vec![
                Do::Sent(ask_again(9)),
                Do::Received([head(9), frame(0, 1, 9, responses.as_bytes())].concat()),
            ],
            vec!["200 5,2,-,-,- undecodable_head"],
        ),
        (
            "an answer of unknown coding",
            vec![
                Do::Sent(ask_again(9)),
                Do::Received([frame(1, 4, 9, &[0x88, 0x80 | 70]), frame(0, 1, 9, &gzip)].concat()),
            ],
            vec!["200 8,2,-,-,- undecodable_head"],
        ),
        (
            "a request without body asks for what was counted",
            vec![Do::Sent(fetch), Do::Received(reply(9, 7))],
            vec!["200 -,-,-,-,- undecodable_head"],
        ),
        (
            "a head that is no head",
            vec![
                Do::Sent([frame(1, 4, 9, &[0xff; 12]), frame(0, 1, 9, b"{\"model\":\"m\"}")].concat()),
                Do::Received(reply(9, 7)),
            ],
            vec!["200 7,2,-,-,- undecodable_head"],
        ),
        (
            "the end of an answer to a call from before",
            vec![
                Do::Received([&*event, &*frame(0, 1, 7, b"data: [DONE]\n\n")].concat()),
                Do::Sent(ask(9)),
                Do::Received(reply(9, 7)),
            ],
            vec!["- -,-,-,-,- late_attach", "200 7,2,-,-,- ok"],
        ),
        (
            "an answer to a call from before",
            vec![Do::Received(reply(7, 3)), Do::Sent(ask(9)), Do::Received(reply(9, 7))],
            vec!["200 -,-,-,-,- late_attach", "200 7,2,-,-,- ok"],
        ),
        (
            "the end of a request from before, in trailers that cannot be decoded",
            vec![
                Do::Received(head(7)),
                Do::Sent(frame(1, 5, 7, &[0x80 | 70])),
                Do::Received(frame(0, 1, 7, usage(7).as_bytes())),
                Do::Sent(ask(9)),
                Do::Received(reply(9, 7)),
            ],
            vec!["200 -,-,-,-,- late_attach", "200 7,2,-,-,- ok"],
        ),
    ] {
        let (outcome, moved) = run(&script, true, 1 << 20);
        assert_eq!(seen(&outcome), expected, "{name}: {:?}", outcome.lost);
        assert!(outcome.lost_bytes() < moved, "{name}");
        if expected.len() == 1 {
            assert_eq!(outcome.one().operation, "unknown", "{name}");
        }
    }
    let (outcome, _) = run(&[Do::Sent(ask_again(9)), Do::Received(reply(9, 7))], true, 1 << 20);
    assert_eq!(outcome.one().requested_model.as_deref(), Some("m"));
}
