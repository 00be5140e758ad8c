//! Killed at any moment, nothing acknowledged is lost: a child stores and acknowledges over a pipe until it dies.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use meter::record::Record;

use super::samples::sample;
use super::{Home, layout_in, options, tenant};
use crate::{ListQuery, StoreState, UsageQuery};

const NAME: &str = "ads";
/// Says to [`child`] where to work.
const DIR: &str = "VENTURI_STORE_CRASH_DIR";
/// First number that the child stores.
const FIRST: &str = "VENTURI_STORE_CRASH_FIRST";
/// Batches after which the child ends by itself; absent: never.
const BATCHES: &str = "VENTURI_STORE_CRASH_BATCHES";

fn numbered(number: u64) -> Record {
    sample(NAME, number * 1_000_000, number)
}

/// Not a test of its own: the process that [`nothing_acknowledged_is_lost`] kills.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut next = number(FIRST).unwrap();
    let batches = number(BATCHES).unwrap_or(u64::MAX);
    let say = |text: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    say("\nOPENING\n".into());
    let prepared = crate::prepare(&layout_in(Path::new(&dir)), &[tenant(NAME)], None).unwrap();
    let stores = crate::open(prepared, options());
    say("OPENED\n".into());
    for _ in 0..batches {
        let end = next + 1 + next % 59;
        let records: Vec<Record> = (next..end).map(numbered).collect();
        assert_eq!(stores.commit(&records).lost(), 0);
        say(format!("ACK {end}\n"));
        next = end;
    }
}

fn spawn(command: &mut Command, dir: &Path, first: u64) -> Child {
    command.args(["--exact", "tests::crash::child", "--nocapture"]);
    command.env(DIR, dir).env(FIRST, first.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn nothing_acknowledged_is_lost() {
    let home = Home::new(&[NAME]);
    let mut acknowledged = 0;
    for round in 0..30_u64 {
        // Some die while opening, which is when an unfinished snapshot can stay behind.
        let lines = if round % 4 == 3 { round % 3 } else { 2 + round * 7 % 23 };
        let mut child =
            spawn(&mut Command::new(std::env::current_exe().unwrap()), home.dir.path(), acknowledged);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let mut seen = 0;
        while seen < lines {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended by itself in round {round}");
            seen += note(&line, &mut acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was written to the pipe before the kill is acknowledged too.
        while {
            line.clear();
            output.read_line(&mut line).unwrap() > 0 && line.ends_with('\n')
        } {
            note(&line, &mut acknowledged);
        }
        verify(&home, acknowledged, round);
    }
    assert!(acknowledged > 500, "only {acknowledged} records were stored");
    println!("30 kills, {acknowledged} acknowledged records, none lost");
}

/// 1 if the line is one of the child's.
fn note(line: &str, acknowledged: &mut u64) -> u64 {
    if let Some(end) = line.trim_end().strip_prefix("ACK ") {
        *acknowledged = end.parse().unwrap();
        return 1;
    }
    u64::from(matches!(line.trim_end(), "OPENING" | "OPENED"))
}

fn verify(home: &Home, acknowledged: u64, round: u64) {
    let stores = home.open();
    let state = &stores.states()[0];
    assert_eq!((state.state, state.recoveries), (StoreState::Open, 0), "round {round}: {}", state.detail);
    let reader = stores.reader(&tenant(NAME)).unwrap();
    for number in 0..acknowledged {
        let record = numbered(number);
        assert_eq!(reader.get(record.id).unwrap(), Some(record), "round {round}: record {number} is lost");
    }
    // Records, their count and their sums were written together or not at all.
    let mut query = ListQuery { limit: 10_000, ..ListQuery::default() };
    let (mut ids, mut exchanges) = (BTreeSet::new(), 0);
    loop {
        let page = reader.list(&query).unwrap();
        let is_exchange = |record: &&Record| matches!(record.subject, meter::record::Subject::Exchange(_));
        exchanges += page.records.iter().filter(is_exchange).count() as u64;
        ids.extend(page.records.iter().map(|record| record.id));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(state.records, ids.len() as u64, "round {round}");
    let rows = reader.usage(&UsageQuery::default()).unwrap();
    assert_eq!(rows.iter().map(|row| row.exchanges).sum::<u64>(), exchanges, "round {round}");
    assert_eq!(stores.states()[0].rows_refused, 0, "round {round}");
}

/// What the kernel sees: an fsync for each acknowledgement, and no `sync_file_range`.
#[test]
fn every_acknowledgement_follows_an_fsync() {
    let home = Home::new(&[NAME]);
    let trace = home.dir.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-y", "-e", "trace=fsync,sync_file_range,write", "-e", "signal=none", "-o"])
        .arg(&trace);
    strace.arg(std::env::current_exe().unwrap()).env(BATCHES, "20");
    if Command::new("strace").arg("-V").output().is_err() {
        let demanded = std::env::var_os("VENTURI_REQUIRE_KERNEL").is_some_and(|value| value == "1");
        assert!(!demanded, "this must run here, but strace is not installed");
        println!("SKIPPED every_acknowledgement_follows_an_fsync: strace is not installed");
        return;
    }
    let output = spawn(&mut strace, home.dir.path(), 0).wait_with_output().unwrap();
    assert!(output.status.success());
    let trace = std::fs::read_to_string(&trace).unwrap();
    assert!(!trace.contains("sync_file_range("), "sync_file_range reached the kernel");
    let (mut synced, mut acknowledged) = (false, 0);
    for line in trace.lines() {
        synced |= line.contains("fsync(") && line.contains("/tenants/ads/db/db>") && !line.contains("= -1");
        if line.contains("\"ACK ") {
            assert!(synced, "acknowledged without an fsync: {line}");
            (synced, acknowledged) = (false, acknowledged + 1);
        }
    }
    assert_eq!(acknowledged, 20);
}
