//! Bytes that pass a TLS library call: counted once, on successful return, and copied only where they may be.
//!
//! The entry remembers the arguments, the return knows how many bytes moved: a write that is retried counts once. A
//! call's bytes go into records of the size class that fits; beyond `call_bytes_max` they are a hole whose size is
//! known from the offsets. Of a session of unknown name only the start of what looks like a request leaves, at most
//! 512 bytes of at most 8 writes; of a session that is not with a provider nothing does.

use abi::content::{
    CALL_BYTES_MAX, ChunkHead, Direction, FLAG_CALL_END, FLAG_PREFIX, PREFIX_BYTES_MAX, PREFIX_WRITES_MAX,
    SIZE_CLASSES,
};
use abi::control::{SessionKey, SessionState, Verdict};
use abi::counter::Counter;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_ns, bpf_probe_read_user};
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};

use crate::maps::{CALLS, CONTENT, Call, is_self, setting};
use crate::note::{count, lose};
use crate::pure::{clip, opaque, request};
use crate::regs::{argument, entered, returned};
use crate::resolver::user_long;
use crate::session::{find, judge, note_other, open};

/// `int SSL_write(SSL *ssl, const void *buf, int num)`
#[uprobe]
fn ssl_write_entry(ctx: ProbeContext) -> u32 {
    remember(&ctx, 0)
}

/// Return of `SSL_write`: the bytes written, or an error.
#[uretprobe]
fn ssl_write_return(ctx: RetProbeContext) -> u32 {
    finish(&ctx, Direction::Sent)
}

/// `int SSL_write_ex(SSL *ssl, const void *buf, size_t num, size_t *written)`
#[uprobe]
fn ssl_write_ex_entry(ctx: ProbeContext) -> u32 {
    remember(&ctx, argument(&ctx, 3))
}

/// `int SSL_write_ex2(SSL *ssl, const void *buf, size_t num, uint64_t flags, size_t *written)`
#[uprobe]
fn ssl_write_ex2_entry(ctx: ProbeContext) -> u32 {
    remember(&ctx, argument(&ctx, 4))
}

/// Return of `SSL_write_ex` and `SSL_write_ex2`: 1 if `*written` bytes were written.
#[uretprobe]
fn ssl_write_ex_return(ctx: RetProbeContext) -> u32 {
    finish(&ctx, Direction::Sent)
}

/// `int SSL_read(SSL *ssl, void *buf, int num)`
#[uprobe]
fn ssl_read_entry(ctx: ProbeContext) -> u32 {
    remember(&ctx, 0)
}

/// Return of `SSL_read`: the bytes read, or an error.
#[uretprobe]
fn ssl_read_return(ctx: RetProbeContext) -> u32 {
    finish(&ctx, Direction::Received)
}

/// `int SSL_read_ex(SSL *ssl, void *buf, size_t num, size_t *readbytes)`
#[uprobe]
fn ssl_read_ex_entry(ctx: ProbeContext) -> u32 {
    remember(&ctx, argument(&ctx, 3))
}

/// Return of `SSL_read_ex`: 1 if `*readbytes` bytes were read.
#[uretprobe]
fn ssl_read_ex_return(ctx: RetProbeContext) -> u32 {
    finish(&ctx, Direction::Received)
}

#[inline(always)]
fn remember(ctx: &ProbeContext, moved: u64) -> u32 {
    let key = entered(ctx);
    if is_self((key.pid_tgid >> 32) as u32) {
        return 0;
    }
    let call = Call { ssl: argument(ctx, 0), buffer: argument(ctx, 1), moved };
    let _ = CALLS.insert(&key, &call, 0);
    0
}

#[inline(always)]
fn finish(ctx: &RetProbeContext, direction: Direction) -> u32 {
    let result = ctx.ret::<i32>();
    let key = returned(ctx);
    let Some(call) = CALLS.get_ptr(&key) else {
        if result > 0 && !is_self((key.pid_tgid >> 32) as u32) {
            lose(Counter::LostCallEntry, 1);
        }
        return 0;
    };
    // SAFETY: `call` points into the map; only this thread writes this key.
    let Call { ssl, buffer, moved } = unsafe { *call };
    let _ = CALLS.remove(&key);
    if result <= 0 {
        return 0;
    }
    let bytes = if moved == 0 { result as u64 } else { user_long(moved) };
    if bytes > 0 {
        transfer(ssl, buffer, bytes, direction.wire());
    }
    0
}

