//! Files that main may not open itself: mapped executables and libraries, memory maps, runtimes' state files.
//!
//! Everything is opened read-only and handed on unread. A mapped file gets a number, stable for (device, inode) while
//! the attacher lives and holds it, and is remembered with its executable ranges: hooks are attached nowhere else.
//!
//! A file that was written since is another file with another number: main's offsets belong to what it read, and a probe
//! in the middle of an instruction would crash the program. The kernel puts the probes of an inode into every process
//! that maps it later, with the instructions it read at the first attach; so a written file is noticed at once (inotify,
//! and by size and time of the last write at every use), and is opened again only when nothing is attached to its former
//! content any more, which a *lease* on it tells.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use abi::attacher::StateFile;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::process;
use super::verbs::Refused;

/// Mapped files held open. The least recently used without attachments is closed when another one is wanted.
pub(crate) const FILES_MAX: usize = 1024;
/// Executable ranges remembered per file.
const RANGES_MAX: usize = 64;

/// A mapped file.
pub(crate) struct Mapped {
    fd: OwnedFd,
    key: (u64, u64),
    written: Written,
    /// Offset and length of executable mappings seen.
    ranges: Vec<(u64, u64)>,
    used: u64,
    watch: Option<WatchDescriptor>,
    lease: Lease,
}

/// Held by whatever is attached to a file until the kernel has let go of it.
pub(crate) type Lease = Arc<()>;

/// A file that lost its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) number: u64,
    /// It was written; else there was no room for it any more.
    pub(crate) written: bool,
}

/// Size and time of the last write: seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written(i64, i64, i64);

impl Written {
    fn of(stat: &FileStat) -> Written {
        Written(stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
    }
}

impl Mapped {
    /// False if the file was written since it was opened: what was read of it is no longer so.
    pub(crate) fn is_unchanged(&self) -> bool {
        fstat(&self.fd).is_ok_and(|stat| Written::of(&stat) == self.written)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// To be held as long as something is attached.
    pub(crate) fn lease(&self) -> Lease {
        Arc::clone(&self.lease)
    }

    fn is_attached(&self) -> bool {
        Arc::strong_count(&self.lease) > 1
    }

    /// True if an executable mapping of this file holds the offset.
    pub(crate) fn is_code(&self, offset: u64) -> bool {
        self.ranges.iter().any(|(start, len)| offset >= *start && offset - start < *len)
    }
}

/// What is known of an opened file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) number: u64,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// The mapped files by number.
#[derive(Default)]
pub(crate) struct Files {
    by_number: HashMap<u64, Mapped>,
    by_key: HashMap<(u64, u64), u64>,
    /// Leases on content that is gone, by the file that had it.
    former: HashMap<(u64, u64), Weak<()>>,
    dropped: Vec<Dropped>,
    writes: Option<Inotify>,
    watched: HashMap<WatchDescriptor, u64>,
    next: u64,
    clock: u64,
}

impl Files {
    /// Files that are watched for writes. Where that cannot be had a write is noticed when the file is used next.
    pub(crate) fn watching() -> Files {
        let writes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let writes = writes.inspect_err(|error| tracing::warn!(%error, "files are not watched for writes"));
        Files { writes: writes.ok(), ..Files::default() }
    }

    /// Readable when a file was written.
    pub(crate) fn writes(&self) -> Option<BorrowedFd<'_>> {
        self.writes.as_ref().map(Inotify::as_fd)
    }

