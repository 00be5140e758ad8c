//! WebSocket beside `tungstenite`, and `permessage-deflate` beside `flate2`: they write the frames and say what they read.

use std::io::{self, Cursor, Read, Write};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use meter::exchange::Reason;
use meter::flow::{Direction, Piece};
use meter::http::{End, Key, Protocol, RequestHead, ResponseHead, Sink};
use meter::limits::Budget;
use meter::loss::Tally;
use proptest::prelude::*;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameSocket};
use tungstenite::protocol::{Role, WebSocket};

/// One message as its side sends it.
#[derive(Clone, Debug)]
struct Message {
    text: bool,
    payload: Vec<u8>,
    /// Sizes of all fragments but the last.
    fragments: Vec<usize>,
    /// Pings, or else pongs, in turn before each fragment but the first.
    between: Vec<(bool, Vec<u8>)>,
    mask: [u8; 4],
    squeeze: Squeeze,
}

/// How a message is deflated where that was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Squeeze {
    Not,
    /// Up to an empty block, of which the end is not sent (RFC 7692, 7.2.1).
    Flushed,
    /// To the end of the data, which an empty block's beginning follows (RFC 7692, 7.2.3.4).
    Ended,
    /// In two blocks that are flushed each (RFC 7692, 7.2.3.5).
    Twice,
}

/// What the handshake says: whether a window begins anew with each message; and how much the encoder tries.
#[derive(Clone, Copy, Debug)]
enum Agreed {
    Plain,
    Deflate { fresh: bool, level: u32 },
}

fn message() -> impl Strategy<Value = Message> {
    let word =
        prop::sample::select(vec!["{\"type\":\"response.done\"", "usage", "é", "   ", "\u{1F642}", "\"}"]);
    let payload = prop_oneof![
        4 => prop::collection::vec(word, 0..60).prop_map(|words| (true, words.concat().into_bytes())),
        2 => prop::collection::vec(any::<u8>(), 0..700).prop_map(|bytes| (false, bytes)),
        1 => (65_000usize..70_000, any::<u8>()).prop_map(|(len, byte)| (false, vec![byte; len])),
        1 => (120usize..130).prop_map(|len| (true, vec![b'x'; len])),
    ];
    let control = (any::<bool>(), prop_oneof![prop::collection::vec(any::<u8>(), 0..10), Just(vec![7; 125])]);
    let squeeze = prop_oneof![
        1 => Just(Squeeze::Not),
        4 => Just(Squeeze::Flushed),
        1 => Just(Squeeze::Ended),
        1 => Just(Squeeze::Twice),
    ];
    (
        payload,
        prop::collection::vec(0usize..300, 0..4),
        prop::collection::vec(control, 1..3),
        prop_oneof![any::<[u8; 4]>(), Just([0; 4])],
        squeeze,
    )
        .prop_map(|((text, payload), fragments, between, mask, squeeze)| Message {
            text,
            payload,
            fragments,
            between,
            mask,
            squeeze,
        })
}

fn agreed() -> impl Strategy<Value = Agreed> {
    prop_oneof![
        Just(Agreed::Plain),
        (any::<bool>(), 0u32..=9).prop_map(|(fresh, level)| Agreed::Deflate { fresh, level })
    ]
}

/// What `flate2` makes of `payload`.
fn deflated(window: &mut Compress, payload: &[u8], squeeze: Squeeze) -> Vec<u8> {
    let mut made = Vec::with_capacity(payload.len() * 2 + 1024);
    let mut run = |part: &[u8], flush: FlushCompress| {
        window.compress_vec(part, &mut made, flush).expect("it fits");
    };
    let (half, rest) = payload.split_at(payload.len() / 2);
    match squeeze {
        Squeeze::Not => return payload.to_vec(),
        Squeeze::Flushed => run(payload, FlushCompress::Sync),
        Squeeze::Twice => {
            run(half, FlushCompress::Sync);
            run(rest, FlushCompress::Sync);
        }
        Squeeze::Ended => {
            run(payload, FlushCompress::Finish);
            made.push(0);
            window.reset();
            return made;
        }
    }
    if made.is_empty() {
        // Nothing to flush: an empty message is an empty block's beginning (RFC 7692, 7.2.3.6).
        return vec![0];
    }
    assert_eq!(made.split_off(made.len() - 4), [0, 0, 0xff, 0xff]);
    made
}

