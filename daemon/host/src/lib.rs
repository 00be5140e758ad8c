//! Everything that touches the host or the network: capture, resolve, serving, wiring.
pub mod api;
pub mod capture;
pub mod config;
pub mod doctor;
pub mod privileges;
pub mod shards;
pub mod telemetry;
pub mod writer;

/// Where queries are answered unless the command line or the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/venturi/venturid.sock";
