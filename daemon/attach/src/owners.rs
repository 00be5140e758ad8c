//! Who holds a socket: a walk over the descriptors of processes, on a thread of its own, one question after the other.
//!
//! Main knows the inode of a UDP socket and its user from `/proc/net/udp`; whose descriptor it is only
//! `/proc/PID/fdinfo` says (the line `ino`, Linux 5.14), which a process without our CAP_SYS_PTRACE may not read. Nothing
//! is opened through the descriptor and none is duplicated: the socket does not notice.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::process;
use super::verbs::Refused;

/// Questions that wait; more are refused.
const WAITING_MAX: usize = 64;
/// Processes that are looked at for one question.
const PROCESSES_MAX: usize = 32_768;
/// Descriptors of one process that are looked at.
const DESCRIPTORS_MAX: usize = 65_536;

/// A process by its id and its start in ticks.
pub(crate) type Owner = (u32, u64);

type Answer = Box<dyn FnOnce(Result<Owner, Refused>) + Send>;

struct Question {
    inode: u64,
    uid: u32,
    answer: Answer,
}

/// Takes questions.
pub(crate) struct Owners(SyncSender<Question>);

impl Owners {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be made, or the kernel does not say which descriptors are sockets.
    pub(crate) fn start() -> io::Result<Owners> {
        let mount = socket_mount()?;
        let (questions, queue) = sync_channel(WAITING_MAX);
        thread::Builder::new().name("owners".to_owned()).spawn(move || work(&queue, mount))?;
        Ok(Owners(questions))
    }

    /// Looks for the process of user `uid` that holds socket `inode`, then runs `answer`. False if too many wait.
    pub(crate) fn find(
        &self,
        inode: u64,
        uid: u32,
        answer: impl FnOnce(Result<Owner, Refused>) + Send + 'static,
    ) -> bool {
        self.0.try_send(Question { inode, uid, answer: Box::new(answer) }).is_ok()
    }
}

fn work(queue: &Receiver<Question>, mount: u64) {
    crate::sys::go_last();
    while let Ok(Question { inode, uid, answer }) = queue.recv() {
        answer(owner(inode, uid, mount).ok_or(Refused::Gone));
    }
}

/// The oldest process that holds the socket: a child inherits it.
fn owner(inode: u64, uid: u32, mount: u64) -> Option<Owner> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let of_user = entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        (entry.metadata().ok()?.uid() == uid).then_some(pid)
    });
    let holders = of_user.take(PROCESSES_MAX).filter(|pid| holds(*pid, inode, mount));
    holders.filter_map(|pid| Some((process::start_ticks(pid)?, pid))).min().map(|(start, pid)| (pid, start))
}

fn holds(pid: u32, inode: u64, mount: u64) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    let mut entries = entries.flatten().take(DESCRIPTORS_MAX);
    entries.any(|entry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        file_of(&text) == Some((mount, inode))
    })
}

/// Mount and inode in the text of a descriptor.
fn file_of(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some((field("mnt_id:")?, field("ino:")?))
}

/// The mount that all sockets are on: inode numbers are its own.
fn socket_mount() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.as_raw_fd()))?;
    let told = file_of(&text).map(|(mount, _)| mount);
    told.ok_or_else(|| io::Error::other("descriptors do not tell their inode before Linux 5.14"))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn descriptors_tell_mount_and_inode() {
        for (text, expected) in [
            ("pos:\t0\nflags:\t02\nmnt_id:\t9\nino:\t4711\n", Some((9, 4711))),
            ("pos:\t0\nflags:\t02\nmnt_id:\t9\n", None),
            ("", None),
        ] {
            assert_eq!(file_of(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_holder_of_a_socket_is_found() {
        let Ok(mount) = socket_mount() else {
            return crate::skipped("the_holder_of_a_socket_is_found", "no inodes in fdinfo");
        };
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.as_raw_fd())).expect("fdinfo");
        let (_, inode) = file_of(&text).expect("its inode");
        let uid = nix::unistd::getuid().as_raw();
        let own = std::process::id();
        assert_eq!(owner(inode, uid, mount).map(|(pid, _)| pid), Some(own));
        assert_eq!(owner(inode, uid + 1, mount), None);
        assert_eq!(owner(inode, uid, mount + 1), None);
        drop(socket);
        assert_eq!(owner(inode, uid, mount), None);
    }
}
