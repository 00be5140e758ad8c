//! The catalogue: verified before it is parsed, never older than the one in force.

use std::collections::{HashMap, HashSet};

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::format::{self, ModelPrices, ProviderPrices};
use crate::time::UnixNanos;

/// Where a catalogue came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogueSource {
    /// From the control plane.
    Live,
    /// From the last one that was fetched.
    Cached,
    /// Compiled in.
    Vendored,
}

impl CatalogueSource {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            CatalogueSource::Live => "live",
            CatalogueSource::Cached => "cached",
            CatalogueSource::Vendored => "vendored",
        }
    }
}

/// Whether prices are within their term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceState {
    /// They are.
    Current,
    /// The catalogue has expired; it still prices.
    Stale,
}

impl PriceState {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            PriceState::Current => "current",
            PriceState::Stale => "stale",
        }
    }
}

/// The highest catalogue that was ever trusted; to be kept apart from the catalogue itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// Version.
    pub version: u64,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
}

/// Why a catalogue is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// The signature does not match.
    #[error("the catalogue's signature does not match its bytes and the trusted key")]
    BadSignature,
    /// The key is no Ed25519 public key.
    #[error("the catalogue's public key is not an Ed25519 key of 32 bytes")]
    BadKey,
    /// Larger than [`Catalogue::BYTES_MAX`].
    #[error("the catalogue has {bytes} bytes, more than {max}", max = Catalogue::BYTES_MAX)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Signed, but not a catalogue.
    #[error("the catalogue is malformed: {0}")]
    Malformed(String),
    /// Signed by one key, and names another.
    #[error("the catalogue names the key {named}, but {used} signed it")]
    WrongKey {
        /// In the catalogue.
        named: String,
        /// That verified it.
        used: String,
    },
    /// Older than one that was trusted already.
    #[error("catalogue {offered} is older than {current}, which is in use")]
    Rollback {
        /// Its version.
        offered: u64,
        /// Highest trusted version.
        current: u64,
    },
    /// The same version with other bytes.
    #[error("catalogue {version} differs from the one with the same version that is in use")]
    Equivocation {
        /// Its version.
        version: u64,
    },
}

/// Verified unit prices.
#[derive(Clone, Debug)]
pub struct Catalogue {
    version: u64,
    issued_at: UnixNanos,
    expires_at: UnixNanos,
    key_id: Box<str>,
    source: CatalogueSource,
    trusted: Trusted,
    providers: HashMap<Box<str>, Prices>,
}

/// One provider's models.
#[derive(Clone, Debug)]
struct Prices {
    models: Vec<ModelPrices>,
    /// Position in `models` by exact name.
    exact: HashMap<Box<str>, usize>,
    disputed: HashSet<Box<str>>,
}

/// What the catalogue knows of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Its prices.
    Prices(&'a ModelPrices),
    /// The sources differ.
    Disputed,
    /// Nothing.
    Unknown,
}

impl Catalogue {
    /// Bytes of a catalogue, at most; the vendored one has about a sixteenth of that.
    pub const BYTES_MAX: usize = 16 * 1024 * 1024;
    /// What is signed: these bytes, then the catalogue's. Nothing else that this key signs begins like that.
    pub const DOMAIN: &'static [u8] = b"venturi catalogue v1\0";

    /// The catalogue that is compiled in.
    ///
    /// # Errors
    /// None, as a test shows; a build with damaged files would say so here.
    pub fn vendored() -> Result<Catalogue, CatalogueError> {
        let signature = hex(include_str!("../../data/catalogue.sig")).ok_or(CatalogueError::BadSignature)?;
        let bytes = include_bytes!("../../data/catalogue.json");
        Catalogue::verify(bytes, &signature, &Catalogue::release_key()?, CatalogueSource::Vendored, None)
    }

    /// The project's public key, compiled in: whose signature a catalogue must bear.
    pub fn release_key() -> Result<Vec<u8>, CatalogueError> {
        hex(include_str!("../../data/catalogue.pub")).ok_or(CatalogueError::BadKey)
    }

