//! One call: as a JSON object (a contract for scripts) and as a row of a table.

use proto::v1::{AttributionRecord, Exchange, Usage};

use super::json::{self, Object};
use super::table::Column;
use super::text;

/// The record as JSON. `reason` says why something of the call is unknown; where nothing of the call is, why there is
/// no owner. `None` if the record is not about a call.
pub(crate) fn object(record: &AttributionRecord) -> Option<Object> {
    let call = record.exchange.as_ref()?;
    let reason = call.reason.clone().or_else(|| record.reason.clone());
    let object = Object::new()
        .text("id", &record.id)
        .time("started_at", record.started_at.as_ref().or(call.started_at.as_ref()))
        .text("provider", &call.provider)
        .text("host", &call.host)
        .text("operation", if call.operation == "unknown" { "" } else { &call.operation })
        .opt("requested_model", call.requested_model.clone())
        .opt("model", call.model.clone())
        .opt("streaming", call.streaming)
        .opt("status", call.status)
        .object("usage", json::usage(call.usage.as_ref()))
        .object("cost", json::cost(record.cost.as_ref()))
        .object("timing", json::timing(call.timing.as_ref()))
        .object("workload", json::workload(record.workload.as_ref()))
        .object("owner", json::owner(record.owner.as_ref()))
        .real("confidence", Some(record.confidence))
        .text("band", &record.band)
        .text("output_state", &record.output_state)
        .opt("reason", reason)
        .opt("attribution_reason", record.reason.clone())
        .text("stage_origin", &record.stage_origin)
        .list("evidence_basis", &record.evidence_basis)
        .opt("model_version", record.model_version.clone())
        .text("degradation_state", &record.degradation_state)
        .text("export_eligibility", &record.export_eligibility)
        .text("ingestion_layer", &record.ingestion_layer)
        .time("freshness", record.freshness.as_ref())
        .time("recorded_at", record.recorded_at.as_ref());
    Some(details(object, call))
}

fn details(object: Object, call: &Exchange) -> Object {
    object
        .text("dialect", &call.dialect)
        .text("identified_by", &call.identified_by)
        .list("finish_reasons", &call.finish_reasons)
        .list("tools", &call.tools)
        .opt("provider_request_id", call.provider_request_id.clone())
        .opt("service_tier", call.service_tier.clone())
        .opt("batch", call.batch)
        .opt("error_class", call.error_class.clone())
        .opt("error_code", call.error_code.clone())
        .opt("api_key_fingerprint", call.api_key_fingerprint.clone())
        .opt("sdk", call.sdk.clone())
        .opt("trace_id", call.trace_id.clone())
        .opt("request_bytes", call.request_bytes)
        .opt("response_bytes", call.response_bytes)
        .opt("organization", call.organization.clone())
        .opt("project", call.project.clone())
        .values("tool_calls", json::tool_calls(&call.tool_calls))
        .object("rate_limits", json::rate_limits(&call.rate_limits))
        .opt("retry_after_ms", call.retry_after_ms)
        .opt("retries", call.retries)
        .list("withheld", &call.withheld)
}

/// The columns of a table of calls.
pub(crate) const COLUMNS: &[Column<AttributionRecord>] = &[
    Column {
        heading: "STARTED (UTC)",
        width: 19,
        dispensable: 3,
        right: false,
        cell: |record| text::clock(record.started_at.as_ref()),
    },
    Column {
        heading: "PROVIDER",
        width: 10,
        dispensable: 6,
        right: false,
        cell: |record| call(record, |call| text::name(&call.provider)),
    },
    Column { heading: "MODEL", width: 24, dispensable: 0, right: false, cell: model },
    Column {
        heading: "STATUS",
        width: 6,
        dispensable: 5,
        right: true,
        cell: |record| call(record, |call| text::count_or(call.status.map(u64::from))),
    },
    Column {
        heading: "IN",
        width: 9,
        dispensable: 0,
        right: true,
        cell: |record| tokens(record, |usage| usage.input_tokens),
    },
    Column {
        heading: "OUT",
        width: 7,
        dispensable: 0,
        right: true,
        cell: |record| tokens(record, |usage| usage.output_tokens),
    },
    Column {
        heading: "COST",
        width: 11,
        dispensable: 0,
        right: true,
        cell: |record| text::dollars_or(record.cost.as_ref().and_then(|cost| cost.amount_usd.as_ref())),
    },
    Column {
        heading: "FIRST",
        width: 7,
        dispensable: 9,
        right: true,
        cell: |record| milliseconds(record, |timing| timing.first_token_ms.or(timing.first_byte_ms)),
    },
    Column {
        heading: "TOTAL",
        width: 7,
        dispensable: 8,
        right: true,
        cell: |record| milliseconds(record, |timing| timing.total_ms),
    },
    Column { heading: "TOK/S", width: 6, dispensable: 10, right: true, cell: rate },
    Column {
        heading: "WORKLOAD",
        width: 22,
        dispensable: 0,
        right: false,
        cell: |record| text::workload(record.workload.as_ref()),
    },
    Column {
        heading: "OWNER",
        width: 18,
        dispensable: 2,
        right: false,
        cell: |record| text::owner(record.owner.as_ref()),
    },
    Column {
        heading: "SURE",
        width: 4,
        dispensable: 7,
        right: true,
        cell: |record| format!("{:.2}", record.confidence),
    },
    Column {
        heading: "ID",
        width: 8,
        dispensable: 1,
        right: false,
        cell: |record| text::short_id(&record.id),
    },
    Column {
        heading: "UNKNOWN BECAUSE",
        width: 24,
        dispensable: 4,
        right: false,
        cell: |record| call(record, |call| text::name_or(call.reason.as_ref())),
    },
];

