//! Plaintext of exactly the processes that were armed: all their threads, libraries they load later, nobody else.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use abi::attacher::{Descriptor, Hook, Verb};
use abi::control::{HOST_KEY_BYTES, HostKey};
use abi::event::{Head, Kind, SessionNamed};
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map};
use zerocopy::FromBytes;

use crate::harness::{Attacher, Python, attach, can_run, exported, mapping, read_until, request};

const HOST: &str = "api.provider.test";

/// A TLS client and server in one process, over memory; commands: `load` imports ssl, `talk WORD` writes it from a
/// thread of its own.
pub(crate) const SCRIPT: &str = r#"
import sys, threading
def talk(word):
    import ssl
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); server.load_cert_chain(sys.argv[1], sys.argv[2])
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); client.check_hostname = False; client.verify_mode = ssl.CERT_NONE
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    c = client.wrap_bio(a, b, server_hostname='api.provider.test'); s = server.wrap_bio(b, a, server_side=True)
    done = set()
    while len(done) < 2:
        for side in (c, s):
            try: side.do_handshake(); done.add(side)
            except ssl.SSLWantReadError: pass
    c.write(('POST /' + word + ' HTTP/1.1\r\nHost: api.provider.test\r\n\r\n').encode()); s.read(4096)
print('ready', flush=True)
for line in sys.stdin:
    verb, _, word = line.strip().partition(' ')
    if verb == 'load': import ssl
    if verb == 'talk':
        thread = threading.Thread(target=talk, args=(word,)); thread.start(); thread.join()
    print('done', flush=True)
"#;

#[test]
fn plaintext_comes_from_armed_processes_only() {
    if can_run("plaintext_comes_from_armed_processes_only") {
        check("multi", &[]);
    }
}

#[test]
fn plaintext_comes_from_armed_processes_only_without_uprobe_multi() {
    if can_run("plaintext_comes_from_armed_processes_only_without_uprobe_multi") {
        check("sites", &["--no-uprobe-multi"]);
    }
}

fn check(name: &str, arguments: &[&str]) {
    let directory = std::env::temp_dir().join(format!("venturi-attach-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    let (certificate, key) = certificate(&directory);
    let start = || Python::start(SCRIPT, &[&certificate, &key]).expect("python3 with ssl");
    let (mut donor, mut armed) = (start(), start());
    assert_eq!(donor.tell("load"), "done");
    assert!(
        mapping(armed.pid(), "libssl", "r-xp").is_none(),
        "the armed process has not loaded the library yet"
    );

    let mut attacher = Attacher::armed(arguments);
    if attacher.cannot_probe(name) {
        return;
    }
    know_host(&attacher);
    let (first, last) = mapping(donor.pid(), "libssl", "r-xp").expect("libssl");
    let mut open = request(Verb::OpenMapped);
    (open.pid, open.value, open.end) = (donor.pid(), first, last);
    let (library, descriptor) = attacher.done(open);
    let names = ["SSL_ctrl", "SSL_free", "SSL_write", "SSL_write_ex", "SSL_read", "SSL_read_ex"];
    let offsets = exported(descriptor.expect("descriptor"), &names);
    let once = [(Hook::SslCtrl, offsets[0]), (Hook::SslFree, offsets[1])];
    attacher.done(attach(library.file, 0, &once));
    let calls = [
        (Hook::SslWrite, offsets[2]),
        (Hook::SslWriteEx, offsets[3]),
        (Hook::SslRead, offsets[4]),
        (Hook::SslReadEx, offsets[5]),
    ];
    let (attachment, _) = attacher.done(attach(library.file, armed.pid(), &calls));

    assert_eq!(donor.tell("talk donor-speaks"), "done");
    assert_eq!(armed.tell("talk armed-speaks"), "done");
    let mut named = BTreeSet::new();
    let everyone = BTreeSet::from([donor.pid(), armed.pid()]);
    let all = read_until(&mut attacher.ring(Descriptor::Events), |record| {
        if Head::read_from_prefix(record).is_ok_and(|(head, _)| head.kind == Kind::SessionNamed.wire())
            && let Ok((session, _)) = SessionNamed::read_from_prefix(record)
            // Hooks for all processes see those of the test that runs beside this one, too.
            && everyone.contains(&session.task.tgid)
        {
            assert_eq!(&session.name[..session.name_len as usize], HOST.as_bytes());
            named.insert(session.task.tgid);
        }
        named == everyone
    });
    assert!(all, "hooks for all processes saw {named:?} of {everyone:?}");

    let mut content = attacher.ring(Descriptor::Content);
    let holds =
        |record: &[u8], word: &str| record.windows(word.len()).any(|window| window == word.as_bytes());
    let seen = read_until(&mut content, |record| {
        assert!(!holds(record, "donor-speaks"), "plaintext of a process that was not armed");
        holds(record, "armed-speaks")
    });
    assert!(seen, "a thread of the armed process, with a library loaded after arming");

    let mut detach = request(Verb::Detach);
    detach.value = attachment.value;
    attacher.done(detach);
    while content.next().is_some() {}
    assert_eq!(armed.tell("talk after-detach"), "done");
    assert!(content.next().is_none(), "nothing is captured after the detach was answered");
    std::fs::remove_dir_all(directory).expect("clean up");
}

/// Puts the test's host into the provider directory, as main does.
pub(crate) fn know_host(attacher: &Attacher) {
    let map = Map::LpmTrie(attacher.map(Descriptor::Hosts));
    let mut hosts = LpmTrie::<_, [u8; HOST_KEY_BYTES], u32>::try_from(map).expect("hosts");
    let mut name = [0u8; HOST_KEY_BYTES];
    for (slot, byte) in name.iter_mut().zip(HOST.bytes().rev()) {
        *slot = byte;
    }
    let bits = (HOST.len() as u32 + 1) * 8;
    assert_eq!(size_of::<Key<[u8; HOST_KEY_BYTES]>>(), size_of::<HostKey>());
    hosts.insert(&Key::new(bits, name), 1, 0).expect("insert");
}

pub(crate) fn certificate(directory: &std::path::Path) -> (String, String) {
    let path = |name: &str| directory.join(name).to_str().expect("text").to_owned();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=api.provider.test", "-keyout", &key, "-out", &certificate])
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl").success());
    (certificate, key)
}