    /// Drops the files that were written.
    pub(crate) fn note_writes(&mut self) {
        let Some(writes) = &self.writes else { return };
        let mut written = Vec::new();
        while let Ok(events) = writes.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    let changed =
                        |(number, mapped): (&u64, &Mapped)| (!mapped.is_unchanged()).then_some(*number);
                    written.extend(self.by_number.iter().filter_map(changed));
                }
                if event.mask.contains(AddWatchFlags::IN_MODIFY) {
                    written.extend(self.watched.get(&event.wd).copied());
                }
            }
        }
        for number in written {
            self.drop_file(number, true);
        }
    }

    /// The files that lost their number since the last call.
    pub(crate) fn take_dropped(&mut self) -> Vec<Dropped> {
        std::mem::take(&mut self.dropped)
    }

    /// The file with this number, if it is what it was when it got it.
    pub(crate) fn get(&mut self, number: u64) -> Result<&Mapped, Refused> {
        self.clock += 1;
        let clock = self.clock;
        if !self.by_number.get(&number).is_some_and(Mapped::is_unchanged) {
            self.drop_file(number, true);
        }
        let mapped = self.by_number.get_mut(&number).ok_or(Refused::Stale)?;
        mapped.used = clock;
        Ok(mapped)
    }

    /// Opens what process `pid` has mapped executable at `start..end`.
    pub(crate) fn open_mapped(
        &mut self,
        pid: u32,
        start: u64,
        end: u64,
    ) -> Result<(Opened, OwnedFd), Refused> {
        if start >= end {
            return Err(Refused::NotAllowed);
        }
        let (offset, len) = process::executable_mapping(pid, start, end)?;
        let fd = open_regular(&format!("/proc/{pid}/map_files/{start:x}-{end:x}"))?;
        let for_main = fd.try_clone().map_err(|error| Refused::from_io(&error))?;
        Ok((self.remember(fd, (offset, len))?, for_main))
    }

    fn remember(&mut self, fd: OwnedFd, (offset, len): (u64, u64)) -> Result<Opened, Refused> {
        // Watched first: what is written after the look at it is noticed.
        let watch = self.watch(&fd);
        let stat = fstat(&fd).map_err(Refused::from)?;
        let (key, written) = ((stat.st_dev, stat.st_ino), Written::of(&stat));
        let range = (offset, len.min(u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(offset)));
        self.clock += 1;
        let used = self.clock;
        let opened = |number| Opened { number, device: key.0, inode: key.1 };
        if let Some(number) = self.by_key.get(&key).copied()
            && let Some(mapped) = self.by_number.get_mut(&number)
        {
            if mapped.written != written {
                self.drop_file(number, true);
                return Err(Refused::Stale);
            }
            mapped.used = used;
            if !mapped.ranges.contains(&range) && mapped.ranges.len() < RANGES_MAX {
                mapped.ranges.push(range);
            }
            return Ok(opened(number));
        }
        if self.former.get(&key).is_some_and(|lease| lease.strong_count() > 0) {
            self.unwatch(watch);
            return Err(Refused::Stale);
        }
        self.make_room().inspect_err(|_| self.unwatch(watch))?;
        self.next += 1;
        let number = self.next;
        let mapped = Mapped { fd, key, written, ranges: vec![range], used, watch, lease: Lease::default() };
        self.by_number.insert(number, mapped);
        self.by_key.insert(key, number);
        self.watched.extend(watch.map(|watch| (watch, number)));
        Ok(opened(number))
    }

    /// Closes the least recently used file without attachments if there is no room for another one.
    fn make_room(&mut self) -> Result<(), Refused> {
        if self.by_number.len() < FILES_MAX {
            return Ok(());
        }
        let free = self.by_number.iter().filter(|(_, mapped)| !mapped.is_attached());
        let oldest = free.min_by_key(|(_, mapped)| mapped.used).map(|(number, _)| *number);
        self.drop_file(oldest.ok_or(Refused::Limit)?, false);
        Ok(())
    }

    fn drop_file(&mut self, number: u64, written: bool) {
        let Some(mapped) = self.by_number.remove(&number) else { return };
        self.by_key.remove(&mapped.key);
        self.unwatch(mapped.watch);
        self.former.retain(|_, lease| lease.strong_count() > 0);
        if mapped.is_attached() {
            self.former.insert(mapped.key, Arc::downgrade(&mapped.lease));
        }
        self.dropped.push(Dropped { number, written });
    }

    /// One write is enough to know.
    fn watch(&self, fd: &OwnedFd) -> Option<WatchDescriptor> {
        let itself = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let how = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
        self.writes.as_ref()?.add_watch(itself.as_str(), how).ok()
    }

    fn unwatch(&mut self, watch: Option<WatchDescriptor>) {
        if let (Some(watch), Some(writes)) = (watch, &self.writes) {
            self.watched.remove(&watch);
            // An error means that it has fired and is gone.
            let _ = writes.rm_watch(watch);
        }
    }
}

