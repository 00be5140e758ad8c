//! Processes, their files, and the probes on them.

use abi::event::{Fork, Task};
use meter::record::DarkReason;
use meter::time::Moment;
use meter::workload::ProcessKey;

use super::*;
use crate::capture::image::Likelihood;

/// Pauses before looking again for a TLS library that a process has not mapped yet.
const RESCAN_MS: [u64; 7] = [3, 10, 30, 100, 500, 2_000, 10_000];
/// A child that replaces its program at once (`subprocess`, a shell) is not worth arming.
const CHILD_PAUSE_NS: u64 = 20 * MS;
/// How long a process that is armed on suspicion may take to show that it talks to a provider.
const PROBATION_NS: u64 = 60_000 * MS;
/// Processes on probation at a time: their transfer probes cost them something.
const PROBATION_MAX: usize = 64;
/// Scans of an executable's processes without anything new after which only wanted ones are scanned.
const IDLE_SCANS_MAX: u32 = 3;
/// Files that are looked into when no file of a likely name is a TLS library.
const UNLIKELY_MAX: usize = 96;

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
            self.exit_known(key.pid);
            self.retire(key.pid, now);
        }
        if !self.processes.contains_key(&key.pid) && self.processes.len() >= PROCESSES_MAX {
            self.out.push(Command::Lost(Loss::ProcessesFull));
            return None;
        }
        let process = self.processes.entry(key.pid).or_insert_with(|| Process::new(key));
        if process.key.start_ticks == 0 {
            process.key = key;
        }
        process.executable = executable.or(process.executable);
        Some(process)
    }

    /// The entry of the process in whose context something happened.
    pub(super) fn process_of(&mut self, task: &Task, now: Moment) -> Option<&mut Process> {
        self.process(process_key(task.tgid, task.start_ns), executable_of(task), now)
    }

    /// Arms a process; `since` is when it became worth it.
    pub(super) fn want(&mut self, pid: u32, since: Moment, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.exited {
            return;
        }
        self.rows_changed = true;
        if self.options.scope == Scope::Off {
            process.dark = Some(DarkReason::SwitchedOff);
            return;
        }
        process.probation = false;
        if !process.wanted {
            process.wanted = true;
            process.wanted_at = since;
        }
        if process.armed_at.is_some() {
            return;
        }
        self.arm(pid, now);
        // What is being attached was found by a scan: no need to look again before the answer.
        if self
            .processes
            .get(&pid)
            .is_some_and(|process| process.scans == 0 || process.attachments.is_empty())
        {
            self.scan(pid);
        }
    }

    /// Attaches to what is known to be of use: files seen in this process and files its executable used before.
    fn arm(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get(&pid) else { return };
        let habits = process.executable.and_then(|executable| self.executables.get(&executable));
        let mut files = process.tls_files.clone();
        files.extend(habits.into_iter().flat_map(|habits| habits.libraries.iter().copied()));
        for file in files {
            self.attach_transfer(pid, file);
        }
        self.note_armed(pid, now);
    }

    fn attach_transfer(&mut self, pid: u32, file: FileKey) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Some(Library::Known { number, anatomy, .. }) = self.libraries.get(&file) else { return };
        if !process.wanted || process.exited || process.attachments.contains_key(&file) || !anatomy.is_tls() {
            return;
        }
        process.attachments.insert(file, Attachment::Asked);
        let places = anatomy.transfer.clone();
        self.out.push(Command::Attach { process: Some(process.key), file, number: *number, places });
    }

    pub(super) fn scan(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.exited {
            return;
        }
        if process.scanning || !process.opening.is_empty() {
            process.scan_again = true;
            return;
        }
        process.scanning = true;
        process.scans += 1;
        self.out.push(Command::ReadMaps(process.key));
    }

    pub(super) fn rescan(&mut self, pid: u32) {
        if self.processes.get(&pid).is_some_and(|process| process.wanted && process.armed_at.is_none()) {
            self.scan(pid);
        }
    }

    /// A process connects for the first time: its C library and TLS libraries get their once-per-session hooks.
    pub(super) fn scan_at_connect(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else { return };
        let known = process.executable.and_then(|executable| self.executables.get(&executable));
        let familiar = known.is_some_and(|habits| habits.idle_scans >= IDLE_SCANS_MAX);
        let fresh = process.scans == 0 && !process.scanning;
        if fresh && !familiar && self.options.scope != Scope::Off {
            self.scan(pid);
        }
    }

    pub(super) fn maps(&mut self, pid: u32, result: Result<Vec<Mapping>, Refused>, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.scanning = false;
        match result {
            Ok(mappings) => self.look_at(pid, mappings, now),
            Err(refused) => {
                process.dark = Some(dark_of(refused));
                self.rows_changed = true;
                self.schedule_rescan(pid, now);
            }
        }
    }

    fn look_at(&mut self, pid: u32, mappings: Vec<Mapping>, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.tls_files.clear();
        process.unlikely.clear();
        let mut news = false;
        let mut to_open = Vec::new();
        let mut mappings = mappings;
        mappings.sort_by_key(Mapping::likelihood);
        for mapping in mappings {
            match self.libraries.get_mut(&mapping.file) {
                Some(Library::Known { anatomy, .. }) if anatomy.is_tls() => {
                    process.tls_files.push(mapping.file)
                }
                Some(Library::Opening { waiting }) => {
                    waiting.push(pid);
                    process.opening.insert(mapping.file);
                }
                Some(_) => {}
                None if mapping.likelihood() == Likelihood::Other => process.unlikely.push(mapping),
                None => to_open.push(mapping),
            }
        }
        news |= !to_open.is_empty();
        process.unlikely.truncate(UNLIKELY_MAX);
        for mapping in to_open {
            self.open_library(pid, mapping);
        }
        if let Some(executable) = self.processes.get(&pid).and_then(|process| process.executable) {
            let habits = self.habits(executable);
            habits.idle_scans = if news { 0 } else { habits.idle_scans.saturating_add(1) };
        }
        self.files_known(pid, now);
    }

    fn open_library(&mut self, pid: u32, mapping: Mapping) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if self.libraries.len() >= LIBRARIES_MAX {
            // Names of plain files are the bulk; what carries probes stays.
            self.libraries
                .retain(|_, library| matches!(library, Library::Known { .. } | Library::Opening { .. }));
        }
        process.opening.insert(mapping.file);
        match self.libraries.get_mut(&mapping.file) {
            Some(Library::Opening { waiting }) => waiting.push(pid),
            _ => {
                self.libraries.insert(mapping.file, Library::Opening { waiting: vec![pid] });
                self.out.push(Command::OpenLibrary(process.key, mapping));
            }
        }
    }

    pub(super) fn library(&mut self, file: FileKey, result: Result<OpenedFile, Refused>, now: Moment) {
        let Some(Library::Opening { waiting }) = self.libraries.remove(&file) else { return };
        let mut is_tls = false;
        match result {
            Ok(OpenedFile { number, anatomy, name }) if anatomy.is_tls() || anatomy.is_resolver() => {
                is_tls = anatomy.is_tls();
                let places = anatomy.once.clone();
                if !places.is_empty() && self.options.scope != Scope::Off {
                    self.out.push(Command::Attach { process: None, file, number, places });
                }
                self.libraries.insert(file, Library::Known { number, anatomy, name });
            }
            Ok(_) => drop(self.libraries.insert(file, Library::Plain)),
            // The process that mapped it is gone: the next one that maps it is asked.
            Err(Refused::Gone | Refused::Limit) => {}
            Err(_) => drop(self.libraries.insert(file, Library::Unreadable)),
        }
        for pid in waiting {
            let Some(process) = self.processes.get_mut(&pid) else { continue };
            process.opening.remove(&file);
            if is_tls {
                process.tls_files.push(file);
                // Too late for this process, perhaps, and in time for the next one of its executable.
                self.remember(pid, &[file]);
            }
            self.files_known(pid, now);
        }
    }

    /// Called whenever a file of a process became known: arms, looks further, or gives up for a while.
    fn files_known(&mut self, pid: u32, now: Moment) {
        self.arm(pid, now);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if !process.opening.is_empty() || process.scanning {
            return;
        }
        if std::mem::take(&mut process.scan_again) && process.wanted && process.attachments.is_empty() {
            return self.scan(pid);
        }
        if !process.wanted || !process.tls_files.is_empty() || !process.attachments.is_empty() {
            return;
        }
        let unlikely = std::mem::take(&mut process.unlikely);
        if !unlikely.is_empty() {
            for mapping in unlikely {
                self.open_library(pid, mapping);
            }
            return;
        }
        process.dark.get_or_insert(DarkReason::UnknownTlsLibrary);
        self.rows_changed = true;
        self.schedule_rescan(pid, now);
    }

    fn schedule_rescan(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get(&pid) else { return };
        let scans = usize::try_from(process.scans).unwrap_or(usize::MAX);
        let pause = RESCAN_MS.get(scans.saturating_sub(1)).copied();
        if let (true, false, Some(pause)) = (process.wanted, process.exited, pause) {
            self.timer(Self::after(now, pause * MS), Timer::Rescan(pid));
        }
    }

    pub(super) fn attached(
        &mut self,
        key: ProcessKey,
        file: FileKey,
        result: Result<u64, Refused>,
        now: Moment,
    ) {
        self.out.push(Command::Count(if result.is_ok() { Tally::Attached } else { Tally::AttachRefused }));
        let current =
            self.processes.get_mut(&key.pid).filter(|process| process.key == key && !process.exited);
        let Some(process) = current else {
            self.out.extend(result.ok().map(Command::Detach));
            return;
        };
        if !process.wanted {
            process.attachments.remove(&file);
            self.out.extend(result.ok().map(Command::Detach));
            return;
        }
        let state = match result {
            Ok(attachment) => Attachment::Live(attachment),
            Err(_) => Attachment::Refused,
        };
        process.attachments.insert(file, state);
        if let Err(refused) = result {
            process.dark = Some(match refused {
                Refused::Gone => DarkReason::Gone,
                _ => DarkReason::AttachRefused,
            });
        }
        self.rows_changed = true;
        self.note_armed(key.pid, now);
    }

    /// A process is armed when every attach that was asked for is answered and one of them is live.
    fn note_armed(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let live = process.attachments.values().any(|state| matches!(state, Attachment::Live(_)));
        let asked = process.attachments.values().any(|state| *state == Attachment::Asked);
        if process.armed_at.is_some() || !live || asked || !process.wanted {
            return;
        }
        process.armed_at = Some(now);
        process.dark = None;
        self.rows_changed = true;
        self.out.push(Command::ArmedAfter(now.since(process.wanted_at)));
        let is_live =
            |(file, state): (&FileKey, &Attachment)| matches!(state, Attachment::Live(_)).then_some(*file);
        let files: Vec<_> = process.attachments.iter().filter_map(is_live).collect();
        let library = files.first().and_then(|file| self.libraries.get(file));
        if let Some(Library::Known { name, .. }) = library {
            process.library = Some(Arc::clone(name));
        }
        self.remember(pid, &files);
    }

    /// What a process talked to a provider with, its executable will use again.
    fn remember(&mut self, pid: u32, files: &[FileKey]) {
        let Some(process) = self.processes.get(&pid).filter(|process| process.wanted && !process.probation)
        else {
            return;
        };
        let Some(executable) = process.executable else { return };
        let habits = self.habits(executable);
        habits.ai = true;
        for file in files {
            if !habits.libraries.contains(file) && habits.libraries.len() < 4 {
                habits.libraries.push(*file);
            }
        }
    }

    fn habits(&mut self, executable: FileKey) -> &mut Executable {
        if self.executables.len() >= EXECUTABLES_MAX && !self.executables.contains_key(&executable) {
            self.executables.retain(|_, habits| habits.ai);
            if self.executables.len() >= EXECUTABLES_MAX {
                self.executables.clear();
            }
        }
        self.executables.entry(executable).or_default()
    }

    /// True for an executable whose processes were armed before.
    pub(super) fn is_known_ai(&self, executable: Option<FileKey>) -> bool {
        executable.and_then(|executable| self.executables.get(&executable)).is_some_and(|habits| habits.ai)
    }

    pub(super) fn exec(&mut self, task: &Task, at: Moment, now: Moment) {
        let key = process_key(task.tgid, task.start_ns);
        let executable = executable_of(task);
        let known = self.is_known_ai(executable);
        if !known && !self.processes.contains_key(&key.pid) {
            return;
        }
        let Some(process) = self.process(key, executable, now) else { return };
        // Transfer probes belong to the process and its files and stay; everything learnt of the old program does not.
        process.executable = executable;
        process.wanted = false;
        process.armed_at = None;
        process.dark = None;
        process.scans = 0;
        process.tls_files.clear();
        process.addresses.clear();
        self.rows_changed = true;
        if known {
            self.want_on_suspicion(key.pid, at, now);
            self.out.push(Command::Resolve(key, Box::new(*task)));
        }
    }

    pub(super) fn fork(&mut self, fork: &Fork, now: Moment) {
        let parent = self.processes.get(&fork.task.tgid);
        let Some(parent) = parent.filter(|parent| parent.wanted && !parent.exited) else { return };
        let (executable, addresses, tls_files) =
            (parent.executable, parent.addresses.clone(), parent.tls_files.clone());
        let key = process_key(fork.child_tgid, fork.child_start_ns);
        let Some(child) = self.process(key, executable, now) else { return };
        child.addresses = addresses;
        child.tls_files = tls_files;
        let pid = key.pid;
        self.timer(Self::after(now, CHILD_PAUSE_NS), Timer::ArmChild(pid));
    }

    pub(super) fn exit(&mut self, key: ProcessKey, now: Moment) {
        if self.processes.get(&key.pid).is_none_or(|process| differ(process.key, key)) {
            return;
        }
        self.exit_known(key.pid);
        self.timer(Self::after(now, REMEMBER_NS), Timer::Forget(key.pid, key));
    }

    fn exit_known(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.exited = true;
        if process.wanted && process.armed_at.is_none() && self.options.scope != Scope::Off {
            process.dark = Some(DarkReason::Gone);
        }
        let key = process.key;
        self.rows_changed = true;
        self.detach_all(pid);
        self.sessions_end_with(key);
        self.datagrams_end_with(key);
    }

    fn detach_all(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for (_, state) in process.attachments.drain() {
            // One that is asked for is detached when its answer comes.
            if let Attachment::Live(attachment) = state {
                self.out.push(Command::Detach(attachment));
            }
        }
    }

    pub(super) fn forget(&mut self, pid: u32, key: ProcessKey, now: Moment) {
        if self.processes.get(&pid).is_some_and(|process| process.exited && process.key == key) {
            self.retire(pid, now);
        }
    }

    /// Removes an ended process; its coverage stays for a while.
    fn retire(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.remove(&pid) else { return };
        self.flows_end_with(process.key, now);
        let rows = self.rows_of(&process);
        self.past_rows.extend(rows);
        let surplus = self.past_rows.len().saturating_sub(PAST_ROWS_MAX);
        self.past_rows.drain(..surplus);
        self.rows_changed = true;
        self.out.push(Command::Forget(process.key));
    }

    pub(super) fn found_image(&mut self, image: Image, now: Moment) {
        if self.is_own(image.process.pid) || self.options.scope == Scope::Off {
            return;
        }
        // Only files that are new: a node has hundreds of processes and a few dozen libraries.
        let news = |mapping: &Mapping| {
            mapping.likelihood() != Likelihood::Other && !self.libraries.contains_key(&mapping.file)
        };
        if image.mappings.iter().any(news) && self.process(image.process, image.executable, now).is_some() {
            self.look_at(image.process.pid, image.mappings, now);
        }
    }

    /// Arms a process of an executable that calls providers elsewhere, if it is not armed anyway.
    pub(super) fn want_on_suspicion(&mut self, pid: u32, since: Moment, now: Moment) {
        if self.processes.get(&pid).is_some_and(|process| !process.wanted && !process.exited) {
            self.want(pid, since, now);
            self.suspect(pid, now);
        }
    }

    /// What a process is armed for is a guess: not every script of an interpreter calls providers. It has a minute to
    /// show that it does, by any of the events that make a process wanted.
    fn suspect(&mut self, pid: u32, now: Moment) {
        if let Some(process) = self.processes.get_mut(&pid).filter(|process| process.wanted) {
            process.probation = true;
            self.timer(Self::after(now, PROBATION_NS), Timer::Probation(pid));
        }
    }

    /// A process with a connection from before us to a port where providers listen may be calling one: it is armed for
    /// a minute, and stays so if one of its sessions turns out to be AI.
    pub(super) fn probation(&mut self, pid: u32, now: Moment) {
        let on_probation = self.processes.values().filter(|process| process.probation).count();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.wanted || self.options.scope == Scope::Off || on_probation >= PROBATION_MAX {
            return;
        }
        process.wanted = true;
        process.wanted_at = now;
        self.suspect(pid, now);
        self.arm(pid, now);
        self.scan(pid);
    }

    pub(super) fn end_probation(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if !process.probation {
            return;
        }
        process.probation = false;
        process.wanted = false;
        process.armed_at = None;
        self.detach_all(pid);
    }
}

impl Process {
    fn new(key: ProcessKey) -> Process {
        Process {
            key,
            executable: None,
            hosts: BTreeMap::new(),
            addresses: HashMap::new(),
            wanted: false,
            probation: false,
            wanted_at: Moment::default(),
            scanning: false,
            scan_again: false,
            scans: 0,
            opening: HashSet::new(),
            unlikely: Vec::new(),
            tls_files: Vec::new(),
            attachments: HashMap::new(),
            armed_at: None,
            library: None,
            dark: None,
            exited: false,
        }
    }
}

/// True if both starts are known and differ: the number was used again.
fn differ(one: ProcessKey, other: ProcessKey) -> bool {
    one.start_ticks != 0 && other.start_ticks != 0 && one.start_ticks != other.start_ticks
}

fn executable_of(task: &Task) -> Option<FileKey> {
    (task.exe_ino != 0).then_some(FileKey { device: task.exe_dev, inode: task.exe_ino })
}

fn dark_of(refused: Refused) -> DarkReason {
    match refused {
        Refused::Gone => DarkReason::Gone,
        Refused::Unreadable => DarkReason::Unreadable,
        Refused::Denied | Refused::Limit => DarkReason::AttachRefused,
    }
}
