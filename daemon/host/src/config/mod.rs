//! The daemon's configuration: one TOML file, every key optional, every mistake reported at once.
//!
//! [`parse`] turns text into a [`Config`] or into the list of everything that is wrong with it, each with its path in
//! the file and what is allowed there. [`EXAMPLE`] is the documented file with every default, and a test holds the
//! two together. Nothing here touches the host except [`load`], which reads the file.

mod check;
mod raw;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use meter::attribution::{OwnerConfig, OwnerIndex, TenantName};
use meter::directory::UserProvider;
use store::Retention;

/// Read if no `--config` is given; it may be missing.
pub const DEFAULT_PATH: &str = "/etc/venturi/config.toml";

/// The documented example: all defaults, and each kind of table commented out.
pub const EXAMPLE: &str = include_str!("../../../../deploy/config.example.toml");

/// What the program uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What is captured, and how.
    pub capture: Capture,
    /// Private gateways and self-hosted model servers, added to the built-in directory.
    pub providers: Vec<UserProvider>,
    /// Tenants; empty means the one tenant `default`.
    pub tenants: Vec<Tenant>,
    /// Who owns what, and how owners are found: what the owner index is compiled from.
    pub owners: OwnerConfig,
    /// How records are kept.
    pub store: Store,
    /// Where queries are answered.
    pub serve: Serve,
    /// Our own log.
    pub log: Log,
}

/// `[capture]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Which processes have their TLS plaintext metered.
    pub scope: Scope,
    /// When packets are looked at for names.
    pub tap: TapMode,
    /// Size of the ring of kernel events, MiB, a power of two.
    pub events_ring_mib: u32,
    /// Size of the ring of plaintext, MiB, a power of two.
    pub content_ring_mib: u32,
    /// Gateways on loopback: the tap looks at `lo` only for these.
    pub loopback_gateways: Vec<SocketAddr>,
}

/// Which processes have their TLS plaintext metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that talk to a provider.
    OnDemand,
    /// All that use a TLS library.
    Eager,
    /// None: flows and names only.
    Off,
}

impl Scope {
    /// Name in the API and in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::OnDemand => "on_demand",
            Scope::Eager => "eager",
            Scope::Off => "off",
        }
    }
}

/// When packets are looked at for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapMode {
    /// While a connection of unknown name is being set up.
    OnDemand,
    /// Always.
    Always,
    /// Never.
    Off,
}

impl TapMode {
    /// Name in the API and in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            TapMode::OnDemand => "on_demand",
            TapMode::Always => "always",
            TapMode::Off => "off",
        }
    }
}

/// `[[tenant]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Name.
    pub name: TenantName,
    /// Who may ask for its records over the unix socket.
    pub grants: Vec<Grant>,
    /// What is kept of its records.
    pub retention: Retention,
}

/// `[[tenant.grant]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What they may do.
    pub role: Role,
    /// User ids.
    pub uids: Vec<u32>,
    /// Group ids, primary or supplementary.
    pub gids: Vec<u32>,
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads the tenant's records.
    Reader,
    /// Reads the tenant's records, and status and coverage of the node.
    Operator,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Page cache of each tenant's database, bytes.
    pub cache_bytes: u64,
    /// Free disk space below which records are counted but not stored, bytes.
    pub reserve_bytes: u64,
    /// What is kept of tenants that do not say otherwise.
    pub retention: Retention,
}

/// `[serve]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// The unix socket, if the file names one.
    pub socket: Option<PathBuf>,
    /// Group that may connect.
    pub group: String,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Lowest level shown.
    pub level: tracing::Level,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            capture: Capture {
                scope: Scope::OnDemand,
                tap: TapMode::OnDemand,
                events_ring_mib: 2,
                content_ring_mib: 8,
                loopback_gateways: Vec::new(),
            },
            providers: Vec::new(),
            tenants: Vec::new(),
            owners: OwnerConfig {
                max_staleness_ns: Some(OwnerIndex::MAX_STALENESS_NS),
                ..OwnerConfig::default()
            },
            store: Store { cache_bytes: 4 << 20, reserve_bytes: 64 << 20, retention: Retention::default() },
            serve: Serve { socket: None, group: "venturi".to_owned() },
            log: Log { level: tracing::Level::INFO, json: false },
        }
    }
}

impl Config {
    /// The tenants that have a store: those configured, or `default`; with two or more also `unassigned`.
    pub fn tenant_names(&self) -> Vec<TenantName> {
        let mut names: Vec<TenantName> = self.tenants.iter().map(|tenant| tenant.name.clone()).collect();
        if names.is_empty() {
            names.extend(TenantName::new(TenantName::DEFAULT));
        } else if names.len() > 1 {
            names.extend(TenantName::new(TenantName::UNASSIGNED));
        }
        names
    }

    /// Where traffic goes that no rule gives to a tenant.
    pub fn fallback_tenant(&self) -> Option<TenantName> {
        match self.tenants.as_slice() {
            [] => TenantName::new(TenantName::DEFAULT),
            [only] => Some(only.name.clone()),
            _ => TenantName::new(TenantName::UNASSIGNED),
        }
    }
}

/// Why there is no configuration. The daemon ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("configuration {path} has {} {}:{}\nAn example with every key: venturid --print-example-config",
        problems.len(), if problems.len() == 1 { "mistake" } else { "mistakes" }, listed(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Each mistake.
        problems: Vec<String>,
    },
}

/// Reads and checks the file. With `None` the default path is used, where a missing file means all defaults.
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    let (path, may_be_missing) = match path {
        Some(path) => (path, false),
        None => (Path::new(DEFAULT_PATH), true),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if may_be_missing && error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
    };
    parse(&text).map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
}

/// Checks a configuration. The error lists every mistake.
pub fn parse(text: &str) -> Result<Config, Vec<String>> {
    check::check(text)
}

fn listed(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}
