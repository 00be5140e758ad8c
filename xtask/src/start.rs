//! Starting our programs: the daemon for a newcomer, the demo, the gate, and the tools of other packages.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::build::{self, Profile};
use crate::{node, shell};

/// Arguments that are handed on as they are.
#[derive(clap::Args)]
pub(crate) struct PassedOn {
    /// Handed on; `--help` shows what is understood
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// How to start the daemon.
#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Where state, keys and socket go; by default a directory that is kept between runs
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Show a recorded capture even where live capture is possible
    #[arg(long)]
    replay: bool,
    /// Handed on to venturid
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Which objects to judge.
#[derive(clap::Args)]
pub(crate) struct GateArgs {
    /// Objects; by default those that are committed
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Builds and becomes the daemon.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    build::programs(Profile::Release, &[])?;
    let dir = match &args.dir {
        Some(dir) => std::path::absolute(dir).with_context(|| format!("the place of {}", dir.display()))?,
        None => default_dir()?,
    };
    own_directory(&dir)?;
    let socket = dir.join("venturid.sock");
    let mut daemon = shell::command(Profile::Release.program("venturid"));
    daemon.arg("--state-dir").arg(dir.join("state")).arg("--key-dir").arg(dir.join("state.keys"));
    daemon.arg("--socket").arg(&socket);
    // No configuration of this machine is used by accident: what is not given is the default.
    let config = dir.join("config.toml");
    if !config.exists() {
        fs::write(&config, "").with_context(|| format!("writing {}", config.display()))?;
    }
    daemon.arg("--config").arg(&config);
    let blocked = node::capture_blocked();
    match &blocked {
        Some(why) => {
            eprintln!("\nLive capture is not possible: {why}\nA recorded capture is shown instead.\n")
        }
        None if args.replay => eprintln!("\nA recorded capture is shown, as asked for.\n"),
        None => eprintln!("\nWatching this node's calls to AI providers.\n"),
    }
    if blocked.is_some() || args.replay {
        daemon.arg("--replay");
    }
    daemon.args(&args.arguments);
    let venturi = Profile::Release.program("venturi");
    eprintln!(
        "In another terminal:\n  {0} --socket {1} calls --follow\n  {0} --socket {1} doctor\n",
        venturi.display(),
        socket.display()
    );
    eprintln!("+ {}", shell::shown(&daemon));
    Err(daemon.exec()).context("starting venturid")
}

/// Builds and runs the demo.
pub(crate) fn demo() -> anyhow::Result<()> {
    build::programs(Profile::Release, &[("e2e", "demo")])?;
    shell::run(&mut shell::command(Profile::Release.program("demo")))
}

/// Judges objects with the gate of the attacher: the same function that runs before anything is loaded.
pub(crate) fn gate(args: &GateArgs) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["build", "--quiet", "--profile", Profile::Ci.name()]);
    command.args(["--package", "attach", "--bin", "venturi-attach"]);
    shell::run(&mut command)?;
    judge(&args.files)
}

/// Judges objects with an attacher that is built already.
pub(crate) fn judge(files: &[PathBuf]) -> anyhow::Result<()> {
    let committed;
    let files = if files.is_empty() {
        committed = committed_objects()?;
        &committed
    } else {
        files
    };
    let here = std::env::current_dir().context("the current directory")?;
    let mut command = shell::command(Profile::Ci.program("venturi-attach"));
    command.arg("gate").args(files).current_dir(here);
    shell::run(&mut command)
}

/// The BPF objects that are part of the repository.
fn committed_objects() -> anyhow::Result<Vec<PathBuf>> {
    let listed = shell::output(shell::command("git").args(["ls-files", "ebpf/*.o"]))?;
    let objects: Vec<PathBuf> = listed.lines().map(|line| shell::root().join(line)).collect();
    if objects.is_empty() {
        bail!("no BPF object is committed below ebpf/: `cargo xtask probes` builds them");
    }
    Ok(objects)
}

/// Runs the generator of the vendored price catalogue.
pub(crate) fn catalogue(args: &PassedOn) -> anyhow::Result<()> {
    tool(Profile::Release, "e2e", "catalogue", &args.arguments)
}

/// Runs the conformance tool.
pub(crate) fn conformance(args: &PassedOn) -> anyhow::Result<()> {
    tool(Profile::Ci, "e2e", "conformance", &args.arguments)
}

/// Builds the programs that are measured and runs the benchmarks beside them.
pub(crate) fn bench(args: &PassedOn) -> anyhow::Result<()> {
    build::programs(Profile::Release, &[("bench", "bench")])?;
    shell::run(shell::command(Profile::Release.program("bench")).args(&args.arguments))
}

fn tool(profile: Profile, package: &str, name: &str, arguments: &[OsString]) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["build", "--quiet", "--profile", profile.name(), "--package", package, "--bin", name]);
    shell::run(&mut command)?;
    let here = std::env::current_dir().context("the current directory")?;
    shell::run(shell::command(profile.program(name)).args(arguments).current_dir(here))
}

/// A directory that survives between runs and that the daemon can still reach after it has given up root.
fn default_dir() -> anyhow::Result<PathBuf> {
    if node::is_root() {
        return Ok(PathBuf::from("/var/tmp/venturi-run"));
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let state = state.or_else(|| home.map(|home| home.join(".local/state")));
    Ok(state.context("neither HOME nor XDG_STATE_HOME is set: say where with --dir")?.join("venturi-run"))
}

/// Makes `dir`, or makes sure that it is a directory of ours: in a shared place somebody else could have made it.
fn own_directory(dir: &Path) -> anyhow::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    if let Err(err) = fs::DirBuilder::new().mode(0o755).create(dir) {
        let meta = fs::symlink_metadata(dir).with_context(|| format!("making {}: {err}", dir.display()))?;
        let ours = fs::metadata("/proc/self").map(|me| me.uid()).context("reading /proc/self")?;
        if !meta.is_dir() || meta.uid() != ours {
            bail!("{} exists and is not a directory of ours: remove it or use --dir", dir.display());
        }
    }
    Ok(())
}
