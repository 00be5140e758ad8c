//! From the index and a workload to an owner: pick the tenant, then the owner within it.

use super::combine::{self, Signal};
use super::confidence::{Band, Confidence, SelfAsserted};
use super::index::{NumberedRule, SubIndex};
use super::rules::{Condition, Field, OwnerRule};
use super::{
    Attribution, Candidate, Evidence, Method, NullReason, OutputState, Owner, OwnerIndex, StageOrigin,
    TenantName,
};
use crate::time::UnixNanos;
use crate::workload::{Workload, WorkloadEvidence};

/// Who answers for a call of `workload` to `host`, by `index` as it is at `now`. Never fails: without an answer it says
/// why.
pub fn attribute(host: Option<&str>, workload: &Workload, index: &OwnerIndex, now: UnixNanos) -> Attribution {
    let draft = Draft { workload, index, now };
    match claimant(host, workload, index, now) {
        Ok(sub) => draft.decide(&Found::of(sub, host, workload, index)),
        Err(reason) => draft.null(fallback(index), reason),
    }
}

/// The tenant that [`attribute`] names, without the work of finding its evidence.
pub fn tenant_of(host: Option<&str>, workload: &Workload, index: &OwnerIndex, now: UnixNanos) -> TenantName {
    claimant(host, workload, index, now).map_or_else(|_| fallback(index), |sub| sub.tenant.clone())
}

/// The tenant whose records these are: the only one of the node, or the only one with a rule that holds on controlled
/// evidence. What the workload writes itself must not choose it.
fn claimant<'a>(
    host: Option<&str>,
    workload: &Workload,
    index: &'a OwnerIndex,
    now: UnixNanos,
) -> Result<&'a SubIndex, NullReason> {
    if index.is_stale(now) {
        return Err(NullReason::IndexStale);
    }
    if let [only] = index.subs() {
        return Ok(only);
    }
    let claims = |found: &NumberedRule| {
        let controlled = |condition: &Condition| !condition.self_asserted(workload, index.trusted_labels());
        found.rule.conditions.iter().all(|one| controlled(one) && one.holds(host, workload))
    };
    let mut claimants = index.subs().iter().filter(|sub| sub.rules.iter().any(claims));
    match (claimants.next(), claimants.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(NullReason::Conflict),
        (None, _) => Err(why_unmatched(workload, index)),
    }
}

fn why_unmatched(workload: &Workload, index: &OwnerIndex) -> NullReason {
    match (index.rules(), workload.evidence) {
        (0, _) => NullReason::NoRules,
        (_, WorkloadEvidence::Unknown) => NullReason::WorkloadUnknown,
        _ => NullReason::NoRuleMatched,
    }
}

/// Where records without a tenant belong.
fn fallback(index: &OwnerIndex) -> TenantName {
    match index.subs() {
        [only] => only.tenant.clone(),
        _ => TenantName(TenantName::UNASSIGNED.into()),
    }
}

/// The rules of one tenant that hold.
struct Found<'a> {
    tenant: &'a TenantName,
    matched: Vec<Matched<'a>>,
}

/// A rule that holds.
struct Matched<'a> {
    number: usize,
    rule: &'a OwnerRule,
    self_asserted: bool,
    signal: Signal,
    /// More conditions win, then more exact ones.
    strength: (usize, usize),
}

