//! What may be asked of one tenant's records, and the answers. Times are nanoseconds since 1970 UTC; ranges are half
//! open: `since` is included, `until` is not.

use std::sync::Arc;

use meter::exchange::Usage;
use meter::money::PicoUsd;
use meter::record::{Record, RecordId};
use meter::time::UnixNanos;

/// Which subjects a listing shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Both.
    #[default]
    Any,
    /// Exchanges only.
    Exchange,
    /// Flows only.
    Flow,
}

/// Records of a page when a query does not say.
pub const LIMIT_DEFAULT: usize = 100;
/// Records of a page at most; a larger limit is lowered to it.
pub const LIMIT_MAX: usize = 10_000;

/// A page of records, ordered by id (which is time to the millisecond).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Which subjects.
    pub kind: Kind,
    /// Records with `started_at >= since`.
    pub since: Option<UnixNanos>,
    /// Records with `started_at < until`.
    pub until: Option<UnixNanos>,
    /// Continue behind this record: above it, or below it if `descending`.
    pub after: Option<RecordId>,
    /// At most so many, 1 to [`LIMIT_MAX`]; 0 is [`LIMIT_DEFAULT`].
    pub limit: usize,
    /// Newest first.
    pub descending: bool,
}

/// Answer to a [`ListQuery`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order asked for.
    pub records: Vec<Record>,
    /// `after` of the next page; `None` if this was the last.
    pub next: Option<RecordId>,
}

/// What usage may be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupKey {
    /// Tenant: the same for all rows of one reader.
    Tenant,
    /// Team of the owner.
    Team,
    /// Service of the owner.
    Service,
    /// Cost centre of the owner.
    CostCentre,
    /// Environment of the owner.
    Environment,
    /// [`meter::workload::Workload::group_name`].
    Workload,
    /// Provider.
    Provider,
    /// Model that served, else the one that was asked for.
    Model,
}

impl GroupKey {
    /// All of them.
    pub const ALL: [GroupKey; 8] = [
        GroupKey::Tenant,
        GroupKey::Team,
        GroupKey::Service,
        GroupKey::CostCentre,
        GroupKey::Environment,
        GroupKey::Workload,
        GroupKey::Provider,
        GroupKey::Model,
    ];

    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            GroupKey::Tenant => "tenant",
            GroupKey::Team => "team",
            GroupKey::Service => "service",
            GroupKey::CostCentre => "cost_centre",
            GroupKey::Environment => "environment",
            GroupKey::Workload => "workload",
            GroupKey::Provider => "provider",
            GroupKey::Model => "model",
        }
    }

    /// The key of that name, or `None`.
    pub fn from_name(name: &str) -> Option<GroupKey> {
        GroupKey::ALL.into_iter().find(|key| key.as_str() == name)
    }
}

/// Sums over exchanges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// Exchanges with `started_at >= since`; `None`: from the first.
    pub since: Option<UnixNanos>,
    /// Exchanges with `started_at < until`; `None`: to the last.
    pub until: Option<UnixNanos>,
    /// One row per combination of these; empty: one row per bucket.
    pub group_by: Vec<GroupKey>,
    /// Width of a time bucket, a multiple of 3,600; 0: one bucket for the whole range.
    pub bucket_seconds: u64,
}

/// Sums of one group in one bucket. Operations that are not inference add no usage and no cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageRow {
    /// Start of the bucket, a multiple of its width since 1970; with one bucket `since` of the query, or the hour of
    /// the first exchange.
    pub bucket_start: UnixNanos,
    /// The group, in the order asked for; `None` where the value is unknown.
    pub group: Vec<(GroupKey, Option<Arc<str>>)>,
    /// Exchanges.
    pub exchanges: u64,
    /// Of which the provider's token counts are unknown.
    pub exchanges_without_usage: u64,
    /// Of which the cost is unknown.
    pub exchanges_without_cost: u64,
    /// Of which failed: HTTP status 400 or above, or an error in the answer.
    pub errors: u64,
    /// Sums of what is known; `None` if no exchange reported it.
    pub usage: Usage,
    /// Sum of the known costs; `None` if none is known.
    pub amount: Option<PicoUsd>,
    /// The part of it whose owner's confidence makes it chargeback-eligible; `None` if `amount` is.
    pub eligible: Option<PicoUsd>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database failed, or its disk does not answer; the text is sled's, without data.
    #[error("store of tenant {tenant}: {detail}; it is tried again by itself, see `venturi status`")]
    Failed {
        /// Tenant.
        tenant: String,
        /// What the database says.
        detail: String,
    },
    /// The query breaks a rule.
    #[error("query: {0}")]
    BadQuery(&'static str),
}
