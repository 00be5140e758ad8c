//! Streams: opened by requests, answered, ended; and those whose beginning was not seen.

use super::Connection;
use crate::exchange::Reason;
use crate::flow::Direction;
use crate::http::hpack::Fields;
use crate::http::{End, Header, Key, RequestHead, ResponseHead, Sink};
use crate::limits::{HEADERS_MAX, STREAMS_MAX};

/// A stream that is not over.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) request_ended: bool,
    /// The final response head was seen.
    pub(super) responded: bool,
    /// A hole may have taken something of the response.
    pub(super) holed: bool,
}

impl Stream {
    /// Why it has no end that was seen.
    pub(super) fn unfinished(&self) -> Reason {
        match (self.responded, self.holed) {
            (true, _) => Reason::Interrupted,
            (false, true) => Reason::Gap,
            (false, false) => Reason::NoResponse,
        }
    }
}

impl Connection {
    /// Tells of a call that was made before the connection was joined, of which an answer is still coming.
    pub(super) fn adopt(&mut self, direction: Direction, stream: u32, sink: &mut impl Sink) -> bool {
        let room = self.streams.len() < STREAMS_MAX;
        let Some(earlier) = &mut self.earlier else { return false };
        let before = self.first.is_none_or(|first| stream < first);
        // Servers open streams of even numbers.
        let asked = direction == Direction::Received && stream % 2 == 1 && !self.holed;
        if !(before && asked && room) || earlier.len() >= STREAMS_MAX || earlier.contains(&stream) {
            return false;
        }
        earlier.push(stream);
        self.streams.push(Stream { id: stream, request_ended: true, responded: true, holed: false });
        sink.unasked(Key::from(stream), Reason::LateAttach);
        sink.response(Key::from(stream), &ResponseHead { status: 0, headers: &[], whole: false });
        true
    }

    /// A direction of a stream is over.
    pub(super) fn end(&mut self, direction: Direction, stream: u32, end: End, sink: &mut impl Sink) {
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
                let end = match end {
                    End::Complete if !open.responded => End::Cut(open.unfinished()),
                    end => end,
                };
                // What the client still sends of an answered request is not followed.
                if !open.request_ended {
                    sink.request_end(Key::from(stream), End::Cut(Reason::Interrupted));
                }
                sink.response_end(Key::from(stream), end);
                self.streams.swap_remove(at);
            }
        }
    }

    pub(super) fn reset(&mut self, stream: u32, sink: &mut impl Sink) {
        let Some(why) = self.streams.iter().find(|open| open.id == stream).map(Stream::unfinished) else {
            return;
        };
        self.end(Direction::Received, stream, End::Cut(why), sink);
    }

    pub(super) fn request(&mut self, stream: u32, fields: &Fields, sink: &mut impl Sink) {
        if stream <= self.newest || self.earlier.as_ref().is_some_and(|told| told.contains(&stream)) {
            return; // Trailers, perhaps of a request that was answered before its end.
        }
        if fields.unknown == 0 && !fields.iter().any(|(name, _)| name == b":method") {
            return; // Trailers of a request that was not seen.
        }
        self.newest = stream;
        if self.streams.len() >= STREAMS_MAX {
            let oldest = self.streams.first().map(|open| open.id);
            if let Some(oldest) = oldest {
                self.end(Direction::Received, oldest, End::Cut(Reason::LimitReached), sink);
            }
        }
        self.first.get_or_insert(stream);
        self.streams.push(Stream { id: stream, request_ended: false, responded: false, holed: false });
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let head = RequestHead {
            method: fields.get(":method").unwrap_or(""),
            target: fields.get(":path").unwrap_or(""),
            authority: fields.get(":authority"),
            protocol: fields.get(":protocol"),
            headers: plain(fields, &mut headers),
        };
        sink.request(Key::from(stream), &head);
    }

    /// Why the request of a stream was not seen; `None` if it was, or its response was told of already.
    fn unasked(&self, stream: u32) -> Option<Reason> {
        let before = self.first.is_none_or(|first| stream < first);
        match &self.earlier {
            Some(earlier) if earlier.contains(&stream) => None,
            Some(earlier) if before => (earlier.len() < STREAMS_MAX).then_some(Reason::LateAttach),
            _ => (stream > self.newest).then_some(Reason::Gap),
        }
    }

    pub(super) fn response(&mut self, stream: u32, fields: &Fields, sink: &mut impl Sink) {
        if stream.is_multiple_of(2) {
            return; // Pushed: nobody asked for it.
        }
        let status = fields.get(":status").and_then(|text| text.parse::<u16>().ok());
        let status = status.filter(|status| *status >= 100);
        let unasked = self.unasked(stream).filter(|_| self.streams.len() < STREAMS_MAX);
        let known = self.streams.iter_mut().find(|open| open.id == stream);
        match (known, status) {
            (_, Some(100..200)) => return,
            // Trailers, perhaps of a response of which a hole took the head.
            (Some(open), status)
                if open.responded || status.is_none() && (open.holed || fields.unknown == 0) =>
            {
                let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
                return sink.trailers(Key::from(stream), plain(fields, &mut headers));
            }
            (Some(open), _) => open.responded = true,
            // A response whose request was not seen.
            (None, Some(_)) => {
                let Some(reason) = unasked else { return };
                // Nothing that comes later opens it: it is told of once.
                match &mut self.earlier {
                    Some(earlier) if stream < self.newest || self.first.is_none() => earlier.push(stream),
                    _ => self.newest = stream,
                }
                self.streams.push(Stream { id: stream, request_ended: true, responded: true, holed: false });
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

/// The fields that are not pseudo fields.
fn plain<'a, 'b>(fields: &'a Fields, room: &'b mut [Header<'a>; HEADERS_MAX]) -> &'b [Header<'a>] {
    let named = fields.iter().filter_map(|(name, value)| {
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
