//! What was there before us: established connections with their processes, and what those processes have mapped.
//!
//! Taken once, by main while it is still root and after the tracepoints are attached, so that nothing falls between:
//! what begins later is told by the kernel. Reads `/proc` only. A process that ends meanwhile is left out; every list
//! is bounded. Connections of other network namespaces are found through the processes in them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use abi::event::Tuple;
use meter::workload::ProcessKey;
use zerocopy::FromZeros;

use super::image::{FileKey, Likelihood, Mapping, parse_maps};

/// Processes that are looked at.
const PROCESSES_MAX: usize = 32_768;
/// Connections that are kept.
const CONNECTIONS_MAX: usize = 16_384;
/// Network namespaces whose connections are read.
const NAMESPACES_MAX: usize = 1_024;
/// `TCP_ESTABLISHED` in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// A process with the files that may carry probes.
#[derive(Clone, Debug)]
pub struct Image {
    /// Which.
    pub process: ProcessKey,
    /// Its executable.
    pub executable: Option<FileKey>,
    /// Executable mappings with a likely name, and the executable's.
    pub mappings: Vec<Mapping>,
}

/// An established connection and the process that holds its socket.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Whose.
    pub process: ProcessKey,
    /// Executable of that process.
    pub executable: Option<FileKey>,
    /// Both ends.
    pub tuple: Tuple,
}

/// Everything found.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Processes with likely files.
    pub images: Vec<Image>,
    /// Connections to elsewhere.
    pub connections: Vec<Connection>,
    /// Processes that could not be read (not root, or gone).
    pub unreadable: usize,
}

/// Takes the inventory of a `/proc`.
pub fn inventory(root: &Path) -> Inventory {
    let mut found = Inventory::default();
    let mut namespaces: HashMap<u64, HashMap<u64, Tuple>> = HashMap::new();
    let pids = fs::read_dir(root).into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.take(PROCESSES_MAX) {
        if pid == std::process::id() {
            continue;
        }
        let home = root.join(pid.to_string());
        let Some(process) = process_key(&home, pid) else { continue };
        let Ok(maps) = fs::read(home.join("maps")) else {
            found.unreadable += 1;
            continue;
        };
        let mappings = parse_maps(&String::from_utf8_lossy(&maps));
        // A kernel thread has nothing mapped.
        if mappings.is_empty() {
            continue;
        }
        let executable = executable(&home, &mappings);
        let Ok(namespace) = fs::metadata(home.join("ns/net")).map(|meta| meta.ino()) else { continue };
        if namespaces.len() < NAMESPACES_MAX {
            namespaces.entry(namespace).or_insert_with(|| established(&home));
        }
        if let Some(sockets) = namespaces.get(&namespace).filter(|sockets| !sockets.is_empty()) {
            let room = CONNECTIONS_MAX.saturating_sub(found.connections.len());
            let tuples = socket_inodes(&home).into_iter().filter_map(|inode| sockets.get(&inode));
            found.connections.extend(tuples.take(room).map(|tuple| Connection {
                process,
                executable,
                tuple: *tuple,
            }));
        }
        let likely = |mapping: &Mapping| mapping.likelihood() != Likelihood::Other;
        let mappings: Vec<_> = mappings.into_iter().filter(likely).collect();
        found.images.push(Image { process, executable, mappings });
    }
    found
}

/// The process of a `/proc/PID` directory; `None` if it is gone.
fn process_key(home: &Path, pid: u32) -> Option<ProcessKey> {
    let stat = fs::read(home.join("stat")).ok()?;
    Some(ProcessKey { pid, start_ticks: start_ticks(&String::from_utf8_lossy(&stat))? })
}

/// Field 22 of `/proc/PID/stat`; the second field may hold anything, parentheses and blanks included.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The mapping whose name is that of `/proc/PID/exe`.
fn executable(home: &Path, mappings: &[Mapping]) -> Option<FileKey> {
    let target = fs::read_link(home.join("exe")).ok()?;
    let name = target.file_name()?.to_str()?;
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    mappings.iter().find(|mapping| &*mapping.name == name).map(|mapping| mapping.file)
}

