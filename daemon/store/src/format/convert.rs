//! Records to messages and back. Both directions name every field, so that a new one cannot be forgotten.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Deref;
use std::sync::Arc;

use meter::attribution::confidence::Confidence;
use meter::attribution::{Attribution, Candidate, Evidence, Owner, TenantName};
use meter::detail::{Detail, Details};
use meter::exchange::{
    Exchange, ProviderError, RateLimit, RateLimits, ReportedCost, Reset, SessionId, TOOLS_MAX, Timing,
    ToolUse, Usage, Withheld,
};
use meter::money::PicoUsd;
use meter::record::{Cost, CostPart, Coverage, Flow, Record, RecordId, Subject};
use meter::time::{Moment, UnixNanos};
use meter::workload::{Container, Pod, ProcessKey, Workload};
use prost::Message as _;

use super::codes::{Code, word};
use super::{amount_from_bytes, amount_to_bytes};

/// The message for a record, without its id: that is the row's key.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let Record { id: _, started_at, recorded_at, subject, workload, attribution, cost } = record;
    let (exchange, flow) = match subject {
        Subject::Exchange(exchange) => (Some(Box::new(exchange_out(exchange))), None),
        Subject::Flow(flow) => (None, Some(Box::new(flow_out(flow)))),
    };
    super::Record {
        started_at: started_at.0,
        recorded_at: recorded_at.0,
        exchange,
        flow,
        workload: Some(workload_out(workload)),
        attribution: Some(attribution_out(attribution)),
        cost: cost.as_ref().map(cost_out),
    }
    .encode_to_vec()
}

/// The record in `bytes`; `None` if it was written by a version that we do not understand, or by none.
pub(crate) fn decode(id: RecordId, bytes: &[u8]) -> Option<Record> {
    let message = super::Record::decode(bytes).ok()?;
    let subject = match (message.exchange, message.flow) {
        (Some(exchange), None) => Subject::Exchange(Box::new(exchange_in(*exchange)?)),
        (None, Some(flow)) => Subject::Flow(Box::new(flow_in(*flow)?)),
        _ => return None,
    };
    Some(Record {
        id,
        started_at: UnixNanos(message.started_at),
        recorded_at: UnixNanos(message.recorded_at),
        subject,
        workload: Arc::new(workload_in(message.workload?)?),
        attribution: attribution_in(message.attribution?)?,
        cost: optional(message.cost, cost_in)?,
    })
}

fn exchange_out(exchange: &Exchange) -> super::Exchange {
    let Exchange {
        session,
        ordinal,
        provider,
        host,
        identified_by,
        dialect,
        operation,
        inference,
        requested_model,
        model,
        streaming,
        status,
        usage,
        reported_cost,
        service_tier,
        batch,
        finish_reasons,
        tools,
        provider_request_id,
        organization,
        project,
        error,
        api_key_fingerprint,
        sdk,
        trace_id,
        rate_limits: RateLimits { limits, retry_after_ms },
        retries,
        request_bytes,
        response_bytes,
        timing,
        withheld,
        reason,
    } = exchange;
    super::Exchange {
        session: session.0,
        ordinal: *ordinal,
        provider: provider.to_string(),
        host: host.to_string(),
        identified_by: identified_by.to_code(),
        dialect: dialect.map(str::to_owned),
        operation: (*operation).to_owned(),
        inference: *inference,
        requested_model: text_out(requested_model),
        model: text_out(model),
        streaming: *streaming,
        status: status.map(u32::from),
        usage: (!usage.is_unknown()).then(|| usage_out(usage)),
        reported_cost: reported_cost.map(|cost| amount_to_bytes(cost.0.0)),
        service_tier: service_tier.as_ref().map(ToString::to_string),
        batch: *batch,
        finish_reasons: finish_reasons.iter().map(|reason| reason.to_string()).collect(),
        tool_names: Vec::new(),
        provider_request_id: text_out(provider_request_id),
        organization: text_out(organization),
        project: text_out(project),
        error: error.as_ref().map(|ProviderError { class, code }| super::ProviderError {
            class: text_out(class),
            code: text_out(code),
        }),
        api_key_fingerprint: text_out(api_key_fingerprint),
        sdk: text_out(sdk),
        trace_id: text_out(trace_id),
        request_bytes: *request_bytes,
        response_bytes: *response_bytes,
        timing: Some(timing_out(timing)),
        reason: reason.map_or(0, |reason| reason.to_code()),
        tools: tools
            .iter()
            .map(|ToolUse { name, calls }| super::ToolUse { name: name.to_string(), calls: *calls })
            .collect(),
        rate_limits: limits.iter().map(rate_limit_out).collect(),
        retry_after_ms: *retry_after_ms,
        retries: *retries,
        withheld: withheld.bits(),
    }
}

