//! What the stores say of themselves, and what became of a batch.

use std::time::Duration;

use meter::attribution::TenantName;
use meter::record::RecordId;
use meter::time::UnixNanos;

use crate::retention::Retention;

/// Condition of a tenant's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Serving.
    Open,
    /// Its database was damaged and moved aside, and an empty one serves in its place.
    Quarantined,
    /// It has no database at the moment (`detail` says why): records are counted, not stored. Tried again by itself.
    Failed,
    /// The disk has not answered for seconds: nothing is stored meanwhile, and questions are refused.
    Stuck,
    /// Serving writes; holds traffic of no tenant, which no tenant's credential may read.
    Sealed,
}

impl StoreState {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreState::Open => "open",
            StoreState::Quarantined => "quarantined",
            StoreState::Failed => "failed",
            StoreState::Stuck => "stuck",
            StoreState::Sealed => "sealed",
        }
    }
}

/// Whether an acknowledged record survives power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The self-check saw that a flush reaches `fsync`.
    Durable,
    /// It did not: records survive the death of the process, but perhaps not of the machine.
    Degraded,
}

impl Durability {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Durable => "durable",
            Durability::Degraded => "degraded",
        }
    }
}

/// One tenant's store, for status and diagnosis.
#[derive(Clone, Debug)]
pub struct TenantState {
    /// Tenant.
    pub tenant: TenantName,
    /// Condition.
    pub state: StoreState,
    /// Who holds the wrapping key: `local`.
    pub key_custody: &'static str,
    /// Records in it.
    pub records: u64,
    /// Bytes of their rows, as sealed: what [`Retention::records_bytes_max`] limits.
    pub records_bytes: u64,
    /// Start of the hour of the oldest of them, as of the last [`crate::Stores::upkeep`]; `None`: none, or not known.
    pub oldest: Option<UnixNanos>,
    /// Bytes of the database's files, as of the last [`crate::Stores::upkeep`].
    pub database_bytes: u64,
    /// Bytes on disk, of this tenant, quarantined databases included, as of the last [`crate::Stores::upkeep`].
    pub disk_bytes: u64,
    /// Whether acknowledged means durable.
    pub durability: Durability,
    /// For how long the disk has not answered, if it is stuck.
    pub stuck_for: Option<Duration>,
    /// In words: what is wrong and what to do. Empty if nothing is.
    pub detail: String,
    /// What is kept.
    pub retention: Retention,
    /// Databases moved aside since the daemon started.
    pub recoveries: u64,
    /// Rows that did not verify when read, since the daemon started: counted, never shown.
    pub rows_refused: u64,
    /// Records lost since the daemon started because the disk was full or the database failed.
    pub records_lost: u64,
    /// Acknowledged records that damage on disk took from the database, since it was made. Quarantined ones not counted.
    pub records_missing: u64,
    /// Records that retention has deleted from the database, since it was made.
    pub records_expired: u64,
    /// Records in databases that were moved aside, as far as that is known.
    pub records_aside: u64,
}

/// Why records of a tenant were not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// No store was prepared for that tenant.
    #[error("no store for tenant {0}: add it to the configuration and restart")]
    NoSuchTenant(String),
    /// Free space is below the reserve.
    #[error("disk full: {free} bytes free, {reserve} are kept in reserve; records are counted, not stored")]
    DiskFull {
        /// Bytes free for us.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },
    /// The database failed; the text is the database's, without data.
    #[error("database failed: {0}")]
    Failed(String),
}

/// What became of the records of one tenant.
#[derive(Clone, Debug)]
pub struct TenantCommit {
    /// Tenant.
    pub tenant: TenantName,
    /// Records of the batch that belong to it.
    pub records: usize,
    /// Of which were there already, under the same id.
    pub duplicates: usize,
    /// `Ok`: all of them are flushed. `Err`: none of them counts as stored.
    pub result: Result<(), CommitError>,
    /// Ids written by this batch, without duplicates; empty on error.
    pub written: Vec<RecordId>,
}

/// What became of a batch. Tenants do not affect each other.
#[derive(Clone, Debug, Default)]
pub struct CommitOutcome {
    /// One entry per tenant in the batch.
    pub tenants: Vec<TenantCommit>,
}

impl CommitOutcome {
    /// Whether the records of `tenant` in this batch are flushed: only then may they be shown to anyone.
    pub fn stored(&self, tenant: &TenantName) -> bool {
        self.tenants.iter().any(|entry| entry.tenant == *tenant && entry.result.is_ok())
    }

    /// Records that were not stored.
    pub fn lost(&self) -> usize {
        self.tenants.iter().filter(|entry| entry.result.is_err()).map(|entry| entry.records).sum()
    }
}
