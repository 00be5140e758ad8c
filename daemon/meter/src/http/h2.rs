//! HTTP/2 (RFC 9113): frames, head blocks, and the streams in them, from both directions of a connection.
//!
//! The key of an exchange is its stream. A hole inside a DATA frame leaves everything in step. Any other hole loses the
//! place: every open stream of that direction has a hole, what the head decoder knew is forgotten, and the direction
//! skips until a piece begins with what can only be a frame. Pushed responses are decoded, because they change the head
//! decoder, and otherwise passed over.

use zeroize::Zeroizing;

use super::hpack::{Decoder, Fields};
use super::{End, Header, Key, RequestHead, ResponseHead, Sink};
use crate::exchange::Reason;
use crate::flow::{Direction, Piece};
use crate::limits::{Budget, HEAD_BYTES_MAX, HEADERS_MAX, Lease, STREAMS_MAX};
use crate::loss::Tally;
use crate::payload::Held;

/// What a client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Largest frame that is believed while looking for the next one; larger ones need a setting that few use.
const BELIEVED_MAX: usize = 1 << 18;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sent: Half,
    received: Half,
    streams: Vec<Stream>,
    /// The client's newest stream: it opens them in order, so what is older is not opened again.
    newest: u32,
    /// Streams from before it was joined that were told of. `None` if it was seen from its start.
    earlier: Option<Vec<u32>>,
    /// The first stream whose beginning was seen.
    first: Option<u32>,
    /// What came back has a hole: the frame behind one may be no frame, and its stream none.
    holed: bool,
}

/// A stream that is not over.
#[derive(Debug)]
struct Stream {
    id: u32,
    request_ended: bool,
    /// The final response head was seen.
    responded: bool,
}

/// One direction.
#[derive(Debug)]
struct Half {
    state: State,
    /// An incomplete frame head.
    held: Held,
    decoder: Decoder,
    block: Option<Block>,
}

#[derive(Debug)]
enum State {
    /// In the client's preface: bytes to come.
    Preface(usize),
    /// Before a frame.
    Frame,
    /// In a padded DATA frame, before the byte that tells the padding: bytes of the frame to come.
    PadLength { stream: u32, left: usize, end: bool },
    /// In a DATA frame: bytes of data to come, and of padding after them.
    Data { stream: u32, left: usize, padding: usize, end: bool },
    /// In a frame of a head block: bytes to come.
    Block { left: usize },
    /// In a small frame that is held whole.
    Small { kind: u8, stream: u32, left: usize },
    /// In a frame that does not matter.
    Pass(usize),
    /// The place is lost.
    Skip(Reason),
}

/// A head block in progress. Contains credentials.
struct Block {
    kind: u8,
    stream: u32,
    flags: u8,
    /// The frame in progress is the block's last.
    last: bool,
    /// Bytes of all its frames.
    seen: u64,
    /// Frames of it that are over.
    frames: u32,
    bytes: Zeroizing<Vec<u8>>,
    _lease: Lease,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Half {
    fn new(state: State) -> Half {
        Half { state, held: Held::new(), decoder: Decoder::default(), block: None }
    }
}

impl Connection {
    /// A connection at its first byte, or anywhere if `joined_late`.
    pub fn new(joined_late: bool) -> Connection {
        let (sent, received) = match joined_late {
            true => (State::Skip(Reason::LateAttach), State::Skip(Reason::LateAttach)),
            false => (State::Preface(PREFACE.len()), State::Frame),
        };
        Connection {
            sent: Half::new(sent),
            received: Half::new(received),
            streams: Vec::new(),
            earlier: joined_late.then(Vec::new),
            first: None,
            holed: false,
            newest: 0,
        }
    }

    /// Takes the next piece of a direction; `tally.seen` counts it already.
    pub fn push(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) {
        match piece {
            Piece::Gap(0) => {}
            Piece::Gap(bytes) => self.gap(direction, bytes, tally, sink),
            Piece::Bytes(bytes) => self.bytes(direction, bytes, budget, tally, sink),
        }
    }

    /// The connection is over, or given up for `reason`: everything open ends.
    pub fn finish(&mut self, reason: Option<Reason>, tally: &mut Tally, sink: &mut impl Sink) {
        for stream in std::mem::take(&mut self.streams) {
            let key = Key::from(stream.id);
            if !stream.request_ended {
                sink.request_end(key, End::Cut(reason.unwrap_or(Reason::Interrupted)));
            }
            let why = if stream.responded { Reason::Interrupted } else { Reason::NoResponse };
            sink.response_end(key, End::Cut(reason.unwrap_or(why)));
        }
        for half in [&mut self.sent, &mut self.received] {
            let block = half.block.take().map_or(0, |block| block.seen);
            let lost = block.saturating_add(half.held.len() as u64);
            tally.lost.add(reason.unwrap_or(Reason::Interrupted), lost);
            half.held.clear();
        }
    }

