//! Which host names belong to which AI provider, and which path is which operation.
//!
//! A *pattern* is an exact name, a domain with all its subdomains, or a name with a region in it. The directory is data
//! (`data/providers.toml`) that users extend by private gateways and self-hosted servers. No host belongs to two
//! providers; which one a name belongs to never depends on the order of entries.
//!
//! The directory never resolves names and knows no addresses.

mod hosts;
mod paths;
#[cfg(test)]
mod paths_tests;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use crate::llm::dialect::{self, Dialect};
use hosts::{Cloud, HostPattern, Regional, is_loopback, is_region, kernel_key, split_port};
pub use paths::{OPERATIONS, Operation, PathError};
use paths::{RawOperation, Routes};

/// Who serves models under a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Id: `openai`, `azure`, ..
    pub name: Arc<str>,
    /// Its addresses serve unrelated hosts too: an address never gets a negative verdict cached.
    pub shared_cdn: bool,
    /// The same host names serve much else (a data warehouse, say): a connection alone is not a call to a model, and
    /// the kernel is not told to copy plaintext unless the user configures the host.
    pub mixed: bool,
    /// Dialect spoken where the path cannot be read.
    pub dialect: Option<&'static Dialect>,
    /// Added by the user.
    pub configured: bool,
}

/// A user's entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserProvider {
    /// Id under which its calls appear; may be one of the built-in ones.
    pub name: String,
    /// `host`, `host:port`, `*.domain`, an address or `[v6]:port`.
    pub hosts: Vec<String>,
    /// Dialect of requests whose path matches no pattern; without one the request's body tells.
    pub dialect: Option<String>,
    /// Paths of its own.
    pub paths: Vec<UserPath>,
}

/// A path of a user's provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPath {
    /// Pattern as in the directory's file: `/llm/{model}/ask`.
    pub path: String,
    /// One of [`OPERATIONS`].
    pub operation: String,
    /// Dialect of the answers.
    pub dialect: Option<String>,
}

/// What is wrong with a user's entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// Not an id.
    #[error("provider name {name:?}: must be 1 to 63 of a-z 0-9 - _")]
    BadName {
        /// As written.
        name: String,
    },
    /// Not a host.
    #[error("provider {provider:?}: host {host:?}: {problem}")]
    BadHost {
        /// Entry.
        provider: String,
        /// As written.
        host: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// An entry without hosts.
    #[error("provider {provider:?}: names no host; give at least one")]
    NoHosts {
        /// Entry.
        provider: String,
    },
    /// A path or a dialect that cannot be.
    #[error("provider {provider:?}: {problem}")]
    Path {
        /// Entry.
        provider: String,
        /// What is wrong.
        problem: PathError,
    },
    /// Two providers claim the same host.
    #[error("provider {provider:?}: host {host:?} already belongs to {other:?}")]
    Claimed {
        /// Entry.
        provider: String,
        /// Host.
        host: String,
        /// Who has it.
        other: String,
    },
}

