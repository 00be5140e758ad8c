//! Requests that a process makes again: the same target and body within a window.
//!
//! What is remembered of a request is a keyed hash (SipHash-1-3, 128 bits; the key is random for every start and handed
//! in) beside its process, bounded, and forgotten when the window is over. It never leaves this file.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher13};
use zeroize::Zeroizing;

use crate::limits::{ATTEMPTS_MAX, RETRY_WINDOW_NS};
use crate::time::Moment;
use crate::workload::ProcessKey;

/// Recent requests of all processes, shared by all pipelines: a retry may come on another connection. Cheap to clone.
#[derive(Clone)]
pub struct Attempts {
    key: Arc<Zeroizing<[u8; 16]>>,
    recent: Arc<Mutex<Recent>>,
}

impl std::fmt::Debug for Attempts {
    /// Never the key or a hash.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attempts")
    }
}

/// Process and hash of a request.
type Request = (ProcessKey, u128);

#[derive(Default)]
struct Recent {
    /// When it was heard of last, and how often it was made.
    requests: HashMap<Request, (Moment, u32)>,
    by_time: BTreeSet<(Moment, Request)>,
}

impl Attempts {
    /// Nothing remembered. `key` is random for every start.
    pub fn new(key: [u8; 16]) -> Attempts {
        Attempts { key: Arc::new(Zeroizing::new(key)), recent: Arc::default() }
    }

    /// A request of `process` that begins with these words: host, method, target.
    pub(super) fn begin(&self, process: ProcessKey, head: [&str; 3]) -> Attempt {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for part in head {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part.as_bytes());
        }
        Attempt { process, state: State::Sending { hasher, bytes: 0 }, attempts: self.clone() }
    }

    /// Counts the request; how often it was made before.
    fn made(&self, request: Request, now: Moment) -> u32 {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.forget(now);
        let before = recent.requests.get(&request).map_or(0, |(_, made)| *made);
        recent.put(request, now, before.saturating_add(1));
        before
    }

    /// The request is still under way.
    fn heard(&self, request: Request, now: Moment) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been forgotten while its answer took long.
        let made = recent.requests.get(&request).map_or(1, |(_, made)| *made);
        recent.put(request, now, made);
    }
}

impl Recent {
    fn put(&mut self, request: Request, now: Moment, made: u32) {
        if let Some((heard, _)) = self.requests.insert(request, (now, made)) {
            self.by_time.remove(&(heard, request));
        }
        self.by_time.insert((now, request));
        if self.requests.len() > ATTEMPTS_MAX
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.requests.remove(&oldest);
        }
    }

    fn forget(&mut self, now: Moment) {
        while let Some((heard, request)) = self.by_time.first().copied()
            && now.since(heard) > RETRY_WINDOW_NS
        {
            self.by_time.pop_first();
            self.requests.remove(&request);
        }
    }
}

/// One request while it is made.
pub(super) struct Attempt {
    process: ProcessKey,
    state: State,
    attempts: Attempts,
}

enum State {
    Sending {
        hasher: SipHasher13,
        bytes: u64,
    },
    Sent(u128),
    /// Its body was not seen whole, or it has none.
    Unknown,
}

impl std::fmt::Debug for Attempt {
    /// Never the key or a hash.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attempt")
    }
}

impl Attempt {
    /// Takes the next bytes of the body.
    pub(super) fn push(&mut self, body: &[u8]) {
        if let State::Sending { hasher, bytes } = &mut self.state {
            hasher.write(body);
            *bytes = bytes.saturating_add(body.len() as u64);
        }
    }

    /// Bytes of the body are missing.
    pub(super) fn gap(&mut self) {
        self.state = State::Unknown;
    }

    /// The body is over: how often the same request was made before; `None` if it has no body or it was not seen whole.
    pub(super) fn sent(&mut self, whole: bool, now: Moment) -> Option<u32> {
        let hash = match &self.state {
            State::Sending { hasher, bytes: 1.. } if whole => hasher.finish128().as_u128(),
            _ => {
                self.state = State::Unknown;
                return None;
            }
        };
        self.state = State::Sent(hash);
        Some(self.attempts.made((self.process, hash), now))
    }

