//! The zoo: every forbidden object is refused by name, kind and rule; the allowed ones and the committed object pass.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use attach::gate::{self, GateError, Rule};

/// Feeds `fixtures/zoo/NAME.o` to the gate. `expected` is every (program, kind, rule) it must name, sorted; none: allowed.
fn check(name: &str, expected: &[(&str, &str, Rule)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo").join(name).with_extension("o");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found = match gate::judge_object(&bytes) {
        Ok(_) => Vec::new(),
        Err(GateError::Forbidden(findings)) => {
            findings.into_iter().map(|finding| (finding.program, finding.kind, finding.rule)).collect()
        }
        Err(GateError::Unreadable(why)) => panic!("{name}: unreadable: {why}"),
    };
    let expected: Vec<(String, String, Rule)> =
        expected.iter().map(|(program, kind, rule)| (program.to_string(), kind.to_string(), *rule)).collect();
    assert_eq!(found, expected, "{name}");
}

#[test]
fn forbidden_kinds_are_refused_by_name() {
    for section in CGROUP {
        let short = cgroup_short(section);
        check(&format!("cgroup_{short}"), &[(&format!("deny_{short}"), section, Rule::ProgramKind)]);
    }
    for (file, program, kind) in KINDS {
        check(file, &[(program, kind, Rule::ProgramKind)]);
    }
}

/// What the fixture of a cgroup section is called, behind `cgroup_`.
fn cgroup_short(section: &str) -> String {
    let short = section.replace('/', "_");
    short.strip_prefix("cgroup_").unwrap_or(&short).to_owned()
}

/// Every kind of program that can be attached to a cgroup.
const CGROUP: &[&str] = &[
    "cgroup_skb/ingress",
    "cgroup_skb/egress",
    "cgroup/skb",
    "cgroup/sock",
    "cgroup/sock_create",
    "cgroup/sock_release",
    "cgroup/post_bind4",
    "cgroup/post_bind6",
    "cgroup/bind4",
    "cgroup/bind6",
    "cgroup/connect4",
    "cgroup/connect6",
    "cgroup/connect_unix",
    "cgroup/sendmsg4",
    "cgroup/sendmsg6",
    "cgroup/recvmsg4",
    "cgroup/recvmsg6",
    "cgroup/getpeername4",
    "cgroup/getsockname4",
    "cgroup/getsockopt",
    "cgroup/setsockopt",
    "cgroup/sysctl",
    "cgroup/dev",
    "lsm_cgroup/socket_create",
];

const KINDS: &[(&str, &str, &str)] = &[
    ("xdp", "drop_packets", "xdp"),
    ("xdp_frags", "drop_fragments", "xdp.frags/devmap"),
    ("tc", "mangle", "tc"),
    ("classifier", "mangle_egress", "classifier"),
    ("action", "act", "action"),
    ("tcx", "mangle_ingress", "tcx/ingress"),
    ("sk_msg", "redirect_message", "sk_msg"),
    ("sk_skb", "redirect_stream", "sk_skb/stream_verdict"),
    ("sockops", "tune", "sockops"),
    ("sk_lookup", "steer", "sk_lookup"),
    ("sk_reuseport", "pick", "sk_reuseport"),
    ("lsm", "deny_open", "lsm/file_open"),
    ("lsm_sleepable", "deny_exec", "lsm.s/bprm_check_security"),
    ("fmod_ret", "fail_connect", "fmod_ret/__x64_sys_connect"),
    ("fentry", "before_send", "fentry/tcp_sendmsg"),
    ("fexit", "after_send", "fexit/tcp_sendmsg"),
    ("freplace", "replace_other", "freplace/other"),
    ("netfilter", "drop_in_netfilter", "netfilter"),
    ("lwt_xmit", "push_header", "lwt_xmit"),
    ("flow_dissector", "dissect", "flow_dissector"),
    ("perf_event", "sample", "perf_event"),
    ("kprobe", "on_kernel_function", "kprobe/tcp_sendmsg"),
    ("kprobe_multi", "on_many", "kprobe.multi/tcp_*"),
    ("ksyscall", "on_syscall", "ksyscall/connect"),
    ("uprobe_sleepable", "may_fault", "uprobe.s"),
    ("iter", "walk_tasks", "iter/task"),
    ("syscall", "run_syscall", "syscall"),
    ("raw_tracepoint_writable", "rewrite_request", "raw_tp.w/nbd_send_request"),
    ("raw_tracepoint_writable_long", "rewrite_request", "raw_tracepoint.w/nbd_send_request"),
    ("tp_btf", "on_switch", "tp_btf/sched_switch"),
    ("hidden_behind_allowed", "forbidden", "xdp"),
    ("struct_ops_map_only", ".struct_ops.link", "struct_ops"),
];

#[test]
fn struct_ops_is_refused_as_program_and_as_table() {
    check(
        "struct_ops",
        &[
            (".struct_ops", "struct_ops", Rule::ProgramKind),
            ("choose_ssthresh", "struct_ops/ssthresh", Rule::ProgramKind),
        ],
    );
}

#[test]
fn forbidden_helpers_are_refused_wherever_they_are() {
    for (file, program, kind) in HELPERS {
        check(file, &[(program, kind, Rule::Helper)]);
    }
}

