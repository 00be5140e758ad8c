//! What this process may do: an exact set of capabilities, nothing inheritable, nothing to regain.
//!
//! | capability | why |
//! |---|---|
//! | CAP_BPF | load programs, make maps |
//! | CAP_PERFMON | tracing programs, perf events, kernel reads |
//! | CAP_NET_RAW | the tap's packet socket |
//! | CAP_SYS_PTRACE | `/proc/PID/maps` and `map_files` of other users' processes |
//! | CAP_CHECKPOINT_RESTORE | follow `/proc/PID/map_files` (from 5.9) |
//! | CAP_SYS_RESOURCE | only below 5.11, where maps are charged to RLIMIT_MEMLOCK |
//!
//! tracefs and runtimes' state files belong to uid 0 and are read as their owner: CAP_DAC_READ_SEARCH is not needed,
//! and would allow opening any file by handle. An executable whose mode does not let root read it is not captured.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::utsname::uname;

/// Kernel version, major and minor; (0, 0) if it is not understood.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    parse_release(&release)
}

fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The set this kernel needs.
pub(crate) fn needed(kernel: (u32, u32)) -> CapsHashSet {
    let mut set = CapsHashSet::from([
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        Capability::CAP_NET_RAW,
        Capability::CAP_SYS_PTRACE,
        Capability::CAP_CHECKPOINT_RESTORE,
    ]);
    if kernel < (5, 9) {
        // It came with 5.9. On 5.8 the same files need CAP_SYS_ADMIN, which this process never has: there no library
        // is opened and no TLS call captured.
        set.remove(&Capability::CAP_CHECKPOINT_RESTORE);
    }
    if kernel < (5, 11) {
        set.insert(Capability::CAP_SYS_RESOURCE);
    }
    set
}

/// Those of `needed` that this process does not have.
pub(crate) fn missing(needed: &CapsHashSet) -> Vec<String> {
    let have = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let mut names: Vec<String> = needed.difference(&have).map(ToString::to_string).collect();
    names.sort();
    names
}

/// Drops everything but `keep`, for good. Called while single-threaded: capabilities belong to threads.
///
/// # Errors
/// Which step the kernel refused.
pub(crate) fn confine(keep: &CapsHashSet) -> Result<(), String> {
    let step = |what: &'static str| move |error: caps::errors::CapsError| format!("{what}: {error}");
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability).map_err(step("dropping from the bounding set"))?;
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient).map_err(step("clearing ambient capabilities"))?;
    }
    caps::set(None, CapSet::Effective, keep).map_err(step("setting effective capabilities"))?;
    caps::set(None, CapSet::Permitted, keep).map_err(step("setting permitted capabilities"))?;
    caps::clear(None, CapSet::Inheritable).map_err(step("clearing inheritable capabilities"))?;
    prctl::set_no_new_privs().map_err(|error| format!("no_new_privs: {error}"))?;
    // Not dumpable: no core file, no ptrace by others of uid 0 without CAP_SYS_PTRACE.
    prctl::set_dumpable(false).map_err(|error| format!("dumpable: {error}"))?;
    // After the capabilities, because a change of credentials clears it. End-of-file says the same; this covers a
    // socket that somebody else still holds.
    prctl::set_pdeathsig(Signal::SIGTERM).map_err(|error| format!("parent death signal: {error}"))
}

/// Bits of the effective set, as `/proc/self/status` shows them.
pub(crate) fn effective() -> u64 {
    let set = caps::read(None, CapSet::Effective).unwrap_or_default();
    set.iter().fold(0, |bits, capability| bits | capability.bitmask())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_every_distribution_are_read() {
        for (release, expected) in [
            ("6.18.44-fc-v669", (6, 18)),
            ("5.10.0-28-amd64", (5, 10)),
            ("7.3", (7, 3)),
            ("6.1.0", (6, 1)),
            ("", (0, 0)),
            ("weird", (0, 0)),
        ] {
            assert_eq!(parse_release(release), expected, "{release}");
        }
    }

    #[test]
    fn the_set_grows_only_on_old_kernels() {
        for (kernel, count) in [((6, 18), 5), ((5, 11), 5), ((5, 10), 6), ((5, 8), 5)] {
            assert_eq!(needed(kernel).len(), count, "{kernel:?}");
        }
        assert!(needed((5, 9)).contains(&Capability::CAP_CHECKPOINT_RESTORE));
    }
}
