//! Who ran it and who owns it: containers and processes that are gone before anyone can look.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use e2e::clients::{self, Call, Client};
use e2e::daemon::{Daemon, PATIENCE, pause};
use e2e::needs_kernel;
use e2e::toolbox::{Toolbox, which, workspace};
use serde_json::Value;

use e2e::lab::Lab;

/// A containerd of this test's own.
struct Containerd {
    child: Child,
    socket: String,
}

impl Containerd {
    fn start(dir: &Path) -> Containerd {
        let socket = dir.join("containerd.sock").display().to_string();
        let config = dir.join("containerd.toml");
        let text = format!(
            "version = 2\nroot = \"{root}\"\nstate = \"/run/containerd\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{socket}\"\n",
            root = dir.join("containerd-root").display(),
        );
        std::fs::write(&config, text).expect("a configuration");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("containerd");
        let containerd = Containerd { child, socket };
        let started = std::time::Instant::now();
        while !containerd.ctr(&["version"]).status().is_ok_and(|status| status.success()) {
            assert!(started.elapsed() < PATIENCE, "containerd does not answer");
            pause();
        }
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(&self.socket)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_call_from_a_container_names_the_container_and_its_owner() {
    needs_kernel!("a_call_from_a_container_names_the_container_and_its_owner");
    for tool in ["containerd", "ctr", "runc"] {
        if which(tool).is_err() {
            e2e::ring::skip(
                "a_call_from_a_container_names_the_container_and_its_owner",
                &format!("{tool} is not installed"),
            );
            return;
        }
    }
    let lab = Lab::new(&["http/1.1"]);
    let world = lab.at_distance(std::time::Duration::from_millis(20));
    let containerd = Containerd::start(lab.path());
    let config = "[[owner]]\nmatch = { container = \"venturi-lab-*\" }\nteam = \"payments\"\nservice = \"assistant\"\ncost_centre = \"cc-42\"\n";
    let daemon = Daemon::start(lab.path(), config).expect("an armed daemon");
    for (number, cgroup, client) in
        [("1", "/venturi-lab/one", Client::Curl), ("2", "/venturi-lab/two", Client::PythonOpenai)]
    {
        let id = format!("venturi-lab-{number}");
        // The host's own programs under a root of its own: a real container without an image registry.
        let root = lab.path().join(format!("root-{number}"));
        for folder in ["usr", "etc", "proc", "sys", "dev", "tmp", "run", "lab"] {
            std::fs::create_dir_all(root.join(folder)).expect("a root folder");
        }
        for link in ["bin", "lib", "lib64", "sbin"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).expect("a link");
        }
        let lines: Vec<String> =
            world.hosts.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        std::fs::write(root.join("etc/hosts"), lines.concat()).expect("a hosts file");
        std::fs::copy(&lab.world.ca, root.join("lab/ca.pem")).expect("a certificate");
        std::fs::write(root.join("etc/nsswitch.conf"), "hosts: files\n").expect("a resolver configuration");
        let mut mounts = vec![PathBuf::from("/usr"), workspace().join("tests/clients")];
        let program = match client {
            Client::PythonOpenai => {
                let python = Toolbox::get().python.as_ref().expect("Python with the SDKs");
                mounts.extend(prefixes(python));
                format!("{} {}/tests/clients/client.py", python.display(), workspace().display())
            }
            _ => format!("sh {}/tests/clients/curl.sh", workspace().display()),
        };
        // A mount below another's target needs that one first, and what lies below `/usr` is there already.
        mounts.retain(|path| path == Path::new("/usr") || !path.starts_with("/usr"));
        mounts.sort();
        let calls: Vec<Call> = [1, 2]
            .map(|turn| Call { input: container_call(number, turn), ..Call::new("chat", false, turn) })
            .into();
        std::fs::write(root.join("lab/calls"), clients::orders(&calls)).expect("the calls");
        let script = format!("{program} {} < /lab/calls > /lab/reports", client.mode());
        let network = format!("network:/proc/{}/ns/net", std::process::id());
        let binds = mounts.iter().map(|path| {
            std::fs::create_dir_all(root.join(path.strip_prefix("/").expect("absolute")))
                .expect("a mount point");
            format!("type=bind,src={path},dst={path},options=rbind:ro", path = path.display())
        });
        let binds: Vec<String> = binds.flat_map(|bind| ["--mount".to_owned(), bind]).collect();
        let run = containerd
            .ctr(&[
                "run",
                "--rm",
                // Not `--net-host`: that mounts the host's `/etc/hosts` over ours.
                "--with-ns",
                &network,
                "--cgroup",
                cgroup,
                "--env",
                "SSL_CERT_FILE=/lab/ca.pem",
                "--env",
                "CURL_CA_BUNDLE=/lab/ca.pem",
                "--env",
                "LAB_CURL=/usr/bin/curl",
            ])
            .args(binds)
            .args(["--rootfs", &root.display().to_string(), &id, "/bin/sh", "-c", &script])
            .status();
        let reports = std::fs::read_to_string(root.join("lab/reports")).unwrap_or_default();
        assert!(run.expect("ctr").success(), "the container failed: {reports}");
        assert_eq!(
            reports.matches("\"ok\": true").count() + reports.matches("\"ok\":true").count(),
            2,
            "{reports}"
        );
        let wanted = container_call(number, 2);
        let found =
            |records: &[Value]| records.iter().any(|record| record["usage"]["input_tokens"] == wanted);
        let records = daemon.calls_until(found).expect("the second call of the container");
        let record =
            records.iter().find(|record| record["usage"]["input_tokens"] == wanted).expect("just found");
        assert_eq!(record["workload"]["container_id"], id, "{record}");
        assert_eq!(record["owner"]["team"], "payments", "{record}");
        assert_eq!(record["owner"]["cost_centre"], "cc-42", "{record}");
        let confidence = record["confidence"].as_f64().expect("a number");
        assert!((0.80..=0.95).contains(&confidence), "{record}");
        assert_eq!(record["band"], "chargeback_eligible");
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// Input tokens of a container's call, by which its record is found.
fn container_call(container: &str, turn: u64) -> u64 {
    90_000 + container.parse::<u64>().expect("a number") * 10 + turn
}

/// Folders that `python` needs to run: its environment's and its installation's.
fn prefixes(python: &Path) -> Vec<PathBuf> {
    let print = "import sys; print(sys.prefix); print(sys.base_prefix)";
    let output = Command::new(python).args(["-c", print]).output().expect("Python");
    let mut folders: Vec<PathBuf> =
        String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
    folders.dedup();
    folders
}

/// A pod's container as the kubelet names it, on one hierarchy.
struct Leaf {
    dir: std::path::PathBuf,
    container: String,
}

impl Leaf {
    fn new(hierarchy: &str, digit: char) -> Leaf {
        let container = digit.to_string().repeat(64);
        let dir = Path::new(hierarchy)
            .join("kubepods/burstable/pod0f1e2d3c-1111-2222-3333-444455556666")
            .join(&container);
        std::fs::create_dir_all(&dir).expect("a cgroup");
        Leaf { dir, container }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // Children first; a group that is still in use stays.
        for dir in self.dir.ancestors().take(4) {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

#[test]
fn a_process_of_5_ms_is_attributed_to_its_container() {
    let name = "a_process_of_5_ms_is_attributed_to_its_container";
    needs_kernel!(name);
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|dir| Path::new(dir).join("cgroup.procs").exists());
    let v1 = Some("/sys/fs/cgroup/pids").filter(|dir| Path::new(dir).exists());
    let lab = Lab::new(&["http/1.1"]);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    for (kind, hierarchy, digit) in [("unified", unified, 'a'), ("v1 only", v1, 'b')] {
        let Some(hierarchy) = hierarchy else {
            eprintln!("SKIPPED {name}: no {kind} hierarchy here");
            continue;
        };
        let leaf = Leaf::new(hierarchy, digit);
        // bash looks the name up, connects and is gone; its parent lives on a little.
        let script = format!(
            "echo $$ > {}/cgroup.procs; for n in 1 2 3 4 5; do bash -c 'exec 3<>/dev/tcp/api.openai.com/443'; done; exec 3<&0; read line",
            leaf.dir.display()
        );
        let mut command = lab.world.command(lab.path(), Path::new("/bin/sh")).expect("a command");
        let mut child = command.args(["-c", &script]).stdin(Stdio::piped()).spawn().expect("a shell");
        let started = std::time::Instant::now();
        let in_container = |flow: &Value| flow["workload"]["container_id"] == leaf.container.as_str();
        loop {
            let flows = daemon.json_lines(&["flows", "--json", "--limit", "1000"]).expect("flows");
            if flows.iter().filter(|flow| in_container(flow)).count() >= 5 {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{kind}: {flows:?}\n{}", daemon.log());
            pause();
        }
        drop(child.stdin.take());
        child.wait().expect("its end");
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}
