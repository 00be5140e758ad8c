//! Whom to arm, and with what: scans of what processes have mapped, and the transfer hooks on it.

use abi::event::{OTHER_CALLS, SessionOther};

use super::libraries::Known;
use super::processes::differ;
use super::*;
use crate::capture::image::Likelihood;

/// Pauses before looking again for a TLS library that a process has not mapped yet.
const RESCAN_MS: [u64; 7] = [3, 10, 30, 100, 500, 2_000, 10_000];
/// How long a process that is armed on suspicion may take to show that it talks to a provider.
const PROBATION_NS: u64 = 60_000 * MS;
/// What a process on probation may show of sessions with others before its probes go, and none of suspicion come again:
/// this many sessions, or one of 64 calls. A program that asks some other hosts first keeps them for its first AI call,
/// and one that never calls a provider pays for a few dozen calls in its life.
pub(super) const OTHERS_MAX: u32 = 8;
/// Processes on probation at a time: their transfer probes cost them something.
const PROBATION_MAX: usize = 64;
/// Scans of an executable's processes without anything new after which only wanted ones are scanned.
const IDLE_SCANS_MAX: u32 = 3;
/// Files that are looked into when no file of a likely name is a TLS library.
const UNLIKELY_MAX: usize = 96;

/// Time without an attach after which attachments of processes that ended are detached.
const PEACE_NS: u64 = 1_000 * MS;
/// How long they wait for it before a few at a time go all the same.
const LEAVING_NS: u64 = 10_000 * MS;
/// How many: few enough that an attach finds no queue.
const LEAVING_AT_ONCE: usize = 2;
/// How many may wait.
const LEAVING_MAX: usize = 256;

