//! The choices of an answer: each says at most once why it ended, however often events repeat it.

use smallvec::SmallVec;

use crate::exchange::{Word, Words};
use crate::limits::FINISH_REASONS_MAX;

/// Why the choices ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    /// Reasons in order of appearance, each with the place of its choice. Only the last may have none yet: the choice in
    /// progress has not said which one it is.
    ended: SmallVec<[(Option<u64>, Word); 1]>,
    /// What the choice in progress says of its place.
    index: Option<u64>,
    /// Its place in the list.
    position: u64,
    /// Choices of the list that began.
    begun: u64,
}

impl Choices {
    /// The choices of an answer, or of one event of it, begin.
    pub(super) fn list(&mut self) {
        self.begun = 0;
    }

    /// A choice begins.
    pub(super) fn begin(&mut self) {
        self.settle();
        self.index = None;
        self.position = self.begun;
        self.begun = self.begun.saturating_add(1);
    }

    /// Its place, if it says so.
    pub(super) fn at(&mut self, index: Option<u64>) {
        self.index = index.or(self.index);
    }

    /// Providers tell the reason of a choice again in later events, and some another one: the last is in force.
    pub(super) fn end(&mut self, word: Word) {
        self.settle();
        if self.ended.len() < FINISH_REASONS_MAX {
            self.ended.push((None, word));
        }
    }

    /// The choice in progress has said all: its reason takes the place of an earlier one.
    fn settle(&mut self) {
        let place = Some(self.index.unwrap_or(self.position));
        let Some((None, word)) = self.ended.last().cloned() else { return };
        self.ended.pop();
        match self.ended.iter_mut().find(|(other, _)| *other == place) {
            Some((_, earlier)) => *earlier = word,
            None => self.ended.push((place, word)),
        }
    }

    /// Why each ended, in order of appearance.
    pub(super) fn reasons(mut self) -> Words {
        self.settle();
        self.ended.into_iter().map(|(_, word)| word).collect()
    }
}
