//! Lists that tell of what a count is made up: by modality (Google), by lifetime in a cache (Amazon).

use super::super::json::Value;
use super::{Count, Counts};
use crate::detail::Detail;

/// Which count the parts of a list make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// Input, also what tools put in.
    Input,
    /// Output.
    Output,
    /// What was read from a cache.
    CacheRead,
    /// What was written to a cache, by lifetime.
    CacheWrite,
}

/// What distinguishes such a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Image,
    Video,
    Audio,
    Document,
    FiveMinutes,
    OneHour,
}

impl Kind {
    /// A modality as Google writes it, also as the number of its enumeration, or a lifetime as Amazon writes it.
    fn of(value: Value<'_>) -> Option<Kind> {
        const NAMES: [(&str, Kind); 7] = [
            ("text", Kind::Text),
            ("image", Kind::Image),
            ("video", Kind::Video),
            ("audio", Kind::Audio),
            ("document", Kind::Document),
            ("5m", Kind::FiveMinutes),
            ("1h", Kind::OneHour),
        ];
        match value {
            Value::Text { bytes, whole: true } => NAMES
                .iter()
                .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(bytes))
                .map(|(_, kind)| *kind),
            value => match value.count()? {
                1 => Some(Kind::Text),
                2 => Some(Kind::Image),
                3 => Some(Kind::Video),
                4 => Some(Kind::Audio),
                5 => Some(Kind::Document),
                _ => None,
            },
        }
    }
}

/// An element of such a list, as far as it was read: its members come in any order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    of: Option<Whole>,
    kind: Option<Kind>,
    count: Option<u64>,
}

impl Part {
    /// One begins.
    pub(super) fn begin(&mut self, of: Whole) {
        *self = Part { of: Some(of), ..Part::default() };
    }

    /// What distinguishes it.
    pub(super) fn kind(&mut self, value: Value<'_>, counts: &mut Counts) {
        self.kind = Kind::of(value);
        self.end(counts);
    }

    /// Its count.
    pub(super) fn count(&mut self, value: Value<'_>, counts: &mut Counts) {
        self.count = value.count();
        self.end(counts);
    }

    /// Notes it once its kind and its count are known; several of a kind add up.
    fn end(&mut self, counts: &mut Counts) {
        let Part { of: Some(of), kind: Some(kind), count } = *self else { return };
        if count.is_some() {
            *self = Part::default();
        }
        // Google leaves zeros out: a part without count is one of 0.
        let count = count.unwrap_or(0);
        let class = match (of, kind) {
            (Whole::Input, Kind::Image) => Ok(Count::ImageInput),
            (Whole::Input, Kind::Audio) => Ok(Count::AudioInput),
            (Whole::Output, Kind::Image) => Ok(Count::ImageOutput),
            (Whole::Output, Kind::Audio) => Ok(Count::AudioOutput),
            (Whole::CacheWrite, Kind::FiveMinutes) => Ok(Count::CacheWrite5m),
            (Whole::CacheWrite, Kind::OneHour) => Ok(Count::CacheWrite1h),
            (Whole::Input, Kind::Text) => Err(Detail::TextInput),
            (Whole::Input, Kind::Video) => Err(Detail::VideoInput),
            (Whole::Input, Kind::Document) => Err(Detail::DocumentInput),
            (Whole::Output, Kind::Text) => Err(Detail::TextOutput),
            (Whole::Output, Kind::Video) => Err(Detail::VideoOutput),
            (Whole::CacheRead, Kind::Text) => Err(Detail::CachedText),
            (Whole::CacheRead, Kind::Audio) => Err(Detail::CachedAudio),
            (Whole::CacheRead, Kind::Image) => Err(Detail::CachedImage),
            (Whole::CacheRead, Kind::Video) => Err(Detail::CachedVideo),
            _ => return,
        };
        match class {
            Ok(class) => {
                let sum = counts.get(class).unwrap_or(0).checked_add(count);
                counts.set(class, sum);
            }
            Err(detail) => counts.details.add(detail, count),
        }
    }
}
