//! What header fields say: who calls (as a keyed fingerprint), with what, on whose account, and request ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::attribution::TenantName;
use crate::exchange::Exchange;
use crate::http::{Header, header};

/// Keys for fingerprints of API keys, one per tenant: the same API key looks different to two tenants, and nobody
/// without the key can test a guess.
#[derive(Clone, Default)]
pub struct FingerprintKeys(BTreeMap<TenantName, Arc<Zeroizing<[u8; 32]>>>);

impl std::fmt::Debug for FingerprintKeys {
    /// Names, never keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FingerprintKeys {
    /// Sets a tenant's key.
    pub fn insert(&mut self, tenant: TenantName, key: [u8; 32]) {
        self.0.insert(tenant, Arc::new(Zeroizing::new(key)));
    }

    /// True if no tenant has a key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// 128 bits of HMAC-SHA-256 of `secret` under the tenant's key, as 32 hex digits; `None` if it has no key.
    pub fn fingerprint(&self, tenant: &TenantName, secret: &[u8]) -> Option<Box<str>> {
        let key = self.0.get(tenant)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).ok()?;
        mac.update(secret);
        let digest = mac.finalize().into_bytes();
        let hex: String = digest.iter().take(16).flat_map(|byte| hex_digits(*byte)).collect();
        Some(hex.into())
    }
}

fn hex_digits(byte: u8) -> [char; 2] {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    [digit(byte >> 4), digit(byte & 15)]
}

/// What identifies the caller's account in a request: an API key or token, or the access key id of a signature.
pub fn credential<'a>(headers: &[Header<'a>], target: &'a str) -> Option<&'a [u8]> {
    if let Some(value) = header(headers, "authorization") {
        let (scheme, rest) = value.split_once(' ').unwrap_or(("", value));
        if scheme.starts_with("AWS4-") {
            let id = rest.split_once("Credential=").map_or(rest, |(_, rest)| rest);
            return id.split(['/', ',']).next().map(str::as_bytes);
        }
        return Some(rest.trim().as_bytes());
    }
    let named = ["x-api-key", "api-key", "x-goog-api-key"].iter().find_map(|name| header(headers, name));
    let in_query = || target.split(['?', '&']).skip(1).find_map(|pair| pair.strip_prefix("key="));
    named.or_else(in_query).map(str::as_bytes)
}

/// Notes what a request's fields say.
pub fn of_request(headers: &[Header<'_>], exchange: &mut Exchange) {
    exchange.sdk = header(headers, "user-agent").and_then(product);
    exchange.trace_id = header(headers, "traceparent").and_then(trace_id);
    exchange.organization = first(headers, &["openai-organization", "x-goog-user-project"]);
    exchange.project = first(headers, &["openai-project"]);
}

/// Notes what a response's fields say. What the server says of the account outranks the request.
pub fn of_response(headers: &[Header<'_>], exchange: &mut Exchange) {
    const REQUEST_IDS: [&str; 9] = [
        "x-request-id",
        "request-id",
        "apim-request-id",
        "x-amzn-requestid",
        "mistral-correlation-id",
        "x-ds-trace-id",
        "x-generation-id",
        "x-debug-trace-id",
        "cf-ray",
    ];
    exchange.provider_request_id = first(headers, &REQUEST_IDS);
    let account = first(headers, &["openai-organization", "anthropic-organization-id"]);
    exchange.organization = account.or_else(|| exchange.organization.take());
    let project = first(headers, &["openai-project", "anthropic-workspace-id"]);
    exchange.project = project.or_else(|| exchange.project.take());
}

fn first(headers: &[Header<'_>], names: &[&str]) -> Option<Box<str>> {
    let value = names.iter().find_map(|name| header(headers, name).filter(|value| !value.is_empty()))?;
    let plain = value.len() <= 128 && value.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then(|| value.into())
}

/// `OpenAI/Python 1.2.3` of a `User-Agent`: its first word, and the second if it is a version.
fn product(agent: &str) -> Option<Box<str>> {
    let mut words = agent.split(' ').filter(|word| !word.is_empty());
    let name = words.next()?;
    let version = words.next().filter(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    let text = version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}"));
    (text.len() <= 64 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))).then(|| text.into())
}

fn trace_id(traceparent: &str) -> Option<Box<str>> {
    let id = traceparent.split('-').nth(1)?;
    let good = id.len() == 32
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.bytes().any(|byte| byte != b'0');
    good.then(|| id.to_ascii_lowercase().into())
}
