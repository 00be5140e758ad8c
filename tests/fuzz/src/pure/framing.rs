//! What bodies and heads are wrapped in: codings, and framings of messages.

use meter::http::body::Decoder;
use meter::http::eventstream::EventStream;
use meter::http::grpc::{Messages, Part};
use meter::http::sse::{Events, Sse};
use meter::http::{Header, hpack};
use meter::limits::{
    Budget, DECODE_BUFFER, EXPANSION_FLOOR, EXPANSION_RATIO_MAX, HEAD_BYTES_MAX, HEADERS_MAX,
};

/// Head blocks one after the other, each behind its length: bounded, and the same every time.
pub fn hpack(data: &[u8]) {
    let run = || {
        let (mut decoder, budget) = (hpack::Decoder::default(), Budget::new());
        let (mut rest, mut seen) = (data, Vec::new());
        while let [len, after @ ..] = rest {
            let (block, later) = after.split_at(usize::from(*len).min(after.len()));
            rest = later;
            let mut fields = hpack::Fields::default();
            let decoded = decoder.decode(block, &mut fields, &budget);
            let list: Vec<_> = fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            assert!(list.len() <= HEADERS_MAX);
            if decoded.is_ok() {
                let bytes: usize = list.iter().map(|(name, value)| name.len() + value.len()).sum();
                assert!(bytes <= HEAD_BYTES_MAX);
            } else {
                decoder.forget();
            }
            seen.push(decoded.map(|()| (list, fields.unknown)));
        }
        seen
    };
    assert_eq!(run(), run());
}

/// Content codings: bounded expansion, and cut anywhere, same bytes.
pub fn body(data: &[u8]) {
    const CODINGS: [&[u8]; 8] = [
        b"gzip",
        b"deflate",
        b"br",
        b"zstd",
        b"gzip, br",
        b"identity, deflate",
        b"x-gzip,zstd",
        b"gzip,gzip,gzip,gzip",
    ];
    let [which, at, rest @ ..] = data else { return };
    let value = CODINGS.get(usize::from(*which) % CODINGS.len()).copied().unwrap_or(b"gzip");
    let headers = [Header { name: "Content-Encoding", value }];
    let run = |pieces: &[&[u8]]| {
        let mut decoder = Decoder::new(&headers, &Budget::new());
        let mut made = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            result = decoder.push(piece, &mut |part| made.extend_from_slice(part));
        }
        (made, result.is_ok())
    };
    let (left, right) = rest.split_at(usize::from(*at).min(rest.len()));
    let whole = run(&[rest]);
    let bound = EXPANSION_FLOOR.max((rest.len() as u64 + 1) * EXPANSION_RATIO_MAX) + DECODE_BUFFER as u64;
    assert!(
        whole.0.len() as u64 <= bound.saturating_mul(EXPANSION_RATIO_MAX),
        "expanded to {}",
        whole.0.len()
    );
    let cut = run(&[left, right]);
    if whole.1 && cut.1 {
        assert_eq!(whole.0, cut.0);
    }
}

/// AWS event stream: cut anywhere, same messages.
pub fn eventstream(data: &[u8]) {
    let [size, rest @ ..] = data else { return };
    // Checksums are made good, so that more than the prelude is reached.
    let mut bytes = Vec::new();
    let mut left = rest;
    while let [headers, payload, after @ ..] = left {
        let (headers, payload) = (usize::from(*headers) & 0x7f, usize::from(*payload));
        let taken = (headers + payload).min(after.len());
        let (body, later) = after.split_at(taken);
        left = later;
        let begin = bytes.len();
        bytes.extend_from_slice(&u32::try_from(taken + 16).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(headers.min(taken)).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&crc(&bytes[begin..]));
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&crc(&bytes[begin..]));
    }
    bytes.extend_from_slice(left);
    let run = |bytes: &[u8], size: usize| {
        let (mut stream, mut seen) = (EventStream::default(), Vec::new());
        for piece in bytes.chunks(size) {
            stream.push(piece, &mut |message| {
                seen.push((message.kind.to_owned(), message.name.to_owned(), message.payload.to_vec()));
            });
        }
        (seen, stream.is_broken())
    };
    for bytes in [bytes.as_slice(), rest] {
        assert_eq!(run(bytes, usize::MAX), run(bytes, usize::from(*size).max(1)));
    }
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

/// Events with their data.
#[derive(Default, PartialEq, Debug)]
struct Log(Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>);

impl Events for Log {
    fn data(&mut self, part: &[u8]) {
        self.1.extend_from_slice(part);
    }
    fn dispatch(&mut self, name: &[u8]) {
        self.0.push((name.to_vec(), std::mem::take(&mut self.1)));
    }
}

/// Server-sent events: cut anywhere, same events.
pub fn sse(data: &[u8]) {
    let (Some(first), rest) = (data.first(), data.get(1..).unwrap_or_default()) else { return };
    let run = |pieces: &[&[u8]]| {
        let (mut sse, mut log) = (Sse::default(), Log::default());
        for piece in pieces {
            sse.push(piece, &mut log);
        }
        sse.finish(&mut log);
        log
    };
    let (left, right) = rest.split_at(usize::from(*first).min(rest.len()));
    let whole = run(&[rest]);
    assert_eq!(whole, run(&[left, right]));
    let bytes: Vec<&[u8]> = rest.chunks(1).collect();
    assert_eq!(whole, run(&bytes));
}

/// gRPC's framing: cut anywhere, same messages; a hole inside a plain message leaves the framing in step.
pub fn grpc(data: &[u8]) {
    let [flags, size, rest @ ..] = data else { return };
    let coding: &[u8] = if flags & 1 == 0 { b"gzip" } else { b"identity" };
    let headers = [
        Header { name: "content-type", value: b"application/grpc+proto" },
        Header { name: "grpc-encoding", value: coding },
    ];
    let run = |size: usize| {
        let budget = Budget::new();
        let mut messages = Messages::of(&headers, &budget).unwrap_or_else(|| panic!("the head says gRPC"));
        let (mut seen, mut open, mut result) = (Vec::new(), Vec::new(), Ok(()));
        for piece in rest.chunks(size) {
            result = messages.push(piece, &mut |part| match part {
                Part::Data(data) => open.extend_from_slice(data),
                Part::End => seen.push(std::mem::take(&mut open)),
            });
        }
        let _ = messages.gap(u64::from(*flags));
        (seen, result)
    };
    assert_eq!(run(usize::MAX), run(usize::from(*size).max(1)));
}
