//! What the environment gets wrong is said with its remedy: a missing tracefs, a price catalogue that is not the signed
//! one, a store that is damaged or in use. What still works goes on.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use e2e::daemon::{Daemon, PATIENCE, bin_dir, pause};
use e2e::lab::Lab;
use e2e::needs_kernel;
use serde_json::Value;

/// Hides tracefs in a mount namespace of the daemon's own.
const HIDDEN: &str = "mount -t tmpfs none /sys/kernel/tracing; mount -t tmpfs none /sys/kernel/debug; ";

#[test]
fn a_missing_tracefs_is_mounted_or_named_with_its_remedy() {
    needs_kernel!("a_missing_tracefs_is_mounted_or_named_with_its_remedy");
    let lab = Lab::new(&["http/1.1"]);
    let start = |then: &str| {
        let script = format!("{HIDDEN}exec {then} \"$@\"");
        let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
        Daemon::spawn_under(&wrapper, lab.path(), "", &[]).expect("a process")
    };
    // It may mount it: then nothing is missing.
    let mut daemon = start("");
    daemon.wait_armed().expect("an armed daemon");
    assert_eq!(daemon.stop().expect("an exit code"), 0);

    // It may not: queries are served, and what is missing is said.
    let daemon = start("setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin");
    let limit = degradation(&daemon, "no_tracefs");
    assert_eq!(limit["remedy"], "mount -t tracefs tracefs /sys/kernel/tracing", "{limit}");
    assert!(text(&limit, "effect").starts_with("nothing is captured"), "{limit}");
    let status = daemon.venturi(&["status"]).expect("status");
    assert_eq!(status.status.code(), Some(3), "{}", String::from_utf8_lossy(&status.stdout));
    assert!(daemon.calls().is_ok_and(|calls| calls.is_empty()), "queries are answered");
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

#[test]
fn a_catalogue_that_is_not_the_signed_one_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut program = std::fs::read(bin_dir().expect("binaries").join("venturid")).expect("venturid");
    // The catalogue as it lies in the program: one price is changed.
    let start = find(&program, br#"{"format":1,"role":"prices","#).expect("the catalogue in the program");
    let digit =
        start + find(&program[start..], br#""expires_at":1"#).expect("its end") + br#""expires_at":"#.len();
    program[digit] = b'9';
    let changed = dir.path().join("venturid");
    std::fs::write(&changed, program).expect("a copy");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&changed, executable).expect("executable");
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "").expect("a configuration");
    let path = |name: &str| dir.path().join(name);
    let output = Command::new(&changed)
        .args(["--replay", "--config"])
        .arg(&config)
        .arg("--state-dir")
        .arg(path("state"))
        .arg("--socket")
        .arg(path("socket"))
        .output()
        .expect("the changed program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["price catalogue", "signature", "install the program again"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}

#[test]
fn a_damaged_store_is_set_aside_and_one_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let start = || Daemon::spawn(dir.path(), "", &["--replay"]).expect("a process");
    let daemon = start();
    let kept = calls(&daemon).len();

    let mut second = start();
    assert_eq!(second.wait().expect("an exit code"), 1, "{}", second.log());
    assert!(second.log().contains("another daemon"), "{}", second.log());
    assert_eq!(calls(&daemon).len(), kept, "the first serves on");
    assert_eq!(daemon.stop().expect("an exit code"), 0);

    damage(&dir.path().join("state/tenants/default/db"));
    let daemon = start();
    let quarantined = degradation(&daemon, "store_quarantined");
    assert!(text(&quarantined, "effect").contains("tenant default"), "{quarantined}");
    assert!(text(&quarantined, "remedy").contains("moved aside"), "{quarantined}");
    assert_eq!(daemon.venturi(&["status"]).expect("status").status.code(), Some(3));
    // The tenant has a new database.
    assert!(!calls(&daemon).is_empty());
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// Overwrites every file of a database.
fn damage(folder: &Path) {
    let files: Vec<_> = std::fs::read_dir(folder).expect("a database").flatten().collect();
    assert!(!files.is_empty());
    for path in files.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()) {
        let len = std::fs::metadata(&path).expect("a file").len();
        std::fs::write(&path, vec![0x5a; usize::try_from(len).expect("small")]).expect("damage");
    }
}

/// Calls of a daemon that may not be up yet.
fn calls(daemon: &Daemon) -> Vec<Value> {
    until(daemon, "calls", || daemon.calls().ok().filter(|calls| !calls.is_empty()))
}

/// A limitation that the daemon reports, once it is up.
fn degradation(daemon: &Daemon, kind: &str) -> Value {
    until(daemon, kind, || {
        // It exits with 3: something is missing.
        let doctor = daemon.venturi(&["doctor", "--json"]).ok()?.stdout;
        let doctor: Value = serde_json::from_slice(&doctor).ok()?;
        doctor["degradations"].as_array()?.iter().find(|entry| entry["kind"] == kind).cloned()
    })
}

fn until<T>(daemon: &Daemon, what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        let doctor = daemon.venturi(&["doctor"]).map(|output| output.stdout).unwrap_or_default();
        assert!(
            started.elapsed() < PATIENCE,
            "no {what}: {}\n{}",
            String::from_utf8_lossy(&doctor),
            daemon.log()
        );
        pause();
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
