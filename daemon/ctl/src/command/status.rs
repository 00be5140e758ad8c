//! `venturi status`: a screenful that says whether the node does its work.

use std::time::Duration;

use jiff::Timestamp;
use proto::v1::{Counter, Degradation, NodeStatus, Retention};
use serde_json::Value;

use crate::client::Client;
use crate::command::outcome_of;
use crate::failure::{Failure, Outcome};
use crate::output::json::Object;
use crate::output::{Look, Page, Tone, print, text};

/// Asks, prints, and ends with the node's state.
pub(crate) async fn run(client: &Client, json: bool, now: Timestamp) -> Result<Outcome, Failure> {
    let status = client.status().await?;
    let text = if json { object(&status).into_line() } else { render(&status, Look::of_stdout(), now) };
    print(&text)?;
    Ok(outcome_of(&status))
}

/// The status as JSON.
pub(crate) fn object(status: &NodeStatus) -> Object {
    let degradations: Vec<Value> = status.degradations.iter().map(degradation).collect();
    let tenants: Vec<Value> = status
        .tenants
        .iter()
        .map(|tenant| {
            Object::new()
                .text("tenant", &tenant.tenant)
                .text("state", &tenant.state)
                .text("key_custody", &tenant.key_custody)
                .text("durability", &tenant.durability)
                .set("records", tenant.records)
                .set("disk_bytes", tenant.disk_bytes)
                .text("detail", &tenant.detail)
                .time("stuck_since", tenant.stuck_since.as_ref())
                .set("records_bytes", tenant.records_bytes)
                .time("oldest", tenant.oldest.as_ref())
                .set("records_lost", tenant.records_lost)
                .set("records_missing", tenant.records_missing)
                .set("records_expired", tenant.records_expired)
                .set("records_aside", tenant.records_aside)
                .set("rows_refused", tenant.rows_refused)
                .object("retention", retention(tenant.retention.as_ref()))
                .into_value()
        })
        .collect();
    let coverage = Object::new()
        .set("captured", status.processes_captured)
        .set("metadata_only", status.processes_metadata_only)
        .set("dark", status.processes_dark);
    let catalogue = status.catalogue.as_ref().map_or(Object::new(), |catalogue| {
        Object::new()
            .set("version", catalogue.version)
            .text("source", &catalogue.source)
            .text("price_state", &catalogue.price_state)
            .set("prices", catalogue.prices)
            .time("issued_at", catalogue.issued_at.as_ref())
            .time("expires_at", catalogue.expires_at.as_ref())
    });
    let index = status.index.as_ref().map_or(Object::new(), |index| {
        Object::new()
            .set("generation", index.generation)
            .set("rules", index.rules)
            .set("max_staleness_ms", index.max_staleness_ms)
            .time("built_at", index.built_at.as_ref())
    });
    let tap = status.tap.as_ref().map_or(Object::new(), |tap| {
        Object::new()
            .text("mode", &tap.mode)
            .set("open_now", tap.open_now)
            .set("opened", tap.opened)
            .set("open_ppm", tap.open_ppm)
    });
    Object::new()
        .text("state", &status.state)
        .text("capture_mode", &status.capture_mode)
        .text("capture_scope", &status.capture_scope)
        .set("armed", status.armed)
        .text("not_armed_reason", &status.not_armed_reason)
        .text("version", &status.version)
        .time("started_at", status.started_at.as_ref())
        .set("records_pending", status.records_pending)
        .object("coverage", coverage)
        .set("degradations", degradations)
        .set("losses", counters(&status.losses))
        .set("counters", counters(&status.counters))
        .set("tenants", tenants)
        .object("catalogue", catalogue)
        .object("index", index)
        .object("tap", tap)
}

fn retention(retention: Option<&Retention>) -> Object {
    retention.map_or(Object::new(), |retention| {
        Object::new()
            .set("records_seconds", retention.records_seconds)
            .set("rollups_seconds", retention.rollups_seconds)
            .set("records_bytes_max", retention.records_bytes_max)
    })
}

