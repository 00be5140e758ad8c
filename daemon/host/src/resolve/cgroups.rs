//! Cgroup ids of the kernel's events to what the path says: for processes that are gone.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meter::workload::cgroup::{CgroupIdentity, parse_path};

/// Groups remembered; a node has at most a few thousand.
const GROUPS_MAX: usize = 16 * 1024;
/// Depth to which the hierarchy is walked.
const DEPTH_MAX: usize = 24;
/// Least time between two walks.
const WALK_EVERY: Duration = Duration::from_millis(500);

/// Id of the unified hierarchy's root: the process is in version 1 hierarchies only, or in none.
const ROOT_ID: u64 = 1;

/// The unified hierarchy's groups by id.
#[derive(Debug)]
pub(super) struct Groups {
    /// Where the unified hierarchy is mounted.
    root: Option<PathBuf>,
    known: HashMap<u64, Arc<CgroupIdentity>>,
    walked_at: Option<Instant>,
}

impl Groups {
    pub(super) fn new(root: Option<PathBuf>) -> Groups {
        Groups { root, known: HashMap::new(), walked_at: None }
    }

    /// Notes what was read for a living process of this group.
    pub(super) fn learn(&mut self, id: u64, identity: &Arc<CgroupIdentity>) {
        if id > ROOT_ID && self.room() {
            self.known.insert(id, identity.clone());
        }
    }

    pub(super) fn knows(&self, id: u64) -> bool {
        self.known.contains_key(&id)
    }

    /// What the path of the group says. Walks the hierarchy if the group is not known.
    pub(super) fn get(&mut self, id: u64) -> Option<Arc<CgroupIdentity>> {
        if id <= ROOT_ID {
            return None;
        }
        if !self.knows(id) && self.walked_at.is_none_or(|at| at.elapsed() >= WALK_EVERY) {
            self.walk();
        }
        self.known.get(&id).cloned()
    }

    fn walk(&mut self) {
        let Some(root) = self.root.clone() else { return };
        let mut directories = vec![(root.clone(), 0)];
        let mut seen = 0;
        while let Some((directory, depth)) = directories.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let path = entry.path();
                if let Ok(meta) = entry.metadata() {
                    self.see(meta.ino(), &root, &path);
                }
                seen += 1;
                if depth < DEPTH_MAX && seen < GROUPS_MAX {
                    directories.push((path, depth + 1));
                }
            }
        }
        self.walked_at = Some(Instant::now());
    }

    fn see(&mut self, id: u64, root: &Path, path: &Path) {
        if id <= ROOT_ID || self.knows(id) || !self.room() {
            return;
        }
        if let Ok(below) = path.strip_prefix(root) {
            let identity = parse_path(&format!("/{}", below.to_string_lossy()));
            self.known.insert(id, Arc::new(identity));
        }
    }

    /// Ids are never used twice, so forgetting costs a walk and nothing else.
    fn room(&mut self) -> bool {
        if self.known.len() >= GROUPS_MAX {
            self.known.clear();
        }
        true
    }
}

/// Where the unified hierarchy is mounted, from the text of `/proc/self/mounts`.
pub(super) fn unified_root(mounts: &str) -> Option<PathBuf> {
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    };
    mounts.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_where_it_is_mounted() {
        let check = |mounts: &str, expected: Option<&str>| {
            assert_eq!(unified_root(mounts).as_deref(), expected.map(Path::new));
        };
        check("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", Some("/sys/fs/cgroup"));
        check(
            "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\nnone /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            Some("/sys/fs/cgroup/unified"),
        );
        check("proc /proc proc rw 0 0\n\n x", None);
    }

    #[test]
    fn ids_are_inodes_of_directories() {
        let root = tempfile::tempdir().expect("a directory");
        let slice = root.path().join("system.slice");
        fs::create_dir_all(slice.join("nginx.service")).expect("directories");
        let id = fs::metadata(slice.join("nginx.service")).expect("just made").ino();
        let mut groups = Groups::new(Some(root.path().to_owned()));
        let identity = groups.get(id).expect("walked");
        assert_eq!(identity.unit.as_deref(), Some("nginx.service"));
        assert_eq!(&*identity.path, "/system.slice/nginx.service");
        assert!(groups.get(1).is_none() && groups.get(0).is_none() && groups.get(u64::MAX).is_none());
    }
}
