//! Starting other programs from the repository's root, and saying what was started.
//!
//! Every command is printed before it runs, so that a reader can repeat it by hand. Nothing here goes through a
//! shell's quoting.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::Context;

/// The repository's root: the directory above this package.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that started us, at the repository's root.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program, at the repository's root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Runs `command` with our output; an error carries its exit code.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = shown(command);
    eprintln!("+ {shown}");
    let status = command.status().with_context(|| format!("starting `{shown}`"))?;
    if status.success() { Ok(()) } else { Err(Failed { shown, status }.into()) }
}

/// Runs `command` silently and returns what it printed; an error carries its exit code and its messages.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{shown}`"))?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(anyhow::Error::from(Failed { shown, status: output.status }).context(messages));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed bytes that are not UTF-8"))
}

/// Whether `program` is found on `PATH` (or is a path to a file).
pub(crate) fn exists(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// The exit code that `err` asks for: that of the program that failed, else 1.
pub(crate) fn exit_code_of(err: &anyhow::Error) -> ExitCode {
    let code =
        err.chain().find_map(|cause| cause.downcast_ref::<Failed>()).and_then(|failed| failed.status.code());
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// A program that we started ended badly.
#[derive(Debug)]
struct Failed {
    shown: String,
    status: ExitStatus,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with {}", self.shown, self.status)
    }
}

impl std::error::Error for Failed {}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut text = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
