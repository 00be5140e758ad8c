//! Directories, identities and key files: everything that is done as root, before confinement.
//!
//! ```text
//! STATE/lock                     held while the daemon lives
//! STATE/tenants/NAME/identity    store id, wrapped data key, commitment
//! STATE/tenants/NAME/db/         the database, made later by the unprivileged daemon
//! STATE/tenants/NAME/db.quarantine-*/
//! KEYS/NAME.key                  wrapping key, for root alone
//! ```
//!
//! The tenants' directories belong to the unprivileged daemon, so what lies in them may be its doing: nothing here
//! follows a symbolic link below `STATE`, changes an owner of anything but what it just made, or creates a key for a
//! store that exists.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use meter::attribution::TenantName;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, fchown};
use prost::Message as _;

use crate::format::{IDENTITY_FORMAT, Identity};
use crate::key::{FILE_BYTES, Secret, StoreId, WrappingKey, commitment, join, same};
use crate::reach::closed;

/// Where the stores and their keys are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Databases and their identities: `STATE/tenants/NAME/`.
    pub state_dir: PathBuf,
    /// Wrapping keys: `KEYS/NAME.key`. Not below `state_dir`.
    pub key_dir: PathBuf,
}

/// Unwrapped data keys and the held lock: everything [`crate::open`] needs that an unprivileged process may not read.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) tenants: Vec<PreparedTenant>,
    pub(crate) lock: File,
}

#[derive(Debug)]
pub(crate) struct PreparedTenant {
    pub(crate) name: TenantName,
    pub(crate) dir: PathBuf,
    pub(crate) store: StoreId,
    pub(crate) data_key: Secret,
}

/// Why the stores cannot be used. Nothing was changed that a second try would not do again.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A key must not be used; the store stays as it is.
    #[error("key of tenant {tenant} refused: {path}: {why}")]
    KeyRefused {
        /// Tenant.
        tenant: String,
        /// Key file, or the identity that goes with it.
        path: PathBuf,
        /// Reason and remedy.
        why: String,
    },
    /// Another daemon holds the directory.
    #[error("{path} is held by another daemon: stop it, or choose another --state-dir")]
    Locked {
        /// Lock file.
        path: PathBuf,
    },
    /// A directory or file cannot be used.
    #[error("{path}: {why}")]
    Unusable {
        /// What.
        path: PathBuf,
        /// Reason and remedy.
        why: String,
    },
}

impl PrepareError {
    /// The daemon's exit code: 78 for a key that must be refused, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, PrepareError::KeyRefused { .. }) { 78 } else { 1 }
    }
}

/// Bytes of an identity file at most.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// As root, before confinement, while single-threaded: makes the directories (for `owner`, a uid and gid, where given),
/// makes a key for each new tenant, unwraps the data keys, and takes the lock.
///
/// # Errors
/// See [`PrepareError`]. One refused key refuses the start: an operator must see it, and serving without a tenant would
/// lose its records.
pub fn prepare(
    layout: &Layout,
    tenants: &[TenantName],
    owner: Option<(u32, u32)>,
) -> Result<Prepared, PrepareError> {
    let state = Dir::open_or_make(&layout.state_dir)?;
    state.hand_over_if_ours(owner)?;
    let keys = Dir::open_or_make(&layout.key_dir)?;
    // Every directory on the way counts. The keys are root's alone; the databases are made later, by the daemon's user.
    if let Some(closed) = owner.and_then(|owner| closed(&layout.state_dir, Some(owner))) {
        return Err(unusable(&layout.state_dir, format!("{closed}, or choose another --state-dir")));
    }
    keys.refuse_if_writable_by_others()?;
    refuse_nested(layout)?;
    let lock = take_lock(&state)?;
    let all = state.child(TENANTS, owner)?;
    let prepare_one = |name: &TenantName| prepare_tenant(&all, &keys, name, owner);
    Ok(Prepared { tenants: tenants.iter().map(prepare_one).collect::<Result<_, _>>()?, lock })
}

const TENANTS: &str = "tenants";
const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
pub(crate) const DATABASE: &str = "db";

