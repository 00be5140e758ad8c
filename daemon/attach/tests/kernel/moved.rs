//! Probes behind a function's prologue see the very calls, and bytes, that probes at its symbol see: those the client
//! counted itself. Where they go is main's decision, whose own sources say it here: the attacher depends on none of it.

use std::collections::BTreeMap;

use abi::attacher::{Descriptor, Hook, Verb};
use abi::content::{ChunkHead, FLAG_CALL_END};
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use zerocopy::FromBytes;

use crate::harness::{Attacher, Python, attach, can_run, mapping, request};
use crate::tls::{certificate, know_host};
use places::{Function, probed};
use prologue::{BODY_BYTES_MAX, Code};

#[path = "../../../host/src/capture/places.rs"]
mod places;
#[path = "../../../host/src/capture/prologue.rs"]
mod prologue;

/// Calls libssl itself, so that every variant of a call is made, in threads that run at the same time. `run` answers
/// with the moves of each session in their order, as their results say: `SSL:+SENT,-RECEIVED,...`.
const SCRIPT: &str = r#"
import ctypes, ssl, sys, threading
from ctypes import byref, c_char_p, c_int, c_long, c_size_t, c_void_p
path = next(line.split()[-1] for line in open('/proc/self/maps') if '/libssl' in line)
lib = ctypes.CDLL(path)
def function(name, result, *arguments):
    made = getattr(lib, name); made.restype, made.argtypes = result, arguments
    return made
method = function('TLS_method', c_void_p)
context = function('SSL_CTX_new', c_void_p, c_void_p)
use_certificate = function('SSL_CTX_use_certificate_file', c_int, c_void_p, c_char_p, c_int)
use_key = function('SSL_CTX_use_PrivateKey_file', c_int, c_void_p, c_char_p, c_int)
new = function('SSL_new', c_void_p, c_void_p)
ctrl = function('SSL_ctrl', c_long, c_void_p, c_int, c_long, c_char_p)
memory = function('BIO_new', c_void_p, c_void_p)
memory_kind = function('BIO_s_mem', c_void_p)
shared = function('BIO_up_ref', c_int, c_void_p)
joined = function('SSL_set_bio', None, c_void_p, c_void_p, c_void_p)
client_side = function('SSL_set_connect_state', None, c_void_p)
server_side = function('SSL_set_accept_state', None, c_void_p)
handshake = function('SSL_do_handshake', c_int, c_void_p)
write = function('SSL_write', c_int, c_void_p, c_char_p, c_int)
read = function('SSL_read', c_int, c_void_p, c_void_p, c_int)
peek = function('SSL_peek', c_int, c_void_p, c_void_p, c_int)
write_ex = function('SSL_write_ex', c_int, c_void_p, c_char_p, c_size_t, c_void_p)
read_ex = function('SSL_read_ex', c_int, c_void_p, c_void_p, c_size_t, c_void_p)
peek_ex = function('SSL_peek_ex', c_int, c_void_p, c_void_p, c_size_t, c_void_p)
shutdown = function('SSL_shutdown', c_int, c_void_p)

ctx = context(method())
assert use_certificate(ctx, sys.argv[1].encode(), 1) == 1 and use_key(ctx, sys.argv[2].encode(), 1) == 1
SIZES = [1, 255, 256, 257, 4096, 16384, 16385, 40000]

def session(moves):
    c, s, up, down = new(ctx), new(ctx), memory(memory_kind()), memory(memory_kind())
    shared(up); shared(down)
    joined(c, down, up); joined(s, up, down)
    client_side(c); server_side(s)
    assert ctrl(c, 55, 0, b'api.provider.test') == 1
    done = set()
    while len(done) < 2:
        for side in (c, s):
            if handshake(side) == 1: done.add(side)
    place, moved = ctypes.create_string_buffer(65536), c_size_t()
    def sends(side, size, ex):
        if ex: sent = moved.value if write_ex(side, b'x' * size, size, byref(moved)) == 1 else 0
        else: sent = write(side, b'x' * size, size)
        if side == c and sent > 0: moves.append(f'+{sent}')
        return sent
    def takes(side, size, ex):
        if ex: taken = moved.value if read_ex(side, place, size, byref(moved)) == 1 else 0
        else: taken = read(side, place, size)
        if side == c and taken > 0: moves.append(f'-{taken}')
        return taken
    for ex in (False, True):
        for size in SIZES:
            # There and back, in the pieces that the reader asks for.
            for giver, taker, piece in ((c, s, 65536), (s, c, 1000), (s, c, 65536)):
                assert sends(giver, size, ex) == size
                # Looked at, not taken.
                assert peek(taker, place, 10) > 0 and peek_ex(taker, place, 10, byref(moved)) == 1
                left = size
                while left > 0:
                    taken = takes(taker, piece, ex)
                    assert taken > 0
                    left -= taken
            # Nothing is there; and lengths that are none.
            assert takes(c, 100, ex) <= 0
            assert read(c, place, -1) <= 0 and write(c, b'x', -1) <= 0
    shutdown(c)
    for ex in (False, True): assert sends(c, 100, ex) <= 0
    shutdown(s)
    for ex in (False, True): assert takes(c, 100, ex) <= 0
    return c