    /// Its response is over, however it ended: the window runs from here.
    pub(super) fn over(&mut self, now: Moment) {
        if let State::Sent(hash) = self.state {
            self.attempts.heard((self.process, hash), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: [&str; 3] = ["api.example", "POST", "/v1/x"];
    const ONE: ProcessKey = ProcessKey { pid: 1, start_ticks: 5 };

    fn send(attempts: &Attempts, process: ProcessKey, head: [&str; 3], body: &[u8], now: u64) -> Option<u32> {
        let mut attempt = attempts.begin(process, head);
        attempt.push(body);
        attempt.sent(true, Moment(now))
    }

    #[test]
    fn the_same_request_of_the_same_process_within_the_window_is_a_retry() {
        let attempts = Attempts::new([1; 16]);
        let other = ProcessKey { pid: 1, start_ticks: 6 };
        let check = |process, head, body: &str, now: u64, expected| {
            assert_eq!(send(&attempts, process, head, body.as_bytes(), now), expected, "{body} at {now}");
        };
        check(ONE, HEAD, "a", 10, Some(0));
        check(ONE, HEAD, "a", 20, Some(1));
        check(ONE, HEAD, "b", 30, Some(0));
        check(other, HEAD, "a", 40, Some(0));
        check(ONE, ["api.example", "POST", "/v1/y"], "a", 50, Some(0));
        check(ONE, ["api.exampl", "ePOST", "/v1/x"], "a", 60, Some(0));
        check(ONE, HEAD, "a", 20 + RETRY_WINDOW_NS, Some(2));
        check(ONE, HEAD, "a", 21 + 2 * RETRY_WINDOW_NS, Some(0));
        check(ONE, HEAD, "", 70, None);
    }

    #[test]
    fn the_window_runs_from_the_end_of_the_answer() {
        let attempts = Attempts::new([1; 16]);
        let mut attempt = attempts.begin(ONE, HEAD);
        attempt.push(b"a");
        assert_eq!(attempt.sent(true, Moment(0)), Some(0));
        attempt.over(Moment(3 * RETRY_WINDOW_NS));
        assert_eq!(send(&attempts, ONE, HEAD, b"a", 4 * RETRY_WINDOW_NS), Some(1));
    }

    #[test]
    fn what_was_not_seen_whole_is_not_compared() {
        let attempts = Attempts::new([1; 16]);
        for (gap, whole) in [(true, true), (false, false)] {
            let mut attempt = attempts.begin(ONE, HEAD);
            attempt.push(b"a");
            if gap {
                attempt.gap();
            }
            assert_eq!(attempt.sent(whole, Moment(1)), None);
            attempt.over(Moment(2));
        }
        assert_eq!(send(&attempts, ONE, HEAD, b"a", 3), Some(0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let attempts = Attempts::new([1; 16]);
        for number in 0..2 * ATTEMPTS_MAX as u64 {
            send(&attempts, ONE, HEAD, &number.to_le_bytes(), number);
        }
        let recent = attempts.recent.lock().expect("no panic while it was held");
        assert_eq!((recent.requests.len(), recent.by_time.len()), (ATTEMPTS_MAX, ATTEMPTS_MAX));
        drop(recent);
        assert_eq!(
            send(&attempts, ONE, HEAD, &0u64.to_le_bytes(), 3 * ATTEMPTS_MAX as u64),
            Some(0),
            "the oldest"
        );
        assert_eq!(format!("{attempts:?}"), "Attempts");
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_wherever_it_is_cut(
            body in prop::collection::vec(any::<u8>(), 1..200),
            cuts in prop::collection::vec(0usize..200, 0..8),
            key: [u8; 16],
        ) {
            let attempts = Attempts::new(key);
            send(&attempts, ONE, HEAD, &body, 1);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.sort_unstable();
            let mut attempt = attempts.begin(ONE, HEAD);
            let mut from = 0;
            for upto in cuts.into_iter().chain([body.len()]) {
                attempt.push(&body[from..upto]);
                from = upto;
            }
            prop_assert_eq!(attempt.sent(true, Moment(2)), Some(1));
            let mut longer = body.clone();
            longer.push(0);
            prop_assert_eq!(send(&attempts, ONE, HEAD, &longer, 3), Some(0));
        }
    }
}
