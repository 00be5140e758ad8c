//! What the kernel programs must know of this kernel: offsets of tracepoint fields and of structure members.
//!
//! Tracepoint fields come from tracefs `format` files, members from the kernel's own BTF; both move between kernels,
//! so nothing is assumed. What the kernel does not say stays [`OFFSET_UNKNOWN`](abi::control::OFFSET_UNKNOWN) and
//! becomes a typed limit: the programs then leave the field out, they never guess.

mod btf;
pub(crate) mod tracefs;

use std::path::Path;

use abi::attacher::Limit;
use abi::control::{OFFSET_UNKNOWN, Settings};

use btf::Btf;
use tracefs::Tracefs;

const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Settings for this kernel, and what limits them.
pub(crate) struct Found {
    pub(crate) settings: Settings,
    /// `NoBtf` where at least one member is missing, with the members' names.
    pub(crate) limits: Vec<(Limit, String)>,
}

/// Reads all offsets. A tracepoint field that is missing is an error: without it no connection is seen.
///
/// # Errors
/// Says which file or field is missing.
pub(crate) fn find(tracefs: &Tracefs) -> Result<Found, String> {
    let mut settings = Settings::UNKNOWN;
    let mut limits = Vec::new();
    tracepoint_fields(&mut settings, &tracefs.format("sock", "inet_sock_set_state")?)?;
    match Btf::read(Path::new(VMLINUX_BTF)) {
        Ok(btf) => {
            let missing = members(&mut settings, &btf);
            if !missing.is_empty() {
                limits
                    .push((Limit::NoBtf, format!("{VMLINUX_BTF} does not describe {}", missing.join(", "))));
            }
        }
        Err(error) => limits.push((Limit::NoBtf, format!("{VMLINUX_BTF}: {error}"))),
    }
    Ok(Found { settings, limits })
}

fn tracepoint_fields(settings: &mut Settings, format: &tracefs::Format) -> Result<(), String> {
    for (slot, field) in [
        (&mut settings.tp_skaddr, "skaddr"),
        (&mut settings.tp_oldstate, "oldstate"),
        (&mut settings.tp_newstate, "newstate"),
        (&mut settings.tp_sport, "sport"),
        (&mut settings.tp_dport, "dport"),
        (&mut settings.tp_family, "family"),
        (&mut settings.tp_protocol, "protocol"),
        (&mut settings.tp_saddr, "saddr"),
        (&mut settings.tp_daddr, "daddr"),
        (&mut settings.tp_saddr_v6, "saddr_v6"),
        (&mut settings.tp_daddr_v6, "daddr_v6"),
    ] {
        *slot = format.offset(field)?;
    }
    Ok(())
}

/// Fills in every member that BTF describes and returns the names of the others.
fn members(settings: &mut Settings, btf: &Btf) -> Vec<String> {
    let mut missing = Vec::new();
    for (slot, structure, spellings) in [
        (&mut settings.tcp_bytes_sent, "tcp_sock", &["bytes_sent"][..]),
        (&mut settings.tcp_bytes_received, "tcp_sock", &["bytes_received"]),
        (&mut settings.tcp_bytes_retrans, "tcp_sock", &["bytes_retrans"]),
        // `sk_flags` is a macro for this member of the `sock_common` that every `sock` begins with.
        (&mut settings.sock_sk_flags, "sock_common", &["skc_flags"]),
        (&mut settings.task_group_leader, "task_struct", &["group_leader"]),
        (&mut settings.task_start_boottime, "task_struct", &["start_boottime", "real_start_time"]),
        (&mut settings.task_real_parent, "task_struct", &["real_parent"]),
        (&mut settings.task_tgid, "task_struct", &["tgid"]),
        (&mut settings.task_pid, "task_struct", &["pid"]),
        (&mut settings.task_mm, "task_struct", &["mm"]),
        (&mut settings.task_signal, "task_struct", &["signal"]),
        (&mut settings.signal_live, "signal_struct", &["live"]),
        (&mut settings.mm_exe_file, "mm_struct", &["exe_file"]),
        (&mut settings.file_f_inode, "file", &["f_inode"]),
        (&mut settings.inode_i_ino, "inode", &["i_ino"]),
        (&mut settings.inode_i_sb, "inode", &["i_sb"]),
        (&mut settings.super_block_s_dev, "super_block", &["s_dev"]),
    ] {
        let offset = spellings.iter().find_map(|member| btf.member_offset(structure, member));
        *slot = offset.unwrap_or(OFFSET_UNKNOWN);
        if offset.is_none() {
            missing.push(format!("{structure}.{}", spellings.join(" or ")));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_describes_every_member() {
        let Ok(btf) = Btf::read(Path::new(VMLINUX_BTF)) else {
            return crate::skipped("this_kernel_describes_every_member", "no kernel BTF");
        };
        let mut settings = Settings::UNKNOWN;
        assert_eq!(members(&mut settings, &btf), Vec::<String>::new());
        // A thread id precedes the thread group id in every kernel, and both are 4 bytes wide.
        assert_eq!(settings.task_tgid, settings.task_pid + 4);
        assert!(settings.tcp_bytes_received > settings.sock_sk_flags, "tcp_sock begins with a sock");
    }
}
