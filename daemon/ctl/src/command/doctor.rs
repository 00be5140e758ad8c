//! `venturi doctor`: everything an on-call engineer asks about a node that "shows nothing", and the proof that the
//! daemon only observes.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use proto::v1::{Coverage, LoadedProgram, NodeStatus, ProcessCoverage, ProcessPrivileges, TenantState};
use serde_json::Value;

use crate::client::Client;
use crate::command::{outcome_of, status};
use crate::failure::{Failure, Outcome};
use crate::output::json::{self, Object};
use crate::output::{Look, Page, Tone, print, table, text};

/// Program types that can only observe: none of them can change, delay or drop what it sees. A socket filter is listed
/// because ours is attached to a socket of our own only.
const OBSERVING_TYPES: &[&str] = &["tracepoint", "raw_tracepoint", "kprobe (uprobe)", "socket_filter"];

/// Asks, prints, and ends with the node's state.
pub(crate) async fn run(client: &Client, json: bool, now: Timestamp) -> Result<Outcome, Failure> {
    let status = client.status().await?;
    let coverage = client.coverage().await?;
    let text = if json {
        object(&status, &coverage).into_line()
    } else {
        render(&status, &coverage, Look::of_stdout(), now)
    };
    print(&text)?;
    Ok(outcome_of(&status))
}

/// Says what this process can see of the node itself, then that the daemon cannot be asked.
pub(crate) fn without_daemon(failure: Failure, json: bool) -> Result<Outcome, Failure> {
    let facts = [
        (
            "kernel",
            fs::read_to_string("/proc/sys/kernel/osrelease").map_or(String::new(), |it| it.trim().to_owned()),
        ),
        ("architecture", std::env::consts::ARCH.to_owned()),
        ("btf", text::yes(Path::new("/sys/kernel/btf/vmlinux").exists()).to_owned()),
        ("tracefs", tracefs()),
    ];
    let text = if json {
        facts
            .iter()
            .fold(Object::new(), |object, (key, value)| object.text(key, value))
            .set("daemon", "unreachable")
            .into_line()
    } else {
        let mut page = Page::new(Look::of_stdout());
        page.heading("This node, seen without the daemon");
        for (key, value) in &facts {
            page.line(format!("{key:<12}  {}", text::name(value)));
        }
        page.into_text()
    };
    print(&text)?;
    Err(failure)
}

fn tracefs() -> String {
    match fs::read_to_string("/proc/self/mounts") {
        Ok(mounts) if mounts.lines().any(|line| line.split(' ').nth(2) == Some("tracefs")) => {
            "mounted".to_owned()
        }
        Ok(_) => "not mounted: mount -t tracefs tracefs /sys/kernel/tracing".to_owned(),
        Err(err) => format!("unknown: {err}"),
    }
}

