//! Answers that were accepted and not given at once: what they used is told when they are fetched, as often as one
//! likes, and counts the first time.
//!
//! Source: "Background mode" of OpenAI's documentation; Replicate's and Gemini's interactions go the same way. What is
//! remembered of an answer is a keyed hash (SipHash-1-3, 128 bits) of its provider and its id, bounded, and forgotten
//! after [`AWAITED_NS`]. It never leaves this file.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher13};
use zeroize::Zeroizing;

use crate::limits::{AWAITED_MAX, AWAITED_NS};
use crate::time::Moment;

/// Answers that are awaited, of all pipelines: one may be fetched over another connection, by another process. Cheap to
/// clone.
#[derive(Clone)]
pub(super) struct Awaited {
    key: Arc<Zeroizing<[u8; 16]>>,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    since: HashMap<u128, Moment>,
    by_time: BTreeSet<(Moment, u128)>,
}

impl Awaited {
    pub(super) fn new(key: Arc<Zeroizing<[u8; 16]>>) -> Awaited {
        Awaited { key, table: Arc::default() }
    }

    /// The answer of this id is to be fetched later.
    pub(super) fn remember(&self, provider: &str, id: u128, now: Moment) {
        let answer = self.hash(provider, id);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget(now);
        if table.since.contains_key(&answer) {
            return;
        }
        table.since.insert(answer, now);
        table.by_time.insert((now, answer));
        if table.since.len() > AWAITED_MAX
            && let Some((_, oldest)) = table.by_time.pop_first()
        {
            table.since.remove(&oldest);
        }
    }

    /// The answer of this id was fetched: whether it was awaited, and it is no longer.
    pub(super) fn arrives(&self, provider: &str, id: u128, now: Moment) -> bool {
        let answer = self.hash(provider, id);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget(now);
        let Some(since) = table.since.remove(&answer) else { return false };
        table.by_time.remove(&(since, answer));
        true
    }

    fn hash(&self, provider: &str, id: u128) -> u128 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(&id.to_le_bytes());
        hasher.write(provider.as_bytes());
        hasher.finish128().as_u128()
    }
}

impl Table {
    fn forget(&mut self, now: Moment) {
        while let Some((since, answer)) = self.by_time.first().copied()
            && now.since(since) > AWAITED_NS
        {
            self.by_time.pop_first();
            self.since.remove(&answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaited() -> Awaited {
        Awaited::new(Arc::new(Zeroizing::new([1; 16])))
    }

    #[test]
    fn an_answer_arrives_once() {
        let awaited = awaited();
        let arrives = |provider, id, now, expected| {
            assert_eq!(awaited.arrives(provider, id, Moment(now)), expected, "{provider} {id} at {now}");
        };
        arrives("openai", 7, 1, false);
        awaited.remember("openai", 7, Moment(2));
        awaited.remember("openai", 7, Moment(3));
        arrives("azure", 7, 4, false);
        arrives("openai", 8, 4, false);
        arrives("openai", 7, 4, true);
        arrives("openai", 7, 5, false);
        awaited.remember("openai", 9, Moment(10));
        arrives("openai", 9, 11 + AWAITED_NS, false);
    }

    #[test]
    fn what_is_awaited_is_bounded() {
        let awaited = awaited();
        for id in 0..2 * AWAITED_MAX as u64 {
            awaited.remember("openai", id.into(), Moment(id));
        }
        let table = awaited.table.lock().expect("no panic while it was held");
        assert_eq!((table.since.len(), table.by_time.len()), (AWAITED_MAX, AWAITED_MAX));
        drop(table);
        let last = u128::from(2 * AWAITED_MAX as u64 - 1);
        assert!(awaited.arrives("openai", last, Moment(last as u64)));
        assert!(!awaited.arrives("openai", 0, Moment(last as u64)), "the oldest made room");
    }
}
