//! Inner types to the API's and back: the only bridge. Absent stays absent; nothing is filled in.
//!
//! Structs are taken apart without `..` where a new field must not be forgotten.

use std::ops::Deref;

use meter::attribution::{Candidate, Evidence, Owner};
use meter::detail::Detail;
use meter::exchange::{Exchange, RateLimit, RateLimits, Reset, Timing, ToolUse, Usage};
use meter::record::{Cost, CostPart, Coverage, Flow, FlowSeen, Record, RecordId, Subject};
use meter::time::{Moment, UnixNanos};
use meter::workload::Workload;
use prost_types::Timestamp;
use proto::v1;
use store::UsageRow;

/// A point in time as the API writes it.
pub(super) fn timestamp(at: UnixNanos) -> Timestamp {
    let seconds = i64::try_from(at.0 / 1_000_000_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(at.0 % 1_000_000_000).unwrap_or(0);
    Timestamp { seconds, nanos }
}

/// A point in time from the API; `None` if it is outside 1970 to 2554 or malformed.
pub(super) fn unix_nanos(at: &Timestamp) -> Option<UnixNanos> {
    let seconds = u64::try_from(at.seconds).ok()?;
    let nanos = u64::try_from(at.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(UnixNanos)
}

/// A record with everything in it.
pub(super) fn record(record: &Record) -> v1::AttributionRecord {
    let Record { id, started_at, recorded_at, subject, workload: by, attribution, cost: costs } = record;
    let (exchange, flow, reason) = match subject {
        Subject::Exchange(inner) => {
            (Some(exchange(*id, *started_at, inner)), None, inner.reason.map(|r| r.as_str()))
        }
        Subject::Flow(inner) => (None, Some(flow_of(record, inner)), coverage_reason(inner.coverage)),
    };
    // Confidence above 0.80 with a known owner is what makes a row exportable without being asked for.
    let band = attribution.confidence.band();
    v1::AttributionRecord {
        cursor: String::new(),
        id: id.to_text(),
        started_at: Some(timestamp(*started_at)),
        exchange,
        workload: Some(workload(by)),
        owner: Some(owner(&attribution.owner)),
        cost: costs.as_ref().map(cost),
        stage_origin: attribution.stage.as_str().to_owned(),
        output_state: attribution.state.as_str().to_owned(),
        confidence: confidence(attribution.confidence.basis_points()),
        band: band.as_str().to_owned(),
        evidence_basis: attribution.evidence.iter().map(|fact| fact.statement.to_string()).collect(),
        model_version: None,
        degradation_state: "none".to_owned(),
        freshness: Some(timestamp(attribution.freshness)),
        export_eligibility: match band {
            meter::attribution::confidence::Band::ChargebackEligible => "eligible",
            _ => "on_request",
        }
        .to_owned(),
        reason: reason.or(attribution.null_reason.map(|why| why.as_str())).map(str::to_owned),
        ingestion_layer: "host_ebpf".to_owned(),
        index_generation: attribution.index_generation,
        recorded_at: Some(timestamp(*recorded_at)),
        flow,
    }
}

/// The exchange of a record; `None` if it is about a connection.
pub(super) fn record_exchange(record: &Record) -> Option<v1::Exchange> {
    match &record.subject {
        Subject::Exchange(inner) => Some(exchange(record.id, record.started_at, inner)),
        Subject::Flow(_) => None,
    }
}

/// The connection of a record; `None` if it is about an exchange.
pub(super) fn record_flow(record: &Record) -> Option<v1::Flow> {
    match &record.subject {
        Subject::Flow(inner) => Some(flow_of(record, inner)),
        Subject::Exchange(_) => None,
    }
}

/// Why a record says what it says.
pub(super) fn explanation(of: &Record) -> v1::Explanation {
    let meter::record::Explanation { steps, gaps } = of.explain();
    let chosen = &of.attribution.owner;
    v1::Explanation {
        record: Some(record(of)),
        evidence: of.attribution.evidence.iter().map(evidence).collect(),
        candidates: of.attribution.candidates.iter().map(|entry| candidate(entry, chosen)).collect(),
        steps,
        gaps,
    }
}

/// A row of aggregates. Groups whose value is unknown are absent from the map.
pub(super) fn usage_row(row: &UsageRow) -> v1::UsageRow {
    let UsageRow {
        bucket_start,
        group,
        exchanges,
        exchanges_without_usage,
        exchanges_without_cost,
        errors,
        usage: sums,
        amount,
        eligible,
    } = row;
    let known =
        group.iter().filter_map(|(key, value)| Some((key.as_str().to_owned(), value.as_ref()?.to_string())));
    v1::UsageRow {
        bucket_start: Some(timestamp(*bucket_start)),
        group: known.collect(),
        exchanges: *exchanges,
        exchanges_without_usage: *exchanges_without_usage,
        exchanges_without_cost: *exchanges_without_cost,
        errors: *errors,
        usage: Some(usage(sums)),
        amount_usd: amount.map(|amount| amount.to_string()),
        eligible_usd: eligible.map(|amount| amount.to_string()),
    }
}

/// Who ran it.
pub(super) fn workload(of: &Workload) -> v1::Workload {
    let Workload { process, exe, comm, uid, user, cgroup, container, pod, unit, labels, evidence } = of;
    let container = container.as_ref();
    let pod = pod.as_ref();
    v1::Workload {
        pid: Some(process.pid),
        exe: text(exe),
        comm: text(comm),
        uid: *uid,
        user: text(user),
        container_id: container.map(|container| container.id.to_string()),
        container_name: container.and_then(|container| text(&container.name)),
        image: container.and_then(|container| text(&container.image)),
        runtime: container.map(|container| container.runtime.to_owned()),
        pod: pod.and_then(|pod| text(&pod.name)),
        pod_uid: pod.and_then(|pod| text(&pod.uid)),
        namespace: pod.and_then(|pod| text(&pod.namespace)),
        controller: pod.and_then(|pod| text(&pod.controller)),
        unit: text(unit),
        cgroup: text(cgroup),
        labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        evidence: evidence.as_str().to_owned(),
    }
}

/// A coverage verdict: its word and its reason.
pub(super) fn coverage(of: Coverage) -> (&'static str, &'static str) {
    let word = match of {
        Coverage::Captured => "captured",
        Coverage::MetadataOnly(_) => "metadata_only",
        Coverage::Dark(_) => "dark",
    };
    (word, coverage_reason(of).unwrap_or_default())
}

/// A cursor is the id of the last record shown.
pub(super) fn cursor(of: Option<RecordId>) -> String {
    of.map(RecordId::to_text).unwrap_or_default()
}

fn coverage_reason(of: Coverage) -> Option<&'static str> {
    match of {
        Coverage::Captured => None,
        Coverage::MetadataOnly(reason) => Some(reason.as_str()),
        Coverage::Dark(reason) => Some(reason.as_str()),
    }
}

fn exchange(id: RecordId, started_at: UnixNanos, of: &Exchange) -> v1::Exchange {
    let Exchange {
        session: _,
        ordinal: _,
        provider,
        host,
        identified_by,
        dialect,
        operation,
        inference: _,
        requested_model,
        model,
        streaming,
        status,
        usage: counts,
        reported_cost: _,
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
        timing: _,
        withheld,
        reason,
    } = of;
    let error = error.as_ref();
    v1::Exchange {
        id: id.to_text(),
        started_at: Some(timestamp(started_at)),
        provider: provider.to_string(),
        host: host.to_string(),
        operation: (*operation).to_owned(),
        dialect: dialect.unwrap_or_default().to_owned(),
        requested_model: text(requested_model),
        model: text(model),
        streaming: *streaming,
        status: status.map(u32::from),
        usage: (!counts.is_unknown()).then(|| usage(counts)),
        timing: Some(timing(of)),
        finish_reasons: finish_reasons.iter().map(ToString::to_string).collect(),
        tools: tools.iter().map(|tool| tool.name.to_string()).collect(),
        provider_request_id: text(provider_request_id),
        service_tier: service_tier.as_ref().map(ToString::to_string),
        batch: batch.then_some(true),
        error_class: error.and_then(|error| text(&error.class)),
        error_code: error.and_then(|error| text(&error.code)),
        api_key_fingerprint: text(api_key_fingerprint),
        sdk: text(sdk),
        trace_id: text(trace_id),
        request_bytes: *request_bytes,
        response_bytes: *response_bytes,
        identified_by: identified_by.as_str().to_owned(),
        reason: reason.map(|reason| reason.as_str().to_owned()),
        organization: text(organization),
        project: text(project),
        tool_calls: tools.iter().map(tool_calls).collect(),
        rate_limits: limits.iter().map(rate_limit).collect(),
        retry_after_ms: *retry_after_ms,
        retries: *retries,
        withheld: withheld.places().map(|place| place.as_str().to_owned()).collect(),
    }
}

fn tool_calls(of: &ToolUse) -> v1::ToolCalls {
    let ToolUse { name, calls } = of;
    v1::ToolCalls { name: name.to_string(), calls: *calls }
}

fn rate_limit(of: &RateLimit) -> v1::RateLimit {
    let RateLimit { unit, limit, remaining, reset } = *of;
    let (after, at) = match reset {
        None => (None, None),
        Some(Reset::AfterMs(wait)) => (Some(wait), None),
        Some(Reset::At(at)) => (None, Some(timestamp(at))),
    };
    v1::RateLimit { unit: unit.as_str().to_owned(), limit, remaining, reset_after_ms: after, reset_at: at }
}

fn flow_of(record: &Record, of: &Flow) -> v1::Flow {
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
        coverage: covered,
    } = of;
    let (verdict, reason) = coverage(*covered);
    let bytes_known = bytes_sent.is_some() && bytes_received.is_some();
    v1::Flow {
        id: record.id.to_text(),
        started_at: Some(timestamp(record.started_at)),
        ended_at: ended_at.map(timestamp),
        local_address: local.to_string(),
        remote_address: remote.to_string(),
        protocol: if *protocol == 17 { "udp" } else { "tcp" }.to_owned(),
        bytes_sent: *bytes_sent,
        bytes_received: *bytes_received,
        bytes_missing_reason: match (bytes_known, seen) {
            (true, _) => "",
            (false, FlowSeen::AtStart) => "older_than_capture",
            (false, FlowSeen::Tap) => "seen_on_the_wire_only",
            (false, FlowSeen::Connect) => "not_reported_by_kernel",
        }
        .to_owned(),
        provider: provider.as_deref().unwrap_or_default().to_owned(),
        host: host.as_deref().unwrap_or_default().to_owned(),
        identified_by: identified_by.map(|by| by.as_str()).unwrap_or_default().to_owned(),
        seen: match seen {
            FlowSeen::Connect => "connect",
            FlowSeen::AtStart => "at_start",
            FlowSeen::Tap => "tap",
        }
        .to_owned(),
        workload: Some(workload(&record.workload)),
        owner: Some(owner(&record.attribution.owner)),
        confidence: confidence(record.attribution.confidence.basis_points()),
        band: record.attribution.confidence.band().as_str().to_owned(),
        coverage: verdict.to_owned(),
        reason: reason.to_owned(),
    }
}

