//! `bpf(2)`: load, query, raw tracepoint, multi-uprobe link.
#![expect(unsafe_code, reason = "bpf(2) takes pointers to structures whose layout the kernel defines")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{bpf_insn, bpf_map_info, bpf_prog_info};

const PROG_LOAD: u32 = 5;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const RAW_TRACEPOINT_OPEN: u32 = 17;
const LINK_CREATE: u32 = 28;

/// `BPF_TRACE_UPROBE_MULTI` of `enum bpf_attach_type` (6.6).
pub(crate) const TRACE_UPROBE_MULTI: u32 = 48;
const UPROBE_MULTI_RETURN: u32 = 1;
const LOG_BYTES: usize = 256 * 1024;

/// `enum bpf_prog_type`, the four kinds this process ever loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ProgType {
    /// `BPF_PROG_TYPE_SOCKET_FILTER`
    SocketFilter = 1,
    /// `BPF_PROG_TYPE_KPROBE`, loaded for uprobes and uretprobes only
    Kprobe = 2,
    /// `BPF_PROG_TYPE_TRACEPOINT`
    Tracepoint = 5,
    /// `BPF_PROG_TYPE_RAW_TRACEPOINT`
    RawTracepoint = 17,
}

/// What is handed to `BPF_PROG_LOAD`.
pub(crate) struct ProgLoad<'a> {
    pub(crate) prog_type: ProgType,
    pub(crate) expected_attach_type: u32,
    pub(crate) name: &'a str,
    pub(crate) license: &'a CStr,
    pub(crate) instructions: &'a [bpf_insn],
    pub(crate) kernel_version: u32,
}

/// A program the kernel refused.
#[derive(Debug)]
pub(crate) struct LoadError {
    pub(crate) error: io::Error,
    /// The end of the verifier's log, empty if it wrote none.
    pub(crate) log: String,
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct RawTracepointAttr {
    name: u64,
    prog_fd: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct UprobeMultiAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    cnt: u32,
    multi_flags: u32,
    pid: u32,
    reserved: u32,
}

/// Loads exactly `load.instructions`. The verifier's log is asked for only after a refusal, because it doubles the
/// time of a load.
pub(crate) fn prog_load(load: &ProgLoad<'_>) -> Result<OwnedFd, LoadError> {
    let mut attr = LoadAttr {
        prog_type: load.prog_type as u32,
        insn_cnt: u32::try_from(load.instructions.len()).unwrap_or(u32::MAX),
        insns: load.instructions.as_ptr() as u64,
        license: load.license.as_ptr() as u64,
        kern_version: load.kernel_version,
        prog_name: kernel_name(load.name),
        expected_attach_type: load.expected_attach_type,
        ..LoadAttr::default()
    };
    // The RCU and memory accounting of a busy node answer EAGAIN now and then; the kernel's own tools retry too.
    let mut tries = 5;
    let error = loop {
        match bpf_fd(PROG_LOAD, &mut attr) {
            Ok(fd) => return Ok(fd),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries > 0 => tries -= 1,
            Err(error) => break error,
        }
    };
    let mut log = vec![0u8; LOG_BYTES];
    attr.log_level = 1;
    attr.log_size = u32::try_from(log.len()).unwrap_or(u32::MAX);
    attr.log_buf = log.as_mut_ptr() as u64;
    if let Ok(fd) = bpf_fd(PROG_LOAD, &mut attr) {
        return Ok(fd);
    }
    let text =
        CStr::from_bytes_until_nul(&log).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    Err(LoadError { error, log: tail(&text, 12) })
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a program, with the ids of its maps.
pub(crate) fn prog_info(fd: BorrowedFd<'_>) -> io::Result<(bpf_prog_info, Vec<u32>)> {
    let mut map_ids = vec![0u32; 64];
    // SAFETY: the structure is plain old data; all zero is its empty value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_map_ids = map_ids.len() as u32;
    info.map_ids = map_ids.as_mut_ptr() as u64;
    info_by_fd(fd, &mut info)?;
    map_ids.truncate(info.nr_map_ids as usize);
    Ok((info, map_ids))
}

/// How often the kernel skipped a program because another one ran on that CPU; `None` where it does not count.
pub(crate) fn recursion_misses(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    // SAFETY: the structure is plain old data; all zero is its empty value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let known = info_by_fd(fd, &mut info)?;
    let end = std::mem::offset_of!(bpf_prog_info, recursion_misses) + size_of::<u64>();
    Ok((known >= end).then_some(info.recursion_misses))
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a map.
pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: the structure is plain old data; all zero is its empty value.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    info_by_fd(fd, &mut info)?;
    Ok(info)
}

/// Attaches a raw tracepoint program; detached when the descriptor is closed.
pub(crate) fn raw_tracepoint_open(name: &CStr, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = RawTracepointAttr {
        name: name.as_ptr() as u64,
        prog_fd: program.as_raw_fd() as u32,
        ..RawTracepointAttr::default()
    };
    bpf_fd(RAW_TRACEPOINT_OPEN, &mut attr)
}

/// Attaches one program at several offsets of one file for one process (`pid` 0: for all); detached when the
/// descriptor is closed.
pub(crate) fn uprobe_multi(
    program: BorrowedFd<'_>,
    path: &CStr,
    offsets: &[u64],
    pid: u32,
    at_return: bool,
) -> io::Result<OwnedFd> {
    let mut attr = UprobeMultiAttr {
        prog_fd: program.as_raw_fd() as u32,
        attach_type: TRACE_UPROBE_MULTI,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        cnt: offsets.len() as u32,
        multi_flags: if at_return { UPROBE_MULTI_RETURN } else { 0 },
        pid,
        ..UprobeMultiAttr::default()
    };
    bpf_fd(LINK_CREATE, &mut attr)
}

/// A name as the kernel keeps it: 15 bytes of `[A-Za-z0-9_.]`, NUL padded.
pub(crate) fn kernel_name(name: &str) -> [u8; 16] {
    let mut out = [0u8; 16];
    for (slot, byte) in out.iter_mut().take(15).zip(name.bytes()) {
        *slot = if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' { byte } else { b'_' };
    }
    out
}

/// A path that names an open descriptor of this process.
pub(crate) fn fd_path(fd: impl AsFd) -> CString {
    let text = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    CString::new(text).unwrap_or_default()
}

/// Returns how many bytes of the structure the kernel knows.
fn info_by_fd<T>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<usize> {
    let mut attr = InfoAttr {
        bpf_fd: fd.as_raw_fd() as u32,
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(attr.info_len as usize)
}

fn bpf_fd<T>(command: u32, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i32> {
    let pointer = std::ptr::from_mut(attr);
    // SAFETY: `attr` is one of the structures above, laid out as the head of `union bpf_attr` for `command`, and the
    // buffers it points to outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().filter(|line| !line.starts_with("processed ")).collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
