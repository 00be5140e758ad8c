//! `permessage-deflate` (RFC 7692): what a handshake agrees on, and undoing it.

use flate2::Decompress;

use crate::exchange::Reason;
use crate::http::body::{forget, inflate, run_through};
use crate::http::{Header, header};
use crate::limits::{Budget, EXPANSION_FLOOR, EXPANSION_RATIO_MAX, INFLATE_BYTES, Lease};

/// What the handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `permessage-deflate`.
    pub(super) deflate: bool,
    /// The client's and the server's window begin anew with each message.
    pub(super) fresh: [bool; 2],
}

impl Options {
    /// What reads whatever was agreed on.
    pub const UNKNOWN: Options = Options { deflate: true, fresh: [false; 2] };

    /// What the response that switches protocols agrees to; `None` if not to a WebSocket.
    pub fn of(headers: &[Header<'_>]) -> Option<Options> {
        header(headers, "upgrade").filter(|to| to.eq_ignore_ascii_case("websocket"))?;
        Some(Options::agreed(headers))
    }

    /// What a response agrees to that begins a WebSocket.
    pub fn agreed(headers: &[Header<'_>]) -> Options {
        let agreed =
            headers.iter().filter(|field| field.name.eq_ignore_ascii_case("sec-websocket-extensions"));
        let deflate = agreed
            .filter_map(|field| std::str::from_utf8(field.value).ok())
            .flat_map(|value| value.split(','))
            .map(|extension| extension.split(';').map(str::trim))
            .find_map(|mut words| {
                words
                    .next()
                    .is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate"))
                    .then_some(words)
            });
        let mut options = Options { deflate: deflate.is_some(), fresh: [false; 2] };
        for parameter in deflate.into_iter().flatten() {
            // An inflater with the largest window reads what a smaller one wrote.
            match parameter.to_ascii_lowercase().as_str() {
                "client_no_context_takeover" => options.fresh[0] = true,
                "server_no_context_takeover" => options.fresh[1] = true,
                _ => {}
            }
        }
        options
    }
}

/// What ends the deflated data of a message and is not sent (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// An inflater that lives as long as its window is needed.
pub(super) struct Inflater {
    state: Decompress,
    taken: u64,
    given: u64,
    /// The data says that it is over; what follows begins anew.
    ended: bool,
    _lease: Lease,
}

impl std::fmt::Debug for Inflater {
    /// Its counts only: the window holds content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Inflater {
    /// One with an empty window; `None` if there is no room for it.
    pub(super) fn new(budget: &Budget) -> Option<Inflater> {
        let lease = budget.lease(INFLATE_BYTES)?;
        Some(Inflater { state: Decompress::new(false), taken: 0, given: 0, ended: false, _lease: lease })
    }

    /// Hands what `bytes` of a message's payload inflate to on to `out`.
    ///
    /// # Errors
    /// The reason why nothing more can be inflated.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Reason> {
        let Inflater { state, taken, given, ended, .. } = self;
        *taken = taken.saturating_add(bytes.len() as u64);
        let mut step = |bytes: &[u8], buffer: &mut [u8]| {
            if *ended {
                if bytes.is_empty() {
                    return Ok((0, 0));
                }
                // A message may go on behind a last block (RFC 7692, 7.2.3.4).
                state.reset(false);
                *ended = false;
            }
            let (used, made, over) = inflate(state, bytes, buffer)?;
            *ended = over;
            Ok((used, made))
        };
        run_through(bytes, &mut step, &mut |part| {
            *given = given.saturating_add(part.len() as u64);
            if *given > EXPANSION_FLOOR && *given / EXPANSION_RATIO_MAX > *taken {
                return Err(Reason::LimitReached);
            }
            out(part);
            Ok(())
        })
    }

    /// Hands on what is left of a message that is over.
    ///
    /// # Errors
    /// The reason why it cannot be inflated.
    pub(super) fn end(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), Reason> {
        // Data that is over has its end already.
        if self.ended { Ok(()) } else { self.push(&TAIL, out) }
    }

    /// Whether the next message begins with an empty window, whatever was agreed on.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }
}

impl Drop for Inflater {
    /// The window holds the last of the messages.
    fn drop(&mut self) {
        forget(&mut self.state, self.given);
    }
}