/// Inodes of the sockets that a process holds.
fn socket_inodes(home: &Path) -> HashSet<u64> {
    let links = fs::read_dir(home.join("fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Established connections of a namespace by the inode of their socket, those to ourselves excepted.
fn established(home: &Path) -> HashMap<u64, Tuple> {
    let mut all = HashMap::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(home.join(table)).unwrap_or_default();
        all.extend(text.lines().skip(1).filter_map(parse_tcp).take(CONNECTIONS_MAX));
    }
    all
}

/// `0: 0100007F:1F90 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000 0 0 4711 ..`
fn parse_tcp(line: &str) -> Option<(u64, Tuple)> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    if *fields.get(3)? != ESTABLISHED {
        return None;
    }
    let mut tuple = Tuple::new_zeroed();
    (tuple.local, tuple.local_port) = parse_end(fields.get(1)?)?;
    (tuple.remote, tuple.remote_port) = parse_end(fields.get(2)?)?;
    tuple.protocol = 6;
    Some((fields.get(9)?.parse().ok()?, tuple))
}

/// Addresses are words of 32 bits in the machine's order, IPv4 is mapped.
fn parse_end(text: &str) -> Option<([u8; 16], u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let mut bytes = [0; 16];
    match address.len() {
        8 => {
            bytes[10..12].fill(0xff);
            bytes[12..].copy_from_slice(&word(0)?);
        }
        32 => {
            for (index, target) in bytes.chunks_exact_mut(4).enumerate() {
                target.copy_from_slice(&word(index)?);
            }
        }
        _ => return None,
    }
    Some((bytes, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn starts_are_read_past_any_command_name() {
        let check = |stat: &str, expected: Option<u64>| assert_eq!(start_ticks(stat), expected);
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        check(&format!("7 (sh) {rest}"), Some(4711));
        check(&format!("7 (a) b (c)) {rest}"), Some(4711));
        check("7 (sh) S 1", None);
        check("", None);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn table_lines_become_tuples() {
        let check = |line: &str, expected: Option<(u64, &str, u16)>| {
            let seen = parse_tcp(line).map(|(inode, tuple)| {
                (inode, std::net::Ipv6Addr::from(tuple.remote).to_canonical().to_string(), tuple.remote_port)
            });
            assert_eq!(seen, expected.map(|(inode, address, port)| (inode, address.to_owned(), port)));
        };
        check("0: 0100007F:1F90 0402030A:01BB 01 0:0 00:0 0 0 0 4711 1", Some((4711, "10.3.2.4", 443)));
        check(
            "0: 00000000000000000000000001000000:1F90 B80D0120000000000000000001000000:01BB 01 0:0 00:0 0 0 0 12 1",
            Some((12, "2001:db8::1", 443)),
        );
        check("0: 0100007F:1F90 0402030A:01BB 0A 0:0 00:0 0 0 0 4711 1", None);
        check("0: nonsense", None);
    }

    #[test]
    fn a_connection_of_a_child_is_found_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let ours = std::os::fd::OwnedFd::from(stream.try_clone().expect("clone"));
        let child = std::process::Command::new("/bin/cat").stdin(std::process::Stdio::from(ours)).spawn();
        let mut child = child.expect("cat");
        let found = inventory(Path::new("/proc"));
        let port = stream.local_addr().expect("address").port();
        let connection =
            found.connections.iter().find(|c| c.process.pid == child.id() && c.tuple.local_port == port);
        let image = found.images.iter().find(|image| image.process.pid == child.id());
        child.kill().expect("kill");
        child.wait().expect("wait");
        let connection = connection.expect("the connection");
        assert!(connection.process.start_ticks > 0);
        assert!(image.expect("the image").mappings.iter().any(|m| m.likelihood() == Likelihood::Resolver));
    }

    proptest! {
        #[test]
        fn any_line_is_parsed(line in ".{0,200}") {
            let _ = parse_tcp(&line);
            let _ = start_ticks(&line);
        }
    }
}