fn exchange_in(message: super::Exchange) -> Option<Exchange> {
    Some(Exchange {
        session: SessionId(message.session),
        ordinal: message.ordinal,
        provider: message.provider.into(),
        host: message.host.into(),
        identified_by: Code::from_code(message.identified_by)?,
        dialect: message.dialect.as_deref().map(word),
        operation: word(&message.operation),
        inference: message.inference,
        requested_model: text_in(message.requested_model),
        model: text_in(message.model),
        streaming: message.streaming,
        status: optional(message.status, |status| u16::try_from(status).ok())?,
        usage: message.usage.as_ref().map(usage_in).unwrap_or_default(),
        reported_cost: optional(message.reported_cost, |bytes| amount_from_bytes(&bytes))?
            .map(|amount| ReportedCost(PicoUsd(amount))),
        service_tier: message.service_tier.map(Into::into),
        batch: message.batch,
        finish_reasons: message.finish_reasons.into_iter().map(Into::into).collect(),
        tools: tools_in(message.tools, message.tool_names),
        provider_request_id: text_in(message.provider_request_id),
        organization: text_in(message.organization),
        project: text_in(message.project),
        error: message
            .error
            .map(|error| ProviderError { class: text_in(error.class), code: text_in(error.code) }),
        api_key_fingerprint: text_in(message.api_key_fingerprint),
        sdk: text_in(message.sdk),
        trace_id: text_in(message.trace_id),
        rate_limits: RateLimits {
            limits: message.rate_limits.into_iter().map(rate_limit_in).collect::<Option<_>>()?,
            retry_after_ms: message.retry_after_ms,
        },
        retries: message.retries,
        request_bytes: message.request_bytes,
        response_bytes: message.response_bytes,
        timing: message.timing.map(timing_in).unwrap_or_default(),
        withheld: Withheld::from_bits(message.withheld),
        reason: code_or_none(message.reason)?,
    })
}

/// Tools; from the names of an older row, one per call and cut at [`TOOLS_MAX`], as far as they tell.
fn tools_in(tools: Vec<super::ToolUse>, names: Vec<String>) -> Vec<ToolUse> {
    let all = names.len() < TOOLS_MAX;
    let mut read: Vec<ToolUse> =
        tools.into_iter().map(|tool| ToolUse { name: tool.name.into(), calls: tool.calls }).collect();
    for name in names {
        match read.iter_mut().find(|tool| *tool.name == *name) {
            Some(tool) => tool.calls = tool.calls.map(|calls| calls.saturating_add(1)),
            None => read.push(ToolUse { name: name.into(), calls: all.then_some(1) }),
        }
    }
    read
}

fn rate_limit_out(limit: &RateLimit) -> super::RateLimit {
    let RateLimit { unit, limit, remaining, reset } = *limit;
    let (reset_after_ms, reset_at) = match reset {
        None => (None, None),
        Some(Reset::AfterMs(wait)) => (Some(wait), None),
        Some(Reset::At(at)) => (None, Some(at.0)),
    };
    super::RateLimit { unit: unit.to_code(), limit, remaining, reset_after_ms, reset_at }
}

fn rate_limit_in(message: super::RateLimit) -> Option<RateLimit> {
    let reset = message.reset_after_ms.map(Reset::AfterMs);
    Some(RateLimit {
        unit: Code::from_code(message.unit)?,
        limit: message.limit,
        remaining: message.remaining,
        reset: reset.or(message.reset_at.map(|at| Reset::At(UnixNanos(at)))),
    })
}

