//! A number is right or it is not there: answers of every dialect, over everything that carries them, that break off, lose
//! their middle or lose their tail.

mod forms;

use meter::exchange::{Exchange, Reason, Usage};
use meter::pipeline::Direction::{Received, Sent};
use proptest::prelude::*;

use self::forms::{FORMS, Form, Said, Wire, said};
use crate::grpc;
use crate::harness::{Driver, chunked, post};
use crate::http2::{PREFACE, block, frame};
use crate::websocket::{Deflater, frame_bytes};

/// What happens to an answer. Positions are shares of its length, in thousandths.
#[derive(Clone, Debug)]
enum Damage {
    /// The client hangs up here.
    Disconnect(usize),
    /// These bytes are not seen.
    Hole(usize, usize),
    /// Nothing from here on is seen, although it travelled.
    Tail(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0usize..1_000).prop_map(Damage::Disconnect),
        (0usize..1_000, 1usize..500).prop_map(|(at, len)| Damage::Hole(at, len)),
        (0usize..1_000).prop_map(Damage::Tail),
    ]
}

/// How the answer's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
    Close,
    /// It is a stream of HTTP/2.
    Stream,
}

/// What each side writes: the request, the writes of the answer, and what the client sends in between.
struct Tape {
    sent: Vec<u8>,
    begin: Vec<u8>,
    asked: Vec<u8>,
    writes: Vec<Vec<u8>>,
}

const REQUEST: &str = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;

/// An answer of `form`, as it travels with `framing`.
fn render(form: &Form, said: &Said, framing: Framing) -> Tape {
    let body = (form.body)(said);
    match (form.wire, framing) {
        (Wire::Http, Framing::Stream) => {
            let kind: &[(&str, &str)] = &[("content-type", "application/json")];
            over_http2(form, REQUEST.as_bytes(), kind, &body, None)
        }
        (Wire::Http, _) => {
            let received = match framing {
                Framing::Length => {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    [head.as_bytes(), &body].concat()
                }
                Framing::Chunks => chunked("", &body, 97),
                _ => [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", body.as_slice()].concat(),
            };
            let method = if form.counts { post(form.target, REQUEST) } else { get(form, "") };
            Tape { sent: method, begin: Vec::new(), asked: Vec::new(), writes: vec![received] }
        }
        (Wire::Grpc, _) => {
            let fields = [("content-type", "application/grpc"), ("grpc-encoding", "gzip")];
            let asked = grpc::message(false, &grpc::bytes(2, b"m"));
            over_http2(form, &asked, &fields, &body, Some(&[("grpc-status", "0")]))
        }
        (Wire::Messages(packed), framing) => {
            let extension = match packed {
                None => "x-none",
                Some(false) => "permessage-deflate",
                Some(true) => "permessage-deflate; server_no_context_takeover",
            };
            let mut deflater = packed.map(Deflater::new);
            let writes = body.split(|byte| *byte == b'\n').map(|text| {
                let text = str::from_utf8(text).expect("text");
                match &mut deflater {
                    Some(deflater) => frame_bytes(Received, 0xc1, &deflater.message(text)),
                    None => frame_bytes(Received, 0x81, text.as_bytes()),
                }
            });
            let asked = frame_bytes(Sent, 0x81, br#"{"type":"response.create"}"#);
            let field = format!("Upgrade: websocket\r\nSec-WebSocket-Extensions: {extension}\r\n");
            match framing {
                Framing::Stream => {
                    let writes = writes.map(|write| frame(0, 0, 1, &write)).collect();
                    let head = [
                        (":method", "CONNECT"),
                        (":protocol", "websocket"),
                        (":path", form.target),
                        (":authority", form.host),
                    ];
                    let agreed = [(":status", "200"), ("sec-websocket-extensions", extension)];
                    Tape {
                        sent: [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 4, 1, &block(&head))].concat(),
                        begin: [frame(4, 0, 0, &[]), frame(1, 4, 1, &block(&agreed))].concat(),
                        asked: frame(0, 0, 1, &asked),
                        writes,
                    }
                }
                _ => Tape {
                    sent: get(form, &field),
                    begin: format!("HTTP/1.1 101 Switching Protocols\r\n{field}\r\n").into_bytes(),
                    asked,
                    writes: writes.collect(),
                },
            }
        }
    }
}

fn get(form: &Form, fields: &str) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", form.target, form.host).into_bytes()
}

