//! QUIC: whose connection, with whom, how many bytes - from a real client over a real link, by the client's own count.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use e2e::clients::World;
use e2e::daemon::{Daemon, PATIENCE, pause};
use e2e::lab::Lab;
use e2e::needs_kernel;
use e2e::toolbox::{quic_python, workspace};
use serde_json::Value;

const NAMESPACE: &str = "venturi-quic";
const FAR: [&str; 2] = ["198.18.79.2", "fd79::2"];

/// A veth pair into a namespace where servers listen.
struct Link;

impl Link {
    fn new() -> Link {
        drop(Link);
        for arguments in [
            format!("netns add {NAMESPACE}"),
            format!("link add vquic0 type veth peer name vquic1 netns {NAMESPACE}"),
            "addr add 198.18.79.1/30 dev vquic0".to_owned(),
            "addr add fd79::1/64 dev vquic0 nodad".to_owned(),
            "link set vquic0 up".to_owned(),
            format!("-n {NAMESPACE} addr add 198.18.79.2/30 dev vquic1"),
            format!("-n {NAMESPACE} addr add fd79::2/64 dev vquic1 nodad"),
            format!("-n {NAMESPACE} link set vquic1 up"),
        ] {
            assert!(ip(&arguments), "ip {arguments}");
        }
        Link
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        ip("link del vquic0");
        ip(&format!("netns del {NAMESPACE}"));
    }
}

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A child that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_quic_connection_is_a_flow_with_its_process_and_the_bytes_of_the_client() {
    needs_kernel!("a_quic_connection_is_a_flow_with_its_process_and_the_bytes_of_the_client");
    let python = quic_python().expect("Python with aioquic");
    let script = workspace().join("tests/clients/quic.py");
    let lab = Lab::new(&["http/1.1"]);
    let _link = Link::new();
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    for far in FAR {
        let mut server = Command::new("ip");
        server.args(["netns", "exec", NAMESPACE]).arg(&python).arg(&script).args(["serve", far]);
        let mut server = Server(server.stdout(Stdio::piped()).spawn().expect("a server"));
        let mut line = String::new();
        let output = server.0.stdout.as_mut().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a word");
        assert_eq!(line, "ready\n");

        let address: IpAddr = far.parse().expect("an address");
        let hosts = BTreeMap::from([("api.openai.com".to_owned(), address)]);
        let world = World { hosts, ca: lab.world.ca.clone() };
        let mut command = world.command(lab.path(), &python).expect("a command");
        command.arg(&script).args(["call", "api.openai.com"]);
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
        let pid = client.id();
        let mut output = BufReader::new(client.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a word");
        assert_eq!(line, "ready\n", "it has looked the name up");
        until(&daemon, "a tap", &["status", "--json"], |status| status["tap"]["open_now"] == 1);
        writeln!(client.stdin.take().expect("its input"), "go").expect("the word");
        let mut text = String::new();
        output.read_to_string(&mut text).expect("its report");
        assert!(client.wait().expect("its end").success(), "the client failed");
        let counted: Value = serde_json::from_str(&text).expect("its report");

        let flow = until(&daemon, "the flow", &["flows", "--json", "--limit", "1000"], |flow| {
            flow["workload"]["pid"] == pid && flow["protocol"] == "udp"
        });
        assert_eq!(flow["provider"], "openai", "{flow}");
        assert_eq!(flow["host"], "api.openai.com", "{flow}");
        assert_eq!(flow["identified_by"], "sni", "{flow}");
        assert_eq!(flow["bytes_sent"], counted["sent"], "{flow}");
        assert_eq!(flow["bytes_received"], counted["received"], "{flow}");
        let text = flow.to_string();
        assert!(text.contains("quic") && text.contains("metadata_only"), "{flow}");
        assert!(!flow["ended_at"].is_null(), "{flow}");
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// The first line of an answer that satisfies `wanted`, waited for.
fn until(daemon: &Daemon, what: &str, question: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
    let started = std::time::Instant::now();
    loop {
        let lines = daemon.json_lines(question).expect("an answer");
        if let Some(line) = lines.iter().find(|line| wanted(line)) {
            return line.clone();
        }
        assert!(started.elapsed() < PATIENCE, "not {what}: {lines:?}\n{}", daemon.log());
        pause();
    }
}
