//! Who runs: identity of the current task, followed through kernel structs at offsets from this kernel's BTF.
//!
//! An offset that is not known makes its field 0; reading never fails.

use abi::control::OFFSET_UNKNOWN;
use abi::event::Task;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_task, bpf_probe_read_kernel,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};

use crate::maps::setting;

/// Process id (thread group) of the current task.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The current `task_struct`.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_get_current_task() }
}

/// Start of the process of `task`, `CLOCK_BOOTTIME` ns.
#[inline(always)]
pub(crate) fn start_ns(task: u64) -> u64 {
    let leader = pointer(task, setting!(task_group_leader));
    long(leader, setting!(task_start_boottime))
}

/// Process id of `task`.
#[inline(always)]
pub(crate) fn tgid_of(task: u64) -> u32 {
    int(task, setting!(task_tgid))
}

/// Describes the current task in place.
///
/// # Safety
/// `out` points to writable memory of a reserved record.
#[inline(always)]
pub(crate) unsafe fn describe(out: *mut Task) {
    let task = current();
    let pid_tgid = bpf_get_current_pid_tgid();
    let inode = executable(task);
    // SAFETY: the caller's memory; every field is written. `comm` is 16 bytes, as the helper is told.
    unsafe {
        (*out).start_ns = start_ns(task);
        (*out).cgroup_id = bpf_get_current_cgroup_id();
        (*out).exe_dev = u64::from(int(pointer(inode, setting!(inode_i_sb)), setting!(super_block_s_dev)));
        (*out).exe_ino = long(inode, setting!(inode_i_ino));
        (*out).tgid = (pid_tgid >> 32) as u32;
        (*out).tid = pid_tgid as u32;
        (*out).uid = bpf_get_current_uid_gid() as u32;
        (*out).parent_tgid = tgid_of(pointer(task, setting!(task_real_parent)));
        bpf_get_current_comm((&raw mut (*out).comm).cast(), 16);
    }
}

/// `inode` of the program that `task` runs; 0 for kernel threads and processes that ended.
#[inline(always)]
fn executable(task: u64) -> u64 {
    let file = pointer(pointer(task, setting!(task_mm)), setting!(mm_exe_file));
    pointer(file, setting!(file_f_inode))
}

/// Reads a pointer, 0 if it cannot be read. Same as [`long`], for the reader.
#[inline(always)]
pub(crate) fn pointer(base: u64, offset: u32) -> u64 {
    long(base, offset)
}

/// Reads 8 bytes of kernel memory, 0 if they cannot be read.
#[inline(always)]
pub(crate) fn long(base: u64, offset: u32) -> u64 {
    if base == 0 || offset == OFFSET_UNKNOWN {
        return 0;
    }
    let mut value = 0u64;
    // SAFETY: the helper checks the address and writes 8 bytes.
    let failed = unsafe {
        bpf_probe_read_kernel((&raw mut value).cast(), 8, base.wrapping_add(u64::from(offset)) as *const _)
    };
    if failed == 0 { value } else { 0 }
}

/// Reads 4 bytes of kernel memory, 0 if they cannot be read.
#[inline(always)]
pub(crate) fn int(base: u64, offset: u32) -> u32 {
    if base == 0 || offset == OFFSET_UNKNOWN {
        return 0;
    }
    let mut value = 0u32;
    // SAFETY: the helper checks the address and writes 4 bytes.
    let failed = unsafe {
        bpf_probe_read_kernel((&raw mut value).cast(), 4, base.wrapping_add(u64::from(offset)) as *const _)
    };
    if failed == 0 { value } else { 0 }
}
