//! One direction of a session as an ordered stream of pieces: bytes, or a hole of exact size.
//!
//! Capture numbers every byte a session moved, so a hole is a difference of offsets. Bytes come with the positions of
//! both directions: a hole in one is known before the next bytes of the other, and stands where it happened. Nothing is
//! buffered or reordered: what arrives out of order was delivered already and is dropped.

/// Direction of bytes, from the workload's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The request.
    Sent,
    /// The response.
    Received,
}

/// The next part of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes.
    Bytes(&'a [u8]),
    /// This many bytes were not seen.
    Gap(u64),
}

impl std::fmt::Debug for Piece<'_> {
    /// How much, never what.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Piece::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Piece::Gap(bytes) => write!(f, "a gap of {bytes} bytes"),
        }
    }
}

impl Piece<'_> {
    /// Bytes it stands for.
    pub fn len(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Gap(bytes) => *bytes,
        }
    }

    /// True if it stands for no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Position in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    next: u64,
}

impl Stream {
    /// Position of the byte expected next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The hole before `bytes` (0 if none) and the part of `bytes` that is new.
    pub fn accept<'a>(&mut self, offset: u64, bytes: &'a [u8]) -> (u64, &'a [u8]) {
        let gap = offset.saturating_sub(self.next);
        let known = usize::try_from(self.next.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        let fresh = bytes.get(known..).unwrap_or_default();
        self.next = self.next.saturating_add(gap).saturating_add(fresh.len() as u64);
        (gap, fresh)
    }

    /// The hole between the last piece and `position`, up to which bytes were moved.
    pub fn reach(&mut self, position: u64) -> u64 {
        let gap = position.saturating_sub(self.next);
        self.next = self.next.saturating_add(gap);
        gap
    }
}

#[cfg(test)]
mod tests {
    use super::Stream;

    #[test]
    fn holes_are_differences_of_offsets() {
        let mut stream = Stream::default();
        for (offset, bytes, gap, fresh) in [
            (0, "abc", 0, "abc"),
            (3, "de", 0, "de"),
            (7, "h", 2, "h"),
            (6, "ghi", 0, "i"),
            (0, "abc", 0, ""),
            (u64::MAX - 1, "zz", u64::MAX - 10, "zz"),
        ] {
            assert_eq!(stream.accept(offset, bytes.as_bytes()), (gap, fresh.as_bytes()), "{offset}");
        }
        assert_eq!(stream.reach(3), 0);
    }
}
