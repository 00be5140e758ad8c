//! A library that is rewritten in place: nothing stays attached to what it was, and what it became is attached to again.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use abi::attacher::{Descriptor, Hook, Refusal, Request, Verb};
use abi::event::{Head, Kind, SessionNamed};
use zerocopy::FromBytes;

use crate::harness::{Attacher, PATIENCE, Python, attach, can_run, exported, mapping, read_until, request};
use crate::tls::{SCRIPT, certificate, know_host};

#[test]
fn a_rewritten_library_is_let_go_and_attached_again_once() {
    if can_run("a_rewritten_library_is_let_go_and_attached_again_once") {
        check("multi", &[]);
        check("sites", &["--no-uprobe-multi"]);
    }
}

fn check(name: &str, arguments: &[&str]) {
    let directory = std::env::temp_dir().join(format!("venturi-rewritten-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    let (certificate, key) = certificate(&directory);
    let start = || {
        let mut python =
            Python::start_with_libraries(SCRIPT, &[&certificate, &key], &directory).expect("python3");
        assert_eq!(python.tell("load"), "done");
        python
    };
    let library = copy_of_the_library(&directory, &certificate, &key);
    let mut before = start();
    let mut attacher = Attacher::armed(arguments);
    if attacher.cannot_probe(name) {
        return;
    }
    know_host(&attacher);

    let (first, _) = arm(&mut attacher, &before);
    assert_eq!(before.tell("talk as-it-was"), "done");
    assert_eq!(seen(&mut attacher, before.pid(), "as-it-was"), 1);

    let mut file = std::fs::OpenOptions::new().append(true).open(&library).expect("the library");
    file.write_all(b"the same inode with other content").expect("rewritten");
    drop(file);
    let (notice, _) = attacher.wait(0);
    assert_eq!((notice.refusal, notice.file), (Refusal::Stale.wire(), first.file), "told at once");
    let (stale, _) = attacher.ask(first);
    assert_eq!(stale.refusal, Refusal::Stale.wire(), "nothing is attached to offsets of what it was");

    // A process that maps the new content while the old probes are on their way out is not harmed.
    let mut after = start();
    assert_eq!(after.tell("talk in-between"), "done");

    let (again, pid) = arm(&mut attacher, &after);
    assert_ne!(again.file, first.file);
    assert_eq!(after.tell("talk as-it-is"), "done");
    assert_eq!(
        seen(&mut attacher, pid, "as-it-is"),
        1,
        "each session is named once: nothing is attached twice"
    );
    std::fs::remove_dir_all(directory).expect("clean up");
}

/// A copy of the library that Python's `ssl` loads, where it is found first.
fn copy_of_the_library(directory: &Path, certificate: &str, key: &str) -> std::path::PathBuf {
    let mut donor = Python::start(SCRIPT, &[certificate, key]).expect("python3 with ssl");
    assert_eq!(donor.tell("load"), "done");
    let (start, end) = mapping(donor.pid(), "libssl", "r-xp").expect("libssl");
    let original = format!("/proc/{}/map_files/{start:x}-{end:x}", donor.pid());
    let name = std::fs::read_link(&original).expect("its path");
    let copy = directory.join(name.file_name().expect("a name"));
    std::fs::copy(&name, &copy).expect("a copy");
    copy
}

/// Attaches to the library as main does: for all processes what happens once per session, for one the transfers.
/// Opening is tried until the former content is let go. Returns the request for the transfers.
fn arm(attacher: &mut Attacher, python: &Python) -> (Request, u32) {
    let (start, end) = mapping(python.pid(), "libssl", "r-xp").expect("libssl");
    let mut open = request(Verb::OpenMapped);
    (open.pid, open.value, open.end) = (python.pid(), start, end);
    let deadline = Instant::now() + PATIENCE;
    let (library, descriptor) = loop {
        let (reply, descriptor) = attacher.ask(open);
        match Refusal::from_wire(reply.refusal) {
            Some(Refusal::None) => break (reply, descriptor),
            Some(Refusal::Stale) if Instant::now() < deadline => std::thread::yield_now(),
            other => panic!("opening: {other:?}"),
        }
    };
    let names = ["SSL_ctrl", "SSL_free", "SSL_write", "SSL_write_ex", "SSL_read", "SSL_read_ex"];
    let offsets = exported(descriptor.expect("descriptor"), &names);
    let once = [(Hook::SslCtrl, offsets[0]), (Hook::SslFree, offsets[1])];
    attacher.done(attach(library.file, 0, &once));
    let calls = [Hook::SslWrite, Hook::SslWriteEx, Hook::SslRead, Hook::SslReadEx];
    let calls: Vec<_> = calls.into_iter().zip(offsets[2..].iter().copied()).collect();
    let transfers = attach(library.file, python.pid(), &calls);
    attacher.done(transfers);
    (transfers, python.pid())
}

/// Waits for plaintext with a word, then counts how often a session of the process was named.
fn seen(attacher: &mut Attacher, pid: u32, word: &str) -> usize {
    let holds = |record: &[u8]| record.windows(word.len()).any(|window| window == word.as_bytes());
    assert!(read_until(&mut attacher.ring(Descriptor::Content), holds), "{word} is seen");
    let mut events = attacher.ring(Descriptor::Events);
    let mut named = 0;
    while let Some(record) = events.next() {
        let is_named =
            Head::read_from_prefix(&record).is_ok_and(|(head, _)| head.kind == Kind::SessionNamed.wire());
        let ours = SessionNamed::read_from_prefix(&record).is_ok_and(|(session, _)| session.task.tgid == pid);
        named += usize::from(is_named && ours);
    }
    named
}