/// Descriptor of `/proc/PID/maps`; what it shows is decided now, by this process's rights.
pub(crate) fn open_maps(pid: u32) -> Result<OwnedFd, Refused> {
    let file = File::open(format!("/proc/{pid}/maps")).map_err(|error| Refused::from_io(&error))?;
    Ok(OwnedFd::from(file))
}

/// Descriptor of a container runtime's state file.
pub(crate) fn open_state(which: StateFile, container: &[u8]) -> Result<OwnedFd, Refused> {
    let (base, rest) = state_path(which, container)?;
    // The administrator may have moved the runtime's directory behind a link; below it nothing is followed, because a
    // container's own directory is not the administrator's word.
    let base = open(base, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(Refused::from)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let fd = openat2(&base, rest.as_str(), how).map_err(Refused::from)?;
    regular(&fstat(&fd).map_err(Refused::from)?)?;
    Ok(fd)
}

/// Directory of the runtime, and the file below it.
fn state_path(which: StateFile, container: &[u8]) -> Result<(&'static str, String), Refused> {
    let text = std::str::from_utf8(container).map_err(|_| Refused::NotAllowed)?;
    let parts: Vec<&str> = text.split('/').collect();
    if !parts.iter().all(|part| is_plain(part)) {
        return Err(Refused::NotAllowed);
    }
    match (which, parts.as_slice()) {
        (StateFile::ContainerdBundle, [namespace, id]) => {
            Ok(("/run/containerd/io.containerd.runtime.v2.task", format!("{namespace}/{id}/config.json")))
        }
        (StateFile::DockerConfig, [id]) => Ok(("/var/lib/docker/containers", format!("{id}/config.v2.json"))),
        (StateFile::ContainersStorage, [id]) => {
            Ok(("/run/containers/storage/overlay-containers", format!("{id}/userdata/config.json")))
        }
        (StateFile::ContainersStorageRoot, [id]) => {
            Ok(("/var/lib/containers/storage/overlay-containers", format!("{id}/userdata/config.json")))
        }
        (StateFile::RuncState, [id]) => Ok(("/run/runc", format!("{id}/state.json"))),
        _ => Err(Refused::NotAllowed),
    }
}

/// One path component of `[A-Za-z0-9_.-]`, not a step up or in place.
fn is_plain(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
}

/// Opens a regular file for reading. It is looked at before it is opened: opening a device may do something.
fn open_regular(path: &str) -> Result<OwnedFd, Refused> {
    let look = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(Refused::from)?;
    regular(&fstat(&look).map_err(Refused::from)?)?;
    let itself = format!("/proc/self/fd/{}", look.as_raw_fd());
    open(itself.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(Refused::from)
}

fn regular(stat: &FileStat) -> Result<(), Refused> {
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFREG { Ok(()) } else { Err(Refused::NotAllowed) }
}

/// Raises the limit of open files: attachments hold a dozen descriptors each.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(which: StateFile, container: &str, expected: Option<&str>) {
        let path = state_path(which, container.as_bytes()).ok().map(|(base, rest)| format!("{base}/{rest}"));
        assert_eq!(path.as_deref(), expected, "{container}");
    }

    /// Rewrites a file of which the attacher knows, with and without something attached to it.
    #[test]
    fn a_file_that_was_rewritten_in_place_is_another_file() {
        let check = |mut files: Files, name: &str, noticed: bool| {
            let name = format!("venturi-rewritten-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, b"before").expect("a file");
            let remember = |files: &mut Files| {
                let fd = OwnedFd::from(File::open(&path).expect("the file"));
                files.remember(fd, (0, 4096)).map(|opened| opened.number)
            };
            let first = remember(&mut files).expect("a number");
            assert_eq!(remember(&mut files), Ok(first), "unchanged: the same number");
            let lease = files.get(first).expect("unchanged").lease();

            std::fs::write(&path, b"rewritten").expect("the same inode, other content");
            let dropped = [Dropped { number: first, written: true }];
            files.note_writes();
            assert_eq!(files.take_dropped(), if noticed { &dropped[..] } else { &[] }, "noticed at once");
            assert_eq!(files.get(first).err(), Some(Refused::Stale), "nothing is attached to it any more");
            assert_eq!(files.take_dropped(), if noticed { &[] } else { &dropped[..] }, "told once");
            assert_eq!(remember(&mut files), Err(Refused::Stale), "not while the former content has probes");
            drop(lease);
            let second = remember(&mut files).expect("a number");
            assert!(second != first && files.get(second).is_ok());

            std::fs::write(&path, b"rewritten again").expect("the same inode, other content");
            if !noticed {
                assert_eq!(remember(&mut files), Err(Refused::Stale), "it is told before it is another one");
            }
            files.note_writes();
            assert_eq!(files.take_dropped(), [Dropped { number: second, written: true }]);
            assert!(remember(&mut files).is_ok_and(|third| third != second));
            std::fs::remove_file(&path).expect("removed");
        };
        check(Files::watching(), "watched", true);
        check(Files::default(), "not-watched", false);
    }

    #[test]
    fn a_file_with_attachments_is_never_closed_for_another_one() {
        let directory = std::env::temp_dir().join(format!("venturi-many-files-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut files = Files::default();
        let mut remember = |name: usize| {
            let path = directory.join(name.to_string());
            std::fs::write(&path, b"x").expect("a file");
            let fd = OwnedFd::from(File::open(&path).expect("the file"));
            std::fs::remove_file(&path).expect("removed");
            let opened = files.remember(fd, (0, 1))?;
            Ok((files.get(opened.number)?.lease(), opened.number, files.take_dropped()))
        };
        let mut leases: Vec<_> = (0..FILES_MAX).map(|name| remember(name).expect("room")).collect();
        assert_eq!(remember(FILES_MAX).map(|(_, number, _)| number), Err(Refused::Limit));
        let (lease, free, _) = leases.swap_remove(5);
        drop(lease);
        let (_, _, dropped) = remember(FILES_MAX).expect("room");
        assert_eq!(dropped, [Dropped { number: free, written: false }]);
        std::fs::remove_dir_all(directory).expect("clean up");
    }

    #[test]
    fn state_files_are_found_by_template_only() {
        use StateFile::*;
        check(
            ContainerdBundle,
            "k8s.io/0a1b",
            Some("/run/containerd/io.containerd.runtime.v2.task/k8s.io/0a1b/config.json"),
        );
        check(DockerConfig, "0a1b", Some("/var/lib/docker/containers/0a1b/config.v2.json"));
        check(
            ContainersStorage,
            "0a1b",
            Some("/run/containers/storage/overlay-containers/0a1b/userdata/config.json"),
        );
        check(
            ContainersStorageRoot,
            "0a1b",
            Some("/var/lib/containers/storage/overlay-containers/0a1b/userdata/config.json"),
        );
        check(RuncState, "my-box_1.2", Some("/run/runc/my-box_1.2/state.json"));
        for evil in ["", "..", "../x", "a/..", "a/b/c", "/etc", "a b", "a\0b", "a/", "./a", "%2e%2e", "ä"] {
            for which in StateFile::ALL {
                check(*which, evil, None);
            }
        }
        check(DockerConfig, "namespace/id", None);
        check(ContainerdBundle, "id", None);
    }
}
