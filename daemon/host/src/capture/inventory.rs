//! What was there before us: established connections with their processes, and what those processes have mapped.
//!
//! Taken once, by main while it is still root and after the tracepoints are attached, so that nothing falls between:
//! what begins later is told by the kernel. Reads `/proc` only. A process that ends meanwhile is left out; every list
//! is bounded. Connections of other network namespaces are found through the processes in them.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv6Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use abi::event::Tuple;
use meter::workload::ProcessKey;
use zerocopy::FromZeros;

use super::image::{FileKey, Likelihood, Mapping, read_maps};

/// Processes that are looked at.
const PROCESSES_MAX: usize = 32_768;
/// Connections that are kept.
const CONNECTIONS_MAX: usize = 16_384;
/// Files of one process that are kept.
const LIKELY_MAX: usize = 64;
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
        let Ok(mappings) = File::open(home.join("maps")).and_then(read_maps) else {
            found.unreadable += 1;
            continue;
        };
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
            // A socket may be there under several numbers.
            let inodes: BTreeSet<u64> =
                socket_inodes(&home).filter(|inode| sockets.contains_key(inode)).collect();
            let tuples = inodes.iter().filter_map(|inode| sockets.get(inode));
            found.connections.extend(tuples.take(room).map(|tuple| Connection {
                process,
                executable,
                tuple: *tuple,
            }));
        }
        let likely = |mapping: &Mapping| mapping.likelihood() != Likelihood::Other;
        let mappings: Vec<_> = mappings.into_iter().filter(likely).take(LIKELY_MAX).collect();
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
fn socket_inodes(home: &Path) -> impl Iterator<Item = u64> {
    let links = fs::read_dir(home.join("fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets.filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
}

/// Established connections of a namespace by the inode of their socket, those to ourselves excepted.
fn established(home: &Path) -> HashMap<u64, Tuple> {
    let mut all = HashMap::new();
    for table in ["net/tcp", "net/tcp6"] {
        let Ok(file) = File::open(home.join(table)) else { continue };
        let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1);
        all.extend(lines.filter_map(|line| parse_tcp(&line)).take(CONNECTIONS_MAX));
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

/// A UDP socket of our network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UdpSocket {
    pub(super) inode: u64,
    pub(super) uid: u32,
}

/// The socket that datagrams of `tuple` are sent and received through: one that is connected to the remote end, else one
/// that is bound to the local address, else one to the port.
pub(super) fn udp_socket(root: &Path, tuple: &Tuple) -> Option<UdpSocket> {
    let texts = ["net/udp", "net/udp6"].map(|table| fs::read_to_string(root.join(table)).unwrap_or_default());
    texts
        .iter()
        .flat_map(|text| text.lines().skip(1))
        .filter_map(|line| parse_udp(line, tuple))
        .max()
        .map(|(_, inode, uid)| UdpSocket { inode, uid })
}

/// How well a line of `/proc/net/udp` fits, with the socket's inode and user:
/// `457: 0100007F:0277 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 4711 2 ..`
fn parse_udp(line: &str, tuple: &Tuple) -> Option<(u8, u64, u32)> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let (local, local_port) = parse_end(fields.get(1)?)?;
    let (remote, remote_port) = parse_end(fields.get(2)?)?;
    let unspecified = |address: [u8; 16]| Ipv6Addr::from(address).to_canonical().is_unspecified();
    let here = local == tuple.local;
    let connected = remote == tuple.remote && remote_port == tuple.remote_port;
    let fits = local_port == tuple.local_port
        && (here || unspecified(local))
        && (connected || (remote_port == 0 && unspecified(remote)));
    let rank = u8::from(connected) * 2 + u8::from(here);
    fits.then_some((rank, fields.get(9)?.parse().ok()?, fields.get(7)?.parse().ok()?))
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

    #[cfg(target_endian = "little")]
    #[test]
    fn the_socket_that_fits_best_is_taken() {
        let mut tuple = Tuple::new_zeroed();
        let end = |text: &str| text.parse::<std::net::Ipv4Addr>().expect("address").to_ipv6_mapped().octets();
        (tuple.local, tuple.local_port) = (end("10.0.0.2"), 0x9c40);
        (tuple.remote, tuple.remote_port) = (end("10.3.2.4"), 443);
        let check = |local: &str, remote: &str, expected: Option<u8>| {
            let line = format!("457: {local} {remote} 07 0:0 00:0 0 1000 0 4711 2 0 0");
            assert_eq!(parse_udp(&line, &tuple), expected.map(|rank| (rank, 4711, 1000)), "{line}");
        };
        let any6 = "00000000000000000000000000000000";
        check("0200000A:9C40", "0402030A:01BB", Some(3));
        check("00000000:9C40", "0402030A:01BB", Some(2));
        check("0200000A:9C40", "00000000:0000", Some(1));
        check("00000000:9C40", "00000000:0000", Some(0));
        check(&format!("{any6}:9C40"), &format!("{any6}:0000"), Some(0));
        check("00000000:9C41", "00000000:0000", None);
        check("0300000A:9C40", "00000000:0000", None);
        check("0200000A:9C40", "0402030A:01BC", None);
        check("0200000A:9C40", "0502030A:0000", None);
    }

    #[test]
    fn a_socket_of_ours_is_in_the_table() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = socket.local_addr().expect("address").port();
        let mut tuple = Tuple::new_zeroed();
        tuple.local = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        tuple.local_port = port;
        let found = udp_socket(Path::new("/proc"), &tuple).expect("the socket");
        let link = format!("socket:[{}]", found.inode);
        let links = fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
        assert!(links.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|to| to == Path::new(&link)));
        tuple.local_port = 0;
        assert_eq!(udp_socket(Path::new("/proc"), &tuple), None);
    }

    #[test]
    fn a_connection_of_a_child_is_found_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let ours = std::os::fd::OwnedFd::from(stream.try_clone().expect("clone"));
        let child = std::process::Command::new("/bin/cat").stdin(std::process::Stdio::from(ours)).spawn();
        let mut child = child.expect("cat");
        let port = stream.local_addr().expect("address").port();
        let started = std::time::Instant::now();
        let found = loop {
            let found = inventory(Path::new("/proc"));
            let has_child = |c: &Connection| c.process.pid == child.id() && c.tuple.local_port == port;
            let started_at = found.connections.iter().find(|c| has_child(c)).map(|c| c.process.start_ticks);
            let image = found.images.iter().find(|image| image.process.pid == child.id());
            // Its loader maps the libraries one after the other.
            let resolver =
                |image: &Image| image.mappings.iter().any(|m| m.likelihood() == Likelihood::Resolver);
            let found = (started_at, image.is_some_and(resolver));
            if matches!(found, (Some(_), true)) || started.elapsed().as_secs() >= 10 {
                break found;
            }
        };
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(matches!(found, (Some(1..), true)), "{found:?}");
    }

    proptest! {
        #[test]
        fn any_line_is_parsed(line in ".{0,200}") {
            let _ = parse_tcp(&line);
            let _ = parse_udp(&line, &Tuple::new_zeroed());
            let _ = start_ticks(&line);
        }
    }
}