/// The status as text.
pub(crate) fn render(status: &NodeStatus, look: Look, now: Timestamp) -> String {
    let mut page = Page::new(look);
    headline(&mut page, status, now);
    page.line(format!(
        "coverage  {} captured, {} metadata only, {} dark",
        text::count(status.processes_captured),
        text::count(status.processes_metadata_only),
        text::count(status.processes_dark),
    ));
    for tenant in &status.tenants {
        page.line(format!(
            "store     tenant {}: {}, {} records, {}, {}, key custody {}{}",
            text::name(&tenant.tenant),
            text::name(&tenant.state),
            text::count(tenant.records),
            text::bytes(tenant.disk_bytes),
            text::name(&tenant.durability),
            text::name(&tenant.key_custody),
            if tenant.detail.is_empty() {
                String::new()
            } else {
                format!(" ({})", text::clean(&tenant.detail))
            },
        ));
        if let Some(kept) = &tenant.retention {
            let expired = match tenant.records_expired {
                0 => String::new(),
                expired => format!("; {} have expired", text::count(expired)),
            };
            page.line(format!(
                "keeps     {} of records, at most {}, and {} of sums{expired}",
                text::days(kept.records_seconds),
                text::bytes(kept.records_bytes_max),
                text::days(kept.rollups_seconds),
            ));
        }
    }
    page.line(format!("losses    {}", losses(&status.losses)));
    degradations(&mut page, &status.degradations);
    page.into_text()
}

/// Version, state and what is captured.
pub(crate) fn headline(page: &mut Page, status: &NodeStatus, now: Timestamp) {
    let tone = match outcome_of(status) {
        Outcome::Good => Tone::Good,
        Outcome::Degraded => Tone::Doubtful,
        Outcome::CaptureLost => Tone::Bad,
    };
    let up = text::moment(status.started_at.as_ref())
        .and_then(|started| Duration::try_from(now.duration_since(started)).ok())
        .map_or(String::new(), |up| format!(", up {}", text::span(up)));
    page.line(format!(
        "venturid  {}, version {}{up}",
        page.toned(&text::name(&status.state), tone),
        text::name(&status.version)
    ));
    let armed = match (status.armed, status.not_armed_reason.as_str()) {
        (true, _) => "armed".to_owned(),
        (false, "") => "not armed".to_owned(),
        (false, reason) => format!("not armed: {}", text::clean(reason)),
    };
    page.line(format!(
        "capture   {}, {armed}, scope {}",
        text::name(&status.capture_mode),
        text::name(&status.capture_scope)
    ));
}

/// What is limited, what that costs and what to do.
pub(crate) fn degradations(page: &mut Page, degradations: &[Degradation]) {
    if degradations.is_empty() {
        return;
    }
    page.heading("Limitations in force");
    // Sentences in columns are read by nobody: a paragraph each.
    for one in degradations {
        let tone = if one.severity == "note" { Tone::Good } else { Tone::Doubtful };
        let since = match &one.since {
            Some(since) => format!(", since {} UTC", text::clock(Some(since))),
            None => String::new(),
        };
        page.line(format!(
            "{} ({}){since}",
            page.toned(&text::name(&one.kind), tone),
            text::name(&one.severity)
        ));
        page.line(format!("  {}", text::name(&one.effect)));
        page.line(format!("  to do: {}", text::name(&one.remedy)));
    }
}

fn losses(losses: &[Counter]) -> String {
    let some: Vec<String> = losses
        .iter()
        .filter(|loss| loss.value > 0)
        .map(|loss| {
            format!("{} {} {}", text::name(&loss.name), text::count(loss.value), text::clean(&loss.unit))
        })
        .collect();
    if some.is_empty() { "none".to_owned() } else { some.join("; ") }
}

fn degradation(one: &Degradation) -> Value {
    Object::new()
        .text("kind", &one.kind)
        .text("severity", &one.severity)
        .text("effect", &one.effect)
        .text("remedy", &one.remedy)
        .time("since", one.since.as_ref())
        .into_value()
}