/// The frames of `messages`, as tungstenite writes them.
fn written(direction: Direction, messages: &[Message], agreed: Agreed) -> Vec<u8> {
    let mut socket = FrameSocket::new(Vec::new());
    let level = if let Agreed::Deflate { level, .. } = agreed { level } else { 0 };
    let mut window = Compress::new(Compression::new(level), false);
    let mut write = |mut frame: Frame, deflated: bool, mask: [u8; 4]| {
        frame.header_mut().rsv1 = deflated;
        frame.header_mut().mask = (direction == Direction::Sent).then_some(mask);
        socket.write(frame).expect("memory");
    };
    for message in messages {
        let squeeze = if let Agreed::Plain = agreed { Squeeze::Not } else { message.squeeze };
        if let Agreed::Deflate { fresh: true, .. } = agreed {
            window.reset();
        }
        let bytes = deflated(&mut window, &message.payload, squeeze);
        let mut rest = bytes.as_slice();
        let mut code = OpCode::Data(if message.text { Data::Text } else { Data::Binary });
        let mut packed = squeeze != Squeeze::Not;
        for (size, (ping, note)) in message.fragments.iter().zip(message.between.iter().cycle()) {
            let (part, later) = rest.split_at((*size).min(rest.len()));
            write(Frame::message(part.to_vec(), code, false), packed, message.mask);
            let between = if *ping { Frame::ping(note.clone()) } else { Frame::pong(note.clone()) };
            write(between, false, message.mask);
            (code, packed, rest) = (OpCode::Data(Data::Continue), false, later);
        }
        write(Frame::message(rest.to_vec(), code, true), packed, message.mask);
    }
    socket.flush().expect("memory");
    socket.into_inner().0
}

/// Bytes to read; what is written, which are answers to pings, goes nowhere.
struct Pipe(Cursor<Vec<u8>>);

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The messages that tungstenite reads in `bytes`, up to what it takes offence at or the end, and whether a side closed.
fn understood(direction: Direction, bytes: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let role = if direction == Direction::Sent { Role::Server } else { Role::Client };
    let mut socket = WebSocket::from_raw_socket(Pipe(Cursor::new(bytes.to_vec())), role, None);
    let (mut messages, mut closed) = (Vec::new(), false);
    while let Ok(message) = socket.read() {
        closed |= message.is_close();
        if message.is_text() || message.is_binary() {
            messages.push(message.into_data().to_vec());
        }
    }
    (messages, closed)
}