/// One call's bytes. A function of its own: four programs share it.
#[inline(never)]
fn transfer(ssl: u64, buffer: u64, bytes: u64, direction: u32) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let key = SessionKey { ssl, tgid: (pid_tgid >> 32) as u32, reserved: 0 };
    let state = match find(&key) {
        Some(state) => state,
        None => match open(&key, Verdict::Unknown) {
            Some(state) => state,
            None => return,
        },
    };
    // SAFETY: `state` points into the map; the library requires that a session is used by one thread at a time.
    let state = unsafe { &mut *state };
    let sent = direction == Direction::Sent.wire();
    let (offset, opposite) = if sent { (state.sent, state.received) } else { (state.received, state.sent) };
    let call = Moved { buffer, bytes, offset, opposite, pid_tgid, ssl, direction };
    hand_out(&call, &key, state);
    // Only now: whoever reads that these bytes were moved finds their records before its own.
    let position = if sent { &mut state.sent } else { &mut state.received };
    *position = offset.wrapping_add(bytes);
}

/// As much of a call as the session's verdict allows.
#[inline(always)]
fn hand_out(call: &Moved, key: &SessionKey, state: &mut SessionState) {
    let Moved { bytes, direction, .. } = *call;
    let verdict = judge(key, state);
    if verdict == Verdict::Ai.wire() {
        count(Counter::AiBytesSeen, bytes);
        capture(call, state);
    } else if verdict == Verdict::NotAi.wire() {
        count(Counter::NotAiBytesSeen, bytes);
        note_other(state, key.tgid);
    } else if verdict == Verdict::MetadataOnly.wire() && state.prefix_writes < PREFIX_WRITES_MAX {
        count(Counter::AiBytesSeen, bytes);
    } else {
        count(Counter::UnknownBytesSeen, bytes);
        if direction == Direction::Sent.wire() && verdict == Verdict::Unknown.wire() {
            prefix(call, state);
        }
        if verdict == Verdict::Unknown.wire() {
            note_other(state, key.tgid);
        }
    }
}

/// A call that moved bytes.
struct Moved {
    buffer: u64,
    bytes: u64,
    offset: u64,
    opposite: u64,
    pid_tgid: u64,
    ssl: u64,
    direction: u32,
}

/// Copies a call's bytes up to the limit.
#[inline(always)]
fn capture(call: &Moved, state: &mut SessionState) {
    const LARGEST: u64 = SIZE_CLASSES[3] as u64;
    const FULL_MAX: u64 = clip_full_max();
    let captured = clip::captured(call.bytes, u64::from(setting!(call_bytes_max)));
    if captured < call.bytes {
        count(Counter::CallTailBytesSkipped, call.bytes - captured);
    }
    if captured == 0 {
        return;
    }
    let full = clip::full_records(captured);
    let mut done = 0;
    let mut outcome = Ok(());
    while done < FULL_MAX && done < full {
        outcome = emit::<{ SIZE_CLASSES[3] }>(call, state, done * LARGEST, LARGEST, 0);
        if outcome.is_err() {
            break;
        }
        done += 1;
    }
    let at = done * LARGEST;
    if outcome.is_ok() {
        outcome = last(call, state, at, captured - at, FLAG_CALL_END);
    }
    settle(outcome, captured - at);
}

/// Full records that the largest call gives before its last one.
const fn clip_full_max() -> u64 {
    (CALL_BYTES_MAX / SIZE_CLASSES[3]) as u64 - 1
}