fn counters(counters: &[Counter]) -> Vec<Value> {
    counters
        .iter()
        .map(|one| {
            Object::new().text("name", &one.name).set("value", one.value).text("unit", &one.unit).into_value()
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::v1::{
        CatalogueState, IndexState, Kernel, LoadedProgram, ProcessPrivileges, TapState, TenantState,
    };

    use super::*;

    /// A node that does its work and has lost a few bytes.
    pub(crate) fn node() -> NodeStatus {
        let started_at = Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 });
        let counter = |name: &str, value, unit: &str| Counter { name: name.into(), value, unit: unit.into() };
        NodeStatus {
            version: "0.1.0".into(),
            started_at,
            capture_mode: "live".into(),
            capture_scope: "on_demand".into(),
            armed: true,
            state: "ok".into(),
            kernel: Some(Kernel {
                release: "6.18.5".into(),
                architecture: "x86_64".into(),
                btf: true,
                tracefs: true,
                uprobe_multi: Some(true),
            }),
            losses: vec![counter("ring_full", 1_024, "bytes"), counter("shard_full", 0, "records")],
            counters: vec![counter("tls_writes", 12, "calls")],
            programs: vec![LoadedProgram {
                id: 7,
                name: "tls_write".into(),
                r#type: "kprobe (uprobe)".into(),
                instructions: 321,
                tag: "00ff".into(),
            }],
            processes: vec![
                ProcessPrivileges {
                    role: "main".into(),
                    pid: 10,
                    uid: 62_345,
                    capabilities: vec![],
                    no_new_privs: true,
                    seccomp: true,
                    pss_bytes: Some(20 << 20),
                    packet_sockets: Some(0),
                    rss_bytes: Some(24 << 20),
                },
                ProcessPrivileges {
                    role: "attacher".into(),
                    pid: 11,
                    uid: 0,
                    capabilities: vec!["CAP_BPF".into(), "CAP_PERFMON".into()],
                    no_new_privs: true,
                    rss_bytes: Some(9 << 20),
                    ..ProcessPrivileges::default()
                },
            ],
            tenants: vec![TenantState {
                tenant: "default".into(),
                state: "open".into(),
                key_custody: "local".into(),
                records: 1_234,
                disk_bytes: 3 << 20,
                durability: "durable".into(),
                retention: Some(Retention {
                    records_seconds: 30 * 86_400,
                    rollups_seconds: 400 * 86_400,
                    records_bytes_max: 1 << 30,
                }),
                records_expired: 5_000,
                ..TenantState::default()
            }],
            catalogue: Some(CatalogueState {
                version: 7,
                source: "vendored".into(),
                issued_at: started_at,
                expires_at: None,
                price_state: "current".into(),
                prices: 900,
            }),
            index: Some(IndexState {
                generation: 3,
                built_at: started_at,
                max_staleness_ms: 90_000,
                rules: 2,
            }),
            tap: Some(TapState { mode: "on_demand".into(), open_now: 0, opened: 4, open_ppm: 1_500 }),
            processes_captured: 2,
            processes_metadata_only: 1,
            ..NodeStatus::default()
        }
    }

    #[test]
    fn a_screen_says_what_matters() {
        fn check(status: &NodeStatus, colour: bool, expected: &str) {
            let now = "2026-03-01T13:01:40Z".parse().expect("a moment");
            assert_eq!(render(status, Look { width: None, colour }, now), expected);
        }
        check(
            &node(),
            false,
            "venturid  ok, version 0.1.0, up 1 h 1 min\n\
             capture   live, armed, scope on_demand\n\
             coverage  2 captured, 1 metadata only, 0 dark\n\
             store     tenant default: open, 1,234 records, 3.0 MiB, durable, key custody local\n\
             keeps     30 days of records, at most 1.0 GiB, and 400 days of sums; 5,000 have expired\n\
             losses    ring_full 1,024 bytes\n",
        );
        let replay = NodeStatus {
            state: "degraded".into(),
            capture_mode: "replay".into(),
            armed: false,
            not_armed_reason: "no rights for BPF".into(),
            losses: vec![],
            tenants: vec![],
            degradations: vec![Degradation {
                kind: "replay".into(),
                effect: "live traffic is not seen".into(),
                remedy: "start as root".into(),
                since: node().started_at,
                severity: "degraded".into(),
            }],
            ..node()
        };
        check(
            &replay,
            true,
            "venturid  \x1b[33mdegraded\x1b[0m, version 0.1.0, up 1 h 1 min\n\
             capture   replay, not armed: no rights for BPF, scope on_demand\n\
             coverage  2 captured, 1 metadata only, 0 dark\n\
             losses    none\n\
             \n\x1b[1mLimitations in force\x1b[0m\n\
             \x1b[33mreplay\x1b[0m (degraded), since 2026-03-01 12:00:00 UTC\n\
             \x20 live traffic is not seen\n\
             \x20 to do: start as root\n",
        );
    }

    #[test]
    fn json_carries_the_same() {
        let value = object(&node()).into_value();
        for (path, expected) in [
            ("/state", serde_json::json!("ok")),
            ("/armed", serde_json::json!(true)),
            ("/coverage/metadata_only", serde_json::json!(1)),
            ("/losses/0", serde_json::json!({"name": "ring_full", "value": 1024, "unit": "bytes"})),
            ("/tenants/0/key_custody", serde_json::json!("local")),
            ("/catalogue/source", serde_json::json!("vendored")),
            ("/tap/open_ppm", serde_json::json!(1500)),
        ] {
            assert_eq!(value.pointer(path), Some(&expected), "{path} in {value}");
        }
        assert_eq!(value.pointer("/catalogue/expires_at"), None);
    }
}
