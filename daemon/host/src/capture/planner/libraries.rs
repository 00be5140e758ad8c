//! Files with hooks: opened once, attached once, let go when nobody uses them.
//!
//! A file is known by what the kernel calls it and held under the attacher's *number* for it, which stands for one
//! content: a file that was written is dropped, and opened again by those who use it. Its once-per-session hooks belong
//! to the file: they are attached when it becomes known, at most once, and detached when no living process that is
//! followed uses it for a while (or at once, where room is needed). A process uses what its last scan found, what it has
//! transfer hooks on, and what other processes of its executable were found to use.

use super::*;

/// Files that are remembered; a node has a few thousand that are executable.
pub(super) const LIBRARIES_MAX: usize = 16_384;
/// How long the hooks of a file that nobody uses stay: a command that runs every few minutes finds them in place.
const LINGER_NS: u64 = 600_000 * MS;
/// How often it is looked which files are used.
const REVIEW_NS: u64 = 60_000 * MS;
/// Pauses before something is asked for again that could not be done and later may.
const RETRY_MS: [u64; 7] = [20, 100, 300, 1_000, 3_000, 15_000, 60_000];
/// After so long without a retry the pauses are short again.
const RETRY_FORGIVEN_NS: u64 = 120_000 * MS;
/// Files with hooks of one process: nobody can use up what is there for all.
const FILES_OF_PROCESS_MAX: usize = 16;
/// Files with hooks that are remembered of an executable.
const FILES_OF_EXECUTABLE_MAX: usize = 16;

/// A file that was opened, or is being opened.
#[derive(Debug)]
pub(super) enum Library {
    Opening {
        waiting: Vec<u32>,
    },
    Known(Known),
    /// Neither TLS nor resolver.
    Plain {
        number: u64,
    },
    /// No ELF file, or refused; with its number at the attacher if it could be opened.
    Unreadable {
        number: Option<u64>,
    },
}

/// A file with hooks.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) number: u64,
    pub(super) anatomy: Arc<Anatomy>,
    pub(super) name: Arc<str>,
    once: Once,
    retries: Retries,
    idle_since: Option<Moment>,
}

/// The once-per-session hooks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Once {
    No,
    Asked,
    Live(u64),
    Refused,
}

/// How often something was asked for in vain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retries {
    count: usize,
    last: Moment,
    waiting: bool,
}

impl Retries {
    /// When to try again; `None` if that is waited for already, or was done often enough.
    fn next(&mut self, now: Moment) -> Option<Moment> {
        if self.waiting {
            return None;
        }
        if now.since(self.last) >= RETRY_FORGIVEN_NS {
            self.count = 0;
        }
        let pause = RETRY_MS.get(self.count)?;
        (self.count, self.last, self.waiting) = (self.count + 1, now, true);
        Some(Planner::after(now, pause * MS))
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
    }

    pub(super) fn begun(&mut self) {
        self.waiting = false;
    }
}

impl Library {
    fn number(&self) -> Option<u64> {
        match self {
            Library::Opening { .. } => None,
            Library::Known(known) => Some(known.number),
            Library::Plain { number } => Some(*number),
            Library::Unreadable { number } => *number,
        }
    }
}

impl Planner {
    pub(super) fn known(&self, file: &FileKey) -> Option<&Known> {
        match self.libraries.get(file) {
            Some(Library::Known(known)) => Some(known),
            _ => None,
        }
    }

    pub(super) fn open_library(&mut self, pid: u32, mapping: Mapping, now: Moment) {
        if self.libraries.len() >= LIBRARIES_MAX && !self.libraries.contains_key(&mapping.file) {
            self.make_room_for_library(now);
        }
        let full = self.libraries.len() >= LIBRARIES_MAX;
        let Some(process) = self.processes.get_mut(&pid) else { return };
        match self.libraries.get_mut(&mapping.file) {
            Some(Library::Opening { waiting }) => {
                process.opening.insert(mapping.file);
                waiting.push(pid);
            }
            None if full => {
                process.dark = Some(DarkReason::AttachRefused);
                self.out.push(Command::Lost(Loss::LibrariesFull));
            }
            _ => {
                process.opening.insert(mapping.file);
                self.libraries.insert(mapping.file, Library::Opening { waiting: vec![pid] });
                self.out.push(Command::OpenLibrary(process.key, mapping));
            }
        }
    }