impl Planner {
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
        let Some(process) = self.processes.get(&pid).filter(|process| process.wanted && !process.exited)
        else {
            return;
        };
        let habits = process.executable.and_then(|executable| self.executables.get(&executable));
        let mut files = process.tls_files.clone();
        if let Some(habits) = habits {
            let eager = self.options.scope == Scope::Eager;
            files.extend(if eager { &habits.files } else { &habits.libraries });
        }
        for file in files {
            self.attach_once(file);
            self.attach_transfer(pid, file, now);
        }
        self.note_armed(pid, now);
    }

    fn attach_transfer(&mut self, pid: u32, file: FileKey, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Some(Library::Known(Known { number, anatomy, .. })) = self.libraries.get(&file) else { return };
        if process.attachments.contains_key(&file) || process.retries.is_waiting() || !anatomy.is_tls() {
            return;
        }
        process.attachments.insert(file, Attachment::Asked(*number));
        self.attach_asked = now;
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

    /// A pause after something that could not be done is over.
    pub(super) fn look_again(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.retries.begun();
        self.scan(pid);
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
        process.files.clear();
        process.tls_files.clear();
        process.unlikely.clear();
        let mut known = Vec::new();
        let mut to_open = Vec::new();
        let mut mappings = mappings;
        mappings.sort_by_key(Mapping::likelihood);
        for mapping in mappings {
            match self.libraries.get_mut(&mapping.file) {
                Some(Library::Known(Known { anatomy, .. })) => {
                    known.push((mapping.file, anatomy.is_tls()));
                }
                Some(Library::Opening { waiting }) => {
                    if process.opening.insert(mapping.file) {
                        waiting.push(pid);
                    }
                }
                Some(_) => {}
                None if mapping.likelihood() == Likelihood::Other => process.unlikely.push(mapping),
                None => to_open.push(mapping),
            }
        }
        let news = !to_open.is_empty();
        process.unlikely.truncate(UNLIKELY_MAX);
        for (file, is_tls) in known {
            self.note_use(pid, file, is_tls);
        }
        for mapping in to_open {
            self.open_library(pid, mapping, now);
        }
        if let Some(executable) = self.processes.get(&pid).and_then(|process| process.executable) {
            let habits = self.habits(executable);
            habits.idle_scans = if news { 0 } else { habits.idle_scans.saturating_add(1) };
        }
        self.files_known(pid, now);
    }

    /// Called whenever a file of a process became known: arms, looks further, or gives up for a while.
    pub(super) fn files_known(&mut self, pid: u32, now: Moment) {
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
                self.open_library(pid, mapping, now);
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
        number: u64,
        result: Result<u64, Refused>,
        now: Moment,
    ) {
        self.out.push(Command::Count(if result.is_ok() { Tally::Attached } else { Tally::AttachRefused }));
        let asked = |process: &&mut Process| {
            let asked = process.attachments.get(&file) == Some(&Attachment::Asked(number));
            process.key == key && !process.exited && asked
        };
        let Some(process) = self.processes.get_mut(&key.pid).filter(asked) else {
            self.out.extend(result.ok().map(Command::Detach));
            return;
        };
        self.rows_changed = true;
        match result {
            Ok(attachment) if process.wanted => {
                process.attachments.insert(file, Attachment::Live(attachment));
            }
            Ok(attachment) => {
                process.attachments.remove(&file);
                self.out.push(Command::Detach(attachment));
            }
            Err(Refused::Unreadable | Refused::Denied) => {
                process.dark = Some(DarkReason::AttachRefused);
                process.attachments.insert(file, Attachment::Refused);
            }
            Err(refused) => {
                process.dark = Some(dark_of(refused));
                process.attachments.remove(&file);
                self.retry(key.pid, now);
                match refused {
                    Refused::Stale => self.rewritten(number, now),
                    Refused::Limit => self.attachments_full(now),
                    _ => {}
                }
            }
        }
        self.note_armed(key.pid, now);
    }

    /// A process is armed when every attach that was asked for is answered and one of them is live.
    fn note_armed(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let live = process.attachments.values().any(|state| matches!(state, Attachment::Live(_)));
        let asked = process.attachments.values().any(|state| matches!(state, Attachment::Asked(_)));
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
        if let Some(Library::Known(Known { name, .. })) =
            files.first().and_then(|file| self.libraries.get(file))
        {
            process.library = Some(Arc::clone(name));
        }
        self.remember(pid, &files);
    }

    /// What a process talked to a provider with, its executable will use again.
    pub(super) fn remember(&mut self, pid: u32, files: &[FileKey]) {
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

    pub(super) fn habits(&mut self, executable: FileKey) -> &mut Executable {
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

    /// Keeps the attachments of a process that ended for a quiet moment.
    ///
    /// They cost nobody anything. Detaching may: it takes the lock that an attach needs, once for each place, and where
    /// a process has just ended the next of its kind often begins.
    pub(super) fn detach_in_peace(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let live = process.attachments.drain().filter_map(|(_, state)| match state {
            Attachment::Live(attachment) => Some(attachment),
            // One that is asked for is detached when its answer comes.
            Attachment::Asked(_) | Attachment::Refused => None,
        });
        let before = self.leaving.len();
        self.leaving.extend(live);
        if before == 0 && !self.leaving.is_empty() {
            self.leaving_since = now;
            self.timer(Self::after(now, PEACE_NS), Timer::Leaving);
        }
        self.detach_oldest(self.leaving.len().saturating_sub(LEAVING_MAX));
    }

    /// Detaches what waits for it: everything in a quiet moment, a few if none comes.
    pub(super) fn leaving(&mut self, now: Moment) {
        if now.since(self.attach_asked) >= PEACE_NS {
            return self.detach_leaving();
        }
        if now.since(self.leaving_since) >= LEAVING_NS {
            self.detach_oldest(LEAVING_AT_ONCE);
        }
        if !self.leaving.is_empty() {
            self.timer(Self::after(now, PEACE_NS), Timer::Leaving);
        }
    }

    pub(super) fn detach_leaving(&mut self) {
        self.detach_oldest(self.leaving.len());
    }

    fn detach_oldest(&mut self, count: usize) {
        self.out.extend(self.leaving.drain(..count.min(self.leaving.len())).map(Command::Detach));
    }

    pub(super) fn detach_all(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for (_, state) in process.attachments.drain() {
            // One that is asked for is detached when its answer comes.
            if let Attachment::Live(attachment) = state {
                self.out.push(Command::Detach(attachment));
            }
        }
    }

    pub(super) fn found_image(&mut self, image: Image, now: Moment) {
        if self.is_own(image.process.pid) || self.options.scope == Scope::Off {
            return;
        }
        if self.process(image.process, image.executable, now).is_some() {
            // Those who are there use their files, whether they connect or not.
            self.look_at(image.process.pid, image.mappings, now);
            self.want_eagerly(image.process.pid, now, now);
        }
    }

    /// With `capture.scope = "eager"`: arms a process without any evidence, and for good.
    pub(super) fn want_eagerly(&mut self, pid: u32, since: Moment, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if self.options.scope != Scope::Eager || process.wanted || process.exited {
            return;
        }
        (process.wanted, process.probation, process.wanted_at) = (true, true, since);
        self.arm(pid, now);
        let Some(process) = self.processes.get(&pid) else { return };
        let habits = process.executable.and_then(|executable| self.executables.get(&executable));
        // Most short-lived programs never load a TLS library: their executables are known for it after a few.
        let has_tls = |habits: &Executable| {
            habits.files.iter().any(|file| self.known(file).is_some_and(|known| known.anatomy.is_tls()))
        };
        let without = habits.is_some_and(|habits| habits.idle_scans >= IDLE_SCANS_MAX && !has_tls(habits));
        if process.attachments.is_empty() && process.scans == 0 && !without {
            self.scan(pid);
        }
    }

    /// Arms a process of an executable that calls providers elsewhere, if it is not armed anyway.
    pub(super) fn want_on_suspicion(&mut self, pid: u32, since: Moment, now: Moment) {
        if self.processes.get(&pid).is_some_and(Process::may_be_suspected) {
            self.want(pid, since, now);
            self.suspect(pid, now);
        }
    }

    /// Arms the child of a process that is armed. A worker may wait for its first call longer than a minute: its
    /// probation ends by what it shows only.
    pub(super) fn want_as_child(&mut self, pid: u32, now: Moment) {
        if self.processes.get(&pid).is_some_and(Process::may_be_suspected) {
            self.want(pid, now, now);
            if let Some(process) = self.processes.get_mut(&pid) {
                process.probation = process.wanted;
            }
        }
    }

    /// A session of an armed process is with somebody else. Who is armed eagerly stays so.
    pub(super) fn session_other(&mut self, other: &SessionOther) {
        if self.options.scope == Scope::Eager {
            return;
        }
        let key = process_key(other.tgid, other.start_ns);
        let Some(process) = self.processes.get_mut(&key.pid).filter(|known| !differ(known.key, key)) else {
            return;
        };
        if process.probation {
            let weight = if other.calls >= OTHER_CALLS { OTHERS_MAX } else { 1 };
            process.others = process.others.saturating_add(weight);
            if process.others >= OTHERS_MAX {
                self.end_probation(key.pid);
            }
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
        if !process.may_be_suspected() || self.options.scope == Scope::Off || on_probation >= PROBATION_MAX {
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

fn dark_of(refused: Refused) -> DarkReason {
    match refused {
        Refused::Gone => DarkReason::Gone,
        Refused::Unreadable => DarkReason::Unreadable,
        Refused::Denied | Refused::Limit | Refused::Stale => DarkReason::AttachRefused,
    }
}
