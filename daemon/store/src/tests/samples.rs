//! Records made from a number: the same number, the same record.

use std::collections::BTreeMap;
use std::sync::Arc;

use meter::attribution::confidence::Confidence;
use meter::attribution::{
    Attribution, Candidate, Evidence, Method, NullReason, OutputState, Owner, StageOrigin,
};
use meter::detail::{Detail, Details};
use meter::exchange::{
    Exchange, IdentifiedBy, ProviderError, RateLimit, RateLimits, RateUnit, Reason, ReportedCost, Reset,
    SessionId, Timing, ToolUse, Usage, Withheld,
};
use meter::money::PicoUsd;
use meter::record::{
    Cost, CostKind, CostPart, Coverage, DarkReason, Flow, FlowSeen, Record, RecordId, Subject,
};
use meter::time::{Moment, UnixNanos};
use meter::workload::{Container, Pod, ProcessKey, Workload, WorkloadEvidence};

use super::tenant;

/// Start of the samples' time: a whole hour.
pub(super) const EPOCH_NS: u64 = 500_000 * crate::rollup::HOUR_NS;

/// Text that is in many fields of every sample, so that a search of the disk can find it.
pub(super) const CANARY: &str = "canary-in-the-coal-mine";

/// A record of `tenant` that starts `offset_ns` after [`EPOCH_NS`]; everything else depends on `seed`.
pub(super) fn sample(name: &str, offset_ns: u64, seed: u64) -> Record {
    let mut dice = Dice(seed);
    let started = EPOCH_NS + offset_ns;
    let id = u128::from(started / 1_000_000) << 80 | u128::from(dice.next()) << 16 | u128::from(seed as u16);
    let exchange = dice.below(4) > 0;
    let subject = if exchange {
        Subject::Exchange(Box::new(an_exchange(&mut dice)))
    } else {
        Subject::Flow(Box::new(a_flow(&mut dice)))
    };
    Record {
        id: RecordId(id),
        started_at: UnixNanos(started),
        recorded_at: UnixNanos(started + dice.below(1_000_000_000)),
        subject,
        workload: Arc::new(a_workload(&mut dice)),
        attribution: an_attribution(&mut dice, name),
        cost: (exchange && dice.below(5) > 0).then(|| a_cost(&mut dice)),
    }
}

fn an_exchange(dice: &mut Dice) -> Exchange {
    Exchange {
        session: SessionId(dice.next()),
        ordinal: dice.next() as u32,
        provider: dice.one_of(&["openai", "anthropic", "gateway"]).into(),
        host: format!("{}.example", dice.one_of(&["api", CANARY])).into(),
        identified_by: dice.one_of(&[
            IdentifiedBy::Sni,
            IdentifiedBy::SniCached,
            IdentifiedBy::Dns,
            IdentifiedBy::Getaddrinfo,
            IdentifiedBy::HostHeader,
            IdentifiedBy::TlsHostnameCall,
            IdentifiedBy::IpRange,
            IdentifiedBy::Configured,
        ]),
        dialect: dice.maybe(|_| "openai_chat"),
        operation: dice.one_of(&["chat", "embeddings"]),
        inference: dice.below(5) > 0,
        requested_model: dice.maybe(|dice| dice.text()),
        model: dice.maybe(|dice| dice.one_of(&["small", "large"]).into()),
        streaming: dice.maybe(|dice| dice.below(2) == 0),
        status: dice.maybe(|dice| dice.one_of(&[200, 200, 200, 400, 429, 500])),
        usage: a_usage(dice),
        reported_cost: dice.maybe(|dice| ReportedCost(PicoUsd(dice.next().into()))),
        service_tier: dice.maybe(|dice| dice.text()),
        batch: dice.below(2) == 0,
        finish_reasons: (0..dice.below(3)).map(|_| dice.text()).collect(),
        tools: (0..dice.below(3))
            .map(|_| ToolUse { name: dice.text(), calls: dice.maybe(|dice| dice.next() as u32) })
            .collect(),
        provider_request_id: dice.maybe(|dice| dice.text()),
        organization: dice.maybe(|dice| dice.text()),
        project: dice.maybe(|dice| dice.text()),
        error: dice.maybe(|dice| ProviderError { class: dice.maybe(|dice| dice.text()), code: None }),
        api_key_fingerprint: dice.maybe(|dice| dice.text()),
        sdk: dice.maybe(|dice| dice.text()),
        trace_id: dice.maybe(|dice| dice.text()),
        rate_limits: RateLimits {
            limits: (0..dice.below(3)).map(|_| a_rate_limit(dice)).collect(),
            retry_after_ms: dice.maybe(|dice| dice.next()),
        },
        retries: dice.maybe(|dice| dice.below(3) as u32),
        request_bytes: dice.maybe(|dice| dice.next()),
        response_bytes: dice.maybe(|dice| dice.next()),
        timing: Timing {
            started: Moment(dice.next()),
            first_byte: dice.maybe(|dice| Moment(dice.next())),
            first_token: dice.maybe(|dice| Moment(dice.next())),
            last_token: dice.maybe(|dice| Moment(dice.next())),
            ended: dice.maybe(|dice| Moment(dice.next())),
        },
        withheld: Withheld::from_bits(dice.below(1 << 12) as u32),
        reason: dice.maybe(a_reason),
    }
}

