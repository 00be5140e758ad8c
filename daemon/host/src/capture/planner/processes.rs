//! The table of processes: who is in it, and who goes when it is full.
//!
//! A process comes in when it does something of interest and stays to its end; then it is remembered for as long as the
//! end of its connections may still have to be told. Short-lived processes must not keep others from being armed: in a
//! full table those that ended go first, oldest first, then those that live and are neither wanted nor armed nor talk to
//! a provider, least recently seen first. Only when all others are of use is a newcomer refused. Each of the three is
//! counted.

use abi::event::{Fork, Task};

use super::arming::OTHERS_MAX;
use super::*;

/// Processes that are followed at a time; a node has fewer that connect.
pub(super) const PROCESSES_MAX: usize = 16_384;
/// How long a process that ended is remembered while it has connections, so that their end can be told: FIN-WAIT-2 ends
/// after 60 s.
const REMEMBER_NS: u64 = 90_000 * MS;
/// How long it is remembered without: what a pipeline still has to say of it comes within seconds.
const REMEMBER_ALONE_NS: u64 = 10_000 * MS;
/// Living processes of no use that go at a time, so that finding them costs little for each.
const EVICTED_AT_ONCE: usize = PROCESSES_MAX / 16;
/// A child that replaces its program at once (`subprocess`, a shell) is not worth arming.
const CHILD_PAUSE_NS: u64 = 20 * MS;
/// Coverage rows of ended processes that are kept.
const PAST_ROWS_MAX: usize = 512;

impl Planner {
    /// The entry of a process, made if need be; `None` for our own and when the table is full.
    pub(super) fn process(
        &mut self,
        key: ProcessKey,
        executable: Option<FileKey>,
        now: Moment,
    ) -> Option<&mut Process> {
        if self.is_own(key.pid) {
            return None;
        }
        let recycled = self.processes.get(&key.pid).is_some_and(|known| differ(known.key, key));
        if recycled {
            self.exit_known(key.pid, now);
            self.retire(key.pid, now);
        }
        if !self.processes.contains_key(&key.pid) && !self.has_room_for_process(now) {
            self.out.push(Command::Lost(Loss::ProcessesFull));
            return None;
        }
        let process = self.processes.entry(key.pid).or_insert_with(|| Process::new(key));
        if process.key.start_ticks == 0 {
            process.key = key;
        }
        process.seen_at = now;
        process.executable = executable.or(process.executable);
        Some(process)
    }

    /// The entry of the process in whose context something happened.
    pub(super) fn process_of(&mut self, task: &Task, now: Moment) -> Option<&mut Process> {
        self.process(process_key(task.tgid, task.start_ns), executable_of(task), now)
    }

    fn has_room_for_process(&mut self, now: Moment) -> bool {
        while self.processes.len() >= PROCESSES_MAX
            && let Some((pid, key)) = self.dead.pop_front()
        {
            if self.is_dead(pid, key) {
                self.out.push(Command::Lost(Loss::ProcessesEvictedEnded));
                self.retire(pid, now);
            }
        }
        if self.processes.len() >= PROCESSES_MAX {
            self.evict_idle(now);
        }
        self.processes.len() < PROCESSES_MAX
    }

    fn evict_idle(&mut self, now: Moment) {
        let of_no_use = |process: &&Process| {
            !process.wanted && process.attachments.is_empty() && process.hosts.is_empty()
        };
        let idle = self.processes.values().filter(of_no_use);
        let mut idle: Vec<_> = idle.map(|process| (process.seen_at, process.key.pid)).collect();
        if idle.len() > EVICTED_AT_ONCE {
            idle.select_nth_unstable(EVICTED_AT_ONCE);
            idle.truncate(EVICTED_AT_ONCE);
        }
        for (_, pid) in idle {
            self.out.push(Command::Lost(Loss::ProcessesEvictedIdle));
            self.retire(pid, now);
        }
    }

