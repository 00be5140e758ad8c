//! The price catalogue.

use std::sync::OnceLock;

use ed25519_dalek::{Signer, SigningKey};
use meter::exchange::Exchange;
use meter::pricing::{Catalogue, price};
use meter::time::UnixNanos;

use super::pipeline::exchanges;

/// A price catalogue under a good signature: refused or sound, and then it prices.
pub fn catalogue(data: &[u8]) {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    let key = KEY.get_or_init(|| SigningKey::from_bytes(&[7; 32]));
    let message = [Catalogue::DOMAIN, data].concat();
    let signature = key.sign(&message).to_bytes();
    let public = key.verifying_key().to_bytes();
    let source = meter::pricing::CatalogueSource::Live;
    let Ok(catalogue) = Catalogue::verify(data, &signature, &public, source, None) else { return };
    static CALL: OnceLock<Exchange> = OnceLock::new();
    let mut call = CALL.get_or_init(priced_call).clone();
    for (provider, prices) in catalogue.prices().take(8) {
        call.provider = provider.into();
        call.model = Some(prices.model.as_ref().into());
        let cost = price(&call, &catalogue, UnixNanos(1_700_000_000_000_000_000));
        assert_eq!(cost.catalogue_version, catalogue.version());
    }
    let again = Catalogue::verify(data, &signature, &public, source, Some(catalogue.trusted()));
    assert!(again.is_ok(), "the same bytes are trusted again");
}

/// An exchange with counts.
fn priced_call() -> Exchange {
    let usage = r#"{"model":"m","usage":{"prompt_tokens":300000,"completion_tokens":20,
        "prompt_tokens_details":{"cached_tokens":7},"completion_tokens_details":{"reasoning_tokens":5}}}"#;
    let mut exchanges =
        exchanges("api.openai.com", "/v1/chat/completions", 200, b"{}", usage.as_bytes(), usize::MAX);
    exchanges.pop().unwrap_or_else(|| panic!("one call is one exchange"))
}
