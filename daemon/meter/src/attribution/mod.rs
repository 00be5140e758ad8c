//! Who answers for a workload, on what evidence, and how sure.
//!
//! An *owner rule* is an administrator's sentence: if these conditions hold, that owner. The *index* is all of them,
//! compiled and immutable, apart by tenant. A condition is *controlled* if the workload cannot make it hold by itself,
//! else *self-asserted*; a rule is as strong as its weakest condition.
//!
//! Laws: self-asserted evidence alone stays below 0.80; no confidence exceeds 0.95; another tenant's rules never change
//! a tenant's records; with several tenants only controlled evidence chooses one; without an answer there is a reason.

pub mod combine;
pub mod confidence;
mod decide;
pub mod index;
pub mod rules;

use std::sync::Arc;

use crate::time::UnixNanos;
use confidence::Confidence;
pub use decide::{attribute, tenant_of};
pub use index::{OwnerConfig, OwnerIndex};
pub use rules::{Condition, Field, OwnerRule, Pattern};

/// Name of a tenant: 1 to 63 of `a-z 0-9 - _`, first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName(Arc<str>);

impl TenantName {
    /// Where everything belongs while no tenant is configured.
    pub const DEFAULT: &'static str = "default";
    /// Where unmatched traffic is sealed once two or more tenants are configured.
    pub const UNASSIGNED: &'static str = "unassigned";

    /// The name, or `None` if `text` is not one. It is also a directory name: no dot, no slash.
    pub fn new(text: &str) -> Option<TenantName> {
        let good =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        let first = *text.as_bytes().first()?;
        let valid = text.len() <= 63 && first.is_ascii_alphanumeric() && text.bytes().all(good);
        valid.then(|| TenantName(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who answers for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Tenant.
    pub tenant: TenantName,
    /// Team.
    pub team: Option<Arc<str>>,
    /// Service.
    pub service: Option<Arc<str>>,
    /// Cost centre.
    pub cost_centre: Option<Arc<str>>,
    /// Environment.
    pub environment: Option<Arc<str>>,
}

/// Attribution method of the product's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Direct match.
    R1,
    /// Temporal proximity.
    R2,
    /// Naming.
    R3,
    /// Stable history.
    R4,
    /// Service-account trace.
    R5,
}

impl Method {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::R1 => "R1",
            Method::R2 => "R2",
            Method::R3 => "R3",
            Method::R4 => "R4",
            Method::R5 => "R5",
        }
    }
}

/// One fact that supports an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Method it counts for.
    pub method: Method,
    /// Where it comes from: `cgroup`, `namespace_rule`, `label`, `unit`, `user`, `executable`, `host_name`, ..
    pub source: &'static str,
    /// The fact, in words without secrets: `rule[2]: namespace = "shop"`.
    pub statement: Box<str>,
    /// True if the workload can write it itself.
    pub self_asserted: bool,
    /// Weight in basis points.
    pub weight: u16,
    /// When it was observed; `None` for configuration.
    pub observed_at: Option<UnixNanos>,
}

/// Where an attribution comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageOrigin {
    /// Deterministic rules.
    StageA,
    /// Inferred by the model.
    StageB,
    /// Allocated.
    StageC,
}

impl StageOrigin {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            StageOrigin::StageA => "stage_a",
            StageOrigin::StageB => "stage_b",
            StageOrigin::StageC => "stage_c",
        }
    }
}

/// The product's closed list of outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputState {
    /// A deterministic rule on facts an administrator controls.
    DeterministicallyResolved,
    /// Strong but not deterministic evidence.
    StronglyInferred,
    /// One of a small set.
    Bounded,
    /// Several owners fit equally.
    Ambiguous,
    /// No evidence.
    Unknown,
    /// Cannot be known by construction.
    NotIdentifiable,
}

impl OutputState {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            OutputState::DeterministicallyResolved => "deterministically_resolved",
            OutputState::StronglyInferred => "strongly_inferred",
            OutputState::Bounded => "bounded",
            OutputState::Ambiguous => "ambiguous",
            OutputState::Unknown => "unknown",
            OutputState::NotIdentifiable => "not_identifiable",
        }
    }
}

/// Why there is no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NullReason {
    /// No configuration names owners.
    NoRules,
    /// No rule matched.
    NoRuleMatched,
    /// Rules of several owners matched with the same strength.
    Conflict,
    /// The index is older than its maximum staleness.
    IndexStale,
    /// The workload was gone before it could be identified.
    WorkloadUnknown,
}

impl NullReason {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            NullReason::NoRules => "no_rules",
            NullReason::NoRuleMatched => "no_rule_matched",
            NullReason::Conflict => "conflict",
            NullReason::IndexStale => "index_stale",
            NullReason::WorkloadUnknown => "workload_unknown",
        }
    }
}

/// An owner that was considered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whom.
    pub owner: Owner,
    /// With what confidence.
    pub confidence: Confidence,
    /// Why it was chosen or not.
    pub rationale: Box<str>,
}

/// Who answers for a record, and how sure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// The owner; always names a tenant (`default` or `unassigned` where nothing matched).
    pub owner: Owner,
    /// Where it comes from.
    pub stage: StageOrigin,
    /// Outcome.
    pub state: OutputState,
    /// How sure.
    pub confidence: Confidence,
    /// What supports it.
    pub evidence: Vec<Evidence>,
    /// Who else was considered, the chosen one first.
    pub candidates: Vec<Candidate>,
    /// Why there is no owner.
    pub null_reason: Option<NullReason>,
    /// When the index was built.
    pub freshness: UnixNanos,
    /// Generation of the index.
    pub index_generation: u64,
}
