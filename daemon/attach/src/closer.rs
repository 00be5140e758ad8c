//! Closes descriptors whose close is slow, on a thread of its own, many at a time.
//!
//! Closing the last descriptor of a uprobe waits for grace periods of the kernel (10 to 80 ms), closing an AF_PACKET
//! socket 6 to 16 ms. Waits of several threads share their grace periods, so a batch closed in parallel takes little
//! longer than one. The thread that attaches never closes.
//!
//! Each uprobe that is let go takes the kernel's lock that an attach needs, for microseconds unless its holder loses the
//! processor; whoever attaches waits for all that came before. So few are closed at a time while processes are armed,
//! and with the same priority; only at the end, when nobody attaches any more, as many as there are.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::settings::tracefs;

/// Threads of one batch.
const PARALLEL: usize = 3;
/// Threads at the end. They sleep in the kernel; each costs a stack of which a page or two is touched.
const PARALLEL_AT_END: usize = 64;

type Done = Box<dyn FnOnce() + Send>;

/// Something of the kernel's that lasts until it is dropped.
pub(crate) enum Held {
    /// A descriptor.
    Descriptor {
        /// `None` only while being dropped.
        descriptor: Option<OwnedFd>,
    },
    /// A traced uprobe, which must be taken out of tracefs after its event.
    Traced {
        /// The event; `None` only while being dropped.
        event: Option<OwnedFd>,
        /// The file `uprobe_events`.
        control: PathBuf,
        /// Group and name of the uprobe.
        name: String,
    },
}

impl From<OwnedFd> for Held {
    fn from(descriptor: OwnedFd) -> Held {
        Held::Descriptor { descriptor: Some(descriptor) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match self {
            Held::Descriptor { descriptor } => *descriptor = None,
            Held::Traced { event, control, name } => {
                *event = None;
                if let Err(error) = tracefs::remove_uprobe(control, name) {
                    tracing::warn!(%error, name, "a traced uprobe stays behind, unused");
                }
            }
        }
    }
}

struct Job {
    held: Vec<Held>,
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

    /// Drops `held` soon, then runs `done`.
    pub(crate) fn close(&self, held: Vec<Held>, done: impl FnOnce() + Send + 'static) {
        self.backlog.fetch_add(1, Ordering::Relaxed);
        if let Err(unsent) = self.jobs.send(Job { held, done: Box::new(done) }) {
            // The thread is gone: slow, but never forgotten.
            let Job { held, done } = unsent.0;
            drop(held);
            self.backlog.fetch_sub(1, Ordering::Relaxed);
            done();
        }
    }
}

fn work(queue: &Receiver<Job>, backlog: &AtomicU32) {
    while let Ok(first) = queue.recv() {
        let mut held = first.held;
        let mut finished = vec![first.done];
        while let Ok(job) = queue.try_recv() {
            held.extend(job.held);
            finished.push(job.done);
        }
        close(held, PARALLEL);
        for done in finished {
            backlog.fetch_sub(1, Ordering::Relaxed);
            done();
        }
    }
}

/// Closes everything and returns when it is closed: at the end, when nobody attaches any more.
pub(crate) fn close_all(held: Vec<Held>) {
    close(held, PARALLEL_AT_END);
}

fn close(held: Vec<Held>, threads: usize) {
    let threads = threads.min(held.len());
    if threads <= 1 {
        return drop(held);
    }
    let mut shares: Vec<Vec<Held>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, one) in held.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(at % threads) {
            share.push(one);
        }
    }
    thread::scope(|scope| {
        for share in shares {
            // A thread that cannot be made drops its share here: slower, but closed.
            let _ = thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, move || drop(share));
        }
    });
}