    pub(super) fn library(&mut self, file: FileKey, result: Result<OpenedFile, Refused>, now: Moment) {
        let waiting = match self.libraries.remove(&file) {
            Some(Library::Opening { waiting }) => waiting,
            other => {
                // Asked for by nobody any more; what is known stays.
                self.libraries.extend(other.map(|library| (file, library)));
                return;
            }
        };
        let again = matches!(result, Err(Refused::Gone | Refused::Limit | Refused::Stale));
        let library = match result {
            Ok(OpenedFile { number, anatomy: Some(anatomy), name }) => {
                if anatomy.is_tls() || anatomy.is_resolver() {
                    let retries = Retries::default();
                    Some(Library::Known(Known {
                        number,
                        anatomy,
                        name,
                        once: Once::No,
                        retries,
                        idle_since: None,
                    }))
                } else {
                    Some(Library::Plain { number })
                }
            }
            Ok(OpenedFile { number, anatomy: None, .. }) => {
                Some(Library::Unreadable { number: Some(number) })
            }
            Err(_) if again => None,
            Err(_) => Some(Library::Unreadable { number: None }),
        };
        self.libraries.extend(library.map(|library| (file, library)));
        let found = self.known(&file).map(|known| known.anatomy.is_tls());
        if found.is_some() {
            self.review_later(now);
        }
        for pid in waiting {
            let Some(process) = self.processes.get_mut(&pid) else { continue };
            process.opening.remove(&file);
            if let Some(is_tls) = found {
                process.retries.begun();
                self.note_use(pid, file, is_tls);
            }
            if again {
                self.retry(pid, now);
            }
            self.files_known(pid, now);
        }
    }

