//! The owner index: the administrator's rules, compiled, immutable, one sub-index per tenant.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::TenantName;
use super::confidence::Confidence;
use super::rules::{Field, OwnerRule, Pattern};
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
    compiled: Arc<Compiled>,
    generation: u64,
    built_at: UnixNanos,
}

/// The rules, apart by tenant: a tenant's records are computed from its own sub-index alone.
#[derive(Debug)]
struct Compiled {
    tenants: Vec<SubIndex>,
    trusted_labels: BTreeSet<Box<str>>,
    max_staleness_ns: u64,
    cap: Confidence,
    rules: usize,
}

/// One tenant's rules.
#[derive(Debug)]
pub(super) struct SubIndex {
    pub(super) tenant: TenantName,
    pub(super) rules: Vec<NumberedRule>,
}

/// A rule and its position in the configuration.
#[derive(Debug)]
pub(super) struct NumberedRule {
    pub(super) number: usize,
    pub(super) rule: OwnerRule,
}

impl OwnerIndex {
    /// Default age at which the index gives no more answers: 90 s.
    pub const MAX_STALENESS_NS: u64 = 90_000_000_000;

    /// An index without rules: everything belongs to the tenant `default`, owner unknown.
    pub fn empty(generation: u64, built_at: UnixNanos) -> OwnerIndex {
        let compiled = Compiled {
            tenants: vec![SubIndex { tenant: TenantName(TenantName::DEFAULT.into()), rules: Vec::new() }],
            trusted_labels: BTreeSet::new(),
            max_staleness_ns: Self::MAX_STALENESS_NS,
            cap: Confidence::CAP,
            rules: 0,
        };
        OwnerIndex { compiled: Arc::new(compiled), generation, built_at }
    }

    /// Compiles `config`; every problem is reported, with the rule's number.
    pub fn compile(
        config: &OwnerConfig,
        generation: u64,
        built_at: UnixNanos,
    ) -> Result<OwnerIndex, Vec<String>> {
        let OwnerConfig { tenants, rules, trusted_labels, max_staleness_ns, confidence_cap } = config;
        let mut problems = Vec::new();
        let mut names: Vec<TenantName> = Vec::new();
        for name in tenants.iter().chain(rules.iter().filter_map(|rule| rule.tenant.as_ref())) {
            if name.as_str() == TenantName::UNASSIGNED {
                problems
                    .push(format!("tenant {:?} is reserved for traffic that no rule matches", name.as_str()));
            } else if !names.contains(name) {
                names.push(name.clone());
            }
        }
        if names.is_empty() {
            names.push(TenantName(TenantName::DEFAULT.into()));
        }
        let several = names.len() > 1;
        let mut subs: Vec<SubIndex> =
            names.into_iter().map(|tenant| SubIndex { tenant, rules: Vec::new() }).collect();
        for (number, rule) in rules.iter().enumerate() {
            problems.extend(
                problems_of(rule, several).into_iter().map(|problem| format!("rule[{number}]: {problem}")),
            );
            let home = match &rule.tenant {
                Some(tenant) => subs.iter_mut().find(|sub| sub.tenant == *tenant),
                None => subs.first_mut(),
            };
            if let Some(sub) = home {
                sub.rules.push(NumberedRule { number, rule: normalized(rule) });
            }
        }
        if trusted_labels.iter().any(String::is_empty) {
            problems.push("trusted_labels: a label key is empty".to_owned());
        }
        if *max_staleness_ns == Some(0) {
            problems
                .push("max_staleness: 0 would make every answer stale; give at least one second".to_owned());
        }
        let cap = confidence_cap.map_or(Some(Confidence::CAP), Confidence::new);
        if cap.is_none() {
            problems.push("confidence_cap: must not exceed 0.95".to_owned());
        }
        match cap {
            Some(cap) if problems.is_empty() => {
                let compiled = Compiled {
                    tenants: subs,
                    trusted_labels: trusted_labels.iter().map(|key| key.as_str().into()).collect(),
                    max_staleness_ns: max_staleness_ns.unwrap_or(Self::MAX_STALENESS_NS),
                    cap,
                    rules: rules.len(),
                };
                Ok(OwnerIndex { compiled: Arc::new(compiled), generation, built_at })
            }
            _ => Err(problems),
        }
    }

    /// The same rules, found unchanged at `built_at`.
    pub fn refreshed(&self, generation: u64, built_at: UnixNanos) -> OwnerIndex {
        OwnerIndex { compiled: Arc::clone(&self.compiled), generation, built_at }
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
        self.compiled.max_staleness_ns
    }

    /// True if it is too old at `now`.
    pub fn is_stale(&self, now: UnixNanos) -> bool {
        now.0.saturating_sub(self.built_at.0) > self.max_staleness_ns()
    }

    /// Number of rules.
    pub fn rules(&self) -> usize {
        self.compiled.rules
    }

    /// Every tenant that records can belong to, `unassigned` included where there are two or more.
    pub fn tenants(&self) -> Vec<TenantName> {
        let mut names: Vec<TenantName> = self.compiled.tenants.iter().map(|sub| sub.tenant.clone()).collect();
        if names.len() > 1 {
            names.push(TenantName(TenantName::UNASSIGNED.into()));
        }
        names
    }

    /// The cap in force.
    pub fn confidence_cap(&self) -> Confidence {
        self.compiled.cap
    }

    /// Label keys whose values count as an administrator's.
    pub(super) fn trusted_labels(&self) -> &BTreeSet<Box<str>> {
        &self.compiled.trusted_labels
    }

    /// The sub-indexes; at least one.
    pub(super) fn subs(&self) -> &[SubIndex] {
        &self.compiled.tenants
    }
}

fn problems_of(rule: &OwnerRule, several_tenants: bool) -> Vec<&'static str> {
    let OwnerRule { conditions, tenant, team, service, cost_centre, environment } = rule;
    let mut problems = Vec::new();
    if conditions.is_empty() {
        problems.push("has no condition; it would match everything");
    }
    if conditions.iter().any(|condition| matches!(&condition.field, Field::Label(key) if key.is_empty())) {
        problems.push("a label condition has no key");
    }
    if conditions
        .iter()
        .any(|condition| matches!(&condition.pattern, Pattern::Exact(text) if text.is_empty()))
    {
        problems.push("a condition is empty; leave it out instead");
    }
    let named = [team, service, cost_centre, environment];
    if several_tenants && tenant.is_none() {
        problems.push("names no tenant, and there are several");
    }
    if tenant.is_none() && named.iter().all(|name| name.is_none()) {
        problems.push("names no owner; give at least one of tenant, team, service, cost_centre, environment");
    }
    if named.iter().any(|name| name.as_deref() == Some("")) {
        problems.push("an owner name is empty; leave it out instead");
    }
    problems
}

/// Host names compare without case.
fn normalized(rule: &OwnerRule) -> OwnerRule {
    let mut rule = rule.clone();
    for condition in &mut rule.conditions {
        if condition.field == Field::Host {
            let (Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text) | Pattern::Glob(text)) =
                &mut condition.pattern;
            *text = text.to_ascii_lowercase().into();
        }
    }
    rule
}
