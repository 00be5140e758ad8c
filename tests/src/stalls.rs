//! How long the machine made a thread wait that was ready to run: what a promise in milliseconds cannot be judged
//! without, on a machine that others use too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// How long a watcher rests between two looks.
const REST: Duration = Duration::from_millis(1);

/// Watches every processor that this process may use, until it is dropped.
pub struct Stalls {
    longest_ns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<()>>,
}

impl Stalls {
    /// Starts a thread on each processor that rests for a millisecond at a time and notes how much later it ran.
    pub fn watch() -> anyhow::Result<Stalls> {
        let (longest_ns, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut watchers = Vec::new();
        for cpu in (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)) {
            let mut only = CpuSet::new();
            only.set(cpu)?;
            let (longest_ns, stop) = (Arc::clone(&longest_ns), Arc::clone(&stop));
            watchers.push(std::thread::spawn(move || {
                // Without its processor it still sees stalls, only not all of them.
                let _ = sched_setaffinity(Pid::from_raw(0), &only);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    std::thread::park_timeout(REST);
                    let late = began.elapsed().saturating_sub(REST);
                    longest_ns
                        .fetch_max(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
            }));
        }
        Ok(Stalls { longest_ns, stop, watchers })
    }

    /// The longest stall since the last question.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for watcher in self.watchers.drain(..) {
            let _ = watcher.join();
        }
    }
}
