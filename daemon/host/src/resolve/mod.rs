//! Process to workload: who ran it, from what the kernel and the container runtimes say.
//!
//! One [`Resolver`] belongs to one thread. It is told of exec, fork and exit as the kernel's events come in, and asked
//! for the workload of a process, which may be gone by then. In the order of their worth: what `/proc` says of the living
//! process, what was read at its exec, the cgroup id that the kernel put into the event, what its parent says (evidence
//! `lineage`), nothing (`unknown`).
//!
//! On a node with only the unified hierarchy the cgroup id of the event is enough, and one read per *group* fills the
//! table. Where version 1 hierarchies exist the id says nothing about them, so `/proc/PID/cgroup` is read at each exec,
//! up to a budget.
//!
//! It needs no right: the files of `/proc` used are open to all, and state files of runtimes are opened by whoever
//! implements [`StateFiles`]. It never asks a runtime's socket or a network.

mod cgroups;
mod container;
mod exe;
mod identify;
mod proc;
mod users;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::event::Task;
use meter::workload::cgroup::{CgroupIdentity, parse_proc_cgroup};
use meter::workload::{Container, Pod, ProcessKey, Workload, WorkloadEvidence};

use cgroups::{Groups, unified_root};
use container::{Details, bundle_of, is_namespace, look_up};
pub use container::{NoStateFiles, StateFiles};
use exe::{FileNumber, path_in};
pub use identify::AttacherFiles;
use proc::{Live, Proc};
use users::Users;

/// Processes remembered, about 300 bytes each: 5 MB at most.
const PROCESSES_MAX: usize = 16 * 1024;
/// How long a process is remembered after its exit: its flows and exchanges may end later.
const GRACE: Duration = Duration::from_secs(30);
/// How long an answer about a living process holds: it may be moved to another group.
const FRESH: Duration = Duration::from_secs(2);
/// Ancestors looked at for a process that is gone.
const LINEAGE_MAX: usize = 8;
/// Command names of processes whose children are put into groups of their own.
const STARTERS: [&str; 5] = ["systemd", "containerd-shim", "conmon", "dockerd", "runc"];
/// Ancestors looked at for a container's shim.
const ANCESTORS_MAX: usize = 32;
/// Containers remembered.
const CONTAINERS_MAX: usize = 2 * 1024;
/// Programs remembered.
const PROGRAMS_MAX: usize = 4 * 1024;
/// How long the answer of a state file holds.
const PRESENT: Duration = Duration::from_secs(30);
/// How long a container without a state file is not looked up again.
const ABSENT: Duration = Duration::from_secs(2);
/// Reads of `/proc/PID/cgroup` at exec, per second, where version 1 hierarchies exist: 20 us each.
const EXEC_READS_PER_SECOND: u32 = 500;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// Mount of the unified cgroup hierarchy, if there is one.
    pub unified: Option<PathBuf>,
    /// True if processes may be in version 1 hierarchies.
    pub version_1: bool,
    /// `/etc/passwd`.
    pub passwd: PathBuf,
}

impl Roots {
    /// This machine's.
    pub fn of_this_machine() -> Roots {
        let proc = PathBuf::from("/proc");
        let mounts = proc::read_text_up_to(&proc.join("self/mounts"), 1 << 20).unwrap_or_default();
        let own = proc::read_text_up_to(&proc.join("self/cgroup"), 64 << 10).unwrap_or_default();
        Roots {
            unified: unified_root(&mounts),
            version_1: own.lines().any(|line| !line.starts_with("0::")),
            passwd: PathBuf::from("/etc/passwd"),
            proc,
        }
    }
}

/// Answers which workload a process belongs to.
pub struct Resolver {
    proc: Proc,
    version_1: bool,
    groups: Groups,
    users: Users,
    files: Arc<dyn StateFiles>,
    processes: HashMap<u32, Process>,
    ended: VecDeque<(Instant, ProcessKey)>,
    containers: HashMap<Box<str>, Lookup>,
    /// Containers, as `NAMESPACE/ID`, that were found by a path which does not name them.
    paths: HashMap<Box<str>, String>,
    /// Paths of programs, so that each is asked for once.
    programs: HashMap<FileNumber, Box<str>>,
    budget: Budget,
}

