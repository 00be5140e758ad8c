//! Processes in recorded trees, and real ones: this machine's, and containerd's.
//!
//! A [`World`] is a machine made of files; [`told`] says in a line all that is known of a process in it.

mod containerd;
mod places;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use abi::attacher::StateFile;
use abi::event::Task;
use meter::workload::{ProcessKey, Workload, WorkloadEvidence};
use tempfile::TempDir;

use super::{NoStateFiles, Resolver, Roots, StateFiles};

const ID: &str = "4f1e0c6b7d8a9e2f3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f809102";

/// A machine made of files.
struct World {
    dir: TempDir,
    version_1: bool,
    files: HashMap<(u32, String), String>,
}

impl World {
    fn new(version_1: bool) -> World {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["proc", "cgroup"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        fs::write(dir.path().join("passwd"), "root:x:0:0:::\napp:x:1000:1000:::\n").expect("a file");
        World { dir, version_1, files: HashMap::new() }
    }

    fn state_file(mut self, kind: StateFile, id: &str, json: &str) -> World {
        self.files.insert((kind as u32, id.to_owned()), json.to_owned());
        self
    }

    fn resolver(&self) -> Resolver {
        self.resolver_with(Arc::new(Files(self.files.clone())))
    }

    fn resolver_with(&self, files: Arc<dyn StateFiles>) -> Resolver {
        let roots = Roots {
            proc: self.dir.path().join("proc"),
            unified: Some(self.dir.path().join("cgroup")),
            version_1: self.version_1,
            passwd: self.dir.path().join("passwd"),
        };
        Resolver::with_roots(files, roots)
    }

    fn process(&self, pid: u32, parent: u32, comm: &str, uid: u32, cgroup: &str) {
        let dir = self.dir.path().join("proc").join(pid.to_string());
        fs::create_dir_all(&dir).expect("a directory");
        let stat =
            format!("{pid} ({comm}) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {} 0 0\n", start(pid));
        fs::write(dir.join("stat"), stat).expect("a file");
        fs::write(dir.join("status"), format!("Name:\t{comm}\nUid:\t{uid}\t0\t0\t0\n")).expect("a file");
        fs::write(dir.join("cgroup"), cgroup).expect("a file");
    }

    fn arguments(&self, pid: u32, arguments: &[&str]) {
        let path = self.dir.path().join("proc").join(pid.to_string()).join("cmdline");
        fs::write(path, arguments.iter().flat_map(|text| [text, "\0"]).collect::<String>()).expect("a file");
    }

    fn ends(&self, pid: u32) {
        fs::remove_dir_all(self.dir.path().join("proc").join(pid.to_string())).expect("it lived");
    }

    /// Makes a group of the unified hierarchy and gives its id.
    fn group(&self, path: &str) -> u64 {
        let dir = self.dir.path().join("cgroup").join(path);
        fs::create_dir_all(&dir).expect("directories");
        fs::metadata(dir).expect("just made").ino()
    }
}

/// Every process of a world starts at a time of its own.
fn start(pid: u32) -> u64 {
    u64::from(pid) * 100
}

fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid, start_ticks: start(pid) }
}

fn task(pid: u32, parent: u32, group: u64, comm: &str) -> Task {
    let mut name = [0; 16];
    name[..comm.len()].copy_from_slice(comm.as_bytes());
    Task {
        start_ns: start(pid) * 10_000_000 + 4_711,
        cgroup_id: group,
        exe_dev: 0,
        exe_ino: 0,
        tgid: pid,
        tid: pid,
        uid: 1000,
        parent_tgid: parent,
        comm: name,
    }
}

struct Files(HashMap<(u32, String), String>);

impl StateFiles for Files {
    fn open(&self, kind: StateFile, id: &str) -> io::Result<Box<dyn Read>> {
        let text = self.0.get(&(kind as u32, id.to_owned())).ok_or(io::ErrorKind::NotFound)?;
        let mut file = tempfile::tempfile()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(Box::new(file))
    }

    fn open_maps(&self, process: ProcessKey) -> io::Result<Box<dyn Read>> {
        let file = if process.pid == 11 { 77 } else { return Err(io::ErrorKind::NotFound.into()) };
        let mut maps = tempfile::tempfile()?;
        writeln!(maps, "55d0-55d4 r-xp 0 08:01 {file} /opt/agent")?;
        maps.rewind()?;
        Ok(Box::new(maps))
    }
}

