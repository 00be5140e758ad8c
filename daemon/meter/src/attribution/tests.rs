//! The laws of attribution, by example and by property.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::attribution::confidence::{Band, Confidence};
use crate::attribution::{
    Attribution, Condition, Field, NullReason, OutputState, OwnerConfig, OwnerIndex, OwnerRule, Pattern,
    TenantName, attribute, tenant_of,
};
use crate::time::UnixNanos;
use crate::workload::{Container, Pod, ProcessKey, Workload, WorkloadEvidence};

const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

/// `namespace=shop label.app=x -> acme/team/service/centre/env`; `-` for a name that is not given.
fn rule(text: &str) -> OwnerRule {
    let (conditions, owner) = text.split_once(" -> ").unwrap();
    let conditions = conditions.split_whitespace().map(|one| {
        let (field, pattern) = one.split_once('=').unwrap();
        let field = match field {
            "namespace" => Field::Namespace,
            "unit" => Field::Unit,
            "user" => Field::User,
            "exe" => Field::Executable,
            "container" => Field::Container,
            "image" => Field::Image,
            "cgroup" => Field::Cgroup,
            "host" => Field::Host,
            label => Field::Label(label.strip_prefix("label.").unwrap().into()),
        };
        Condition { field, pattern: Pattern::parse(pattern) }
    });
    let mut names = owner.split('/').map(|name| (name != "-").then_some(name)).chain([None; 5]);
    let mut next = || names.next().flatten();
    let tenant = next().and_then(TenantName::new);
    let mut name = || next().map(Arc::from);
    OwnerRule {
        conditions: conditions.collect(),
        tenant,
        team: name(),
        service: name(),
        cost_centre: name(),
        environment: name(),
    }
}

fn config(rules: &[&str]) -> OwnerConfig {
    OwnerConfig {
        rules: rules.iter().map(|text| rule(text)).collect(),
        trusted_labels: vec!["trusted".into()],
        ..OwnerConfig::default()
    }
}

/// `namespace=.. unit=.. exe=.. user=.. cgroup=.. container=.. label.K=V gone lineage`
fn workload(text: &str) -> Workload {
    let mut workload = Workload::clone(&Workload::unknown(ProcessKey { pid: 7, start_ticks: 1 }));
    workload.evidence = WorkloadEvidence::Exact;
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "gone" => workload.evidence = WorkloadEvidence::Unknown,
            "lineage" => workload.evidence = WorkloadEvidence::Lineage,
            "namespace" => {
                workload.pod = Some(Pod { namespace: Some(value.into()), ..Pod::default() });
            }
            "container" => {
                workload.container = Some(Container { name: Some(value.into()), ..Container::default() });
            }
            "unit" => workload.unit = Some(value.into()),
            "exe" => workload.exe = Some(value.into()),
            "user" => workload.user = Some(value.into()),
            "uid" => workload.uid = value.parse().ok(),
            "cgroup" => workload.cgroup = Some(value.into()),
            label => {
                workload.labels.insert(label.strip_prefix("label.").unwrap().into(), value.into());
            }
        }
    }
    workload
}

/// `tenant/team/service/centre/env 9500 state reason`
fn render(found: &Attribution) -> String {
    let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("-").to_owned();
    let owner = &found.owner;
    format!(
        "{}/{}/{}/{}/{} {} {} {}",
        owner.tenant.as_str(),
        name(&owner.team),
        name(&owner.service),
        name(&owner.cost_centre),
        name(&owner.environment),
        found.confidence.basis_points(),
        found.state.as_str(),
        found.null_reason.map_or("-", NullReason::as_str),
    )
}

fn check(rules: &[&str], of: &str, expected: &str) {
    let index = OwnerIndex::compile(&config(rules), 3, NOW).unwrap();
    let found = attribute(Some("API.openai.com"), &workload(of), &index, NOW);
    assert_eq!(render(&found), expected, "{of:?} by {rules:?}");
    assert_eq!(tenant_of(Some("API.openai.com"), &workload(of), &index, NOW), found.owner.tenant);
    assert_eq!(found.index_generation, 3);
}