fn usage(of: &Usage) -> v1::Usage {
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
    } = *of;
    let detail = |(detail, count): (Detail, u64)| v1::UsageDetail { unit: detail.as_str().to_owned(), count };
    v1::Usage {
        details: details.iter().map(detail).collect(),
        input_tokens: input,
        output_tokens: output,
        cache_read_input_tokens: cache_read,
        cache_creation_input_tokens: cache_creation,
        cache_creation_5m_input_tokens: cache_creation_5m,
        cache_creation_1h_input_tokens: cache_creation_1h,
        reasoning_output_tokens: reasoning,
        audio_input_tokens: audio_input,
        audio_output_tokens: audio_output,
        image_input_tokens: image_input,
        image_output_tokens: image_output,
        total_tokens: total,
        web_search_requests,
    }
}

fn timing(of: &Exchange) -> v1::Timing {
    let Timing { started, first_byte, first_token, last_token, ended } = of.timing;
    let after_start = |moment: Option<Moment>| moment.map(|moment| moment.since(started) as f64 / 1e6);
    v1::Timing {
        first_byte_ms: after_start(first_byte),
        first_token_ms: after_start(first_token),
        last_token_ms: after_start(last_token),
        total_ms: after_start(ended),
        output_tokens_per_second: of.output_millitokens_per_second().map(|rate| rate as f64 / 1e3),
    }
}

