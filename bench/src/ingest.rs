//! Store: durable records per second beside the raw fsync rate of the same disk, and how fast questions are answered.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use meter::attribution::confidence::Confidence;
use meter::attribution::{Attribution, OutputState, Owner, StageOrigin, TenantName};
use meter::exchange::{Exchange, IdentifiedBy, RateLimits, SessionId, Timing, Usage, Withheld};
use meter::money::PicoUsd;
use meter::record::{Cost, CostKind, CostParts, Record, RecordId, Subject};
use meter::time::UnixNanos;
use meter::workload::{ProcessKey, Workload};
use store::{GroupKey, Layout, ListQuery, Options, UsageQuery};

use crate::measure::seconds_per_run;
use crate::report::Report;

const RECORDS: u64 = 50_000;
const BATCH: u64 = 250;

/// Commits [`RECORDS`] records in batches, then lists and sums them.
pub(crate) fn run(report: &mut Report) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let layout = Layout { state_dir: dir.path().join("state"), key_dir: dir.path().join("keys") };
    let tenant = TenantName::new(TenantName::DEFAULT).context("a tenant")?;
    let stores =
        store::open(store::prepare(&layout, std::slice::from_ref(&tenant), None)?, Options::default());

    let fsync = seconds_per_fsync(dir.path())?;
    let started = Instant::now();
    for first in (0..RECORDS).step_by(usize::try_from(BATCH)?) {
        let batch: Vec<Record> = (first..first + BATCH).map(|number| record(number, &tenant)).collect();
        let outcome = stores.commit(&batch);
        if outcome.tenants.iter().any(|tenant| tenant.result.is_err()) {
            bail!("a commit failed: {outcome:?}");
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "printed")]
    let (rate, per_batch) = (RECORDS as f64 / seconds, seconds * BATCH as f64 / RECORDS as f64);
    report.section("Store", "");
    report.row(
        &format!("ingest in batches of {BATCH}"),
        &[("durable records/s", Some(rate)), ("a batch x one fsync", Some(per_batch / fsync))],
    );
    let reader = stores.reader(&tenant).context("a reader")?;
    let list = seconds_per_run(Duration::from_secs(1), || {
        let page = reader.list(&ListQuery { limit: 1_000, descending: true, ..ListQuery::default() });
        assert_eq!(page.map(|page| page.records.len()).unwrap_or_default(), 1_000);
    });
    report.row(&format!("list of the newest 1,000 of {RECORDS}"), &[("ms", Some(list * 1e3))]);
    let query = UsageQuery { group_by: vec![GroupKey::Team, GroupKey::Model], ..UsageQuery::default() };
    let usage = seconds_per_run(Duration::from_secs(1), || {
        assert!(reader.usage(&query).is_ok_and(|rows| !rows.is_empty()));
    });
    report.row("spend by team and model of all, from roll-ups", &[("ms", Some(usage * 1e3))]);
    Ok(())
}

fn seconds_per_fsync(dir: &std::path::Path) -> anyhow::Result<f64> {
    let mut file = std::fs::File::create(dir.join("fsync"))?;
    Ok(seconds_per_run(Duration::from_millis(500), || {
        let done = file.write_all(&[0; 4096]).and_then(|()| file.sync_data());
        assert!(done.is_ok(), "{done:?}");
    }))
}

/// A record like a real one: ten teams, four models, one record every 40 ms.
fn record(number: u64, tenant: &TenantName) -> Record {
    let started_at = UnixNanos(1_790_000_000_000_000_000 + number * 40_000_000);
    let model = ["gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "claude-sonnet-4-5-20250929", "o4-mini"]
        [number as usize % 4];
    let exchange = Exchange {
        session: SessionId(number),
        ordinal: 0,
        provider: "openai".into(),
        host: "api.openai.com".into(),
        identified_by: IdentifiedBy::TlsHostnameCall,
        dialect: Some("openai_chat"),
        operation: "chat",
        inference: true,
        requested_model: Some(model.into()),
        model: Some(model.into()),
        streaming: Some(true),
        status: Some(200),
        usage: Usage {
            input: Some(1_000 + number),
            output: Some(number % 900),
            total: Some(2_000),
            ..Usage::default()
        },
        reported_cost: None,
        service_tier: Some("default".into()),
        batch: false,
        finish_reasons: ["stop".into()].into(),
        tools: Vec::new(),
        provider_request_id: Some(format!("req_{number:032x}").into()),
        organization: None,
        project: None,
        error: None,
        api_key_fingerprint: Some("0123456789abcdef0123456789abcdef".into()),
        sdk: Some("OpenAI/Python".into()),
        trace_id: None,
        rate_limits: RateLimits::default(),
        retries: None,
        request_bytes: Some(1_500),
        response_bytes: Some(9_000),
        timing: Timing::default(),
        withheld: Withheld::default(),
        reason: None,
    };
    let owner = Owner {
        tenant: tenant.clone(),
        team: Some(format!("team-{}", number % 10).into()),
        service: Some("assistant".into()),
        cost_centre: None,
        environment: None,
    };
    Record {
        id: RecordId((u128::from(started_at.0 / 1_000_000) << 80) | u128::from(number)),
        started_at,
        recorded_at: started_at,
        subject: Subject::Exchange(Box::new(exchange)),
        workload: Workload::unknown(ProcessKey { pid: 4_242, start_ticks: 77 }),
        attribution: Attribution {
            owner,
            stage: StageOrigin::StageA,
            state: OutputState::DeterministicallyResolved,
            confidence: Confidence::CAP,
            evidence: Vec::new(),
            candidates: Vec::new(),
            null_reason: None,
            freshness: started_at,
            index_generation: 1,
        },
        cost: Some(Cost {
            amount: Some(PicoUsd(u128::from(number) * 1_000_000)),
            kind: CostKind::Computed,
            catalogue_version: 1,
            parts: CostParts::new(),
            reason: None,
        }),
    }
}
