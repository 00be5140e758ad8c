//! The privileged process: the only one that loads BPF, holds an AF_PACKET socket or opens what needs capabilities.
//!
//! It loads the committed probes object through the [`gate`], attaches tracepoints, hands map descriptors to main over
//! a socket pair and then serves a handful of verbs (`abi::attacher`), each with its own allowlist. It parses nothing
//! that comes from outside: the object is compiled in, requests are fixed-size, files are handed on unread.
//!
//! This library exists for the binary `venturi-attach`, for tests and for `doctor`; nothing of ours but `abi` is known
//! here.

mod closer;
mod files;
pub mod gate;
mod life;
mod loader;
mod logging;
mod owners;
mod process;
mod run;
mod settings;
mod sys;
mod tap;
mod uprobes;
mod verbs;

pub use run::{Options, adopt_socket, embedded_object, run};
pub use sys::bpf::ProgType;

/// Says loudly that a test could not run; in CI (`VENTURI_REQUIRE_KERNEL=1`) that is a failure.
#[cfg(test)]
#[track_caller]
#[expect(clippy::panic, reason = "a test that cannot run must fail where the machine is known to be able")]
pub(crate) fn skipped(test: &str, why: &str) {
    if std::env::var_os("VENTURI_REQUIRE_KERNEL").is_some_and(|value| value == "1") {
        panic!("{test} must run here: {why}");
    }
    eprintln!("SKIPPED {test}: {why}");
}

/// An error with everything that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
