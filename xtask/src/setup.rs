//! Sets up what tests need and a fresh machine lacks: system packages and tracefs where we are root.
//!
//! The clients (Python and Node SDKs) are set up by the laboratory itself, below `target/lab`. Nothing here fails a
//! run: what is still missing afterwards is skipped by name, or fails the test that needs it.

use std::path::Path;
use std::process::Stdio;

use crate::{node, shell};

/// Programs that tests start, and the Debian packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("strace", "strace"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("c++", "g++"),
    ("nginx", "nginx-light"),
    ("python3", "python3"),
];

/// Installs and mounts what is missing; says what it does and what it could not do.
pub(crate) fn run() {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !shell::exists(program)).map(|(_, package)| *package).collect();
    if shell::exists("python3") && !python_has_venv() {
        missing.push("python3-venv");
    }
    if !missing.is_empty() {
        install(&missing, "tests that need them are skipped");
    }
    mount_tracefs();
}

/// Installs Debian packages, or says that it cannot, and what follows.
pub(crate) fn install(packages: &[&str], otherwise: &str) {
    let wanted = packages.join(" ");
    if !node::is_root() || !shell::exists("apt-get") {
        eprintln!("setup: not installed and not installable by us: {wanted}; {otherwise}");
        return;
    }
    eprintln!("setup: installing {wanted}");
    let apt = |arguments: &[&str]| {
        let mut command = shell::command("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-y"])
            .args(arguments)
            .stdin(Stdio::null());
        shell::run(command.stdout(Stdio::null()))
    };
    let arguments: Vec<&str> =
        ["install", "--no-install-recommends"].iter().chain(packages).copied().collect();
    let done = apt(&arguments).or_else(|_| apt(&["update"]).and_then(|()| apt(&arguments)));
    if let Err(err) = done {
        eprintln!("setup: {err:#}: {wanted} cannot be had; {otherwise}");
    }
}

fn python_has_venv() -> bool {
    shell::output(shell::command("python3").args(["-c", "import ensurepip, venv"])).is_ok()
}

fn mount_tracefs() {
    let tracing = Path::new("/sys/kernel/tracing");
    if !node::is_root() || !tracing.exists() || tracing.join("events").exists() {
        return;
    }
    if let Err(err) = shell::run(shell::command("mount").args(["-t", "tracefs", "tracefs"]).arg(tracing)) {
        eprintln!("setup: {err:#}");
    }
}
