//! The contract for scripts: exit codes, defaults, doctor's proof, bad input.

use std::process::Command;

use e2e::daemon::{Daemon, bin_dir};
use e2e::needs_kernel;
use serde_json::Value;

use e2e::lab::Lab;

#[test]
fn a_broken_configuration_names_every_mistake_and_exits_2() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = "[capture]\nscope = \"sometimes\"\ntap = 7\n[attribution]\nconfidence_cap = 0.99\n";
    let mut daemon = Daemon::spawn(dir.path(), config, &[]).expect("a process");
    assert_eq!(daemon.wait().expect("an exit code"), 2);
    let log = daemon.log();
    for part in ["capture.scope", "on_demand", "capture.tap", "confidence_cap", "0.95"] {
        assert!(log.contains(part), "{part} is not in:\n{log}");
    }
}

#[test]
fn without_a_daemon_the_command_line_exits_4() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let venturi = bin_dir().expect("binaries").join("venturi");
    let run = |arguments: &[&str]| {
        let output =
            Command::new(&venturi).arg("--socket").arg(dir.path().join("none")).args(arguments).output();
        output.expect("venturi").status.code()
    };
    assert_eq!(run(&["status"]), Some(4));
    assert_eq!(run(&["calls", "--json"]), Some(4));
    assert_eq!(run(&["calls", "--since", "yesterday-ish"]), Some(2));
    assert_eq!(run(&["no-such-command"]), Some(2));
}

#[test]
fn a_missing_key_is_refused_with_78() {
    needs_kernel!("a_missing_key_is_refused_with_78");
    let lab = Lab::new(&["http/1.1"]);
    assert_eq!(Daemon::start(lab.path(), "").expect("an armed daemon").stop().expect("an exit code"), 0);
    std::fs::remove_dir_all(lab.path().join("state.keys"))
        .expect("the key directory beside the state directory");
    let mut daemon = Daemon::spawn(lab.path(), "", &[]).expect("a process");
    assert_eq!(daemon.wait().expect("an exit code"), 78, "{}", daemon.log());
    assert!(daemon.log().contains("key"), "{}", daemon.log());
}

#[test]
fn doctor_proves_the_promises_from_proc() {
    needs_kernel!("doctor_proves_the_promises_from_proc");
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let doctor = daemon.json_lines(&["doctor", "--json"]).expect("a doctor's report").remove(0);
    let programs = doctor["programs"].as_array().expect("programs");
    assert!(!programs.is_empty());
    for program in programs {
        let kind = program["type"].as_str().unwrap_or("");
        assert!(
            ["tracepoint", "raw_tracepoint", "socket_filter", "kprobe (uprobe)"].contains(&kind),
            "{program}"
        );
    }
    // Not from our own words: from /proc.
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).expect("status of venturid");
    let field = |name: &str| -> String {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect("a field").trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).expect("hex"), 0, "{set} of venturid");
    }
    assert_ne!(field("Uid").split_whitespace().next(), Some("0"));
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id()))
        .expect("descriptors of venturid")
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let packet = std::fs::read_to_string("/proc/net/packet").expect("packet sockets");
    let inodes = packet.lines().skip(1).filter_map(|line| line.split_whitespace().last());
    for inode in inodes {
        assert!(!sockets.contains(&format!("socket:[{inode}]")), "venturid holds a packet socket");
    }
    let text = daemon.venturi(&["doctor"]).expect("doctor");
    assert!(text.status.success());
    assert!(!text.stdout.is_empty());
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

#[test]
fn replay_serves_and_says_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Daemon::spawn(dir.path(), "", &["--replay"]).expect("a process");
    let records = daemon_calls(&daemon);
    assert!(records.iter().any(|record| record["usage"]["input_tokens"].is_u64()), "{records:?}");
    assert_eq!(daemon.venturi(&["status"]).expect("status").status.code(), Some(3));
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// Calls of a daemon that may not be up yet.
fn daemon_calls(daemon: &Daemon) -> Vec<Value> {
    let started = std::time::Instant::now();
    loop {
        if let Ok(records) = daemon.calls()
            && !records.is_empty()
        {
            return records;
        }
        assert!(started.elapsed() < e2e::daemon::PATIENCE, "{}", daemon.log());
        e2e::daemon::pause();
    }
}
