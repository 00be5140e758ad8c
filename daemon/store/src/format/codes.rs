//! Numbers that stand for enumerated words on disk. A number never changes its meaning; 0 stands for none.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use meter::attribution::{Method, NullReason, OutputState, StageOrigin};
use meter::exchange::{IdentifiedBy, RateUnit, Reason};
use meter::record::{CostKind, DarkReason, FlowSeen};
use meter::workload::WorkloadEvidence;

/// An enumeration with a number on disk.
pub(super) trait Code: Sized {
    /// Its number, from 1.
    fn to_code(&self) -> u32;
    /// What the number stands for, or `None` if this version does not know it.
    fn from_code(code: u32) -> Option<Self>;
}

macro_rules! codes {
    ($($enumeration:ident { $($variant:ident = $code:literal),+ $(,)? })+) => {
        $(impl Code for $enumeration {
            fn to_code(&self) -> u32 {
                match self { $($enumeration::$variant => $code),+ }
            }
            fn from_code(code: u32) -> Option<$enumeration> {
                match code { $($code => Some($enumeration::$variant),)+ _ => None }
            }
        })+
    };
}

codes! {
    IdentifiedBy {
        Sni = 1, Dns = 2, Getaddrinfo = 3, HostHeader = 4, TlsHostnameCall = 5, IpRange = 6, Configured = 7,
        SniCached = 8,
    }
    Reason {
        LateAttach = 1, UndecodableHead = 2, Upgraded = 3, NotHttp = 4, UnknownSession = 5, StreamUsageNotRequested = 6,
        Interrupted = 7, Gap = 8, Undecodable = 9, UnsupportedDialect = 10, NotReported = 11, NoResponse = 12,
        LimitReached = 13, Panicked = 14, NotInference = 15, Quic = 16,
    }
    RateUnit { Requests = 1, Tokens = 2, InputTokens = 3, OutputTokens = 4, InputImages = 5 }
    FlowSeen { Connect = 1, AtStart = 2, Tap = 3 }
    DarkReason { UnknownTlsLibrary = 1, AttachRefused = 2, Unreadable = 3, SwitchedOff = 4, Gone = 5 }
    WorkloadEvidence { Exact = 1, Lineage = 2, Unknown = 3 }
    Method { R1 = 1, R2 = 2, R3 = 3, R4 = 4, R5 = 5 }
    StageOrigin { StageA = 1, StageB = 2, StageC = 3 }
    OutputState {
        DeterministicallyResolved = 1, StronglyInferred = 2, Bounded = 3, Ambiguous = 4, Unknown = 5,
        NotIdentifiable = 6,
    }
    NullReason { NoRules = 1, NoRuleMatched = 2, Conflict = 3, IndexStale = 4, WorkloadUnknown = 5 }
    CostKind { ProviderReported = 1, Computed = 2, Estimated = 3, Unknown = 4 }
}

/// Distinct words that [`word`] keeps. They come from our own sealed rows, and so from constants of some version of
/// the daemon: there are a few dozen of them.
const WORDS_MAX: usize = 512;

/// The constant that says `text`: the daemon's types name enumerated words by `&'static str`.
pub(super) fn word(text: &str) -> &'static str {
    static WORDS: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    let words = words.get_or_insert_with(HashSet::new);
    if let Some(word) = words.get(text) {
        return word;
    }
    if words.len() >= WORDS_MAX {
        return "other";
    }
    let word: &'static str = Box::leak(text.to_owned().into_boxed_str());
    words.insert(word);
    word
}
