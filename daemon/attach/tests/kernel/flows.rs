//! Bytes of a connection equal the application's, however it ends: FINs, resets, half-closes, bytes never read.

use std::time::Instant;

use abi::attacher::Descriptor;
use abi::event::{Closed, Connect, Established, Head, Kind};
use zerocopy::FromBytes;

use crate::harness::{Attacher, PATIENCE, Python, can_run, read_until};

/// Both ends of a connection in one process. Each line names a case and an address; the answer is the client's port,
/// and the bytes it sent and got by its own count.
const SCRIPT: &str = r#"
import socket, struct, sys, threading
SENT, GOT = 12345, 6789
def pair(host):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    l = socket.socket(family); l.bind((host, 0)); l.listen(1)
    c = socket.socket(family); c.connect(l.getsockname()); s, _ = l.accept(); l.close()
    return c, s
def read(s, n):
    while n > 0:
        part = s.recv(65536)
        if not part: break
        n -= len(part)
def exchange(c, s):
    c.sendall(b'a' * SENT); read(s, SENT); s.sendall(b'b' * GOT); read(c, GOT)
def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()
def client_first(c, s): exchange(c, s); c.close(); read(s, 1); s.close(); return SENT, GOT
def server_first(c, s): exchange(c, s); s.close(); read(c, 1); c.close(); return SENT, GOT
def reset_by_client(c, s): exchange(c, s); reset(c); s.close(); return SENT, GOT
def reset_by_server(c, s):
    exchange(c, s); reset(s)
    try: read(c, 1)
    except ConnectionResetError: pass
    c.close(); return SENT, GOT
def client_half_closes(c, s):
    exchange(c, s); c.shutdown(socket.SHUT_WR); read(s, 1); s.sendall(b'z' * 10); read(c, 10); s.close(); read(c, 1); c.close()
    return SENT, GOT + 10
def server_half_closes(c, s):
    exchange(c, s); s.shutdown(socket.SHUT_WR); read(c, 1); c.sendall(b'z' * 7); read(s, 7); c.close(); read(s, 1); s.close()
    return SENT + 7, GOT
def server_never_closes(c, s): exchange(c, s); c.close(); keep.append(s); return SENT, GOT
def nothing(c, s): c.close(); s.close(); return 0, 0
def large(c, s):
    n = 20_000_000
    t = threading.Thread(target=c.sendall, args=(b'q' * n,)); t.start(); read(s, n); t.join(); s.close(); read(c, 1); c.close()
    return n, 0
keep = []
print('ready', flush=True)
for line in sys.stdin:
    case, host = line.split()
    c, s = pair(host)
    port = c.getsockname()[1]
    print(port, *globals()[case](c, s), flush=True)
"#;

const CASES: [&str; 9] = [
    "client_first",
    "server_first",
    "reset_by_client",
    "reset_by_server",
    "client_half_closes",
    "server_half_closes",
    "server_never_closes",
    "nothing",
    "large",
];

#[test]
fn bytes_of_a_connection_are_the_applications() {
    if !can_run("bytes_of_a_connection_are_the_applications") {
        return;
    }
    let attacher = Attacher::armed(&[]);
    let mut events = attacher.ring(Descriptor::Events);
    let mut python = Python::start(SCRIPT, &[]).expect("python3");
    for host in ["127.0.0.1", "::1"] {
        for case in CASES {
            let answer = python.tell(&format!("{case} {host}"));
            let numbers: Vec<u64> = answer.split(' ').filter_map(|part| part.parse().ok()).collect();
            let [port, sent, received] = numbers[..] else { panic!("{case} {host}: {answer:?}") };
            let mut seen = (false, false);
            let mut counted = None;
            let began = Instant::now();
            let found = read_until(&mut events, |record| {
                let (head, _) = Head::read_from_prefix(record).expect("head");
                match Kind::from_wire(head.kind) {
                    Some(Kind::Connect) => {
                        let connect = Connect::read_from_bytes(record).expect("connect");
                        seen.0 |= connect.task.tgid == python.pid() && connect.tuple.local_port == 0;
                    }
                    Some(Kind::Established) => {
                        let established = Established::read_from_bytes(record).expect("established");
                        seen.1 |= established.tgid == python.pid()
                            && u64::from(established.tuple.local_port) == port;
                    }
                    Some(Kind::Closed) => {
                        let closed = Closed::read_from_bytes(record).expect("closed");
                        if closed.tgid == python.pid() && u64::from(closed.tuple.local_port) == port {
                            assert_eq!(closed.has_bytes, 1, "no BTF: {:?}", attacher.detail());
                            counted = Some((closed.bytes_sent, closed.bytes_received));
                        }
                    }
                    _ => {}
                }
                counted.is_some()
            });
            assert!(found, "{case} {host}: no end after {:?} of {PATIENCE:?}", began.elapsed());
            assert_eq!(seen, (true, true), "{case} {host}: connect and established of the client, once");
            assert_eq!(counted, Some((sent, received)), "{case} {host}");
        }
    }
}
