//! End to end: the real daemon, real BPF, real clients, one module per promise.

mod accounting;
mod arming;
mod bad_input;
mod clients;
mod contract;
mod coverage;
mod faults;
mod fields;
mod first_calls;
mod privacy;
mod protocols;
mod quic;
mod recorded;
mod workloads;