const HELPERS: &[(&str, &str, &str)] = &[
    ("probe_write_user", "scribble", "uprobe"),
    ("override_return", "fail_call", "uprobe"),
    ("send_signal", "kill_it", "tracepoint/sched/sched_process_exec"),
    ("send_signal_thread", "kill_thread", "uprobe"),
    ("redirect", "send_elsewhere", "socket"),
    ("skb_store_bytes", "rewrite_packet", "socket"),
    ("setsockopt", "tune_socket", "tracepoint/sock/inet_sock_set_state"),
    ("trace_printk", "chatter", "uprobe"),
    ("sys_bpf", "call_bpf", "uprobe"),
    ("copy_from_user", "may_sleep", "uprobe"),
    ("hidden_in_subprogram", "deep", "subprogram"),
    ("hidden_in_uncalled_subprogram", "nobody_calls_me", "subprogram"),
    ("hidden_in_same_section", "forbidden", "uprobe"),
];

#[test]
fn a_refused_helper_is_named() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo/probe_write_user.o");
    let bytes = std::fs::read(path).expect("fixture");
    let text = gate::judge_object(&bytes).expect_err("forbidden").to_string();
    assert_eq!(text, "forbidden: scribble (uprobe): helper: bpf_probe_write_user");
}

#[test]
fn ways_out_of_the_judged_code_are_refused() {
    check("kfunc", &[("calls_kernel", "uprobe", Rule::Kfunc)]);
    check("kfunc_by_number", &[("calls_kernel", "uprobe", Rule::Kfunc)]);
    check("tail_call", &[("leaves", "uprobe", Rule::TailCall)]);
    check("indirect_call", &[("jumps_anywhere", "uprobe", Rule::Opcode)]);
    check("unknown_section", &[("unheard_of", "unknown", Rule::UnknownSection)]);
    check("data_section_with_code", &[("disguised", "unknown", Rule::UnknownSection)]);
    check("two_socket_filters", &[("tap,second", "socket", Rule::SocketFilter)]);
    check("tracepoint_per_syscall", &[("every_syscall", "tracepoint", Rule::AttachTarget)]);
}

#[test]
fn writing_the_callers_registers_is_refused() {
    check("context_write", &[("change_result", "uprobe", Rule::ContextWrite)]);
    check("context_write_in_subprogram", &[("change_result", "uretprobe", Rule::ContextWrite)]);
}

/// Kinds of maps that are refused.
const MAPS: &[&str] = &[
    "prog_array",
    "perf_event_array",
    "hash_of_maps",
    "devmap",
    "sockmap",
    "cpumap",
    "xskmap",
    "sockhash",
    "reuseport_sockarray",
    "task_storage",
    "user_ringbuf",
];

#[test]
fn forbidden_maps_are_refused_by_name() {
    for name in MAPS {
        check(&format!("map_{name}"), &[("forbidden_map", "map", Rule::MapType)]);
    }
    check("map_pinned", &[("pinned", "map", Rule::MapFlags)]);
    check("map_flags", &[("inner", "map", Rule::MapFlags)]);
}

#[test]
fn observing_objects_pass() {
    check("allowed_all_kinds", &[]);
    check("allowed_uprobe_multi", &[]);
}

#[test]
fn every_fixture_is_named_in_this_file() {
    let cgroups = CGROUP.iter().map(|section| format!("cgroup_{}", cgroup_short(section)));
    let listed: BTreeSet<String> = cgroups.chain(MAPS.iter().map(|name| format!("map_{name}"))).collect();
    let source = include_str!("gate.rs");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo");
    for entry in std::fs::read_dir(dir).expect("zoo") {
        let path = entry.expect("entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|extension| extension == "o") {
            let named = listed.contains(&stem) || source.contains(&format!("\"{stem}\","));
            assert!(named, "{stem}.o is in the zoo but no test feeds it to the gate");
        }
    }
}

#[test]
fn arbitrary_bytes_are_unreadable_and_never_a_panic() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo/allowed_all_kinds.o");
    let good = std::fs::read(path).expect("fixture");
    for cut in 0..good.len() {
        let _ = gate::judge_object(&good[..cut]);
    }
    // A deterministic walk over single-byte damage (xorshift), so that a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..4000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut bad = good.clone();
        let at = (state as usize >> 8) % bad.len();
        bad[at] ^= state as u8 | 1;
        let _ = gate::judge_object(&bad);
    }
    for bytes in [&b""[..], b"\x7fELF", b"not an object"] {
        assert!(matches!(gate::judge_object(bytes), Err(GateError::Unreadable(_))));
    }
}

#[test]
fn the_program_answers_with_its_exit_code() {
    for (file, code, text) in [
        ("zoo/xdp.o", 1, "drop_packets (xdp): program-kind"),
        ("zoo/allowed_all_kinds.o", 0, "allowed"),
        ("zoo/zoo.h", 2, "not a readable BPF object"),
        ("zoo/missing.o", 2, "No such file"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file);
        let output =
            Command::new(env!("CARGO_BIN_EXE_venturi-attach")).arg("gate").arg(path).output().expect("run");
        let all =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{file}: {all}");
        assert!(all.contains(text), "{file}: {all}");
    }
}

#[test]
fn the_committed_objects_pass() {
    for architecture in ["x86_64", "aarch64"] {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../ebpf/objects/probes.{architecture}.o"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let approval = gate::judge_object(&bytes).unwrap_or_else(|error| panic!("{architecture}: {error}"));
        assert_eq!(approval.programs.len(), 18, "{architecture}");
    }
}
