//! `cargo xtask fuzz`: attacks the entry points of `tests/fuzz`, guided by what they reach, and says how much that is.
//!
//! The compiler's own instrumentation is enough, so the stable toolchain does it, with a C++ compiler for libFuzzer's
//! half. What was found interesting is kept below `tests/fuzz/target/inputs` between runs; findings go to
//! `tests/fuzz/artifacts`. Line coverage needs `llvm-profdata` and `llvm-cov` of the compiler's LLVM, which are
//! installed if they can be.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::{setup, shell};

/// What to attack, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Targets; all if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, value_name = "S", default_value_t = 60)]
    time: u64,
    /// Run each target so often instead, and again until that reaches no further line; implies --coverage
    #[arg(long, value_name = "N", conflicts_with = "time")]
    executions: Option<u64>,
    /// Report which share of the parser's lines all inputs together reach
    #[arg(long)]
    coverage: bool,
    /// Replace the committed inputs without a name of their own by the fewest that reach as much
    #[arg(long)]
    minimise: bool,
}

impl Args {
    /// Everything for a bounded time, as CI does it.
    pub(crate) fn bounded() -> Args {
        Args { targets: Vec::new(), time: 8, executions: None, coverage: false, minimise: false }
    }
}

/// An entry point.
struct Target {
    name: &'static str,
    program: Program,
    /// Files and folders of the parser, whose lines count.
    sources: &'static [&'static str],
}

/// The program that an entry point is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// The meter alone.
    Pure,
    /// With the daemon's dependencies.
    Node,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Pure => "pure",
            Program::Node => "node",
        }
    }
}

const fn pure(name: &'static str, sources: &'static [&'static str]) -> Target {
    Target { name, program: Program::Pure, sources }
}

const fn node(name: &'static str, sources: &'static [&'static str]) -> Target {
    Target { name, program: Program::Node, sources }
}

const TARGETS: &[Target] = &[
    pure("h1", &["daemon/meter/src/http/h1.rs", "daemon/meter/src/http/h1"]),
    pure("h2", &["daemon/meter/src/http/h2.rs", "daemon/meter/src/http/h2"]),
    pure("hpack", &["daemon/meter/src/http/hpack.rs"]),
    pure("sse", &["daemon/meter/src/http/sse.rs"]),
    pure("json", &["daemon/meter/src/llm/json.rs", "daemon/meter/src/llm/json"]),
    pure("body", &["daemon/meter/src/http/body.rs"]),
    pure("eventstream", &["daemon/meter/src/http/eventstream.rs"]),
    pure("grpc", &["daemon/meter/src/http/grpc.rs"]),
    pure("websocket", &["daemon/meter/src/http/ws.rs"]),
    pure("protobuf", &["daemon/meter/src/llm/protobuf.rs"]),
    pure("answer", &["daemon/meter/src/llm"]),
    pure("pipeline", &["daemon/meter/src/pipeline.rs", "daemon/meter/src/pipeline"]),
    pure("catalogue", &["daemon/meter/src/pricing"]),
    pure("cgroup", &["daemon/meter/src/workload/cgroup.rs"]),
    node("ring", &["daemon/host/src/capture/event.rs"]),
    node("hello", &["daemon/host/src/capture/names.rs"]),
    node("quic", &["daemon/host/src/capture/names.rs"]),
    node("dns", &["daemon/host/src/capture/names.rs"]),
    node("packets", &["daemon/host/src/capture/names.rs"]),
    node("maps", &["daemon/host/src/capture/image.rs"]),
    node("elf", &["daemon/host/src/capture/elf.rs"]),
    node("config", &["daemon/host/src/config"]),
    node("replay", &["daemon/host/src/replay"]),
    node("stored", &["daemon/store/src/format"]),
];

/// Counters at each edge and hooks at each comparison, which libFuzzer follows.
const GUIDED: &str = "--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares";
/// Counters of source regions.
const MEASURED: &str = "--cfg fuzzing -C instrument-coverage";

/// Builds, attacks, reports.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !shell::exists("c++") {
        println!("SKIPPED fuzz: libFuzzer needs a C++ compiler (Debian: g++)");
        return Ok(());
    }
    let unknown = args.targets.iter().find(|name| !TARGETS.iter().any(|target| target.name == **name));
    if let Some(name) = unknown {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        bail!("there is no target {name}; there are {}", known.join(", "));
    }
    let chosen: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| args.targets.is_empty() || args.targets.iter().any(|name| name == target.name))
        .collect();
    for program in [Program::Pure, Program::Node] {
        if chosen.iter().any(|target| target.program == program) {
            build(program, GUIDED, "guided")?;
        }
    }
    let coverage = match args.coverage || args.executions.is_some() {
        true => Coverage::of(&chosen)?,
        false => None,
    };
    ensure!(args.executions.is_none() || coverage.is_some(), "--executions needs to know the lines reached");
    let effort = args.executions.map_or(Effort::Seconds(args.time), Effort::Executions);
    let reports = attack(&chosen, effort, coverage.as_ref())?;
    println!("{:<12} {:>12} {:>8} {:>7} {:>7}  lines", "target", "executions", "per s", "inputs", "edges");
    for (target, report) in chosen.iter().zip(&reports) {
        let Report { executions, per_second, inputs, edges, lines, .. } = report;
        let lines = lines.map_or_else(|| "-".to_owned(), |lines| lines.to_string());
        let of = target.sources.join(", ");
        println!(
            "{:<12} {executions:>12} {per_second:>8} {inputs:>7} {edges:>7}  {lines} of {of}",
            target.name
        );
    }
    let found: Vec<String> = reports.iter().filter_map(|report| report.finding.clone()).collect();
    ensure!(found.is_empty(), "findings:\n{}", found.join("\n"));
    if args.minimise {
        for target in &chosen {
            minimise(target)?;
        }
    }
    Ok(())
}

