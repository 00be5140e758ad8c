//! Calls as bytes on a connection that carries one after the other.

use e2e::corpus::heads::Packer;

use super::calls::Call;

/// One call in one form, rendered once.
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) host: &'static str,
    pub(super) connection: Connection,
    /// The JSON texts of both directions, unframed and unpacked: what a parser has to read for the same knowledge.
    pub(super) documents: Vec<Vec<u8>>,
    /// Heads of request and response in HTTP/1.1.
    pub(super) heads: Option<[Vec<u8>; 2]>,
    /// The answer's body, if it is compressed.
    pub(super) packed: Option<Vec<u8>>,
}

/// A connection on which the same exchange happens again and again.
#[derive(Clone)]
pub(super) struct Connection {
    /// What both sides say once: sent, received.
    pub(super) opening: [Vec<u8>; 2],
    /// What the exchange sends.
    pub(super) sent: Vec<u8>,
    /// What it receives.
    pub(super) received: Vec<u8>,
    /// HTTP/2 alone.
    pub(super) streams: Option<Streams>,
}

/// Where the number of the stream stands in an exchange's frames.
#[derive(Clone)]
pub(super) struct Streams {
    last: u32,
    sent: Vec<usize>,
    received: Vec<usize>,
}

impl Connection {
    /// Gives the exchange its next stream.
    pub(super) fn next_stream(&mut self) {
        let Some(streams) = &mut self.streams else { return };
        streams.last += 2;
        for (bytes, places) in [(&mut self.sent, &streams.sent), (&mut self.received, &streams.received)] {
            for at in places {
                bytes[*at..*at + 4].copy_from_slice(&streams.last.to_be_bytes());
            }
        }
    }
}

/// HTTP/1.1 on a connection that is kept alive; an answer of several writes is chunked, one chunk each.
pub(super) fn h1(call: &Call) -> Shape {
    let mut request = format!("POST {} HTTP/1.1\r\nHost: {}\r\n", call.target, call.host);
    let mut response = "HTTP/1.1 200 OK\r\n".to_owned();
    for (head, fields) in [(&mut request, &call.request_fields), (&mut response, &call.response_fields)] {
        fields.iter().for_each(|(name, value)| *head += &format!("{name}: {value}\r\n"));
    }
    request += &format!("content-length: {}\r\n\r\n", call.request_body.len());
    let mut body = Vec::new();
    if let [only] = call.writes.as_slice() {
        response += &format!("content-length: {}\r\n\r\n", only.len());
        body.extend_from_slice(only);
    } else {
        response += "transfer-encoding: chunked\r\n\r\n";
        for write in &call.writes {
            body.extend_from_slice(format!("{:x}\r\n", write.len()).as_bytes());
            body.extend_from_slice(write);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
    }
    let connection = Connection {
        opening: [Vec::new(), Vec::new()],
        sent: [request.as_bytes(), &call.request_body].concat(),
        received: [response.as_bytes(), &body].concat(),
        streams: None,
    };
    Shape { heads: Some([request.into_bytes(), response.into_bytes()]), ..shape(call, "h1", connection) }
}

/// HTTP/2, every write a DATA frame. The first exchange puts what may come again into the tables of both directions;
/// later ones refer to it and have the rest anew, Huffman coded, as clients and servers do.
pub(super) fn h2(call: &Call) -> Shape {
    let [method, path] = [(":method", "POST".to_owned()), (":path", call.target.to_owned())];
    let scheme = [(":scheme", "https".to_owned()), (":authority", call.host.to_owned())];
    let length = [("content-length", call.request_body.len().to_string())];
    let request: Vec<_> =
        [method, path].into_iter().chain(scheme).chain(call.request_fields.clone()).chain(length).collect();
    let response: Vec<_> =
        [(":status", "200".to_owned())].into_iter().chain(call.response_fields.clone()).collect();
    let bodies = [std::slice::from_ref(&call.request_body), &call.writes];
    let mut opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Vec::new()];
    let mut later = [Vec::new(), Vec::new()];
    let mut places = [Vec::new(), Vec::new()];
    for (side, fields) in [request, response].iter().enumerate() {
        let mut none = Vec::new();
        frame(&mut opening[side], &mut none, SETTINGS, 0, 0, &[]);
        frame(&mut opening[side], &mut none, SETTINGS, ACK, 0, &[]);
        let mut packer = Packer::default();
        put(&mut opening[side], &mut none, &packer.block(fields), bodies[side]);
        put(&mut later[side], &mut places[side], &packer.block(fields), bodies[side]);
    }
    let ([sent, received], [in_sent, in_received]) = (later, places);
    let streams = Some(Streams { last: 1, sent: in_sent, received: in_received });
    shape(call, "h2", Connection { opening, sent, received, streams })
}

/// A WebSocket: what the client asks is its only message, every write of the answer one message.
pub(super) fn websocket(call: &Call) -> Shape {
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\n{upgrade}Sec-WebSocket-Version: 13\r\nAuthorization: Bearer sk-bench\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        call.target, call.host
    );
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\n{upgrade}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    message(&mut sent, &call.request_body, Some([0x37, 0xfa, 0x21, 0x3d]));
    call.writes.iter().for_each(|write| message(&mut received, write, None));
    let opening = [request.into_bytes(), response.into_bytes()];
    shape(call, "WebSocket", Connection { opening, sent, received, streams: None })
}

fn shape(call: &Call, protocol: &str, connection: Connection) -> Shape {
    Shape {
        name: format!("{protocol} {}", call.name),
        host: call.host,
        connection,
        documents: [vec![call.request_body.clone()], call.documents.clone()].concat(),
        heads: None,
        packed: call.packed.then(|| call.writes.concat()),
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// RFC 9113, 4.2: what an endpoint takes that says nothing else.
const FRAME_MAX: usize = 16_384;

/// One direction of an exchange on stream 1; `places` gets where that number stands.
fn put(bytes: &mut Vec<u8>, places: &mut Vec<usize>, block: &[u8], body: &[Vec<u8>]) {
    frame(bytes, places, HEADERS, END_HEADERS, 1, block);
    let parts: Vec<&[u8]> = body.iter().flat_map(|write| write.chunks(FRAME_MAX)).collect();
    for (at, part) in parts.iter().enumerate() {
        let flags = if at + 1 == parts.len() { END_STREAM } else { 0 };
        frame(bytes, places, DATA, flags, 1, part);
    }
}

fn frame(bytes: &mut Vec<u8>, places: &mut Vec<usize>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&[kind, flags]);
    places.push(bytes.len());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// RFC 6455, 5.2: a text message in one frame.
fn message(bytes: &mut Vec<u8>, payload: &[u8], mask: Option<[u8; 4]>) {
    bytes.push(0x81);
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => bytes.push(masked | u8::try_from(length).unwrap_or(0)),
        Ok(length) => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask.map_or(Vec::new(), |mask| mask.to_vec()));
    let mask = mask.unwrap_or([0; 4]);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
