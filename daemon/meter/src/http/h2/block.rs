//! Head blocks: put together from their frames, decoded, and handed on as requests and responses.

use std::ops::Range;

use super::Connection;
use super::frame::{END_STREAM, HEADERS, PADDED, PRIORITY, PUSH_PROMISE};
use crate::exchange::Reason;
use crate::flow::Direction;
use crate::http::hpack::Fields;
use crate::http::{End, Sink};
use crate::limits::{Budget, Lease};
use crate::loss::Tally;
use crate::payload::Held;

/// A head block in progress. Contains credentials.
pub(super) struct Block {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) flags: u8,
    /// The frame in progress is the block's last.
    pub(super) last: bool,
    /// Bytes of all its frames.
    pub(super) seen: u64,
    /// A frame of it is over.
    pub(super) begun: bool,
    /// What came of it, unless it comes in one piece.
    pub(super) bytes: Held,
    /// Room for all that may come.
    pub(super) room: usize,
    pub(super) _lease: Lease,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Block {
    /// Where in its first frame the block lies: without padding, priority and promised stream. `None` if they do not
    /// fit.
    fn inner(&self, frame: &[u8]) -> Option<Range<usize>> {
        let (mut before, mut after) = (0, 0);
        if self.flags & PADDED != 0 {
            before = 1;
            after = usize::from(frame.first().copied().unwrap_or(0));
        }
        if self.kind == HEADERS && self.flags & PRIORITY != 0 {
            before += 5;
        }
        if self.kind == PUSH_PROMISE {
            before += 4;
        }
        let end = frame.len().checked_sub(after)?;
        (before <= end).then_some(before..end)
    }
}

impl Connection {
    /// Takes a part of a head block; `over` if its frame ends with it. After the last frame the block is decoded, where
    /// it lies if it came in one piece.
    pub(super) fn block_part(
        &mut self,
        direction: Direction,
        part: &[u8],
        over: bool,
        budget: &Budget,
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) {
        let half = self.half(direction);
        let Some(mut block) = half.block.take() else { return };
        block.seen += part.len() as u64;
        let at_once = over && block.last && !block.begun && block.bytes.is_empty();
        if !at_once {
            block.bytes.grow(block.room);
            block.bytes.push(part);
            if !over {
                half.block = Some(block);
                return;
            }
        }
        let bytes = if at_once { part } else { &block.bytes };
        let inner = if block.begun { Some(0..bytes.len()) } else { block.inner(bytes) };
        block.begun = true;
        if let (Some(inner), false) = (&inner, block.last) {
            block.bytes.truncate(inner.end);
            block.bytes.drop_front(inner.start);
            half.block = Some(block);
            return;
        }
        let bytes = if at_once { part } else { &block.bytes };
        let mut fields = Fields::default();
        let decoded = inner
            .and_then(|inner| bytes.get(inner))
            .is_some_and(|bytes| half.decoder.decode(bytes, &mut fields, budget).is_ok());
        if decoded {
            tally.metered = tally.metered.saturating_add(block.seen);
        } else {
            // Its stream goes on without a head.
            tally.lost.add(Reason::Undecodable, block.seen);
            half.decoder.forget();
            fields = Fields::unknown();
        }
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
}
