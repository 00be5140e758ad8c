//! Files that main may not open itself: mapped executables and libraries, memory maps, runtimes' state files.
//!
//! Everything is opened read-only and handed on unread. A mapped file gets a number, stable for (device, inode) while
//! the attacher lives and holds it, and is remembered with its executable ranges: hooks are attached nowhere else. A file
//! that was written since is another file: main's offsets belong to what it read, and a probe in the middle of an
//! instruction would crash the program.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use abi::attacher::StateFile;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::process;
use super::verbs::Refused;

/// Mapped files held open. The least recently used is closed when another one is wanted.
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
    next: u64,
    clock: u64,
}

impl Files {
    /// The file with this number.
    pub(crate) fn get(&mut self, number: u64) -> Option<&Mapped> {
        self.clock += 1;
        let mapped = self.by_number.get_mut(&number)?;
        mapped.used = self.clock;
        Some(mapped)
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
        let stat = fstat(&fd).map_err(Refused::from)?;
        let key = (stat.st_dev, stat.st_ino);
        let for_main = fd.try_clone().map_err(|error| Refused::from_io(&error))?;
        let number = self.remember(
            key,
            Written::of(&stat),
            fd,
            (offset, len.min(u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(offset))),
        );
        Ok((Opened { number, device: key.0, inode: key.1 }, for_main))
    }

    fn remember(&mut self, key: (u64, u64), written: Written, fd: OwnedFd, range: (u64, u64)) -> u64 {
        self.clock += 1;
        let used = self.clock;
        if let Some(number) = self.by_key.get(&key)
            && let Some(mapped) = self.by_number.get_mut(number)
            && mapped.written == written
        {
            mapped.used = used;
            if !mapped.ranges.contains(&range) && mapped.ranges.len() < RANGES_MAX {
                mapped.ranges.push(range);
            }
            return *number;
        }
        if let Some(rewritten) = self.by_key.remove(&key) {
            self.by_number.remove(&rewritten);
        }
        if self.by_number.len() >= FILES_MAX
            && let Some(oldest) =
                self.by_number.iter().min_by_key(|(_, mapped)| mapped.used).map(|(number, _)| *number)
            && let Some(closed) = self.by_number.remove(&oldest)
        {
            self.by_key.remove(&closed.key);
        }
        self.next += 1;
        self.by_number.insert(self.next, Mapped { fd, key, written, ranges: vec![range], used });
        self.by_key.insert(key, self.next);
        self.next
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

    #[test]
    fn a_file_that_was_rewritten_in_place_is_another_file() {
        let path = std::env::temp_dir().join(format!("venturi-rewritten-{}", std::process::id()));
        std::fs::write(&path, b"before").expect("a file");
        let mut files = Files::default();
        let remember = |files: &mut Files| {
            let fd = OwnedFd::from(File::open(&path).expect("the file"));
            let stat = fstat(&fd).expect("its state");
            files.remember((stat.st_dev, stat.st_ino), Written::of(&stat), fd, (0, 4096))
        };
        let first = remember(&mut files);
        assert_eq!(remember(&mut files), first, "unchanged: the same number");
        assert!(files.get(first).is_some_and(Mapped::is_unchanged));
        std::fs::write(&path, b"rewritten").expect("the same inode, other content");
        assert!(!files.get(first).is_some_and(Mapped::is_unchanged), "nothing is attached to it any more");
        let second = remember(&mut files);
        assert_ne!(second, first);
        assert!(files.get(first).is_none() && files.get(second).is_some_and(Mapped::is_unchanged));
        std::fs::remove_file(&path).expect("removed");
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
