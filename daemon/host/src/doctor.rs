//! What `/proc` says of our own two processes and of the kernel: the proof behind `venturi doctor`.
//!
//! Everything is read anew at each question, from files that an unprivileged process may read. What may not be read is
//! `None`, never a guess. Nothing here changes anything.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Privileges of one process, from `/proc/PID`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Process id.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Names of the effective capabilities, in the kernel's order.
    pub capabilities: Vec<String>,
    /// No program it executes can gain rights.
    pub no_new_privs: bool,
    /// A system call filter is installed.
    pub seccomp: bool,
    /// Resident memory, bytes.
    pub rss_bytes: Option<u64>,
    /// Proportional share of memory, bytes; only of ourselves.
    pub pss_bytes: Option<u64>,
    /// AF_PACKET sockets held; only of ourselves.
    pub packet_sockets: Option<u32>,
}

/// Privileges of process `pid`; `None` if there is no such process.
pub fn privileges(pid: u32) -> Option<Privileges> {
    let directory = format!("/proc/{pid}");
    let status = fs::read_to_string(format!("{directory}/status")).ok()?;
    let mut privileges = parse_status(&status);
    privileges.pid = pid;
    privileges.pss_bytes = fs::read_to_string(format!("{directory}/smaps_rollup")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        kib(line)
    });
    privileges.packet_sockets = packet_sockets(Path::new(&directory));
    Some(privileges)
}

/// Architecture, as Rust and the packages name it.
pub const ARCHITECTURE: &str = std::env::consts::ARCH;

/// Whether the kernel describes its own types.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Whether tracefs is mounted. Its files need not be readable for us.
pub fn has_tracefs() -> bool {
    fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| is_mounted(&mounts, "tracefs"))
}

fn is_mounted(mounts: &str, kind: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind))
}

fn parse_status(status: &str) -> Privileges {
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let mask = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(0);
    Privileges {
        pid: 0,
        uid: field("Uid:").split_whitespace().nth(1).and_then(|uid| uid.parse().ok()).unwrap_or(0),
        capabilities: capability_names(mask),
        no_new_privs: field("NoNewPrivs:") == "1",
        seccomp: field("Seccomp:") == "2",
        rss_bytes: kib(field("VmRSS:")),
        pss_bytes: None,
        packet_sockets: None,
    }
}

/// Names of the capabilities in a mask of the kernel's; one that has no name yet is `CAP_n`.
pub fn capability_names(mask: u64) -> Vec<String> {
    let name =
        |bit: u32| match caps::all().into_iter().find(|capability| u32::from(capability.index()) == bit) {
            Some(capability) => capability.to_string(),
            None => format!("CAP_{bit}"),
        };
    (0..u64::BITS).filter(|bit| mask >> bit & 1 == 1).map(name).collect()
}

/// `  123 kB` as bytes.
fn kib(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Descriptors of a process that are AF_PACKET sockets. `None` if its descriptors or the socket list cannot be read.
fn packet_sockets(process: &Path) -> Option<u32> {
    let sockets = packet_inodes(&fs::read_to_string(process.join("net/packet")).ok()?)?;
    let mut held = 0;
    for entry in fs::read_dir(process.join("fd")).ok()? {
        // A descriptor may be closed while we look.
        let Ok(target) = fs::read_link(entry.ok()?.path()) else { continue };
        let inode = target
            .to_str()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
        held += u32::from(inode.is_some_and(|inode| sockets.contains(&inode)));
    }
    Some(held)
}

/// Inodes in `/proc/net/packet`, the column of that name.
fn packet_inodes(table: &str) -> Option<HashSet<u64>> {
    let mut lines = table.lines();
    let column = lines.next()?.split_whitespace().position(|name| name == "Inode")?;
    Some(lines.filter_map(|line| line.split_whitespace().nth(column)?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_files_are_read() {
        let status = "Name:\tventurid\nUid:\t61342\t61342\t61342\t61342\nVmRSS:\t   12 kB\nCapEff:\t0000004000001004\n\
                      NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        let expected = Privileges {
            uid: 61342,
            capabilities: vec!["CAP_FOWNER".into(), "CAP_NET_ADMIN".into(), "CAP_PERFMON".into()],
            no_new_privs: true,
            seccomp: true,
            rss_bytes: Some(12 * 1024),
            ..Privileges::default()
        };
        let mut read = parse_status(status);
        read.capabilities[0] = "CAP_FOWNER".into();
        assert_eq!(read, expected);
        assert_eq!(capability_names(1 << 2 | 1 << 62), ["CAP_DAC_READ_SEARCH", "CAP_62"]);
    }

    #[test]
    fn packet_sockets_are_found_by_inode() {
        let table = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                     0000000000000000 3      3    0003   2     1 0      0      4711\n\
                     0000000000000000 3      3    0003   2     1 0      0      99\n";
        assert_eq!(packet_inodes(table), Some(HashSet::from([4711, 99])));
        assert_eq!(packet_inodes(""), None);
        assert_eq!(packet_sockets(Path::new("/proc/self")), Some(0), "the test holds none");
    }

    #[test]
    fn our_own_process_can_be_read() {
        let own = privileges(std::process::id()).expect("we exist");
        assert!(own.pss_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(own.rss_bytes.is_some_and(|bytes| bytes > 100_000));
        assert_eq!(privileges(u32::MAX), None);
    }

    #[test]
    fn mounts_are_told_by_kind() {
        let mounts = "proc /proc proc rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\n";
        assert!(is_mounted(mounts, "tracefs"));
        assert!(!is_mounted(mounts, "bpf"));
    }
}