fn prepare_tenant(
    all: &Dir,
    keys: &Dir,
    name: &TenantName,
    owner: Option<(u32, u32)>,
) -> Result<PreparedTenant, PrepareError> {
    let dir = all.child(name.as_str(), owner)?;
    let key_name = format!("{}.key", name.as_str());
    let key_path = keys.path.join(&key_name);
    let refuse = |path: &Path, why: &str| PrepareError::KeyRefused {
        tenant: name.as_str().to_owned(),
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let identity_path = dir.path.join(IDENTITY);
    let identity = dir.read(IDENTITY, IDENTITY_BYTES_MAX)?;
    let key = read_key(keys, &key_name).map_err(|why| refuse(&key_path, &why))?;
    let fail = |_| refuse(&key_path, "the cipher library failed");

    let Some(identity) = identity else {
        if dir.holds(DATABASE)? {
            let why = "the identity of this store is missing, so its records cannot be opened: restore the file from \
                       its backup, or move the tenant's directory away to start an empty store";
            return Err(refuse(&identity_path, why));
        }
        // A key without a store was left by a start that was cut short, or by a store that was moved away.
        let key = match key {
            Some(key) => key,
            None => {
                let key =
                    WrappingKey { store: StoreId::new().map_err(fail)?, key: Secret::new().map_err(fail)? };
                keys.write(&key_name, &key.to_file(), None)?;
                key
            }
        };
        let data_key = Secret::new().map_err(fail)?;
        let identity = Identity {
            format: IDENTITY_FORMAT,
            tenant: name.as_str().to_owned(),
            store_id: key.store.0.to_vec(),
            wrapped_key: key.wrap(&data_key, &bound_to(name, key.store)).map_err(fail)?,
            commitment: commitment(&data_key, key.store).map_err(fail)?.to_vec(),
        };
        dir.write(IDENTITY, &identity.encode_to_vec(), owner)?;
        return Ok(PreparedTenant { name: name.clone(), dir: dir.path, store: key.store, data_key });
    };

    let identity = Identity::decode(&identity[..])
        .map_err(|_| refuse(&identity_path, "damaged: restore the file from its backup"))?;
    if identity.format != IDENTITY_FORMAT {
        return Err(refuse(&identity_path, "written by a newer version of the daemon: install that version"));
    }
    if identity.tenant != name.as_str() {
        let why = format!("this store belongs to tenant {:?}: put the directories back", identity.tenant);
        return Err(refuse(&identity_path, &why));
    }
    let Some(key) = key else {
        let why = "missing, and a store is never given a new key: restore the file from its backup, or move the \
                   tenant's directory away to start an empty store";
        return Err(refuse(&key_path, why));
    };
    if key.store.0[..] != identity.store_id[..] {
        let why = format!("it belongs to store {}, not to this one: restore the right file", key.store);
        return Err(refuse(&key_path, &why));
    }
    let data_key = key.unwrap(&identity.wrapped_key, &bound_to(name, key.store)).map_err(|_| {
        refuse(&key_path, "it does not open the data key of this store: restore the right file")
    })?;
    if !same(&commitment(&data_key, key.store).map_err(fail)?, &identity.commitment) {
        return Err(refuse(&identity_path, "the data key is not the one this store was made with"));
    }
    Ok(PreparedTenant { name: name.clone(), dir: dir.path, store: key.store, data_key })
}

fn bound_to(name: &TenantName, store: StoreId) -> Vec<u8> {
    join(&[b"venturi data key", &IDENTITY_FORMAT.to_be_bytes(), name.as_str().as_bytes(), &store.0])
}

fn read_key(keys: &Dir, name: &str) -> Result<Option<WrappingKey>, String> {
    let file = match keys.open_file(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    let meta = file.metadata().map_err(|error| format!("cannot be examined: {error}"))?;
    if !meta.is_file() {
        return Err("not a regular file".to_owned());
    }
    if meta.mode() & 0o077 != 0 {
        return Err(format!("others may use it (mode {:04o}): chmod 600", meta.mode() & 0o7777));
    }
    if meta.uid() != 0 && meta.uid() != Uid::effective().as_raw() {
        return Err(format!("it belongs to uid {}: chown it to the user that starts the daemon", meta.uid()));
    }
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(FILE_BYTES + 1));
    file.take(FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    WrappingKey::from_file(&bytes).map(Some).map_err(str::to_owned)
}

fn refuse_nested(layout: &Layout) -> Result<(), PrepareError> {
    let (state, keys) = (layout.state_dir.canonicalize(), layout.key_dir.canonicalize());
    match (state, keys) {
        (Ok(state), Ok(keys)) if keys.starts_with(&state) || state.starts_with(&keys) => Err(unusable(
            &layout.key_dir,
            "the key directory and the state directory must not contain each other",
        )),
        (Ok(_), Ok(_)) => Ok(()),
        (Err(error), _) => Err(unusable(&layout.state_dir, error)),
        (_, Err(error)) => Err(unusable(&layout.key_dir, error)),
    }
}

fn take_lock(state: &Dir) -> Result<File, PrepareError> {
    let path = state.path.join(LOCK);
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(openat(&state.fd, LOCK, flags, FOR_US).map_err(|error| unusable(&path, error))?);
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PrepareError::Locked { path }),
        Err(TryLockError::Error(error)) => Err(unusable(&path, error)),
    }
}

