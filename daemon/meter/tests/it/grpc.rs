//! gRPC: framing, codings and trailers around protobuf, as a table of answers.

use std::io::Write;

use meter::exchange::Reason;
use meter::pipeline::Direction::Received;

use crate::harness::{Driver, tokens};
use crate::http2::{PREFACE, block, frame};

/// A varint of protobuf.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A protobuf field: a number, or bytes.
pub(crate) fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

pub(crate) fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2], varint(value.len() as u64).as_slice(), value].concat()
}

/// A message with its prefix, compressed or not.
pub(crate) fn message(packed: bool, body: &[u8]) -> Vec<u8> {
    let body = match packed {
        false => body.to_vec(),
        true => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body).expect("memory");
            encoder.finish().expect("memory")
        }
    };
    [&[u8::from(packed)], &(body.len() as u32).to_be_bytes()[..], &body].concat()
}

/// A chunk of Vertex AI with the usage so far; cached 3, reasoning 2.
fn vertex(input: u64, output: u64) -> Vec<u8> {
    let usage =
        [number(1, input), number(2, output), number(3, input + output + 2), number(5, 3), number(14, 2)];
    let part = bytes(2, &bytes(2, &bytes(2, &bytes(1, b"marker"))));
    [part, bytes(4, &usage.concat()), bytes(11, b"gemini-2.5-pro-001")].concat()
}

/// An answer of xAI: `completion_tokens` 1, `prompt_tokens` 2, `total_tokens` 3, `reasoning_tokens` 6.
fn xai() -> Vec<u8> {
    let usage = [number(1, 4), number(2, 9), number(3, 18), number(6, 5)].concat();
    let output = [number(1, 4), bytes(3, &bytes(3, &bytes(10, &bytes(1, b"lookup"))))].concat();
    [bytes(2, &output), bytes(6, b"grok-4"), bytes(9, &usage)].concat()
}

struct Case<'a> {
    name: &'a str,
    host: &'a str,
    path: &'a str,
    asked: Vec<u8>,
    answer: Vec<u8>,
    /// Bytes of the answer lost, from and how many.
    hole: Option<(usize, usize)>,
    trailers: &'a [(&'a str, &'a str)],
    /// Requested model, model, tokens, streamed, error class, reason.
    expected: &'a str,
}

impl Case<'_> {
    fn run(&self, cut: usize) -> String {
        let mut driver = Driver::new(self.host, false);
        let head = [
            (":method", "POST"),
            (":path", self.path),
            ("content-type", "application/grpc+proto"),
            ("grpc-encoding", "gzip"),
        ];
        let sent = [PREFACE, &frame(1, 4, 1, &block(&head)), &frame(0, 1, 1, &self.asked)].concat();
        sent.chunks(cut).for_each(|piece| driver.sent(piece));
        let head = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", "gzip")];
        let mut received = frame(1, 4, 1, &block(&head));
        let body = received.len() + 9;
        received.extend(frame(0, 0, 1, &self.answer));
        received.extend(frame(1, 5, 1, &block(self.trailers)));
        let (from, len) = self.hole.map_or((received.len(), 0), |(from, len)| (body + from, len));
        received[..from].chunks(cut).for_each(|piece| driver.received(piece));
        driver.gap(Received, len as u64);
        received[from + len..].chunks(cut).for_each(|piece| driver.received(piece));
        driver.close();
        let outcome = driver.outcome();
        assert!(!outcome.printed.contains("marker"), "{}: a body shows itself", self.name);
        let exchange = outcome.one();
        format!(
            "{} {} {} {} {} {}",
            exchange.requested_model.as_deref().unwrap_or("-"),
            exchange.model.as_deref().unwrap_or("-"),
            tokens(exchange),
            exchange.streaming == Some(true),
            exchange.error.as_ref().and_then(|error| error.class.as_deref()).unwrap_or("-"),
            exchange.reason.map_or("ok", Reason::as_str),
        )
    }
}

#[test]
fn grpc_answers_are_read() {
    const OK: &[(&str, &str)] = &[("grpc-status", "0")];
    let vertex_host = "us-central1-aiplatform.googleapis.com";
    let service = "/google.cloud.aiplatform.v1.PredictionService/";
    let (unary, stream) = (format!("{service}GenerateContent"), format!("{service}StreamGenerateContent"));
    let model = b"projects/p/locations/l/publishers/google/models/gemini-2.5-pro";
    let asked = || message(false, &[bytes(2, b"\x12\x06marker"), bytes(5, model)].concat());
    let chunks = [message(false, &vertex(9, 1)), message(true, &vertex(9, 4))].concat();
    let first = message(false, &vertex(9, 1)).len();
    let whole = "gemini-2.5-pro gemini-2.5-pro-001 9,6,3,-,2 true - ok";
    let case = |name, answer: Vec<u8>, hole, trailers, expected| Case {
        name,
        host: vertex_host,
        path: &stream,
        asked: asked(),
        answer,
        hole,
        trailers,
        expected,
    };
    for case in [
        case("a stream", chunks.clone(), None, OK, whole),
        Case {
            path: &unary,
            ..case(
                "one message",
                message(true, &vertex(9, 4)),
                None,
                OK,
                "gemini-2.5-pro gemini-2.5-pro-001 9,6,3,-,2 false - ok",
            )
        },
        case("a hole in a message, then another", chunks.clone(), Some((20, 4)), OK, whole),
        case(
            "a hole in the last message",
            [message(false, &vertex(9, 1)), message(false, &vertex(9, 4))].concat(),
            Some((first + 20, 4)),
            OK,
            "gemini-2.5-pro gemini-2.5-pro-001 -,-,-,-,- true - gap",
        ),
        case(
            "a hole across messages",
            chunks.clone(),
            Some((first - 4, 12)),
            OK,
            "gemini-2.5-pro - -,-,-,-,- true - gap",
        ),
        case(
            "refused",
            Vec::new(),
            None,
            &[("grpc-status", "8")],
            "gemini-2.5-pro - -,-,-,-,- true RESOURCE_EXHAUSTED not_reported",
        ),
        case(
            "no such flag",
            [&[7u8][..], &chunks[1..]].concat(),
            None,
            OK,
            "gemini-2.5-pro - -,-,-,-,- true - undecodable",
        ),
        Case {
            host: "api.x.ai",
            path: "/xai_api.Chat/GetCompletion",
            asked: message(false, &bytes(2, b"grok-4")),
            ..case(
                "xAI counts reasoning apart",
                message(false, &xai()),
                None,
                OK,
                "grok-4 grok-4 9,9,-,-,5 false - ok",
            )
        },
    ] {
        for cut in [1 << 20, 1, 7] {
            assert_eq!(case.run(cut), case.expected, "{}, cut {cut}", case.name);
        }
    }
}