/// The same where messages may be deflated: tungstenite reads the frames, `flate2` what is in them.
fn inflated(bytes: &[u8], fresh: bool) -> Vec<Vec<u8>> {
    let mut socket = FrameSocket::new(Cursor::new(bytes.to_vec()));
    let (mut window, mut messages) = (Decompress::new(false), Vec::new());
    let (mut packed, mut data) = (false, Vec::new());
    while let Ok(Some(mut frame)) = socket.read(None) {
        let OpCode::Data(kind) = frame.header().opcode else { continue };
        let mask = frame.header_mut().mask.take().unwrap_or_default();
        data.extend(frame.payload().iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        if kind != Data::Continue {
            packed = frame.header().rsv1;
        }
        if !frame.header().is_final {
            continue;
        }
        let mut whole = std::mem::take(&mut data);
        if packed {
            whole.extend([0, 0, 0xff, 0xff]);
            let mut text = Vec::with_capacity(100_000);
            if fresh {
                window.reset(false);
            }
            let status = window.decompress_vec(&whole, &mut text, FlushDecompress::Sync).expect("deflated");
            if status == flate2::Status::StreamEnd {
                window.reset(false);
            }
            whole = text;
        }
        messages.push(whole);
    }
    messages
}

/// What the meter says of both directions.
#[derive(Debug, Default)]
struct Heard {
    messages: [Vec<Vec<u8>>; 2],
    open: [Vec<u8>; 2],
    /// Something is missing from here on.
    broken: [bool; 2],
    over: Option<End>,
}

impl Sink for Heard {
    fn request(&mut self, _: Key, _: &RequestHead<'_>) {}
    fn request_data(&mut self, _: Key, data: Piece<'_>) {
        panic!("{data:?}");
    }
    fn request_end(&mut self, _: Key, _: End) {}
    fn response(&mut self, _: Key, head: &ResponseHead<'_>) {
        assert_eq!(head.status, 101);
    }
    fn response_data(&mut self, _: Key, data: Piece<'_>) {
        panic!("{data:?}");
    }
    fn response_end(&mut self, _: Key, _: End) {}
    fn orphan(&mut self, reason: Reason) {
        panic!("{reason:?}");
    }
    fn converse(&mut self, _: Key) -> bool {
        true
    }
    fn message(&mut self, _: Key, direction: Direction, part: Piece<'_>) {
        let at = direction as usize;
        match part {
            Piece::Bytes(bytes) => self.open[at].extend_from_slice(bytes),
            Piece::Gap(_) => self.broken[at] = true,
        }
    }
    fn message_end(&mut self, _: Key, direction: Direction) {
        let at = direction as usize;
        let message = std::mem::take(&mut self.open[at]);
        if !self.broken[at] {
            self.messages[at].push(message);
        }
    }
    fn hung_up(&mut self, _: Key, end: End) {
        self.over = Some(end);
    }
    fn upgraded(&mut self) {
        panic!("its messages are of interest");
    }
}

/// The meter's reading of a handshake and the frames after it, both directions cut by `cuts` and taken in turn.
fn heard(agreed: Agreed, frames: [&[u8]; 2], cuts: &[usize]) -> (Heard, Tally) {
    let extension = match agreed {
        Agreed::Plain => "",
        Agreed::Deflate { fresh: false, .. } => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        Agreed::Deflate { fresh: true, .. } => {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
        }
    };
    let (budget, mut tally, mut heard) = (Budget::new(), Tally::default(), Heard::default());
    let mut protocol = Protocol::new(false);
    let request = "GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{extension}\r\n"
    );
    let [sent, received] = frames;
    let mut push = |direction, bytes: &[u8]| {
        protocol.push(direction, Piece::Bytes(bytes), &budget, &mut tally, &mut heard);
    };
    push(Direction::Sent, request.as_bytes());
    // A server may write its first frames together with the handshake.
    let (early, received) = received.split_at(cuts[0].min(received.len()));
    push(Direction::Received, &[response.as_bytes(), early].concat());
    let mut rest = [(Direction::Sent, sent), (Direction::Received, received)];
    let mut sizes = cuts.iter().copied().cycle();
    while rest.iter().any(|(_, bytes)| !bytes.is_empty()) {
        for (direction, bytes) in &mut rest {
            let (piece, later) = bytes.split_at(sizes.next().unwrap_or(1).min(bytes.len()));
            *bytes = later;
            push(*direction, piece);
        }
    }
    protocol.finish(None, &mut tally, &mut heard);
    assert!(tally.is_conserved(), "{tally:?}");
    assert_eq!(heard.over, Some(End::WithConnection));
    (heard, tally)
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn websocket_is_read_as_tungstenite_reads_it(
        agreed in agreed(),
        sent in prop::collection::vec(message(), 0..6),
        received in prop::collection::vec(message(), 0..6),
        cuts in prop::collection::vec(1usize..700, 1..6),
    ) {
        let frames = [
            written(Direction::Sent, &sent, agreed),
            written(Direction::Received, &received, agreed),
        ];
        let (heard, tally) = heard(agreed, [&frames[0], &frames[1]], &cuts);
        prop_assert!(tally.lost.is_empty(), "{:?}", tally);
        for (at, (direction, told)) in [(Direction::Sent, &sent), (Direction::Received, &received)].into_iter().enumerate() {
            let theirs = match agreed {
                Agreed::Plain => understood(direction, &frames[at]).0,
                Agreed::Deflate { fresh, .. } => inflated(&frames[at], fresh),
            };
            let told: Vec<&[u8]> = told.iter().map(|message| message.payload.as_slice()).collect();
            prop_assert_eq!(&theirs, &told);
            prop_assert_eq!(&heard.messages[at], &theirs);
        }
    }

    /// What is damaged ends for both in the same place, unless one does not see it; nothing is read otherwise.
    #[test]
    fn damaged_frames_are_read_alike_up_to_the_damage(
        messages in prop::collection::vec(message(), 1..6),
        cuts in prop::collection::vec(1usize..700, 1..6),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        sent in any::<bool>(),
    ) {
        let direction = if sent { Direction::Sent } else { Direction::Received };
        // A text that is no UTF-8 is for the meter a message like any other.
        let messages: Vec<Message> =
            messages.into_iter().map(|message| Message { text: false, ..message }).collect();
        let mut bytes = written(direction, &messages, Agreed::Plain);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (theirs, closed) = understood(direction, &bytes);
        let frames: [&[u8]; 2] = if sent { [&bytes, &[]] } else { [&[], &bytes] };
        let (heard, tally) = heard(Agreed::Plain, frames, &cuts);
        let ours = &heard.messages[direction as usize];
        // Nothing is read after a side closed; the meter leaves that to the sides.
        if tally.lost.is_empty() && !closed {
            prop_assert_eq!(ours, &theirs);
        }
        // Lengths that are longer than they need be are damage to the meter only.
        prop_assert!(theirs.starts_with(ours) || ours.starts_with(&theirs), "{:?} beside {:?}", ours, theirs);
    }
}