/// What is remembered of a process.
#[derive(Clone, Debug, Default)]
struct Process {
    start_ticks: u64,
    parent: u32,
    uid: Option<u32>,
    comm: Option<Box<str>>,
    exe: Option<Box<str>>,
    /// The file of its program.
    exe_file: Option<FileNumber>,
    /// Id in the unified hierarchy, as the kernel's last event has it; 0 unknown.
    group: u64,
    /// Read from `/proc/PID/cgroup` of this very process.
    identity: Option<Arc<CgroupIdentity>>,
    /// The container, as `NAMESPACE/ID`, of the shim among its ancestors.
    shim: Option<String>,
    answer: Option<(Instant, Arc<Workload>)>,
    exited: bool,
}

/// What came of looking for a container's state file.
struct Lookup {
    at: Instant,
    details: Option<Arc<Details>>,
}

impl Resolver {
    /// A resolver for this machine.
    pub fn new(files: Arc<dyn StateFiles>) -> Resolver {
        Resolver::with_roots(files, Roots::of_this_machine())
    }

    /// A resolver for the machine described by `roots`.
    pub fn with_roots(files: Arc<dyn StateFiles>, roots: Roots) -> Resolver {
        Resolver {
            proc: Proc(roots.proc),
            version_1: roots.version_1,
            groups: Groups::new(roots.unified),
            users: Users::new(roots.passwd),
            files,
            processes: HashMap::new(),
            ended: VecDeque::new(),
            containers: HashMap::new(),
            paths: HashMap::new(),
            programs: HashMap::new(),
            budget: Budget { second: Instant::now(), left: EXEC_READS_PER_SECOND },
        }
    }

    /// A process replaced its program: notes it, and reads its cgroup while it lives if the event cannot say it.
    pub fn on_exec(&mut self, task: &Task) {
        self.note(task);
        if let Some(process) = self.processes.get_mut(&task.tgid) {
            // Of the program that was replaced.
            (process.exe, process.answer, process.identity) = (None, None, None);
        }
        let known = !self.version_1 && (self.groups.knows(task.cgroup_id) || task.cgroup_id <= 1);
        if known || !self.budget.take() {
            return;
        }
        if let Some(live) = self.proc.read(task.tgid, start_ticks(task)) {
            let identity = Arc::new(parse_proc_cgroup(&live.cgroup));
            self.learn(task.cgroup_id, &identity);
            if let Some(process) = self.processes.get_mut(&task.tgid) {
                process.identity = Some(identity);
            }
        }
    }

    /// A process was made: it is where its parent is.
    pub fn on_fork(&mut self, parent: &Task, child: ProcessKey) {
        self.note(parent);
        let inherited = self.processes.get(&parent.tgid).cloned().unwrap_or_default();
        let process = Process {
            start_ticks: child.start_ticks,
            parent: parent.tgid,
            identity: None,
            answer: None,
            exited: false,
            ..inherited
        };
        self.insert(child.pid, process);
    }

    /// The last thread of a process ended: it is forgotten after a grace.
    pub fn on_exit(&mut self, key: ProcessKey) {
        if let Some(process) = self.find_mut(key) {
            process.exited = true;
            self.ended.push_back((Instant::now(), key));
        }
        self.forget_ended();
    }

    /// The workload of a process, with what the caller knows of it: `task` from a kernel event, `exe` the path of its
    /// executable. Never fails: what is not known is absent, and [`Workload::evidence`] says how it is known.
    pub fn resolve(&mut self, key: ProcessKey, task: Option<&Task>, exe: Option<&str>) -> Arc<Workload> {
        if let Some(task) = task.filter(|task| task.tgid == key.pid) {
            self.note(task);
        }
        let known = self.find_mut(key).map(|process| {
            if let Some(exe) = exe
                && process.exe.as_deref() != Some(exe)
            {
                process.exe = Some(exe.into());
                process.answer = None;
            }
            process.clone()
        });
        if let Some(Process { answer: Some((at, workload)), exited, .. }) = &known
            && (*exited || at.elapsed() < FRESH)
        {
            return workload.clone();
        }
        let live = self.proc.read(key.pid, key.start_ticks);
        // Not alive, but answered before: that answer was made while it lived.
        if let (None, Some(Process { answer: Some((_, workload)), .. })) = (&live, &known)
            && workload.evidence == WorkloadEvidence::Exact
        {
            return workload.clone();
        }
        let mut process = known.unwrap_or_default();
        let deferred = self.files.deferred();
        if process.exe.is_none() {
            process.exe = exe.map(Into::into).or_else(|| self.exe_of(key, &process, live.as_ref()));
        }
        let workload = Arc::new(self.work_out(key, &mut process, live.as_ref()));
        // An answer with a part put off is made again when it is asked for again.
        let complete = self.files.deferred() == deferred;
        process.answer = complete.then(|| (Instant::now(), workload.clone()));
        if process.start_ticks == 0 {
            process.start_ticks = workload.process.start_ticks;
        }
        self.insert(key.pid, process);
        workload
    }