#[test]
fn owners_are_found() {
    let direct = "9500 deterministically_resolved -";
    let by_name = "9000 deterministically_resolved -";
    check(&[], "unit=x.service", "default/-/-/-/- 0 unknown no_rules");
    check(&["unit=y.service -> -/t"], "unit=x.service", "default/-/-/-/- 0 unknown no_rule_matched");
    check(&["unit=y.service -> -/t"], "gone", "default/-/-/-/- 0 unknown workload_unknown");
    check(&["unit=x.service -> -/t"], "unit=x.service", &format!("default/t/-/-/- {direct}"));
    check(&["unit=x* -> -/t"], "unit=x.service", &format!("default/t/-/-/- {by_name}"));
    check(&["user=alice -> -/t/s"], "user=alice", &format!("default/t/s/-/- {direct}"));
    check(&["user=uid:1000 -> -/t"], "uid=1000", &format!("default/t/-/-/- {direct}"));
    check(&["exe=/usr/bin/x -> -/t"], "exe=/usr/bin/x", &format!("default/t/-/-/- {direct}"));
    check(&["namespace=shop -> -/t/-/c/prod"], "namespace=shop", &format!("default/t/-/c/prod {direct}"));
    check(&["container=web -> -/t"], "container=web", &format!("default/t/-/-/- {direct}"));
    // Facts of different rules add up; each name comes from the strongest rule.
    check(
        &["namespace=shop -> -/t/-/c", "namespace=sh* -> -/other/s"],
        "namespace=shop",
        "default/t/s/c/- 9000 deterministically_resolved -",
    );
    check(
        &["unit=x.service -> -/t", "unit=x.service user=a -> -/u"],
        "unit=x.service user=a",
        &format!("default/u/-/-/- {direct}"),
    );
    check(
        &["unit=x.service -> -/t", "user=a -> -/u"],
        "unit=x.service user=a",
        "default/-/-/-/- 0 ambiguous conflict",
    );
    // A child that is gone has its parent's identity.
    check(
        &["unit=x.service -> -/t"],
        "unit=x.service lineage",
        "default/t/-/-/- 8500 deterministically_resolved -",
    );
}

#[test]
fn what_a_workload_says_of_itself_is_not_billed() {
    check(&["label.app=x -> -/t"], "label.app=x", "default/t/-/-/- 7000 strongly_inferred -");
    check(&["label.app=x* -> -/t"], "label.app=x", "default/t/-/-/- 5500 strongly_inferred -");
    check(&["host=api.openai.com -> -/t"], "gone", "default/t/-/-/- 6500 strongly_inferred -");
    check(
        &["label.trusted=x -> -/t"],
        "label.trusted=x",
        "default/t/-/-/- 9500 deterministically_resolved -",
    );
    // Weakest link: an administrator's condition does not vouch for a label.
    check(
        &["namespace=shop label.app=x -> -/t"],
        "namespace=shop label.app=x",
        "default/t/-/-/- 7000 strongly_inferred -",
    );
    // A separate rule on facts that agrees does.
    check(
        &["label.app=x -> -/t", "namespace=shop -> -/t"],
        "namespace=shop label.app=x",
        "default/t/-/-/- 9500 deterministically_resolved -",
    );
    // A label can neither add to, nor weaken, nor replace what facts say.
    check(
        &["label.app=x label.b=y -> -/u/s", "namespace=shop -> -/t"],
        "namespace=shop label.app=x label.b=y",
        "default/t/-/-/- 9500 deterministically_resolved -",
    );
    // What is named inside a container or under a user's own manager.
    check(&["exe=/x -> -/t"], "exe=/x container=c", "default/t/-/-/- 6500 strongly_inferred -");
    check(&["user=a -> -/t"], "user=a namespace=shop", "default/t/-/-/- 6500 strongly_inferred -");
    check(&["container=c -> -/t"], "container=c namespace=shop", "default/t/-/-/- 6500 strongly_inferred -");
    check(
        &["unit=x.service -> -/t"],
        "unit=x.service cgroup=/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
        "default/t/-/-/- 6500 strongly_inferred -",
    );
    check(
        &["namespace=shop -> -/t"],
        "namespace=shop cgroup=/user.slice/user-1000.slice/user@1000.service/kubepods/podX/y",
        "default/t/-/-/- 6500 strongly_inferred -",
    );
}

