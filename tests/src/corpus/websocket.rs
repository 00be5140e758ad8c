//! A recorded WebSocket session as bytes on a connection: handshake and frames are made here, messages are as recorded.

use meter::pipeline::Direction::{Received, Sent};

use super::Line;
use super::render::{Pieces, Random, authority_and_target, cut_all};

/// As plain frames, and as frames that are deflated, fragmented, interleaved with control frames and cut.
pub(super) fn renderings(line: &Line) -> Vec<(&'static str, Pieces)> {
    let mut random = Random::new(&line.id);
    let plain = session(line, &mut random, false);
    let packed = session(line, &mut random, true);
    let cut = cut_all(&mut random, &packed);
    vec![("ws", plain), ("ws-cut", cut)]
}

fn session(line: &Line, random: &mut Random, packed: bool) -> Pieces {
    let (authority, target) = authority_and_target(&line.url);
    let offer =
        if packed { "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" } else { "" };
    let taken = if packed { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
    );
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{taken}\r\n"
    );
    let mut pieces = vec![(Sent, request.into_bytes()), (Received, response.into_bytes())];
    // Each side keeps its window from message to message.
    let mut windows = [(); 2].map(|()| flate2::Compress::new(flate2::Compression::default(), false));
    for (sent, text) in &line.frames {
        let direction = if *sent { Sent } else { Received };
        let [client, server] = &mut windows;
        let window = if *sent { client } else { server };
        let payload = if packed { deflate(window, text.as_bytes()) } else { text.clone().into_bytes() };
        let mut bytes = Vec::new();
        let mut rest = payload.as_slice();
        let mut first = true;
        while first || !rest.is_empty() {
            let most = if packed { 1 + random.below(3000) } else { rest.len() };
            let (part, later) = rest.split_at(most.min(rest.len()));
            let head = if first { 1 | if packed { 0x40 } else { 0 } } else { 0 };
            frame(&mut bytes, random, head | if later.is_empty() { 0x80 } else { 0 }, part, *sent);
            if packed && random.below(3) == 0 {
                frame(&mut bytes, random, 0x89, b"ping", *sent);
            }
            (rest, first) = (later, false);
        }
        pieces.push((direction, bytes));
    }
    for direction in [Sent, Received] {
        let mut bytes = Vec::new();
        frame(&mut bytes, random, 0x88, &1000u16.to_be_bytes(), direction == Sent);
        pieces.push((direction, bytes));
    }
    pieces
}

fn frame(bytes: &mut Vec<u8>, random: &mut Random, head: u8, payload: &[u8], masked: bool) {
    bytes.push(head);
    let mask_bit = if masked { 0x80 } else { 0 };
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => bytes.push(mask_bit | u8::try_from(length).unwrap_or(0)),
        Ok(length) => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    if !masked {
        bytes.extend_from_slice(payload);
        return;
    }
    let mask: [u8; 4] = std::array::from_fn(|_| u8::try_from(random.below(256)).unwrap_or(0));
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// RFC 7692, 7.2.1: deflated, flushed, and without the last four bytes.
fn deflate(window: &mut flate2::Compress, text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 64);
    let mut taken = 0;
    loop {
        let before = window.total_in();
        bytes.reserve(1024);
        let status = window.compress_vec(&text[taken..], &mut bytes, flate2::FlushCompress::Sync);
        assert!(status.is_ok(), "deflate failed");
        taken += usize::try_from(window.total_in() - before).unwrap_or(0);
        if taken == text.len() && bytes.len() < bytes.capacity() {
            break;
        }
    }
    assert!(bytes.ends_with(&[0, 0, 0xff, 0xff]), "not flushed");
    bytes.truncate(bytes.len() - 4);
    bytes
}
