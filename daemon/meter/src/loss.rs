//! Why bytes went unmetered. The law: bytes seen = bytes metered + bytes lost, by reason.

use crate::exchange::Reason;

/// Reasons and how many bytes each took. A handful at most, so a list beats a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(Vec<(Reason, u64)>);

impl Losses {
    /// Adds `bytes` lost for `reason`.
    pub fn add(&mut self, reason: Reason, bytes: u64) {
        if bytes == 0 {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.0.push((reason, bytes)),
        }
    }

    /// Bytes lost for all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// What was lost, and empties it.
    pub fn drain(&mut self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        self.0.drain(..)
    }

    /// True if nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What became of the bytes of one or more streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes that the session moved, holes included.
    pub seen: u64,
    /// Bytes that were understood.
    pub metered: u64,
    /// Bytes that were not.
    pub lost: Losses,
}

impl Tally {
    /// Whether every byte is accounted for. Holds whenever no head is incomplete, always after the end.
    pub fn is_conserved(&self) -> bool {
        self.seen == self.metered.saturating_add(self.lost.total())
    }
}
