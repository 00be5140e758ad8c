//! A recorded exchange as bytes on a connection: framing is made here, bodies are as recorded.

use meter::pipeline::Direction::{self, Received, Sent};

use super::Line;
use super::heads::Packer;

/// Pieces of both directions, in the order in which a process sees them.
pub type Pieces = Vec<(Direction, Vec<u8>)>;

/// Every rendering of `line`. Of HTTP/2, half the exchanges have their heads plain and half packed.
pub fn renderings(line: &Line) -> Vec<(&'static str, Pieces)> {
    if line.protocol == "websocket" {
        return super::websocket::renderings(line);
    }
    let mut random = Random::new(&line.id);
    let packed = random.below(2) == 0;
    if line.protocol == "grpc" {
        let whole = http2(&mut random, line, packed);
        let cut = cut_all(&mut random, &whole);
        return vec![("grpc", whole), ("grpc-cut", cut)];
    }
    let whole = vec![(Sent, request(line)), (Received, response(line))];
    let cut = cut_all(&mut random, &whole);
    let whole2 = http2(&mut random, line, packed);
    let cut2 = cut_all(&mut random, &whole2);
    vec![("h1", whole), ("h1-cut", cut), ("h2", whole2), ("h2-cut", cut2)]
}

/// The rendering of this name.
pub fn rendering(line: &Line, wanted: &str) -> Option<Pieces> {
    renderings(line).into_iter().find(|(name, _)| *name == wanted).map(|(_, pieces)| pieces)
}

/// Exchanges on streams of one connection, as HTTP/2 with packed heads, as all clients and servers send them; gRPC ends
/// with trailers.
pub fn together_as_http2(lines: &[&Line]) -> Pieces {
    let id: String = lines.iter().map(|line| line.id.as_str()).collect();
    connection(&mut Random::new(&id), lines, true)
}

fn http2(random: &mut Random, line: &Line, packed: bool) -> Pieces {
    connection(random, &[line], packed)
}

fn connection(random: &mut Random, lines: &[&Line], packed: bool) -> Pieces {
    let status = [("grpc-status".to_owned(), "0".to_owned())];
    let requests: Vec<Vec<Field>> = lines.iter().map(|line| request_fields(line)).collect();
    let responses: Vec<Vec<Field>> = lines.iter().map(|line| response_fields(line)).collect();
    let sent = lines.iter().zip(&requests);
    let sent: Vec<Message<'_>> =
        sent.map(|(line, fields)| Message { fields, body: &line.request_body, trailers: &[] }).collect();
    let received = lines.iter().zip(&responses).map(|(line, fields)| {
        let trailers: &[Field] = if line.protocol == "grpc" { &status } else { &[] };
        Message { fields, body: line.travelled(), trailers }
    });
    let received: Vec<Message<'_>> = received.collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    vec![
        (Sent, Frames::new(random, preface, packed).messages(&sent)),
        (Received, Frames::new(random, Vec::new(), packed).messages(&received)),
    ]
}

/// Scheme, authority and target of the URL.
pub(super) fn authority_and_target(url: &str) -> (&str, &str) {
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
    let bodiless = line.is_bodiless();
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

fn request_fields(line: &Line) -> Vec<(String, String)> {
    let (authority, target) = authority_and_target(&line.url);
    let target = target.split('#').next().unwrap_or("/").replace(' ', "%20");
    let mut fields = vec![
        (":method".to_owned(), line.method.clone()),
        (":scheme".to_owned(), "https".to_owned()),
        (":authority".to_owned(), authority.to_owned()),
        (":path".to_owned(), if target.starts_with('/') { target } else { format!("/{target}") }),
    ];
    add_fields(&mut fields, &line.request_headers, true);
    fields
}

fn response_fields(line: &Line) -> Vec<(String, String)> {
    let mut fields = vec![(":status".to_owned(), line.status.to_string())];
    add_fields(&mut fields, &line.response_headers, line.wire_body.is_none());
    fields
}

fn add_fields(fields: &mut Vec<(String, String)>, recorded: &[(String, String)], undone: bool) {
    for (name, value) in recorded {
        let name = name.to_ascii_lowercase();
        let framing =
            ["host", "content-length", "transfer-encoding", "connection", "expect"].contains(&name.as_str());
        if !(name.starts_with(':') || framing || undone && name == "content-encoding") {
            fields.push((name, value.replace(['\r', '\n'], " ")));
        }
    }
}

/// A field of a head: name and value.
type Field = (String, String);

/// What one side says on a stream.
struct Message<'a> {
    fields: &'a [Field],
    body: &'a [u8],
    trailers: &'a [Field],
}

/// One direction of a connection.
struct Frames<'a> {
    random: &'a mut Random,
    /// Heads are packed.
    packer: Option<Packer>,
    bytes: Vec<u8>,
}