def run(made):
    moves = []
    made.append((session(moves), moves))

print('ready', flush=True)
for line in sys.stdin:
    made = []
    threads = [threading.Thread(target=run, args=(made,)) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(';'.join(f'{ssl}:{",".join(moves)}' for ssl, moves in made), flush=True)
"#;

/// Bytes of each call that moved some, sent positive and received negative, of each `SSL*`.
type Moves = BTreeMap<u64, Vec<i64>>;

#[test]
fn probes_behind_a_prologue_see_what_probes_at_the_symbol_see() {
    if !can_run("probes_behind_a_prologue_see_what_probes_at_the_symbol_see") {
        return;
    }
    let directory = tempfile::tempdir().expect("a folder");
    let (certificate, key) = certificate(directory.path());
    for arguments in [&[][..], &["--no-uprobe-multi"]] {
        for moved in [false, true] {
            let python = Python::start(SCRIPT, &[&certificate, &key]).expect("python3 with ssl");
            check(arguments, moved, python);
        }
    }
}

fn check(arguments: &[&str], moved: bool, mut python: Python) {
    let mut attacher = Attacher::armed(arguments);
    if attacher.cannot_probe("a prologue") {
        return;
    }
    know_host(&attacher);
    let (first, last) = mapping(python.pid(), "libssl", "r-xp").expect("libssl");
    let mut open = request(Verb::OpenMapped);
    (open.pid, open.value, open.end) = (python.pid(), first, last);
    let (library, descriptor) = attacher.done(open);
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(descriptor.expect("descriptor"));
    std::io::Read::read_to_end(&mut file, &mut bytes).expect("read the library");
    let (at_symbols, behind) = (places_in(&bytes, false), places_in(&bytes, true));
    if cfg!(target_arch = "x86_64") {
        assert_ne!(at_symbols, behind, "nothing is moved in this library: the test shows nothing");
    }
    let places = if moved { behind } else { at_symbols };
    let is_once = |place: &(Hook, u64)| matches!(place.0, Hook::SslCtrl | Hook::SslFree);
    let (once, calls): (Vec<_>, Vec<_>) = places.into_iter().partition(is_once);
    attacher.done(attach(library.file, 0, &once));
    attacher.done(attach(library.file, python.pid(), &calls));

    let expected: Moves = python.tell("run").split(';').map(counted).collect();
    assert_eq!(expected.len(), 3, "a session in each thread");
    let mut seen = Moves::new();
    let mut content = attacher.ring(Descriptor::Content);
    while let Some(record) = content.next() {
        let (head, _) = ChunkHead::read_from_prefix(&record).expect("head");
        if head.tgid == python.pid() && head.flags & FLAG_CALL_END != 0 && expected.contains_key(&head.ssl) {
            let bytes = i64::try_from(head.call_len).expect("a call's bytes");
            seen.entry(head.ssl).or_default().push(if head.direction == 0 { bytes } else { -bytes });
        }
    }
    assert_eq!(seen, expected, "{arguments:?}, moved: {moved}, {calls:?}");
}

/// What the client says of one session.
fn counted(session: &str) -> (u64, Vec<i64>) {
    let (ssl, moves) = session.split_once(':').expect("a session");
    let moves = moves.split(',').map(|bytes| bytes.parse().expect("bytes"));
    (ssl.parse().expect("an address"), moves.collect())
}

/// Offsets in the file: of the symbols, or of where main moves the probes from there.
fn places_in(bytes: &[u8], moved: bool) -> Vec<(Hook, u64)> {
    let elf = object::File::parse(bytes).expect("an ELF file");
    let offset = |address: u64| {
        elf.segments().find_map(|segment| {
            let within = address.checked_sub(segment.address()).filter(|within| *within < segment.size())?;
            Some(segment.file_range().0 + within)
        })
    };
    let code_of = |function: Function| {
        if elf.architecture() != object::Architecture::X86_64 {
            return None;
        }
        let wanted = function.size.unwrap_or(256);
        let from = offset(function.address)? as usize;
        let until = from + wanted.min(BODY_BYTES_MAX) as usize;
        let bytes = bytes.get(from..until.min(bytes.len()))?.to_vec();
        let whole = function.size == Some(bytes.len() as u64);
        Some(Code { address: function.address, bytes, whole })
    };
    let hooks = [
        ("SSL_ctrl", Hook::SslCtrl),
        ("SSL_free", Hook::SslFree),
        ("SSL_write", Hook::SslWrite),
        ("SSL_write_ex", Hook::SslWriteEx),
        ("SSL_read", Hook::SslRead),
        ("SSL_read_ex", Hook::SslReadEx),
    ];
    let exported: BTreeMap<Hook, Function> = hooks
        .iter()
        .map(|(name, hook)| {
            let symbol = elf.dynamic_symbols().find(|symbol| symbol.name() == Ok(name)).expect("exported");
            (*hook, Function { address: symbol.address(), size: Some(symbol.size()) })
        })
        .collect();
    let at_symbols = exported.iter().map(|(hook, function)| (*hook, function.address)).collect();
    let places = if moved { probed(&exported, code_of) } else { at_symbols };
    places.into_iter().map(|(hook, address)| (hook, offset(address).expect("a segment"))).collect()
}