/// Shows the start of a write that looks like a request, within the bounds for sessions of unknown name.
#[inline(always)]
fn prefix(call: &Moved, state: &mut SessionState) {
    if state.prefix_writes >= PREFIX_WRITES_MAX {
        state.verdict = Verdict::MetadataOnly.wire();
        return;
    }
    let mut start = [0u8; request::PEEK];
    let peek = if call.bytes < request::PEEK as u64 { call.bytes } else { request::PEEK as u64 };
    // SAFETY: the helper checks the address and writes at most `PEEK` bytes.
    let failed =
        unsafe { bpf_probe_read_user(start.as_mut_ptr().cast(), peek as u32, call.buffer as *const _) };
    if failed != 0 || !request::looks_like_request(&start) {
        return;
    }
    state.prefix_writes += 1;
    let len = clip::captured(call.bytes, PREFIX_BYTES_MAX as u64);
    let outcome = if len <= SIZE_CLASSES[0] as u64 {
        emit::<{ SIZE_CLASSES[0] }>(call, state, 0, len, FLAG_PREFIX | FLAG_CALL_END)
    } else {
        emit::<{ SIZE_CLASSES[1] }>(call, state, 0, len, FLAG_PREFIX | FLAG_CALL_END)
    };
    settle(outcome, len);
}

/// The last record of a call, in the smallest class that holds it.
#[inline(always)]
fn last(call: &Moved, state: &mut SessionState, at: u64, len: u64, flags: u32) -> Result<(), Loss> {
    if len <= SIZE_CLASSES[0] as u64 {
        emit::<{ SIZE_CLASSES[0] }>(call, state, at, len, flags)
    } else if len <= SIZE_CLASSES[1] as u64 {
        emit::<{ SIZE_CLASSES[1] }>(call, state, at, len, flags)
    } else if len <= SIZE_CLASSES[2] as u64 {
        emit::<{ SIZE_CLASSES[2] }>(call, state, at, len, flags)
    } else {
        emit::<{ SIZE_CLASSES[3] }>(call, state, at, len, flags)
    }
}

/// Why a record was not written. The rest of its call is lost with it.
enum Loss {
    RingFull,
    UserFault,
}

/// Counts what a call lost.
#[inline(always)]
fn settle(outcome: Result<(), Loss>, bytes: u64) {
    match outcome {
        Ok(()) => {}
        Err(Loss::RingFull) => {
            count(Counter::LostContentRingFull, 1);
            lose(Counter::LostContentRingFullBytes, bytes);
        }
        Err(Loss::UserFault) => lose(Counter::LostUserFaultBytes, bytes),
    }
}

#[repr(C)]
struct Record<const CLASS: usize> {
    head: ChunkHead,
    payload: [u8; CLASS],
}

/// Copies `len` bytes from `at` of the call's buffer into one record. A record that is lost uses a sequence number.
#[inline(always)]
fn emit<const CLASS: usize>(
    call: &Moved,
    state: &mut SessionState,
    at: u64,
    len: u64,
    flags: u32,
) -> Result<(), Loss> {
    let len = opaque(len);
    if len > CLASS as u64 {
        return Ok(());
    }
    let seq = state.seq;
    state.seq = seq.wrapping_add(1);
    let Some(mut record) = CONTENT.reserve::<Record<CLASS>>(0) else {
        return Err(Loss::RingFull);
    };
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; the helper checks the address and writes `len` bytes, at most `CLASS`.
    let failed = unsafe {
        bpf_probe_read_user(
            (&raw mut (*out).payload).cast(),
            len as u32,
            call.buffer.wrapping_add(at) as *const _,
        )
    };
    if failed != 0 {
        record.discard(0);
        return Err(Loss::UserFault);
    }
    // SAFETY: `out` is the reserved record; every field of the head is written.
    unsafe {
        (*out).head = ChunkHead {
            at_ns: bpf_ktime_get_ns(),
            ssl: call.ssl,
            opened_ns: state.opened_ns,
            start_ns: state.start_ns,
            offset: call.offset.wrapping_add(at),
            call_len: call.bytes,
            opposite: call.opposite,
            cgroup_id: bpf_get_current_cgroup_id(),
            tgid: (call.pid_tgid >> 32) as u32,
            tid: call.pid_tgid as u32,
            seq,
            payload_len: len as u32,
            direction: call.direction,
            flags,
        };
    }
    record.submit(0);
    // By the session's verdict at this moment, not by the path that led here: this is what proves the rule.
    let emitted = if state.verdict == Verdict::Ai.wire() {
        Counter::AiBytesEmitted
    } else if state.verdict == Verdict::NotAi.wire() {
        Counter::NotAiBytesEmitted
    } else {
        Counter::PrefixBytesEmitted
    };
    count(emitted, len);
    Ok(())
}
