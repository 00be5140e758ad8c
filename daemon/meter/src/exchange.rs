//! One request to a provider with its response: what is kept of it. There is no field for content.

use std::sync::Arc;

use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::detail::Details;
use crate::time::{Moment, UnixNanos};

/// A TLS session or a plain connection, unique while the daemon lives. Allotted by capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// How a host was identified. A DNS answer or an address alone never names a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentifiedBy {
    /// TLS ClientHello on the wire.
    Sni,
    /// TLS ClientHello of an earlier connection of the same executable to the same address, which is no shared one.
    SniCached,
    /// DNS answer seen on the wire: arms probes, names nothing.
    Dns,
    /// `getaddrinfo` of the process that connected to one of the answered addresses: arms probes, names nothing.
    Getaddrinfo,
    /// HTTP Host header or `:authority`.
    HostHeader,
    /// Host name handed to the TLS library.
    TlsHostnameCall,
    /// Address in a published range: arms probes, names nothing.
    IpRange,
    /// Named by the configuration.
    Configured,
}

impl IdentifiedBy {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            IdentifiedBy::Sni => "sni",
            IdentifiedBy::SniCached => "sni_cached",
            IdentifiedBy::Dns => "dns",
            IdentifiedBy::Getaddrinfo => "getaddrinfo",
            IdentifiedBy::HostHeader => "host_header",
            IdentifiedBy::TlsHostnameCall => "tls_hostname_call",
            IdentifiedBy::IpRange => "ip_range",
            IdentifiedBy::Configured => "configured",
        }
    }

    /// Whether this evidence may name a provider.
    pub fn names_provider(self) -> bool {
        matches!(
            self,
            IdentifiedBy::Sni
                | IdentifiedBy::SniCached
                | IdentifiedBy::HostHeader
                | IdentifiedBy::TlsHostnameCall
                | IdentifiedBy::Configured
        )
    }
}

/// Token counts in OpenTelemetry's meaning: `input` includes cached tokens, `output` includes reasoning. `None` is what
/// the provider did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Usage {
    /// All input tokens, cached ones included.
    pub input: Option<u64>,
    /// All output tokens, reasoning included.
    pub output: Option<u64>,
    /// Input read from a cache.
    pub cache_read: Option<u64>,
    /// Input written to a cache, all lifetimes.
    pub cache_creation: Option<u64>,
    /// Part of `cache_creation` with five minutes of life.
    pub cache_creation_5m: Option<u64>,
    /// Part of `cache_creation` with one hour of life.
    pub cache_creation_1h: Option<u64>,
    /// Part of `output` spent on reasoning.
    pub reasoning: Option<u64>,
    /// Part of `input` that is audio.
    pub audio_input: Option<u64>,
    /// Part of `output` that is audio.
    pub audio_output: Option<u64>,
    /// Part of `input` that is image.
    pub image_input: Option<u64>,
    /// Part of `output` that is image.
    pub image_output: Option<u64>,
    /// Total as reported by the provider.
    pub total: Option<u64>,
    /// Server-side web searches, billed per request.
    pub web_search_requests: Option<u64>,
    /// What few providers report, and units that are not tokens.
    pub details: Details,
}

impl Usage {
    /// True if the provider reported no count at all.
    pub fn is_unknown(&self) -> bool {
        *self == Usage::default()
    }
}

/// Why something of an exchange is not known. Stable snake-case names in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The call was made before the process was armed.
    LateAttach,
    /// The request's head refers to parts of the HTTP/2 connection that were not seen. Usage may be known nevertheless.
    UndecodableHead,
    /// The session was upgraded to a protocol that is not metered.
    Upgraded,
    /// Neither HTTP/1.1 nor HTTP/2.
    NotHttp,
    /// The session's host name never became known.
    UnknownSession,
    /// The client did not ask for usage in the stream.
    StreamUsageNotRequested,
    /// The stream ended before its terminal event.
    Interrupted,
    /// Bytes were lost in the kernel or a large write was captured in part.
    Gap,
    /// The body is in an encoding that is not understood or is broken.
    Undecodable,
    /// The path and shape belong to no dialect that is built.
    UnsupportedDialect,
    /// The provider answered without usage.
    NotReported,
    /// The response never came or the process ended.
    NoResponse,
    /// A parser limit was reached.
    LimitReached,
    /// The parser panicked; the session was given up.
    Panicked,
    /// The operation is not inference and is not billed by tokens.
    NotInference,
    /// The connection speaks QUIC, whose content is not read.
    Quic,
}

