//! The API over a real unix socket, with a real store and real peer credentials.

use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;

use meter::attribution::confidence::Confidence;
use meter::attribution::{
    Attribution, Evidence, Method, OutputState, Owner, OwnerIndex, StageOrigin, TenantName,
};
use meter::exchange::{Exchange, IdentifiedBy, RateLimits, SessionId, Timing, Usage, Withheld};
use meter::money::PicoUsd;
use meter::pricing::Catalogue;
use meter::record::{Cost, CostKind, CostPart, Coverage, Flow, FlowSeen, Record, RecordId, Subject};
use meter::time::{Moment, UnixNanos};
use meter::workload::{ProcessKey, Workload};
use proto::v1;
use proto::v1::node_client::NodeClient;
use proto::v1::records_client::RecordsClient;
use proto::v1::usage_service_client::UsageServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::capture::status::CaptureStatus;
use crate::config::{Scope, TapMode};
use crate::telemetry::{CaptureMode, Degradation};
use crate::writer::{self, RecordSender, Writer};

/// 2025-10-09T08:53:20Z.
const START_MS: u64 = 1_760_000_000_000;

/// A daemon's serving half on a socket of its own.
struct Daemon {
    channel: Channel,
    records: Option<RecordSender>,
    writer: Option<Writer>,
    stop: signal::Sender<bool>,
    api: tokio::task::JoinHandle<anyhow::Result<()>>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    /// `config` may hold `UID`, which becomes the uid of this test.
    async fn start(config: &str) -> Daemon {
        let directory = tempfile::tempdir().expect("a directory");
        let uid = nix::unistd::geteuid().as_raw();
        let config =
            crate::config::parse(&config.replace("UID", &uid.to_string())).expect("a valid configuration");
        let layout = store::Layout {
            state_dir: directory.path().join("state"),
            key_dir: directory.path().join("keys"),
        };
        let prepared = store::prepare(&layout, &config.tenant_names(), None).expect("prepared stores");
        let stores = store::open(prepared, store::Options::default());
        let (records, writer) = writer::spawn(stores.clone()).expect("a writer");
        let index =
            OwnerIndex::compile(&config.owners, 1, crate::capture::status::realtime()).expect("rules");
        let telemetry = Telemetry {
            started_at: UnixNanos(START_MS * 1_000_000),
            mode: CaptureMode::Off,
            scope: Scope::OnDemand,
            tap: TapMode::OnDemand,
            capture: CaptureStatus::new(),
            writer: Arc::clone(&writer.figures),
            stores: stores.clone(),
            index: Arc::new(arc_swap::ArcSwap::from_pointee(index)),
            catalogue: Arc::new(Catalogue::vendored().expect("the vendored catalogue")),
            at_start: vec![Degradation::CaptureUnavailable { why: "a test".into() }],
            first_seen: Default::default(),
        };
        let (stop, stopping) = signal::channel(false);
        let serving = Serving {
            stores,
            commits: Arc::clone(&writer.commits),
            access: Access::new(&config, None),
            telemetry: Arc::new(telemetry),
            questions: Questions::new(crate::QUESTIONS_MAX),
            stop: stopping.clone(),
        };
        let path = directory.path().join("api.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let mut stopped = stopping;
        let closed = async move {
            let _ = stopped.wait_for(|stopping| *stopping).await;
        };
        let api = tokio::spawn(serve(listener, Arc::new(serving), closed));
        let endpoint = Endpoint::from_shared(format!("unix:{}", path.display())).expect("an address");
        let channel = endpoint.connect().await.expect("a connection");
        Daemon { channel, records: Some(records), writer: Some(writer), stop, api, _directory: directory }
    }

    fn send(&self, record: Record) {
        self.records.as_ref().expect("running").send(Box::new(record));
    }

    /// Sends records and waits until they are committed.
    async fn store(&self, records: impl IntoIterator<Item = Record>) {
        let mut newest = self.writer.as_ref().expect("running").commits.subscribe();
        let mut expected = *newest.borrow_and_update();
        for record in records {
            expected += 1;
            self.send(record);
        }
        let committed = newest.wait_for(|position| *position >= expected);
        tokio::time::timeout(Duration::from_secs(20), committed)
            .await
            .expect("in time")
            .expect("a live writer");
    }

    fn records(&self) -> RecordsClient<Channel> {
        RecordsClient::new(self.channel.clone())
    }

    /// Flushes and stops as the daemon does; the API must end.
    async fn stop(mut self) {
        drop(self.records.take());
        let writer = self.writer.take().expect("running");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        assert!(tokio::task::spawn_blocking(move || writer.finish(deadline)).await.expect("no panic"));
        self.stop.send_replace(true);
        drop(self.channel);
        let ended =
            tokio::time::timeout(Duration::from_secs(20), self.api).await.expect("the API ends in time");
        ended.expect("no panic").expect("served");
    }
}

fn owner(tenant: &str, team: &str) -> Attribution {
    let owner = Owner {
        tenant: TenantName::new(tenant).expect("a tenant's name"),
        team: Some(team.into()),
        service: None,
        cost_centre: None,
        environment: None,
    };
    Attribution {
        owner,
        stage: StageOrigin::StageA,
        state: OutputState::DeterministicallyResolved,
        confidence: Confidence::new(9_000).expect("below the cap"),
        evidence: vec![Evidence {
            method: Method::R1,
            source: "unit",
            statement: "rule[0]: unit = \"a.service\"".into(),
            self_asserted: false,
            weight: 9_000,
            observed_at: None,
        }],
        candidates: Vec::new(),
        null_reason: None,
        freshness: UnixNanos(START_MS * 1_000_000),
        index_generation: 1,
    }
}

/// Record number `n` of a tenant, started `n` ms after the beginning, with 10 input and `n` output tokens.
pub(crate) fn call(tenant: &str, n: u64) -> Record {
    let started_at = UnixNanos((START_MS + n) * 1_000_000);
    let exchange = Exchange {
        session: SessionId(n),
        ordinal: 0,
        provider: "openai".into(),
        host: "api.openai.com".into(),
        identified_by: IdentifiedBy::TlsHostnameCall,
        dialect: Some("openai_chat"),
        operation: "chat",
        inference: true,
        requested_model: Some("gpt-x".into()),
        model: Some("gpt-x-1".into()),
        streaming: Some(false),
        status: Some(200),
        usage: Usage { input: Some(10), output: Some(n), ..Usage::default() },
        reported_cost: None,
        service_tier: None,
        batch: false,
        finish_reasons: ["stop".into()].into(),
        tools: Vec::new(),
        provider_request_id: None,
        organization: None,
        project: None,
        error: None,
        api_key_fingerprint: None,
        sdk: None,
        trace_id: None,
        rate_limits: RateLimits::default(),
        retries: None,
        request_bytes: Some(100),
        response_bytes: Some(200),
        timing: Timing { started: Moment(1_000_000), ended: Some(Moment(3_500_000)), ..Timing::default() },
        withheld: Withheld::default(),
        reason: None,
    };
    let part = CostPart { class: "output", tokens: n, price: PicoUsd(1_000_000) };
    Record {
        id: RecordId(u128::from(START_MS + n) << 80 | u128::from(n)),
        started_at,
        recorded_at: UnixNanos(started_at.0 + 5_000_000),
        subject: Subject::Exchange(Box::new(exchange)),
        workload: Workload::unknown(ProcessKey { pid: 42, start_ticks: 7 }),
        attribution: owner(tenant, if n.is_multiple_of(2) { "even" } else { "odd" }),
        cost: Some(Cost {
            amount: Some(PicoUsd(1_000_000 * u128::from(n))),
            kind: CostKind::Computed,
            catalogue_version: 3,
            parts: [part].into_iter().collect(),
            reason: None,
        }),
    }
}

fn connection(tenant: &str, n: u64) -> Record {
    let mut record = call(tenant, n);
    record.cost = None;
    record.subject = Subject::Flow(Box::new(Flow {
        ended_at: None,
        local: "127.0.0.1:1".parse().expect("an address"),
        remote: "127.0.0.1:443".parse().expect("an address"),
        protocol: 6,
        bytes_sent: Some(1),
        bytes_received: None,
        provider: Some("openai".into()),
        host: Some("api.openai.com".into()),
        identified_by: Some(IdentifiedBy::Sni),
        seen: FlowSeen::Connect,
        coverage: Coverage::Captured,
    }));
    record
}

const ONE: &str = "[[tenant]]\nname = \"default\"\n[[tenant.grant]]\nrole = \"operator\"\nuids = [UID]";
const TWO: &str = "[[tenant]]\nname = \"a\"\n[[tenant.grant]]\nuids = [UID]\n[[tenant]]\nname = \"b\"";

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_without_gaps() {
    let daemon = Daemon::start(ONE).await;
    daemon.store((0..25).map(|n| call("default", n))).await;
    daemon.store([connection("default", 30)]).await;
    for (descending, limit) in [(false, 10), (true, 10), (false, 1), (true, 25), (false, 0)] {
        let (mut outputs, mut cursor) = (Vec::new(), String::new());
        loop {
            let request = v1::ListAttributionsRequest { limit, cursor, descending, ..Default::default() };
            let page = daemon.records().list_attributions(request).await.expect("a page").into_inner();
            assert!(limit == 0 || page.records.len() <= limit as usize);
            let usage = |record: v1::AttributionRecord| record.exchange?.usage?.output_tokens;
            outputs.extend(page.records.into_iter().filter_map(usage));
            cursor = page.next_cursor;
            if cursor.is_empty() {
                break;
            }
        }
        let mut expected: Vec<u64> = (0..25).collect();
        if descending {
            expected.reverse();
        }
        assert_eq!(outputs, expected, "descending {descending}, limit {limit}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_shown_with_everything_in_it() {
    let daemon = Daemon::start(ONE).await;
    let record = call("default", 4);
    let id = record.id.to_text();
    daemon.store([record, connection("default", 5)]).await;
    let request = v1::GetAttributionRequest { id: id.clone(), ..Default::default() };
    let shown = daemon.records().get_attribution(request).await.expect("the record").into_inner();
    let exchange = shown.exchange.expect("an exchange");
    assert_eq!((shown.id, exchange.model.as_deref()), (id.clone(), Some("gpt-x-1")));
    assert_eq!(exchange.timing.expect("timing").total_ms, Some(2.5));
    assert_eq!(exchange.usage.expect("usage").cache_read_input_tokens, None, "unknown is absent, not 0");
    assert_eq!(shown.cost.expect("a cost").amount_usd.as_deref(), Some("0.000004"));
    assert_eq!((shown.confidence, shown.band.as_str()), (0.9, "chargeback_eligible"));
    assert_eq!(shown.owner.expect("an owner").team.as_deref(), Some("even"));

    let request = v1::ExplainRequest { id, ..Default::default() };
    let explanation = daemon.records().explain(request).await.expect("an explanation").into_inner();
    assert_eq!(explanation.evidence.len(), 1);
    assert_eq!((explanation.evidence[0].method.as_str(), explanation.evidence[0].weight), ("R1", 0.9));

    let flows =
        daemon.records().list_flows(v1::ListFlowsRequest::default()).await.expect("flows").into_inner().flows;
    assert_eq!(flows.len(), 1);
    assert_eq!((flows[0].bytes_sent, flows[0].bytes_received), (Some(1), None));
    let exchanges =
        daemon.records().list_exchanges(v1::ListExchangesRequest::default()).await.expect("exchanges");
    assert_eq!(exchanges.into_inner().exchanges.len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_grouped() {
    let daemon = Daemon::start(ONE).await;
    daemon.store((0..6).map(|n| call("default", n))).await;
    let mut client = UsageServiceClient::new(daemon.channel.clone());
    let request =
        v1::QueryUsageRequest { group_by: vec!["team".into(), "model".into()], ..Default::default() };
    let rows = client.query_usage(request).await.expect("rows").into_inner().rows;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.group["team"].as_str(),
                row.exchanges,
                row.usage.as_ref().and_then(|usage| usage.output_tokens),
            )
        })
        .collect();
    assert_eq!(seen, [("even", 3, Some(6)), ("odd", 3, Some(9))]);
    assert_eq!(rows[1].amount_usd.as_deref(), Some("0.000009"));
    assert_eq!(rows[0].group["model"], "gpt-x-1");
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_gets_every_record_once_old_late_and_new() {
    let daemon = Daemon::start(ONE).await;
    daemon.store((100..700).map(|n| call("default", n))).await;
    let since = v1::WatchAttributionsRequest {
        since: Some(convert::timestamp(UnixNanos((START_MS + 200) * 1_000_000))),
        ..Default::default()
    };
    let mut watch = daemon.records().watch_attributions(since).await.expect("a watch").into_inner();
    // Committed while the old ones are on their way: later ones, one that started long ago but within `since`, one
    // before it, and a connection.
    for n in 700..1_000 {
        daemon.send(call("default", n));
    }
    daemon.send(call("default", 50));
    daemon.send(connection("default", 2_001));
    let mut late = call("default", 250);
    late.id = RecordId(late.id.0 + 1);
    let expected: BTreeSet<String> =
        (200..1_000).map(|n| call("default", n).id.to_text()).chain([late.id.to_text()]).collect();
    daemon.send(late);
    let mut seen = BTreeSet::new();
    while seen.len() < expected.len() {
        let next = tokio::time::timeout(Duration::from_secs(20), watch.message()).await.expect("in time");
        let record = next.expect("a healthy stream").expect("not the end");
        assert!(seen.insert(record.id.clone()), "{} came twice", record.id);
    }
    assert_eq!(seen, expected);
    // What is committed just before the stop is still delivered, and then the stream ends.
    daemon.send(call("default", 5_000));
    let stopped = tokio::spawn(daemon.stop());
    let last = watch.message().await.expect("a healthy stream").expect("the last record");
    assert_eq!(last.id, call("default", 5_000).id.to_text());
    assert_eq!(watch.message().await.expect("an orderly end"), None);
    drop(watch);
    stopped.await.expect("an orderly stop");
}

/// A client that reads nothing for a while gets everything in the order of the commits, and one that comes back with a
/// cursor goes on behind it: of the beginning, before any record, or of a record.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_behind_its_cursor() {
    const MANY: u64 = 3_000;
    let daemon = Daemon::start(ONE).await;
    daemon.store((0..10).map(|n| call("default", n))).await;
    let follow = async |cursor: &str, expected: std::ops::Range<u64>| {
        let request = v1::WatchAttributionsRequest { cursor: cursor.to_owned(), ..Default::default() };
        let answer = daemon.records().watch_attributions(request).await.expect("a watch");
        let begin =
            answer.metadata().get(proto::WATCH_CURSOR).expect("a cursor").to_str().expect("text").to_owned();
        let mut watch = answer.into_inner();
        if cursor.is_empty() {
            // Newest first by their start: commit order is another one.
            daemon.store((10..MANY).rev().map(|n| call("default", n))).await;
        }
        let mut cursors = Vec::new();
        for place in expected {
            let next = tokio::time::timeout(Duration::from_secs(20), watch.message()).await.expect("in time");
            let record = next.expect("a healthy stream").expect("not the end");
            assert_eq!(record.id, call("default", MANY - 1 - place).id.to_text());
            cursors.push(record.cursor);
        }
        (begin, cursors)
    };
    let (begin, cursors) = follow("", 0..MANY - 10).await;
    assert_eq!(follow(&begin, 0..MANY - 10).await, (begin.clone(), cursors.clone()));
    assert_eq!(follow(&cursors[1_999], 2_000..MANY - 10).await.1, cursors[2_000..]);
    let bad = v1::WatchAttributionsRequest { cursor: "attr_1".into(), ..Default::default() };
    let refused = daemon.records().watch_attributions(bad).await.expect_err("no cursor of ours");
    assert_eq!(refused.code(), Code::InvalidArgument);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_never_sees_another() {
    let daemon = Daemon::start(TWO).await;
    daemon.store((0..3).map(|n| call("a", n)).chain((3..9).map(|n| call("b", n)))).await;
    let foreign = call("b", 4).id.to_text();
    let list = |tenant: &str| v1::ListExchangesRequest { tenant: tenant.into(), ..Default::default() };
    for tenant in ["", "a"] {
        let shown = daemon.records().list_exchanges(list(tenant)).await.expect("own records").into_inner();
        assert_eq!(shown.exchanges.len(), 3);
    }
    for tenant in ["b", "unassigned", "default", "no such", "../a"] {
        let status = daemon.records().list_exchanges(list(tenant)).await.expect_err("refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{tenant}");
        let info = status.get_error_details().error_info().cloned().expect("a reason");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("TENANT_MISMATCH", "venturi"));
        let watch = v1::WatchAttributionsRequest { tenant: tenant.into(), ..Default::default() };
        let status = daemon.records().watch_attributions(watch).await.expect_err("refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{tenant}");
        let usage = v1::QueryUsageRequest { tenant: tenant.into(), ..Default::default() };
        let status =
            UsageServiceClient::new(daemon.channel.clone()).query_usage(usage).await.expect_err("refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{tenant}");
    }
    // A foreign id or cursor under one's own tenant leads nowhere.
    let get = v1::GetAttributionRequest { tenant: "a".into(), id: foreign.clone() };
    assert_eq!(daemon.records().get_attribution(get).await.expect_err("not there").code(), Code::NotFound);
    let explain = v1::ExplainRequest { tenant: "a".into(), id: foreign.clone() };
    assert_eq!(daemon.records().explain(explain).await.expect_err("not there").code(), Code::NotFound);
    let cursor = v1::ListExchangesRequest { cursor: foreign, ..Default::default() };
    let shown = daemon.records().list_exchanges(cursor).await.expect("a page").into_inner();
    assert!(shown.exchanges.is_empty(), "{shown:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_are_explained() {
    let daemon = Daemon::start(ONE).await;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for (request, expected) in [
        (v1::ListExchangesRequest { cursor: "x".into(), ..Default::default() }, "cursor:"),
        (
            v1::ListExchangesRequest {
                range: Some(v1::TimeRange { since: time(-1), until: None }),
                ..Default::default()
            },
            "range.since:",
        ),
    ] {
        let status = daemon.records().list_exchanges(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(expected), "{status:?}");
    }
    for (group, bucket, expected) in
        [("colour", 0, "group_by: \"colour\" is not one of tenant"), ("team", 60, "bucket_seconds:")]
    {
        let request = v1::QueryUsageRequest {
            group_by: vec![group.into()],
            bucket_seconds: bucket,
            ..Default::default()
        };
        let status =
            UsageServiceClient::new(daemon.channel.clone()).query_usage(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(expected), "{status:?}");
    }
    let get = v1::GetAttributionRequest { id: "4711".into(), ..Default::default() };
    assert_eq!(
        daemon.records().get_attribution(get).await.expect_err("refused").code(),
        Code::InvalidArgument
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_works_and_what_does_not() {
    let daemon = Daemon::start(ONE).await;
    daemon.store([call("default", 1)]).await;
    let mut client = NodeClient::new(daemon.channel.clone());
    let status = client.get_status(v1::GetStatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(
        (status.state.as_str(), status.armed, status.capture_mode.as_str()),
        ("degraded", false, "off")
    );
    let unavailable = status.degradations.iter().find(|entry| entry.kind == "capture_unavailable");
    let unavailable = unavailable.expect("the degradation of this test");
    assert!(unavailable.effect.contains("a test") && !unavailable.remedy.is_empty());
    let main = status.processes.iter().find(|process| process.role == "main").expect("ourselves");
    assert_eq!((main.pid, main.packet_sockets), (std::process::id(), Some(0)));
    assert_eq!(status.tenants.len(), 1);
    assert_eq!((status.tenants[0].tenant.as_str(), status.tenants[0].records), ("default", 1));
    assert!(status.losses.iter().any(|loss| loss.name == "disk_full" && loss.value == 0), "zeros are shown");
    assert!(status.catalogue.is_some_and(|catalogue| catalogue.version > 0));
    assert!(
        client
            .get_coverage(v1::GetCoverageRequest {})
            .await
            .expect("coverage")
            .into_inner()
            .processes
            .is_empty()
    );
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let daemon = Daemon::start(ONE).await;
    let mut health = HealthClient::new(daemon.channel.clone());
    for service in ["", "venturi.v1.Node", "venturi.v1.Records", "venturi.v1.UsageService"] {
        let answer =
            health.check(HealthCheckRequest { service: service.into() }).await.expect("health").into_inner();
        assert_eq!(answer.status, 1, "{service:?} is serving");
    }
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(daemon.channel.clone());
    let mut answers = reflection
        .server_reflection_info(futures::stream::iter([question]))
        .await
        .expect("reflection")
        .into_inner();
    let answer = answers.message().await.expect("a healthy stream").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("not a list: {answer:?}") };
    let names: BTreeSet<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in
        ["venturi.v1.Node", "venturi.v1.Records", "venturi.v1.UsageService", "grpc.health.v1.Health"]
    {
        assert!(names.contains(service), "{service} in {names:?}");
    }
    drop((health, reflection, answers));
    daemon.stop().await;
}
