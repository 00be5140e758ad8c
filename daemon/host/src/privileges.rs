//! Main's confinement: another uid, no capability, no new privileges, a system call filter. Irrevocable.
//!
//! [`confine`] runs while the process has one thread, after everything that needs root and before tokio, the database
//! and any parser of foreign bytes. What it does is proven from `/proc` (`doctor`), not from its return value.
//!
//! The filter of this version is a list of refusals; what it must hold against is a parser that was taken over: no
//! program can be loaded, no other process touched, no packet socket made, nothing executed.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context as _, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Group, Uid, User, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

/// User whose name the packages make; used if it exists.
pub const USER: &str = "venturi";
/// Uid and gid of a daemon that root starts by hand on a machine without that user. Nothing else should use it.
pub const FALLBACK_ID: u32 = 61_342;

/// Whom main becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Whom main becomes when it is started by root: the named user, else the user `venturi`, else [`FALLBACK_ID`].
/// `None` if we are not root: then nothing can be changed.
///
/// Fails if the named user does not exist or is root.
pub fn identity(name: Option<&str>) -> anyhow::Result<Option<Identity>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = match name {
        Some(name) => match User::from_name(name).with_context(|| format!("looking up user {name:?}"))? {
            Some(user) => Some(user),
            None => bail!("user {name:?} does not exist: create it, or leave out --user"),
        },
        None => User::from_name(USER).with_context(|| format!("looking up user {USER:?}"))?,
    };
    let Some(user) = user else { return Ok(Some(Identity { uid: FALLBACK_ID, gid: FALLBACK_ID })) };
    if user.uid.is_root() {
        bail!("user {:?} is root: main must not keep root's rights; name another user", user.name);
    }
    Ok(Some(Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

/// Group id of `name`, or `None` if there is no such group.
pub fn group(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// Gives up everything main does not need. `identity`: whom to become, `None` if we are not root. `keep_cap_bpf`: the
/// kernel is older than 5.19 and wants CAP_BPF for reading maps.
///
/// On an error the process may be half confined and must end.
pub fn confine(identity: Option<Identity>, keep_cap_bpf: bool) -> anyhow::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    if let Some(identity) = identity {
        become_unprivileged(identity, keep_cap_bpf)?;
    }
    prctl::set_no_new_privs().context("setting no_new_privs")?;
    // After the change of uid, which resets it to the system's default.
    prctl::set_dumpable(false).context("making the process undumpable")?;
    install_filters().context("installing the system call filter")
}

fn become_unprivileged(identity: Identity, keep_cap_bpf: bool) -> anyhow::Result<()> {
    let kept = if keep_cap_bpf { CapsHashSet::from([Capability::CAP_BPF]) } else { CapsHashSet::new() };
    let mut bounding = caps::read(None, CapSet::Bounding).context("reading the bounding set")?;
    bounding.retain(|capability| !kept.contains(capability));
    for capability in bounding {
        caps::drop(None, CapSet::Bounding, capability)
            .with_context(|| format!("dropping {capability} from the bounding set"))?;
    }
    prctl::set_keepcaps(keep_cap_bpf).context("deciding on capabilities across the change of uid")?;
    setgroups(&[]).context("leaving supplementary groups")?;
    let gid = Gid::from_raw(identity.gid);
    setresgid(gid, gid, gid).with_context(|| format!("becoming gid {gid}"))?;
    let uid = Uid::from_raw(identity.uid);
    setresuid(uid, uid, uid).with_context(|| format!("becoming uid {uid}"))?;
    prctl::set_keepcaps(false).context("ending the retention of capabilities")?;
    caps::clear(None, CapSet::Ambient)
        .or_else(ignore_unsupported)
        .context("clearing ambient capabilities")?;
    // First effective, then permitted: the effective set must stay within the permitted one.
    caps::set(None, CapSet::Effective, &CapsHashSet::new()).context("clearing effective capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("clearing permitted capabilities")?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).context("clearing inheritable capabilities")?;
    caps::set(None, CapSet::Effective, &kept).context("setting effective capabilities")?;
    if Uid::effective() != uid || setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        bail!("uid 0 can be regained after it was given up; refusing to go on");
    }
    Ok(())
}

/// Ambient sets came with Linux 4.3; without them there is nothing to clear.
fn ignore_unsupported(_: caps::errors::CapsError) -> Result<(), caps::errors::CapsError> {
    Ok(())
}

fn install_filters() -> anyhow::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).context("no filter for this architecture")?;
    // The first thread to install a filter passes it on to all later ones; there is only one now.
    for (rules, errno) in [(missing_calls(), libc::ENOSYS), (refused_calls()?, libc::EPERM)] {
        let errno = u32::try_from(errno).context("errno")?;
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)?;
        let program: BpfProgram = filter.try_into()?;
        apply_filter(&program)?;
    }
    if cfg!(target_arch = "x86_64") {
        apply_filter(&refuse_x32())?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that shall look as if the kernel did not know them, so that the caller takes its fallback.
fn missing_calls() -> Rules {
    // sled then uses fsync, which is durable; the flags of clone3 are in memory, where no filter can see them.
    [libc::SYS_sync_file_range, libc::SYS_clone3].into_iter().map(|call| (call, Vec::new())).collect()
}

/// Commands of `bpf()` that main needs: elements of maps it was handed, and facts about its descriptors.
const BPF_ALLOWED: &[(u32, &str)] = &[
    (1, "MAP_LOOKUP_ELEM"),
    (2, "MAP_UPDATE_ELEM"),
    (3, "MAP_DELETE_ELEM"),
    (4, "MAP_GET_NEXT_KEY"),
    (15, "OBJ_GET_INFO_BY_FD"),
    (21, "MAP_LOOKUP_AND_DELETE_ELEM"),
    (24, "MAP_LOOKUP_BATCH"),
    (25, "MAP_LOOKUP_AND_DELETE_BATCH"),
    (26, "MAP_UPDATE_BATCH"),
    (27, "MAP_DELETE_BATCH"),
];

/// Calls that are refused outright.
const REFUSED: &[i64] = &[
    // Running or steering other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // Another view of the file system or of the machine.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Operations submitted to a ring would pass no filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

fn refused_calls() -> anyhow::Result<Rules> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let argument = |operator, value: u64| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
    let mut unknown_command = Vec::new();
    for (command, _) in BPF_ALLOWED {
        unknown_command.push(argument(SeccompCmpOp::Ne, u64::from(*command))?);
    }
    rules.insert(libc::SYS_bpf, vec![SeccompRule::new(unknown_command)?]);
    let packet = u64::try_from(libc::AF_PACKET)?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![argument(SeccompCmpOp::Eq, packet)?])?]);
    let mut namespaces = Vec::new();
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID] {
        let flag = u64::try_from(flag)?;
        namespaces.push(SeccompRule::new(vec![argument(SeccompCmpOp::MaskedEq(flag), flag)?])?);
    }
    rules.insert(libc::SYS_clone, namespaces);
    Ok(rules)
}

