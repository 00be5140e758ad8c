//! Two clocks that must not be confused: when something happened for people, and how long it took.

/// `CLOCK_MONOTONIC` nanoseconds: for durations and order within one boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` is later.
    pub fn since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(pub u64);

/// Translates moments of this boot to wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, ns.
    pub offset_ns: u64,
}

impl WallClock {
    /// The wall-clock time of a moment.
    pub fn at(self, moment: Moment) -> UnixNanos {
        UnixNanos(moment.0.saturating_add(self.offset_ns))
    }
}
