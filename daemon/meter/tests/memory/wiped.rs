//! Nothing of a body or a key is left in memory that is given back, whatever form it came in and however it was cut.

use std::io::Write as _;

use crate::allocator::{MARKER, watch};
use crate::world::World;

/// Drives one exchange cut into pieces of `size`, and says in how many freed blocks something was left.
fn left(host: &str, sent: &[u8], received: &[u8], size: usize, gap: bool) -> u64 {
    let (_, seen) = watch(|| {
        let mut world = World::new();
        let session = world.open(host);
        sent.chunks(size).for_each(|piece| world.sent(session, piece));
        let (first, rest) = received.split_at(received.len() / 2);
        first.chunks(size).for_each(|piece| world.received(session, piece));
        if gap {
            world.gap(session, 5);
        }
        rest.chunks(size).for_each(|piece| world.received(session, piece));
        world.close(session);
        drop(world.records());
    });
    seen.marked
}

fn check(what: &str, host: &str, sent: &[u8], received: &[u8]) {
    for size in [3, 20, 61, 1_000, 100_000] {
        for gap in [false, true] {
            assert_eq!(left(host, sent, received, size, gap), 0, "{what} in pieces of {size}, gap: {gap}");
        }
    }
}

fn request(target: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {MARKER}\r\nCookie: {MARKER}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn response(fields: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\nSet-Cookie: {MARKER}\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Prose wherever a dialect looks for a name, content and events without number.
fn chat() -> String {
    let prose = format!("{MARKER} \\u00e9 {MARKER}");
    format!(
        "{{\"messages\":[{{\"content\":\"{prose}\"}}],\"model\":\"{prose}\",\"stream\":true,\"{prose}\":1,\
         \"choices\":[{{\"finish_reason\":\"{prose}\",\"message\":{{\"content\":\"{prose}\",\"tool_calls\":\
         [{{\"function\":{{\"name\":\"{prose}\"}}}}]}}}}],\"error\":{{\"type\":\"{prose}\",\"code\":\"{prose}\"}},\
         \"usage\":{{\"prompt_tokens\":1}}}}"
    )
}

#[test]
fn nothing_is_left_of_plain_bodies() {
    let chat = chat();
    let sent = request("/v1/chat/completions", &chat);
    check("JSON", "api.openai.com", &sent, &response("", chat.as_bytes()));
    let events =
        format!(": {MARKER}\n\nevent: {MARKER}\n{MARKER}: {MARKER}\ndata: {chat}\n\ndata: {MARKER}\n\n");
    check("events", "api.openai.com", &sent, &response("", events.as_bytes()));
    let form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{MARKER} {MARKER}\r\n--b\r\n\
         Content-Disposition: form-data; name=\"file\"\r\n\r\n{}\r\n--b--\r\n",
        MARKER.repeat(50)
    );
    let sent = request("/v1/audio/transcriptions", &form);
    check("a form", "api.openai.com", &sent, &response("", b"{}"));
    check("no HTTP", "api.openai.com", MARKER.repeat(300).as_bytes(), MARKER.repeat(300).as_bytes());
}

#[test]
fn nothing_is_left_of_compressed_bodies() {
    let chat = chat();
    let text = format!("data: {chat}\n\n").repeat(40);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).expect("room");
    let gzip = gzip.finish().expect("room");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(text.as_bytes()).expect("room");
    let zlib = zlib.finish().expect("room");
    let sent = request("/v1/chat/completions", &chat);
    for (coding, body) in [("gzip", gzip), ("deflate", zlib), ("br", stored_brotli(text.as_bytes()))] {
        let received = response(&format!("Content-Encoding: {coding}\r\n"), &body);
        check(coding, "api.openai.com", &sent, &received);
    }
}

#[test]
fn nothing_is_left_of_event_streams() {
    let chat = chat();
    let mut body = Vec::new();
    for (kind, payload) in [
        ("chunk", format!("{{\"bytes\":\"{}\"}}", base64(chat.as_bytes()))),
        ("messageStop", chat.clone()),
        ("metadata", chat.clone()),
    ] {
        body.extend_from_slice(&message(kind, payload.as_bytes()));
    }
    let sent = request("/model/anthropic.claude-3-haiku/invoke-with-response-stream", &chat);
    check("an event stream", "bedrock-runtime.us-east-1.amazonaws.com", &sent, &response("", &body));
}

#[test]
fn nothing_is_left_of_websocket_messages() {
    let chat = chat();
    let mut window = flate2::Compress::new(flate2::Compression::fast(), false);
    let mut packed = Vec::with_capacity(1 << 16);
    window.compress_vec(chat.as_bytes(), &mut packed, flate2::FlushCompress::Sync).expect("room");
    packed.truncate(packed.len() - 4);
    let sent = format!(
        "GET /v1/realtime HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {MARKER}\r\nUpgrade: websocket\r\n\r\n"
    );
    for (extension, head, payload) in
        [("", 0x81, chat.as_bytes()), ("Sec-WebSocket-Extensions: permessage-deflate\r\n", 0xc1, &packed)]
    {
        let switch = format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n{extension}\r\n");
        let length = (payload.len() as u16).to_be_bytes();
        let received = [switch.as_bytes(), &[head, 126], &length, payload, &[head, 126], &length, payload];
        check(&format!("a WebSocket {extension}"), "api.openai.com", sent.as_bytes(), &received.concat());
    }
}

/// A message of an AWS event stream.
fn message(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [(":message-type", "event"), (":event-type", kind)] {
        headers.push(name.len() as u8);
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&(value.len() as u16).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let checksum = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_be_bytes()
    };
    let total = 16 + headers.len() + payload.len();
    let mut message = (total as u32).to_be_bytes().to_vec();
    message.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    message.extend_from_slice(&checksum(&message));
    message.extend_from_slice(&headers);
    message.extend_from_slice(payload);
    message.extend_from_slice(&checksum(&message));
    message
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |part: &[u8]| {
        let bits =
            part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        (0..=part.len())
            .map(|at| char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]))
            .collect::<String>()
    };
    bytes.chunks(3).map(digits).collect()
}

/// A brotli stream of uncompressed meta-blocks (RFC 7932, 9.2): window of 64 KiB, blocks of up to 64 KiB, an empty last.
fn stored_brotli(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut bits, mut filled) = (Vec::new(), 0u64, 0u32);
    let mut put = |value: u64, width: u32, align: bool, out: &mut Vec<u8>| {
        bits |= value << filled;
        filled += width;
        if align {
            filled = filled.next_multiple_of(8);
        }
        while filled >= 8 {
            out.push((bits & 0xff) as u8);
            bits >>= 8;
            filled -= 8;
        }
    };
    put(0, 1, false, &mut out);
    for block in bytes.chunks(1 << 16) {
        // Not the last; four nibbles of length minus one; uncompressed; then whole bytes.
        put(0, 1, false, &mut out);
        put(0, 2, false, &mut out);
        put(block.len() as u64 - 1, 16, false, &mut out);
        put(1, 1, true, &mut out);
        out.extend_from_slice(block);
    }
    // The last, and empty.
    put(0b11, 2, true, &mut out);
    out
}
