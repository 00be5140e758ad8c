//! What the stores need once a minute: what has expired is deleted, a failed database opened again, sizes measured.
//!
//! A thread of its own: it may wait for the disk as long as the disk likes, and nobody waits for it.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use store::Stores;

use crate::capture::status::realtime;

/// From one round to the next.
const INTERVAL: Duration = Duration::from_secs(60);

/// The thread ends when this is dropped, after its round.
#[derive(Debug)]
pub(crate) struct Upkeep {
    _stop: SyncSender<()>,
}

/// Starts the thread; its first round begins at once.
pub(crate) fn spawn(stores: Stores) -> anyhow::Result<Upkeep> {
    let (stop, stopped) = sync_channel::<()>(0);
    let run = move || {
        loop {
            stores.upkeep(realtime());
            match stopped.recv_timeout(INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    std::thread::Builder::new().name("upkeep".into()).spawn(run).context("starting the thread for upkeep")?;
    Ok(Upkeep { _stop: stop })
}
