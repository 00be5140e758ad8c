//! Places where payload is held while it is parsed. They never show themselves, and what they held is wiped when they
//! are emptied, when they are dropped and when they grow into another place.
//!
//! Types that can hold payload derive no `Debug`: what lies in these does not print, and nothing else holds any.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroize;

/// Bytes of any number. Only what is held has to be wiped: the rest of the room was wiped before.
#[derive(Default)]
pub struct Held(Vec<u8>);

impl Held {
    /// Nothing, without memory.
    pub const fn new() -> Held {
        Held(Vec::new())
    }

    /// Bytes it can hold without growing.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Adds `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Makes room for `more` bytes, and for some that may follow.
    pub fn reserve(&mut self, more: usize) {
        let wanted = self.0.len().saturating_add(more);
        if wanted > self.0.capacity() {
            self.grow(wanted.next_power_of_two());
        }
    }

    /// Makes room for `capacity` bytes in all. The old place is wiped: `Vec` would leave a copy behind.
    pub fn grow(&mut self, capacity: usize) {
        if capacity > self.0.capacity() {
            let mut larger = Vec::with_capacity(capacity);
            larger.extend_from_slice(&self.0);
            self.0.as_mut_slice().zeroize();
            self.0 = larger;
        }
    }

    /// Takes the first `bytes` away.
    pub fn drop_front(&mut self, bytes: usize) {
        let left = self.0.len().saturating_sub(bytes);
        let from = self.0.len() - left;
        self.0.copy_within(from.., 0);
        self.truncate(left);
    }

    /// Keeps the first `bytes`.
    pub fn truncate(&mut self, bytes: usize) {
        self.0.get_mut(bytes..).unwrap_or_default().zeroize();
        self.0.truncate(bytes);
    }

    /// Empties it and keeps the room.
    pub fn clear(&mut self) {
        self.truncate(0);
    }
}

impl Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

impl fmt::Debug for Held {
    /// How much, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Up to `N` bytes in place.
pub struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
    whole: bool,
}

impl<const N: usize> Short<N> {
    /// Adds as much of `bytes` as fits.
    pub fn push(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(N - self.len.min(N));
        if let (Some(to), Some(from)) = (self.bytes.get_mut(self.len..self.len + fits), bytes.get(..fits)) {
            to.copy_from_slice(from);
            self.len += fits;
        }
        self.whole &= fits == bytes.len();
    }

    /// Whether everything fitted.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.truncate(0);
        self.whole = true;
    }

    /// Keeps the first `bytes`.
    pub fn truncate(&mut self, bytes: usize) {
        self.bytes.get_mut(bytes.min(self.len)..self.len).unwrap_or_default().zeroize();
        self.len = self.len.min(bytes);
    }
}

impl<const N: usize> Default for Short<N> {
    fn default() -> Short<N> {
        Short { bytes: [0; N], len: 0, whole: true }
    }
}

impl<const N: usize> Deref for Short<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const N: usize> Drop for Short<N> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<const N: usize> fmt::Debug for Short<N> {
    /// How much, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

/// Bytes of any number, of which the first `N` need no memory of their own. To be used where it was made: a move would
/// leave a copy behind.
pub struct Roomy<const N: usize> {
    near: Short<N>,
    /// All of them, once they are more than `N`.
    far: Held,
}

impl<const N: usize> Roomy<N> {
    /// Adds `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        match self.is_far() {
            true => self.far.push(bytes),
            false => self.near.push(bytes),
        }
    }

    /// Makes room for `more` bytes.
    pub fn reserve(&mut self, more: usize) {
        let wanted = self.len().saturating_add(more);
        if self.is_far() {
            self.far.reserve(more);
        } else if wanted > N {
            self.far.reserve(wanted);
            self.far.push(&self.near);
            self.near.clear();
        }
    }

    /// Adds what `write` puts into a place of `most` bytes, all zero; it says how many from the front. `None`, and nothing
    /// added, if it says nothing.
    pub fn fill(&mut self, most: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<()> {
        self.reserve(most);
        let begin = self.len();
        let place = match self.is_far() {
            true => {
                self.far.0.resize(begin + most, 0);
                self.far.0.get_mut(begin..)
            }
            false => {
                self.near.len += most;
                self.near.bytes.get_mut(begin..begin + most)
            }
        };
        let written = place.and_then(write);
        self.truncate(begin + written.unwrap_or(0));
        written.map(|_| ())
    }

    /// Keeps the first `bytes`.
    pub fn truncate(&mut self, bytes: usize) {
        match self.is_far() {
            true => self.far.truncate(bytes),
            false => self.near.truncate(bytes),
        }
    }

    fn is_far(&self) -> bool {
        self.far.capacity() > 0
    }
}

impl<const N: usize> Default for Roomy<N> {
    fn default() -> Roomy<N> {
        Roomy { near: Short::default(), far: Held::new() }
    }
}

impl<const N: usize> Deref for Roomy<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.is_far() { &self.far } else { &self.near }
    }
}

/// Wipes a large place. `zeroize` writes byte by byte, which would cost a quarter of what inflating does.
pub fn wipe<T: Copy + Default>(place: &mut [T]) {
    place.fill(T::default());
    // Keeps the stores, although the place is about to be freed or left.
    std::hint::black_box(place);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The room behind what is held, as it lies in memory.
    fn room(held: &mut Held) -> Vec<u8> {
        let (len, capacity) = (held.0.len(), held.0.capacity());
        held.0.resize(capacity, 0xff);
        let room = held.0[len..].to_vec();
        held.0.truncate(len);
        room
    }

    #[test]
    fn what_was_held_is_wiped() {
        let mut held = Held::new();
        held.push(b"secret and more");
        held.drop_front(7);
        assert_eq!(&*held, b"and more");
        held.truncate(3);
        assert_eq!(&*held, b"and");
        assert_eq!(format!("{held:?}"), "3 bytes");
        held.push(&[b'x'; 100]);
        assert_eq!(held.len(), 103);
        held.clear();
        assert!(held.is_empty() && held.capacity() >= 103);
        assert_eq!(room(&mut held).len(), held.capacity());
        let mut short = Short::<4>::default();
        short.push(b"abcdef");
        assert_eq!((&*short, short.is_whole()), (&b"abcd"[..], false));
        assert_eq!(format!("{short:?}"), "4 bytes");
        short.clear();
        assert_eq!((short.bytes, short.is_whole()), ([0; 4], true));
        let mut roomy = Roomy::<4>::default();
        roomy.push(b"abcd");
        roomy.truncate(3);
        assert_eq!((&*roomy, roomy.near.bytes, roomy.far.capacity()), (&b"abc"[..], *b"abc\0", 0));
        roomy.push(b"defg");
        assert_eq!((&*roomy, roomy.near.bytes), (&b"abcdefg"[..], [0; 4]));
        roomy.truncate(1);
        roomy.push(b"x");
        assert_eq!(&*roomy, b"ax");
        for (what, begun, most) in [("near", 1, 3), ("far", 1, 30), ("far already", 9, 5)] {
            let mut roomy = Roomy::<4>::default();
            roomy.push(&vec![b'a'; begun]);
            let refused = roomy.fill(most, |place| {
                place.fill(b'x');
                None
            });
            assert_eq!((refused, roomy.len()), (None, begun), "{what}");
            let filled = roomy.fill(most, |place| {
                assert_eq!((place.len(), place.iter().max()), (most, Some(&0)), "{what}: nothing is left");
                place[0] = b'y';
                Some(1)
            });
            assert_eq!((filled, &roomy[begun..]), (Some(()), &b"y"[..]), "{what}");
        }
    }
}