fn owner(of: &Owner) -> v1::Owner {
    let Owner { tenant, team, service, cost_centre, environment } = of;
    let text = |value: &Option<std::sync::Arc<str>>| value.as_ref().map(ToString::to_string);
    v1::Owner {
        tenant: tenant.as_str().to_owned(),
        team: text(team),
        service: text(service),
        cost_centre: text(cost_centre),
        environment: text(environment),
    }
}

fn cost(of: &Cost) -> v1::Cost {
    let Cost { amount, kind, catalogue_version, parts, reason } = of;
    v1::Cost {
        amount_usd: amount.map(|amount| amount.to_string()),
        kind: kind.as_str().to_owned(),
        catalogue_version: *catalogue_version,
        parts: parts.iter().map(cost_part).collect(),
        reason: reason.map(str::to_owned),
    }
}

fn cost_part(of: &CostPart) -> v1::CostPart {
    v1::CostPart {
        token_class: of.class.to_owned(),
        tokens: of.tokens,
        pico_usd_per_token: u64::try_from(of.price.0).unwrap_or(u64::MAX),
    }
}

fn evidence(of: &Evidence) -> v1::Evidence {
    let Evidence { method, source, statement, self_asserted, weight, observed_at } = of;
    v1::Evidence {
        method: method.as_str().to_owned(),
        source: (*source).to_owned(),
        statement: statement.to_string(),
        self_asserted: *self_asserted,
        weight: confidence(*weight),
        observed_at: observed_at.map(timestamp),
    }
}

fn candidate(of: &Candidate, chosen: &Owner) -> v1::Candidate {
    v1::Candidate {
        owner: Some(owner(&of.owner)),
        confidence: confidence(of.confidence.basis_points()),
        chosen: of.owner == *chosen,
        rationale: of.rationale.to_string(),
    }
}

fn confidence(basis_points: u16) -> f64 {
    f64::from(basis_points) / 10_000.0
}

fn text<T: Deref<Target = str>>(value: &Option<T>) -> Option<String> {
    value.as_deref().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_there_and_back() {
        for nanos in [0, 1, 999_999_999, 1_000_000_000, 1_760_000_000_123_456_789] {
            assert_eq!(unix_nanos(&timestamp(UnixNanos(nanos))), Some(UnixNanos(nanos)));
        }
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert_eq!(unix_nanos(&Timestamp { seconds, nanos }), None, "{seconds} {nanos}");
        }
    }
}