    fn half(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        }
    }

    fn gap(&mut self, direction: Direction, bytes: u64, tally: &mut Tally, sink: &mut impl Sink) {
        tally.lost.add(Reason::Gap, bytes);
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        let half = self.half(direction);
        match &mut half.state {
            State::Data { stream, left, padding, end } if size <= *left => {
                *left -= size;
                let (stream, left, padding, end) = (*stream, *left, *padding, *end);
                self.data(direction, stream, Piece::Gap(bytes), sink);
                self.data_taken(direction, stream, left, padding, end, sink);
            }
            State::Pass(left) if size <= *left => {
                *left -= size;
                if *left == 0 {
                    half.state = State::Frame;
                }
            }
            State::Skip(_) => {}
            _ => self.lose_place(direction, Reason::Gap, tally, sink),
        }
    }

    fn lose_place(&mut self, direction: Direction, reason: Reason, tally: &mut Tally, sink: &mut impl Sink) {
        let half = self.half(direction);
        let block = half.block.take().map_or(0, |block| block.seen);
        tally.lost.add(reason, block.saturating_add(half.held.len() as u64));
        half.held.clear();
        half.decoder.forget();
        half.state = State::Skip(reason);
        self.holed |= direction == Direction::Received;
        let open: Vec<u32> = self.streams.iter().map(|stream| stream.id).collect();
        for stream in open {
            self.data(direction, stream, Piece::Gap(0), sink);
        }
    }

