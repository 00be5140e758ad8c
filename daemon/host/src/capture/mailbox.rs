//! A bounded queue between threads with one reader: order kept, drops visible, batches out.
//!
//! What may be dropped is *offered* with its weight and refused when the weight waiting would exceed the limit. What
//! should not be dropped is *delivered*, and refused only when as many items wait as may; the reader is told that its
//! batches are no longer complete. What must not be dropped is *posted*, and whoever posts is bounded elsewhere
//! (outstanding requests). All share one order. None ever waits for the reader.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The sending side; cheap to clone.
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    filled: Condvar,
    weight_max: usize,
    items_max: usize,
}

struct Queue<T> {
    items: Vec<(T, usize)>,
    weight: usize,
    /// Something was refused that should not have been.
    incomplete: bool,
}

impl<T> Mailbox<T> {
    /// An empty mailbox that holds offers of at most `weight_max` together, and takes deliveries while fewer than
    /// `items_max` items wait.
    pub fn new(weight_max: usize, items_max: usize) -> Mailbox<T> {
        let queue = Mutex::new(Queue { items: Vec::new(), weight: 0, incomplete: false });
        Mailbox { shared: Arc::new(Shared { queue, filled: Condvar::new(), weight_max, items_max }) }
    }

    /// Queues an item unless that exceeds the limit.
    ///
    /// # Errors
    /// The item, if there is no room.
    pub fn offer(&self, item: T, weight: usize) -> Result<(), T> {
        let mut queue = self.queue();
        if queue.weight.saturating_add(weight) > self.shared.weight_max {
            return Err(item);
        }
        queue.weight += weight;
        queue.items.push((item, weight));
        self.wake(queue);
        Ok(())
    }

    /// Queues an item unless as many wait as may; then the reader's next batch is incomplete.
    ///
    /// # Errors
    /// The item, if there is no room.
    pub fn deliver(&self, item: T) -> Result<(), T> {
        let mut queue = self.queue();
        if queue.items.len() >= self.shared.items_max {
            queue.incomplete = true;
            return Err(item);
        }
        queue.items.push((item, 0));
        self.wake(queue);
        Ok(())
    }

    /// Queues an item in any case.
    pub fn post(&self, item: T) {
        let mut queue = self.queue();
        queue.items.push((item, 0));
        self.wake(queue);
    }

    /// Moves everything that waits into `batch` (which is emptied first), waiting at most `patience` for the first
    /// item. False if a delivery was refused since the last time.
    pub fn take(&self, patience: Duration, batch: &mut Vec<(T, usize)>) -> bool {
        batch.clear();
        let mut queue = self.queue();
        if queue.items.is_empty() {
            let waited =
                self.shared.filled.wait_timeout_while(queue, patience, |queue| queue.items.is_empty());
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut queue.items, batch);
        queue.weight = 0;
        !std::mem::take(&mut queue.incomplete)
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, queue: MutexGuard<'_, Queue<T>>) {
        let first = queue.items.len() == 1;
        drop(queue);
        if first {
            self.shared.filled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_refused_at_the_limit_and_posts_never() {
        let mailbox = Mailbox::new(10, 4);
        assert_eq!(mailbox.offer(1, 6), Ok(()));
        assert_eq!(mailbox.offer(2, 5), Err(2));
        mailbox.post(3);
        assert_eq!(mailbox.offer(4, 4), Ok(()));
        let mut batch = Vec::new();
        mailbox.take(Duration::ZERO, &mut batch);
        assert_eq!(batch, [(1, 6), (3, 0), (4, 4)]);
        mailbox.take(Duration::ZERO, &mut batch);
        assert!(batch.is_empty());
        assert_eq!(mailbox.offer(5, 10), Ok(()));
    }

    #[test]
    fn a_reader_learns_that_a_delivery_was_refused() {
        let mailbox = Mailbox::new(10, 2);
        let mut batch = Vec::new();
        assert_eq!([mailbox.deliver(1), mailbox.deliver(2), mailbox.deliver(3)], [Ok(()), Ok(()), Err(3)]);
        mailbox.post(4);
        assert!(!mailbox.take(Duration::ZERO, &mut batch));
        assert_eq!(batch, [(1, 0), (2, 0), (4, 0)]);
        assert!(mailbox.take(Duration::ZERO, &mut batch), "told once");
        assert_eq!(mailbox.deliver(5), Ok(()));
    }

    #[test]
    fn a_waiting_reader_is_woken() {
        let mailbox = Mailbox::new(10, 10);
        let other = mailbox.clone();
        let sender = std::thread::spawn(move || other.post(7));
        let mut batch = Vec::new();
        while batch.is_empty() {
            mailbox.take(Duration::from_secs(60), &mut batch);
        }
        assert_eq!(batch, [(7, 0)]);
        sender.join().expect("sender");
    }
}