    /// Verifies `bytes` with the detached Ed25519 `signature` (64 bytes) and `public_key` (32 bytes), then parses them.
    /// Refuses what is older than `trusted`, and other bytes under the same version. An expired catalogue is not
    /// refused: see [`Catalogue::state`].
    pub fn verify(
        bytes: &[u8],
        signature: &[u8],
        public_key: &[u8],
        source: CatalogueSource,
        trusted: Option<Trusted>,
    ) -> Result<Catalogue, CatalogueError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(CatalogueError::TooLarge { bytes: bytes.len() });
        }
        let key: [u8; 32] = public_key.try_into().map_err(|_| CatalogueError::BadKey)?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| CatalogueError::BadKey)?;
        let signature = Signature::from_slice(signature).map_err(|_| CatalogueError::BadSignature)?;
        let message = [Self::DOMAIN, bytes].concat();
        key.verify_strict(&message, &signature).map_err(|_| CatalogueError::BadSignature)?;

        let file = format::parse(bytes).map_err(CatalogueError::Malformed)?;
        let used = Self::key_id_of(public_key);
        if *file.key_id != *used {
            return Err(CatalogueError::WrongKey { named: file.key_id.into(), used });
        }
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(trusted) = trusted {
            if file.version < trusted.version {
                return Err(CatalogueError::Rollback { offered: file.version, current: trusted.version });
            }
            if file.version == trusted.version && digest != trusted.digest {
                return Err(CatalogueError::Equivocation { version: file.version });
            }
        }
        let time = |seconds: u64| {
            let nanos = seconds.checked_mul(1_000_000_000).map(UnixNanos);
            nanos.ok_or_else(|| CatalogueError::Malformed("a time beyond the year 2500".to_owned()))
        };
        Ok(Catalogue {
            version: file.version,
            issued_at: time(file.issued_at)?,
            expires_at: time(file.expires_at)?,
            key_id: file.key_id,
            source,
            trusted: Trusted { version: file.version, digest },
            providers: file.providers.into_iter().map(Prices::index).collect(),
        })
    }

    /// The name of a public key: the first 16 hex digits of its SHA-256.
    pub fn key_id_of(public_key: &[u8]) -> String {
        Sha256::digest(public_key).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Counts up with every issue.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When it was issued.
    pub fn issued_at(&self) -> UnixNanos {
        self.issued_at
    }

    /// When it expires.
    pub fn expires_at(&self) -> UnixNanos {
        self.expires_at
    }

    /// Name of the key that signed it.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Where it came from.
    pub fn source(&self) -> CatalogueSource {
        self.source
    }

    /// Whether it is within its term at `now`.
    pub fn state(&self, now: UnixNanos) -> PriceState {
        if now > self.expires_at { PriceState::Stale } else { PriceState::Current }
    }

    /// To be kept against rollback.
    pub fn trusted(&self) -> Trusted {
        self.trusted
    }

    /// Number of models with a price.
    pub fn entries(&self) -> usize {
        self.providers.values().map(|prices| prices.models.len()).sum()
    }

    /// The prices of `model`, as a request or a response names it.
    pub fn find(&self, provider: &str, model: &str) -> Found<'_> {
        let Some(prices) = self.providers.get(provider) else { return Found::Unknown };
        let mut lower: SmallVec<[u8; 64]> = SmallVec::from_slice(model.as_bytes());
        lower.make_ascii_lowercase();
        let Ok(name) = std::str::from_utf8(&lower).map(bare) else { return Found::Unknown };
        if prices.disputed.contains(name) {
            return Found::Disputed;
        }
        let by_name = prices.exact.get(name).and_then(|at| prices.models.get(*at));
        let matching =
            || prices.models.iter().find(|model| model.matches.iter().any(|one| one.matches(name)));
        by_name.or_else(matching).map_or(Found::Unknown, Found::Prices)
    }

    /// Providers, models and their prices: for a comparison with another catalogue.
    pub fn prices(&self) -> impl Iterator<Item = (&str, &ModelPrices)> + '_ {
        let all = self.providers.iter();
        all.flat_map(|(provider, prices)| prices.models.iter().map(move |model| (&**provider, model)))
    }
}

impl Prices {
    fn index(raw: ProviderPrices) -> (Box<str>, Prices) {
        let ProviderPrices { provider, disputed, models } = raw;
        let named = models.iter().enumerate();
        let exact = named.flat_map(|(at, model)| {
            model.matches.iter().filter_map(move |one| one.exact().map(|name| (name.into(), at)))
        });
        let exact = exact.collect();
        (provider, Prices { models, exact, disputed: disputed.into_iter().collect() })
    }
}

/// The name without the path that some providers put before it.
fn bare(model: &str) -> &str {
    if model.starts_with("arn:")
        || model.starts_with("models/")
        || model.starts_with("projects/")
        || model.starts_with("publishers/")
    {
        return model.rsplit_once('/').map_or(model, |(_, name)| name);
    }
    model
}

/// The bytes that hex digits and a final line break spell.
fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end();
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|two| two.len() == 2)?, 16).ok()
    };
    pairs.map(byte).collect()
}

#[cfg(test)]
#[path = "attacks.rs"]
mod attacks;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