/// The x32 calls of x86-64 are the same calls under other numbers; a list by number would not see them.
fn refuse_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    let load_number = sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let is_x32 = sock_filter { code: 0x35, jt: 0, jf: 1, k: X32_BIT };
    let errno =
        sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs() };
    let allow = sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    vec![load_number, is_x32, errno, allow]
}

/// Whether this kernel wants CAP_BPF for map commands: before 5.19.
pub fn kernel_needs_cap_bpf(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version < (5, 19)
}

/// The kernel's release, such as `6.1.0-18-amd64`.
pub fn kernel_release() -> io::Result<String> {
    let name = nix::sys::utsname::uname()?;
    Ok(name.release().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Set in the child that confines itself.
    const CHILD: &str = "VENTURI_TEST_CONFINED";

    #[test]
    fn kernels_before_5_19_need_the_capability() {
        for (release, needs) in
            [("5.10.0-8-amd64", true), ("5.19.0", false), ("6.1", false), ("4.19.1", true)]
        {
            assert_eq!(kernel_needs_cap_bpf(release), needs, "{release}");
        }
    }

    #[test]
    fn a_confined_process_can_do_no_harm() {
        if std::env::var_os(CHILD).is_some() {
            return confined_child();
        }
        if !Uid::effective().is_root() {
            let why = "only root can give up root";
            assert!(std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none(), "must not be skipped: {why}");
            return println!("SKIPPED a_confined_process_can_do_no_harm: {why}");
        }
        let test = "privileges::tests::a_confined_process_can_do_no_harm";
        let output = Command::new(std::env::current_exe().expect("the test has a path"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .output()
            .expect("the child starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "the child ran the test: {text}");
    }

    fn confined_child() {
        use std::os::unix::fs::MetadataExt as _;
        let identity = Identity { uid: FALLBACK_ID, gid: FALLBACK_ID };
        confine(Some(identity), false).expect("confinement succeeds as root");

        let status = std::fs::read_to_string("/proc/thread-self/status").expect("own status is readable");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
        };
        assert_eq!(field("Uid:"), "61342 61342 61342 61342");
        assert_eq!(field("Gid:"), "61342 61342 61342 61342");
        assert_eq!(field("Groups:"), "");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        assert_eq!(prctl::get_dumpable(), Ok(false));
        assert_eq!(
            std::fs::metadata("/proc/self/maps").expect("own maps").uid(),
            0,
            "others of our uid cannot look in"
        );

        for (what, result) in [
            ("execve", Command::new("/bin/true").status().err().and_then(|error| error.raw_os_error())),
            ("packet socket", socket_errno(libc::AF_PACKET)),
            (
                "unshare",
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).err().map(|errno| errno as i32),
            ),
            ("shadow", std::fs::read("/etc/shadow").err().map(|_| libc::EPERM)),
        ] {
            assert_eq!(result, Some(libc::EPERM), "{what} must be refused");
        }
        assert_eq!(socket_errno(libc::AF_UNIX), None, "unix sockets stay allowed");
        for (what, call, argument, errno) in [
            ("bpf prog load", libc::SYS_bpf, 5, libc::EPERM),
            ("bpf map create", libc::SYS_bpf, 0, libc::EPERM),
            ("bpf link create", libc::SYS_bpf, 28, libc::EPERM),
            ("bpf raw tracepoint", libc::SYS_bpf, 17, libc::EPERM),
            ("io_uring", libc::SYS_io_uring_setup, 1, libc::EPERM),
            ("ptrace", libc::SYS_ptrace, 0, libc::EPERM),
            ("sync_file_range", libc::SYS_sync_file_range, 0, libc::ENOSYS),
            ("x32 execve", 0x4000_0000 + 520, 0, libc::EPERM),
        ] {
            if call > 0x4000_0000 && !cfg!(target_arch = "x86_64") {
                continue;
            }
            assert_eq!(raw_errno(call, argument), Some(errno), "{what}");
        }
        // An allowed command with bad arguments gets past the filter: the kernel answers, not we.
        assert_ne!(raw_errno(libc::SYS_bpf, 1), Some(libc::ENOSYS), "map lookups reach the kernel");
        std::thread::spawn(|| {
            assert_eq!(socket_errno(libc::AF_PACKET), Some(libc::EPERM), "later threads are confined too");
        })
        .join()
        .expect("threads can be made");
    }

    #[expect(unsafe_code, reason = "there is no safe wrapper for making forbidden calls")]
    fn raw_errno(call: i64, argument: i64) -> Option<i32> {
        // SAFETY: every pointer argument is null and every length 0; the calls are expected to be refused.
        let result = unsafe { libc::syscall(call, argument, 0_i64, 0_i64, 0_i64, 0_i64, 0_i64) };
        (result < 0).then(|| io::Error::last_os_error().raw_os_error()).flatten()
    }

    #[expect(unsafe_code, reason = "nix does not offer every address family")]
    fn socket_errno(family: i32) -> Option<i32> {
        // SAFETY: no pointers; a descriptor that is made is closed below.
        let descriptor = unsafe { libc::socket(family, libc::SOCK_DGRAM, 0) };
        if descriptor < 0 {
            return io::Error::last_os_error().raw_os_error();
        }
        // SAFETY: the descriptor was made above and is used nowhere else.
        unsafe { libc::close(descriptor) };
        None
    }
}
