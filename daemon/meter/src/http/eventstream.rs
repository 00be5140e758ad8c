//! AWS event stream framing: messages with headers, a payload and two checksums, cut anywhere.
//!
//! A message is held until its checksum is good, up to [`EVENT_MESSAGE_MAX`]: none of the messages that matter is
//! larger. A larger one is passed over. A wrong checksum or a hole loses the place for good.

use flate2::Crc;

use crate::limits::EVENT_MESSAGE_MAX;
use crate::payload::Held;

/// A message whose checksums are good.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// Kind: `event`, `exception` or `error`.
    pub kind: &'a str,
    /// Type of the event or exception.
    pub name: &'a str,
    /// Payload.
    pub payload: &'a [u8],
}

/// Place in a stream of messages.
#[derive(Debug, Default)]
pub struct EventStream {
    /// The message in progress.
    held: Held,
    /// Bytes of a message too large to hold that are still to come.
    passing: usize,
    broken: bool,
}

/// Total length, length of headers, checksum of both.
const PRELUDE: usize = 12;
const CHECKSUM: usize = 4;

/// Whether a body that begins with `bytes` may be an event stream: messages have less than 16 MiB, and no text begins so.
pub fn may_begin(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0)
}

impl EventStream {
    /// Takes the next bytes and hands whole messages to `take`.
    pub fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(Message<'_>)) {
        while !bytes.is_empty() && !self.broken {
            if self.passing > 0 {
                let passed = self.passing.min(bytes.len());
                self.passing -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            let wanted = self.wanted();
            let missing = wanted.saturating_sub(self.held.len()).min(bytes.len());
            let (now, later) = bytes.split_at(missing);
            self.held.push(now);
            bytes = later;
            if self.held.len() == PRELUDE && wanted == PRELUDE {
                self.prelude();
            } else if self.held.len() == wanted && wanted > PRELUDE {
                self.message(take);
                self.held.clear();
            }
        }
    }

    /// Bytes are missing.
    pub fn gap(&mut self) {
        self.broken = true;
    }

    /// Whether the place is lost.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Bytes to hold before the next look.
    fn wanted(&self) -> usize {
        if self.held.len() < PRELUDE { PRELUDE } else { length(&self.held, 0) }
    }

    fn prelude(&mut self) {
        let (total, headers) = (length(&self.held, 0), length(&self.held, 4));
        let good = checksum(self.held.get(..8)) == length(&self.held, 8)
            && total >= PRELUDE + CHECKSUM
            && headers <= total - PRELUDE - CHECKSUM;
        if !good {
            self.broken = true;
        } else if total > EVENT_MESSAGE_MAX {
            self.passing = total - PRELUDE;
            self.held.clear();
        }
    }

    fn message(&mut self, take: &mut dyn FnMut(Message<'_>)) {
        let held = &self.held;
        let end = held.len().saturating_sub(CHECKSUM);
        if checksum(held.get(..end)) != length(held, end) {
            self.broken = true;
            return;
        }
        let payload = PRELUDE + length(held, 4);
        let mut headers = held.get(PRELUDE..payload).unwrap_or_default();
        let (mut kind, mut event, mut exception) = ("event", "", "");
        while let Some((name, value, rest)) = header(headers) {
            match name {
                b":message-type" => kind = value,
                b":event-type" => event = value,
                b":exception-type" | b":error-code" => exception = value,
                _ => {}
            }
            headers = rest;
        }
        let name = if exception.is_empty() { event } else { exception };
        take(Message { kind, name, payload: held.get(payload..end).unwrap_or_default() });
    }
}

/// The first header in `bytes`, its value if it is text, and what follows.
fn header(bytes: &[u8]) -> Option<(&[u8], &str, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (kind, rest) = rest.split_first()?;
    let size = match kind {
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        9 => 16,
        6 | 7 => {
            let (size, rest) = rest.split_at_checked(2)?;
            let size = size.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let (value, rest) = rest.split_at_checked(size)?;
            return Some((name, std::str::from_utf8(value).unwrap_or(""), rest));
        }
        _ => return None,
    };
    Some((name, "", rest.get(size..)?))
}

/// The 32-bit number at `at`.
fn length(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |four| four.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}

fn checksum(bytes: Option<&[u8]>) -> usize {
    let mut crc = Crc::new();
    crc.update(bytes.unwrap_or_default());
    usize::try_from(crc.sum()).unwrap_or(usize::MAX)
}