fn a_rate_limit(dice: &mut Dice) -> RateLimit {
    RateLimit {
        unit: dice.one_of(&[
            RateUnit::Requests,
            RateUnit::Tokens,
            RateUnit::InputTokens,
            RateUnit::OutputTokens,
            RateUnit::InputImages,
        ]),
        limit: dice.maybe(|dice| dice.next()),
        remaining: dice.maybe(|dice| dice.next()),
        reset: dice.maybe(|dice| match dice.below(2) {
            0 => Reset::AfterMs(dice.next()),
            _ => Reset::At(UnixNanos(dice.next())),
        }),
    }
}

fn some_details(dice: &mut Dice) -> Details {
    let mut details = Details::default();
    for detail in Detail::ALL {
        if dice.below(8) == 0 {
            details.set(*detail, dice.below(1 << 20));
        }
    }
    details
}

fn a_usage(dice: &mut Dice) -> Usage {
    if dice.below(4) == 0 {
        return Usage::default();
    }
    Usage {
        input: dice.maybe(|dice| dice.below(1 << 20)),
        output: dice.maybe(|dice| dice.below(1 << 20)),
        cache_read: dice.maybe(|dice| dice.below(1 << 20)),
        cache_creation: dice.maybe(|dice| dice.below(1 << 20)),
        cache_creation_5m: dice.maybe(|dice| dice.below(1 << 20)),
        cache_creation_1h: dice.maybe(|dice| dice.below(1 << 20)),
        reasoning: dice.maybe(|dice| dice.below(1 << 20)),
        audio_input: dice.maybe(|dice| dice.below(1 << 20)),
        audio_output: dice.maybe(|dice| dice.below(1 << 20)),
        image_input: dice.maybe(|dice| dice.below(1 << 20)),
        image_output: dice.maybe(|dice| dice.below(1 << 20)),
        total: dice.maybe(|dice| dice.below(1 << 20)),
        web_search_requests: dice.maybe(|dice| dice.below(1 << 20)),
        details: some_details(dice),
    }
}

fn a_reason(dice: &mut Dice) -> Reason {
    dice.one_of(&[
        Reason::LateAttach,
        Reason::UndecodableHead,
        Reason::Upgraded,
        Reason::NotHttp,
        Reason::UnknownSession,
        Reason::StreamUsageNotRequested,
        Reason::Interrupted,
        Reason::Gap,
        Reason::Undecodable,
        Reason::UnsupportedDialect,
        Reason::NotReported,
        Reason::NoResponse,
        Reason::LimitReached,
        Reason::Panicked,
        Reason::NotInference,
        Reason::Quic,
    ])
}

fn a_flow(dice: &mut Dice) -> Flow {
    let coverage = match dice.below(3) {
        0 => Coverage::Captured,
        1 => Coverage::MetadataOnly(a_reason(dice)),
        _ => Coverage::Dark(dice.one_of(&[
            DarkReason::UnknownTlsLibrary,
            DarkReason::AttachRefused,
            DarkReason::Unreadable,
            DarkReason::SwitchedOff,
            DarkReason::Gone,
        ])),
    };
    Flow {
        ended_at: dice.maybe(|dice| UnixNanos(dice.next())),
        local: dice.one_of(&["10.0.0.1:4711", "[fe80::1]:65535"]).parse().unwrap(),
        remote: dice.one_of(&["192.0.2.1:443", "[2001:db8::2]:443"]).parse().unwrap(),
        protocol: dice.one_of(&[6, 17]),
        bytes_sent: dice.maybe(|dice| dice.next()),
        bytes_received: dice.maybe(|dice| dice.next()),
        provider: dice.maybe(|_| "openai".into()),
        host: dice.maybe(|_| CANARY.into()),
        identified_by: dice.maybe(|_| IdentifiedBy::Sni),
        seen: dice.one_of(&[FlowSeen::Connect, FlowSeen::AtStart, FlowSeen::Tap]),
        coverage,
    }
}