    /// A process has a file with hooks mapped: they are attached, and other processes of its executable will use them
    /// too.
    pub(super) fn note_use(&mut self, pid: u32, file: FileKey, is_tls: bool) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if !process.files.contains(&file) {
            if process.files.len() >= FILES_OF_PROCESS_MAX {
                return;
            }
            process.files.push(file);
            if is_tls {
                process.tls_files.push(file);
            }
        }
        let executable = process.executable;
        self.attach_once(file);
        let Some(executable) = executable else { return };
        let files = &mut self.habits(executable).files;
        if !files.contains(&file) && files.len() < FILES_OF_EXECUTABLE_MAX {
            files.push(file);
        }
        if is_tls {
            // Too late for this process, perhaps, and in time for the next one of its executable.
            self.remember(pid, &[file]);
        }
    }

    /// Attaches the once-per-session hooks of a file unless they are attached.
    pub(super) fn attach_once(&mut self, file: FileKey) {
        if self.options.scope == Scope::Off {
            return;
        }
        let Some(Library::Known(known)) = self.libraries.get_mut(&file) else { return };
        if known.once != Once::No || known.anatomy.once.is_empty() || known.retries.waiting {
            return;
        }
        known.once = Once::Asked;
        let (number, places) = (known.number, known.anatomy.once.clone());
        self.out.push(Command::Attach { process: None, file, number, places });
    }

    pub(super) fn attached_once(
        &mut self,
        file: FileKey,
        number: u64,
        result: Result<u64, Refused>,
        now: Moment,
    ) {
        self.out.push(Command::Count(if result.is_ok() { Tally::Attached } else { Tally::AttachRefused }));
        let known = match self.libraries.get_mut(&file) {
            Some(Library::Known(known)) if known.number == number && known.once == Once::Asked => known,
            // Let go, or written, before the answer came.
            _ => return self.out.extend(result.ok().map(Command::Detach)),
        };
        match result {
            Ok(attachment) => known.once = Once::Live(attachment),
            Err(Refused::Unreadable | Refused::Denied) => known.once = Once::Refused,
            Err(Refused::Stale) => self.rewritten(number, now),
            Err(refused) => {
                let next = known.retries.next(now);
                known.once = if next.is_some() { Once::No } else { Once::Refused };
                if let Some(at) = next {
                    self.timer(at, Timer::Once(file));
                }
                if refused == Refused::Limit {
                    self.attachments_full(now);
                }
            }
        }
    }

    pub(super) fn retry_once(&mut self, file: FileKey) {
        if let Some(Library::Known(known)) = self.libraries.get_mut(&file) {
            known.retries.begun();
            self.attach_once(file);
        }
    }

    /// Looks at a process again, after a while; what makes it dark stays so until then.
    pub(super) fn retry(&mut self, pid: u32, now: Moment) {
        let Some(process) = self.processes.get_mut(&pid).filter(|process| !process.exited) else { return };
        if let Some(at) = process.retries.next(now) {
            self.timer(at, Timer::Retry(pid));
        }
    }

    /// A file was written: its offsets are no longer so, and the attacher has let go of everything on it. Those who use
    /// it are looked at again: the kernel shows a process the new content of a mapped file at once.
    pub(super) fn rewritten(&mut self, number: u64, now: Moment) {
        let of_number =
            |(file, library): (&FileKey, &Library)| (library.number() == Some(number)).then_some(*file);
        let Some(file) = self.libraries.iter().find_map(of_number) else { return };
        self.out.push(Command::Count(Tally::FilesRewritten));
        self.libraries.remove(&file);
        let mut users = self.forget_file(file, now);
        users.sort_by_key(|(pid, wanted)| (!wanted, *pid));
        // Once-per-session hooks need any one process that has it mapped; transfer hooks every one that is wanted.
        let wanted = users.iter().filter(|(_, wanted)| *wanted).count().max(1);
        for (pid, _) in users.into_iter().take(wanted) {
            self.retry(pid, now);
        }
    }

    /// Takes a file from all who use it, so that it is looked for again when it is needed; who they were, and whether
    /// they are wanted. Transfer hooks on it are taken to be gone.
    fn forget_file(&mut self, file: FileKey, now: Moment) -> Vec<(u32, bool)> {
        for habits in self.executables.values_mut().filter(|habits| habits.files.contains(&file)) {
            habits.files.retain(|other| *other != file);
            habits.libraries.retain(|other| *other != file);
            habits.idle_scans = 0;
        }
        let (mut users, mut holed) = (Vec::new(), Vec::new());
        for process in self.processes.values_mut().filter(|process| !process.exited) {
            let attached = process.attachments.remove(&file).is_some();
            holed.extend(process.sessions.iter().filter(|_| attached).copied());
            if !attached && !process.files.contains(&file) {
                continue;
            }
            process.files.retain(|other| *other != file);
            process.tls_files.retain(|other| *other != file);
            process.scans = 0;
            if !process.attachments.values().any(|state| matches!(state, Attachment::Live(_))) {
                process.armed_at = None;
                process.wanted_at = now;
            }
            self.rows_changed = true;
            users.push((process.key.pid, process.wanted));
        }
        for identity in holed {
            self.give_up_session(identity);
        }
        users
    }

    fn review_later(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.review_set, true) {
            self.timer(Self::after(now, REVIEW_NS), Timer::Review);
        }
    }

    /// Detaches the hooks of files that nobody has used for a while.
    pub(super) fn review(&mut self, now: Moment) {
        self.review_set = false;
        let used = self.used_files();
        let mut idle = Vec::new();
        let mut any = false;
        for (file, library) in &mut self.libraries {
            let Library::Known(known) = library else { continue };
            any = true;
            if used.contains(file) {
                known.idle_since = None;
            } else if now.since(*known.idle_since.get_or_insert(now)) >= LINGER_NS {
                idle.push(*file);
            }
        }
        // In an order that does not depend on the table.
        idle.sort_unstable();
        for file in idle {
            self.let_go(file, now);
        }
        if any {
            self.review_later(now);
        }
    }

    /// The attacher has no room: what nobody uses goes at once.
    pub(super) fn attachments_full(&mut self, now: Moment) {
        self.out.push(Command::Lost(Loss::AttachmentsFull));
        self.detach_leaving();
        self.let_go_of_unused(now);
    }

    fn make_room_for_library(&mut self, now: Moment) {
        // Names of plain files are the bulk, and cheap to look at again.
        self.libraries.retain(|_, library| matches!(library, Library::Known(_) | Library::Opening { .. }));
        if self.libraries.len() >= LIBRARIES_MAX {
            self.let_go_of_unused(now);
        }
    }

    fn let_go_of_unused(&mut self, now: Moment) {
        let used = self.used_files();
        let unused = |(file, library): (&FileKey, &Library)| {
            (matches!(library, Library::Known(_)) && !used.contains(file)).then_some(*file)
        };
        let mut unused: Vec<_> = self.libraries.iter().filter_map(unused).collect();
        unused.sort_unstable();
        for file in unused {
            self.let_go(file, now);
        }
    }

    /// Detaches the once-per-session hooks of a file and forgets it. One that is asked for is detached when its answer
    /// comes.
    fn let_go(&mut self, file: FileKey, now: Moment) {
        if let Some(Library::Known(Known { once: Once::Live(attachment), .. })) = self.libraries.remove(&file)
        {
            self.out.push(Command::Detach(attachment));
        }
        self.forget_file(file, now);
    }

    fn used_files(&self) -> HashSet<FileKey> {
        let mut used = HashSet::new();
        let mut executables = HashSet::new();
        for process in self.processes.values().filter(|process| !process.exited) {
            used.extend(process.files.iter().chain(process.attachments.keys()));
            executables.extend(process.executable);
        }
        let habits = executables.iter().filter_map(|executable| self.executables.get(executable));
        used.extend(habits.flat_map(|habits| &habits.files));
        used
    }
}
