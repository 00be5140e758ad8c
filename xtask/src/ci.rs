//! `cargo xtask ci`: everything that must hold before a change is merged, on one profile, with the time of each step.
//!
//! Every step runs even if one before it failed, so that one run shows all that is wrong.

use std::path::Path;
use std::time::Instant;

use anyhow::bail;

use crate::build::Profile;
use crate::{codegen, fuzz, node, probes, setup, shell, start, test, tidy};

/// One thing that must hold.
type Step = (&'static str, fn() -> anyhow::Result<()>);

/// Cheap ones first. The tests build the programs that gate and conformance use.
const STEPS: &[Step] = &[
    ("format", format),
    ("tidy", tidy::run),
    ("dependencies", dependencies),
    ("clippy", clippy),
    ("codegen", || codegen::run(&codegen::Args { check: true })),
    ("probes", || probes::run(&probes::Args { check: true })),
    ("tests", || test::run(&test::Args::everything())),
    ("gate", || start::judge(&[])),
    ("conformance", conformance),
    ("fuzz", || fuzz::run(&fuzz::Args::bounded())),
];

/// Runs all steps.
pub(crate) fn run() -> anyhow::Result<()> {
    setup::run();
    if let Some(why) = node::capture_blocked() {
        eprintln!("ci: this machine cannot capture, so the kernel ring is skipped: {why}");
    }
    let mut done = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n=== {name}");
        let began = Instant::now();
        let outcome = step();
        if let Err(err) = &outcome {
            eprintln!("ci: {name}: {err:#}");
        }
        done.push((*name, outcome.is_ok(), began.elapsed()));
    }
    println!("\n=== summary");
    for (name, good, took) in &done {
        println!("{:<14} {:<6} {:>5} s", name, if *good { "good" } else { "FAILED" }, took.as_secs());
    }
    let failed: Vec<&str> = done.iter().filter(|(_, good, _)| !good).map(|(name, ..)| *name).collect();
    println!("{} passed, {} failed", done.len() - failed.len(), failed.len());
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn format() -> anyhow::Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args([
        "clippy",
        "--profile",
        Profile::Ci.name(),
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    shell::run(&mut command)
}

/// Licences, sources and duplicate versions offline; advisories where their database can be had.
fn dependencies() -> anyhow::Result<()> {
    if shell::output(shell::cargo().args(["deny", "--version"])).is_err() {
        let why = "cargo-deny is not installed (`cargo install --locked cargo-deny`)";
        if std::env::var_os("CI").is_some() {
            bail!("{why}");
        }
        println!("SKIPPED dependencies: {why}");
        return Ok(());
    }
    shell::run(shell::cargo().args([
        "deny",
        "--log-level",
        "error",
        "check",
        "licenses",
        "bans",
        "sources",
    ]))?;
    let advisories =
        shell::output(shell::cargo().args(["deny", "--log-level", "error", "check", "advisories"]));
    match advisories {
        Err(err) if is_offline(&format!("{err:#}")) => {
            println!("SKIPPED advisories: their database cannot be fetched here");
            Ok(())
        }
        other => other.map(drop),
    }
}

fn is_offline(messages: &str) -> bool {
    ["failed to fetch advisory database", "failed to open advisory database", "failed to clone"]
        .iter()
        .any(|message| messages.contains(message))
}

/// What must be exact in CI: every dialect, and what is no AI at all. `invoke` is left out for one recording, whose
/// expected input is without the cached tokens that a like recording's own total counts in.
const EXACT: &str = "openai_chat,responses,anthropic,gemini,embeddings,converse,cohere,ollama,xai_grpc,google_other,\
                     realtime,count_tokens,interactions,replicate,untyped,negative";

/// Over the recordings beside the repository, where they exist.
fn conformance() -> anyhow::Result<()> {
    let corpus = shell::root().join("../shared/corpus/exchanges.jsonl.gz");
    if !corpus.exists() {
        println!("SKIPPED conformance: no recordings at {}", corpus.display());
        return Ok(());
    }
    recorded(&corpus)
}

fn recorded(corpus: &Path) -> anyhow::Result<()> {
    let run = |arguments: [&str; 2]| {
        let tool = Profile::Ci.program("conformance");
        shell::run(shell::command(tool).arg("--corpus").arg(corpus).args(arguments))
    };
    run(["--dialect", EXACT])?;
    run(["--damaged", "20"])
}