    /// The path of a program seen before, else what the process has mapped.
    fn exe_of(&mut self, key: ProcessKey, process: &Process, live: Option<&Live>) -> Option<Box<str>> {
        if let Some(path) = process.exe_file.and_then(|file| self.programs.get(&file)) {
            return Some(path.clone());
        }
        let start_ticks = live.map_or(process.start_ticks.max(key.start_ticks), |live| live.start_ticks);
        let maps = self.files.open_maps(ProcessKey { start_ticks, ..key }).ok()?;
        let path = path_in(maps, process.exe_file)?;
        if let Some(file) = process.exe_file {
            if self.programs.len() >= PROGRAMS_MAX {
                self.programs.clear();
            }
            self.programs.insert(file, path.clone());
        }
        Some(path)
    }

    fn work_out(&mut self, key: ProcessKey, process: &mut Process, live: Option<&Live>) -> Workload {
        let mut evidence = WorkloadEvidence::Exact;
        let identity = match live {
            Some(live) => {
                let identity = Arc::new(parse_proc_cgroup(&live.cgroup));
                self.learn(process.group, &identity);
                process.identity = Some(identity.clone());
                process.parent = live.parent;
                process.uid = process.uid.or(live.uid);
                process.comm = Some(live.comm.clone());
                if identity.container_id.is_none() {
                    process.shim = from_shim(&self.proc, live.parent).or(process.shim.take());
                }
                Some(identity)
            }
            None => {
                process.shim = process.shim.take().or_else(|| from_shim(&self.proc, process.parent));
                self.identity_of_the_gone(process, &mut evidence)
            }
        };
        let Some(identity) = identity else {
            evidence = WorkloadEvidence::Unknown;
            return self.describe(key, process, live, None, evidence);
        };
        self.describe(key, process, live, Some(&identity), evidence)
    }

    /// The best of: read at exec, the kernel's cgroup id, the nearest ancestor that is known.
    fn identity_of_the_gone(
        &mut self,
        process: &Process,
        evidence: &mut WorkloadEvidence,
    ) -> Option<Arc<CgroupIdentity>> {
        let says_much =
            |identity: &Arc<CgroupIdentity>| identity.container_id.is_some() || identity.pod_uid.is_some();
        let own = process.identity.clone().or_else(|| self.groups.get(process.group));
        if let Some(own) =
            own.as_ref().filter(|own| says_much(own) || !self.version_1 || process.identity.is_some())
        {
            return Some(own.clone());
        }
        // The unified path may be silent about a container that only version 1 hierarchies know.
        let inherited = self.identity_of_ancestors(process.parent);
        if let Some(inherited) = inherited.filter(|inherited| own.is_none() || says_much(inherited)) {
            *evidence = WorkloadEvidence::Lineage;
            return Some(inherited);
        }
        own
    }

    fn identity_of_ancestors(&mut self, mut pid: u32) -> Option<Arc<CgroupIdentity>> {
        for _ in 0..LINEAGE_MAX {
            let known = self.processes.get(&pid).cloned();
            let start_ticks = known.as_ref().map_or(0, |known| known.start_ticks);
            let live = self.proc.read(pid, start_ticks);
            let comm = live.as_ref().map(|live| &*live.comm);
            let comm = comm.or(known.as_ref().and_then(|known| known.comm.as_deref()));
            // What these start is put elsewhere, and init adopts orphans: where they are says nothing of a child.
            let starter = |comm: &str| STARTERS.iter().any(|name| comm.starts_with(name));
            if pid <= 1 || comm.is_some_and(starter) {
                return None;
            }
            if let Some(live) = live {
                return Some(Arc::new(parse_proc_cgroup(&live.cgroup)));
            }
            let known = known?;
            if let Some(identity) = known.identity.or_else(|| self.groups.get(known.group)) {
                return Some(identity);
            }
            pid = known.parent;
        }
        None
    }