fn a_workload(dice: &mut Dice) -> Workload {
    Workload {
        process: ProcessKey { pid: dice.next() as u32, start_ticks: dice.next() },
        exe: Some(dice.one_of(&["/usr/bin/python3", "/srv/canary-in-the-coal-mine"]).into()),
        comm: dice.maybe(|dice| dice.text()),
        uid: dice.maybe(|dice| dice.below(3) as u32),
        user: dice.maybe(|dice| dice.one_of(&["root", "app"]).into()),
        cgroup: dice.maybe(|dice| dice.text()),
        container: dice.maybe(|dice| Container {
            id: dice.one_of(&["0123", "4567"]).into(),
            runtime: dice.one_of(&["containerd", "docker"]),
            name: dice.maybe(|dice| dice.one_of(&["web", "job"]).into()),
            image: dice.maybe(|dice| dice.text()),
        }),
        pod: dice.maybe(|dice| Pod {
            uid: dice.maybe(|dice| dice.text()),
            name: dice.maybe(|dice| dice.one_of(&["shop-1", "shop-2"]).into()),
            namespace: dice.maybe(|_| "shop".into()),
            controller: dice.maybe(|_| "Deployment/shop".into()),
        }),
        unit: dice.maybe(|_| "nginx.service".into()),
        labels: (0..dice.below(3)).map(|_| (dice.text(), dice.text())).collect::<BTreeMap<_, _>>(),
        evidence: dice.one_of(&[
            WorkloadEvidence::Exact,
            WorkloadEvidence::Lineage,
            WorkloadEvidence::Unknown,
        ]),
    }
}

fn an_attribution(dice: &mut Dice, name: &str) -> Attribution {
    let confidence = |dice: &mut Dice| Confidence::new(dice.below(9_501) as u16).unwrap();
    Attribution {
        owner: an_owner(dice, name),
        stage: dice.one_of(&[StageOrigin::StageA, StageOrigin::StageB, StageOrigin::StageC]),
        state: dice.one_of(&[
            OutputState::DeterministicallyResolved,
            OutputState::StronglyInferred,
            OutputState::Bounded,
            OutputState::Ambiguous,
            OutputState::Unknown,
            OutputState::NotIdentifiable,
        ]),
        confidence: confidence(dice),
        evidence: (0..dice.below(3))
            .map(|_| Evidence {
                method: dice.one_of(&[Method::R1, Method::R2, Method::R3, Method::R4, Method::R5]),
                source: dice.one_of(&["cgroup", "label"]),
                statement: dice.text(),
                self_asserted: dice.below(2) == 0,
                weight: dice.below(10_000) as u16,
                observed_at: dice.maybe(|dice| UnixNanos(dice.next())),
            })
            .collect(),
        candidates: (0..dice.below(2))
            .map(|_| Candidate {
                owner: an_owner(dice, name),
                confidence: confidence(dice),
                rationale: dice.text(),
            })
            .collect(),
        null_reason: dice.maybe(|dice| {
            dice.one_of(&[
                NullReason::NoRules,
                NullReason::NoRuleMatched,
                NullReason::Conflict,
                NullReason::IndexStale,
                NullReason::WorkloadUnknown,
            ])
        }),
        freshness: UnixNanos(dice.next()),
        index_generation: dice.next(),
    }
}

fn an_owner(dice: &mut Dice, name: &str) -> Owner {
    Owner {
        tenant: tenant(name),
        team: dice.maybe(|dice| dice.one_of(&["search", "ads", CANARY]).into()),
        service: dice.maybe(|dice| dice.one_of(&["api", "batch"]).into()),
        cost_centre: dice.maybe(|_| "4711".into()),
        environment: dice.maybe(|_| "prod".into()),
    }
}

fn a_cost(dice: &mut Dice) -> Cost {
    Cost {
        amount: dice.maybe(|dice| PicoUsd(u128::from(dice.next()) << dice.below(40))),
        kind: dice.one_of(&[
            CostKind::ProviderReported,
            CostKind::Computed,
            CostKind::Estimated,
            CostKind::Unknown,
        ]),
        catalogue_version: dice.next(),
        parts: (0..dice.below(3))
            .map(|_| CostPart {
                class: dice.one_of(&["input", "output"]),
                tokens: dice.next(),
                price: PicoUsd(dice.next().into()),
            })
            .collect(),
        reason: dice.maybe(|_| "unknown_model"),
    }
}

/// A stream of numbers (splitmix64): plain, so that a failing seed can be replayed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Dice) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| make(self))
    }

    fn text<T: From<String>>(&mut self) -> T {
        format!("{CANARY}-{:x}", self.next()).into()
    }
}
