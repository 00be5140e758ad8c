//! Fail-open, and nothing acknowledged is lost: either process killed or stopped under load.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::clients::{self, Call, Client};
use e2e::daemon::{Daemon, PATIENCE, pause};
use e2e::disk::Disk;
use e2e::needs_kernel;
use nix::sys::signal::Signal;
use serde_json::Value;

use e2e::lab::Lab;

/// Who is hit, and what the main process then ends with.
const FAULTS: &[(&str, Signal, Option<i32>)] = &[
    ("venturid", Signal::SIGKILL, None),
    ("venturid", Signal::SIGTERM, Some(0)),
    ("venturi-attach", Signal::SIGKILL, Some(70)),
    ("venturi-attach", Signal::SIGTERM, Some(70)),
];

#[test]
fn no_request_fails_and_no_acknowledged_record_is_lost() {
    needs_kernel!("no_request_fails_and_no_acknowledged_record_is_lost");
    let lab = Lab::new(&["http/1.1"]);
    let mut seed = 0;
    for (who, signal, exit) in FAULTS {
        let mut daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
        let mut follow = daemon
            .venturi_command(&["calls", "--json", "--follow", "--since", "1h"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a follower");
        let lines = BufReader::new(follow.stdout.take().expect("its output")).lines();
        let attacher = child_of(daemon.child.id());
        let target = if *who == "venturid" { daemon.child.id() } else { attacher };
        let hit = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| {
            // Hits when enough is acknowledged, then notes what is acknowledged afterwards too.
            let follower = scope.spawn(|| {
                let mut acknowledged = BTreeSet::new();
                for line in lines.map_while(Result::ok) {
                    let record: Value = serde_json::from_str(&line).expect("a JSON line");
                    acknowledged.insert(record["id"].as_str().expect("an id").to_owned());
                    if acknowledged.len() >= 15 && !hit.swap(true, Ordering::SeqCst) {
                        let pid = nix::unistd::Pid::from_raw(i32::try_from(target).expect("a pid"));
                        nix::sys::signal::kill(pid, *signal).expect("a hit");
                    }
                }
                acknowledged
            });
            let mut rounds_after = 0;
            while rounds_after < 2 {
                rounds_after += usize::from(hit.load(Ordering::SeqCst));
                let calls: Vec<Call> = (0..10)
                    .map(|_| {
                        seed += 1;
                        Call::new("chat", seed % 2 == 0, 200_000 + seed)
                    })
                    .collect();
                let (_, reports) =
                    clients::run(Client::PythonOpenai, &lab.world, lab.path(), &calls).expect("reports");
                let failed: Vec<_> = reports.iter().filter(|report| !report.ok()).collect();
                assert!(failed.is_empty(), "an application's request failed: {failed:?}");
            }
            let _ = follow.kill();
            let _ = follow.wait();
            follower.join().expect("the follower")
        });
        match exit {
            Some(code) => assert_eq!(
                daemon.wait().expect("an exit code"),
                *code,
                "{who} hit by {signal}\n{}",
                daemon.log()
            ),
            None => drop(daemon),
        }
        let daemon = Daemon::start(lab.path(), "").expect("a daemon on the same store");
        let kept: BTreeSet<String> = daemon
            .calls()
            .expect("calls")
            .iter()
            .filter_map(|record| record["id"].as_str().map(str::to_owned))
            .collect();
        let lost: Vec<_> = acknowledged.difference(&kept).collect();
        assert!(lost.is_empty(), "{who} hit by {signal}: acknowledged and lost: {lost:?}");
        assert_eq!(daemon.stop().expect("an exit code"), 0);
    }
}

#[test]
fn stopped_processes_make_nobody_wait() {
    needs_kernel!("stopped_processes_make_nobody_wait");
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let calls: Vec<Call> = (0..40).map(|seed| Call::new("chat", true, 300_000 + seed)).collect();
    let attacher = i32::try_from(child_of(daemon.child.id())).expect("a pid");
    let main = i32::try_from(daemon.child.id()).expect("a pid");
    for pid in [main, attacher] {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("a stop");
        // It goes on only after the client has ended: a client that waited for it in any way would never end.
        let (_, reports) =
            clients::run(Client::PythonOpenai, &lab.world, lab.path(), &calls).expect("reports");
        assert!(reports.len() == calls.len() && reports.iter().all(clients::Report::ok), "{reports:?}");
        nix::sys::signal::kill(pid, Signal::SIGCONT).expect("a go");
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// The disk of the state directory stops answering: the application's calls do not notice, status and doctor answer at
/// once and say so, questions are refused within seconds, and afterwards every call is there.
#[test]
fn a_wedged_disk_holds_up_neither_calls_nor_answers() {
    needs_kernel!("a_wedged_disk_holds_up_neither_calls_nor_answers");
    let lab = Lab::new(&["http/1.1"]);
    let world = lab.at_distance(Duration::from_millis(5));
    let mut disk = Disk::mount(&lab.path().join("state")).expect("a disk of its own");
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let call = |seeds: std::ops::Range<u64>| {
        let calls: Vec<Call> = seeds.map(|seed| Call::new("chat", true, 400_000 + seed)).collect();
        let (_, reports) = clients::run(Client::PythonOpenai, &world, lab.path(), &calls).expect("reports");
        assert!(reports.len() == calls.len() && reports.iter().all(clients::Report::ok), "{reports:?}");
    };
    call(0..10);
    daemon.calls_until(|calls| calls.len() >= 10).expect("the calls before");

    disk.freeze().expect("a frozen disk");
    call(10..20);
    let ask = |arguments: &[&str]| {
        let started = Instant::now();
        let output = daemon.venturi(arguments).expect("venturi");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), started.elapsed())
    };
    // Far less than the disk is frozen for: until it is thawed below.
    let at_once = Duration::from_secs(10);
    let until = |code: i32, word: &str| {
        let started = Instant::now();
        loop {
            let (ended, text, took) = ask(&["status"]);
            assert!(took < at_once, "status took {took:?}");
            if ended == Some(code) && text.contains(word) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never {code} with {word:?}: {ended:?} {text}");
            pause();
        }
    };
    until(3, "store_stuck");
    let (code, text, took) = ask(&["doctor"]);
    assert!(code == Some(3) && text.contains("store_stuck") && took < at_once, "{code:?} {took:?} {text}");
    let (code, _, took) = ask(&["calls"]);
    assert!(code == Some(1) && took < at_once, "{code:?} {took:?}");
    call(20..30);

    disk.thaw().expect("a thawed disk");
    until(0, "");
    daemon.calls_until(|calls| calls.len() >= 30).expect("every call");
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// The attacher: the only child of the main process.
fn child_of(pid: u32) -> u32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(&path).expect("children of venturid");
    text.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a child: venturi-attach")
}
