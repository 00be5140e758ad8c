//! Every verb refuses what is outside its allowlist.

use abi::attacher::{Hook, Place, Refusal, Request, StateFile, Verb};
use zerocopy::IntoBytes;

use crate::harness::{Attacher, Python, attach, can_run, mapping, request, with_path};

const SCRIPT: &str = "import ssl,sys\nprint('ready',flush=True)\nsys.stdin.readline()";

fn with(verb: Verb, change: impl FnOnce(&mut Request)) -> Request {
    let mut request = request(verb);
    change(&mut request);
    request
}

#[test]
fn a_socket_has_a_holder_and_a_program_its_misses() {
    if !can_run("a_socket_has_a_holder_and_a_program_its_misses") {
        return;
    }
    let mut attacher = Attacher::armed(&[]);
    let script = "import socket,sys,os\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nprint('ready',flush=True)\n\
                  for line in sys.stdin: print(os.stat(s.fileno()).st_ino,flush=True)";
    let mut holder = Python::start(script, &[]).expect("python3");
    let inode: u64 = holder.tell("which").parse().expect("an inode");
    let uid = u64::from(nix::unistd::getuid().as_raw());
    let owner = |inode, uid| with(Verb::SocketOwner, |r| (r.value, r.end) = (inode, uid));
    let (reply, _) = attacher.done(owner(inode, uid));
    assert_eq!(reply.value, u64::from(holder.pid()));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", holder.pid())).expect("stat");
    assert!(stat.contains(&format!(" {} ", reply.file)), "{} starts a process of {stat}", reply.file);
    check(&mut attacher, "another user's", owner(inode, uid + 1), Refusal::Gone);
    check(&mut attacher, "no user", owner(inode, u64::MAX), Refusal::NotAllowed);
    drop(holder);
    check(&mut attacher, "a socket that was closed", owner(inode, uid), Refusal::Gone);

    let misses = |id: u32| with(Verb::Misses, |r| r.value = u64::from(id));
    let programs = attacher.hello.programs;
    for program in &programs[..attacher.hello.program_count as usize] {
        attacher.done(misses(program.id));
    }
    let foreign = programs.iter().map(|program| program.id).max().unwrap_or_default() + 1_000;
    check(&mut attacher, "a program of somebody else", misses(foreign), Refusal::Gone);
    check(&mut attacher, "no id", with(Verb::Misses, |r| r.value = u64::MAX), Refusal::NotAllowed);
}