    fn describe(
        &mut self,
        key: ProcessKey,
        process: &Process,
        live: Option<&Live>,
        identity: Option<&CgroupIdentity>,
        evidence: WorkloadEvidence,
    ) -> Workload {
        let found = identity.and_then(|identity| self.container_of(identity, process, live));
        let (id, details) = match found {
            Some((id, details)) => (Some(id), details),
            None => (None, None),
        };
        let details = details.as_deref();
        let runtime = identity.and_then(|identity| identity.runtime);
        let container = id.map(|id| Container {
            // Only containerd's containers are found without their id in the path.
            runtime: runtime.unwrap_or("containerd"),
            // An id that a person chose is the name.
            name: details
                .and_then(|details| details.name.clone())
                .or_else(|| (!is_random(&id)).then(|| id.clone())),
            image: details.and_then(|details| details.image.clone()),
            id,
        });
        let pod_uid = identity
            .and_then(|identity| identity.pod_uid.clone())
            .or_else(|| details.and_then(|details| details.pod_uid.clone()));
        let pod_name = details.and_then(|details| details.pod_name.clone());
        let pod = (pod_uid.is_some() || pod_name.is_some()).then(|| Pod {
            uid: pod_uid,
            name: pod_name,
            namespace: details.and_then(|details| details.pod_namespace.clone()),
            controller: None,
        });
        let uid = process.uid.or_else(|| identity.and_then(|identity| identity.user_uid));
        // In a container the number belongs to the image's own list of users.
        let user = uid.filter(|_| container.is_none()).and_then(|uid| self.users.name(uid));
        Workload {
            process: ProcessKey {
                pid: key.pid,
                start_ticks: live.map_or(key.start_ticks, |live| live.start_ticks),
            },
            exe: process.exe.clone(),
            comm: process.comm.clone(),
            uid,
            user,
            cgroup: identity.map(|identity| identity.path.clone()).filter(|path| !path.is_empty()),
            unit: identity.filter(|_| container.is_none()).and_then(|identity| identity.unit.clone()),
            container,
            pod,
            labels: details.map(|details| details.labels.clone()).unwrap_or_default(),
            evidence,
        }
    }

