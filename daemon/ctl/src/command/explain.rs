//! `venturi explain ID`: why a record says what it says.

use proto::v1::{AttributionRecord, Cost, Exchange, ExplainRequest, Explanation, ListAttributionsRequest};
use serde_json::Value;

use crate::action::Explain;
use crate::client::Client;
use crate::command::page_limit;
use crate::failure::{Failure, Outcome};
use crate::output::json::{self, Object};
use crate::output::{Look, Page, call, print, table, text};

/// Pages that are searched for a record whose id is given by its last digits.
const PAGES_SEARCHED: usize = 20;
/// Length of a whole id: `attr_` and 32 digits.
const ID_LEN: usize = 37;

/// Asks and prints.
pub(crate) async fn run(client: &Client, explain: Explain, json: bool) -> Result<Outcome, Failure> {
    let Explain { id, tenant } = explain;
    let id = if id.len() == ID_LEN { id } else { complete(client, &id, &tenant).await? };
    let explanation = client.explain(ExplainRequest { tenant, id }).await?;
    let text = if json { object(&explanation).into_line() } else { render(&explanation, Look::of_stdout()) };
    print(&text)?;
    Ok(Outcome::Good)
}

/// The one id among the newest records that ends with `digits`.
async fn complete(client: &Client, digits: &str, tenant: &str) -> Result<String, Failure> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::Usage(format!(
            "`{digits}` is not an id: use attr_ and 32 digits, or the last digits of one"
        )));
    }
    let mut request = ListAttributionsRequest {
        tenant: tenant.to_owned(),
        limit: page_limit(None),
        descending: true,
        include_flows: true,
        ..ListAttributionsRequest::default()
    };
    let mut found: Vec<String> = Vec::new();
    for _ in 0..PAGES_SEARCHED {
        let page = client.attributions(request.clone()).await?;
        found.extend(page.records.into_iter().map(|record| record.id).filter(|id| id.ends_with(digits)));
        if page.next_cursor.is_empty() {
            break;
        }
        request.cursor = page.next_cursor;
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            Err(Failure::NotFound(format!("none of the newest records has an id that ends with `{digits}`")))
        }
        several => Err(Failure::Usage(format!(
            "`{digits}` fits {} records: {}",
            several.len(),
            several.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        ))),
    }
}

fn object(explanation: &Explanation) -> Object {
    let evidence: Vec<Value> = explanation
        .evidence
        .iter()
        .map(|one| {
            Object::new()
                .text("method", &one.method)
                .text("source", &one.source)
                .text("statement", &one.statement)
                .set("self_asserted", one.self_asserted)
                .real("weight", Some(one.weight))
                .time("observed_at", one.observed_at.as_ref())
                .into_value()
        })
        .collect();
    let candidates: Vec<Value> = explanation
        .candidates
        .iter()
        .map(|one| {
            Object::new()
                .object("owner", json::owner(one.owner.as_ref()))
                .real("confidence", Some(one.confidence))
                .set("chosen", one.chosen)
                .text("rationale", &one.rationale)
                .into_value()
        })
        .collect();
    let record =
        explanation.record.as_ref().and_then(|record| call::object(record).or_else(|| connection(record)));
    Object::new()
        .object("record", record.unwrap_or_default())
        .set("evidence", evidence)
        .set("candidates", candidates)
        .set("steps", explanation.steps.clone())
        .set("gaps", explanation.gaps.clone())
}

/// The little that a record about a connection shares with one about a call.
fn connection(record: &AttributionRecord) -> Option<Object> {
    let flow = record.flow.as_ref()?;
    Some(
        Object::new()
            .text("id", &record.id)
            .time("started_at", record.started_at.as_ref())
            .text("provider", &flow.provider)
            .text("host", &flow.host)
            .object("workload", json::workload(record.workload.as_ref()))
            .object("owner", json::owner(record.owner.as_ref()))
            .real("confidence", Some(record.confidence))
            .text("band", &record.band)
            .text("output_state", &record.output_state)
            .opt("reason", record.reason.clone()),
    )
}

fn render(explanation: &Explanation, look: Look) -> String {
    let mut page = Page::new(look);
    if let Some(record) = &explanation.record {
        record_lines(&mut page, record);
    }
    if !explanation.evidence.is_empty() {
        page.heading("Evidence");
        let rows = explanation
            .evidence
            .iter()
            .map(|one| {
                vec![
                    text::name(&one.method),
                    text::name(&one.source),
                    text::name(&one.statement),
                    if one.self_asserted { "the workload itself" } else { "kernel or administrator" }
                        .to_owned(),
                    format!("{:.2}", one.weight),
                    text::clock(one.observed_at.as_ref()),
                ]
            })
            .collect();
        let headings = ["METHOD", "SOURCE", "FACT", "SAID BY", "WEIGHT", "OBSERVED (UTC)"];
        page.block(&table::plain(look, &headings, rows, &[4]));
    }
    if !explanation.candidates.is_empty() {
        page.heading("Owners considered");
        let rows = explanation
            .candidates
            .iter()
            .map(|one| {
                vec![
                    text::owner(one.owner.as_ref()),
                    if one.chosen { "chosen" } else { "not chosen" }.to_owned(),
                    format!("{:.2}", one.confidence),
                    text::name(&one.rationale),
                ]
            })
            .collect();
        page.block(&table::plain(look, &["OWNER", "VERDICT", "SURE", "BECAUSE"], rows, &[2]));
    }
    listed(&mut page, "How it was decided", &explanation.steps);
    listed(&mut page, "What is not known", &explanation.gaps);
    page.into_text()
}