pub(crate) fn usage_out(usage: &Usage) -> super::Usage {
    let Usage {
        input,
        output,
        cache_read,
        cache_creation,
        cache_creation_5m,
        cache_creation_1h,
        reasoning,
        audio_input,
        audio_output,
        image_input,
        image_output,
        total,
        web_search_requests,
        details,
    } = *usage;
    let detail = |(detail, count): (Detail, u64)| super::UsageDetail { detail: detail.code(), count };
    super::Usage {
        input,
        output,
        cache_read,
        cache_creation,
        cache_creation_5m,
        cache_creation_1h,
        reasoning,
        audio_input,
        audio_output,
        image_input,
        image_output,
        total,
        web_search_requests,
        details: details.iter().map(detail).collect(),
    }
}

pub(crate) fn usage_in(message: &super::Usage) -> Usage {
    let mut details = Details::default();
    for one in &message.details {
        // One that this version does not know is passed over, as a field would be.
        if let Some(detail) = Detail::ALL.iter().find(|detail| detail.code() == one.detail) {
            details.set(*detail, one.count);
        }
    }
    Usage {
        details,
        input: message.input,
        output: message.output,
        cache_read: message.cache_read,
        cache_creation: message.cache_creation,
        cache_creation_5m: message.cache_creation_5m,
        cache_creation_1h: message.cache_creation_1h,
        reasoning: message.reasoning,
        audio_input: message.audio_input,
        audio_output: message.audio_output,
        image_input: message.image_input,
        image_output: message.image_output,
        total: message.total,
        web_search_requests: message.web_search_requests,
    }
}

fn timing_out(timing: &Timing) -> super::Timing {
    let Timing { started, first_byte, first_token, last_token, ended } = *timing;
    super::Timing {
        started: started.0,
        first_byte: first_byte.map(|moment| moment.0),
        first_token: first_token.map(|moment| moment.0),
        last_token: last_token.map(|moment| moment.0),
        ended: ended.map(|moment| moment.0),
    }
}

fn timing_in(message: super::Timing) -> Timing {
    Timing {
        started: Moment(message.started),
        first_byte: message.first_byte.map(Moment),
        first_token: message.first_token.map(Moment),
        last_token: message.last_token.map(Moment),
        ended: message.ended.map(Moment),
    }
}

fn flow_out(flow: &Flow) -> super::Flow {
    let Flow {
        ended_at,
        local,
        remote,
        protocol,
        bytes_sent,
        bytes_received,
        provider,
        host,
        identified_by,
        seen,
        coverage,
    } = flow;
    let (coverage, reason, dark_reason) = match coverage {
        Coverage::Captured => (1, 0, 0),
        Coverage::MetadataOnly(reason) => (2, reason.to_code(), 0),
        Coverage::Dark(reason) => (3, 0, reason.to_code()),
    };
    super::Flow {
        ended_at: ended_at.map(|time| time.0),
        local: address_out(local),
        remote: address_out(remote),
        protocol: u32::from(*protocol),
        bytes_sent: *bytes_sent,
        bytes_received: *bytes_received,
        provider: provider.as_deref().map(str::to_owned),
        host: host.as_deref().map(str::to_owned),
        identified_by: identified_by.map_or(0, |by| by.to_code()),
        seen: seen.to_code(),
        coverage,
        reason,
        dark_reason,
    }
}

fn flow_in(message: super::Flow) -> Option<Flow> {
    let coverage = match message.coverage {
        1 => Coverage::Captured,
        2 => Coverage::MetadataOnly(Code::from_code(message.reason)?),
        3 => Coverage::Dark(Code::from_code(message.dark_reason)?),
        _ => return None,
    };
    Some(Flow {
        ended_at: message.ended_at.map(UnixNanos),
        local: address_in(&message.local)?,
        remote: address_in(&message.remote)?,
        protocol: u8::try_from(message.protocol).ok()?,
        bytes_sent: message.bytes_sent,
        bytes_received: message.bytes_received,
        provider: message.provider.map(Into::into),
        host: message.host.map(Into::into),
        identified_by: code_or_none(message.identified_by)?,
        seen: Code::from_code(message.seen)?,
        coverage,
    })
}