/// When a target was attacked for long enough.
#[derive(Clone, Copy, Debug)]
enum Effort {
    Seconds(u64),
    /// And again so many until no further line is reached.
    Executions(u64),
}

/// What came of one target.
#[derive(Clone, Debug, Default)]
struct Report {
    executions: u64,
    per_second: u64,
    inputs: u64,
    edges: u64,
    lines: Option<Lines>,
    finding: Option<String>,
}

/// Lines of a parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lines {
    reached: u64,
    all: u64,
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lines { reached, all } = self;
        write!(f, "{:>3} % ({reached} of {all})", reached * 100 / all)
    }
}

fn folder() -> PathBuf {
    shell::root().join("tests/fuzz")
}

fn corpus(target: &Target) -> PathBuf {
    folder().join("corpus").join(target.name)
}

fn kept(target: &Target) -> PathBuf {
    folder().join("target/inputs").join(target.name)
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn build(program: Program, flags: &str, kind: &str) -> anyhow::Result<()> {
    let mut cargo = shell::cargo();
    // With a target, build scripts and macros of the host stay without instrumentation.
    cargo
        .current_dir(folder())
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", folder().join("target").join(kind))
        .args(["build", "--release", "--locked", "--target", &triple(), "--bin", program.name()]);
    if program == Program::Node {
        cargo.args(["--features", "node"]);
    }
    shell::run(&mut cargo)
}

fn program(target: &Target, kind: &str) -> PathBuf {
    let at = folder().join("target").join(kind).join(triple()).join("release");
    at.join(target.program.name())
}

fn command(target: &Target, kind: &str) -> Command {
    let mut command = shell::command(program(target, kind));
    command.env("FUZZ_TARGET", target.name).current_dir(folder()).stdin(Stdio::null());
    command
}

/// Every target, as many at a time as there are processors.
fn attack(targets: &[&Target], effort: Effort, coverage: Option<&Coverage>) -> anyhow::Result<Vec<Report>> {
    let next = Mutex::new(0);
    let reports = Mutex::new(vec![Report::default(); targets.len()]);
    let work = || -> anyhow::Result<()> {
        loop {
            let index = {
                let mut next = next.lock().map_err(|_| anyhow::anyhow!("another target panicked"))?;
                *next += 1;
                *next - 1
            };
            let Some(target) = targets.get(index) else { return Ok(()) };
            let report = attack_one(target, effort, coverage)?;
            reports.lock().map_err(|_| anyhow::anyhow!("another target panicked"))?[index] = report;
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let started: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        started.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    reports.into_inner().map_err(|_| anyhow::anyhow!("a target panicked"))
}

/// Rounds until the effort is made; several rounds are reported as one.
fn attack_one(target: &Target, effort: Effort, coverage: Option<&Coverage>) -> anyhow::Result<Report> {
    let lines = || coverage.map_or(Ok(None), |coverage| coverage.lines(target));
    let mut executions = 0;
    let mut before = match effort {
        Effort::Seconds(_) => None,
        Effort::Executions(_) => lines()?,
    };
    loop {
        let mut report = round(target, effort)?;
        executions += report.executions;
        (report.executions, report.lines) = (executions, lines()?);
        let grown = report.lines.zip(before).is_some_and(|(now, before)| now.reached > before.reached);
        if report.finding.is_some() || !grown {
            return Ok(report);
        }
        before = report.lines;
    }
}

fn round(target: &Target, effort: Effort) -> anyhow::Result<Report> {
    let (kept, findings) = (kept(target), folder().join("artifacts").join(target.name));
    for folder in [&kept, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut command = command(target, "guided");
    command
        .arg(match effort {
            Effort::Seconds(seconds) => format!("-max_total_time={seconds}"),
            Effort::Executions(executions) => format!("-runs={executions}"),
        })
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=2048"])
        .arg(kept)
        .arg(corpus(target));
    eprintln!("+ FUZZ_TARGET={} {}", target.name, shell::shown(&command));
    let output = command.output().with_context(|| format!("starting the target {}", target.name))?;
    Ok(report(target.name, output.status.success(), &String::from_utf8_lossy(&output.stderr)))
}

/// What libFuzzer said.
fn report(target: &str, good: bool, said: &str) -> Report {
    let number = |line: &str, before: &str| -> Option<u64> {
        line.split_once(before)?.1.split_whitespace().next()?.split('/').next()?.parse().ok()
    };
    let mut report = Report::default();
    for line in said.lines() {
        let stat = |name: &str| line.strip_prefix(name).and_then(|rest| rest.trim().parse().ok());
        report.executions = stat("stat::number_of_executed_units:").unwrap_or(report.executions);
        report.per_second = stat("stat::average_exec_per_sec:").unwrap_or(report.per_second);
        report.edges = number(line, " cov: ").unwrap_or(report.edges);
        report.inputs = number(line, " corp: ").unwrap_or(report.inputs);
    }
    if !good {
        let panic = said.lines().skip_while(|line| !line.contains("panicked at")).take(4);
        let place =
            said.lines().find(|line| line.contains("Test unit written to")).unwrap_or("no input was kept");
        report.finding = Some(format!("{target}: {place}\n  {}", panic.collect::<Vec<_>>().join("\n  ")));
    }
    report
}

/// Counts the lines of parsers that all known inputs together reach, with programs that have counters of source
/// regions.
struct Coverage {
    profdata: PathBuf,
    cov: PathBuf,
}

impl Coverage {
    /// Builds the programs of `targets`; `None` without the tools.
    fn of(targets: &[&Target]) -> anyhow::Result<Option<Coverage>> {
        let Some(coverage) = Coverage::tools()? else {
            println!(
                "SKIPPED coverage: no llvm-profdata and llvm-cov of the compiler's LLVM (Debian: llvm-NN, rustup: llvm-tools)"
            );
            return Ok(None);
        };
        for program in [Program::Pure, Program::Node] {
            if targets.iter().any(|target| target.program == program) {
                build(program, MEASURED, "measured")?;
            }
        }
        Ok(Some(coverage))
    }

    /// `llvm-profdata` and `llvm-cov` as new as the compiler's LLVM, installed if they are missing.
    fn tools() -> anyhow::Result<Option<Coverage>> {
        let version = shell::output(shell::command("rustc").arg("-vV"))?;
        let major = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next());
        let major: u32 = major.and_then(|text| text.parse().ok()).context("rustc -vV names no LLVM")?;
        let sysroot = shell::output(shell::command("rustc").args(["--print", "sysroot"]))?;
        let shipped = Path::new(sysroot.trim()).join("lib/rustlib").join(triple()).join("bin");
        let found = || {
            let debian =
                (major..major + 4).map(|version| PathBuf::from(format!("/usr/lib/llvm-{version}/bin")));
            let at =
                std::iter::once(shipped.clone()).chain(debian).find(|at| at.join("llvm-cov").is_file())?;
            Some(Coverage { profdata: at.join("llvm-profdata"), cov: at.join("llvm-cov") })
        };
        Ok(found().or_else(|| {
            setup::install(&[&format!("llvm-{major}")], "lines are not counted");
            found()
        }))
    }

    /// Runs every known input of `target`.
    fn lines(&self, target: &Target) -> anyhow::Result<Option<Lines>> {
        let profiles = folder().join("target/profiles").join(target.name);
        let _ = fs::remove_dir_all(&profiles);
        fs::create_dir_all(&profiles).with_context(|| format!("making {}", profiles.display()))?;
        let inputs: Vec<PathBuf> = [kept(target), corpus(target)].iter().flat_map(files).collect();
        for (batch, inputs) in inputs.chunks(1_000).enumerate() {
            let profile = profiles.join(format!("{batch}.profraw"));
            shell::output(command(target, "measured").env("LLVM_PROFILE_FILE", profile).args(inputs))?;
        }
        let merged = profiles.join("merged");
        let raw: Vec<PathBuf> = files(&profiles).filter(|path| path.extension().is_some()).collect();
        shell::output(
            shell::command(&self.profdata).args(["merge", "-sparse", "-o"]).arg(&merged).args(raw),
        )?;
        let mut export = shell::command(&self.cov);
        export.args(["export", "-summary-only", "-instr-profile"]).arg(&merged);
        export.arg(program(target, "measured")).args(target.sources);
        let said: Value = serde_json::from_str(&shell::output(&mut export)?).context("reading llvm-cov")?;
        let lines = &said["data"][0]["totals"]["lines"];
        let (all, reached) = (lines["count"].as_u64(), lines["covered"].as_u64());
        Ok(all.zip(reached).filter(|(all, _)| *all > 0).map(|(all, reached)| Lines { reached, all }))
    }
}

fn files(folder: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder.as_ref()).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// Replaces the committed inputs of `target` that have no name of their own by the fewest that together with the others
/// reach what all known ones reach.
fn minimise(target: &Target) -> anyhow::Result<()> {
    let fewest = folder().join("target/fewest").join(target.name);
    let _ = fs::remove_dir_all(&fewest);
    fs::create_dir_all(&fewest).with_context(|| format!("making {}", fewest.display()))?;
    // What has a name of its own was put there for a reason, findings above all.
    let (made, named): (Vec<PathBuf>, Vec<PathBuf>) = files(corpus(target)).partition(|path| is_made(path));
    copy(&named, &fewest)?;
    let mut merge = command(target, "guided");
    merge.args(["-set_cover_merge=1", "-use_counters=0"]).arg(&fewest).arg(corpus(target)).arg(kept(target));
    shell::output(&mut merge)?;
    for old in made {
        fs::remove_file(&old).with_context(|| format!("removing {}", old.display()))?;
    }
    let new: Vec<PathBuf> = files(&fewest).filter(|path| is_made(path)).collect();
    copy(&new, &corpus(target))
}

/// Whether libFuzzer gave the input its name, the SHA-1 of its bytes.
fn is_made(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn copy(files: &[PathBuf], into: &Path) -> anyhow::Result<()> {
    for file in files {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(file, into.join(name)).with_context(|| format!("copying {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_sources() {
        let mut folders: Vec<String> = files(folder().join("corpus"))
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        folders.sort();
        names.sort_unstable();
        assert_eq!(folders, names);
        for source in TARGETS.iter().flat_map(|target| target.sources) {
            assert!(shell::root().join(source).exists(), "{source}");
        }
    }

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let said = "#5\tINITED cov: 12 ft: 30 corp: 4/10b exec/s: 0 rss: 30Mb\n\
            #900\tDONE   cov: 193 ft: 939 corp: 313/35Kb lim: 653 exec/s: 39328 rss: 29Mb\n\
            stat::number_of_executed_units: 275301\nstat::average_exec_per_sec:     39328\n";
        let good = report("sse", true, said);
        let seen = (good.executions, good.per_second, good.inputs, good.edges, good.finding);
        assert_eq!(seen, (275_301, 39_328, 313, 193, None));
        let bad = "thread panicked at a.rs:1:2:\nwhy\nTest unit written to x/crash-1\n";
        let finding = report("sse", false, bad).finding.unwrap_or_default();
        assert!(finding.contains("x/crash-1") && finding.contains("why"), "{finding}");
    }
}