    fn is_dead(&self, pid: u32, key: ProcessKey) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.exited && process.key == key)
    }

    pub(super) fn exec(&mut self, task: &Task, at: Moment, now: Moment) {
        let key = process_key(task.tgid, task.start_ns);
        let executable = executable_of(task);
        let known = self.is_known_ai(executable);
        let eager = self.options.scope == Scope::Eager;
        if !known && !eager && !self.processes.contains_key(&key.pid) {
            return;
        }
        let Some(process) = self.process(key, executable, now) else { return };
        // Transfer probes belong to the process and its files and stay; everything learnt of the old program does not.
        process.executable = executable;
        process.wanted = false;
        process.probation = false;
        process.armed_at = None;
        process.dark = None;
        process.others = 0;
        process.scans = 0;
        process.files.clear();
        process.tls_files.clear();
        process.addresses.clear();
        self.rows_changed = true;
        if known {
            self.want_on_suspicion(key.pid, at, now);
            self.out.push(Command::Resolve(key, Box::new(*task)));
        } else {
            self.want_eagerly(key.pid, at, now);
        }
    }

    pub(super) fn fork(&mut self, fork: &Fork, now: Moment) {
        let parent = self.processes.get(&fork.task.tgid);
        let Some(parent) = parent.filter(|parent| parent.wanted && !parent.exited) else { return };
        let (executable, addresses) = (parent.executable, parent.addresses.clone());
        let (files, tls_files) = (parent.files.clone(), parent.tls_files.clone());
        let key = process_key(fork.child_tgid, fork.child_start_ns);
        let Some(child) = self.process(key, executable, now) else { return };
        (child.addresses, child.files, child.tls_files) = (addresses, files, tls_files);
        self.timer(Self::after(now, CHILD_PAUSE_NS), Timer::ArmChild(key.pid));
    }

    pub(super) fn exit(&mut self, key: ProcessKey, now: Moment) {
        if self.processes.get(&key.pid).is_none_or(|process| process.exited || differ(process.key, key)) {
            return;
        }
        self.exit_known(key.pid, now);
        let Some(process) = self.processes.get(&key.pid) else { return };
        let (key, alone) = (process.key, process.flows.is_empty());
        if self.dead.len() >= 2 * PROCESSES_MAX {
            let mut dead = std::mem::take(&mut self.dead);
            dead.retain(|(pid, key)| self.is_dead(*pid, *key));
            self.dead = dead;
        }
        self.dead.push_back((key.pid, key));
        let remember = if alone { REMEMBER_ALONE_NS } else { REMEMBER_NS };
        self.timer(Self::after(now, remember), Timer::Forget(key.pid, key));
    }

    fn exit_known(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.exited = true;
        if process.wanted && process.armed_at.is_none() && self.options.scope != Scope::Off {
            process.dark = Some(DarkReason::Gone);
        }
        self.rows_changed = true;
        let key = process.key;
        self.detach_in_peace(pid, now);
        self.sessions_end_with(pid);
        self.datagrams_end_with(key);
    }

    pub(super) fn forget(&mut self, pid: u32, key: ProcessKey, now: Moment) {
        if self.is_dead(pid, key) {
            self.retire(pid, now);
        }
    }

    /// Removes a process; its coverage stays for a while.
    fn retire(&mut self, pid: u32, now: Moment) {
        // Content may have come after its end.
        self.sessions_end_with(pid);
        self.flows_end_with(pid, now);
        let Some(process) = self.processes.remove(&pid) else { return };
        let rows = self.rows_of(&process);
        let shown = !rows.is_empty();
        if shown {
            self.past_rows.extend(rows);
            let surplus = self.past_rows.len().saturating_sub(PAST_ROWS_MAX);
            self.past_rows.drain(..surplus);
            self.rows_changed = true;
        }
        self.out.push(Command::Forget { process: process.key, shown });
    }

    pub(super) fn is_followed(&self, process: ProcessKey) -> bool {
        self.processes.get(&process.pid).is_some_and(|known| !differ(known.key, process))
    }

    pub(super) fn armed_at(&self, process: ProcessKey) -> Option<Moment> {
        self.processes.get(&process.pid).and_then(|known| known.armed_at)
    }
}

impl Process {
    /// True if nothing has armed it, and it has not shown yet that its sessions are with others.
    pub(super) fn may_be_suspected(&self) -> bool {
        !self.wanted && !self.exited && self.others < OTHERS_MAX
    }

    fn new(key: ProcessKey) -> Process {
        Process {
            key,
            seen_at: Moment::default(),
            executable: None,
            hosts: BTreeMap::new(),
            addresses: HashMap::new(),
            wanted: false,
            probation: false,
            others: 0,
            wanted_at: Moment::default(),
            scanning: false,
            scan_again: false,
            scans: 0,
            retries: Retries::default(),
            opening: HashSet::new(),
            unlikely: Vec::new(),
            files: Vec::new(),
            tls_files: Vec::new(),
            attachments: HashMap::new(),
            armed_at: None,
            library: None,
            dark: None,
            exited: false,
            flows: BTreeSet::new(),
            sessions: BTreeSet::new(),
        }
    }
}

/// True if both starts are known and differ: the number was used again.
pub(super) fn differ(one: ProcessKey, other: ProcessKey) -> bool {
    one.start_ticks != 0 && other.start_ticks != 0 && one.start_ticks != other.start_ticks
}

fn executable_of(task: &Task) -> Option<FileKey> {
    (task.exe_ino != 0).then_some(FileKey { device: task.exe_dev, inode: task.exe_ino })
}
