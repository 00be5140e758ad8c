//! All tenants' stores behind one handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meter::attribution::TenantName;
use meter::record::Record;
use meter::time::UnixNanos;
use zeroize::Zeroizing;

use crate::layout::Prepared;
use crate::read::TenantReader;
use crate::retention::Retention;
use crate::state::{CommitError, CommitOutcome, TenantCommit, TenantState};
use crate::tenant::Tenant;

/// Choices for [`open`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Page cache of each tenant's database, bytes.
    pub cache_bytes: u64,
    /// Interval of the database's own background flush, ms. Commits flush at once in any case.
    pub flush_every_ms: u64,
    /// Free space below which nothing is written, bytes: the database must never see a full disk, and neither should
    /// the node's other programs because of us.
    pub reserve_bytes: u64,
    /// How long a failed database rests before it is opened again.
    pub revive_after: Duration,
    /// What is kept of tenants that are not in `retention_of`.
    pub retention: Retention,
    /// What is kept of single tenants.
    pub retention_of: Vec<(TenantName, Retention)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_bytes: 4 << 20,
            flush_every_ms: 200,
            reserve_bytes: 64 << 20,
            revive_after: Duration::from_secs(5),
            retention: Retention::default(),
            retention_of: Vec::new(),
        }
    }
}

/// Opens every tenant's database; one that will not open is quarantined alone and an empty one started. Starts threads.
/// May take seconds after a crash: databases read their log.
pub fn open(prepared: Prepared, options: Options) -> Stores {
    let Prepared { tenants, lock } = prepared;
    let lock = Arc::new(lock);
    let mut opened = Vec::with_capacity(tenants.len());
    for prepared in tenants {
        let name = prepared.name.clone();
        match Tenant::open(prepared, &options, lock.clone()) {
            Ok(tenant) => opened.push(Arc::new(tenant)),
            Err(_) => {
                tracing::error!(tenant = name.as_str(), "the cipher library failed; the tenant is not served")
            }
        }
    }
    Stores(Arc::new(Inner { tenants: opened, homeless: AtomicU64::new(0) }))
}

impl Options {
    pub(crate) fn retention_of(&self, tenant: &TenantName) -> Retention {
        let own = self.retention_of.iter().find(|(name, _)| name == tenant);
        own.map_or(self.retention, |(_, retention)| *retention)
    }
}

/// The stores of all tenants. Cheap to clone, shared by threads. The directory's lock is held until the last clone and
/// reader is gone.
#[derive(Clone)]
pub struct Stores(Arc<Inner>);

struct Inner {
    tenants: Vec<Arc<Tenant>>,
    /// Records whose tenant has no store.
    homeless: AtomicU64,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.tenants.iter().map(|tenant| tenant.name.as_str())).finish()
    }
}

impl Stores {
    /// Stores a batch, each record with its owner's tenant, and flushes; blocks for the time of an `fsync` per tenant.
    /// A record whose id is there already is left as it is. A tenant whose disk is full or whose database failed does
    /// not hold up the others; its records are counted as lost.
    pub fn commit(&self, records: &[Record]) -> CommitOutcome {
        let mut groups: Vec<(&TenantName, Vec<&Record>)> = Vec::new();
        for record in records {
            let name = &record.attribution.owner.tenant;
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, group)) => group.push(record),
                None => groups.push((name, vec![record])),
            }
        }
        let commit = |(name, group): (&TenantName, Vec<&Record>)| match self.tenant(name) {
            Some(tenant) => tenant.commit(&group),
            None => {
                self.0.homeless.fetch_add(group.len() as u64, Ordering::Relaxed);
                TenantCommit {
                    tenant: name.clone(),
                    records: group.len(),
                    duplicates: 0,
                    result: Err(CommitError::NoSuchTenant(name.as_str().to_owned())),
                    written: Vec::new(),
                }
            }
        };
        CommitOutcome { tenants: groups.into_iter().map(commit).collect() }
    }

    /// Whether a commit would find room now, whatever its tenant; takes as long as the disk takes to say what is free.
    ///
    /// # Errors
    /// [`CommitError::DiskFull`] of the first tenant that has none.
    pub fn find_room(&self) -> Result<(), CommitError> {
        self.0.tenants.iter().try_for_each(|tenant| tenant.find_room())
    }

    /// Reader of exactly one tenant; `None` if no store was prepared for it.
    pub fn reader(&self, tenant: &TenantName) -> Option<TenantReader> {
        self.tenant(tenant).cloned().map(TenantReader)
    }

    /// Deletes what retention lets go by `now`, opens failed databases again, and measures what is on disk. To be called
    /// about once a minute; takes as long as the disk does.
    pub fn upkeep(&self, now: UnixNanos) {
        for tenant in &self.0.tenants {
            tenant.expire(now);
            tenant.measure();
        }
    }

    /// One entry per tenant, in the order given to [`crate::prepare`]. Answers at once, whatever the disk does.
    pub fn states(&self) -> Vec<TenantState> {
        self.0.tenants.iter().map(|tenant| tenant.state()).collect()
    }

    /// Records that were not stored because their tenant has no store, since the daemon started.
    pub fn homeless(&self) -> u64 {
        self.0.homeless.load(Ordering::Relaxed)
    }

    /// Key for fingerprints of API keys seen in a tenant's traffic; `None` if no store was prepared for it.
    pub fn fingerprint_key(&self, tenant: &TenantName) -> Option<Zeroizing<[u8; 32]>> {
        self.tenant(tenant).map(|tenant| tenant.fingerprint_key())
    }

    fn tenant(&self, name: &TenantName) -> Option<&Arc<Tenant>> {
        self.0.tenants.iter().find(|tenant| tenant.name == *name)
    }
}
