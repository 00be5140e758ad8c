//! Frames: what their heads say, and what can be nothing else.

use crate::flow::Direction;

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PONG: u8 = 10;

/// Head of a frame: two bytes, eight of length, four of mask.
pub(super) const HEAD_MAX: usize = 14;

/// Payload of a control frame (RFC 6455, 5.5).
pub(super) const CONTROL_MAX: u64 = 125;

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) last: bool,
    pub(super) deflated: bool,
    pub(super) kind: u8,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) length: u64,
    /// Bytes of the head itself.
    pub(super) size: usize,
}

/// What the first bytes of a frame say.
pub(super) enum Read {
    /// Its head is not whole.
    More,
    Frame(FrameHead),
    /// No frame begins so.
    Wrong,
}

impl FrameHead {
    pub(super) fn read(bytes: &[u8]) -> Read {
        let [first, second, rest @ ..] = bytes else { return Read::More };
        let kind = first & 0x0f;
        // The bits of extensions that are not known, and kinds that are not.
        if first & 0x30 != 0 || !matches!(kind, CONTINUATION..=BINARY | CLOSE..=PONG) {
            return Read::Wrong;
        }
        let (length, after) = match (second & 0x7f, rest) {
            (126, [a, b, after @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), after),
            (127, [a, b, c, d, e, f, g, h, after @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), after)
            }
            (126 | 127, _) => return Read::More,
            (short, after) => (u64::from(short), after),
        };
        // The shortest form is the only one, and no length has its highest bit.
        let lawful = match second & 0x7f {
            126 => length > 125,
            127 => length > 0xffff && length >> 63 == 0,
            _ => true,
        };
        if !lawful {
            return Read::Wrong;
        }
        let mut size = bytes.len() - after.len();
        let mask = match (second & 0x80, after) {
            (0, _) => None,
            (_, [a, b, c, d, ..]) => {
                size += 4;
                Some([*a, *b, *c, *d])
            }
            _ => return Read::More,
        };
        Read::Frame(FrameHead {
            last: first & 0x80 != 0,
            deflated: first & 0x40 != 0,
            kind,
            mask,
            length,
            size,
        })
    }
}

/// Whether `bytes` can be nothing but frames of `direction` of which one begins a message that can be read without knowing
/// what was agreed on.
pub(crate) fn begins_with_messages(direction: Direction, bytes: &[u8]) -> bool {
    only_frames(direction, true, bytes) == Some(true)
}

/// Whether `bytes` can be nothing but frames of `direction`, whatever was agreed on.
pub(crate) fn is_nothing_but_frames(direction: Direction, bytes: &[u8]) -> bool {
    only_frames(direction, true, bytes).is_some()
}

/// Whether a client's frame can begin with `bytes`, and no request: of a method no byte has its highest bit, of a frame, which
/// is masked, the second has.
pub(crate) fn begins_no_request(bytes: &[u8]) -> bool {
    let (Some(first), second) = (bytes.first(), bytes.get(1)) else { return false };
    let lawful = matches!(FrameHead::read(&[*first, 0x80, 0, 0, 0, 0]), Read::Frame(_));
    lawful && !second.unwrap_or(first).is_ascii()
}

/// Whether `bytes` can be nothing but frames: heads follow each other where the lengths say, to the end exactly, or into
/// a message that begins like JSON; and if so, whether one of them begins such a message.
pub(super) fn only_frames(direction: Direction, deflate: bool, mut bytes: &[u8]) -> Option<bool> {
    let (mut frames, mut readable) = (0, false);
    while !bytes.is_empty() {
        let Read::Frame(frame) = FrameHead::read(bytes) else { return None };
        let masked = frame.mask.is_some() == (direction == Direction::Sent);
        let control = frame.kind >= CLOSE;
        let begins = matches!(frame.kind, TEXT | BINARY);
        let lawful = masked
            && (!frame.deflated || (deflate && begins))
            && (!control || (frame.last && frame.length <= CONTROL_MAX))
            // The middle of a message says nothing without its beginning.
            && (frames > 0 || frame.kind != CONTINUATION);
        if !lawful {
            return None;
        }
        frames += 1;
        let payload = bytes.get(frame.size..).unwrap_or_default();
        let json = begins && !frame.deflated && frame.length > 0 && is_json(payload, frame.mask);
        readable |= json;
        match usize::try_from(frame.length).ok().and_then(|length| payload.get(length..)) {
            Some(rest) => bytes = rest,
            None => return json.then_some(readable),
        }
    }
    (frames > 0).then_some(readable)
}

/// Whether a payload begins as an object does.
fn is_json(payload: &[u8], mask: Option<[u8; 4]>) -> bool {
    let mut plain = payload.iter().zip(mask.unwrap_or_default()).map(|(byte, mask)| byte ^ mask);
    plain.next() == Some(b'{')
        && plain.next().is_none_or(|next| matches!(next, b'"' | b'}' | b' ' | b'\t' | b'\r' | b'\n'))
}