impl<'a> Found<'a> {
    fn of(sub: &'a SubIndex, host: Option<&str>, workload: &Workload, index: &OwnerIndex) -> Found<'a> {
        let holds = |found: &&NumberedRule| {
            found.rule.conditions.iter().all(|condition| condition.holds(host, workload))
        };
        let matched =
            sub.rules.iter().filter(holds).map(|found| Matched::of(found, workload, index)).collect();
        Found { tenant: &sub.tenant, matched }
    }
}

impl<'a> Matched<'a> {
    fn of(found: &'a NumberedRule, workload: &Workload, index: &OwnerIndex) -> Matched<'a> {
        let conditions = &found.rule.conditions;
        let signals = conditions.iter().map(|condition| {
            let asserted = condition.self_asserted(workload, index.trusted_labels());
            (asserted, signal_of(condition, asserted))
        });
        let weakest = signals.clone().map(|(_, signal)| signal).min();
        Matched {
            number: found.number,
            rule: &found.rule,
            self_asserted: signals.clone().any(|(asserted, _)| asserted),
            // A rule without conditions does not compile.
            signal: weakest.unwrap_or(Signal { weight: 0, method: Method::R3 }),
            strength: (conditions.len(), conditions.iter().filter(|one| one.pattern.is_exact()).count()),
        }
    }

    /// Confidence if this rule were the only one.
    fn alone(&self) -> Confidence {
        match self.self_asserted {
            true => combine::self_asserted(&[self.signal]).confidence(),
            false => combine::controlled(&[self.signal]).confidence(),
        }
    }

    /// Whether it gives another name than `owner` has.
    fn contradicts(&self, owner: &Owner) -> bool {
        let OwnerRule { conditions: _, tenant: _, team, service, cost_centre, environment } = self.rule;
        let names = [
            (team, &owner.team),
            (service, &owner.service),
            (cost_centre, &owner.cost_centre),
            (environment, &owner.environment),
        ];
        names.iter().any(|(named, chosen)| named.is_some() && named != chosen)
    }

    fn owner(&self, tenant: &TenantName) -> Owner {
        Owner {
            tenant: tenant.clone(),
            team: self.rule.team.clone(),
            service: self.rule.service.clone(),
            cost_centre: self.rule.cost_centre.clone(),
            environment: self.rule.environment.clone(),
        }
    }
}

/// What one condition is worth. An exact match on the workload's identity is a direct match, everything else compares
/// names.
fn signal_of(condition: &Condition, self_asserted: bool) -> Signal {
    let exact = condition.pattern.is_exact();
    let (weight, method) = match (self_asserted, &condition.field, exact) {
        (false, Field::Label(_), true) => (9_500, Method::R1),
        (false, _, true) => (9_800, Method::R1),
        (false, _, false) => (9_000, Method::R3),
        (true, Field::Label(_), true) => (7_000, Method::R3),
        (true, _, true) => (6_500, Method::R3),
        (true, _, false) => (5_500, Method::R3),
    };
    Signal { weight, method }
}

/// One name of an owner: how to read it from a rule, and where it goes.
type OwnerField =
    (fn(&OwnerRule) -> Option<&std::sync::Arc<str>>, fn(&mut Owner) -> &mut Option<std::sync::Arc<str>>);

const OWNER_FIELDS: [OwnerField; 4] = [
    (|rule| rule.team.as_ref(), |owner| &mut owner.team),
    (|rule| rule.service.as_ref(), |owner| &mut owner.service),
    (|rule| rule.cost_centre.as_ref(), |owner| &mut owner.cost_centre),
    (|rule| rule.environment.as_ref(), |owner| &mut owner.environment),
];

struct Draft<'a> {
    workload: &'a Workload,
    index: &'a OwnerIndex,
    now: UnixNanos,
}

impl Draft<'_> {
    /// The owner within one tenant.
    ///
    /// If controlled rules hold, they alone name the owner: what the workload writes can neither add to nor weaken it.
    /// Each name comes from the strongest rule that gives it; the confidence is that of the least certain name.
    fn decide(&self, found: &Found) -> Attribution {
        let controlled = found.matched.iter().any(|one| !one.self_asserted);
        let level: Vec<&Matched> =
            found.matched.iter().filter(|one| one.self_asserted != controlled).collect();
        if level.is_empty() {
            return self.null(found.tenant.clone(), why_unmatched(self.workload, self.index));
        }
        let mut owner = self.nobody(found.tenant.clone());
        let mut confidence: Option<Confidence> = None;
        for (read, place) in OWNER_FIELDS {
            let naming: Vec<&&Matched> = level.iter().filter(|one| read(one.rule).is_some()).collect();
            let Some(strongest) = naming.iter().map(|one| one.strength).max() else { continue };
            let mut values =
                naming.iter().filter(|one| one.strength == strongest).filter_map(|one| read(one.rule));
            let Some(value) = values.next() else { continue };
            if values.any(|other| other != value) {
                return self.conflict(found, &level);
            }
            let agreeing = found.matched.iter().filter(|one| read(one.rule) == Some(value));
            let sure = combined(agreeing, controlled);
            confidence = Some(confidence.map_or(sure, |known| known.min(sure)));
            *place(&mut owner) = Some(value.clone());
        }
        // Rules that name only the tenant.
        let confidence = confidence.unwrap_or_else(|| combined(found.matched.iter(), controlled));
        let confidence = confidence.min(self.edge()).min(self.index.confidence_cap());
        let mut candidates =
            vec![Candidate { owner: owner.clone(), confidence, rationale: rationale(&level, controlled) }];
        for one in &found.matched {
            if one.contradicts(&owner) {
                let why = match one.self_asserted && controlled {
                    true => "only on what the workload says of itself",
                    false => "a rule with more or more exact conditions decides",
                };
                let rationale = format!("rule[{}]: {why}", one.number).into();
                let confidence = one.alone().min(self.edge()).min(self.index.confidence_cap());
                candidates.push(Candidate { owner: one.owner(found.tenant), confidence, rationale });
            }
        }
        let state = match controlled {
            true => OutputState::DeterministicallyResolved,
            false => OutputState::StronglyInferred,
        };
        self.answer(owner, state, confidence, found, candidates, None)
    }

    /// Rules of the same strength name different owners: nobody is chosen.
    fn conflict(&self, found: &Found, level: &[&Matched]) -> Attribution {
        let strongest = level.iter().map(|one| one.strength).max();
        let mut candidates: Vec<Candidate> = Vec::new();
        for one in level.iter().filter(|one| Some(one.strength) == strongest) {
            let owner = one.owner(found.tenant);
            if candidates.iter().all(|known| known.owner != owner) {
                let rationale = format!("rule[{}]: as strong as another", one.number).into();
                let confidence = one.alone().min(self.edge()).min(self.index.confidence_cap());
                candidates.push(Candidate { owner, confidence, rationale });
            }
        }
        let owner = self.nobody(found.tenant.clone());
        let reason = Some(NullReason::Conflict);
        self.answer(owner, OutputState::Ambiguous, Confidence::ZERO, found, candidates, reason)
    }

