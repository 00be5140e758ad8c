//! Requests that a process makes again because they failed: the same target and body within a window.
//!
//! What fails is refused, breaks off or is never answered. The same request again after a good answer is no retry, and
//! neither is one of several that are made side by side. Which of the earlier attempts failed is looked at when an attempt
//! is over: a connection that is given up may be seen to end only after the next one was opened.
//!
//! What is remembered of a request is a keyed hash (SipHash-1-3, 128 bits; the key is random for every start and handed
//! in) beside its process, bounded, and forgotten when the window is over. It never leaves this file.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher13};
use zeroize::Zeroizing;

use super::awaited::Awaited;
use crate::limits::{ATTEMPTS_MAX, RETRY_WINDOW_NS};
use crate::time::Moment;
use crate::workload::ProcessKey;

/// Recent requests of all processes, and answers that are awaited, shared by all pipelines: a retry and an answer may come
/// on another connection. Cheap to clone.
#[derive(Clone)]
pub struct Attempts {
    key: Arc<Zeroizing<[u8; 16]>>,
    recent: Arc<Mutex<Recent>>,
    awaited: Awaited,
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
    requests: HashMap<Request, Known>,
    by_time: BTreeSet<(Moment, Request)>,
}

/// What is known of a request.
#[derive(Clone, Copy)]
struct Known {
    /// When it was heard of last.
    heard: Moment,
    history: History,
}

/// Attempts at a request since it was first made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct History {
    /// When that was: a request that was forgotten has another history.
    since: Moment,
    made: u32,
    /// Attempts that failed since the last that did not, the first 64 one bit each.
    failed: u64,
}

impl History {
    /// The attempts before the one of this number.
    fn before(number: u32) -> u64 {
        1u64.checked_shl(number).map_or(u64::MAX, |bit| bit - 1)
    }
}

