//! What leaves the kernel of a TLS session: all of an AI session up to the limit, the bounded start of requests of an
//! unknown one, nothing of another; and main's verdict changes it, except that of a session whose name is not AI.

use abi::attacher::{Descriptor, Hook, Verb};
use abi::content::{
    CALL_BYTES_MAX, ChunkHead, FLAG_CALL_END, FLAG_PREFIX, PREFIX_BYTES_MAX, PREFIX_WRITES_MAX, SIZE_CLASSES,
};
use abi::control::{HOST_KEY_BYTES, SessionKey, SessionState, Verdict, VerdictKey};
use abi::counter::Counter;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, PerCpuArray, RingBuf};
use zerocopy::{FromBytes, IntoBytes};

use crate::harness::{Attacher, Python, attach, can_run, exported, mapping, request};
use crate::tls::certificate;

/// Sessions over memory; commands `open ID HOST` (`-`: no name), `write ID TEXT LENGTH` (padded with `x`).
const SCRIPT: &str = r#"
import ssl, sys
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); server.load_cert_chain(sys.argv[1], sys.argv[2])
client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); client.check_hostname = False; client.verify_mode = ssl.CERT_NONE
sessions = {}
print('ready', flush=True)
for line in sys.stdin:
    verb, name, *rest = line.rstrip('\n').split('|')
    if verb == 'open':
        a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
        c = client.wrap_bio(a, b, server_hostname=None if rest[0] == '-' else rest[0])
        s = server.wrap_bio(b, a, server_side=True)
        done = set()
        while len(done) < 2:
            for side in (c, s):
                try: side.do_handshake(); done.add(side)
                except ssl.SSLWantReadError: pass
        sessions[name] = (c, s)
    if verb == 'write':
        c, s = sessions[name]
        data = rest[0].encode().ljust(int(rest[1]), b'x')
        assert c.write(data) == len(data)
        left = len(data)
        while left > 0: left -= len(s.read(65536))
    if verb == 'close': del sessions[name]
    print('done', flush=True)
"#;

const AI: &str = "api.provider.test";
const REQUEST: &str = "POST /v1 HTTP/1.1";

/// What one write handed out: each record's sequence number, offset, payload bytes and flags.
type Records = Vec<(u32, u64, usize, u32)>;

struct Lab {
    attacher: Attacher,
    content: RingBuf<MapData>,
    python: Python,
    last: Option<VerdictKey>,
}