fn address_out(address: &SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(26);
    match address {
        SocketAddr::V4(v4) => bytes.extend_from_slice(&v4.ip().octets()),
        SocketAddr::V6(v6) => bytes.extend_from_slice(&v6.ip().octets()),
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
    if let SocketAddr::V6(v6) = address {
        bytes.extend_from_slice(&v6.flowinfo().to_be_bytes());
        bytes.extend_from_slice(&v6.scope_id().to_be_bytes());
    }
    bytes
}

fn address_in(bytes: &[u8]) -> Option<SocketAddr> {
    if let Ok([a, b, c, d, high, low]) = <[u8; 6]>::try_from(bytes) {
        let port = u16::from_be_bytes([high, low]);
        return Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port).into());
    }
    let (ip, rest) = bytes.split_first_chunk::<16>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (flow, scope) = rest.split_first_chunk::<4>()?;
    let scope = <[u8; 4]>::try_from(scope).ok()?;
    let port = u16::from_be_bytes(*port);
    let (flow, scope) = (u32::from_be_bytes(*flow), u32::from_be_bytes(scope));
    Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope).into())
}

fn workload_out(workload: &Workload) -> super::Workload {
    let Workload { process, exe, comm, uid, user, cgroup, container, pod, unit, labels, evidence } = workload;
    super::Workload {
        pid: process.pid,
        start_ticks: process.start_ticks,
        exe: text_out(exe),
        comm: text_out(comm),
        uid: *uid,
        user: text_out(user),
        cgroup: text_out(cgroup),
        container: container.as_ref().map(|Container { id, runtime, name, image }| super::Container {
            id: id.to_string(),
            runtime: (*runtime).to_owned(),
            name: text_out(name),
            image: text_out(image),
        }),
        pod: pod.as_ref().map(|Pod { uid, name, namespace, controller }| super::Pod {
            uid: text_out(uid),
            name: text_out(name),
            namespace: text_out(namespace),
            controller: text_out(controller),
        }),
        unit: text_out(unit),
        labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        evidence: evidence.to_code(),
    }
}

fn workload_in(message: super::Workload) -> Option<Workload> {
    Some(Workload {
        process: ProcessKey { pid: message.pid, start_ticks: message.start_ticks },
        exe: text_in(message.exe),
        comm: text_in(message.comm),
        uid: message.uid,
        user: text_in(message.user),
        cgroup: text_in(message.cgroup),
        container: message.container.map(|container| Container {
            id: container.id.into(),
            runtime: word(&container.runtime),
            name: text_in(container.name),
            image: text_in(container.image),
        }),
        pod: message.pod.map(|pod| Pod {
            uid: text_in(pod.uid),
            name: text_in(pod.name),
            namespace: text_in(pod.namespace),
            controller: text_in(pod.controller),
        }),
        unit: text_in(message.unit),
        labels: message.labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        evidence: Code::from_code(message.evidence)?,
    })
}

fn attribution_out(attribution: &Attribution) -> super::Attribution {
    let Attribution {
        owner,
        stage,
        state,
        confidence,
        evidence,
        candidates,
        null_reason,
        freshness,
        index_generation,
    } = attribution;
    super::Attribution {
        owner: Some(owner_out(owner)),
        stage: stage.to_code(),
        state: state.to_code(),
        confidence: u32::from(confidence.basis_points()),
        evidence: evidence.iter().map(evidence_out).collect(),
        candidates: candidates
            .iter()
            .map(|Candidate { owner, confidence, rationale }| super::Candidate {
                owner: Some(owner_out(owner)),
                confidence: u32::from(confidence.basis_points()),
                rationale: rationale.to_string(),
            })
            .collect(),
        null_reason: null_reason.map_or(0, |reason| reason.to_code()),
        freshness: freshness.0,
        index_generation: *index_generation,
    }
}