fn record_lines(page: &mut Page, record: &AttributionRecord) {
    page.line(format!("record      {}", text::name(&record.id)));
    if let Some(call) = &record.exchange {
        let model = call.model.as_ref().or(call.requested_model.as_ref());
        page.line(format!(
            "call        {} {} {}, status {}, {}",
            text::name(&call.provider),
            text::name(&call.operation),
            text::name_or(model),
            call.status.map_or("not known".to_owned(), |status| status.to_string()),
            text::clock(record.started_at.as_ref()),
        ));
        call_lines(page, call);
    }
    if let Some(flow) = &record.flow {
        page.line(format!(
            "connection  {} {} to {}, {}",
            text::name(&flow.provider),
            text::name(&flow.host),
            text::name(&flow.remote_address),
            text::clock(record.started_at.as_ref()),
        ));
    }
    page.line(format!("workload    {}", text::workload(record.workload.as_ref())));
    page.line(format!(
        "owner       {} (tenant {}): {}, {}, {:.2} sure, {}",
        text::owner(record.owner.as_ref()),
        record.owner.as_ref().map_or(text::UNKNOWN.to_owned(), |owner| text::name(&owner.tenant)),
        text::name(&record.output_state),
        text::name(&record.stage_origin),
        record.confidence,
        text::name(&record.band),
    ));
    if let Some(cost) = &record.cost {
        cost_lines(page, cost);
    }
}

/// What else helps to understand a call: retries, limits, tools.
fn call_lines(page: &mut Page, call: &Exchange) {
    if let Some(retries) = call.retries.filter(|retries| *retries > 0) {
        page.line(format!("            same request failed {} times before", text::count(retries.into())));
    }
    for limit in &call.rate_limits {
        let reset = match (limit.reset_after_ms, &limit.reset_at) {
            (Some(wait), _) => format!(", whole again after {} ms", text::count(wait)),
            (None, Some(at)) => format!(", whole again at {}", text::clock(Some(at))),
            (None, None) => String::new(),
        };
        page.line(format!(
            "limit       {} of {} {} left{reset}",
            text::count_or(limit.remaining),
            text::count_or(limit.limit),
            text::name(&limit.unit),
        ));
    }
    for tool in &call.tool_calls {
        let calls = tool.calls.map_or("not known how often".to_owned(), |calls| format!("{calls} x"));
        page.line(format!("tool        {}, {calls}", text::name(&tool.name)));
    }
}

fn cost_lines(page: &mut Page, cost: &Cost) {
    let why = cost.reason.as_ref().map_or(String::new(), |reason| format!(", {}", text::clean(reason)));
    page.line(format!(
        "cost        {}, {}, catalogue {}{why}",
        text::dollars_or(cost.amount_usd.as_ref()),
        text::name(&cost.kind),
        cost.catalogue_version,
    ));
    for part in &cost.parts {
        page.line(format!(
            "            {} {} x {} pUSD",
            text::count(part.tokens),
            text::name(&part.token_class),
            text::count(part.pico_usd_per_token),
        ));
    }
}

fn listed(page: &mut Page, heading: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    page.heading(heading);
    for line in lines {
        page.line(format!("- {}", text::clean(line)));
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::{Candidate, Evidence};

    use super::*;
    use crate::output::call::tests::full;

    fn explanation() -> Explanation {
        Explanation {
            evidence: vec![Evidence {
                method: "R1".into(),
                source: "unit".into(),
                statement: "rule[0]: unit = \"shop.service\"".into(),
                self_asserted: false,
                weight: 0.95,
                observed_at: None,
            }],
            candidates: vec![Candidate {
                owner: full().owner,
                confidence: 0.95,
                chosen: true,
                rationale: "the only rule that matched".into(),
            }],
            steps: vec!["unit from the cgroup path".into()],
            gaps: vec![],
            record: Some(full()),
        }
    }

    #[test]
    fn an_explanation_reads_from_the_record_to_the_reasons() {
        let expected = "\
record      attr_019ca95e4afa00000000000000000001
call        openai chat gpt-4o-2024-08-06, status 200, 2026-03-01 12:00:00
            same request failed 1 times before
limit       0 of 500 requests left, whole again after 120 ms
limit       9 of - tokens left, whole again at 2026-03-01 12:01:00
tool        look_up, 2 x
workload    python3.11[42]
owner       search/ranking (tenant default): deterministically_resolved, -, 0.95 sure, chargeback_eligible
cost        $0.00206, computed, catalogue 7
            34 output x 10,000,000 pUSD

Evidence
METHOD  SOURCE  FACT                            SAID BY                  WEIGHT  OBSERVED (UTC)
R1      unit    rule[0]: unit = \"shop.service\"  kernel or administrator    0.95  -

Owners considered
OWNER           VERDICT  SURE  BECAUSE
search/ranking  chosen   0.95  the only rule that matched

How it was decided
- unit from the cgroup path
";
        assert_eq!(render(&explanation(), Look::default()), expected);
        let json = object(&explanation()).into_value();
        assert_eq!(json.pointer("/record/model"), Some(&Value::from("gpt-4o-2024-08-06")));
        assert_eq!(json.pointer("/evidence/0/weight"), Some(&Value::from(0.95)));
        assert_eq!(json.pointer("/evidence/0/observed_at"), None);
        assert_eq!(json.pointer("/candidates/0/chosen"), Some(&Value::Bool(true)));
    }
}
