//! The real process on the real kernel: what it may do, what it sees, what it refuses, how it ends.
//!
//! Needs root and BPF; elsewhere each test says that it was skipped, and fails if `VENTURI_REQUIRE_KERNEL=1`.

mod flows;
mod frames;
mod harness;
mod life;
mod moved;
mod other_kernels;
mod rewritten;
mod sessions;
mod tap;
mod tls;
mod verbs;