#[test]
fn tenants_are_kept_apart() {
    let rules = [
        "namespace=a -> one/t",
        "namespace=b -> two/t",
        "label.app=x -> two/u",
        "unit=u -> one/v",
        "unit=u -> two/v",
    ];
    check(&rules, "namespace=a", "one/t/-/-/- 9500 deterministically_resolved -");
    check(&rules, "namespace=b", "two/t/-/-/- 9500 deterministically_resolved -");
    check(&rules, "namespace=c", "unassigned/-/-/-/- 0 unknown no_rule_matched");
    // A label must not carry records into another tenant.
    check(&rules, "label.app=x", "unassigned/-/-/-/- 0 unknown no_rule_matched");
    check(&rules, "namespace=a label.app=x", "one/t/-/-/- 9500 deterministically_resolved -");
    check(&rules, "unit=u", "unassigned/-/-/-/- 0 ambiguous conflict");
    check(&["namespace=a -> one"], "namespace=a", "one/-/-/-/- 9500 deterministically_resolved -");
    check(&["namespace=a -> one"], "namespace=b", "one/-/-/-/- 0 unknown no_rule_matched");
}

#[test]
fn a_stale_index_gives_no_answer() {
    let check = |rules: &[&str], age_ns: u64, expected: &str| {
        let index = OwnerIndex::compile(&config(rules), 1, NOW).unwrap();
        let found = attribute(None, &workload("namespace=a"), &index, UnixNanos(NOW.0 + age_ns));
        assert_eq!(render(&found), expected);
        let fresh = index.refreshed(2, UnixNanos(NOW.0 + age_ns));
        assert_eq!(
            attribute(None, &workload("namespace=a"), &fresh, UnixNanos(NOW.0 + age_ns)).null_reason,
            None
        );
    };
    check(&["namespace=a -> one/t"], 90_000_000_000, "one/t/-/-/- 9500 deterministically_resolved -");
    check(&["namespace=a -> one/t"], 90_000_000_001, "one/-/-/-/- 0 unknown index_stale");
    check(
        &["namespace=a -> one/t", "namespace=b -> two/t"],
        u64::from(u32::MAX) * 1_000,
        "unassigned/-/-/-/- 0 unknown index_stale",
    );
}

#[test]
fn a_wrong_configuration_names_every_mistake() {
    let mut wrong = config(&[
        "namespace=a -> one/t",
        "namespace=b -> two/t",
        "namespace=c -> -/t",
        "unit=u -> unassigned/t",
    ]);
    wrong.rules.push(OwnerRule::default());
    wrong.trusted_labels.push(String::new());
    wrong.max_staleness_ns = Some(0);
    wrong.confidence_cap = Some(9_501);
    let problems = OwnerIndex::compile(&wrong, 1, NOW).unwrap_err();
    for expected in [
        "rule[2]: names no tenant",
        "rule[4]: has no condition",
        "rule[4]: names no owner",
        "\"unassigned\" is reserved",
        "trusted_labels",
        "max_staleness",
        "confidence_cap",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected} not in {problems:#?}");
    }
    let capped = OwnerConfig { confidence_cap: Some(8_200), ..config(&["unit=u -> -/t"]) };
    let index = OwnerIndex::compile(&capped, 1, NOW).unwrap();
    assert_eq!(attribute(None, &workload("unit=u"), &index, NOW).confidence.basis_points(), 8_200);
}

#[test]
fn evidence_says_what_it_rests_on() {
    let index = OwnerIndex::compile(&config(&["namespace=shop label.app=x -> -/t"]), 1, NOW).unwrap();
    let found = attribute(None, &workload("namespace=shop label.app=x"), &index, NOW);
    let lines: Vec<String> = found
        .evidence
        .iter()
        .map(|one| {
            format!(
                "{} {} {} {} {}",
                one.method.as_str(),
                one.source,
                one.self_asserted,
                one.weight,
                one.statement
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            "R1 cgroup false 9500 process 7 made the call, in a pod, by its cgroup",
            "R1 namespace_rule false 9800 rule[0]: namespace = \"shop\"",
            "R3 label true 7000 rule[0]: label app = \"x\"",
        ]
    );
    assert_eq!(found.export_eligibility(), "provisional");
}

const WORDS: [&str; 3] = ["a", "b", "c"];
const FIELDS: [&str; 9] =
    ["namespace", "unit", "user", "exe", "container", "cgroup", "host", "label.app", "label.trusted"];

fn any_rule(tenants: &'static [&'static str]) -> impl Strategy<Value = OwnerRule> {
    let pattern = prop_oneof![Just("a"), Just("b"), Just("c"), Just("a*"), Just("*"), Just("*b")];
    let condition = (proptest::sample::select(&FIELDS[..]), pattern)
        .prop_map(|(field, pattern)| format!("{field}={pattern}"));
    let name = prop_oneof![Just("-"), Just("x"), Just("y")];
    (
        proptest::collection::vec(condition, 1..4),
        proptest::sample::select(tenants),
        prop_oneof![Just("x"), Just("y")],
        name.clone(),
        name,
    )
        .prop_map(|(conditions, tenant, team, service, centre)| {
            rule(&format!("{} -> {tenant}/{team}/{service}/{centre}", conditions.join(" ")))
        })
}

