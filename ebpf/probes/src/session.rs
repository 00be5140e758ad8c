//! TLS sessions: opened, named, judged, freed.
//!
//! A session is (process, `SSL*`, when we saw it first). Its name decides what may leave the kernel; a name that is
//! not a provider's is final, main can neither see nor change it.

use abi::control::{SessionKey, SessionState, Verdict, VerdictKey};
use abi::counter::Counter;
use abi::event::{Kind, OTHER_CALLS, SessionFreed, SessionNamed, SessionOther};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;

use crate::maps::{EVENTS, PROGRAMS, SESSIONS, VERDICTS, is_self};
use crate::note::{count, lose};
use crate::process::head;
use crate::regs::argument;
use crate::resolver::{is_provider, read_name};
use crate::task::{current, current_tgid, describe, start_ns};

/// `SSL_CTRL_SET_TLSEXT_HOSTNAME`
const SET_HOST_NAME: u32 = 55;

/// `SSL_ctrl(SSL *ssl, int cmd, long larg, void *parg)`; `SSL_set_tlsext_host_name` is a macro around it.
#[uprobe]
fn ssl_ctrl_entry(ctx: ProbeContext) -> u32 {
    let (ssl, name) = (argument(&ctx, 0), argument(&ctx, 3));
    if argument(&ctx, 1) as u32 != SET_HOST_NAME || argument(&ctx, 2) != 0 || ssl == 0 || name == 0 {
        return 0;
    }
    let tgid = current_tgid();
    if is_self(tgid) {
        return 0;
    }
    let key = SessionKey { ssl, tgid, reserved: 0 };
    let Some(mut record) = EVENTS.reserve::<SessionNamed>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        named(&key, Verdict::Unknown);
        return 0;
    };
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted, the name as far as its
    // length says.
    let (len, is_ai) = unsafe {
        let len = read_name(&raw mut (*out).name, name);
        (len, len > 0 && is_provider(&raw const (*out).name, len))
    };
    if len == 0 {
        record.discard(0);
        named(&key, Verdict::Unknown);
        return 0;
    }
    let verdict = if is_ai { Verdict::Ai } else { Verdict::NotAi };
    count(if is_ai { Counter::SessionsAi } else { Counter::SessionsNotAi }, 1);
    let opened_ns = named(&key, verdict);
    if !is_ai {
        record.discard(0);
        return 0;
    }
    // SAFETY: as above.
    unsafe {
        (*out).head = head::<SessionNamed>(Kind::SessionNamed);
        describe(&raw mut (*out).task);
        (*out).ssl = ssl;
        (*out).opened_ns = opened_ns;
        (*out).verdict = verdict.wire();
        (*out).name_len = len;
    }
    record.submit(0);
    0
}

/// `SSL_free(SSL *ssl)`
#[uprobe]
fn ssl_free_entry(ctx: ProbeContext) -> u32 {
    let key = SessionKey { ssl: argument(&ctx, 0), tgid: current_tgid(), reserved: 0 };
    let Some(state) = find(&key) else {
        forget(&key);
        return 0;
    };
    // SAFETY: `state` points into the map; the library forbids other use of a session that is freed.
    let state = unsafe { &*state };
    if state.verdict != Verdict::NotAi.wire() {
        match EVENTS.reserve::<SessionFreed>(0) {
            None => lose(Counter::LostEventsRingFull, 1),
            Some(mut record) => {
                let out = record.as_mut_ptr();
                // SAFETY: `out` is the reserved record; every field is written before it is submitted.
                unsafe {
                    (*out).head = head::<SessionFreed>(Kind::SessionFreed);
                    (*out).ssl = key.ssl;
                    (*out).opened_ns = state.opened_ns;
                    (*out).sent = state.sent;
                    (*out).received = state.received;
                    (*out).start_ns = state.start_ns;
                    (*out).tgid = key.tgid;
                    (*out).records = state.seq;
                }
                record.submit(0);
            }
        }
    }
    if VERDICTS.remove(&verdict_key(&key, state.opened_ns)).is_ok() {
        count(Counter::VerdictsRemoved, 1);
    }
    forget(&key);
    0
}

