//! The tables of head fields: the static one, and the dynamic one of one direction of a connection.

use std::collections::VecDeque;

use crate::limits::{Budget, HPACK_STEP_BYTES, Lease};
use crate::payload::Held;

/// The dynamic table of one direction. Without entries it has no memory of its own.
pub(super) struct Table {
    /// Names and values of the entries, each behind the one before it. What was evicted goes when it is half of this.
    text: Held,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Position of the first byte of `text` among all that were ever added.
    begin: usize,
    /// Bytes of the names and values of all entries.
    held: usize,
    /// Size in force, chosen by the encoder.
    capacity: usize,
    /// Room for all of it.
    room: Option<Lease>,
}

/// An entry of the dynamic table.
struct Entry {
    /// Position of its name among all bytes that were ever added; its value is behind it.
    begin: usize,
    /// Bytes of the name; none if it is not known.
    name: u32,
    /// Bytes of both.
    len: u32,
}

/// What an entry costs beside its bytes (RFC 7541, 4.1).
const OVERHEAD: usize = 32;

/// Size of the table before anything is said.
const CAPACITY: usize = 4096;

/// Bytes and entries that there is room for at first: what API calls put into the table.
const USUAL: (usize, usize) = (512, 16);

impl Default for Table {
    fn default() -> Table {
        Table {
            text: Held::new(),
            entries: VecDeque::new(),
            begin: 0,
            held: 0,
            capacity: CAPACITY,
            room: None,
        }
    }
}

impl Table {
    /// Bytes in the sense of the standard.
    pub(super) fn size(&self) -> usize {
        self.held + self.entries.len() * OVERHEAD
    }

    /// Drops all entries and their memory.
    pub(super) fn forget(&mut self) {
        *self = Table { capacity: self.capacity, ..Table::default() };
    }

    /// Changes the size in force.
    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.evict(0);
    }

    /// Name and value at `index` of both tables; without a name if it was never seen. Index 0 does not exist.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let at = index.checked_sub(1)?;
        let found = match STATIC.get(at) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.added(at - STATIC.len()),
        };
        Some(found.unwrap_or_default())
    }

    /// Name and value of the entry behind which `newer` were added.
    fn added(&self, newer: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(self.entries.len().checked_sub(newer + 1)?)?;
        let begin = entry.begin - self.begin;
        self.text.get(begin..begin + entry.len as usize)?.split_at_checked(entry.name as usize)
    }

    /// Adds an entry: `name` bytes of `field` are its name, the others its value. What finds no room in `budget` makes
    /// it forget all.
    pub(super) fn insert(&mut self, field: &[u8], name: usize, budget: &Budget) {
        self.evict(field.len() + OVERHEAD);
        if field.len() + OVERHEAD > self.capacity {
            return;
        }
        if self.entries.capacity() == 0 {
            self.text.grow(USUAL.0);
            self.entries.reserve(USUAL.1);
        }
        let begin = self.begin + self.text.len();
        self.entries.push_back(Entry { begin, name: name as u32, len: field.len() as u32 });
        self.text.push(field);
        self.held += field.len();
        if !self.finds_room(budget) {
            self.forget();
        }
    }

    /// True if there is room for what is held, which grows in steps and is kept until all is forgotten.
    fn finds_room(&mut self, budget: &Budget) -> bool {
        let held = self.text.capacity() + self.entries.capacity() * size_of::<Entry>();
        let held = held.next_multiple_of(HPACK_STEP_BYTES);
        self.room = match self.room.take() {
            None => budget.lease(held),
            Some(room) => {
                let missing = held.saturating_sub(room.amount());
                room.grow(missing)
            }
        };
        self.room.is_some()
    }

    /// Makes room for `size`.
    fn evict(&mut self, size: usize) {
        while self.size() + size > self.capacity
            && let Some(entry) = self.entries.pop_front()
        {
            self.held -= entry.len as usize;
        }
        let evicted = self.text.len() - self.held;
        if evicted > self.held {
            self.text.drop_front(evicted);
            self.begin += evicted;
        }
    }
}

/// RFC 7541, appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
