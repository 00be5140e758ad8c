//! Capabilities, start without rights, end.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use abi::attacher::{Descriptor, Hook, Limit, Verb};
use abi::event::{Connect, Head, Kind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zerocopy::FromBytes;

use crate::harness::{Attacher, Python, attach, can_run, exported, mapping, read_until, request};

/// BPF, PERFMON, NET_RAW, SYS_PTRACE, CHECKPOINT_RESTORE; below 5.11 SYS_RESOURCE too.
fn exact_set() -> u64 {
    let base = 1 << 39 | 1 << 38 | 1 << 13 | 1 << 19 | 1 << 40;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (5, 11) { base | 1 << 24 } else { base }
}

#[test]
fn it_runs_with_exactly_its_capabilities() {
    if !can_run("it_runs_with_exactly_its_capabilities") {
        return;
    }
    let attacher = Attacher::armed(&[]);
    let exact = exact_set();
    assert_eq!(attacher.hello.capabilities, exact);
    // Every thread is asked, not the process's own word.
    let pid = attacher.child.id();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let mut threads = 0;
    for task in tasks {
        threads += 1;
        let status = std::fs::read_to_string(task.expect("task").path().join("status")).expect("status");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("field");
            u64::from_str_radix(line.split_whitespace().nth(1).expect("value"), 16).expect("hexadecimal")
        };
        assert_eq!(
            [field("CapPrm"), field("CapEff"), field("CapInh"), field("CapBnd"), field("CapAmb")],
            [exact, exact, 0, 0, 0]
        );
        assert_eq!(field("NoNewPrivs"), 1);
    }
    assert!(threads >= 3, "{threads}");
}

#[test]
fn what_is_loaded_is_what_the_table_says() {
    if !can_run("what_is_loaded_is_what_the_table_says") {
        return;
    }
    let attacher = Attacher::armed(&[]);
    let mut counts = [0; 32];
    for program in &attacher.hello.programs[..attacher.hello.program_count as usize] {
        counts[program.prog_type as usize] += 1;
        assert!(program.id > 0 && program.instructions > 0 && program.tag != [0; 8]);
    }
    // Socket filter, kprobe type (uprobes), tracepoint, raw tracepoint.
    assert_eq!([counts[1], counts[2], counts[5], counts[17]], [1, 13, 3, 1]);
    assert_eq!(counts.iter().sum::<u32>(), 18);
    assert!(!attacher.limits().contains(&Limit::ReadBackDiffers.wire()));
}

#[test]
fn a_connection_of_another_process_is_seen() {
    if !can_run("a_connection_of_another_process_is_seen") {
        return;
    }
    let attacher = Attacher::armed(&[]);
    let mut events = attacher.ring(Descriptor::Events);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    let mut client = Command::new("bash")
        .args(["-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port}")])
        .spawn()
        .expect("bash");
    let client_pid = client.id();
    client.wait().expect("bash ends");
    let seen = read_until(&mut events, |record| {
        let Ok((head, _)) = Head::read_from_prefix(record) else { return false };
        let connect = Connect::read_from_prefix(record).map(|(connect, _)| connect);
        head.kind == Kind::Connect.wire()
            && connect.is_ok_and(|c| {
                c.task.tgid == client_pid && c.tuple.remote_port == port && c.task.start_ns > 0
            })
    });
    assert!(seen, "no connect event of process {client_pid}");
}

#[test]
fn without_rights_it_says_what_is_missing() {
    if !can_run("without_rights_it_says_what_is_missing") {
        return;
    }
    let copy = std::env::temp_dir().join(format!("venturi-attach-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_venturi-attach"), &copy).expect("copy to where anybody may execute it");
    let mut attacher = Attacher::start(&[], |command| {
        let reachable = Command::new(&copy);
        *command = reachable;
        command.uid(65534).gid(65534)
    });
    assert_eq!(attacher.hello.armed, 0);
    assert_eq!(attacher.limits(), [Limit::MissingCapability.wire()]);
    assert!(attacher.detail().contains("CAP_BPF"), "{}", attacher.detail());
    assert_eq!(attacher.child.wait().expect("ends").code(), Some(1));
    std::fs::remove_file(copy).expect("remove");
}

#[test]
fn it_ends_with_main_and_on_term_but_not_on_interrupt() {
    if !can_run("it_ends_with_main_and_on_term_but_not_on_interrupt") {
        return;
    }
    let mut attacher = Attacher::armed(&[]);
    let pid = Pid::from_raw(attacher.child.id().cast_signed());
    kill(pid, Signal::SIGINT).expect("kill");
    attacher.done({
        let mut maps = request(Verb::OpenMaps);
        maps.pid = std::process::id();
        maps
    });
    kill(pid, Signal::SIGTERM).expect("kill");
    assert_eq!(attacher.child.wait().expect("ends").code(), Some(0));

    let mut attacher = Attacher::armed(&[]);
    attacher.hang_up();
    assert_eq!(attacher.child.wait().expect("ends").code(), Some(0));
}

#[test]
fn it_ends_promptly_with_a_hundred_armed_processes() {
    if can_run("it_ends_promptly_with_a_hundred_armed_processes") {
        check_end("uprobe_multi", &[]);
        check_end("sites", &["--no-uprobe-multi"]);
    }
}

fn check_end(way: &str, arguments: &[&str]) {
    const SCRIPT: &str = "import ssl,sys\nprint('ready',flush=True)\nsys.stdin.readline()";
    let processes = Python::start_many(100, SCRIPT);
    assert_eq!(processes.len(), 100, "python3 with ssl");
    let mut attacher = Attacher::armed(arguments);
    if attacher.cannot_probe(way) {
        return;
    }
    let (start, end) = mapping(processes[0].pid(), "libssl", "r-xp").expect("libssl");
    let mut open = request(Verb::OpenMapped);
    (open.pid, open.value, open.end) = (processes[0].pid(), start, end);
    let (reply, library) = attacher.done(open);
    let names = ["SSL_write", "SSL_write_ex", "SSL_read", "SSL_read_ex"];
    let offsets = exported(library.expect("descriptor"), &names);
    let hooks = [Hook::SslWrite, Hook::SslWriteEx, Hook::SslRead, Hook::SslReadEx];
    let places: Vec<(Hook, u64)> = hooks.into_iter().zip(offsets).collect();
    for process in &processes {
        attacher.done(attach(reply.file, process.pid(), &places));
    }
    let asked = Instant::now();
    attacher.hang_up();
    assert_eq!(attacher.child.wait().expect("ends").code(), Some(0));
    let took = asked.elapsed();
    println!("end with 100 armed processes ({way}): {} ms", took.as_millis());
    assert!(took < Duration::from_secs(10), "{took:?}");
    let left = std::fs::read_dir("/sys/kernel/tracing/events/venturi").into_iter().flatten().flatten();
    let own = format!("at_{}_", attacher.child.id());
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count(), 0);
}
