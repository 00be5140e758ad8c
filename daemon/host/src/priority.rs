//! Threads that race with applications and therefore go before others.
//!
//! A process that calls a provider has to be armed before its first request, some milliseconds after it began. On a busy
//! node a thread of ordinary priority waits that long for a processor alone. What raises it is a right that main gives
//! up (or the unit's `Nice=`), so the threads are made while the only thread of the daemon has that priority, wait for
//! their work, and all later ones are ordinary again. They run for microseconds at a time.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Of the threads that go first; 0 is ordinary, -20 the most urgent.
const URGENT: libc::c_int = -10;

/// Priority of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nice(libc::c_int);

type Work = Box<dyn FnOnce() + Send>;

/// Raises the calling thread and what it makes from now on; its priority before. Without the right for it everything
/// works, only later.
pub(crate) fn raise() -> Nice {
    let before = own();
    if before > URGENT
        && let Err(error) = set(URGENT)
    {
        tracing::info!(%error, "arming waits its turn on a busy node: no CAP_SYS_NICE at the start, and no Nice= in the unit");
    }
    Nice(before)
}

/// Threads that were made in advance, by name.
#[derive(Default)]
pub(crate) struct Reserved(BTreeMap<&'static str, (SyncSender<Work>, JoinHandle<()>)>);

impl Reserved {
    /// Makes them with the calling thread's priority, which afterwards is what it was `before`, or ordinary if that was
    /// raised too.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub(crate) fn make(names: &[&'static str], before: Nice) -> io::Result<Reserved> {
        let mut threads = BTreeMap::new();
        for name in names {
            let (sender, work) = sync_channel::<Work>(1);
            let run = move || {
                // An error means that it was never needed.
                if let Ok(work) = work.recv() {
                    work();
                }
            };
            threads.insert(*name, (sender, Builder::new().name((*name).into()).spawn(run)?));
        }
        // Whoever has no right to be raised may lower itself.
        set(before.0.max(0))?;
        Ok(Reserved(threads))
    }

    /// Runs `work` on the thread of that name, or on an ordinary one if none was made.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub(crate) fn start(
        &mut self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let Some((sender, thread)) = self.0.remove(name) else {
            return Builder::new().name(name.into()).spawn(work);
        };
        // It waits for this and ends only afterwards.
        sender.send(Box::new(work)).map_err(|_| io::Error::other("the thread is gone"))?;
        Ok(thread)
    }
}

/// Sets the priority of the calling thread (on Linux not of the process: setpriority(2)).
#[expect(unsafe_code, reason = "setpriority(2) has no safe wrapper")]
fn set(nice: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers; id 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// That of the calling thread.
#[expect(unsafe_code, reason = "getpriority(2) has no safe wrapper")]
fn own() -> libc::c_int {
    // SAFETY: no pointers; id 0 is the calling thread, which always has one: -1 is no error.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn reserved_threads_go_first_and_later_ones_do_not() {
        let of_thread = |reserved: &mut Reserved, name| {
            let (sender, receiver) = channel();
            let thread = reserved
                .start(name, move || sender.send(own()).expect("the test listens"))
                .expect("a thread");
            thread.join().expect("it ends");
            receiver.recv().expect("its priority")
        };
        // Priorities belong to threads: in one of its own nothing else is changed.
        let test = std::thread::spawn(move || {
            let before = raise();
            let raised = own();
            let mut reserved = Reserved::make(&["first", "unused"], before).expect("threads");
            assert_eq!(own(), before.0.max(0));
            assert_eq!(of_thread(&mut reserved, "first"), raised);
            assert_eq!(of_thread(&mut reserved, "later"), own());
            assert!(raised == URGENT || raised == before.0, "{raised}");
        });
        test.join().expect("the test");
    }
}
