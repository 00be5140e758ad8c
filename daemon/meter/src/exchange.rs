//! One request to a provider with its response: what is kept of it. There is no field for content.

use std::sync::Arc;

use crate::time::Moment;

/// A TLS session or a plain connection, unique while the daemon lives. Allotted by capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// How a host was identified. A DNS answer or an address alone never names a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentifiedBy {
    /// TLS ClientHello on the wire.
    Sni,
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
    /// The session speaks HTTP/2.
    Http2,
    /// The session was upgraded to a protocol that is not metered (WebSocket).
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
}

impl Reason {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::LateAttach => "late_attach",
            Reason::Http2 => "http2",
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
    pub class: Option<Box<str>>,
    /// Error code, e.g. `context_length_exceeded`.
    pub code: Option<Box<str>>,
}

/// Cost stated by the provider in the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedCost(pub crate::money::PicoUsd);

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
    pub requested_model: Option<Box<str>>,
    /// Model as the response names it.
    pub model: Option<Box<str>>,
    /// Whether the answer was streamed; `None` until the response is seen.
    pub streaming: Option<bool>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Token counts.
    pub usage: Usage,
    /// Cost the provider stated.
    pub reported_cost: Option<ReportedCost>,
    /// Tier the provider says it served with.
    pub service_tier: Option<Box<str>>,
    /// True for batch prices.
    pub batch: bool,
    /// Why generation ended, in the provider's words, one per choice.
    pub finish_reasons: Vec<Box<str>>,
    /// Names of the tools the model called, at most [`TOOLS_MAX`].
    pub tools: Vec<Box<str>>,
    /// Request id of the provider.
    pub provider_request_id: Option<Box<str>>,
    /// Organisation the provider or the request names.
    pub organization: Option<Box<str>>,
    /// Project the provider or the request names.
    pub project: Option<Box<str>>,
    /// Error, also one inside a 200.
    pub error: Option<ProviderError>,
    /// Keyed fingerprint of the API key, hex.
    pub api_key_fingerprint: Option<Box<str>>,
    /// Product token of `User-Agent`, self-asserted.
    pub sdk: Option<Box<str>>,
    /// W3C trace id of the request, 32 hex digits.
    pub trace_id: Option<Box<str>>,
    /// Bytes of the request body on the wire.
    pub request_bytes: Option<u64>,
    /// Bytes of the response body on the wire.
    pub response_bytes: Option<u64>,
    /// When.
    pub timing: Timing,
    /// The first reason why something is unknown.
    pub reason: Option<Reason>,
}

/// Tool names kept of one exchange.
pub const TOOLS_MAX: usize = 16;