/// The providers and their host names.
#[derive(Clone, Debug)]
pub struct Directory {
    providers: Vec<Provider>,
    /// Exact names.
    exact: HashMap<Box<str>, Vec<Entry>>,
    /// Domains whose subdomains match.
    domains: HashMap<Box<str>, Entry>,
    /// Names with a region in them.
    regional: Vec<Regional>,
    /// Regions known by name, for the kernel.
    regions: Regions,
    /// Paths.
    routes: Routes,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    provider: u32,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Regions {
    aws: Vec<String>,
    gcp: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model_after: Vec<String>,
    regions: Regions,
    provider: Vec<FileProvider>,
    operation: Vec<RawOperation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProvider {
    name: String,
    hosts: Vec<String>,
    #[serde(default)]
    cdn: bool,
    #[serde(default)]
    mixed: bool,
    #[serde(default)]
    mixed_hosts: Vec<String>,
    dialect: Option<String>,
}

impl Directory {
    /// Bytes of a host name, at most.
    const HOST_BYTES_MAX: usize = 253;
    /// Significant bytes of a kernel key; longer ones are cut, so that they match by their last labels.
    const KERNEL_KEY_BYTES: usize = 128;

    /// The providers known at build time.
    ///
    /// # Panics
    /// Never: the file is compiled in, and a test reads it.
    pub fn builtin() -> Directory {
        let file: File = toml::from_str(include_str!("../data/providers.toml"))
            .expect("data/providers.toml is well-formed");
        let mut directory = Directory {
            providers: Vec::new(),
            exact: HashMap::new(),
            domains: HashMap::new(),
            regional: Vec::new(),
            regions: file.regions,
            routes: Routes::new(file.model_after),
        };
        for raw in &file.operation {
            directory.routes.add(raw).expect("operations in data/providers.toml are well-formed");
        }
        for FileProvider { name, hosts, cdn, mixed, mixed_hosts, dialect } in file.provider {
            let dialect = dialect.as_deref().and_then(dialect::named);
            for (hosts, mixed) in
                [(hosts, mixed), (mixed_hosts, true)].into_iter().filter(|(hosts, _)| !hosts.is_empty())
            {
                let name = name.as_str().into();
                let provider =
                    directory.add(Provider { name, shared_cdn: cdn, mixed, dialect, configured: false });
                for host in &hosts {
                    let pattern =
                        HostPattern::parse(host).expect("hosts in data/providers.toml are well-formed");
                    directory.claim(pattern, provider);
                }
            }
        }
        directory
    }

    /// Adds the user's entries. On an error nothing is added and every problem is reported. A host that lies under a
    /// built-in domain may be claimed: the longer pattern wins.
    pub fn extend(&mut self, entries: &[UserProvider]) -> Result<(), Vec<DirectoryError>> {
        let mut problems = Vec::new();
        let mut extended = self.clone();
        for entry in entries {
            if let Err(mut found) = extended.extend_by(entry) {
                problems.append(&mut found);
            }
        }
        if problems.is_empty() {
            *self = extended;
            return Ok(());
        }
        Err(problems)
    }

    fn extend_by(&mut self, entry: &UserProvider) -> Result<(), Vec<DirectoryError>> {
        let UserProvider { name, hosts, dialect, paths } = entry;
        let mut problems = Vec::new();
        let good =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(good) {
            problems.push(DirectoryError::BadName { name: name.clone() });
        }
        if hosts.is_empty() {
            problems.push(DirectoryError::NoHosts { provider: name.clone() });
        }
        let provider = self.add(Provider {
            name: name.as_str().into(),
            shared_cdn: false,
            mixed: false,
            dialect: dialect.as_deref().and_then(dialect::named),
            configured: true,
        });
        if let Some(name) = dialect.as_deref().filter(|name| dialect::named(name).is_none()) {
            let problem = PathError::BadDialect { name: name.to_owned() };
            problems.push(DirectoryError::Path { provider: entry.name.clone(), problem });
        }
        for UserPath { path, operation, dialect } in paths {
            let raw = RawOperation {
                name: operation.clone(),
                paths: vec![path.clone()],
                methods: Vec::new(),
                dialect: dialect.clone(),
                providers: vec![name.clone()],
                model: None,
                inference: true,
                telling: false,
                batch: false,
            };
            for problem in self.routes.add(&raw).err().into_iter().flatten() {
                problems.push(DirectoryError::Path { provider: name.clone(), problem });
            }
        }
        for host in hosts {
            match HostPattern::parse(host) {
                Err(problem) => {
                    problems.push(DirectoryError::BadHost {
                        provider: name.clone(),
                        host: host.clone(),
                        problem,
                    });
                }
                Ok(HostPattern::Regional { .. }) => {
                    let problem = "placeholders are for the built-in directory only";
                    problems.push(DirectoryError::BadHost {
                        provider: name.clone(),
                        host: host.clone(),
                        problem,
                    });
                }
                Ok(pattern) => match self.holder(&pattern) {
                    // The user's word on a host of the same provider replaces what is built in.
                    Some(other) if self.providers[other as usize].name.as_ref() != name => {
                        problems.push(DirectoryError::Claimed {
                            provider: name.clone(),
                            host: host.clone(),
                            other: self.providers[other as usize].name.to_string(),
                        });
                    }
                    _ => self.claim(pattern, provider),
                },
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn add(&mut self, provider: Provider) -> u32 {
        self.providers.push(provider);
        u32::try_from(self.providers.len() - 1).unwrap_or(u32::MAX)
    }

    /// Who has exactly this pattern.
    fn holder(&self, pattern: &HostPattern) -> Option<u32> {
        match pattern {
            HostPattern::Exact { host, port } => {
                let same = |entry: &&Entry| entry.port == *port;
                self.exact.get(host.as_str())?.iter().find(same).map(|entry| entry.provider)
            }
            HostPattern::Domain { domain } => self.domains.get(domain.as_str()).map(|entry| entry.provider),
            HostPattern::Regional { .. } => None,
        }
    }

    fn claim(&mut self, pattern: HostPattern, provider: u32) {
        match pattern {
            HostPattern::Exact { host, port } => {
                let entries = self.exact.entry(host.into()).or_default();
                entries.retain(|entry| entry.port != port);
                entries.push(Entry { provider, port });
            }
            HostPattern::Domain { domain } => {
                self.domains.insert(domain.into(), Entry { provider, port: None });
            }
            HostPattern::Regional { head, cloud, tail, subdomains } => {
                self.regional.push(Regional {
                    head: head.into(),
                    cloud,
                    tail: tail.into(),
                    subdomains,
                    provider,
                });
            }
        }
    }

    /// The provider of `host`: any case, with or without a final dot or a port. Without a port an entry that names one
    /// matches too (most evidence of a name has no port), except on loopback, where the port is all there is.
    pub fn lookup(&self, host: &str) -> Option<&Provider> {
        let (host, port) = split_port(host)?;
        // Most come in lower case.
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        let index = self.lookup_exact(&host, port).or_else(|| self.lookup_regional(&host)).or_else(|| {
            let mut rest = &*host;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(entry) = self.domains.get(parent) {
                    return Some(entry.provider);
                }
                rest = parent;
            }
            None
        })?;
        self.provider(index)
    }

    fn lookup_exact(&self, host: &str, port: Option<u16>) -> Option<u32> {
        let entries = self.exact.get(host)?;
        let fits = |entry: &&Entry| match (entry.port, port) {
            (None, _) => true,
            (Some(wanted), Some(port)) => wanted == port,
            (Some(_), None) => !is_loopback(host),
        };
        // An entry with a port is more specific than one without.
        let by_port = entries.iter().find(|entry| entry.port.is_some() && entry.port == port);
        by_port.or_else(|| entries.iter().find(fits)).map(|entry| entry.provider)
    }

    fn lookup_regional(&self, host: &str) -> Option<u32> {
        self.regional.iter().find(|pattern| pattern.matches(host)).map(|pattern| pattern.provider)
    }

    /// What a request with `method` for `target` to `provider` is for.
    pub fn operation<'a>(&self, provider: &str, method: &str, target: &'a str) -> Operation<'a> {
        if let Some(found) = self.routes.find(provider, method, target) {
            return found;
        }
        match self.configured(provider) {
            Some(Provider { dialect: Some(dialect), .. }) if method == "POST" => {
                Operation { name: "chat", dialect: Some(dialect), inference: true, ..Operation::OTHER }
            }
            Some(_) if method == "POST" => Operation { by_shape: true, ..Operation::OTHER },
            _ => Operation::OTHER,
        }
    }

    /// What a request to `provider` most likely is for whose path could not be read.
    pub fn likely_operation(&self, provider: &str) -> Operation<'static> {
        let said = self.configured(provider).and_then(|provider| provider.dialect);
        let built_in = || self.providers.iter().find(|one| *one.name == *provider)?.dialect;
        let dialect = said.or_else(built_in).or(dialect::named("openai"));
        Operation { name: "unknown", dialect, inference: true, ..Operation::OTHER }
    }

    /// What the user said of `provider`, the last word first.
    fn configured(&self, provider: &str) -> Option<&Provider> {
        self.providers.iter().rev().find(|one| one.configured && *one.name == *provider)
    }

    /// The AWS or Google region that `host` names, if it is that of a regional pattern.
    pub fn region_of(host: &str) -> Option<&str> {
        let word =
            |label: &str| -> bool { is_region(label) && label.bytes().any(|byte| byte.is_ascii_digit()) };
        host.split('.')
            .map(|label| label.strip_suffix("-aiplatform").unwrap_or(label))
            .find(|label| word(label))
    }

    /// Provider number `index` of [`Directory::kernel_keys`].
    pub fn provider(&self, index: u32) -> Option<&Provider> {
        self.providers.get(usize::try_from(index).ok()?)
    }

    /// All providers, in the order of their numbers.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// The keys of the kernel's trie: the lower-case name reversed, ending with 0 if exact and with `.` if subdomains
    /// match, with the number of the provider. Hosts of mixed providers are left out, so that the plaintext of a data
    /// warehouse stays where it is; so are addresses and loopback names, which no TLS host name carries. A name with a
    /// region is there once for each region that is known by name.
    pub fn kernel_keys(&self) -> impl Iterator<Item = (Vec<u8>, u32)> + '_ {
        let exact =
            self.exact.iter().flat_map(|(host, entries)| entries.iter().map(move |entry| (host, entry)));
        let exact = exact.filter(|(host, entry)| {
            host.parse::<IpAddr>().is_err() && !(is_loopback(host) && entry.port.is_some())
        });
        let exact = exact.map(|(host, entry)| (kernel_key(host, 0), entry.provider));
        let domains = self.domains.iter().map(|(domain, entry)| (kernel_key(domain, b'.'), entry.provider));
        let regional = self.regional.iter().flat_map(|pattern| {
            let regions = match pattern.cloud {
                Cloud::Aws => &self.regions.aws,
                Cloud::Gcp => &self.regions.gcp,
            };
            let end = if pattern.subdomains { b'.' } else { 0 };
            regions.iter().map(move |region| {
                (kernel_key(&format!("{}{region}{}", pattern.head, pattern.tail), end), pattern.provider)
            })
        });
        let wanted = |index: u32| self.provider(index).is_some_and(|provider| !provider.mixed);
        exact.chain(domains).chain(regional).filter(move |(_, index)| wanted(*index))
    }
}
