//! One sled database with the two guards: the only file that names sled.
//!
//! Guard 1 is [`crate::durable`]. Guard 2: a kill while sled writes a snapshot leaves an empty `snap.*.generating` that
//! makes every later open fail, so such files are removed before. A database that will not open, or whose rows are
//! another store's, is moved aside and an empty one made; the error of that is the caller's to show.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::durable;
use crate::state::Durability;

/// A database failed; the words hold no data.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) detail: String,
    /// The surroundings are at fault (rights, space, lock): the database itself may be whole.
    pub(crate) surroundings: bool,
}

impl Failed {
    pub(crate) fn damaged(detail: impl Into<String>) -> Failed {
        Failed { detail: detail.into(), surroundings: false }
    }

    pub(crate) fn around(detail: impl Into<String>) -> Failed {
        Failed { detail: detail.into(), surroundings: true }
    }
}

/// An open database.
pub(crate) struct Database {
    db: sled::Db,
    pub(crate) durability: Durability,
}

/// How a database is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    pub(crate) cache_bytes: u64,
    pub(crate) flush_every_ms: u64,
}

/// A row's key and its new value; without one it is removed.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Key that the self-check writes.
const PROBE: &[u8] = b"p";

impl Database {
    /// Opens the database in `path`, or makes it, in a thread of its own: sled panics on some kinds of damage.
    pub(crate) fn open(path: &Path, tuning: Tuning) -> Result<Database, Failed> {
        let path = path.to_owned();
        let work = move || open_here(&path, tuning);
        let thread = std::thread::Builder::new().name("store-open".into()).spawn(work);
        let joined =
            thread.map_err(|error| Failed::around(format!("no thread to open it in: {error}")))?.join();
        joined.unwrap_or_else(|_| Err(Failed::damaged("sled panicked while opening it")))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failed> {
        fenced(|| self.db.get(key).map(|value| value.map(|value| value.to_vec())))
    }

    pub(crate) fn contains(&self, key: &[u8]) -> Result<bool, Failed> {
        fenced(|| self.db.contains_key(key))
    }

    /// Applies the rows, all or none of them even across a crash, without waiting for the disk.
    pub(crate) fn apply(&self, rows: Vec<Change>) -> Result<(), Failed> {
        let mut batch = sled::Batch::default();
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        fenced(|| self.db.apply_batch(batch.clone()))
    }

    /// Waits until everything applied is on disk.
    pub(crate) fn flush(&self) -> Result<(), Failed> {
        fenced(|| self.db.flush().map(drop))
    }

    /// Visits rows with `first <= key <= last` in order until `visit` answers false.
    pub(crate) fn scan(
        &self,
        first: &[u8],
        last: &[u8],
        descending: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Failed> {
        fenced(|| {
            let mut rows = self.db.range(first..=last);
            loop {
                let row = if descending { rows.next_back() } else { rows.next() };
                let Some(row) = row else { return Ok(()) };
                let (key, value) = row?;
                if !visit(&key, &value) {
                    return Ok(());
                }
            }
        })
    }
}

/// Removes what a crash may have left, opens, and checks that a flush is an fsync.
fn open_here(path: &Path, tuning: Tuning) -> Result<Database, Failed> {
    remove_unfinished_snapshots(path).map_err(|error| Failed::around(error.to_string()))?;
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(tuning.cache_bytes)
        .flush_every_ms(Some(tuning.flush_every_ms.max(1)))
        .mode(sled::Mode::LowSpace);
    let db = config.open().map_err(failed)?;
    let file = File::open(path.join("db")).map_err(|error| Failed::around(error.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let durable =
        durable::check(&file, || db.insert(PROBE, now.to_be_bytes().to_vec()).is_ok() && db.flush().is_ok());
    let durability = if durable { Durability::Durable } else { Durability::Degraded };
    Ok(Database { db, durability })
}

fn remove_unfinished_snapshots(path: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut removed = false;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
            removed = true;
        }
    }
    if removed { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Closes a database that failed, so that it can be opened again as after a power loss: what its files hold in memory
/// and the disk never took (the kernel marks it clean after a failed `fsync`) is forgotten, not read back as if it were
/// stored.
pub(crate) fn close_failed(database: Database, path: &Path) {
    if catch_unwind(AssertUnwindSafe(move || drop(database))).is_err() {
        tracing::debug!("sled panicked while closing a failed database");
    }
    for name in ["db", "conf"] {
        let forgotten = File::open(path.join(name)).map_err(|_| ()).and_then(|file| {
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(|_| ())
        });
        if forgotten.is_err() {
            tracing::debug!(name, "the kernel's copy of a failed database's file was kept");
        }
    }
}

/// Moves the database in `path` aside and says where to.
pub(crate) fn quarantine(path: &Path) -> std::io::Result<PathBuf> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = |number: &u32| !parent.join(format!("{name}{QUARANTINE}{seconds}-{number}")).exists();
    let number = (0..1000).find(free).unwrap_or(1000);
    let target = parent.join(format!("{name}{QUARANTINE}{seconds}-{number}"));
    fs::rename(path, &target)?;
    File::open(parent)?.sync_all()?;
    Ok(target)
}

/// Part of the name of a database that was moved aside.
pub(crate) const QUARANTINE: &str = ".quarantine-";

/// sled panics where it finds impossible pages; that is a failed database, not a failed daemon.
fn fenced<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Failed> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(Failed::damaged("sled panicked: a page on disk is damaged")),
    }
}

fn failed(error: sled::Error) -> Failed {
    use std::io::ErrorKind;
    match error {
        sled::Error::Io(error) => {
            let lock = error.to_string().contains("could not acquire lock");
            // A lack of descriptors or memory, or a disk that does not answer, says nothing about the database.
            let passing = matches!(
                error.raw_os_error(),
                Some(
                    libc::EMFILE
                        | libc::ENFILE
                        | libc::ENOMEM
                        | libc::EAGAIN
                        | libc::EINTR
                        | libc::ETIMEDOUT
                        | libc::ESTALE
                        | libc::EBUSY
                )
            );
            let surroundings = lock
                || passing
                || matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied
                        | ErrorKind::StorageFull
                        | ErrorKind::QuotaExceeded
                        | ErrorKind::ReadOnlyFilesystem
                        | ErrorKind::NotADirectory
                );
            Failed { detail: format!("input or output failed: {error}"), surroundings }
        }
        sled::Error::Corruption { .. } => Failed::damaged("a page on disk is damaged"),
        other => Failed::damaged(other.to_string()),
    }
}
