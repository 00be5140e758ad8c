//! The real daemon in folders of its own, and the real command line asking it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

/// Longest wait for a condition, before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The folder with `venturid`, `venturi-attach` and `venturi`: beside the test binary, or `VENTURI_BIN_DIR`.
pub fn bin_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("VENTURI_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let exe = std::env::current_exe().context("the path of this executable")?;
    let dir = exe.parent().context("its folder")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("its parent")? } else { dir };
    for name in ["venturid", "venturi-attach", "venturi"] {
        if !dir.join(name).exists() {
            bail!("{} is missing: `cargo xtask test` builds it first", dir.join(name).display());
        }
    }
    Ok(dir.to_path_buf())
}

/// A running daemon.
pub struct Daemon {
    /// The main process.
    pub child: Child,
    /// Its folders: `state`, `state.keys`, `socket`, `config.toml`, `log`.
    pub dir: PathBuf,
    bins: PathBuf,
}

impl Daemon {
    /// Starts the daemon on `dir` with `config` and waits until capture is armed and queries are served.
    pub fn start(dir: &Path, config: &str) -> anyhow::Result<Daemon> {
        Daemon::start_with(dir, config, &[])
    }

    /// As [`Daemon::start`], with more arguments.
    pub fn start_with(dir: &Path, config: &str, arguments: &[&str]) -> anyhow::Result<Daemon> {
        let mut daemon = Daemon::spawn(dir, config, arguments)?;
        daemon.wait_armed()?;
        Ok(daemon)
    }

    /// Starts the daemon without waiting.
    pub fn spawn(dir: &Path, config: &str, arguments: &[&str]) -> anyhow::Result<Daemon> {
        Daemon::spawn_under(&[], dir, config, arguments)
    }

    /// As [`Daemon::spawn`], by a command that ends in executing what follows it, in the same process.
    pub fn spawn_under(
        wrapper: &[&str],
        dir: &Path,
        config: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Daemon> {
        let bins = bin_dir()?;
        let file = dir.join("config.toml");
        std::fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        let venturid = bins.join("venturid");
        let mut words = wrapper.iter().map(std::ffi::OsStr::new).chain([venturid.as_os_str()]);
        let child = Command::new(words.next().context("a program")?)
            .args(words)
            .arg("--config")
            .arg(&file)
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--socket")
            .arg(dir.join("socket"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .context("starting venturid")?;
        Ok(Daemon { child, dir: dir.to_path_buf(), bins })
    }

    /// Waits until `venturi status` exits with 0.
    pub fn wait_armed(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let output = self.venturi(&["status"])?;
            if output.status.success() {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || started.elapsed() > PATIENCE {
                bail!(
                    "not armed after {:?} (daemon: {ended:?}, status: {}): {}{}\nlog:\n{}",
                    started.elapsed(),
                    output.status,
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr),
                    self.log(),
                );
            }
            pause();
        }
    }

    /// Runs `venturi` with `arguments` against this daemon.
    pub fn venturi(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.venturi_command(arguments).output().context("running venturi")
    }

    /// A `venturi` command against this daemon, not yet started.
    pub fn venturi_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bins.join("venturi"));
        command.arg("--socket").arg(self.dir.join("socket")).args(arguments).stdin(Stdio::null());
        command
    }

    /// `venturi calls --json`, parsed.
    pub fn calls(&self) -> anyhow::Result<Vec<Value>> {
        self.json_lines(&["calls", "--json", "--limit", "100000"])
    }

    /// A `--json` query, parsed line by line.
    pub fn json_lines(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let output = self.venturi(arguments)?;
        if !output.status.success() {
            bail!(
                "venturi {arguments:?} ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let text = String::from_utf8(output.stdout)?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Asks for the calls until `enough` is satisfied, and returns them; fails with all of them after a while.
    pub fn calls_until(&self, enough: impl Fn(&[Value]) -> bool) -> anyhow::Result<Vec<Value>> {
        let started = Instant::now();
        loop {
            let calls = self.calls()?;
            if enough(&calls) {
                return Ok(calls);
            }
            if started.elapsed() > PATIENCE {
                let lines: Vec<String> = calls.iter().map(summary).collect();
                bail!(
                    "not what was waited for; {} calls:\n{}\nlog:\n{}",
                    calls.len(),
                    lines.join("\n"),
                    self.log()
                );
            }
            pause();
        }
    }

    /// What the daemon logged, its last 8 KB.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let mut from = text.len().saturating_sub(8_192);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text[from..].to_owned()
    }

    /// Sends `signal` to the main process.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> anyhow::Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, signal).context("signalling venturid")
    }

    /// Sends SIGTERM and waits for the end; returns the exit code.
    pub fn stop(mut self) -> anyhow::Result<i32> {
        self.signal(nix::sys::signal::Signal::SIGTERM)?;
        self.wait()
    }

    /// Waits for the end; returns the exit code.
    pub fn wait(&mut self) -> anyhow::Result<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return status.code().with_context(|| format!("venturid ended with {status}"));
            }
            if started.elapsed() > PATIENCE {
                bail!("venturid did not end\nlog:\n{}", self.log());
            }
            pause();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What tells one call from another, on one line.
fn summary(call: &Value) -> String {
    let text = |pointer: &str| call.pointer(pointer).map(Value::to_string).unwrap_or_default();
    let pointers = [
        "/started_at",
        "/workload/comm",
        "/workload/pid",
        "/host",
        "/dialect",
        "/usage/input_tokens",
        "/reason",
    ];
    pointers.map(text).join(" ")
}

/// Gives way between two looks at a condition that has a deadline.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(20));
}
