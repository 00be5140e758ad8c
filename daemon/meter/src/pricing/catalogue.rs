//! The catalogue: verified before it is parsed, never older than the one in force.

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
    source: CatalogueSource,
    trusted: Trusted,
}

impl Catalogue {
    /// Bytes of a catalogue, at most: the vendored one has less than 3 MB.
    pub const BYTES_MAX: usize = 16 * 1024 * 1024;

    /// The catalogue that is compiled in.
    pub fn vendored() -> Result<Catalogue, CatalogueError> {
        Err(CatalogueError::BadSignature)
    }

    /// Verifies `bytes` with the detached Ed25519 `signature` and `public_key`, then parses them. Refuses what is older
    /// than `trusted`, and other bytes under the same version.
    pub fn verify(
        bytes: &[u8],
        signature: &[u8],
        public_key: &[u8],
        source: CatalogueSource,
        trusted: Option<Trusted>,
    ) -> Result<Catalogue, CatalogueError> {
        let _ = (bytes, signature, public_key, source, trusted);
        Err(CatalogueError::BadSignature)
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

    /// Number of entries.
    pub fn entries(&self) -> usize {
        0
    }
}