/// One line per fact, so that a test shows everything that is known.
fn told(workload: &Workload) -> String {
    let Workload { process: _, exe, comm, uid, user, cgroup: _, container, pod, unit, labels, evidence } =
        workload;
    let mut facts = vec![evidence.as_str().to_owned()];
    let mut say = |name: &str, value: &Option<Box<str>>| {
        facts.extend(value.iter().map(|value| format!("{name}={value}")));
    };
    say("exe", exe);
    say("comm", comm);
    say("user", &user.clone().or(uid.map(|uid| uid.to_string().into())));
    say("unit", unit);
    if let Some(container) = container {
        say("container", &Some(container.id.chars().take(14).collect::<String>().into()));
        say("runtime", &Some(container.runtime.into()));
        say("name", &container.name);
        say("image", &container.image);
    }
    if let Some(pod) = pod {
        say("pod", &pod.name);
        say("namespace", &pod.namespace);
        say("pod_uid", &pod.uid);
    }
    facts.extend(labels.iter().map(|(key, value)| format!("{key}:{value}")));
    facts.join(" ")
}

#[test]
fn processes_that_are_gone_are_where_they_or_their_parents_were() {
    let in_container = format!("0::/kubepods/{ID}\n");
    let container = format!("container={} runtime=containerd", &ID[..14]);

    // The id in the event is enough where there is only the unified hierarchy.
    let world = World::new(false);
    let group = world.group(&format!("kubepods/{ID}"));
    let mut resolver = world.resolver();
    let gone = resolver.resolve(key(7), Some(&task(7, 3, group, "curl")), None);
    assert_eq!(told(&gone), format!("exact comm=curl user=1000 {container}"));
    // The group is gone too, but was seen.
    fs::remove_dir_all(world.dir.path().join("cgroup/kubepods")).expect("it was there");
    let gone = resolver.resolve(key(8), Some(&task(8, 3, group, "curl")), None);
    assert_eq!(told(&gone), format!("exact comm=curl user=1000 {container}"));

    // Read at exec.
    let world = World::new(true);
    let v1 = format!("4:pids:/kubepods/{ID}\n0::/\n");
    world.process(7, 3, "curl", 1000, &v1);
    let mut resolver = world.resolver();
    resolver.on_exec(&task(7, 3, 1, "curl"));
    world.ends(7);
    resolver.on_exit(key(7));
    assert_eq!(told(&resolver.resolve(key(7), None, None)), format!("exact comm=curl user=1000 {container}"));

    // Gone before its exec was seen: its living parent, which was moved after its own exec, is asked again.
    let world = World::new(true);
    world.process(3, 1, "sh", 1000, "0::/\n");
    let mut resolver = world.resolver();
    resolver.on_exec(&task(3, 1, 1, "sh"));
    world.process(3, 1, "sh", 1000, &v1);
    resolver.on_fork(&task(3, 1, 1, "sh"), key(7));
    resolver.on_exec(&task(7, 3, 1, "curl"));
    assert_eq!(
        told(&resolver.resolve(key(7), None, None)),
        format!("lineage comm=curl user=1000 {container}")
    );

    // The whole family is gone: grandparent known from its exec.
    let world = World::new(true);
    world.process(3, 1, "sh", 1000, &v1);
    let mut resolver = world.resolver();
    resolver.on_exec(&task(3, 1, 1, "sh"));
    world.ends(3);
    resolver.on_fork(&task(3, 1, 1, "sh"), key(4));
    resolver.on_fork(&task(4, 3, 1, "sh"), key(5));
    assert_eq!(told(&resolver.resolve(key(5), None, None)), format!("lineage comm=sh user=1000 {container}"));

    // Nothing is inherited from those whose children are put elsewhere.
    for comm in ["systemd", "containerd-shim"] {
        let world = World::new(true);
        world.process(3, 1, comm, 0, &in_container);
        let gone = world.resolver().resolve(key(7), Some(&task(7, 3, 1, "curl")), None);
        assert_eq!(told(&gone), "unknown comm=curl user=app");
    }
    assert_eq!(told(&World::new(true).resolver().resolve(key(7), None, None)), "unknown");
}

#[test]
fn a_process_is_its_number_and_its_start() {
    let world = World::new(false);
    world.process(7, 3, "old", 0, "0::/system.slice/old.service\n");
    let mut resolver = world.resolver();
    resolver.on_exec(&task(7, 3, 1, "old"));
    let other = ProcessKey { pid: 7, start_ticks: 5 };
    assert_eq!(told(&resolver.resolve(other, None, None)), "unknown");
    let any = ProcessKey { pid: 7, start_ticks: 0 };
    let workload = world.resolver().resolve(any, None, None);
    assert_eq!(workload.process, key(7));
    assert_eq!(told(&workload), "exact comm=old user=root unit=old.service");
}

