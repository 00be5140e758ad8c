//! Frames: what their heads say, and what can be one.

pub(super) const FRAME_HEAD: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITY: u8 = 0x20;

/// Largest frame that is believed while looking for the next one; larger ones need a setting that few use.
pub(super) const BELIEVED_MAX: usize = 1 << 18;

/// Largest frame without a setting that few use (RFC 9113, 4.2).
const FRAME_USUAL_MAX: usize = 1 << 14;

/// Streams that are believed in while looking for the next frame. Of a piece that begins within a head, bytes of its stream
/// and of the payload stand where a stream should: they show one that only a connection of eight million requests has.
const STREAM_BELIEVED_MAX: u32 = 1 << 24;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    pub(super) fn read(bytes: &[u8]) -> FrameHead {
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
            && stream < STREAM_BELIEVED_MAX
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
pub(in crate::http) fn begins_with_frames(bytes: &[u8]) -> bool {
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