const FOR_US: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
const DIR_FOR_US: Mode = Mode::S_IRWXU;

/// An open directory: names below it are looked up without following symbolic links.
struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// The directory that the operator named; its own path may go through symbolic links.
    fn open_or_make(path: &Path) -> Result<Dir, PrepareError> {
        let refused = |error: io::Error| match closed(path, None) {
            Some(closed) => unusable(path, format!("{closed}, or choose another directory")),
            None => unusable(path, error),
        };
        // What is above it is not ours alone: the daemon's user has to pass.
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let made = above.map_or(Ok(()), |above| DirBuilder::new().recursive(true).mode(0o755).create(above));
        made.and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(path)).map_err(refused)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty()).map_err(|error| refused(error.into()))?;
        Ok(Dir { fd, path: path.to_owned() })
    }

    /// Gives the state directory to `owner` if it is new or holds our tenants. A directory that holds other things
    /// keeps its owner and mode.
    fn hand_over_if_ours(&self, owner: Option<(u32, u32)>) -> Result<(), PrepareError> {
        let empty =
            std::fs::read_dir(&self.path).map_err(|error| unusable(&self.path, error))?.next().is_none();
        if empty || self.holds(TENANTS)? {
            if let Some((uid, gid)) = owner {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                fchown(&self.fd, Some(uid), Some(gid)).map_err(|error| unusable(&self.path, error))?;
            }
            return fchmod(&self.fd, DIR_FOR_US).map_err(|error| unusable(&self.path, error));
        }
        Ok(())
    }

    fn refuse_if_writable_by_others(&self) -> Result<(), PrepareError> {
        let meta = std::fs::metadata(&self.path).map_err(|error| unusable(&self.path, error))?;
        if meta.mode() & 0o022 != 0 {
            let why = format!(
                "others may write to the key directory (mode {:04o}): chmod 700",
                meta.mode() & 0o7777
            );
            return Err(unusable(&self.path, why));
        }
        Ok(())
    }

    /// The directory `name`, made for `owner` if it is not there.
    fn child(&self, name: &str, owner: Option<(u32, u32)>) -> Result<Dir, PrepareError> {
        let path = self.path.join(name);
        let made = match mkdirat(&self.fd, name, DIR_FOR_US) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(unusable(&path, error)),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty()).map_err(|error| unusable(&path, error))?;
        let dir = Dir { fd, path };
        if let Some((uid, gid)) = owner {
            if made {
                fchown(&dir.fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                    .map_err(|error| unusable(&dir.path, error))?;
            } else {
                let held_by =
                    nix::sys::stat::fstat(&dir.fd).map_err(|error| unusable(&dir.path, error))?.st_uid;
                if held_by != uid {
                    let why = format!("belongs to uid {held_by}, the daemon runs as {uid}: chown -R it");
                    return Err(unusable(&dir.path, why));
                }
            }
        }
        if made {
            self.sync()?;
        }
        Ok(dir)
    }

    fn holds(&self, name: &str) -> Result<bool, PrepareError> {
        match nix::sys::stat::fstatat(&self.fd, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(unusable(&self.path.join(name), error)),
        }
    }

    fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, name, flags, Mode::empty())?))
    }

    /// The file's content, at most `limit` bytes of it; `None` if there is no such file.
    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, PrepareError> {
        let path = self.path.join(name);
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&path, error)),
        };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|error| unusable(&path, error))?;
        Ok(Some(bytes))
    }

    /// Makes the file as a whole or not at all: written beside, synced, renamed, directory synced.
    fn write(&self, name: &str, bytes: &[u8], owner: Option<(u32, u32)>) -> Result<(), PrepareError> {
        let path = self.path.join(name);
        let beside = format!("{name}.new");
        match nix::unistd::unlinkat(&self.fd, beside.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(unusable(&path, error)),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, beside.as_str(), flags, FOR_US).map_err(|error| unusable(&path, error))?;
        let mut file = File::from(fd);
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|error| unusable(&path, error))?;
        }
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| unusable(&path, error))?;
        renameat(&self.fd, beside.as_str(), &self.fd, name).map_err(|error| unusable(&path, error))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), PrepareError> {
        nix::unistd::fsync(&self.fd).map_err(|error| unusable(&self.path, error))
    }
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> PrepareError {
    PrepareError::Unusable { path: path.to_owned(), why: why.to_string() }
}
