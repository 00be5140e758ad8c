//! Closes descriptors whose close is slow, on a thread of its own, many at a time.
//!
//! Closing the last descriptor of a uprobe waits for grace periods of the kernel (a perf uprobe 30 to 80 ms, a
//! `uprobe_multi` link 10 to 30 ms), closing an AF_PACKET socket 6 to 16 ms. Waits of several threads share their
//! grace periods, so a batch closed in parallel takes little longer than one. The thread that attaches never closes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Threads of one batch. They sleep in the kernel; each costs a stack of which a page or two is touched.
const PARALLEL_MAX: usize = 64;

type Done = Box<dyn FnOnce() + Send>;

struct Job {
    descriptors: Vec<OwnedFd>,
    done: Done,
}

/// Takes descriptors to close and says how many jobs wait.
pub(crate) struct Closer {
    jobs: Sender<Job>,
    backlog: Arc<AtomicU32>,
}

impl Closer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub(crate) fn start(name: &str) -> std::io::Result<Closer> {
        let (jobs, queue) = channel();
        let backlog = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&backlog);
        thread::Builder::new().name(name.to_owned()).spawn(move || work(&queue, &counted))?;
        Ok(Closer { jobs, backlog })
    }

    /// Jobs not done yet.
    pub(crate) fn backlog(&self) -> u32 {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Closes `descriptors` soon, then runs `done`.
    pub(crate) fn close(&self, descriptors: Vec<OwnedFd>, done: impl FnOnce() + Send + 'static) {
        self.backlog.fetch_add(1, Ordering::Relaxed);
        if let Err(unsent) = self.jobs.send(Job { descriptors, done: Box::new(done) }) {
            // The thread is gone: slow, but never forgotten.
            let Job { descriptors, done } = unsent.0;
            drop(descriptors);
            self.backlog.fetch_sub(1, Ordering::Relaxed);
            done();
        }
    }
}

fn work(queue: &Receiver<Job>, backlog: &AtomicU32) {
    while let Ok(first) = queue.recv() {
        let mut descriptors = first.descriptors;
        let mut finished = vec![first.done];
        while let Ok(job) = queue.try_recv() {
            descriptors.extend(job.descriptors);
            finished.push(job.done);
        }
        close_all(descriptors);
        for done in finished {
            backlog.fetch_sub(1, Ordering::Relaxed);
            done();
        }
    }
}

/// Closes everything and returns when it is closed.
pub(crate) fn close_all(descriptors: Vec<OwnedFd>) {
    let threads = PARALLEL_MAX.min(descriptors.len());
    if threads <= 1 {
        return drop(descriptors);
    }
    let mut shares: Vec<Vec<OwnedFd>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, descriptor) in descriptors.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(at % threads) {
            share.push(descriptor);
        }
    }
    thread::scope(|scope| {
        for share in shares {
            // A thread that cannot be made drops its share here: slower, but closed.
            let _ = thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, move || drop(share));
        }
    });
}
