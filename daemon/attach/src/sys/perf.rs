//! `perf_event_open(2)`: tracepoints, traced uprobes, and the idle event that keeps arming fast.
#![expect(
    unsafe_code,
    reason = "perf_event_open(2) takes a pointer to a structure whose layout the kernel defines"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const TYPE_SOFTWARE: u32 = 1;
const TYPE_TRACEPOINT: u32 = 2;
const COUNT_SW_DUMMY: u64 = 9;
const FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const IOC_ENABLE: libc::c_ulong = 0x2400;
const IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// `struct perf_event_attr` up to version 1 (72 bytes), which every kernel we support takes.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
}

/// Which bits of `flags` are used: bit 0 `disabled`.
const DISABLED: u64 = 1;

/// An event on the tracepoint with this tracefs id, for one process (`pid` 0: for all); closed, it is gone. One event on
/// one CPU is enough for all: a BPF program on a tracepoint event runs for every hit on every CPU.
pub(crate) fn tracepoint(id: u64, pid: u32) -> io::Result<OwnedFd> {
    let attr = Attr { kind: TYPE_TRACEPOINT, config: id, sample_period: 1, ..Attr::default() };
    let (pid, cpu) = whom(pid);
    open(attr, pid, cpu)
}

/// Attaches a program to an event on a tracepoint, a kprobe-type one to a traced uprobe; detached with the event.
pub(crate) fn run_program(event: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    enable(event)?;
    set_program(event, program)
}

/// Lets the uprobe with this tracefs id fire in one more process (`pid` 0: in all), for the program that is attached to
/// it already; taken back when the descriptor is closed.
pub(crate) fn extend_to(id: u64, pid: u32) -> io::Result<OwnedFd> {
    let event = tracepoint(id, pid)?;
    enable(&event)?;
    Ok(event)
}

/// A software event on this thread that never counts. While one per-task event exists the kernel keeps its perf
/// scheduling key on, and the first uprobe after a quiet second waits for one grace period less (13-30 ms become 6-7).
pub(crate) fn warm_event() -> io::Result<OwnedFd> {
    open(Attr { kind: TYPE_SOFTWARE, config: COUNT_SW_DUMMY, flags: DISABLED, ..Attr::default() }, 0, -1)
}

/// The process and the CPU of an event: a process on every CPU, or every process by way of the first CPU.
fn whom(pid: u32) -> (i32, i32) {
    if pid == 0 { (-1, 0) } else { (pid.cast_signed(), -1) }
}

fn set_program(event: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the ioctl takes a descriptor number by value.
    let set = unsafe { libc::ioctl(event.as_raw_fd(), IOC_SET_BPF as _, program.as_raw_fd()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn enable(event: &OwnedFd) -> io::Result<()> {
    // SAFETY: the ioctl takes no pointer.
    let enabled = unsafe { libc::ioctl(event.as_raw_fd(), IOC_ENABLE as _, 0) };
    if enabled < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open(mut attr: Attr, pid: i32, cpu: i32) -> io::Result<OwnedFd> {
    attr.size = size_of::<Attr>() as u32;
    let pointer = std::ptr::from_ref(&attr);
    // SAFETY: `attr` is laid out as version 1 of `perf_event_attr` and says so in `size`; a path in `config1` outlives
    // the call.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, pointer, pid, cpu, -1, FLAG_FD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a non-negative result is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
