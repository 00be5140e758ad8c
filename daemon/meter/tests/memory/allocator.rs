//! Counts what a thread allocates, and looks into what it frees. Each test runs in a thread of its own.
#![expect(unsafe_code, reason = "an allocator is unsafe by its interface")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What must not lie in memory that is freed. No word of a protocol or a test is like it.
pub(crate) const MARKER: &str = "zQ8-marker-Kx3";

/// What a thread did since [`watch`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Times that memory was asked for.
    pub(crate) allocations: u64,
    /// Bytes held beyond what was held at the beginning.
    pub(crate) held: i64,
    /// The most of it.
    pub(crate) most: i64,
    /// Blocks freed with [`MARKER`] in them.
    pub(crate) marked: u64,
}

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static SEEN: Cell<Seen> = const { Cell::new(Seen { allocations: 0, held: 0, most: 0, marked: 0 }) };
}

/// What this thread does with memory while `run` runs.
pub(crate) fn watch<T>(run: impl FnOnce() -> T) -> (T, Seen) {
    SEEN.set(Seen::default());
    WATCHING.set(true);
    let result = run();
    WATCHING.set(false);
    (result, SEEN.get())
}

/// What `run` does with memory is none of the meter's.
pub(crate) fn unwatched<T>(run: impl FnOnce() -> T) -> T {
    let before = WATCHING.replace(false);
    let result = run();
    WATCHING.set(before);
    result
}

struct Watcher;

#[global_allocator]
static WATCHER: Watcher = Watcher;

fn note(change: impl FnOnce(&mut Seen)) {
    if WATCHING.get() {
        let mut seen = SEEN.get();
        change(&mut seen);
        seen.most = seen.most.max(seen.held);
        SEEN.set(seen);
    }
}

// SAFETY: all memory comes from and goes back to the system's allocator with the layout it was asked for. `realloc` is
// the trait's own: a new block, a copy, and the old block freed, so that copies left behind are seen.
unsafe impl GlobalAlloc for Watcher {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(|seen| {
            seen.allocations += 1;
            seen.held += layout.size() as i64;
        });
        // Zeroed, so that only what was written since can be found in it.
        // SAFETY: the caller promises a layout that is not empty.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(|seen| {
            seen.allocations += 1;
            seen.held += layout.size() as i64;
        });
        // SAFETY: the caller promises a layout that is not empty.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(|seen| {
            seen.held -= layout.size() as i64;
            // SAFETY: the block has `layout.size()` bytes, zero or written, until it is freed below.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            seen.marked += u64::from(memchr::memmem::find(bytes, MARKER.as_bytes()).is_some());
        });
        // SAFETY: the caller promises a block of this allocator and its layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[test]
fn the_watcher_sees() {
    let (_, seen) = watch(|| drop(vec![1u8; 5_000]));
    assert_eq!((seen.allocations, seen.held, seen.most, seen.marked), (1, 0, 5_000, 0));
    let (kept, seen) = watch(|| String::from(MARKER));
    assert_eq!((seen.held, seen.marked), (kept.len() as i64, 0));
    let (_, seen) = watch(|| drop(kept));
    assert_eq!(seen.marked, 1);
    let (_, seen) = watch(|| unwatched(|| drop(vec![1u8; 9])));
    assert_eq!(seen.allocations, 0);
}