impl Reason {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::LateAttach => "late_attach",
            Reason::UndecodableHead => "undecodable_head",
            Reason::Upgraded => "upgraded",
            Reason::NotHttp => "not_http",
            Reason::UnknownSession => "unknown_session",
            Reason::StreamUsageNotRequested => "stream_usage_not_requested",
            Reason::Interrupted => "interrupted",
            Reason::Gap => "gap",
            Reason::Undecodable => "undecodable",
            Reason::UnsupportedDialect => "unsupported_dialect",
            Reason::NotReported => "not_reported",
            Reason::NoResponse => "no_response",
            Reason::LimitReached => "limit_reached",
            Reason::Panicked => "panicked",
            Reason::NotInference => "not_inference",
            Reason::Quic => "quic",
        }
    }
}

/// When the parts of an exchange happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// First byte of the request was written.
    pub started: Moment,
    /// First byte of the response was read.
    pub first_byte: Option<Moment>,
    /// First event of a stream that carries output.
    pub first_token: Option<Moment>,
    /// Last event of a stream that carries output.
    pub last_token: Option<Moment>,
    /// Last byte of the response was read.
    pub ended: Option<Moment>,
}

/// An error as the provider classified it. Never the message: it may quote the prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderError {
    /// Error type, e.g. `invalid_request_error`.
    pub class: Option<Word>,
    /// Error code, e.g. `context_length_exceeded`.
    pub code: Option<Word>,
}

/// Cost stated by the provider in the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedCost(pub crate::money::PicoUsd);

/// A name from the wire: held in place up to 23 bytes, as most are.
pub type Word = SmolStr;

/// Words; nearly always one.
pub type Words = SmallVec<[Word; 1]>;

/// One request with its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Session it was seen on.
    pub session: SessionId,
    /// Position in the session, from 0.
    pub ordinal: u32,
    /// Provider from the directory, e.g. `openai`.
    pub provider: Arc<str>,
    /// Host name, lower case, without port.
    pub host: Arc<str>,
    /// How the host became known.
    pub identified_by: IdentifiedBy,
    /// Dialect that read it; `None` if none claims it.
    pub dialect: Option<&'static str>,
    /// Operation in OpenTelemetry's words where one exists (`chat`, `embeddings`, ..), else the API's name.
    pub operation: &'static str,
    /// False for operations that must add nothing (`GET /v1/responses/ID`, token counting).
    pub inference: bool,
    /// Model as the request names it.
    pub requested_model: Option<Word>,
    /// Model as the response names it.
    pub model: Option<Word>,
    /// Whether the answer was streamed; `None` until the response is seen.
    pub streaming: Option<bool>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Token counts.
    pub usage: Usage,
    /// Cost the provider stated.
    pub reported_cost: Option<ReportedCost>,
    /// Tier the provider says it served with.
    pub service_tier: Option<Word>,
    /// It is about a batch, or was served at batch prices.
    pub batch: bool,
    /// Why generation ended, in the provider's words, one per choice.
    pub finish_reasons: Words,
    /// Tools that were called or are listed, each once, in order of appearance; at most [`TOOLS_MAX`].
    pub tools: Vec<ToolUse>,
    /// Request id of the provider.
    pub provider_request_id: Option<Word>,
    /// Organisation the provider or the request names.
    pub organization: Option<Word>,
    /// Project the provider or the request names.
    pub project: Option<Word>,
    /// Error, also one inside a 200.
    pub error: Option<ProviderError>,
    /// Keyed fingerprint of the API key, hex.
    pub api_key_fingerprint: Option<Box<str>>,
    /// Product token of `User-Agent`, self-asserted.
    pub sdk: Option<Word>,
    /// W3C trace id of the request, 32 lower-case hex digits.
    pub trace_id: Option<Box<str>>,
    /// What the response says of the account's limits.
    pub rate_limits: RateLimits,
    /// Earlier attempts at it: requests of the same process with the same target and body that were refused, broke off or
    /// were never answered, since the last that succeeded and none of them [`crate::limits::RETRY_WINDOW_NS`] after the
    /// one before; at most 64. The same request made again after a good answer is not a retry, and neither is one that was
    /// made beside it. `None` if the body was not seen whole or there is none.
    pub retries: Option<u32>,
    /// Bytes of the request body on the wire; `None` if a hole took nobody knows how many.
    pub request_bytes: Option<u64>,
    /// Bytes of the response body on the wire; `None` as for the request, or if the request was not seen.
    pub response_bytes: Option<u64>,
    /// When.
    pub timing: Timing,
    /// Places where something stood that is not kept, because it is no name.
    pub withheld: Withheld,
    /// The first reason why something is unknown.
    pub reason: Option<Reason>,
}

/// Tool names kept of one exchange.
pub const TOOLS_MAX: usize = 16;

