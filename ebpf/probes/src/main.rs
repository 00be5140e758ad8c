//! Venturi's kernel programs. They observe: none can change, delay, drop or redirect anything.
//!
//! Program types are tracepoint, raw tracepoint, uprobe and socket filter. Helpers are map access, ring buffer,
//! clock, identity of the current task, reads of memory and of packets; no other. Per packet, system call or TLS call
//! of processes that have nothing to do with AI no program runs; `tap` and the `ssl_*` calls are attached on demand.
//!
//! Programs (their names are the contract with the attacher; those with `_entry`/`_return` are one hook):
//!
//! | program | attached to | writes |
//! |---|---|---|
//! | `inet_sock_set_state` | tracepoint `sock:inet_sock_set_state` | Connect, Established, Closed |
//! | `sched_process_exec`, `sched_process_exit` | tracepoints `sched:...` | Exec, Exit |
//! | `sched_process_fork` | raw tracepoint | Fork |
//! | `getaddrinfo_entry`, `getaddrinfo_return` | libc, any process | Lookup |
//! | `ssl_ctrl_entry`, `ssl_free_entry` | libssl, any process | SessionNamed, SessionFreed |
//! | `ssl_write_entry`, `ssl_write_return`, `ssl_write_ex_entry`, `ssl_write_ex2_entry`, `ssl_write_ex_return` | libssl, one process | content, SessionOther |
//! | `ssl_read_entry`, `ssl_read_return`, `ssl_read_ex_entry`, `ssl_read_ex_return` | libssl, one process | content, SessionOther |
//! | `tap` | AF_PACKET socket of the attacher | Packet |
//!
//! Maps are in [`maps`], record layouts in the package `abi`. Scratch memory is the stack or a reserved ring record,
//! never a per-CPU array: a uprobe's program may be preempted, and another task's would overwrite the decision of
//! what may leave the kernel.
//!
//! Compiled for the kernel by `cargo xtask probes`; the result is committed in `ebpf/objects`. For the host the same
//! code compiles so that editors and lints see it, and the tests of [`pure`] run.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unstable_features, reason = "inline assembly for BPF is unstable; the toolchain is recorded"),
    feature(asm_experimental_arch)
)]
#![expect(
    unsafe_code,
    reason = "kernel programs are entered by the kernel with a raw context and read memory through helpers"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "keys and values are passed by reference so that a program's 512 bytes of stack hold them once"
)]

mod flow;
mod maps;
mod note;
mod process;
mod pure;
mod regs;
mod resolver;
mod session;
mod tap;
mod task;
mod transfer;

/// The programs use helpers that the kernel grants to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("kernel programs: built for the BPF target by `cargo xtask probes`");
}

/// Reachable only through a bug: the endless loop makes the verifier refuse a program that could panic.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
