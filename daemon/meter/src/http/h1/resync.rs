//! The way back into step: after a hole, the next request or status line.

use memchr::memmem;

use super::{Connection, METHODS, State};
use crate::flow::Direction;
use crate::http::Sink;
use crate::limits::RESYNC_TAIL_MAX;
use crate::loss::Tally;

impl Connection {
    /// Skips to the next message; returns what is left of `bytes` if it begins there.
    pub(super) fn skip<'a>(
        &mut self,
        direction: Direction,
        bytes: &'a [u8],
        tally: &mut Tally,
        sink: &mut impl Sink,
    ) -> &'a [u8] {
        let find = |bytes: &[u8]| match direction {
            Direction::Sent => request_start(bytes),
            Direction::Received => status_start(bytes),
        };
        let tail = match direction {
            Direction::Sent => RESYNC_TAIL_MAX,
            Direction::Received => STATUS_LINE_MAX,
        };
        let half = self.half(direction);
        let State::Skip(reason) = half.state else { return bytes };
        if half.held.is_empty()
            && let Some(at) = find(bytes)
        {
            tally.lost.add(reason, at as u64);
            half.state = State::Head;
            let message = bytes.get(at..).unwrap_or_default();
            match direction {
                Direction::Sent => self.found_request(message.len()),
                Direction::Received if at > 0 => self.report_orphan(sink),
                Direction::Received => {}
            }
            return message;
        }
        // Bounded work at a time, so that what is held stays small.
        let (now, later) = bytes.split_at(bytes.len().min(4 * RESYNC_TAIL_MAX));
        half.held.push(now);
        if let Some(at) = find(&half.held) {
            tally.lost.add(reason, at as u64);
            half.held.drop_front(at);
            half.state = State::Head;
            // The line is complete; the rest of the head goes the ordinary way.
            let from_now = half.held.len().min(now.len());
            let message = half.held.len() + later.len();
            half.held.truncate(half.held.len() - from_now);
            match direction {
                Direction::Sent => self.found_request(message),
                Direction::Received if at > 0 => self.report_orphan(sink),
                Direction::Received => {}
            }
            return bytes.get(now.len() - from_now..).unwrap_or_default();
        }
        let drop = half.held.len().saturating_sub(tail);
        half.held.drop_front(drop);
        tally.lost.add(reason, drop as u64);
        if drop > 0 && direction == Direction::Received {
            self.report_orphan(sink);
        }
        later
    }

    /// A request begins so many bytes before the end of what was sent. If those before it, which were not understood, were
    /// sent since anything came back, they were a request that was not answered.
    fn found_request(&mut self, bytes: usize) {
        let begin = self.asked.saturating_sub(bytes as u64);
        self.ahead |= begin > self.heard.unwrap_or(0);
    }

    /// Bytes came back although no request was seen: said once until the next request.
    pub(super) fn report_orphan(&mut self, sink: &mut impl Sink) {
        if let Some(reason) = self.unseen
            && !self.orphaned
            && self.pending.is_empty()
        {
            self.orphaned = true;
            self.due = Some(reason);
            if self.certain {
                self.report_due(sink);
            }
        }
    }

    pub(super) fn report_due(&mut self, sink: &mut impl Sink) {
        if let Some(reason) = self.due.take() {
            sink.orphan(reason);
        }
    }
}

/// Where the first request line that is whole begins in `bytes`.
fn request_start(bytes: &[u8]) -> Option<usize> {
    for at in memmem::find_iter(bytes, b" HTTP/1.") {
        let Some([b'0' | b'1', b'\r', b'\n']) = bytes.get(at + 8..at + 11) else { continue };
        let line = bytes.get(..at)?;
        // Joined within a request line: it is not whole, the next may be.
        let Some(space) = memchr::memrchr(b' ', line) else { continue };
        let target = line.get(space + 1..)?;
        if target.is_empty() || target.iter().any(|byte| !byte.is_ascii_graphic()) {
            continue;
        }
        let upto = line.get(..=space)?;
        if let Some(method) = METHODS.iter().find(|method| upto.ends_with(method)) {
            return Some(upto.len() - method.len());
        }
    }
    None
}

/// Longest status line that is recognised while skipping.
const STATUS_LINE_MAX: usize = 80;

/// Where the first status line that is whole begins in `bytes`.
fn status_start(bytes: &[u8]) -> Option<usize> {
    memmem::find_iter(bytes, b"HTTP/1.").find(|&at| {
        let line = bytes.get(at..).unwrap_or_default();
        let line = line.get(..line.len().min(STATUS_LINE_MAX)).unwrap_or_default();
        let Some(end) = memmem::find(line, b"\r\n") else { return false };
        match line.get(7..end) {
            Some([b'0' | b'1', b' ', a, b, c, rest @ ..]) => {
                [a, b, c].iter().all(|digit| digit.is_ascii_digit())
                    && rest.first().is_none_or(|byte| *byte == b' ')
                    && rest.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'"')
            }
            _ => false,
        }
    })
}