fn any_workload() -> impl Strategy<Value = Workload> {
    let fields = proptest::collection::btree_map(
        proptest::sample::select(&FIELDS[..]),
        proptest::sample::select(&WORDS[..]),
        0..6,
    );
    (fields, prop_oneof![Just(""), Just(" gone"), Just(" lineage")]).prop_map(
        |(fields, evidence): (BTreeMap<_, _>, _)| {
            let words: Vec<_> = fields
                .iter()
                .filter(|(key, _)| **key != "host")
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            workload(&format!("{}{evidence}", words.join(" ")))
        },
    )
}

fn run(rules: &[OwnerRule], of: &Workload) -> Attribution {
    let config = OwnerConfig {
        tenants: vec![TenantName::new("one").unwrap(), TenantName::new("two").unwrap()],
        rules: rules.to_vec(),
        trusted_labels: vec!["trusted".into()],
        ..OwnerConfig::default()
    };
    let index = OwnerIndex::compile(&config, 1, NOW).unwrap();
    let found = attribute(Some("a"), of, &index, NOW);
    assert_eq!(tenant_of(Some("a"), of, &index, NOW), found.owner.tenant);
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_exceeds_its_cap(rules in proptest::collection::vec(any_rule(&["one", "two"]), 0..6), of in any_workload()) {
        let found = run(&rules, &of);
        prop_assert!(found.confidence <= Confidence::CAP);
        prop_assert!(found.candidates.iter().all(|candidate| candidate.confidence <= Confidence::CAP));
        prop_assert_eq!(found.null_reason.is_some(), found.confidence == Confidence::ZERO);
        prop_assert_eq!(found.state == OutputState::Ambiguous, found.null_reason == Some(NullReason::Conflict));
        if found.null_reason.is_none() {
            prop_assert_eq!(&found.candidates[0].owner, &found.owner);
        }
    }

    #[test]
    fn self_assertion_alone_is_never_billed(rules in proptest::collection::vec(any_rule(&["-"]), 0..6), of in any_workload()) {
        let config = OwnerConfig { rules, trusted_labels: vec!["trusted".into()], ..OwnerConfig::default() };
        let index = OwnerIndex::compile(&config, 1, NOW).unwrap();
        let found = attribute(Some("a"), &of, &index, NOW);
        // Some rule whose every condition is controlled must have held.
        let vouched = config.rules.iter().any(|rule| {
            rule.conditions.iter().all(|one| {
                one.holds(Some("a"), &of) && !one.self_asserted(&of, &["trusted".into()].into())
            })
        });
        prop_assert!(vouched || found.confidence.band() != Band::ChargebackEligible);
    }

    #[test]
    fn labels_do_not_change_what_facts_decide(
        rules in proptest::collection::vec(any_rule(&["one", "two"]), 0..6),
        of in any_workload(),
        label in proptest::sample::select(&WORDS[..]),
    ) {
        let before = run(&rules, &of);
        let mut lying = of.clone();
        lying.labels.insert("app".into(), label.into());
        let after = run(&rules, &lying);
        prop_assert_eq!(&before.owner.tenant, &after.owner.tenant);
        if before.state == OutputState::DeterministicallyResolved {
            // Its own labels may have supported it; its owner and band stand whatever it writes.
            prop_assert_eq!(&before.owner, &after.owner);
            prop_assert_eq!(before.confidence.band(), after.confidence.band());
        }
    }

    #[test]
    fn another_tenants_rules_change_nothing(
        own in proptest::collection::vec(any_rule(&["one"]), 0..5),
        other in proptest::collection::vec(any_rule(&["two"]), 0..5),
        of in any_workload(),
    ) {
        let alone = run(&own, &of);
        let both: Vec<_> = own.iter().chain(&other).cloned().collect();
        let beside = run(&both, &of);
        match beside.owner.tenant.as_str() {
            "one" => prop_assert_eq!(alone, beside),
            "two" => prop_assert_eq!(alone.owner.tenant.as_str(), "unassigned"),
            _ => prop_assert!(beside.null_reason.is_some()),
        }
    }
}