/// Removes a session. Insertions and removals are counted, so that what the full table forgot by itself is known.
#[inline(always)]
fn forget(key: &SessionKey) {
    if SESSIONS.remove(key).is_ok() {
        count(Counter::SessionsRemoved, 1);
    }
}

/// The session, unless it is one that an earlier program of the same process id left behind.
#[inline(always)]
pub(crate) fn find(key: &SessionKey) -> Option<*mut SessionState> {
    let state = SESSIONS.get_ptr_mut(key)?;
    let since = match PROGRAMS.get_ptr(&key.tgid) {
        // SAFETY: `since` points into the map.
        Some(since) => unsafe { *since },
        None => 0,
    };
    // SAFETY: `state` points into the map.
    if unsafe { (*state).opened_ns } < since { None } else { Some(state) }
}

/// Makes a session that begins now. `None` if the table is full.
#[inline(always)]
pub(crate) fn open(key: &SessionKey, verdict: Verdict) -> Option<*mut SessionState> {
    let state = SessionState {
        // SAFETY: no arguments.
        opened_ns: unsafe { bpf_ktime_get_ns() },
        start_ns: start_ns(current()),
        sent: 0,
        received: 0,
        seq: 0,
        verdict: verdict.wire(),
        prefix_writes: 0,
        other_calls: 0,
    };
    if PROGRAMS.insert(&key.tgid, &0, u64::from(BPF_NOEXIST)).is_ok() {
        count(Counter::ProgramsInserted, 1);
    }
    // An address that is used again takes the place of its old session.
    if SESSIONS.insert(key, &state, u64::from(BPF_NOEXIST)).is_ok() {
        count(Counter::SessionsInserted, 1);
    } else if SESSIONS.insert(key, &state, 0).is_err() {
        lose(Counter::LostSessionsFull, 1);
    }
    SESSIONS.get_ptr_mut(key)
}

/// Gives a session its name's verdict; one that moved bytes before is another session in the same memory (an `SSL`
/// that was cleared and used again). A name that could not be read makes it unknown: it must not keep the verdict of
/// an earlier name. Returns when it was opened.
#[inline(always)]
fn named(key: &SessionKey, verdict: Verdict) -> u64 {
    if let Some(state) = find(key) {
        // SAFETY: `state` points into the map; a session is used by one thread at a time.
        let state = unsafe { &mut *state };
        if state.sent == 0 && state.received == 0 {
            state.verdict = verdict.wire();
            return state.opened_ns;
        }
    }
    match open(key, verdict) {
        // SAFETY: `state` points into the map.
        Some(state) => unsafe { (*state).opened_ns },
        None => 0,
    }
}

/// What may leave the kernel of this session, with main's decision taken over. A name that is not a provider's is
/// final.
#[inline(always)]
pub(crate) fn judge(key: &SessionKey, state: &mut SessionState) -> u32 {
    if state.verdict != Verdict::NotAi.wire()
        && let Some(decided) = VERDICTS.get_ptr(&verdict_key(key, state.opened_ns))
    {
        // SAFETY: `decided` points into the map.
        state.verdict = unsafe { *decided };
    }
    state.verdict
}

/// Counts a call of a session that is not known to be with a provider, and tells of it now and then: probes on a
/// process that has no other sessions cost it for nothing.
#[inline(always)]
pub(crate) fn note_other(state: &mut SessionState, tgid: u32) {
    let calls = state.other_calls.wrapping_add(1);
    state.other_calls = calls;
    let named = state.verdict == Verdict::NotAi.wire();
    if calls != OTHER_CALLS && !(named && calls == 1) {
        return;
    }
    let Some(mut record) = EVENTS.reserve::<SessionOther>(0) else {
        lose(Counter::LostEventsRingFull, 1);
        return;
    };
    let out = record.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every field is written before it is submitted.
    unsafe {
        (*out).head = head::<SessionOther>(Kind::SessionOther);
        (*out).start_ns = state.start_ns;
        (*out).tgid = tgid;
        (*out).calls = calls;
    }
    record.submit(0);
}

#[inline(always)]
fn verdict_key(key: &SessionKey, opened_ns: u64) -> VerdictKey {
    VerdictKey { ssl: key.ssl, opened_ns, tgid: key.tgid, reserved: 0 }
}