fn attribution_in(message: super::Attribution) -> Option<Attribution> {
    let candidate = |candidate: super::Candidate| {
        Some(Candidate {
            owner: owner_in(candidate.owner?)?,
            confidence: confidence_in(candidate.confidence)?,
            rationale: candidate.rationale.into(),
        })
    };
    Some(Attribution {
        owner: owner_in(message.owner?)?,
        stage: Code::from_code(message.stage)?,
        state: Code::from_code(message.state)?,
        confidence: confidence_in(message.confidence)?,
        evidence: message.evidence.into_iter().map(evidence_in).collect::<Option<_>>()?,
        candidates: message.candidates.into_iter().map(candidate).collect::<Option<_>>()?,
        null_reason: code_or_none(message.null_reason)?,
        freshness: UnixNanos(message.freshness),
        index_generation: message.index_generation,
    })
}

fn evidence_out(evidence: &Evidence) -> super::Evidence {
    let Evidence { method, source, statement, self_asserted, weight, observed_at } = evidence;
    super::Evidence {
        method: method.to_code(),
        source: (*source).to_owned(),
        statement: statement.to_string(),
        self_asserted: *self_asserted,
        weight: u32::from(*weight),
        observed_at: observed_at.map(|time| time.0),
    }
}

fn evidence_in(message: super::Evidence) -> Option<Evidence> {
    Some(Evidence {
        method: Code::from_code(message.method)?,
        source: word(&message.source),
        statement: message.statement.into(),
        self_asserted: message.self_asserted,
        weight: u16::try_from(message.weight).ok()?,
        observed_at: message.observed_at.map(UnixNanos),
    })
}

fn owner_out(owner: &Owner) -> super::Owner {
    let Owner { tenant, team, service, cost_centre, environment } = owner;
    super::Owner {
        tenant: tenant.as_str().to_owned(),
        team: team.as_deref().map(str::to_owned),
        service: service.as_deref().map(str::to_owned),
        cost_centre: cost_centre.as_deref().map(str::to_owned),
        environment: environment.as_deref().map(str::to_owned),
    }
}

fn owner_in(message: super::Owner) -> Option<Owner> {
    Some(Owner {
        tenant: TenantName::new(&message.tenant)?,
        team: message.team.map(Into::into),
        service: message.service.map(Into::into),
        cost_centre: message.cost_centre.map(Into::into),
        environment: message.environment.map(Into::into),
    })
}

fn cost_out(cost: &Cost) -> super::Cost {
    let Cost { amount, kind, catalogue_version, parts, reason } = cost;
    super::Cost {
        amount: amount.map(|amount| amount_to_bytes(amount.0)),
        kind: kind.to_code(),
        catalogue_version: *catalogue_version,
        parts: parts
            .iter()
            .map(|CostPart { class, tokens, price }| super::CostPart {
                class: (*class).to_owned(),
                tokens: *tokens,
                price: amount_to_bytes(price.0),
            })
            .collect(),
        reason: reason.map(str::to_owned),
    }
}

fn cost_in(message: super::Cost) -> Option<Cost> {
    let part = |part: super::CostPart| {
        let price = PicoUsd(amount_from_bytes(&part.price)?);
        Some(CostPart { class: word(&part.class), tokens: part.tokens, price })
    };
    Some(Cost {
        amount: optional(message.amount, |bytes| amount_from_bytes(&bytes))?.map(PicoUsd),
        kind: Code::from_code(message.kind)?,
        catalogue_version: message.catalogue_version,
        parts: message.parts.into_iter().map(part).collect::<Option<_>>()?,
        reason: message.reason.as_deref().map(word),
    })
}

fn confidence_in(basis_points: u32) -> Option<Confidence> {
    Confidence::new(u16::try_from(basis_points).ok()?)
}

/// Absent stays absent; present must convert.
fn optional<A, B>(value: Option<A>, convert: impl FnOnce(A) -> Option<B>) -> Option<Option<B>> {
    match value {
        None => Some(None),
        Some(value) => convert(value).map(Some),
    }
}

fn code_or_none<C: Code>(code: u32) -> Option<Option<C>> {
    if code == 0 { Some(None) } else { C::from_code(code).map(Some) }
}

fn text_out<T: Deref<Target = str>>(text: &Option<T>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}

fn text_in<T: From<String>>(text: Option<String>) -> Option<T> {
    text.map(T::from)
}
