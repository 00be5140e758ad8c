//! HTTP/2 (RFC 9113): frames, head blocks, and the streams in them, from both directions of a connection.
//!
//! The key of an exchange is its stream. A hole inside a DATA frame leaves everything in step. Any other hole loses the
//! place: every open stream of that direction has a hole, what the head decoder knew is forgotten, and the direction
//! skips until a piece begins with what can only be a frame. Pushed responses are decoded, because they change the head
//! decoder, and otherwise passed over.

mod block;
mod frame;
mod streams;

use smallvec::SmallVec;

use self::block::Block;
pub(super) use self::frame::begins_with_frames;
use self::frame::{
    BELIEVED_MAX, CONTINUATION, DATA, END_HEADERS, END_STREAM, FRAME_HEAD, FrameHead, HEADERS, PADDED,
    PUSH_PROMISE, RST_STREAM,
};
use self::streams::Stream;
use super::hpack::Decoder;
use super::{End, Key, Sink};
use crate::exchange::Reason;
use crate::flow::{Direction, Piece};
use crate::limits::{Budget, HEAD_BYTES_MAX};
use crate::loss::Tally;
use crate::payload::{Held, Short};

/// What a client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sent: Half,
    received: Half,
    streams: SmallVec<[Stream; 2]>,
    /// The client's newest stream: it opens them in order, so what is older is not opened again.
    newest: u32,
    /// Streams from before it was joined that were told of. `None` if it was seen from its start.
    earlier: Option<Vec<u32>>,
    /// The first stream whose beginning was seen.
    first: Option<u32>,
    /// What came back has a hole: the frame behind one may be no frame, and its stream none.
    holed: bool,
}

/// One direction.
#[derive(Debug)]
struct Half {
    state: State,
    /// An incomplete frame head.
    held: Short<FRAME_HEAD>,
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

impl Half {
    fn new(state: State) -> Half {
        Half { state, held: Short::default(), decoder: Decoder::default(), block: None }
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
            streams: SmallVec::new(),
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
            sink.response_end(key, End::Cut(reason.unwrap_or(stream.unfinished())));
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
        if direction == Direction::Received {
            self.holed = true;
            self.streams.iter_mut().for_each(|stream| stream.holed = true);
        }
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
                    if over {
                        half.state = State::Frame;
                    }
                    self.block_part(
                        direction,
                        bytes.get(..used).unwrap_or_default(),
                        over,
                        budget,
                        tally,
                        sink,
                    );
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
                        let room = if flags & END_HEADERS != 0 { length } else { HEAD_BYTES_MAX };
                        let Some(lease) = budget.lease(room) else { return false };
                        half.block = Some(Block {
                            kind,
                            stream,
                            flags,
                            last: flags & END_HEADERS != 0,
                            seen: 0,
                            begun: false,
                            bytes: Held::new(),
                            room,
                            _lease: lease,
                        });
                    }
                }
                half.state = State::Block { left: length };
                if length == 0 {
                    half.state = State::Frame;
                    self.block_part(direction, &[], true, budget, tally, sink);
                }
            }
            _ if length == 0 => half.state = State::Frame,
            RST_STREAM => half.state = State::Small { kind, stream, left: length },
            _ => half.state = State::Pass(length),
        }
        true
    }

    fn data(&mut self, direction: Direction, stream: u32, data: Piece<'_>, sink: &mut impl Sink) {
        let open = self.streams.iter().find(|open| open.id == stream);
        let asked = open.is_some_and(|open| open.request_ended);
        if open.is_none() && !self.adopt(direction, stream, sink) {
            return;
        }
        match direction {
            Direction::Sent if asked => {}
            Direction::Sent => sink.request_data(Key::from(stream), data),
            Direction::Received => sink.response_data(Key::from(stream), data),
        }
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
}
