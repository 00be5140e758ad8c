//! A recorded exchange as bytes on a connection: framing is made here, bodies are as recorded.

use crate::corpus::Line;

/// Pieces of both directions, in the order in which a process sees them.
pub(crate) struct Pieces {
    /// What the process writes, in pieces.
    pub(crate) sent: Vec<Vec<u8>>,
    /// What it reads, in pieces.
    pub(crate) received: Vec<Vec<u8>>,
}

/// Every rendering of `line` that is built; `None` for one that is not.
pub(crate) fn renderings(line: &Line) -> Vec<(&'static str, Option<Pieces>)> {
    match line.protocol.as_str() {
        "websocket" => return vec![("ws", None), ("ws-cut", None)],
        "grpc" => return vec![("grpc", None), ("grpc-cut", None)],
        _ => {}
    }
    let (sent, received) = (request(line), response(line));
    let mut random = Random::new(&line.id);
    let cut = Pieces { sent: random.cut(&sent), received: random.cut(&received) };
    vec![("h1", Some(Pieces { sent: vec![sent], received: vec![received] })), ("h1-cut", Some(cut))]
}

/// Scheme, authority and target of the URL.
pub(crate) fn authority_and_target(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let slash = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(slash);
    (authority, if target.is_empty() { "/" } else { target })
}

fn request(line: &Line) -> Vec<u8> {
    let (authority, target) = authority_and_target(&line.url);
    // What a client would have sent: no byte that a request line cannot hold.
    let target: String = target.split('#').next().unwrap_or("/").replace(' ', "%20");
    let target = if target.starts_with('/') { target } else { format!("/{target}") };
    let mut bytes = format!("{} {target} HTTP/1.1\r\nHost: {authority}\r\n", line.method).into_bytes();
    // The recording has bodies without their codings.
    let skipped = ["host", "content-length", "transfer-encoding", "connection", "expect", "content-encoding"];
    put_fields(&mut bytes, &line.request_headers, &skipped);
    if !line.request_body.is_empty() || line.method == "POST" {
        put(&mut bytes, "content-length", &line.request_body.len().to_string());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&line.request_body);
    bytes
}

fn response(line: &Line) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {} Recorded\r\n", line.status).into_bytes();
    let mut skipped = vec!["content-length", "transfer-encoding", "connection"];
    let body = match &line.wire_body {
        Some(wire) => wire,
        None => {
            skipped.push("content-encoding");
            &line.response_body
        }
    };
    put_fields(&mut bytes, &line.response_headers, &skipped);
    let bodiless = line.method == "HEAD" || matches!(line.status, 204 | 304);
    if matches!(line.protocol.as_str(), "sse" | "ndjson" | "aws-eventstream" | "json-array") && !bodiless {
        put(&mut bytes, "transfer-encoding", "chunked");
        bytes.extend_from_slice(b"\r\n");
        for chunk in body.chunks(1400) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        return bytes;
    }
    if !bodiless {
        put(&mut bytes, "content-length", &body.len().to_string());
    }
    bytes.extend_from_slice(b"\r\n");
    if !bodiless {
        bytes.extend_from_slice(body);
    }
    bytes
}

fn put_fields(bytes: &mut Vec<u8>, fields: &[(String, String)], skipped: &[&str]) {
    for (name, value) in fields {
        if !name.starts_with(':') && !skipped.iter().any(|skip| name.eq_ignore_ascii_case(skip)) {
            put(bytes, name, value);
        }
    }
}

fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.replace(['\r', '\n'], " ");
    bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
}

/// Numbers that depend on the exchange's id alone (xorshift).
struct Random(u64);

impl Random {
    fn new(id: &str) -> Random {
        // FNV-1a; never 0.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Random(hash | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % end.max(1)
    }

    /// Cuts into pieces of very different sizes, single bytes among them.
    fn cut(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = [1, 3, 17, 130, 1500, 16_384][self.below(6)];
            let (piece, later) = rest.split_at((1 + self.below(most)).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = later;
        }
        pieces
    }
}
