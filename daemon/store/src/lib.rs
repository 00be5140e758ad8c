//! The records of each tenant: sealed, durable once acknowledged, readable for that tenant alone.

mod query;
mod state;

use std::path::PathBuf;

use meter::attribution::TenantName;
use meter::record::{Record, RecordId};
use zeroize::Zeroizing;

pub use query::{GroupKey, Kind, LIMIT_DEFAULT, LIMIT_MAX, ListQuery, Page, ReadError, UsageQuery, UsageRow};
pub use state::{CommitError, CommitOutcome, Durability, StoreState, TenantCommit, TenantState};

/// Where the stores and their keys are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Databases and their identities: `STATE/tenants/NAME/`.
    pub state_dir: PathBuf,
    /// Wrapping keys: `KEYS/NAME.key`. Not below `state_dir`.
    pub key_dir: PathBuf,
}

/// Unwrapped data keys and held locks: everything [`open`] needs that an unprivileged process may not read.
#[derive(Debug)]
pub struct Prepared(());

/// Why the stores cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A key file must not be used; the store stays as it is.
    #[error("key of tenant {tenant} refused: {path}: {why}")]
    KeyRefused {
        /// Tenant.
        tenant: String,
        /// Key file.
        path: PathBuf,
        /// Reason and remedy.
        why: String,
    },
    /// Another daemon holds the directory.
    #[error("{path} is in use by another daemon: stop it, or choose another --state-dir")]
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

/// Choices for [`open`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Page cache of each tenant's database, bytes.
    pub cache_bytes: u64,
    /// Interval of the database's own background flush, ms. Commits flush at once in any case.
    pub flush_every_ms: u64,
    /// Free space below which nothing is written, bytes.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache_bytes: 4 << 20, flush_every_ms: 200, reserve_bytes: 64 << 20 }
    }
}

/// As root, before confinement, while single-threaded: makes the directories (for `owner`, a uid and gid), makes or
/// reads each tenant's key, and takes the lock.
pub fn prepare(
    _layout: &Layout,
    _tenants: &[TenantName],
    _owner: Option<(u32, u32)>,
) -> Result<Prepared, PrepareError> {
    Err(PrepareError::Unusable { path: PathBuf::new(), why: "the store is not built yet".into() })
}

/// Opens every tenant's database; one that will not open is quarantined alone. Starts threads.
pub fn open(_prepared: Prepared, _options: Options) -> Stores {
    Stores(())
}

/// The stores of all tenants. Cheap to clone, shared by threads.
#[derive(Clone, Debug)]
pub struct Stores(());

impl Stores {
    /// Stores a batch and flushes it; blocks for the time of an `fsync` per tenant. A record whose id is there already
    /// is left as it is.
    pub fn commit(&self, _records: &[Record]) -> CommitOutcome {
        CommitOutcome::default()
    }

    /// Reader of exactly one tenant; `None` if there is no such tenant.
    pub fn reader(&self, _tenant: &TenantName) -> Option<TenantReader> {
        None
    }

    /// One entry per tenant, in the order of [`prepare`].
    pub fn states(&self) -> Vec<TenantState> {
        Vec::new()
    }

    /// Key for fingerprints of API keys seen in a tenant's traffic; `None` if there is no such tenant.
    pub fn fingerprint_key(&self, _tenant: &TenantName) -> Option<Zeroizing<[u8; 32]>> {
        None
    }
}

/// Reads the flushed records of exactly one tenant. Cheap to clone. Blocks: not for an async worker thread.
#[derive(Clone, Debug)]
pub struct TenantReader(());

impl TenantReader {
    /// The record, or `None`.
    pub fn get(&self, _id: RecordId) -> Result<Option<Record>, ReadError> {
        Ok(None)
    }

    /// A page of records.
    pub fn list(&self, _query: &ListQuery) -> Result<Page, ReadError> {
        Ok(Page::default())
    }

    /// Sums over exchanges, ordered by bucket, then group.
    pub fn usage(&self, _query: &UsageQuery) -> Result<Vec<UsageRow>, ReadError> {
        Ok(Vec::new())
    }
}
