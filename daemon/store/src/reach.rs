//! Whether a user gets to a directory: each directory on the way there must let it pass.
//!
//! The kernel is asked, as that user, so that access control lists and security modules count. For the calling thread
//! alone, and only while the process has one: supplementary groups belong to the whole process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, getgroups, setfsgid, setfsuid, setgroups};

/// A directory on the way that a user may not enter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("uid {uid} may not enter {}: `chmod o+x` that directory, or `chown` it to that user", dir.display())]
pub struct Closed {
    /// The first that refuses.
    pub dir: PathBuf,
    /// Who is refused.
    pub uid: u32,
}

/// The first directory on the way to `path`, itself included, that `user` (uid and gid; `None`: ourselves) may not enter.
/// What does not exist yet refuses nobody.
pub fn closed(path: &Path, user: Option<(u32, u32)>) -> Option<Closed> {
    let way = way_to(path);
    let refuses =
        |dir: &&PathBuf| matches!(enter(dir), Err(error) if error.kind() == io::ErrorKind::PermissionDenied);
    let first = || way.iter().find(refuses).cloned();
    let ourselves = Uid::effective();
    let (dir, uid) = match user {
        Some((uid, gid)) if ourselves.is_root() => (as_user(uid, gid, first).ok()?, uid),
        _ => (first(), ourselves.as_raw()),
    };
    dir.map(|dir| Closed { dir, uid })
}

/// Every directory that must be entered, from the root on; with symbolic links, those they lead through come first.
fn way_to(path: &Path) -> Vec<PathBuf> {
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let meant = named.ancestors().find_map(|dir| dir.canonicalize().ok()).unwrap_or_default();
    let downwards = |path: &Path| {
        let mut way: Vec<PathBuf> = path.ancestors().map(Path::to_owned).collect();
        way.reverse();
        way
    };
    let mut way = downwards(&meant);
    way.extend(downwards(&named));
    way
}

/// Looks up a name in the directory, which is what entering it means.
fn enter(dir: &Path) -> io::Result<()> {
    fs::symlink_metadata(dir.join(".")).map(drop)
}

/// Does `look` with the rights on files of another user, and of no group but `gid`.
fn as_user<T>(uid: u32, gid: u32, look: impl FnOnce() -> T) -> nix::Result<T> {
    let groups = getgroups()?;
    setgroups(&[])?;
    // Neither call can fail for root, and with the user go the capabilities over files.
    let before = (setfsgid(Gid::from_raw(gid)), setfsuid(Uid::from_raw(uid)));
    let seen = look();
    setfsuid(before.1);
    setfsgid(before.0);
    setgroups(&groups)?;
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const SOMEBODY: (u32, u32) = (61_342, 61_342);

    #[test]
    fn a_directory_that_refuses_the_daemon_is_named() {
        if !Uid::effective().is_root() {
            let why = "only root can look as somebody else";
            assert!(std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none(), "must not be skipped: {why}");
            return println!("SKIPPED a_directory_that_refuses_the_daemon_is_named: {why}");
        }
        let top = tempfile::tempdir().expect("a directory");
        let at = |name: &str| top.path().join(name);
        let make = |name: &str, mode: u32| {
            fs::create_dir(at(name)).expect("a directory");
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("a mode");
        };
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        make("open", 0o711);
        make("open/state", 0o755);
        make("private", 0o700);
        make("private/open", 0o755);
        make("of-a-group", 0o750);
        make("its-own", 0o700);
        std::os::unix::fs::chown(at("its-own"), Some(SOMEBODY.0), None).expect("an owner");
        make("of-its-group", 0o710);
        std::os::unix::fs::chown(at("of-its-group"), None, Some(SOMEBODY.1)).expect("a group");
        symlink(at("private/open"), at("open/link")).expect("a link");
        let check = |path: &str, user: Option<(u32, u32)>, expected: Option<&str>| {
            let found = closed(&at(path), user);
            assert_eq!(found.as_ref().map(|found| found.dir.clone()), expected.map(at), "{path}");
            assert!(found.is_none_or(|found| found.uid == SOMEBODY.0), "{path}");
        };
        check("open/state", Some(SOMEBODY), None);
        check("open/state/not/yet/there", Some(SOMEBODY), None);
        check("private", Some(SOMEBODY), Some("private"));
        check("private/open", Some(SOMEBODY), Some("private"));
        check("private/not-there", Some(SOMEBODY), Some("private"));
        check("of-a-group/state", Some(SOMEBODY), Some("of-a-group"));
        check("its-own/state", Some(SOMEBODY), None);
        check("of-its-group/state", Some(SOMEBODY), None);
        check("open/link/state", Some(SOMEBODY), Some("private"));
        check("private/open", None, None);
        assert!(Uid::effective().is_root() && fs::read_dir(at("private")).is_ok(), "our own rights are back");
    }
}