#[test]
fn a_new_program_is_a_new_answer() {
    let world = World::new(false);
    world.process(7, 3, "sh", 1000, "0::/\n");
    let mut resolver = world.resolver();
    assert_eq!(told(&resolver.resolve(key(7), None, Some("/bin/sh"))), "exact exe=/bin/sh comm=sh user=app");
    world.process(7, 3, "curl", 1000, "0::/\n");
    resolver.on_exec(&task(7, 3, 1, "curl"));
    assert_eq!(told(&resolver.resolve(key(7), None, None)), "exact comm=curl user=app");
    assert_eq!(
        told(&resolver.resolve(key(7), None, Some("/usr/bin/curl"))),
        "exact exe=/usr/bin/curl comm=curl user=app"
    );
    world.ends(7);
    resolver.on_exit(key(7));
    assert_eq!(
        told(&resolver.resolve(key(7), None, None)),
        "exact exe=/usr/bin/curl comm=curl user=app",
        "remembered for a grace"
    );
}

#[test]
fn programs_have_paths_also_when_they_are_gone() {
    let world = World::new(false);
    let mut resolver = world.resolver();
    let of_program = |pid| Task { exe_dev: 8 << 20 | 1, exe_ino: 77, ..task(pid, 3, 1, "agent") };
    let gone = resolver.resolve(key(10), Some(&of_program(10)), None);
    assert_eq!(told(&gone), "unknown comm=agent user=app");
    world.process(11, 3, "agent", 1000, "0::/\n");
    let living = resolver.resolve(key(11), Some(&of_program(11)), None);
    assert_eq!(told(&living), "exact exe=/opt/agent comm=agent user=app");
    let gone = resolver.resolve(key(12), Some(&of_program(12)), None);
    assert_eq!(told(&gone), "unknown exe=/opt/agent comm=agent user=app");
}

/// Answers everything at the second time only.
struct Slow {
    files: Files,
    asked: Mutex<HashSet<String>>,
    deferred: AtomicU64,
}

impl Slow {
    fn again(&self, question: String) -> io::Result<()> {
        if self.asked.lock().expect("no panic").insert(question) {
            self.deferred.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }
}

impl StateFiles for Slow {
    fn open(&self, kind: StateFile, id: &str) -> io::Result<Box<dyn Read>> {
        self.again(format!("{} {id}", kind as u32)).and_then(|()| self.files.open(kind, id))
    }

    fn open_maps(&self, process: ProcessKey) -> io::Result<Box<dyn Read>> {
        self.again(format!("{process:?}")).and_then(|()| self.files.open_maps(process))
    }

    fn deferred(&self) -> u64 {
        self.deferred.load(Ordering::Relaxed)
    }
}

/// What is put off is there at the next question, also if the process is gone by then.
#[test]
fn names_may_come_later() {
    let json = r#"{"annotations":{"nerdctl/name":"job"},"linux":{"cgroupsPath":"/lab/one"}}"#;
    for (cgroup, namespaced) in [
        ("/lab/one".to_owned(), "default/lab-1".to_owned()),
        (format!("/kubepods/{ID}"), format!("default/{ID}")),
    ] {
        let world = World::new(true).state_file(StateFile::ContainerdBundle, &namespaced, json);
        world.process(2, 1, "containerd-shim", 0, "0::/\n");
        world.arguments(2, &["/usr/bin/containerd-shim-runc-v2", "-namespace", "default", "-id", "lab-1"]);
        world.process(11, 2, "agent", 0, &format!("4:pids:{cgroup}\n0::/\n"));
        let files = Files(world.files.clone());
        let slow = Slow { files, asked: Mutex::default(), deferred: AtomicU64::new(0) };
        let mut resolver = world.resolver_with(Arc::new(slow));
        let first = resolver.resolve(key(11), None, None);
        assert_eq!((first.exe.as_deref(), first.evidence), (None, WorkloadEvidence::Exact));
        world.ends(11);
        resolver.on_exit(key(11));
        let second = resolver.resolve(key(11), None, None);
        assert_eq!((second.exe.as_deref(), second.evidence), (Some("/opt/agent"), WorkloadEvidence::Exact));
        let container = second.container.as_ref().expect("found");
        assert_eq!(container.name.as_deref(), Some("job"));
    }
}

#[test]
fn memory_is_bounded() {
    let mut resolver = World::new(true).resolver();
    for pid in 2..60_000 {
        resolver.on_fork(&task(1, 0, 1, "init"), key(pid));
    }
    assert!(resolver.processes.len() <= super::PROCESSES_MAX);
    assert!(resolver.ended.len() <= super::PROCESSES_MAX);
}

#[test]
fn this_process_is_resolved_on_this_machine() {
    let mut resolver = Resolver::new(Arc::new(NoStateFiles));
    let pid = std::process::id();
    let workload = resolver.resolve(ProcessKey { pid, start_ticks: 0 }, None, None);
    assert_eq!(workload.evidence, WorkloadEvidence::Exact);
    assert!(workload.process.start_ticks > 0 && workload.uid.is_some() && workload.comm.is_some());
    let parent = std::os::unix::process::parent_id();
    assert_eq!(resolver.resolve(ProcessKey { pid: parent, start_ticks: 0 }, None, None).process.pid, parent);
}
