//! Messages to stderr: our own, and the kernel programs', which are limited in rate.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::EnvFilter;

/// Messages of the kernel programs that are shown per second; the rest is counted.
const PER_SECOND_MAX: u32 = 20;

/// Sets up stderr with the level of `VENTURI_LOG` (`error`, `warn`, `info`, `debug`, `trace`; default `info`).
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("VENTURI_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal());
    // Only a second call fails, which changes nothing.
    let _ = subscriber.try_init();
}

/// Reads the kernel programs' messages on a thread of its own.
pub(crate) fn follow_kernel(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init_with_logger(ebpf, Limited::default()) {
        Ok(logger) => logger,
        Err(error) => return tracing::debug!(%error, "the kernel programs have no log"),
    };
    let started = thread::Builder::new().name("kernel-log".to_owned()).spawn(move || follow(logger));
    if let Err(error) = started {
        tracing::warn!(%error, "no thread for the kernel programs' log");
    }
}

fn follow(mut logger: EbpfLogger<Limited>) {
    crate::sys::go_last();
    loop {
        let ready = {
            let mut waiting = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
            poll(&mut waiting, PollTimeout::NONE)
        };
        match ready {
            Ok(_) => logger.flush(),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return tracing::warn!(%error, "the kernel programs' log cannot be read any more"),
        }
    }
}

#[derive(Default)]
struct Limited {
    window: Mutex<Window>,
}

struct Window {
    since: Instant,
    shown: u32,
    suppressed: u64,
}

impl Default for Window {
    fn default() -> Window {
        Window { since: Instant::now(), shown: 0, suppressed: 0 }
    }
}

impl Window {
    /// Whether one more message may be shown, and how many were not since the last window.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let mut unreported = 0;
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            unreported = self.suppressed;
            *self = Window { since: now, shown: 0, suppressed: 0 };
        }
        if self.shown >= PER_SECOND_MAX {
            self.suppressed += 1;
            return (false, unreported);
        }
        self.shown += 1;
        (true, unreported)
    }
}

impl Log for Limited {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (shown, suppressed) =
            self.window.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if suppressed > 0 {
            tracing::warn!(suppressed, "messages of the kernel programs were not shown");
        }
        if shown {
            match record.level() {
                Level::Error | Level::Warn => tracing::warn!(kernel = %record.args()),
                Level::Info => tracing::info!(kernel = %record.args()),
                Level::Debug | Level::Trace => tracing::debug!(kernel = %record.args()),
            }
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_reported_in_the_next_second() {
        let start = Instant::now();
        let mut window = Window { since: start, shown: 0, suppressed: 0 };
        let admitted = (0..100).filter(|_| window.admit(start).0).count();
        assert_eq!(admitted, PER_SECOND_MAX as usize);
        assert_eq!(window.admit(start + Duration::from_secs(1)), (true, 80));
        assert_eq!(window.admit(start + Duration::from_secs(1)), (true, 0));
    }
}
