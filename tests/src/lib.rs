//! The laboratory: a local TLS provider, a relay that stands in for distance, real clients in mount namespaces of
//! their own, and the real daemon, for end-to-end tests, the demo and the benchmarks; and recorded exchanges as bytes
//! on a connection.
//!
//! Everything listens on loopback addresses of 127.0.0.0/8. What a test asserts is compared with what the *client*
//! counted, never with the daemon's own numbers.

pub mod ca;
pub mod clients;
pub mod corpus;
pub mod daemon;
pub mod disk;
pub mod elf;
pub mod lab;
pub mod provider;
pub mod relay;
pub mod ring;
pub mod stalls;
pub mod toolbox;
