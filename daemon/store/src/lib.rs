//! The records of each tenant: sealed, durable once acknowledged, readable for that tenant alone.
//!
//! **Durable when.** [`Stores::commit`] returns after the batch is flushed with `fsync`; readers see a record only then.
//! A kill or a power loss at any point loses nothing that a reader has seen. Whether a flush really reaches `fsync` is
//! checked when a database is opened, and said in [`TenantState::durability`].
//!
//! **What a stolen disk reveals.** Tenant names, the number and times of records, and which are exchanges. Every value
//! is sealed with AES-256-GCM-SIV under a data key that is wrapped by a key file kept elsewhere, bound to its place; the
//! names of roll-up rows are keyed hashes.
//!
//! **What this package never does.** It gives no store a new key, shows no row that does not verify, and does not stop:
//! a database that will not open is moved aside alone, a full disk is counted.
//!
//! Order: [`prepare`] as root, confinement, [`open`].

mod database;
mod durable;
mod feed;
mod format;
mod gate;
mod key;
mod layout;
mod life;
mod query;
mod reach;
mod read;
mod report;
mod retention;
mod rollup;
mod rows;
mod seal;
mod state;
mod stores;
mod tenant;
#[cfg(test)]
mod tests;

pub use feed::{FeedQuery, Position, Stretch};
pub use layout::{Layout, PrepareError, Prepared, prepare};
pub use query::{GroupKey, Kind, LIMIT_DEFAULT, LIMIT_MAX, ListQuery, Page, ReadError, UsageQuery, UsageRow};
pub use reach::{Closed, closed};
pub use read::TenantReader;
pub use retention::Retention;
pub use state::{CommitError, CommitOutcome, Durability, StoreState, TenantCommit, TenantState};
pub use stores::{Options, Stores, open};

/// A row read as a record and written again; `None` if it is none. For tests of the format with arbitrary bytes.
#[doc(hidden)]
pub fn rewritten(row: &[u8]) -> Option<Vec<u8>> {
    format::decode(meter::record::RecordId(0), row).map(|record| format::encode(&record))
}