impl<'a> Frames<'a> {
    /// Behind what is in `bytes`: settings.
    fn new(random: &'a mut Random, mut bytes: Vec<u8>, packed: bool) -> Frames<'a> {
        frame(&mut bytes, 4, 0, 0, &[0, 3, 0, 0, 0, 100]);
        frame(&mut bytes, 8, 0, 0, &[0, 1, 0, 0]);
        Frames { random, packer: packed.then(Packer::default), bytes }
    }

    /// Messages on streams of their own whose data alternate, and what else may stand between.
    fn messages(mut self, messages: &[Message<'_>]) -> Vec<u8> {
        let mut streams: Vec<_> =
            (1..).step_by(2).zip(messages).map(|(stream, message)| (stream, message, message.body)).collect();
        for (stream, message, _) in &streams {
            self.head(*stream, message);
        }
        streams.retain(|(_, _, rest)| !rest.is_empty());
        while !streams.is_empty() {
            let at = self.random.below(streams.len());
            let Some((stream, message, rest)) = streams.get_mut(at) else { break };
            let (part, later) = rest.split_at((1 + self.random.below(8000)).min(rest.len()));
            self.data(*stream, part, later.is_empty() && message.trailers.is_empty());
            *rest = later;
            streams.retain(|(_, _, rest)| !rest.is_empty());
        }
        for (stream, message) in
            (1..).step_by(2).zip(messages).filter(|(_, message)| !message.trailers.is_empty())
        {
            let block = self.block(message.trailers, false);
            frame(&mut self.bytes, 1, 1 | 4, stream, &block);
        }
        frame(&mut self.bytes, 4, 1, 0, &[]);
        self.bytes
    }

    /// A head block in one frame or two.
    fn head(&mut self, stream: u32, message: &Message<'_>) {
        let block = self.block(message.fields, true);
        let split = if self.random.below(2) == 0 { block.len() } else { self.random.below(block.len()) };
        let (first, second) = block.split_at(split);
        let end = u8::from(message.body.is_empty() && message.trailers.is_empty());
        if second.is_empty() {
            frame(&mut self.bytes, 1, end | 4, stream, first);
        } else {
            let padded = [&[3, 0, 0, 0, 0, 7], first, &[0; 3]].concat();
            frame(&mut self.bytes, 1, end | 8 | 0x20, stream, &padded);
            frame(&mut self.bytes, 9, 4, stream, second);
        }
    }

    /// Data, padded or plain.
    fn data(&mut self, stream: u32, part: &[u8], last: bool) {
        let end = u8::from(last);
        if self.random.below(3) == 0 {
            let padding = self.random.below(200);
            let padded = [&[u8::try_from(padding).unwrap_or(0)], part, &vec![0; padding]].concat();
            frame(&mut self.bytes, 0, end | 8, stream, &padded);
            frame(&mut self.bytes, 6, 0, 0, &[0; 8]);
        } else {
            frame(&mut self.bytes, 0, end, stream, part);
        }
    }

    fn block(&mut self, fields: &[Field], indexed: bool) -> Vec<u8> {
        match &mut self.packer {
            Some(packer) => packer.block(fields),
            None => plain_block(fields, indexed),
        }
    }
}

/// Fields as plain literals; every other one becomes an entry of the table if any may, and is there again by its place.
fn plain_block(fields: &[Field], indexed: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (at, (name, value)) in fields.iter().enumerate() {
        let indexed = indexed && at % 2 == 0;
        block.push(if indexed { 0x40 } else { 0x00 });
        for text in [name, value] {
            integer(&mut block, 7, text.len());
            block.extend_from_slice(text.as_bytes());
        }
        // A coding that is named twice was applied twice.
        if indexed && at > 0 && !name.starts_with(':') && name != "content-encoding" {
            block.push(0x80 | 62);
        }
    }
    block
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

fn integer(bytes: &mut Vec<u8>, prefix: u32, value: usize) {
    let most = (1usize << prefix) - 1;
    if value < most {
        bytes.push(u8::try_from(value).unwrap_or(0));
        return;
    }
    bytes.push(u8::try_from(most).unwrap_or(0));
    let mut rest = value - most;
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap_or(0));
}

/// The same pieces, each cut into many.
pub fn cut_all(random: &mut Random, pieces: &Pieces) -> Pieces {
    let cut = |(direction, bytes): &(Direction, Vec<u8>)| {
        random.cut(bytes).into_iter().map(|piece| (*direction, piece)).collect::<Pieces>()
    };
    pieces.iter().flat_map(cut).collect()
}

/// Numbers that depend on the exchange's id alone (xorshift).
pub struct Random(u64);

impl Random {
    /// From `id` alone.
    pub fn new(id: &str) -> Random {
        // FNV-1a; never 0.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Random(hash | 1)
    }

    /// One of `0..end`.
    pub fn below(&mut self, end: usize) -> usize {
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