fn call(record: &AttributionRecord, show: impl Fn(&Exchange) -> String) -> String {
    record.exchange.as_ref().map_or(text::UNKNOWN.to_owned(), show)
}

fn model(record: &AttributionRecord) -> String {
    call(record, |call| text::name_or(call.model.as_ref().or(call.requested_model.as_ref())))
}

fn tokens(record: &AttributionRecord, of: fn(&Usage) -> Option<u64>) -> String {
    text::count_or(record.exchange.as_ref().and_then(|call| call.usage.as_ref()).and_then(of))
}

/// Output tokens per second.
fn rate(record: &AttributionRecord) -> String {
    let timing = record.exchange.as_ref().and_then(|call| call.timing.as_ref());
    match timing.and_then(|timing| timing.output_tokens_per_second) {
        Some(rate) => format!("{rate:.1}"),
        None => text::UNKNOWN.to_owned(),
    }
}

fn milliseconds(record: &AttributionRecord, of: fn(&proto::v1::Timing) -> Option<f64>) -> String {
    text::milliseconds_or(record.exchange.as_ref().and_then(|call| call.timing.as_ref()).and_then(of))
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::v1::{Cost, CostPart, Owner, RateLimit, Timing, ToolCalls, Workload};

    use super::*;
    use crate::output::{Look, table};

    /// A call of which everything is known.
    pub(crate) fn full() -> AttributionRecord {
        let started_at = Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 250_000_000 });
        AttributionRecord {
            id: "attr_019ca95e4afa00000000000000000001".into(),
            started_at,
            exchange: Some(Exchange {
                provider: "openai".into(),
                host: "api.openai.com".into(),
                operation: "chat".into(),
                requested_model: Some("gpt-4o".into()),
                model: Some("gpt-4o-2024-08-06".into()),
                streaming: Some(true),
                status: Some(200),
                usage: Some(Usage {
                    input_tokens: Some(1_200),
                    output_tokens: Some(34),
                    cache_read_input_tokens: Some(1_024),
                    ..Usage::default()
                }),
                timing: Some(Timing {
                    first_byte_ms: Some(80.5),
                    first_token_ms: Some(120.0),
                    last_token_ms: Some(900.0),
                    total_ms: Some(1_000.25),
                    output_tokens_per_second: Some(37.777),
                }),
                tools: vec!["look_up".into()],
                tool_calls: vec![ToolCalls { name: "look_up".into(), calls: Some(2) }],
                rate_limits: vec![
                    RateLimit {
                        unit: "requests".into(),
                        limit: Some(500),
                        remaining: Some(0),
                        reset_after_ms: Some(120),
                        reset_at: None,
                    },
                    RateLimit {
                        unit: "tokens".into(),
                        remaining: Some(9),
                        reset_at: Some(prost_types::Timestamp { seconds: 1_772_366_460, nanos: 0 }),
                        ..RateLimit::default()
                    },
                ],
                retry_after_ms: Some(1_500),
                retries: Some(1),
                withheld: vec!["organization".into()],
                ..Exchange::default()
            }),
            workload: Some(Workload {
                pid: Some(42),
                exe: Some("/usr/bin/python3.11".into()),
                unit: Some("shop.service".into()),
                evidence: "exact".into(),
                ..Workload::default()
            }),
            owner: Some(Owner {
                tenant: "default".into(),
                team: Some("search".into()),
                service: Some("ranking".into()),
                ..Owner::default()
            }),
            cost: Some(Cost {
                amount_usd: Some("0.002060000000".into()),
                kind: "computed".into(),
                catalogue_version: 7,
                parts: vec![CostPart {
                    token_class: "output".into(),
                    tokens: 34,
                    pico_usd_per_token: 10_000_000,
                }],
                reason: None,
            }),
            output_state: "deterministically_resolved".into(),
            confidence: 0.95,
            band: "chargeback_eligible".into(),
            ..AttributionRecord::default()
        }
    }

    /// A call that was made before its process was armed.
    pub(crate) fn missed() -> AttributionRecord {
        AttributionRecord {
            id: "attr_019ca95e4afa00000000000000000002".into(),
            started_at: Some(prost_types::Timestamp { seconds: 1_772_366_401, nanos: 0 }),
            exchange: Some(Exchange {
                provider: "anthropic".into(),
                host: "api.anthropic.com".into(),
                operation: "unknown".into(),
                reason: Some("late_attach".into()),
                usage: Some(Usage::default()),
                timing: Some(Timing::default()),
                ..Exchange::default()
            }),
            cost: Some(Cost {
                kind: "unknown".into(),
                reason: Some("unknown_usage".into()),
                ..Cost::default()
            }),
            output_state: "unknown".into(),
            band: "estimate".into(),
            reason: Some("no_rules".into()),
            ..AttributionRecord::default()
        }
    }

    #[test]
    fn json_has_the_keys_of_the_contract_and_nothing_for_what_is_unknown() {
        fn check(record: &AttributionRecord, expected: &str) {
            let line = object(record).expect("a call").into_line();
            assert_eq!(line.trim_end(), expected.split_whitespace().collect::<String>());
        }
        check(
            &full(),
            r#"{"id":"attr_019ca95e4afa00000000000000000001","started_at":"2026-03-01T12:00:00.250000Z",
            "provider":"openai","host":"api.openai.com","operation":"chat","requested_model":"gpt-4o",
            "model":"gpt-4o-2024-08-06","streaming":true,"status":200,
            "usage":{"input_tokens":1200,"output_tokens":34,"cache_read_input_tokens":1024},
            "cost":{"amount_usd":"0.002060000000","kind":"computed","catalogue_version":7,
              "parts":[{"token_class":"output","tokens":34,"pico_usd_per_token":10000000}]},
            "timing":{"first_byte_ms":80.5,"first_token_ms":120.0,"last_token_ms":900.0,"total_ms":1000.25,
              "output_tokens_per_second":37.777},
            "workload":{"pid":42,"exe":"/usr/bin/python3.11","unit":"shop.service","evidence":"exact"},
            "owner":{"tenant":"default","team":"search","service":"ranking"},
            "confidence":0.95,"band":"chargeback_eligible","output_state":"deterministically_resolved",
            "tools":["look_up"],"tool_calls":[{"name":"look_up","calls":2}],
            "rate_limits":{"requests":{"limit":500,"remaining":0,"reset_after_ms":120},
              "tokens":{"remaining":9,"reset_at":"2026-03-01T12:01:00.000000Z"}},
            "retry_after_ms":1500,"retries":1,"withheld":["organization"]}"#,
        );
        check(
            &missed(),
            r#"{"id":"attr_019ca95e4afa00000000000000000002","started_at":"2026-03-01T12:00:01.000000Z",
            "provider":"anthropic","host":"api.anthropic.com","cost":{"kind":"unknown","reason":"unknown_usage"},
            "confidence":0.0,"band":"estimate","output_state":"unknown","reason":"late_attach",
            "attribution_reason":"no_rules"}"#,
        );
        assert!(object(&AttributionRecord::default()).is_none(), "a record about a connection is not a call");
    }

    #[test]
    fn a_table_shows_what_the_terminal_can_hold() {
        fn check(width: Option<u16>, expected: &[&str]) {
            let text = table::of(Look { width, colour: false }, COLUMNS, &[full(), missed()]);
            assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{width:?}");
        }
        check(
            None,
            &[
                "STARTED (UTC)        PROVIDER   MODEL              STATUS     IN  OUT      COST   FIRST   TOTAL  \
                 TOK/S  WORKLOAD        OWNER           SURE  ID        UNKNOWN BECAUSE",
                "2026-03-01 12:00:00  openai     gpt-4o-2024-08-06     200  1,200   34  $0.00206  120 ms  1.00 s   \
                 37.8  python3.11[42]  search/ranking  0.95  00000001  -",
                "2026-03-01 12:00:01  anthropic  -                       -      -    -         -       -       -      \
                 -  -               -               0.00  00000002  late_attach",
            ],
        );
        check(
            Some(81),
            &[
                "MODEL                 IN  OUT      COST  WORKLOAD        OWNER           ID",
                "gpt-4o-2024-08-06  1,200   34  $0.00206  python3.11[42]  search/ranking  00000001",
                "-                      -    -         -  -               -               00000002",
            ],
        );
    }
}
