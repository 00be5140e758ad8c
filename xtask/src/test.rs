//! `cargo xtask test`: sets up, builds, runs the rings of tests, and says what was skipped and why.
//!
//! The rings: *pure* needs nothing, *process* starts our processes, *kernel* needs root and a real kernel. A test that
//! cannot run here prints `SKIPPED <name>: <why>`; libtest hides what passing tests print, so it is asked to show it,
//! and only those lines are kept.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::build::{self, Profile};
use crate::{node, setup, shell};

/// Packages of the pure ring.
const PURE: &[&str] = &["abi", "probes", "meter", "store", "proto", "ctl", "xtask"];
/// Packages of the process ring.
const PROCESS: &[&str] = &["host"];
/// Packages of the kernel ring.
const KERNEL: &[&str] = &["attach", "e2e"];

/// Which tests to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Ring of tests
    #[arg(value_enum, default_value = "all")]
    ring: Ring,
    /// Only tests whose name contains this
    #[arg(value_name = "NAME")]
    filter: Option<String>,
}

impl Args {
    /// All rings, all tests.
    pub(crate) fn everything() -> Args {
        Args { ring: Ring::All, filter: None }
    }
}

/// How much of the machine a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ring {
    /// Nothing
    Pure,
    /// Our own processes
    Process,
    /// Root and a real kernel
    Kernel,
    /// Everything
    All,
}

/// Runs the tests.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if matches!(args.ring, Ring::Kernel | Ring::All) {
        setup::run();
        // The end-to-end tests start the programs that lie beside them.
        build_programs(args.ring)?;
        eprintln!("setup: the clients of the end-to-end tests");
        if let Err(err) = shell::run(&mut shell::command(Profile::Ci.program("lab"))) {
            eprintln!("setup: {err:#}; tests that need these clients are skipped");
        }
    }
    let mut command = shell::cargo();
    // All targets: everything but documentation examples, of which there are none.
    command.args(["test", "--profile", Profile::Ci.name(), "--no-fail-fast", "--all-targets"]);
    match args.ring {
        Ring::Pure => packages(&mut command, PURE),
        Ring::Process => packages(&mut command, PROCESS),
        Ring::Kernel => packages(&mut command, KERNEL),
        Ring::All => command.arg("--workspace"),
    };
    command.args(["--", "--show-output"]).args(&args.filter);
    if node::is_ci() && node::capture_blocked().is_none() {
        command.env("VENTURI_REQUIRE_KERNEL", "1");
    }
    let summary = watch(&mut command)?;
    report(&summary);
    if summary.good { Ok(()) } else { bail!("tests failed") }
}

/// Builds what the tests start. For all rings the whole workspace at once: its dependencies are then built with the same
/// features as for the tests themselves, and only once.
fn build_programs(ring: Ring) -> anyhow::Result<()> {
    if ring == Ring::All {
        return shell::run(shell::cargo().args([
            "build",
            "--profile",
            Profile::Ci.name(),
            "--workspace",
            "--bins",
        ]));
    }
    build::programs(Profile::Ci, &[("e2e", "lab")])
}

fn packages<'a>(command: &'a mut std::process::Command, names: &[&str]) -> &'a mut std::process::Command {
    for name in names {
        command.args(["--package", name]);
    }
    command
}

/// Shows what cargo prints without the output of passing tests, and keeps count.
fn watch(command: &mut std::process::Command) -> anyhow::Result<Summary> {
    let shown = shell::shown(command);
    eprintln!("+ {shown}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{shown}`"))?;
    let mut summary = Summary::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("reading what `{shown}` prints"))?;
            let line = String::from_utf8_lossy(&line);
            if summary.takes(&line) {
                println!("{line}");
            }
        }
    }
    let status = child.wait().with_context(|| format!("waiting for `{shown}`"))?;
    summary.good = status.success();
    Ok(summary)
}

fn report(summary: &Summary) {
    if !summary.skipped.is_empty() {
        println!("\nSKIPPED here ({}):", summary.skipped.len());
        for line in &summary.skipped {
            println!("  {line}");
        }
    }
    let Summary { passed, failed, skipped, .. } = summary;
    // A skipped test returned early and so counts as passed for libtest.
    let passed = passed.saturating_sub(skipped.len() as u64);
    println!("\n{passed} passed, {failed} failed, {} skipped", skipped.len());
}

/// What was seen of the tests' output.
#[derive(Debug, Default)]
struct Summary {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    good: bool,
    /// Inside the output of passing tests.
    hidden: bool,
}

impl Summary {
    /// Takes in one line; true if it is to be shown.
    fn takes(&mut self, line: &str) -> bool {
        if let Some(skipped) = line.strip_prefix("SKIPPED ") {
            if !self.skipped.iter().any(|known| known == skipped) {
                self.skipped.push(skipped.to_owned());
            }
            return true;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += figure(result, "passed");
            self.failed += figure(result, "failed");
            self.hidden = false;
        } else if line == "successes:" {
            self.hidden = true;
        } else if line == "failures:" {
            self.hidden = false;
        }
        !self.hidden
    }
}

/// The number before `word`.
fn figure(result: &str, word: &str) -> u64 {
    let words: Vec<&str> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|candidate| *candidate == word);
    at.and_then(|at| at.checked_sub(1)).and_then(|at| words[at].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_told_from_passed_ones() {
        let output = "\
running 3 tests
test a ... ok
test b ... ok
test c ... FAILED

successes:

---- b stdout ----
noise
SKIPPED b: needs root

successes:
    a
    b

failures:

---- c stdout ----
thread panicked

failures:
    c

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let mut summary = Summary::default();
        let shown: Vec<&str> = output.lines().filter(|line| summary.takes(line)).collect();
        assert_eq!((summary.passed, summary.failed), (2, 1));
        assert_eq!(summary.skipped, ["b: needs root"]);
        assert!(!shown.contains(&"noise"), "{shown:?}");
        assert!(shown.contains(&"SKIPPED b: needs root") && shown.contains(&"thread panicked"), "{shown:?}");
    }
}
