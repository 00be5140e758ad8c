//! The order of start and stop around everything else: the socket, signals, who ends first.
//!
//! Stopping follows the flow: no new events, shards drained, writer flushed, watchers given the last records, API
//! closed. All of it within [`GRACE`]; what is still held then is logged and left. Probes are detached by the attacher,
//! which sees our end; nobody waits for that.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, chown};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::api::{self, Serving};
use crate::error::Failure;
use crate::privileges::Identity;
use crate::writer::Writer;

/// How long an ordered stop may take. systemd and the kubelet give 90 and 30 seconds.
const GRACE: Duration = Duration::from_secs(10);
/// How long clients get to take what they were promised.
const CLIENTS_GRACE: Duration = Duration::from_secs(2);

/// The unix socket, and its removal.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

/// Binds the socket: mode 0660, the daemon's user, the named group. A socket that nobody serves is replaced; one that is
/// served is an error. Done while still root and single-threaded.
pub fn listen(path: &Path, identity: Option<Identity>, group: Option<u32>) -> anyhow::Result<Socket> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let closed = |user| directory.and_then(|directory| store::closed(directory, user));
    if let Some(closed) = closed(None) {
        bail!("{}: {closed}, or choose another --socket", path.display());
    }
    make_directory(path, identity)?;
    // Root gets there all the same, so this is no reason not to start.
    if let Some(closed) = identity.and_then(|identity| closed(Some((identity.uid, identity.gid)))) {
        tracing::warn!("{}: {closed}, or choose another --socket: clients may not get there", path.display());
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} exists and is not a socket: remove it, or choose another --socket", path.display());
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!("{} is served by another process: stop it, or choose another --socket", path.display());
        }
        Ok(_) => std::fs::remove_file(path)
            .with_context(|| format!("removing the stale socket {}", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("looking at {}", path.display())),
    }
    // Nobody may connect before mode and group are right.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o777));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = bound.with_context(|| format!("binding {}", path.display()))?;
    let uid = identity.map(|identity| Uid::from_raw(identity.uid));
    let gid = group.or(identity.map(|identity| identity.gid)).map(Gid::from_raw);
    if let Err(error) = chown(path, uid, gid) {
        // Started by hand without root, in a directory of the user: the group cannot always be given.
        if identity.is_some() {
            return Err(error).with_context(|| format!("giving {} to its user and group", path.display()));
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("setting the mode of {}", path.display()))?;
    Ok(Socket { path: path.to_owned(), listener })
}

/// Makes the socket's directory where it is missing, for the daemon's user, so that the socket can be removed.
fn make_directory(path: &Path, identity: Option<Identity>) -> anyhow::Result<()> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    if directory.is_dir() {
        return Ok(());
    }
    let doing = || format!("making {} for the socket", directory.display());
    std::fs::create_dir_all(directory).with_context(doing)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).with_context(doing)?;
    if let Some(identity) = identity {
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        chown(directory, Some(uid), Some(gid)).with_context(doing)?;
    }
    Ok(())
}

/// Signals that stop the daemon in order. Held back from the first moment, so that one that comes during the start is
/// obeyed after it.
fn stop_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}

/// Holds back the signals that stop the daemon, for this thread and all it makes. Child processes start without.
pub fn hold_signals() -> anyhow::Result<()> {
    stop_signals().thread_block().context("holding back signals during the start")
}

/// What is to be stopped.
pub struct Running<C> {
    /// Capture; dropped capture sends nothing more.
    pub capture: C,
    /// Ends capture: no new events, shards drained, all senders of records gone. False if that took too long.
    pub stop_capture: fn(C, Instant) -> bool,
    /// Tells that the attacher has died.
    pub capture_lost: Arc<Notify>,
    /// The writer.
    pub writer: Writer,
    /// What the API serves.
    pub serving: Arc<Serving>,
    /// Tells the API's watches to end.
    pub stop: watch::Sender<bool>,
}

enum Why {
    Asked,
    CaptureLost,
    Api(anyhow::Error),
}

/// Serves until a signal comes, the attacher dies or the API fails; then stops everything in order.
pub async fn until_stopped<C: Send + 'static>(socket: Socket, running: Running<C>) -> Result<(), Failure> {
    let Running { capture, stop_capture, capture_lost, writer, serving, stop } = running;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    stop_signals().thread_unblock().context("letting signals through")?;

    let Socket { path, listener } = socket;
    let mut stopped = stop.subscribe();
    let closed = async move {
        // An error means that the sender is gone: the daemon ends.
        let _ = stopped.wait_for(|stopping| *stopping).await;
    };
    let mut api = tokio::spawn(api::serve(listener, serving, closed));
    tracing::info!(socket = %path.display(), "serving");

    let why = tokio::select! {
        _ = terminate.recv() => Why::Asked,
        _ = interrupt.recv() => Why::Asked,
        () = capture_lost.notified() => Why::CaptureLost,
        ended = &mut api => Why::Api(match ended {
            Ok(Ok(())) => anyhow::anyhow!("the API ended without being asked to"),
            Ok(Err(error)) => error,
            Err(error) => anyhow::Error::new(error).context("the API failed"),
        }),
    };

    let deadline = Instant::now() + GRACE;
    tracing::info!(lost = matches!(why, Why::CaptureLost), "stopping");
    let figures = Arc::clone(&writer.figures);
    // A thread of its own: those for questions may all be held up by a wedged disk.
    let (done, drained) = tokio::sync::oneshot::channel();
    let drain = move || {
        let complete = stop_capture(capture, deadline) && writer.finish(deadline);
        // Nobody listens any more once the grace is over.
        let _ = done.send(complete);
    };
    std::thread::Builder::new()
        .name("drain".into())
        .spawn(drain)
        .context("starting the thread that stops capture")?;
    if !matches!(tokio::time::timeout_at(deadline.into(), drained).await, Ok(Ok(true))) {
        tracing::warn!(pending = figures.pending(), "not everything was stored in time");
    }
    // Only now: watchers have been told of the last records.
    stop.send_replace(true);
    if !matches!(why, Why::Api(_)) && tokio::time::timeout(CLIENTS_GRACE, &mut api).await.is_err() {
        tracing::warn!("clients did not take their answers in time");
    }
    // Fails in a directory that is not ours; the next start replaces a stale socket.
    let _ = std::fs::remove_file(&path);
    match why {
        Why::Asked => Ok(()),
        Why::CaptureLost => Err(Failure::CaptureLost),
        Why::Api(error) => Err(Failure::Other(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/daemon.sock");
        let first = listen(&path, None, None).expect("a free path");
        let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = listen(&path, None, None).expect_err("in use").to_string();
        assert!(error.contains("is served by another process"), "{error}");
        drop(first);
        listen(&path, None, None).expect("stale");
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").expect("a file");
        let error = listen(&path, None, None).expect_err("not a socket").to_string();
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    }
}