#[test]
fn only_what_may_leave_the_kernel_leaves_it() {
    if !can_run("only_what_may_leave_the_kernel_leaves_it") {
        return;
    }
    let directory = std::env::temp_dir().join(format!("venturi-attach-sessions-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    let (certificate, key) = certificate(&directory);
    let python = Python::start(SCRIPT, &[&certificate, &key]).expect("python3 with ssl");
    let mut lab = Lab::armed(python);
    let end = FLAG_CALL_END;
    let prefix = FLAG_PREFIX | FLAG_CALL_END;

    lab.tell(&format!("open|ai|{AI}"));
    assert_eq!(lab.write("ai", REQUEST, 300), [(0, 0, 300, end)]);
    assert_eq!(lab.write("ai", "no request", 256), [(1, 300, 256, end)]);
    let beyond = CALL_BYTES_MAX + 5000;
    let full = SIZE_CLASSES[3];
    let expected: Records = (0..16u32)
        .map(|n| (2 + n, 556 + u64::from(n) * full as u64, full, if n == 15 { end } else { 0 }))
        .collect();
    assert_eq!(lab.write("ai", REQUEST, beyond), expected);
    assert_eq!(lab.write("ai", "x", 1), [(18, 556 + beyond as u64, 1, end)]);

    lab.tell("open|other|www.example.test");
    for text in [REQUEST, "PRI * HTTP/2.0", "secret"] {
        assert_eq!(lab.write("other", text, 700), []);
    }
    let shadow = lab.last.expect("a key of the AI session");
    lab.decide(shadow, Verdict::Ai);
    assert_eq!(lab.write("other", REQUEST, 700), [], "a verdict for another session changes nothing");

    lab.tell("open|unknown|-");
    assert_eq!(lab.write("unknown", "password=hunter2", 16), []);
    let mut at = 16;
    for n in 0..PREFIX_WRITES_MAX {
        let len = if n == 0 { 2000 } else { 100 };
        assert_eq!(lab.write("unknown", REQUEST, len), [(n, at, len.min(PREFIX_BYTES_MAX), prefix)]);
        at += len as u64;
    }
    for _ in 0..3 {
        assert_eq!(lab.write("unknown", REQUEST, 100), [], "after the last prefix nothing more");
    }

    for (name, verdict, expected) in [
        ("upgraded", Verdict::Ai, vec![(1, 100, 9000, end)]),
        ("refused", Verdict::NotAi, vec![]),
        ("stopped", Verdict::MetadataOnly, vec![]),
    ] {
        lab.tell(&format!("open|{name}|-"));
        assert_eq!(lab.write(name, REQUEST, 100), [(0, 0, 100, prefix)]);
        let key = lab.last.expect("the session's key");
        lab.decide(key, verdict);
        assert_eq!(lab.write(name, REQUEST, 9000), expected, "{name}");
        lab.decide(key, Verdict::Ai);
        let later = lab.write(name, REQUEST, 50);
        assert_eq!(later.is_empty(), verdict == Verdict::NotAi, "{name}: that it is not AI is final");
    }

    assert_eq!(lab.counter(Counter::NotAiBytesEmitted), 0);
    assert_eq!(lab.counter(Counter::LostContentRingFullBytes) + lab.counter(Counter::LostUserFaultBytes), 0);
    assert_eq!(lab.counter(Counter::PrefixBytesEmitted), 512 + 7 * 100 + 3 * 100);
    assert_eq!(lab.counter(Counter::CallTailBytesSkipped), 5000);
    lab.check_balance();
    std::fs::remove_dir_all(directory).expect("clean up");
}

/// `SSL*` addresses come back after a free; the verdict of the session before must not.
#[test]
fn a_reused_address_is_another_session() {
    if !can_run("a_reused_address_is_another_session") {
        return;
    }
    let directory = std::env::temp_dir().join(format!("venturi-attach-reuse-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    let (certificate, key) = certificate(&directory);
    let python = Python::start(SCRIPT, &[&certificate, &key]).expect("python3 with ssl");
    let mut lab = Lab::armed(python);
    let mut addresses = Vec::new();
    for round in 0..20 {
        let ai = round % 2 == 0;
        lab.tell(&format!("open|s|{}", if ai { AI } else { "www.example.test" }));
        let records = lab.write("s", REQUEST, 100);
        assert_eq!(records.len(), usize::from(ai), "round {round}");
        if ai {
            assert_eq!(records[0].0, 0, "round {round}: a session begins at sequence number 0");
            addresses.push(lab.last.expect("key").ssl);
        }
        lab.tell("close|s");
    }
    addresses.sort_unstable();
    addresses.dedup();
    assert!(addresses.len() < 10, "no address was used twice: the test shows nothing");
    assert!(lab.counter(Counter::SessionsRemoved) > 0);
    lab.check_balance();
    assert_eq!(lab.counter(Counter::NotAiBytesEmitted), 0);
    std::fs::remove_dir_all(directory).expect("clean up");
}

impl Lab {
    /// Every hook on the process's libssl.
    fn armed(python: Python) -> Lab {
        let mut attacher = Attacher::armed(&[]);
        let mut hosts =
            LpmTrie::<_, [u8; HOST_KEY_BYTES], u32>::try_from(Map::LpmTrie(attacher.map(Descriptor::Hosts)))
                .expect("hosts");
        let mut name = [0u8; HOST_KEY_BYTES];
        for (slot, byte) in name.iter_mut().zip(AI.bytes().rev()) {
            *slot = byte;
        }
        hosts.insert(&Key::new((AI.len() as u32 + 1) * 8, name), 1, 0).expect("insert");

        let (first, last) = mapping(python.pid(), "libssl", "r-xp").expect("libssl");
        let mut open = request(Verb::OpenMapped);
        (open.pid, open.value, open.end) = (python.pid(), first, last);
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
        attacher.done(attach(library.file, python.pid(), &calls));
        let content = attacher.ring(Descriptor::Content);
        Lab { attacher, content, python, last: None }
    }

    fn tell(&mut self, line: &str) {
        assert_eq!(self.python.tell(line), "done", "{line}");
    }

    /// Lets a session write, and returns what was handed out of what it sent. The bytes are checked.
    fn write(&mut self, session: &str, text: &str, len: usize) -> Records {
        self.tell(&format!("write|{session}|{text}|{len}"));
        let mut written = vec![b'x'; len];
        written[..text.len()].copy_from_slice(text.as_bytes());
        let (mut records, mut begin) = (Vec::new(), None);
        while let Some(record) = self.content.next() {
            let (head, payload) = ChunkHead::read_from_prefix(&record).expect("head");
            if head.tgid != self.python.pid() || head.direction != 0 {
                continue;
            }
            let payload = &payload[..head.payload_len as usize];
            let begin = *begin.get_or_insert(head.offset);
            let at = (head.offset - begin) as usize;
            assert_eq!(head.call_len as usize, len);
            assert_eq!(payload, &written[at..at + payload.len()], "at {at} of {len} bytes of {session}");
            self.last =
                Some(VerdictKey { ssl: head.ssl, opened_ns: head.opened_ns, tgid: head.tgid, reserved: 0 });
            records.push((head.seq, head.offset, payload.len(), head.flags));
        }
        records
    }

    fn decide(&self, key: VerdictKey, verdict: Verdict) {
        const BYTES: usize = size_of::<VerdictKey>();
        let map = Map::LruHashMap(self.attacher.map(Descriptor::Verdicts));
        let mut verdicts = HashMap::<_, [u8; BYTES], u32>::try_from(map).expect("verdicts");
        let key: [u8; BYTES] = key.as_bytes().try_into().expect("size");
        verdicts.insert(key, verdict.wire(), 0).expect("insert");
    }

    /// Every session that was made was removed or is there: what is missing in this balance was evicted.
    fn check_balance(&self) {
        type Sessions = HashMap<MapData, [u8; size_of::<SessionKey>()], [u8; size_of::<SessionState>()]>;
        let sessions = Sessions::try_from(Map::LruHashMap(self.attacher.map(Descriptor::Sessions)));
        let held = sessions.expect("the table").keys().flatten().count() as u64;
        let (made, removed) =
            (self.counter(Counter::SessionsInserted), self.counter(Counter::SessionsRemoved));
        assert!(made > 0 && made == removed + held, "{made} made, {removed} removed, {held} held");
    }

    fn counter(&self, counter: Counter) -> u64 {
        let map = Map::PerCpuArray(self.attacher.map(Descriptor::Counters));
        let counters = PerCpuArray::<_, u64>::try_from(map).expect("counters");
        counters.get(&counter.wire(), 0).expect("counter").iter().sum()
    }
}
