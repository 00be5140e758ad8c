//! What `/proc` says of a process, read without any right: the files used are open to everyone.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes of a file of `/proc` looked at.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// A process that was alive from the first read to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) start_ticks: u64,
    pub(super) parent: u32,
    pub(super) comm: Box<str>,
    pub(super) uid: Option<u32>,
    /// Text of `/proc/PID/cgroup`.
    pub(super) cgroup: String,
}

/// The mounted `/proc`, or a copy of one.
#[derive(Clone, Debug)]
pub(super) struct Proc(pub(super) PathBuf);

impl Proc {
    /// The process `pid`, if it started at `start_ticks` (0: whenever).
    pub(super) fn read(&self, pid: u32, start_ticks: u64) -> Option<Live> {
        let dir = self.dir(pid);
        let cgroup = read_text(&dir.join("cgroup"))?;
        let uid = read_text(&dir.join("status")).and_then(|text| real_uid(&text));
        // Read last: if the start is the same, everything above belongs to the same process.
        let stat = parse_stat(&read_text(&dir.join("stat"))?)?;
        // One that is ending is already out of its cgroups.
        let same = start_ticks == 0 || stat.start_ticks == start_ticks;
        (same && !stat.ending).then_some(Live {
            start_ticks: stat.start_ticks,
            parent: stat.parent,
            comm: stat.comm,
            uid,
            cgroup,
        })
    }

    /// Command name and parent only.
    pub(super) fn stat(&self, pid: u32) -> Option<Stat> {
        parse_stat(&read_text(&self.dir(pid).join("stat"))?)
    }

    /// Arguments of a process that runs as root; `None` for others, whose word counts for nothing here.
    pub(super) fn arguments_of_root(&self, pid: u32) -> Option<Vec<String>> {
        let dir = self.dir(pid);
        let text = read_text(&dir.join("cmdline"))?;
        let root = read_text(&dir.join("status")).and_then(|status| real_uid(&status)) == Some(0);
        root.then(|| text.split_terminator('\0').map(str::to_owned).collect())
    }

    fn dir(&self, pid: u32) -> PathBuf {
        self.0.join(pid.to_string())
    }
}

/// Fields of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) comm: Box<str>,
    pub(super) parent: u32,
    pub(super) start_ticks: u64,
    /// It has ended or is about to.
    pub(super) ending: bool,
}

/// `PF_EXITING` of `include/linux/sched.h`, in the flags of field 9.
const PF_EXITING: u32 = 4;

/// The command name stands in parentheses and may hold any byte, parentheses too: the last one closes it.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let (_, comm) = head.split_once('(')?;
    // Behind the name come field 3 (state), field 4 (parent), .. field 9 (flags), .. field 22 (start).
    let mut fields = tail.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X" | "x");
    let parent = fields.next()?.parse().ok()?;
    let flags: u32 = fields.nth(4)?.parse().ok()?;
    let start_ticks = fields.nth(12)?.parse().ok()?;
    Some(Stat { comm: comm.into(), parent, start_ticks, ending: dead || flags & PF_EXITING != 0 })
}

fn real_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn read_text(path: &Path) -> Option<String> {
    read_text_up_to(path, FILE_BYTES_MAX)
}

/// The start of a file as text; bytes that are not text are replaced.
pub(super) fn read_text_up_to(path: &Path, bytes_max: u64) -> Option<String> {
    let mut bytes = Vec::with_capacity(1024);
    File::open(path).ok()?.take(bytes_max).read_to_end(&mut bytes).ok()?;
    Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_fake_the_fields_behind_it() {
        let check = |text: &str, expected: Option<(&str, u32, u64)>| {
            let stat = parse_stat(text);
            let seen = stat.as_ref().map(|stat| (&*stat.comm, stat.parent, stat.start_ticks));
            assert_eq!(seen, expected, "{text:?}");
        };
        let rest = "7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 2 3";
        check(&format!("7 (sh) S 3 {rest}"), Some(("sh", 3, 4711)));
        check(&format!("7 (a) S 1 (b) ) S 3 {rest}"), Some(("a) S 1 (b) ", 3, 4711)));
        check(&format!("7 () S 3 {rest}"), Some(("", 3, 4711)));
        let ending = |text: &str| parse_stat(text).map(|stat| stat.ending);
        assert_eq!(ending(&format!("7 (sh) S 3 {rest}")), Some(false));
        assert_eq!(ending(&format!("7 (sh) Z 3 {rest}")), Some(true));
        assert_eq!(ending(&format!("7 (sh) R 3 {}", rest.replace("4194304", "4194308"))), Some(true));
        check("7 (sh) S 3", None);
        check("7 sh S 3", None);
        check("", None);
        check(")(", None);
    }

    #[test]
    fn the_real_uid_is_the_first() {
        let check = |text: &str, expected| assert_eq!(real_uid(text), expected);
        check("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t1\t1\t1\t1\n", Some(1000));
        check("Name:\tUid: 5\n", None);
        check("Uid:\t-1\n", None);
        check("", None);
    }

    /// A zombie is out of its cgroups: what `/proc` says of them then is not where it was.
    #[test]
    fn a_process_that_ended_is_not_alive() {
        let proc = Proc("/proc".into());
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        while proc.read(child.id(), 0).is_some() {
            std::thread::yield_now();
        }
        assert!(proc.stat(child.id()).expect("not yet waited for").ending);
        child.wait().expect("its end");
    }

    #[test]
    fn this_process_is_alive_and_no_other_has_its_start() {
        let proc = Proc("/proc".into());
        let pid = std::process::id();
        let live = proc.read(pid, 0).expect("this process");
        assert_eq!(proc.read(pid, live.start_ticks), Some(live.clone()));
        assert_eq!(proc.read(pid, live.start_ticks + 1), None);
        assert!(live.uid.is_some() && live.parent > 0 && !live.cgroup.is_empty());
        assert_eq!(proc.stat(pid).expect("this process").start_ticks, live.start_ticks);
    }
}
