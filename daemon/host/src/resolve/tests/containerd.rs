//! Containers of a real containerd.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// The state files of this machine, opened as root.
struct RealFiles;

impl StateFiles for RealFiles {
    fn open(&self, kind: StateFile, id: &str) -> io::Result<Box<dyn Read>> {
        match kind {
            StateFile::ContainerdBundle => {
                let path = format!("/run/containerd/io.containerd.runtime.v2.task/{id}/config.json");
                Ok(Box::new(File::open(path)?))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open_maps(&self, process: ProcessKey) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(format!("/proc/{}/maps", process.pid))?))
    }
}

/// A containerd of the test's own, with containers that run busybox.
struct Containerd {
    child: Child,
    dir: TempDir,
}

impl Containerd {
    fn start() -> Result<Containerd, String> {
        for tool in ["containerd", "ctr", "runc", "busybox"] {
            let found = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.map_err(|error| format!("{tool}: {error}"))?;
        }
        if !nix::unistd::Uid::effective().is_root() {
            return Err("not root".into());
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let root = dir.path().join("rootfs/bin");
        fs::create_dir_all(&root).map_err(|error| error.to_string())?;
        fs::copy(which("busybox")?, root.join("busybox")).map_err(|error| error.to_string())?;
        let config = dir.path().join("config.toml");
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/sock\"\n",
            dir.path().display()
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let containerd = Containerd { child: command.spawn().map_err(|error| error.to_string())?, dir };
        let answers = || containerd.ctr(&["version"]).status().is_ok_and(|status| status.success());
        if until(answers) { Ok(containerd) } else { Err("containerd does not answer".into()) }
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.path().join("sock")).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts a container whose shell runs `script`; it ends when the guard is dropped.
    fn run(&self, id: &str, cgroup: Option<&str>, script: &str) -> Running {
        let rootfs = self.dir.path().join("rootfs").display().to_string();
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(cgroup.iter().flat_map(|path| ["--cgroup", path]));
        arguments.extend(["--rootfs", &rootfs, id, "/bin/busybox", "sh", "-c", script]);
        Running(self.ctr(&arguments).spawn().expect("ctr starts"))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A container's client: it ends with its input.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn which(tool: &str) -> Result<std::path::PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|file| file.is_file());
    found.ok_or_else(|| format!("{tool} is not installed"))
}

/// Asks until the answer is yes, for ten seconds at most.
fn until(mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        if done() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// Living processes whose command line ends with `word`.
fn processes_with(word: &str) -> Vec<u32> {
    let named = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        line.strip_suffix(b"\0")?.ends_with(word.as_bytes()).then_some(pid)
    };
    fs::read_dir("/proc").expect("procfs").flatten().filter_map(named).collect()
}

#[test]
fn containers_of_a_real_containerd_are_named() {
    let name = "containers_of_a_real_containerd_are_named";
    let containerd = match Containerd::start() {
        Ok(containerd) => containerd,
        Err(why) => {
            println!("SKIPPED {name}: {why}");
            assert!(std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none(), "containerd is required: {why}");
            return;
        }
    };
    let pid = std::process::id();
    let check = |id: &str, cgroup: Option<&str>, expected: &str| {
        let word = format!("{id}-marker");
        // A shell that waits for its input, and one process that the test looks for.
        let script = format!("/bin/busybox sh -c 'read line; : {word}' {word}; true");
        let running = containerd.run(id, cgroup, &script);
        let mut found = None;
        let mut resolver = Resolver::new(Arc::new(RealFiles));
        let in_container = || {
            found = processes_with(&word).into_iter().find_map(|pid| {
                let workload = resolver.resolve(ProcessKey { pid, start_ticks: 0 }, None, None);
                workload.container.is_some().then_some(workload)
            });
            found.is_some()
        };
        assert!(until(in_container), "{id}: no process of the container was found");
        let workload = found.expect("just found");
        let container = workload.container.clone().expect("just checked");
        assert_eq!((&*container.id, container.runtime), (expected, "containerd"), "{workload:?}");
        assert_eq!(workload.evidence, WorkloadEvidence::Exact);
        assert_eq!(workload.exe.as_deref(), Some("/bin/busybox"));

        // A child of 5 ms: only its parent can still be looked at.
        let parent = workload.process;
        let mut event = task(parent.pid, 0, 1, "busybox");
        event.start_ns = parent.start_ticks * 10_000_000;
        let mut child = Command::new("true").spawn().expect("a process");
        let gone = child.id();
        child.wait().expect("its end");
        let mut resolver = Resolver::new(Arc::new(RealFiles));
        resolver.on_fork(&event, ProcessKey { pid: gone, start_ticks: u64::MAX });
        let workload = resolver.resolve(ProcessKey { pid: gone, start_ticks: u64::MAX }, None, None);
        assert_eq!(workload.evidence, WorkloadEvidence::Lineage);
        assert_eq!(workload.container.as_ref().map(|container| &*container.id), Some(expected));
        drop(running);
    };
    let long = format!("{pid:064x}");
    check(&long, None, &long);
    let short = format!("venturi-resolve-{pid}");
    check(&short, None, &short);
    let chosen = format!("venturi-chosen-{pid}");
    check(&chosen, Some(&format!("/venturi-lab-{pid}/one")), &chosen);
}
