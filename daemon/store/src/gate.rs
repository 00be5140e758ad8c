//! A lock whose readers give up: many readers or one writer, and who reads waits only so long.
//!
//! A writer may hold it for as long as a disk takes, which may be for ever. Readers that wait go before the next writer,
//! so that a busy writer does not starve them.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

pub(crate) struct Gate<T> {
    turn: Mutex<Turn>,
    turned: Condvar,
    inside: RwLock<T>,
}

#[derive(Default)]
struct Turn {
    /// A writer is inside, or waits for the readers that are.
    writing: bool,
    readers_waiting: usize,
    /// Set when a writer leaves while readers wait, until they are inside.
    readers_first: bool,
}

impl<T> Gate<T> {
    pub(crate) fn new(value: T) -> Gate<T> {
        Gate { turn: Mutex::default(), turned: Condvar::new(), inside: RwLock::new(value) }
    }

    /// The value for reading; `None` if a writer kept it for `patience`.
    pub(crate) fn read(&self, patience: Duration) -> Option<RwLockReadGuard<'_, T>> {
        let mut turn = self.turn();
        turn.readers_waiting += 1;
        let waited = self.turned.wait_timeout_while(turn, patience, |turn| turn.writing);
        let (mut turn, _) = waited.unwrap_or_else(PoisonError::into_inner);
        turn.readers_waiting -= 1;
        if turn.readers_waiting == 0 && std::mem::take(&mut turn.readers_first) {
            self.turned.notify_all();
        }
        if turn.writing {
            return None;
        }
        // Does not block: a writer announces itself under `turn`, which is held.
        Some(self.inside.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The value for writing, whenever everybody else has left.
    pub(crate) fn write(&self) -> Writing<'_, T> {
        let waited = self.turned.wait_while(self.turn(), |turn| turn.writing || turn.readers_first);
        waited.unwrap_or_else(PoisonError::into_inner).writing = true;
        let inside = self.inside.write().unwrap_or_else(PoisonError::into_inner);
        Writing { gate: self, inside: Some(inside) }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value, for one writer.
pub(crate) struct Writing<'a, T> {
    gate: &'a Gate<T>,
    /// Always there until dropped.
    inside: Option<RwLockWriteGuard<'a, T>>,
}

impl<T> Deref for Writing<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inside.as_deref().unwrap_or_else(|| unreachable!("taken only when dropped"))
    }
}

impl<T> DerefMut for Writing<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inside.as_deref_mut().unwrap_or_else(|| unreachable!("taken only when dropped"))
    }
}

impl<T> Drop for Writing<'_, T> {
    fn drop(&mut self) {
        drop(self.inside.take());
        let mut turn = self.gate.turn();
        turn.writing = false;
        turn.readers_first = turn.readers_waiting > 0;
        drop(turn);
        self.gate.turned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_reader_gives_up_on_a_writer_that_stays() {
        let gate = Gate::new(1);
        let writing = gate.write();
        assert!(gate.read(Duration::ZERO).is_none());
        assert!(gate.read(Duration::from_millis(1)).is_none());
        drop(writing);
        assert_eq!(gate.read(Duration::ZERO).as_deref(), Some(&1));
        *gate.write() = 2;
        assert_eq!(gate.read(Duration::ZERO).as_deref(), Some(&2));
    }

    #[test]
    fn readers_share_and_hold_up_a_writer() {
        let gate = Gate::new(0);
        let reading = gate.read(LONG).expect("nobody writes");
        assert!(gate.read(LONG).is_some());
        thread::scope(|scope| {
            let writer = scope.spawn(|| *gate.write() = 5);
            while !gate.turn().writing {
                thread::yield_now();
            }
            assert!(gate.read(Duration::from_millis(1)).is_none(), "the writer has announced itself");
            assert_eq!(*reading, 0);
            drop(reading);
            writer.join().expect("the writer");
        });
        assert_eq!(gate.read(LONG).as_deref(), Some(&5));
    }

    /// A writer that comes back at once leaves room for those who wait; nobody sees half of a change.
    #[test]
    fn a_busy_writer_does_not_starve_readers() {
        let (gate, stop) = (Gate::new((0_u64, 0_u64)), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut value = gate.write();
                    value.0 += 1;
                    thread::yield_now();
                    value.1 += 1;
                }
            });
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let started = Instant::now();
                        for _ in 0..200 {
                            let value = gate.read(LONG).expect("a turn");
                            assert_eq!(value.0, value.1);
                        }
                        assert!(started.elapsed() < LONG);
                    })
                })
                .collect();
            for reader in readers {
                reader.join().expect("a reader");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
