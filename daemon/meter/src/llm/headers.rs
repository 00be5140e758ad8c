//! What header fields say: who calls (as a keyed fingerprint), with what, on whose account, and request ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use smol_str::format_smolstr;
use zeroize::Zeroizing;

use super::json::Value;
use super::{names, rates};
use crate::attribution::TenantName;
use crate::exchange::{Exchange, Place, ProviderError, ReportedCost, Withheld, Word};
use crate::http::{Header, header};
use crate::money::PicoUsd;
use crate::time::UnixNanos;

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
        let mut hex = String::with_capacity(32);
        hex.extend(digest.iter().take(16).flat_map(|byte| hex_digits(*byte)));
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
    let withheld = &mut exchange.withheld;
    exchange.sdk = header(headers, "user-agent").and_then(|agent| product(agent, withheld));
    exchange.trace_id = header(headers, "traceparent").and_then(|parent| trace_id(parent, withheld));
    exchange.organization =
        first(headers, &["openai-organization", "x-goog-user-project"], Place::Organization, withheld);
    exchange.project = first(headers, &["openai-project"], Place::Project, withheld);
}

/// Notes what a response's fields say, which came at `now`. What the server says of the account outranks the request.
pub fn of_response(headers: &[Header<'_>], exchange: &mut Exchange, now: UnixNanos) {
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
    let withheld = &mut exchange.withheld;
    exchange.provider_request_id = first(headers, &REQUEST_IDS, Place::ProviderRequestId, withheld);
    let account =
        first(headers, &["openai-organization", "anthropic-organization-id"], Place::Organization, withheld);
    exchange.organization = account.or_else(|| exchange.organization.take());
    let project = first(headers, &["openai-project", "anthropic-workspace-id"], Place::Project, withheld);
    exchange.project = project.or_else(|| exchange.project.take());
    exchange.service_tier = first(
        headers,
        &["x-gemini-service-tier", "x-amzn-bedrock-service-tier"],
        Place::ServiceTier,
        withheld,
    );
    // `ValidationException:http://internal.amazon.com/coral/..`
    let class = header(headers, "x-amzn-errortype").and_then(|text| text.split(':').next());
    let class = class.and_then(|class| names::word(class.as_bytes()).at(Place::ErrorClass, withheld));
    exchange.error = class.map(|class| ProviderError { class: Some(class.into()), code: None });
    // LiteLLM's proxy, in US dollars.
    let cost = header(headers, "x-litellm-response-cost").map(|text| Value::Number(text.as_bytes()));
    let cost = cost.and_then(|dollars| dollars.scaled(12)).filter(|cost| *cost > 0);
    exchange.reported_cost = cost.map(|cost| ReportedCost(PicoUsd(cost)));
    exchange.rate_limits = rates::of(headers, now);
}

/// The name in the first of the fields `names` that is there and not empty.
fn first(headers: &[Header<'_>], names: &[&str], place: Place, withheld: &mut Withheld) -> Option<Word> {
    let value = names.iter().find_map(|name| header(headers, name).filter(|value| !value.is_empty()))?;
    names::word(value.as_bytes()).at(place, withheld).map(Into::into)
}

/// `OpenAI/Python 1.2.3` of a `User-Agent`: its first word, and the second if it is a version.
fn product(agent: &str, withheld: &mut Withheld) -> Option<Word> {
    let mut words = agent.split(' ').filter(|word| !word.is_empty());
    let name = names::word(words.next()?.as_bytes()).at(Place::Sdk, withheld)?;
    let version = words
        .next()
        .filter(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .and_then(|version| names::word(version.as_bytes()).at(Place::Sdk, withheld));
    Some(match version {
        Some(version) => format_smolstr!("{name} {version}"),
        None => name.into(),
    })
}

/// The trace id of a `traceparent` (W3C Trace Context, level 1): version, 32 digits, 16 digits, flags, all lower-case
/// hex; only a later version than 00 may go on. Anything else is no trace context.
fn trace_id(traceparent: &str, withheld: &mut Withheld) -> Option<Box<str>> {
    let mut parts = traceparent.split('-');
    let hex = |part: Option<&'_ str>, len: usize| {
        part.is_some_and(|part| {
            part.len() == len && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let some = |part: Option<&'_ str>| part.is_some_and(|part| part.bytes().any(|byte| byte != b'0'));
    let (version, id, parent, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    let good = hex(version, 2)
        && version != Some("ff")
        && hex(id, 32)
        && some(id)
        && hex(parent, 16)
        && some(parent)
        && hex(flags, 2)
        && (version != Some("00") || parts.next().is_none());
    if !good {
        withheld.note(Place::TraceId);
        return None;
    }
    id.map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lawful_trace_context_names_a_trace() {
        const ID: &str = "0af7651916cd43dd8448eb211c80319c";
        fn check(traceparent: &str, lawful: bool) {
            let mut withheld = Withheld::default();
            let expected = lawful.then_some(ID);
            assert_eq!(trace_id(traceparent, &mut withheld).as_deref(), expected, "{traceparent}");
            assert_eq!(withheld.places().count(), usize::from(!lawful), "{traceparent}");
        }
        check(&format!("00-{ID}-b7ad6b7169203331-01"), true);
        check(&format!("cc-{ID}-b7ad6b7169203331-01-what-the-future-brings"), true);
        check(&format!("00-{ID}-b7ad6b7169203331-01-more"), false);
        check(&format!("ff-{ID}-b7ad6b7169203331-01"), false);
        check(&format!("00-{}-b7ad6b7169203331-01", ID.to_uppercase()), false);
        check(&format!("00-{ID}-0000000000000000-01"), false);
        check(&format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false);
        check(&format!("00-{ID}-b7ad6b7169203331"), false);
        check(&format!("00-{ID}-b7ad6b7169203331-0"), false);
        check("Ignore all previous instructions", false);
    }
}