/// A call in a stream of HTTP/2, with or without trailers; its answer is written frame by frame.
fn over_http2(
    form: &Form,
    asked: &[u8],
    fields: &[(&str, &str)],
    body: &[u8],
    trailers: Option<&[(&str, &str)]>,
) -> Tape {
    let method = if form.counts { "POST" } else { "GET" };
    let head = [(":method", method), (":path", form.target), (":authority", form.host)];
    let head = [block(&head), block(fields)].concat();
    let sent = match form.counts {
        true => [frame(1, 4, 1, &head), frame(0, 1, 1, asked)].concat(),
        false => frame(1, 5, 1, &head),
    };
    let mut writes =
        vec![[frame(4, 0, 0, &[]), frame(1, 4, 1, &[&[0x88], block(fields).as_slice()].concat())].concat()];
    writes.extend(body.chunks(97).map(|part| frame(0, 0, 1, part)));
    writes.push(match trailers {
        Some(trailers) => frame(1, 5, 1, &block(trailers)),
        None => frame(0, 1, 1, &[]),
    });
    Tape {
        sent: [PREFACE, &frame(4, 0, 0, &[]), &sent].concat(),
        begin: Vec::new(),
        asked: Vec::new(),
        writes,
    }
}

fn run(form: &Form, tape: &Tape, damage: Option<&Damage>) -> Vec<Exchange> {
    let mut driver = Driver::new(form.host, false);
    driver.sent(&tape.sent);
    driver.received(&tape.begin);
    driver.sent(&tape.asked);
    let total: usize = tape.writes.iter().map(Vec::len).sum();
    let place = |share: usize| total * share.min(1_000) / 1_000;
    let (hole, end) = match damage {
        None => (total..total, total),
        Some(Damage::Disconnect(at)) => (total..total, place(*at)),
        Some(Damage::Hole(at, len)) => (place(*at)..place(at + len), total),
        Some(Damage::Tail(at)) => (place(*at)..total, total),
    };
    let mut at = 0;
    for write in &tape.writes {
        let part = |from: usize, upto: usize| -> &[u8] {
            let within = |place: usize| place.clamp(at, at + write.len()) - at;
            &write[within(from)..within(upto.max(from))]
        };
        driver.received(part(0, hole.start.min(end)));
        driver.gap(Received, part(hole.start, hole.end).len() as u64);
        driver.received(part(hole.end, end));
        at += write.len();
    }
    driver.close();
    driver.outcome().exchanges
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Length), Just(Framing::Chunks), Just(Framing::Close), Just(Framing::Stream)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_answer_never_gives_a_wrong_number(
        said in said(),
        framing in framing(),
        damages in prop::collection::vec(damage(), 4),
    ) {
        for form in FORMS {
            let tape = render(form, &said, framing);
            let whole = run(form, &tape, None);
            prop_assert_eq!(whole.len(), 1, "{} {:?}: {:#?}", form.name, framing, whole);
            let truth = whole[0].usage;
            // Without a terminal event or a length nobody knows whether a stream was whole.
            let by_close = form.wire == Wire::Http && framing == Framing::Close;
            let certain = form.counts && whole[0].reason.is_none();
            prop_assert!(certain || by_close || !form.counts, "{} {framing:?}: {:?}", form.name, whole[0].reason);
            if certain {
                prop_assert_eq!(truth.input, Some(said.input), "{} {:?}", form.name, framing);
            }
            for damage in &damages {
                for exchange in run(form, &tape, Some(damage)) {
                    let Exchange { usage, reason, status, .. } = exchange;
                    let right = usage == truth || usage == Usage::default();
                    prop_assert!(right, "{} {damage:?} {framing:?}: {usage:?}, not {truth:?}", form.name);
                    prop_assert_eq!(usage.is_unknown(), reason.is_some(), "{} {:?} {:?} {:?} {:?}", form.name, framing, damage, usage, reason);
                    let honest = match reason {
                        None | Some(Reason::Gap | Reason::Interrupted | Reason::NoResponse | Reason::NotReported) => true,
                        // Nor does a session count in which nothing was answered.
                        reason => {
                            let talk = matches!(form.wire, Wire::Messages(_));
                            (talk || !form.counts) && reason == Some(Reason::NotInference)
                        }
                    };
                    prop_assert!(honest, "{} {damage:?} {framing:?}: {reason:?}", form.name);
                    // That the provider reported nothing can only be said of what was seen to its end.
                    let cut = matches!(damage, Damage::Hole(..)) || (status.is_some() && !by_close);
                    prop_assert!(!cut || reason != Some(Reason::NotReported), "{} {framing:?} {damage:?}", form.name);
                }
            }
        }
    }
}