impl Attempts {
    /// Nothing remembered. `key` is random for every start.
    pub fn new(key: [u8; 16]) -> Attempts {
        let key = Arc::new(Zeroizing::new(key));
        Attempts { awaited: Awaited::new(Arc::clone(&key)), key, recent: Arc::default() }
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

    /// Counts an attempt; what was known before it.
    fn made(&self, request: Request, now: Moment) -> History {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.forget(now);
        let known = recent.requests.get(&request).map(|known| known.history);
        let before = known.unwrap_or(History { since: now, made: 0, failed: 0 });
        recent.put(request, now, History { made: before.made.saturating_add(1), ..before });
        before
    }

    /// The attempt before which `before` was known is over, well or not: how many before it failed.
    fn over(&self, request: Request, before: History, failed: bool, now: Moment) -> u32 {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let number = before.made;
        let known = recent.requests.get(&request).map(|known| known.history);
        // It may have been forgotten while its answer took long.
        let known = known.filter(|known| known.since == before.since);
        let mut history = known.unwrap_or(History { made: number.saturating_add(1), ..before });
        let earlier = (before.failed | history.failed) & History::before(number);
        let upto = History::before(number.saturating_add(1));
        history.failed = match failed {
            true => history.failed | upto & !History::before(number),
            // What comes next is no retry of these.
            false => history.failed & !upto,
        };
        recent.put(request, now, history);
        earlier.count_ones()
    }
}

impl Recent {
    fn put(&mut self, request: Request, now: Moment, history: History) {
        if let Some(known) = self.requests.insert(request, Known { heard: now, history }) {
            self.by_time.remove(&(known.heard, request));
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
    Sent {
        hash: u128,
        before: History,
    },
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

    /// The body is over. One that was not seen `whole`, and none, is not compared.
    pub(super) fn sent(&mut self, whole: bool, now: Moment) {
        let hash = match &self.state {
            State::Sending { hasher, bytes: 1.. } if whole => hasher.finish128().as_u128(),
            _ => return self.state = State::Unknown,
        };
        self.state = State::Sent { hash, before: self.attempts.made((self.process, hash), now) };
    }

    /// Answers that are to be fetched later.
    pub(super) fn awaited(&self) -> &Awaited {
        &self.attempts.awaited
    }

    /// It is over, well or not, and the window runs from here: how many attempts before it failed. `None` if that is not
    /// known.
    pub(super) fn over(&mut self, failed: bool, now: Moment) -> Option<u32> {
        let State::Sent { hash, before } = self.state else { return None };
        Some(self.attempts.over((self.process, hash), before, failed, now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: [&str; 3] = ["api.example", "POST", "/v1/x"];
    const ONE: ProcessKey = ProcessKey { pid: 1, start_ticks: 5 };

    fn send(attempts: &Attempts, process: ProcessKey, head: [&str; 3], body: &[u8], now: u64) -> Attempt {
        let mut attempt = attempts.begin(process, head);
        attempt.push(body);
        attempt.sent(true, Moment(now));
        attempt
    }

    /// An attempt that fails at once: how many failed before.
    fn fail(attempts: &Attempts, process: ProcessKey, head: [&str; 3], body: &[u8], now: u64) -> Option<u32> {
        send(attempts, process, head, body, now).over(true, Moment(now))
    }

    #[test]
    fn the_same_request_of_the_same_process_within_the_window_is_a_retry() {
        let attempts = Attempts::new([1; 16]);
        let other = ProcessKey { pid: 1, start_ticks: 6 };
        let check = |process, head, body: &str, now: u64, expected| {
            assert_eq!(fail(&attempts, process, head, body.as_bytes(), now), expected, "{body} at {now}");
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

    /// Attempts at one request: each is sent or ends, well or not, in the order of the script.
    #[test]
    fn only_what_failed_before_is_retried() {
        enum Do {
            Send(usize),
            Fail(usize, u32),
            Succeed(usize, u32),
        }
        use Do::{Fail, Send, Succeed};
        let check = |name: &str, script: &[Do]| {
            let attempts = Attempts::new([1; 16]);
            let mut made: Vec<Option<Attempt>> = (0..5).map(|_| None).collect();
            for (at, step) in script.iter().enumerate() {
                let now = at as u64;
                let (number, failed, expected) = match step {
                    Send(number) => {
                        made[*number] = Some(send(&attempts, ONE, HEAD, b"a", now));
                        continue;
                    }
                    Fail(number, expected) => (number, true, expected),
                    Succeed(number, expected) => (number, false, expected),
                };
                let over = made[*number].as_mut().and_then(|made| made.over(failed, Moment(now)));
                assert_eq!(over, Some(*expected), "{name}, step {at}");
            }
        };
        check("again after a good answer", &[Send(0), Succeed(0, 0), Send(1), Succeed(1, 0)]);
        check("side by side", &[Send(0), Send(1), Send(2), Succeed(1, 0), Succeed(2, 0), Succeed(0, 0)]);
        check(
            "until it works, and once more",
            &[Send(0), Fail(0, 0), Send(1), Fail(1, 1), Send(2), Succeed(2, 2), Send(3), Succeed(3, 0)],
        );
        check("given up, which is seen later", &[Send(0), Send(1), Fail(0, 0), Succeed(1, 1)]);
        check(
            "what fails later was not retried by an earlier one",
            &[Send(0), Send(1), Fail(1, 0), Succeed(0, 0)],
        );
        check(
            "another good answer meanwhile",
            &[Send(0), Fail(0, 0), Send(1), Send(2), Succeed(1, 1), Succeed(2, 1), Send(3), Succeed(3, 0)],
        );
        let attempts = Attempts::new([1; 16]);
        for number in 0..200 {
            assert_eq!(fail(&attempts, ONE, HEAD, b"a", number), Some(number.min(64) as u32));
        }
    }

    #[test]
    fn the_window_runs_from_the_end_of_the_answer() {
        let attempts = Attempts::new([1; 16]);
        let mut attempt = send(&attempts, ONE, HEAD, b"a", 0);
        assert_eq!(attempt.over(true, Moment(3 * RETRY_WINDOW_NS)), Some(0));
        assert_eq!(fail(&attempts, ONE, HEAD, b"a", 4 * RETRY_WINDOW_NS), Some(1));
        // Forgotten while a later attempt took its time.
        let mut slow = send(&attempts, ONE, HEAD, b"a", 4 * RETRY_WINDOW_NS + 1);
        send(&attempts, ONE, HEAD, b"b", 6 * RETRY_WINDOW_NS);
        assert_eq!(slow.over(true, Moment(7 * RETRY_WINDOW_NS)), Some(2));
        assert_eq!(fail(&attempts, ONE, HEAD, b"a", 7 * RETRY_WINDOW_NS), Some(3));
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
            attempt.sent(whole, Moment(1));
            assert_eq!(attempt.over(true, Moment(2)), None);
        }
        assert_eq!(fail(&attempts, ONE, HEAD, b"a", 3), Some(0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let attempts = Attempts::new([1; 16]);
        for number in 0..2 * ATTEMPTS_MAX as u64 {
            fail(&attempts, ONE, HEAD, &number.to_le_bytes(), number);
        }
        let recent = attempts.recent.lock().expect("no panic while it was held");
        assert_eq!((recent.requests.len(), recent.by_time.len()), (ATTEMPTS_MAX, ATTEMPTS_MAX));
        drop(recent);
        let oldest = fail(&attempts, ONE, HEAD, &0u64.to_le_bytes(), 3 * ATTEMPTS_MAX as u64);
        assert_eq!(oldest, Some(0));
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
            fail(&attempts, ONE, HEAD, &body, 1);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.sort_unstable();
            let mut attempt = attempts.begin(ONE, HEAD);
            let mut from = 0;
            for upto in cuts.into_iter().chain([body.len()]) {
                attempt.push(&body[from..upto]);
                from = upto;
            }
            attempt.sent(true, Moment(2));
            prop_assert_eq!(attempt.over(true, Moment(2)), Some(1));
            let mut longer = body.clone();
            longer.push(0);
            prop_assert_eq!(fail(&attempts, ONE, HEAD, &longer, 3), Some(0));
        }
    }
}