fn object(status: &NodeStatus, coverage: &Coverage) -> Object {
    let kernel = status.kernel.as_ref().map_or(Object::new(), |kernel| {
        Object::new()
            .text("release", &kernel.release)
            .text("architecture", &kernel.architecture)
            .set("btf", kernel.btf)
            .set("tracefs", kernel.tracefs)
            .opt("uprobe_multi", kernel.uprobe_multi)
    });
    let programs: Vec<Value> = status
        .programs
        .iter()
        .map(|program| {
            Object::new()
                .set("id", program.id)
                .text("name", &program.name)
                .text("type", &program.r#type)
                .set("observes_only", observes(program))
                .set("instructions", program.instructions)
                .text("tag", &program.tag)
                .into_value()
        })
        .collect();
    let processes: Vec<Value> = status
        .processes
        .iter()
        .map(|process| {
            Object::new()
                .text("role", &process.role)
                .set("pid", process.pid)
                .set("uid", process.uid)
                .set("capabilities", process.capabilities.clone())
                .set("no_new_privs", process.no_new_privs)
                .set("seccomp", process.seccomp)
                .opt("packet_sockets", process.packet_sockets)
                .opt("pss_bytes", process.pss_bytes)
                .opt("rss_bytes", process.rss_bytes)
                .into_value()
        })
        .collect();
    let covered: Vec<Value> = coverage
        .processes
        .iter()
        .map(|process| {
            Object::new()
                .object("workload", json::workload(process.workload.as_ref()))
                .text("provider", &process.provider)
                .text("host", &process.host)
                .text("verdict", &process.verdict)
                .text("reason", &process.reason)
                .text("library", &process.library)
                .time("first_seen", process.first_seen.as_ref())
                .time("armed_at", process.armed_at.as_ref())
                .set("exchanges", process.exchanges)
                .set("late_attach", process.late_attach)
                .into_value()
        })
        .collect();
    status::object(status)
        .object("kernel", kernel)
        .set("programs", programs)
        .set("processes", processes)
        .set("process_coverage", covered)
}

fn render(status: &NodeStatus, coverage: &Coverage, look: Look, now: Timestamp) -> String {
    let mut page = Page::new(look);
    status::headline(&mut page, status, now);
    node(&mut page, status);
    status::degradations(&mut page, &status.degradations);
    privileges(&mut page, &status.processes);
    programs(&mut page, &status.programs);
    counters(&mut page, status);
    store(&mut page, status);
    covered(&mut page, &coverage.processes);
    page.into_text()
}

fn node(page: &mut Page, status: &NodeStatus) {
    page.heading("Kernel and capture");
    if let Some(kernel) = &status.kernel {
        page.line(format!(
            "kernel     {} {}, BTF {}, tracefs {}, uprobe_multi {}",
            text::name(&kernel.release),
            text::name(&kernel.architecture),
            text::yes(kernel.btf),
            text::yes(kernel.tracefs),
            kernel.uprobe_multi.map_or("not known", text::yes),
        ));
    }
    if let Some(tap) = &status.tap {
        page.line(format!(
            "tap        {}, open now {}, opened {} times, open {}.{:04} % of the time",
            text::name(&tap.mode),
            text::count(tap.open_now),
            text::count(tap.opened),
            tap.open_ppm / 10_000,
            tap.open_ppm % 10_000,
        ));
    }
    if let Some(index) = &status.index {
        page.line(format!(
            "owners     {} rules, index generation {}, built {}, stale after {} ms",
            text::count(index.rules),
            index.generation,
            text::clock(index.built_at.as_ref()),
            text::count(index.max_staleness_ms),
        ));
    }
    if let Some(catalogue) = &status.catalogue {
        page.line(format!(
            "prices     catalogue {} ({}), {} prices, {}, expires {}",
            catalogue.version,
            text::name(&catalogue.source),
            text::count(catalogue.prices),
            text::name(&catalogue.price_state),
            text::clock(catalogue.expires_at.as_ref()),
        ));
    }
}

fn privileges(page: &mut Page, processes: &[ProcessPrivileges]) {
    page.heading("Our processes");
    let rows = processes
        .iter()
        .map(|process| {
            let capabilities = process.capabilities.join(" ");
            vec![
                text::name(&process.role),
                process.pid.to_string(),
                process.uid.to_string(),
                if capabilities.is_empty() { "none".to_owned() } else { text::clean(&capabilities) },
                text::yes(process.no_new_privs).to_owned(),
                text::yes(process.seccomp).to_owned(),
                process.packet_sockets.map_or(text::UNKNOWN.to_owned(), |sockets| sockets.to_string()),
                text::bytes_or(process.pss_bytes),
                text::bytes_or(process.rss_bytes),
            ]
        })
        .collect();
    let headings =
        ["ROLE", "PID", "UID", "CAPABILITIES", "NO NEW PRIVS", "SECCOMP", "PACKET SOCKETS", "PSS", "RSS"];
    page.block(&table::plain(page.look(), &headings, rows, &[1, 2, 6, 7, 8]));
}

fn programs(page: &mut Page, programs: &[LoadedProgram]) {
    page.heading("Proof of read-only: every program of ours in the kernel");
    if programs.is_empty() {
        page.line("none is loaded");
        return;
    }
    let rows = programs
        .iter()
        .map(|program| {
            vec![
                program.id.to_string(),
                text::name(&program.name),
                text::name(&program.r#type),
                if observes(program) { "observes only" } else { "NOT A READ-ONLY TYPE" }.to_owned(),
                text::count(program.instructions.into()),
                text::name(&program.tag),
            ]
        })
        .collect();
    let headings = ["ID", "NAME", "TYPE", "CAN", "INSTRUCTIONS", "TAG"];
    page.block(&table::plain(page.look(), &headings, rows, &[0, 4]));
    let others = programs.iter().filter(|program| !observes(program)).count();
    let verdict = match others {
        0 => page.toned(&format!("all {} can only observe", programs.len()), Tone::Good),
        _ => page.toned(&format!("{others} could do more than observe: report this"), Tone::Bad),
    };
    page.line(verdict);
}

fn observes(program: &LoadedProgram) -> bool {
    OBSERVING_TYPES.contains(&program.r#type.as_str())
}

/// What is zero is only counted: the full list is in the JSON.
fn counters(page: &mut Page, status: &NodeStatus) {
    page.heading("Rings, counters and losses");
    let mut rows = Vec::new();
    for (kind, counters) in [("lost", &status.losses), ("counted", &status.counters)] {
        let some = counters.iter().filter(|one| one.value > 0);
        rows.extend(some.map(|one| {
            vec![kind.to_owned(), text::name(&one.name), text::count(one.value), text::name(&one.unit)]
        }));
    }
    let zero = status.losses.len() + status.counters.len() - rows.len();
    if !rows.is_empty() {
        page.block(&table::plain(page.look(), &["KIND", "NAME", "VALUE", "UNIT"], rows, &[2]));
    }
    page.line(format!("{zero} of {} stand at zero", status.losses.len() + status.counters.len()));
}

fn store(page: &mut Page, status: &NodeStatus) {
    page.heading("Store");
    let rows = status
        .tenants
        .iter()
        .map(|tenant| {
            vec![
                text::name(&tenant.tenant),
                text::name(&tenant.state),
                text::name(&tenant.durability),
                text::name(&tenant.key_custody),
                text::count(tenant.records),
                text::bytes(tenant.disk_bytes),
                text::name(&tenant.detail),
            ]
        })
        .collect();
    let headings = ["TENANT", "STATE", "DURABILITY", "KEY CUSTODY", "RECORDS", "DISK", "DETAIL"];
    page.block(&table::plain(page.look(), &headings, rows, &[4, 5]));
    not_shown(page, &status.tenants);
    page.line(format!("records not yet durable: {}", text::count(status.records_pending)));
}

/// Records that are not among those of the table above, for tenants that have such.
fn not_shown(page: &mut Page, tenants: &[TenantState]) {
    let counts = |tenant: &TenantState| {
        [
            tenant.records_expired,
            tenant.records_lost,
            tenant.records_missing,
            tenant.records_aside,
            tenant.rows_refused,
        ]
    };
    let some = tenants.iter().filter(|tenant| counts(tenant).iter().any(|count| *count > 0));
    let rows: Vec<Vec<String>> = some
        .map(|tenant| {
            let counts = counts(tenant).map(text::count);
            [text::name(&tenant.tenant)].into_iter().chain(counts).collect()
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    page.line("not among them: expired, never stored, gone by damage, set aside, not verified");
    let headings = ["TENANT", "EXPIRED", "LOST", "MISSING", "SET ASIDE", "REFUSED"];
    page.block(&table::plain(page.look(), &headings, rows, &[1, 2, 3, 4, 5]));
}

fn covered(page: &mut Page, processes: &[ProcessCoverage]) {
    page.heading("Coverage: every process that talks to a provider");
    if processes.is_empty() {
        page.line("no process has talked to a provider yet");
        return;
    }
    let rows = processes
        .iter()
        .map(|process| {
            vec![
                text::workload(process.workload.as_ref()),
                text::name(if process.provider.is_empty() { &process.host } else { &process.provider }),
                text::name(&process.verdict),
                text::name(&process.reason),
                remedy(&process.verdict, &process.reason).to_owned(),
                text::name(&process.library),
                text::count(process.exchanges),
                text::count(process.late_attach),
            ]
        })
        .collect();
    let headings = ["WORKLOAD", "PROVIDER", "VERDICT", "REASON", "WHAT TO DO", "LIBRARY", "CALLS", "LATE"];
    page.block(&table::plain(page.look(), &headings, rows, &[6, 7]));
}

/// What an operator can do about a verdict.
fn remedy(verdict: &str, reason: &str) -> &'static str {
    match (verdict, reason) {
        ("captured", _) => text::UNKNOWN,
        (_, "late_attach") => "nothing: calls from the next one on are metered",
        (_, "unknown_session") => "name the host in [[provider]] if it is a gateway of yours",
        (_, "unknown_tls_library") => "no probe for its TLS library: flows only",
        (_, "attach_refused") => "see the daemon's log; check lockdown and perf_event_paranoid",
        (_, "unreadable") => "its files cannot be opened: check the mount and CAP_SYS_PTRACE of the attacher",
        (_, "switched_off") => "set capture.scope = \"on_demand\"",
        (_, "gone") => "nothing: it ended before it could be looked at",
        _ => text::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::Workload;

    use super::*;
    use crate::command::status::tests::node;

    fn coverage() -> Coverage {
        let process = |exe: &str, verdict: &str, reason: &str| ProcessCoverage {
            workload: Some(Workload { pid: Some(42), exe: Some(exe.into()), ..Workload::default() }),
            provider: "openai".into(),
            host: "api.openai.com".into(),
            verdict: verdict.into(),
            reason: reason.into(),
            library: if verdict == "captured" { "libssl.so.3".into() } else { String::new() },
            exchanges: 3,
            late_attach: 1,
            ..ProcessCoverage::default()
        };
        Coverage {
            processes: vec![
                process("/usr/bin/python3.11", "captured", ""),
                process("/usr/bin/curl", "metadata_only", "late_attach"),
                process("/opt/app", "dark", "unknown_tls_library"),
            ],
        }
    }

    #[test]
    fn every_section_is_there() {
        let now = "2026-03-01T13:01:40Z".parse().expect("a moment");
        let expected = "\
venturid  ok, version 0.1.0, up 1 h 1 min
capture   live, armed, scope on_demand

Kernel and capture
kernel     6.18.5 x86_64, BTF yes, tracefs yes, uprobe_multi yes
tap        on_demand, open now 0, opened 4 times, open 0.1500 % of the time
owners     2 rules, index generation 3, built 2026-03-01 12:00:00, stale after 90,000 ms
prices     catalogue 7 (vendored), 900 prices, current, expires -

Our processes
ROLE      PID    UID  CAPABILITIES         NO NEW PRIVS  SECCOMP  PACKET SOCKETS       PSS       RSS
main       10  62345  none                 yes           yes                   0  20.0 MiB  24.0 MiB
attacher   11      0  CAP_BPF CAP_PERFMON  yes           no                    -         -   9.0 MiB

Proof of read-only: every program of ours in the kernel
ID  NAME       TYPE             CAN            INSTRUCTIONS  TAG
 7  tls_write  kprobe (uprobe)  observes only           321  00ff
all 1 can only observe

Rings, counters and losses
KIND     NAME        VALUE  UNIT
lost     ring_full   1,024  bytes
counted  tls_writes     12  calls
1 of 3 stand at zero

Store
TENANT   STATE  DURABILITY  KEY CUSTODY  RECORDS     DISK  DETAIL
default  open   durable     local          1,234  3.0 MiB  -
not among them: expired, never stored, gone by damage, set aside, not verified
TENANT   EXPIRED  LOST  MISSING  SET ASIDE  REFUSED
default    5,000     0        0          0        0
records not yet durable: 0

Coverage: every process that talks to a provider
WORKLOAD        PROVIDER  VERDICT        REASON               WHAT TO DO                                       LIBRARY      CALLS  LATE
python3.11[42]  openai    captured       -                    -                                                libssl.so.3      3     1
curl[42]        openai    metadata_only  late_attach          nothing: calls from the next one on are metered  -                3     1
app[42]         openai    dark           unknown_tls_library  no probe for its TLS library: flows only         -                3     1
";
        assert_eq!(render(&node(), &coverage(), Look::default(), now), expected);
    }

    #[test]
    fn what_the_store_does_not_show_fits_a_narrow_terminal() {
        fn check(counts: [u64; 5], expected: Option<&str>) {
            let [records_expired, records_lost, records_missing, records_aside, rows_refused] = counts;
            let mut status = node();
            status.tenants = vec![TenantState {
                tenant: "a-tenant-of-a-long-name".into(),
                records_expired,
                records_lost,
                records_missing,
                records_aside,
                rows_refused,
                ..TenantState::default()
            }];
            let mut page = Page::new(Look { width: Some(80), colour: false });
            not_shown(&mut page, &status.tenants);
            let text = page.into_text();
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            assert_eq!(text.lines().nth(2), expected, "{text}");
        }
        check([0; 5], None);
        check(
            [12_345_678, 0, 0, 0, 1],
            Some("a-tenant-of-a-long-name  12,345,678     0        0          0        1"),
        );
        check(
            [1_234_567, 23_456, 34_567, 4_567_890, 5_678],
            Some("a-tenant-of-a-long-name  1,234,567  23,456   34,567  4,567,890    5,678"),
        );
    }

    #[test]
    fn a_program_that_could_do_more_is_shouted_out() {
        let mut node = node();
        node.programs[0].r#type = "xdp".into();
        let now = "2026-03-01T13:01:40Z".parse().expect("a moment");
        let text = render(&node, &Coverage::default(), Look::default(), now);
        assert!(text.contains("NOT A READ-ONLY TYPE"), "{text}");
        assert!(text.contains("1 could do more than observe"), "{text}");
        let value = object(&node, &coverage()).into_value();
        assert_eq!(value.pointer("/programs/0/observes_only"), Some(&Value::Bool(false)), "{value}");
        assert_eq!(value.pointer("/process_coverage/1/reason"), Some(&Value::from("late_attach")));
        assert_eq!(value.pointer("/process_coverage/0/reason"), None);
    }
}