    /// The container that a process is in, with its runtime's word on it if there is one.
    fn container_of(
        &mut self,
        identity: &CgroupIdentity,
        process: &Process,
        live: Option<&Live>,
    ) -> Option<(Box<str>, Option<Arc<Details>>)> {
        let path = &*identity.path;
        if let (Some(id), Some(runtime)) = (&identity.container_id, identity.runtime) {
            let files = self.files.clone();
            let details = self.cached(id, || look_up(&*files, runtime, id, path));
            return Some((id.clone(), details));
        }
        if path.len() <= 1 {
            return None;
        }
        // The path was chosen by hand. Which container it is: containerd's shim among the ancestors knows, or it was
        // found before, or the path has the form `/NAMESPACE/ID`. The bundle must confirm it.
        let text = live.map(|live| live.cgroup.as_str()).unwrap_or_default();
        let all = text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).chain([path]);
        let paths: Vec<&str> = all.filter(|path| path.len() > 1).collect();
        let candidates = [process.shim.clone(), self.paths.get(path).cloned(), from_path(path)];
        for namespaced in candidates.into_iter().flatten() {
            let files = self.files.clone();
            let details = self.cached(&namespaced, || bundle_of(&*files, &namespaced));
            if let Some(details) = details.filter(|details| details.covers(&paths)) {
                let id = namespaced.split_once('/').map_or(&*namespaced, |(_, id)| id).into();
                if self.paths.len() >= CONTAINERS_MAX {
                    self.paths.clear();
                }
                self.paths.insert(path.into(), namespaced);
                return Some((id, Some(details)));
            }
        }
        None
    }

    /// What is remembered of the container `name`, or what its state file says. An answer is renewed after a while, and
    /// what is absent asked for again: a state file may be written later than the process starts.
    fn cached(&mut self, name: &str, find: impl FnOnce() -> Option<Details>) -> Option<Arc<Details>> {
        let remembered = self.containers.get(name);
        if let Some(Lookup { at, details }) = remembered {
            let holds = if details.is_some() { PRESENT } else { ABSENT };
            if at.elapsed() < holds {
                return details.clone();
            }
        }
        // A container that is gone keeps what was known of it.
        let before = remembered.and_then(|lookup| lookup.details.clone());
        let deferred = self.files.deferred();
        let details = find().map(Arc::new).or(before);
        if self.files.deferred() != deferred {
            return details;
        }
        if self.containers.len() >= CONTAINERS_MAX {
            self.containers.clear();
        }
        self.containers.insert(name.into(), Lookup { at: Instant::now(), details: details.clone() });
        details
    }

    /// With version 1 hierarchies the path that was read may not be the one the id belongs to.
    fn learn(&mut self, group: u64, identity: &Arc<CgroupIdentity>) {
        if !self.version_1 {
            self.groups.learn(group, identity);
        }
    }

    /// Takes over what a kernel event says of the process in whose context it happened.
    fn note(&mut self, task: &Task) {
        let start_ticks = start_ticks(task);
        let same = |process: &Process| is_same(process.start_ticks, start_ticks);
        let mut process = self.processes.remove(&task.tgid).filter(same).unwrap_or_default();
        process.start_ticks = start_ticks.max(process.start_ticks);
        process.uid = Some(task.uid);
        process.exe_file = (task.exe_ino != 0).then_some((task.exe_dev, task.exe_ino)).or(process.exe_file);
        process.comm = comm(task).or(process.comm);
        if task.parent_tgid != 0 {
            process.parent = task.parent_tgid;
        }
        if process.group != task.cgroup_id {
            (process.group, process.identity, process.answer) = (task.cgroup_id, None, None);
        }
        self.insert(task.tgid, process);
    }

    fn insert(&mut self, pid: u32, process: Process) {
        if self.processes.len() >= PROCESSES_MAX {
            self.forget_ended();
            if self.processes.len() >= PROCESSES_MAX {
                // Exit events were lost: what still lives is read again when it is asked for.
                self.processes.clear();
                self.ended.clear();
            }
        }
        self.processes.insert(pid, process);
    }

    fn find_mut(&mut self, key: ProcessKey) -> Option<&mut Process> {
        let same = |process: &&mut Process| is_same(process.start_ticks, key.start_ticks);
        self.processes.get_mut(&key.pid).filter(same)
    }

    fn forget_ended(&mut self) {
        let full = self.processes.len() >= PROCESSES_MAX;
        while let Some((at, key)) = self.ended.front().copied() {
            if !full && at.elapsed() < GRACE {
                return;
            }
            self.ended.pop_front();
            if self.find_mut(key).is_some_and(|process| process.exited) {
                self.processes.remove(&key.pid);
            }
        }
    }
}

/// `/NAMESPACE/ID` as containerd chooses it.
fn from_path(path: &str) -> Option<String> {
    let (namespace, id) = path.strip_prefix('/')?.split_once('/')?;
    (is_namespace(namespace) && is_namespace(id)).then(|| format!("{namespace}/{id}"))
}

/// What containerd's shim, an ancestor that runs as root, was told on its command line.
fn from_shim(proc: &Proc, mut pid: u32) -> Option<String> {
    for _ in 0..ANCESTORS_MAX {
        if pid <= 1 {
            return None;
        }
        let stat = proc.stat(pid)?;
        if stat.comm.starts_with("containerd-shim") {
            let arguments = proc.arguments_of_root(pid)?;
            let behind = |flag: &str| {
                let at = arguments.iter().position(|argument| argument == flag)?;
                arguments.get(at + 1).filter(|word| is_namespace(word))
            };
            return Some(format!("{}/{}", behind("-namespace")?, behind("-id")?));
        }
        pid = stat.parent;
    }
    None
}

/// Whether a runtime made up the id.
fn is_random(id: &str) -> bool {
    id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Whether two starts may be one; 0 is not known.
fn is_same(left: u64, right: u64) -> bool {
    left == 0 || right == 0 || left == right
}

fn start_ticks(task: &Task) -> u64 {
    task.start_ns / 10_000_000
}

fn comm(task: &Task) -> Option<Box<str>> {
    let end = task.comm.iter().position(|byte| *byte == 0).unwrap_or(task.comm.len());
    (end > 0).then(|| String::from_utf8_lossy(&task.comm[..end]).into())
}

/// Reads per second.
struct Budget {
    second: Instant,
    left: u32,
}

impl Budget {
    fn take(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Budget { second: Instant::now(), left: EXEC_READS_PER_SECOND };
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}