    fn null(&self, tenant: TenantName, reason: NullReason) -> Attribution {
        let nothing = Found { tenant: &tenant, matched: Vec::new() };
        let state = match reason {
            NullReason::Conflict => OutputState::Ambiguous,
            _ => OutputState::Unknown,
        };
        let owner = self.nobody(tenant.clone());
        self.answer(owner, state, Confidence::ZERO, &nothing, Vec::new(), Some(reason))
    }

    fn answer(
        &self,
        owner: Owner,
        state: OutputState,
        confidence: Confidence,
        found: &Found,
        candidates: Vec<Candidate>,
        null_reason: Option<NullReason>,
    ) -> Attribution {
        let mut evidence: Vec<Evidence> = self.kernel_fact().into_iter().collect();
        for one in &found.matched {
            for condition in &one.rule.conditions {
                let self_asserted = condition.self_asserted(self.workload, self.index.trusted_labels());
                let Signal { weight, method } = signal_of(condition, self_asserted);
                let source = match &condition.field {
                    Field::Namespace => "namespace_rule",
                    field => field.as_str(),
                };
                let statement = format!("rule[{}]: {condition}", one.number).into();
                evidence.push(Evidence {
                    method,
                    source,
                    statement,
                    self_asserted,
                    weight,
                    observed_at: None,
                });
            }
        }
        Attribution {
            owner,
            stage: StageOrigin::StageA,
            state,
            confidence,
            evidence,
            candidates,
            null_reason,
            freshness: self.index.built_at(),
            index_generation: self.index.generation(),
        }
    }

    /// How sure it is that this workload made the call: the edge from invocation to service.
    fn edge(&self) -> Confidence {
        match self.workload.evidence {
            WorkloadEvidence::Exact => Confidence::CAP,
            WorkloadEvidence::Lineage => combine::controlled(&[LINEAGE]).confidence(),
            WorkloadEvidence::Unknown => SelfAsserted::capped(u16::MAX).confidence(),
        }
    }

    /// That the socket belonged to the process, its cgroup and its pod is known from the kernel.
    fn kernel_fact(&self) -> Option<Evidence> {
        let pid = self.workload.process.pid;
        let Signal { weight, method } = match self.workload.evidence {
            WorkloadEvidence::Exact => Signal { weight: Confidence::CAP.basis_points(), method: Method::R1 },
            WorkloadEvidence::Lineage => LINEAGE,
            WorkloadEvidence::Unknown => return None,
        };
        let (source, place) = match (&self.workload.pod, &self.workload.container, &self.workload.unit) {
            (Some(_), ..) => ("cgroup", "in a pod, by its cgroup"),
            (None, Some(_), _) => ("cgroup", "in a container, by its cgroup"),
            (None, None, Some(_)) => ("cgroup", "in a systemd unit, by its cgroup"),
            (None, None, None) => ("process", "by its own connection"),
        };
        let inherited = match self.workload.evidence {
            WorkloadEvidence::Lineage => "; it was gone, its parent's identity stands in",
            _ => "",
        };
        let statement = format!("process {pid} made the call, {place}{inherited}").into();
        Some(Evidence {
            method,
            source,
            statement,
            self_asserted: false,
            weight,
            observed_at: Some(self.now),
        })
    }

    fn nobody(&self, tenant: TenantName) -> Owner {
        Owner { tenant, team: None, service: None, cost_centre: None, environment: None }
    }
}

/// A process that was gone before it could be looked at has its parent's identity.
const LINEAGE: Signal = Signal { weight: 8_500, method: Method::R5 };

/// Confidence from rules that agree.
fn combined<'a>(agreeing: impl Iterator<Item = &'a Matched<'a>>, controlled: bool) -> Confidence {
    let (mut facts, mut assertions) = (Vec::new(), Vec::new());
    for one in agreeing {
        match one.self_asserted {
            true => assertions.push(one.signal),
            false => facts.push(one.signal),
        }
    }
    let assertions = combine::self_asserted(&assertions);
    match controlled {
        true => combine::controlled(&facts).with(assertions),
        false => assertions.confidence(),
    }
}

fn rationale(level: &[&Matched], controlled: bool) -> Box<str> {
    let mut rules: Vec<String> = level.iter().map(|one| format!("rule[{}]", one.number)).collect();
    rules.dedup();
    let basis = match controlled {
        true => "facts that the workload cannot change",
        false => "what the workload says of itself, below 0.80 until an administrator's rule agrees",
    };
    format!("{} on {basis}", rules.join(", ")).into()
}

/// Whether a record may be billed.
impl Attribution {
    /// `eligible`, or why not: `provisional`, `estimate` or `unattributed`.
    pub fn export_eligibility(&self) -> &'static str {
        match (self.null_reason, self.confidence.band()) {
            (Some(_), _) => "unattributed",
            (None, Band::ChargebackEligible) => "eligible",
            (None, Band::Provisional) => "provisional",
            (None, Band::Estimate) => "estimate",
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