#[test]
fn requests_outside_the_allowlists_are_refused() {
    if !can_run("requests_outside_the_allowlists_are_refused") {
        return;
    }
    let mut attacher = Attacher::armed(&[]);
    let target = Python::start(SCRIPT, &[]).expect("python3 with ssl");
    let pid = target.pid();
    let code = mapping(pid, "libssl", "r-xp").expect("code");
    let data = mapping(pid, "libssl", "r--p").expect("data");
    let heap = mapping(pid, "[heap]", "rw-p").expect("heap");
    let mapped =
        |(start, end): (u64, u64)| with(Verb::OpenMapped, |r| (r.pid, r.value, r.end) = (pid, start, end));
    let (opened, descriptor) = attacher.done(mapped(code));
    assert!(descriptor.is_some() && opened.inode > 0);
    assert_eq!(attacher.done(mapped(code)).0.file, opened.file, "the number is stable");
    let file = opened.file;
    // The executable mapping of libssl starts behind its headers.
    let outside = 0;
    let write = [(Hook::SslWrite, outside)];

    check(&mut attacher, "offset outside code", attach(file, pid, &write), Refusal::NotAllowed);
    check(&mut attacher, "read and write hooks for everybody", attach(file, 0, &write), Refusal::NotAllowed);
    check(&mut attacher, "unknown file", attach(file + 99, pid, &write), Refusal::Stale);
    check(&mut attacher, "no places", attach(file, pid, &[]), Refusal::NotAllowed);
    let mut many = attach(file, pid, &write);
    many.place_count = 17;
    check(&mut attacher, "more places than fit", many, Refusal::NotAllowed);
    let mut unknown = attach(file, pid, &write);
    unknown.places[0] = Place { offset: outside, hook: 99, reserved: 0 };
    check(&mut attacher, "unknown hook", unknown, Refusal::NotAllowed);

    check(&mut attacher, "data mapping", mapped(data), Refusal::NotAllowed);
    check(&mut attacher, "heap", mapped(heap), Refusal::NotAllowed);
    check(&mut attacher, "half a mapping", mapped((code.0, code.1 - 4096)), Refusal::Gone);
    check(&mut attacher, "upside down", mapped((code.1, code.0)), Refusal::NotAllowed);
    check(&mut attacher, "no process", with(Verb::OpenMaps, |r| r.pid = 0), Refusal::NotAllowed);
    check(
        &mut attacher,
        "impossible process",
        with(Verb::OpenMaps, |r| r.pid = u32::MAX),
        Refusal::NotAllowed,
    );
    let recycled = with(Verb::OpenMaps, |r| (r.pid, r.start_ticks) = (pid, 1));
    check(&mut attacher, "recycled process id", recycled, Refusal::Gone);

    check(
        &mut attacher,
        "loopback tap without the flag",
        with(Verb::TapOpen, |r| r.value = 1),
        Refusal::NotAllowed,
    );
    check(&mut attacher, "tap on interface 0", with(Verb::TapOpen, |r| r.value = 0), Refusal::NotAllowed);
    check(
        &mut attacher,
        "tap on a huge number",
        with(Verb::TapOpen, |r| r.value = 1 << 40),
        Refusal::NotAllowed,
    );
    check(&mut attacher, "tap on no interface", with(Verb::TapOpen, |r| r.value = 999_999), Refusal::Gone);
    check(&mut attacher, "closing no tap", with(Verb::TapClose, |r| r.value = 1), Refusal::Gone);
    check(&mut attacher, "detaching nothing", with(Verb::Detach, |r| r.value = 12345), Refusal::Gone);

    let state = |which: StateFile, path: &str| {
        with_path(with(Verb::OpenState, |r| r.value = which.wire().into()), path)
    };
    for evil in ["..", "../../../etc", "a/../b", "a//b", "", "/etc/passwd", "x\0y"] {
        for which in StateFile::ALL {
            check(&mut attacher, evil, state(*which, evil), Refusal::NotAllowed);
        }
    }
    check(
        &mut attacher,
        "unknown container",
        state(StateFile::RuncState, "no-such-container"),
        Refusal::Gone,
    );
    check(&mut attacher, "unknown state file", with(Verb::OpenState, |r| r.value = 99), Refusal::NotAllowed);
    let too_long = with(Verb::OpenState, |r| (r.value, r.path_len) = (1, 193));
    check(&mut attacher, "longer than the field", too_long, Refusal::NotAllowed);
    check(&mut attacher, "unknown verb", with(Verb::Attach, |r| r.verb = 77), Refusal::NotAllowed);

    // Messages that are no requests get an answer with id 0, and the next request is served.
    for len in [1, 8, size_of::<Request>() - 1] {
        attacher.post_raw(&request(Verb::Attach).as_bytes()[..len]);
        assert_eq!(attacher.wait(0).0.refusal, Refusal::NotAllowed.wire(), "{len} bytes");
    }
    attacher.done(with(Verb::OpenMaps, |r| r.pid = pid));
}

fn check(attacher: &mut Attacher, what: &str, request: Request, expected: Refusal) {
    let (reply, descriptor) = attacher.ask(request);
    assert_eq!(Refusal::from_wire(reply.refusal), Some(expected), "{what}: errno {}", reply.errno);
    assert!(descriptor.is_none(), "{what}");
}

#[test]
fn a_state_file_is_opened_but_no_link_is_followed() {
    if !can_run("a_state_file_is_opened_but_no_link_is_followed") {
        return;
    }
    let name = format!("venturi-test-{}", std::process::id());
    let directory = std::path::Path::new("/run/runc").join(&name);
    let existed = directory.parent().is_some_and(std::path::Path::exists);
    std::fs::create_dir_all(&directory).expect("make the directory");
    let file = directory.join("state.json");
    let state = with_path(with(Verb::OpenState, |r| r.value = StateFile::RuncState.wire().into()), &name);
    let mut attacher = Attacher::armed(&[]);

    std::fs::write(&file, b"{}").expect("write");
    let (_, descriptor) = attacher.done(state);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(descriptor.expect("descriptor")), &mut text)
        .expect("read");
    assert_eq!(text, "{}");

    std::fs::remove_file(&file).expect("remove");
    std::os::unix::fs::symlink("/etc/shadow", &file).expect("link");
    check(&mut attacher, "a link", state, Refusal::NotAllowed);

    std::fs::remove_dir_all(&directory).expect("clean up");
    if !existed {
        // Another test may have put something there in the meantime; then it stays.
        let _ = std::fs::remove_dir("/run/runc");
    }
}