impl Exchange {
    /// Output in thousandths of a token per second, from the first byte of the request to the last output of a
    /// streamed answer or the end of any other: what the caller got, time of queueing and of hidden reasoning
    /// included. `None` if the output or the time is not known.
    pub fn output_millitokens_per_second(&self) -> Option<u64> {
        const MILLITOKEN_SECOND: u128 = 1_000_000_000_000;
        let output = u128::from(self.usage.output?);
        let until = self.timing.last_token.or(self.timing.ended)?;
        let nanos = u128::from(until.since(self.timing.started));
        u64::try_from((output * MILLITOKEN_SECOND).checked_div(nanos)?).ok()
    }
}

/// A tool that was called, or that a server of tools offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolUse {
    /// Its name.
    pub name: Word,
    /// How often it was called, 0 if it is offered; `None` if the answer was not seen whole.
    pub calls: Option<u32>,
}

/// Limits of the account as a response states them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// At most one per unit, in the order of [`RateUnit`].
    pub limits: SmallVec<[RateLimit; 2]>,
    /// Wait that the provider asks for before another attempt, ms.
    pub retry_after_ms: Option<u64>,
}

/// One limit: that of the shortest window, where a provider has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// What is counted.
    pub unit: RateUnit,
    /// Allowed per window.
    pub limit: Option<u64>,
    /// Left of it.
    pub remaining: Option<u64>,
    /// When all of it is there again.
    pub reset: Option<Reset>,
}

/// What a rate limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RateUnit {
    /// Requests.
    Requests,
    /// Tokens of both directions.
    Tokens,
    /// Input tokens.
    InputTokens,
    /// Output tokens.
    OutputTokens,
    /// Images in requests.
    InputImages,
}

impl RateUnit {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            RateUnit::Requests => "requests",
            RateUnit::Tokens => "tokens",
            RateUnit::InputTokens => "input_tokens",
            RateUnit::OutputTokens => "output_tokens",
            RateUnit::InputImages => "input_images",
        }
    }
}

/// When a limit is whole again, in the form in which the provider says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// So many ms after the response, rounded up.
    AfterMs(u64),
    /// At this time of the provider's clock.
    At(UnixNanos),
}

/// A place of an exchange that holds a name from the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// [`Exchange::requested_model`].
    RequestedModel,
    /// [`Exchange::model`].
    Model,
    /// [`Exchange::service_tier`].
    ServiceTier,
    /// [`Exchange::finish_reasons`].
    FinishReasons,
    /// [`Exchange::tools`].
    Tools,
    /// [`ProviderError::class`].
    ErrorClass,
    /// [`ProviderError::code`].
    ErrorCode,
    /// [`Exchange::provider_request_id`].
    ProviderRequestId,
    /// [`Exchange::organization`].
    Organization,
    /// [`Exchange::project`].
    Project,
    /// [`Exchange::sdk`].
    Sdk,
    /// [`Exchange::trace_id`].
    TraceId,
}

impl Place {
    /// Every place. Its position here is its number in [`Withheld::bits`]: places are added at the end.
    pub const ALL: [Place; 12] = [
        Place::RequestedModel,
        Place::Model,
        Place::ServiceTier,
        Place::FinishReasons,
        Place::Tools,
        Place::ErrorClass,
        Place::ErrorCode,
        Place::ProviderRequestId,
        Place::Organization,
        Place::Project,
        Place::Sdk,
        Place::TraceId,
    ];

    /// Name in the API: the key that would hold it.
    pub fn as_str(self) -> &'static str {
        match self {
            Place::RequestedModel => "requested_model",
            Place::Model => "model",
            Place::ServiceTier => "service_tier",
            Place::FinishReasons => "finish_reasons",
            Place::Tools => "tools",
            Place::ErrorClass => "error_class",
            Place::ErrorCode => "error_code",
            Place::ProviderRequestId => "provider_request_id",
            Place::Organization => "organization",
            Place::Project => "project",
            Place::Sdk => "sdk",
            Place::TraceId => "trace_id",
        }
    }
}

/// Places where something stood that is not kept: too long, or not one word of the characters that such names have. It
/// may have been content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Withheld(u32);

impl Withheld {
    /// Notes a place.
    pub fn note(&mut self, place: Place) {
        self.0 |= 1 << place as u32;
    }

    /// Notes all places of `other`.
    pub fn join(&mut self, other: Withheld) {
        self.0 |= other.0;
    }

    /// The places.
    pub fn places(self) -> impl Iterator<Item = Place> {
        Place::ALL.into_iter().filter(move |place| self.0 >> *place as u32 & 1 == 1)
    }

    /// One bit per place.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The places of `bits`; bits of places that this version does not know stay.
    pub fn from_bits(bits: u32) -> Withheld {
        Withheld(bits)
    }
}