    fn bytes(
        &mut self,
        direction: Direction,
        mut bytes: &[u8],
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) {
        if let State::Skip(reason) = self.half(direction).state {
            if !begins_with_frames(bytes) {
                tally.lost.add(reason, bytes.len() as u64);
                return;
            }
            self.half(direction).state = State::Frame;
        }
        while !bytes.is_empty() {
            let half = self.half(direction);
            let used = match &mut half.state {
                State::Preface(left) => {
                    let used = (*left).min(bytes.len());
                    *left -= used;
                    tally.metered = tally.metered.saturating_add(used as u64);
                    if *left == 0 {
                        half.state = State::Frame;
                    }
                    used
                }
                State::Frame => {
                    let used = FRAME_HEAD.saturating_sub(half.held.len()).min(bytes.len());
                    half.held.push(bytes.get(..used).unwrap_or_default());
                    if half.held.len() == FRAME_HEAD {
                        let head = FrameHead::read(&half.held);
                        half.held.clear();
                        if !self.begin(direction, &head, budget, tally, sink) {
                            let lost = FRAME_HEAD + bytes.len().saturating_sub(used);
                            tally.lost.add(Reason::NotHttp, lost as u64);
                            self.lose_place(direction, Reason::NotHttp, tally, sink);
                            return;
                        }
                        tally.metered = tally.metered.saturating_add(FRAME_HEAD as u64);
                    }
                    used
                }
                State::PadLength { stream, left, end } => {
                    tally.metered = tally.metered.saturating_add(1);
                    let after = left.saturating_sub(1);
                    let padding = usize::from(bytes.first().copied().unwrap_or(0)).min(after);
                    let (stream, end) = (*stream, *end);
                    self.data_taken(direction, stream, after - padding, padding, end, sink);
                    1
                }
                State::Data { stream, left, padding, end } => {
                    let used = (*left).min(bytes.len());
                    *left -= used;
                    let (stream, left, padding, end) = (*stream, *left, *padding, *end);
                    tally.metered = tally.metered.saturating_add(used as u64);
                    let part = bytes.get(..used).unwrap_or_default();
                    self.data(direction, stream, Piece::Bytes(part), sink);
                    self.data_taken(direction, stream, left, padding, end, sink);
                    used
                }
                State::Block { left } => {
                    let used = (*left).min(bytes.len());
                    *left -= used;
                    let over = *left == 0;
                    let part = bytes.get(..used).unwrap_or_default();
                    if let Some(block) = &mut half.block {
                        block.bytes.extend_from_slice(part);
                        block.seen += part.len() as u64;
                    }
                    if over {
                        half.state = State::Frame;
                        self.block_frame_over(direction, tally, sink);
                    }
                    used
                }
                State::Small { kind, stream, left } => {
                    let used = (*left).min(bytes.len());
                    *left -= used;
                    tally.metered = tally.metered.saturating_add(used as u64);
                    if *left == 0 {
                        let (kind, stream) = (*kind, *stream);
                        half.state = State::Frame;
                        if kind == RST_STREAM {
                            self.reset(stream, sink);
                        }
                    }
                    used
                }
                State::Pass(left) => {
                    let used = (*left).min(bytes.len());
                    *left -= used;
                    tally.metered = tally.metered.saturating_add(used as u64);
                    if *left == 0 {
                        half.state = State::Frame;
                    }
                    used
                }
                State::Skip(reason) => {
                    tally.lost.add(*reason, bytes.len() as u64);
                    return;
                }
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
    }

    /// A frame begins; false if this cannot be one.
    fn begin(
        &mut self,
        direction: Direction,
        head: &FrameHead,
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> bool {
        let FrameHead { kind, flags, stream, length } = *head;
        let half = self.half(direction);
        // A head block is not interrupted.
        let wanted = half.block.as_ref().map(|block| block.stream);
        if length > BELIEVED_MAX * 64 || wanted.is_some_and(|wanted| kind != CONTINUATION || stream != wanted)
        {
            return false;
        }
        let end = flags & END_STREAM != 0;
        match kind {
            DATA if stream == 0 => return false,
            DATA if flags & PADDED != 0 && length > 0 => {
                half.state = State::PadLength { stream, left: length, end }
            }
            DATA => self.data_taken(direction, stream, length, 0, end, sink),
            HEADERS | PUSH_PROMISE | CONTINUATION => {
                let known = half.block.as_ref().map_or(0, |block| block.bytes.len());
                if stream == 0 || known.saturating_add(length) > HEAD_BYTES_MAX {
                    return false;
                }
                match &mut half.block {
                    Some(block) => block.last = flags & END_HEADERS != 0,
                    None if kind == CONTINUATION => return false,
                    None => {
                        // Room for all that may come: a reallocation would leave a copy behind.
                        let room = if flags & END_HEADERS != 0 { length } else { HEAD_BYTES_MAX };
                        let Some(lease) = budget.lease(room) else { return false };
                        half.block = Some(Block {
                            kind,
                            stream,
                            flags,
                            last: flags & END_HEADERS != 0,
                            seen: 0,
                            frames: 0,
                            bytes: Zeroizing::new(Vec::with_capacity(room)),
                            _lease: lease,
                        });
                    }
                }
                half.state = State::Block { left: length };
                if length == 0 {
                    half.state = State::Frame;
                    self.block_frame_over(direction, tally, sink);
                }
            }
            _ if length == 0 => half.state = State::Frame,
            RST_STREAM => half.state = State::Small { kind, stream, left: length },
            _ => half.state = State::Pass(length),
        }
        true
    }

    fn data(&mut self, direction: Direction, stream: u32, data: Piece<'_>, sink: &mut impl Sink) {
        if !self.streams.iter().any(|open| open.id == stream) && !self.adopt(direction, stream, sink) {
            return;
        }
        match direction {
            Direction::Sent => sink.request_data(Key::from(stream), data),
            Direction::Received => sink.response_data(Key::from(stream), data),
        }
    }

    /// Tells of a call that was made before the connection was joined, of which an answer is still coming.
    fn adopt(&mut self, direction: Direction, stream: u32, sink: &mut impl Sink) -> bool {
        let room = self.streams.len() < STREAMS_MAX;
        let Some(earlier) = &mut self.earlier else { return false };
        let before = self.first.is_none_or(|first| stream < first);
        // Servers open streams of even numbers.
        let asked = direction == Direction::Received && stream % 2 == 1 && !self.holed;
        if !(before && asked && room) || earlier.len() >= STREAMS_MAX || earlier.contains(&stream) {
            return false;
        }
        earlier.push(stream);
        self.streams.push(Stream { id: stream, request_ended: true, responded: true });
        sink.unasked(Key::from(stream), Reason::LateAttach);
        sink.response(Key::from(stream), &ResponseHead { status: 0, headers: &[], whole: false });
        true
    }

    /// Some of a DATA frame passed; `left` and `padding` are to come.
    fn data_taken(
        &mut self,
        direction: Direction,
        stream: u32,
        left: usize,
        padding: usize,
        end: bool,
        sink: &mut impl Sink,
    ) {
        if left > 0 {
            self.half(direction).state = State::Data { stream, left, padding, end };
            return;
        }
        // Padding holds nothing, so the end of the stream need not wait for it.
        self.half(direction).state = if padding > 0 { State::Pass(padding) } else { State::Frame };
        if end {
            self.end(direction, stream, End::Complete, sink);
        }
    }

    /// A direction of a stream is over.
    fn end(&mut self, direction: Direction, stream: u32, end: End, sink: &mut impl Sink) {
        let Some(at) = self.streams.iter().position(|open| open.id == stream) else { return };
        let Some(open) = self.streams.get_mut(at) else { return };
        match direction {
            Direction::Sent => {
                if !open.request_ended {
                    open.request_ended = true;
                    sink.request_end(Key::from(stream), end);
                }
            }
            Direction::Received => {
                // What the client still sends of an answered request is not followed.
                if !open.request_ended {
                    sink.request_end(Key::from(stream), End::Cut(Reason::Interrupted));
                }
                sink.response_end(Key::from(stream), end);
                self.streams.swap_remove(at);
            }
        }
    }

    fn reset(&mut self, stream: u32, sink: &mut impl Sink) {
        let responded = self.streams.iter().any(|open| open.id == stream && open.responded);
        let why = if responded { Reason::Interrupted } else { Reason::NoResponse };
        self.end(Direction::Received, stream, End::Cut(why), sink);
    }

    /// A frame of a head block is over; if it was the last, the block is decoded.
    fn block_frame_over(&mut self, direction: Direction, tally: &mut Tally, sink: &mut impl Sink) {
        let half = self.half(direction);
        let Some(mut block) = half.block.take() else { return };
        block.frames += 1;
        let stripped = block.frames > 1 || strip(&mut block);
        if stripped && !block.last {
            half.block = Some(block);
            return;
        }
        let decoded = if stripped { half.decoder.decode(&block.bytes).ok() } else { None };
        let fields = match decoded {
            Some(fields) => {
                tally.metered = tally.metered.saturating_add(block.seen);
                fields
            }
            // Its stream goes on without a head.
            None => {
                tally.lost.add(Reason::Undecodable, block.seen);
                half.decoder.forget();
                Fields { unknown: 1, ..Fields::default() }
            }
        };
        if block.kind == PUSH_PROMISE {
            return;
        }
        match direction {
            Direction::Sent => self.request(block.stream, &fields, sink),
            Direction::Received => self.response(block.stream, &fields, sink),
        }
        if block.flags & END_STREAM != 0 {
            self.end(direction, block.stream, End::Complete, sink);
        }
    }

    fn request(&mut self, stream: u32, fields: &Fields, sink: &mut impl Sink) {
        if stream <= self.newest {
            return; // Trailers, perhaps of a request that was answered before its end.
        }
        if fields.unknown == 0 && !fields.list.iter().any(|(name, _)| name.as_slice() == b":method") {
            return; // Trailers of a request that was not seen.
        }
        self.newest = stream;
        if self.streams.len() >= STREAMS_MAX {
            let oldest = self.streams.first().map(|open| open.id);
            if let Some(oldest) = oldest {
                self.end(Direction::Received, oldest, End::Cut(Reason::LimitReached), sink);
            }
        }
        let pseudo = |name: &str| {
            let found = fields.list.iter().find(|(field, _)| field.as_slice() == name.as_bytes());
            found.and_then(|(_, value)| std::str::from_utf8(value).ok())
        };
        self.first.get_or_insert(stream);
        self.streams.push(Stream { id: stream, request_ended: false, responded: false });
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let head = RequestHead {
            method: pseudo(":method").unwrap_or(""),
            target: pseudo(":path").unwrap_or(""),
            authority: pseudo(":authority"),
            protocol: pseudo(":protocol"),
            headers: plain(fields, &mut headers),
        };
        sink.request(Key::from(stream), &head);
    }

    /// Why the request of a stream was not seen; `None` if it was, or its response was told of already.
    fn unasked(&self, stream: u32) -> Option<Reason> {
        let before = self.first.is_none_or(|first| stream < first);
        match &self.earlier {
            Some(earlier) if before => {
                (earlier.len() < STREAMS_MAX && !earlier.contains(&stream)).then_some(Reason::LateAttach)
            }
            _ => (stream > self.newest).then_some(Reason::Gap),
        }
    }

    fn response(&mut self, stream: u32, fields: &Fields, sink: &mut impl Sink) {
        if stream.is_multiple_of(2) {
            return; // Pushed: nobody asked for it.
        }
        let status = fields.list.iter().find(|(name, _)| name.as_slice() == b":status");
        let status: Option<u16> = status.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
        let status = status.filter(|status| *status >= 100);
        let unasked = self.unasked(stream).filter(|_| self.streams.len() < STREAMS_MAX);
        let known = self.streams.iter_mut().find(|open| open.id == stream);
        match (known, status) {
            (_, Some(100..200)) => return,
            (Some(open), _) if open.responded => {
                let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
                return sink.trailers(Key::from(stream), plain(fields, &mut headers));
            }
            (Some(open), _) => open.responded = true,
            // A response whose request was not seen.
            (None, Some(_)) => {
                let Some(reason) = unasked else { return };
                if let Some(earlier) = &mut self.earlier {
                    earlier.push(stream);
                }
                // Nothing that comes later opens it: it is told of once.
                if stream > self.newest && self.first.is_some() {
                    self.newest = stream;
                }
                self.streams.push(Stream { id: stream, request_ended: true, responded: true });
                sink.unasked(Key::from(stream), reason);
            }
            (None, None) => return,
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        // A status that was never seen in the head decoder's table is most often 200, but that is a guess.
        let status = status.unwrap_or(0);
        let head = ResponseHead { status, headers: plain(fields, &mut headers), whole: fields.unknown == 0 };
        sink.response(Key::from(stream), &head);
    }
}

/// Largest frame without a setting that few use (RFC 9113, 4.2).
const FRAME_USUAL_MAX: usize = 1 << 14;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameHead {
    fn read(bytes: &[u8]) -> FrameHead {
        match *bytes {
            [a, b, c, kind, flags, d, e, f, g, ..] => FrameHead {
                length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
                kind,
                flags,
                stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
            },
            _ => FrameHead { length: 0, kind: u8::MAX, flags: 0, stream: 0 },
        }
    }

    /// Whether a connection may go on with it.
    fn is_plausible(&self) -> bool {
        let FrameHead { length, kind, flags, stream } = *self;
        let connection = stream == 0;
        length <= BELIEVED_MAX
            && match kind {
                DATA => !connection && flags & !(END_STREAM | PADDED) == 0,
                HEADERS => !connection && flags & !(END_STREAM | END_HEADERS | PADDED | PRIORITY) == 0,
                2 => !connection && length == 5,
                RST_STREAM => !connection && length == 4 && flags == 0,
                4 => connection && length % 6 == 0 && flags & !1 == 0,
                PUSH_PROMISE => !connection,
                6 => connection && length == 8 && flags & !1 == 0,
                7 => connection && length >= 8 && flags == 0,
                8 => length == 4 && flags == 0,
                CONTINUATION => !connection && flags & !END_HEADERS == 0,
                _ => false,
            }
    }
}

/// Whether `bytes` can be nothing but frames: heads follow each other where the lengths say.
pub(super) fn begins_with_frames(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut frames = 0;
    while rest.len() >= FRAME_HEAD {
        let head = FrameHead::read(rest);
        if !head.is_plausible() {
            return false;
        }
        frames += 1;
        match rest.get(FRAME_HEAD + head.length..) {
            Some(after) => rest = after,
            // A piece that begins within a head would show a length of which some bytes are others.
            None => return head.length <= FRAME_USUAL_MAX,
        }
    }
    frames > 0
}

/// Takes padding, priority and promised stream from a block of which only the first frame is there; false if they do
/// not fit.
fn strip(block: &mut Block) -> bool {
    let len = block.bytes.len();
    let (mut before, mut after) = (0, 0);
    if block.flags & PADDED != 0 {
        before = 1;
        after = usize::from(block.bytes.first().copied().unwrap_or(0));
    }
    if block.kind == HEADERS && block.flags & PRIORITY != 0 {
        before += 5;
    }
    if block.kind == PUSH_PROMISE {
        before += 4;
    }
    if before + after > len {
        return false;
    }
    block.bytes.truncate(len - after);
    block.bytes.drain(..before);
    true
}

/// The fields that are not pseudo fields.
fn plain<'a, 'b>(fields: &'a Fields, room: &'b mut [Header<'a>; HEADERS_MAX]) -> &'b [Header<'a>] {
    let named = fields.list.iter().filter_map(|(name, value)| {
        let name = std::str::from_utf8(name).ok().filter(|name| !name.starts_with(':'))?;
        Some(Header { name, value })
    });
    let mut len = 0;
    for (slot, field) in room.iter_mut().zip(named) {
        *slot = field;
        len += 1;
    }
    room.get(..len).unwrap_or_default()
}
