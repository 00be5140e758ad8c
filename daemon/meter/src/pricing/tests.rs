//! Amounts computed by hand.

use std::sync::{Arc, LazyLock};

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;

use super::{Catalogue, CatalogueError, CatalogueSource, Found, PriceState, Trusted};
use crate::detail::{Detail, Details};
use crate::exchange::{
    Exchange, IdentifiedBy, RateLimits, ReportedCost, SessionId, Timing, Usage, Withheld, Words,
};
use crate::money::PicoUsd;
use crate::pricing::price;
use crate::record::{Cost, CostKind};
use crate::time::UnixNanos;

pub(super) const ISSUED: u64 = 1_800_000_000;
const NOW: UnixNanos = UnixNanos((ISSUED + 3_600) * 1_000_000_000);

pub(super) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(super) fn key_id() -> String {
    Catalogue::key_id_of(&key().verifying_key().to_bytes())
}

pub(super) fn sign(bytes: &[u8]) -> [u8; 64] {
    key().sign(&[Catalogue::DOMAIN, bytes].concat()).to_bytes()
}

pub(super) fn verify(bytes: &[u8], trusted: Option<Trusted>) -> Result<Catalogue, CatalogueError> {
    let public = key().verifying_key().to_bytes();
    Catalogue::verify(bytes, &sign(bytes), &public, CatalogueSource::Live, trusted)
}

/// A catalogue with `providers` as its list of providers.
pub(super) fn text(version: &str, providers: &str) -> String {
    format!(
        r#"{{"format":1,"role":"prices","version":{version},"issued_at":{ISSUED},"expires_at":{},"key_id":"{}",
"facts":[{{"name":"us","version":"1","sha256":"00","licence":"CC0"}}],"sources":["https://prices.example"],
"providers":[{providers}]}}"#,
        ISSUED + 86_400,
        key_id(),
    )
}

pub(super) const PROVIDERS: &str = r#"
{"provider":"openai","disputed":["gpt-x-disputed"],"models":[
 {"model":"gpt-x","match":[{"exact":"gpt-x"},{"prefix":"gpt-x-","then":"date"}],"confidence":"confirmed","sources":[0],
  "rates":[
   {"to":1700000000,"prices":{"input":9000000,"output":9000000}},
   {"from":1700000000,"prices":{"input":2500000,"cache_read":1250000,"output":10000000,"web_search_request":10000000000,"file_search_call":2500000000},
    "over":[{"tokens":272000,"prices":{"input":5000000,"cache_read":2500000,"output":15000000}}]},
   {"tier":"flex","prices":{"input":1250000,"cache_read":625000,"output":5000000}},
   {"batch":true,"prices":{"input":1250000,"output":5000000}}]},
 {"model":"gpt-x-plain","match":[{"exact":"gpt-x-plain"},{"contains":"plain","without":"-tts"}],"confidence":"single",
  "rates":[{"prices":{"input":1000000,"output":2000000}}]},
 {"model":"gpt-x-think","match":[{"exact":"gpt-x-think"}],"confidence":"single",
  "rates":[{"prices":{"input":1000000,"output":2000000,"reasoning":3000000,"audio_input":7000000,"audio_output":8000000,"request":5000000000}}]},
 {"model":"multi-x","match":[{"exact":"multi-x"}],"confidence":"single",
  "rates":[{"prices":{"input":10,"cache_read":1,"audio_cache_read":2,"audio_input":30,"video_input":40,"output":50,"video_output":60}},
           {"tier":"flex","prices":{"input":5,"output":25}}]},
 {"model":"unit-x","match":[{"exact":"unit-x"}],"confidence":"single",
  "rates":[{"prices":{"image":40000000000,"audio_input_ms":100000,"character":1,"page":2000000000,"search_unit":3}}]},
 {"model":"unit-12h","match":[{"exact":"unit-12h"}],"confidence":"single",
  "rates":[{"prices":{"input":2,"cache_write_5m":10,"cache_write_12h":15,"output":20}}]},
 {"model":"gpt-x-limit","match":[{"exact":"gpt-x-limit"}],"confidence":"confirmed",
  "rates":[{"limit":1000,"prices":{"input":1,"output":1}}]},
 {"model":"embed-x","match":[{"prefix":"embed-x"}],"confidence":"single","rates":[{"prices":{"input":20000}}]},
 {"model":"gpt-x-huge","match":[{"exact":"gpt-x-huge"}],"confidence":"single",
  "rates":[{"prices":{"input":1000000000000000,"output":1000000000000000}}]}]},
{"provider":"anthropic","models":[
 {"model":"claude-x","match":[{"prefix":"claude-x"}],"confidence":"confirmed",
  "rates":[{"prices":{"input":3000000,"cache_read":300000,"cache_write_5m":3750000,"cache_write_1h":6000000,"output":15000000}}]}]},
{"provider":"bedrock","models":[
 {"model":"claude-x","match":[{"exact":"vendor.claude-x"},{"contains":"claude-x"}],"confidence":"confirmed","rates":[{"prices":{"input":10,"output":20}}]},
 {"model":"us.claude-x","match":[{"exact":"us.vendor.claude-x"}],"confidence":"confirmed","rates":[{"prices":{"input":11,"output":22}}]}]},
{"provider":"vertex","models":[
 {"model":"claude-x","match":[{"exact":"claude-x"}],"confidence":"confirmed",
  "rates":[{"prices":{"input":10,"output":20}},{"region":"*","prices":{"input":11,"output":22}},
           {"region":"us-east5","prices":{"input":12,"output":24}}]}]},
{"provider":"deepseek","models":[
 {"model":"ds","match":[{"exact":"ds"}],"confidence":"single",
  "rates":[{"prices":{"input":10,"output":20}},{"daily":[82800,3600],"prices":{"input":5,"output":9}}]}]}"#;

pub(super) fn catalogue() -> &'static Catalogue {
    static MADE: LazyLock<Catalogue> =
        LazyLock::new(|| verify(text("7", PROVIDERS).as_bytes(), None).unwrap());
    &MADE
}

fn exchange(provider: &str, model: &str, usage: Usage) -> Exchange {
    Exchange {
        session: SessionId(1),
        ordinal: 0,
        provider: provider.into(),
        host: Arc::from("api.example"),
        identified_by: IdentifiedBy::Sni,
        dialect: Some("openai_chat"),
        operation: "chat",
        inference: true,
        requested_model: None,
        model: Some(model.into()),
        streaming: Some(false),
        status: Some(200),
        usage,
        reported_cost: None,
        service_tier: None,
        batch: false,
        finish_reasons: Words::new(),
        tools: Vec::new(),
        provider_request_id: None,
        organization: None,
        project: None,
        error: None,
        api_key_fingerprint: None,
        sdk: None,
        trace_id: None,
        rate_limits: RateLimits::default(),
        retries: None,
        request_bytes: None,
        response_bytes: None,
        timing: Timing::default(),
        withheld: Withheld::default(),
        reason: None,
    }
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input: Some(input), output: Some(output), ..Usage::default() }
}

/// `0.0000125 computed - input=5 output=1`
fn render(cost: &Cost) -> String {
    let amount = cost.amount.map_or("-".to_owned(), |amount| amount.to_string());
    let parts: Vec<String> =
        cost.parts.iter().map(|part| format!(" {}={}", part.class, part.tokens)).collect();
    format!("{amount} {} {}{}", cost.kind.as_str(), cost.reason.unwrap_or("-"), parts.concat())
}

fn check(exchange: &Exchange, expected: &str) {
    let cost = price(exchange, catalogue(), NOW);
    assert_eq!(render(&cost), expected, "{exchange:?}");
    assert_eq!(cost.catalogue_version, 7);
}

#[test]
fn token_classes_are_charged_apart() {
    // 1,000 x 2.5 + 500 x 10 USD per million
    check(&exchange("openai", "gpt-x", usage(1_000, 500)), "0.0075 computed - input=1000 output=500");
    check(&exchange("openai", "GPT-X-2026-01-31", usage(1, 0)), "0.0000025 computed - input=1");
    let cached = Usage { cache_read: Some(600), ..usage(1_000, 500) };
    // 400 x 2.5 + 600 x 1.25 + 500 x 10
    check(&exchange("openai", "gpt-x", cached), "0.00675 computed - input=400 cache_read=600 output=500");
    // Reasoning is part of the output and costs the same where no other price is published.
    let thinking = Usage { reasoning: Some(400), ..usage(1_000, 500) };
    check(&exchange("openai", "gpt-x", thinking), "0.0075 computed - input=1000 output=500");
    // 10 x 1 + 40 x 3 + 60 x 2 USD per million and 0.005 for the request
    let thinking = Usage { reasoning: Some(40), ..usage(10, 100) };
    check(
        &exchange("openai", "gpt-x-think", thinking),
        "0.00525 computed - input=10 reasoning=40 output=60 request=1",
    );
    let spoken = Usage { audio_input: Some(4), audio_output: Some(30), ..usage(10, 100) };
    // 6 x 1 + 4 x 7 + 70 x 2 + 30 x 8 and 0.005
    check(
        &exchange("openai", "gpt-x-think", spoken),
        "0.005414 computed - input=6 audio_input=4 output=70 audio_output=30 request=1",
    );
    let searching = Usage { web_search_requests: Some(2), ..usage(0, 0) };
    check(&exchange("openai", "gpt-x", searching), "0.02 computed - web_search_request=2");
    let written = Usage {
        cache_read: Some(200),
        cache_creation: Some(300),
        cache_creation_5m: Some(100),
        cache_creation_1h: Some(200),
        ..usage(1_000, 10)
    };
    // 500 x 3 + 200 x 0.3 + 100 x 3.75 + 200 x 6 + 10 x 15
    check(
        &exchange("anthropic", "claude-x-20260101", written),
        "0.003285 computed - input=500 cache_read=200 cache_write_5m=100 cache_write_1h=200 output=10",
    );
    let mut embedding = exchange("openai", "embed-x-small", Usage { input: Some(100), ..Usage::default() });
    embedding.operation = "embeddings";
    check(&embedding, "0.000002 computed - input=100");
}

#[test]
fn above_a_threshold_everything_costs_more() {
    check(&exchange("openai", "gpt-x", usage(272_000, 1)), "0.68001 computed - input=272000 output=1");
    // 272,001 x 5 + 1 x 15
    check(&exchange("openai", "gpt-x", usage(272_001, 1)), "1.36002 computed - input=272001 output=1");
    // Cached input counts for the threshold: 1 x 5 + 272,000 x 2.5 + 1 x 15
    let cached = Usage { cache_read: Some(272_000), ..usage(272_001, 1) };
    check(&exchange("openai", "gpt-x", cached), "0.68002 computed - input=1 cache_read=272000 output=1");
    check(
        &exchange("openai", "gpt-x-limit", usage(1_000, 1)),
        "0.000000001001 computed - input=1000 output=1",
    );
    check(&exchange("openai", "gpt-x-limit", usage(1_001, 1)), "- unknown disputed_price");
}

#[test]
fn tiers_batches_regions_and_times_have_prices() {
    let of = |tier: Option<&str>, batch: bool| {
        let mut found = exchange("openai", "gpt-x", usage(1_000, 0));
        (found.service_tier, found.batch) = (tier.map(Into::into), batch);
        found
    };
    for standard in [None, Some("default"), Some("standard"), Some("auto"), Some("ON_DEMAND")] {
        check(&of(standard, false), "0.0025 computed - input=1000");
    }
    check(&of(Some("Flex"), false), "0.00125 computed - input=1000");
    check(&of(None, true), "0.00125 computed - input=1000");
    check(&of(Some("batch"), false), "0.00125 computed - input=1000");
    check(&of(Some("priority"), false), "0.0025 estimated no_tier_price input=1000");
    let mut batch = exchange("anthropic", "claude-x", usage(1_000, 0));
    batch.batch = true;
    check(&batch, "0.003 estimated no_batch_price input=1000");

    let at = |host: &str| {
        let mut found = exchange("vertex", "publishers/anthropic/models/claude-x", usage(1, 1));
        found.host = host.into();
        found
    };
    check(&at("aiplatform.googleapis.com"), "0.00000000003 computed - input=1 output=1");
    check(&at("europe-west1-aiplatform.googleapis.com"), "0.000000000033 computed - input=1 output=1");
    check(&at("us-east5-aiplatform.googleapis.com"), "0.000000000036 computed - input=1 output=1");

    let day = |seconds: u64| UnixNanos((ISSUED / 86_400 * 86_400 + seconds) * 1_000_000_000);
    let cheap = exchange("deepseek", "ds", usage(1, 1));
    for (seconds, expected) in [(82_799, 30), (82_800, 14), (0, 14), (3_599, 14), (3_600, 30)] {
        assert_eq!(price(&cheap, catalogue(), day(seconds)).amount, Some(PicoUsd(expected)), "{seconds}");
    }
    let old = exchange("openai", "gpt-x", usage(1, 0));
    let before = price(&old, catalogue(), UnixNanos(1_699_999_999_999_999_999)).amount;
    assert_eq!(before, Some(PicoUsd(9_000_000)), "prices of that time");
}

#[test]
fn what_is_not_known_has_no_amount() {
    check(&exchange("openai", "gpt-y", usage(1, 1)), "- unknown unknown_model");
    check(&exchange("nobody", "gpt-x", usage(1, 1)), "- unknown unknown_model");
    check(&exchange("openai", "gpt-x-2026", usage(1, 1)), "- unknown unknown_model");
    check(&exchange("openai", "gpt-x-disputed", usage(1, 1)), "- unknown disputed_price");
    check(&exchange("openai", "gpt-x", Usage::default()), "- unknown unknown_usage");
    check(
        &exchange("openai", "gpt-x", Usage { input: Some(1), ..Usage::default() }),
        "- unknown unknown_usage",
    );
    check(&exchange("openai", "embed-x", usage(1, 1)), "- unknown no_output_price");
    let mut failed = exchange("openai", "gpt-x", Usage::default());
    failed.status = Some(429);
    check(&failed, "- unknown error_response");
    let mut fetched = exchange("openai", "gpt-x", usage(1, 1));
    fetched.inference = false;
    check(&fetched, "- unknown not_inference");
    let most = Usage { input: Some(u64::MAX), output: Some(u64::MAX), ..Usage::default() };
    // Two such products still fit 128 bits: nothing wraps.
    check(
        &exchange("openai", "gpt-x-huge", most),
        "36893488147419103230000 computed - input=18446744073709551615 output=18446744073709551615",
    );
}

#[test]
fn assumptions_are_named() {
    let cached = Usage { cache_read: Some(400), ..usage(1_000, 0) };
    check(
        &exchange("openai", "gpt-x-plain", cached),
        "0.001 estimated no_cache_price input=600 cache_read=400",
    );
    let written = Usage { cache_creation: Some(400), ..usage(1_000, 0) };
    check(
        &exchange("openai", "gpt-x-plain", written),
        "0.001 estimated no_cache_write_price input=600 cache_write_5m=400",
    );
    let odd = Usage { cache_read: Some(161), ..usage(7, 0) };
    check(&exchange("openai", "gpt-x", odd), "0.00020125 estimated cache_exceeds_input cache_read=161");
    let lost = Usage {
        cache_creation: Some(100),
        cache_creation_5m: Some(0),
        cache_creation_1h: Some(0),
        ..usage(100, 0)
    };
    check(
        &exchange("anthropic", "claude-x", lost),
        "0.000375 estimated cache_lifetime_unknown cache_write_5m=100",
    );
    let spoken = Usage { audio_input: Some(10), ..usage(10, 0) };
    check(&exchange("openai", "gpt-x-plain", spoken), "0.00001 estimated no_audio_price audio_input=10");
    let searching = Usage { web_search_requests: Some(1), ..usage(10, 0) };
    check(&exchange("openai", "gpt-x-plain", searching), "0.00001 estimated no_web_search_price input=10");
    let mut renamed = exchange("openai", "deployment-7", usage(10, 0));
    renamed.requested_model = Some("gpt-x-plain".into());
    check(&renamed, "0.00001 estimated priced_as_requested_model input=10");
    renamed.model = None;
    check(&renamed, "0.00001 computed - input=10");
    // The request's id carries the geography, the response only the vendor's name.
    let mut regional = exchange("bedrock", "claude-x-20260101", usage(1, 1));
    regional.requested_model = Some("us.vendor.claude-x".into());
    check(&regional, "0.000000000033 computed - input=1 output=1");
    regional.requested_model = Some("arn:aws:bedrock:us-east-1:0:application-inference-profile/abc".into());
    check(&regional, "0.00000000003 estimated priced_as_response_model input=1 output=1");
}

fn with(usage: Usage, details: &[(Detail, u64)]) -> Usage {
    let mut all = usage;
    details.iter().for_each(|(detail, count)| all.details.set(*detail, *count));
    all
}

#[test]
fn modalities_have_prices_of_their_own() {
    let cached = Usage { cache_read: Some(400), audio_input: Some(500), ..usage(1_000, 10) };
    check(
        &exchange("openai", "multi-x", cached),
        "0.0000000169 estimated cached_modality_unknown input=100 audio_input=500 cache_read=400 output=10",
    );
    let told =
        with(cached, &[(Detail::CachedText, 80), (Detail::CachedAudio, 320), (Detail::VideoInput, 300)]);
    check(
        &exchange("openai", "multi-x", told),
        "0.00000001982 computed - input=120 audio_input=180 video_input=300 audio_cache_read=320 cache_read=80 output=10",
    );
    let film = with(usage(0, 10), &[(Detail::VideoOutput, 4)]);
    check(&exchange("openai", "multi-x", film), "0.00000000054 computed - output=6 video_output=4");
    let mut served = exchange("openai", "multi-x", usage(1, 1));
    served.service_tier = Some("ON_DEMAND_FLEX".into());
    check(&served, "0.00000000003 computed - input=1 output=1");
    served.service_tier = Some("ON_DEMAND".into());
    check(&served, "0.00000000006 computed - input=1 output=1");
}

#[test]
fn what_is_billed_is_charged_and_not_what_was_used() {
    let stated = Usage { cache_read: Some(464), ..usage(500, 14) };
    let stated = with(stated, &[(Detail::BilledInput, 5), (Detail::BilledOutput, 12)]);
    check(&exchange("openai", "gpt-x-plain", stated), "0.000029 computed - input=5 output=12");
}

#[test]
fn other_units_are_charged_where_they_have_a_price() {
    let units = |details: &[(Detail, u64)]| exchange("openai", "unit-x", with(Usage::default(), details));
    check(&units(&[(Detail::Images, 2)]), "0.08 computed - image=2");
    check(&units(&[(Detail::AudioInputMs, 6_500)]), "0.00065 computed - audio_input_ms=6500");
    check(
        &units(&[(Detail::Pages, 3), (Detail::SearchUnits, 1)]),
        "0.006000000003 computed - page=3 search_unit=1",
    );
    check(&units(&[(Detail::Images, 0)]), "- unknown unknown_usage");
    check(&units(&[(Detail::Sources, 4)]), "- unknown unknown_usage");
    let unpriced = exchange("openai", "gpt-x", with(Usage::default(), &[(Detail::Images, 2)]));
    check(&unpriced, "- unknown no_unit_price");
    // Tokens that make up an image are charged as tokens.
    let both = exchange("openai", "gpt-x-plain", with(usage(10, 5), &[(Detail::Images, 1)]));
    check(&both, "0.00002 computed - input=10 output=5");
}

#[test]
fn what_stands_beside_the_answer_is_charged_too() {
    let call = |model, details: &[(Detail, u64)]| exchange("openai", model, with(usage(10, 1), details));
    let calls = [(Detail::WebSearchCalls, 2), (Detail::FileSearchCalls, 3)];
    check(
        &call("gpt-x", &calls),
        "0.027535 computed - input=10 output=1 web_search_request=2 file_search_call=3",
    );
    check(&call("gpt-x-plain", &calls), "0.000012 estimated no_web_search_price input=10 output=1");
    let code = [(Detail::CodeInterpreterCalls, 1)];
    check(&call("gpt-x", &code), "0.000035 estimated no_code_interpreter_price input=10 output=1");
    let advice = [(Detail::AdvisorInput, 9), (Detail::AdvisorOutput, 1)];
    check(&call("gpt-x", &advice), "0.000035 estimated no_advisor_price input=10 output=1");
    let compaction = [
        (Detail::CompactionInput, 100),
        (Detail::CompactionCacheRead, 10),
        (Detail::CompactionCacheCreation, 4),
        (Detail::CompactionOutput, 2),
    ];
    check(
        &call("gpt-x", &compaction),
        "0.0003275 computed - input=10 output=1 compaction_input=100 compaction_cache_read=10 \
         compaction_cache_write=4 compaction_output=2",
    );
    let long = [(Detail::CompactionInput, 300_000)];
    check(
        &call("gpt-x", &long),
        "0.750035 estimated compaction_tier_unknown input=10 output=1 compaction_input=300000",
    );
    check(
        &exchange("openai", "embed-x", with(usage(10, 0), &[(Detail::CompactionOutput, 1)])),
        "0.0000002 estimated no_compaction_price input=10",
    );
    let lives = [(Detail::CacheCreation30m, 3), (Detail::CacheCreation12h, 4)];
    let written = Usage { cache_creation: Some(7), ..with(usage(10, 1), &lives) };
    check(
        &exchange("openai", "unit-12h", written),
        "0.000000000116 computed - input=3 cache_write_5m=3 cache_write_12h=4 output=1",
    );
}

#[test]
fn what_the_provider_states_wins() {
    let mut stated = exchange("openai", "gpt-x", usage(1_000, 500));
    stated.reported_cost = Some(ReportedCost(PicoUsd(42)));
    check(&stated, "0.000000000042 provider_reported -");
    stated.model = None;
    stated.usage = Usage::default();
    check(&stated, "0.000000000042 provider_reported -");
}

#[test]
fn the_vendored_catalogue_prices_the_large_providers() {
    let catalogue = Catalogue::vendored().unwrap();
    assert_eq!(catalogue.source(), CatalogueSource::Vendored);
    assert!(catalogue.entries() > 1_000);
    let check = |provider: &str, model: &str, expected: &str| {
        let cost = price(&exchange(provider, model, usage(1_000_000, 0)), &catalogue, catalogue.issued_at());
        let small = price(&exchange(provider, model, usage(1_000, 1_000)), &catalogue, catalogue.issued_at());
        assert!(
            cost.amount.is_some() || cost.reason == Some("disputed_price"),
            "{provider}/{model}: {cost:?}"
        );
        assert_eq!(
            small.amount.map(|amount| amount.to_string()).as_deref(),
            Some(expected),
            "{provider}/{model}"
        );
        assert_eq!(small.kind, CostKind::Computed);
    };
    check("openai", "gpt-4o-2024-08-06", "0.0125");
    check("openai", "gpt-4o-mini-2024-07-18", "0.00075");
    check("openai", "gpt-5-2025-08-07", "0.01125");
    check("anthropic", "claude-sonnet-4-5-20250929", "0.018");
    check("anthropic", "claude-3-5-haiku-20241022", "0.0048");
    check("gemini", "models/gemini-2.5-flash", "0.0028");
    check("azure", "gpt-4o-2024-08-06", "0.0125");
    check("groq", "llama-3.3-70b-versatile", "0.00138");
    // What is billed in other units, and by what is heard and seen.
    let unit = |provider: &str, model: &str, usage: Usage, expected: &str| {
        let cost = price(&exchange(provider, model, usage), &catalogue, catalogue.issued_at());
        assert_eq!(render(&cost), expected, "{provider}/{model}");
    };
    let none = Usage::default();
    let minute = with(none, &[(Detail::AudioInputMs, 60_000)]);
    unit("openai", "whisper-1", minute, "0.006 computed - audio_input_ms=60000");
    unit("groq", "whisper-large-v3", minute, "0.00184998 computed - audio_input_ms=60000");
    unit("gemini", "imagen-3.0-generate-001", with(none, &[(Detail::Images, 2)]), "0.08 computed - image=2");
    unit("openai", "tts-1", with(none, &[(Detail::Characters, 1_000)]), "0.015 computed - character=1000");
    unit("mistral", "mistral-ocr-2512", with(none, &[(Detail::Pages, 3)]), "0.006 computed - page=3");
    unit("cohere", "rerank-v3.5", with(none, &[(Detail::SearchUnits, 1)]), "0.002 computed - search_unit=1");
    let spoken = Usage { audio_input: Some(900), audio_output: Some(50), ..usage(1_000, 60) };
    unit(
        "openai",
        "gpt-4o-audio-preview",
        spoken,
        "0.04035 computed - input=100 audio_input=900 output=10 audio_output=50",
    );
    let searched = with(usage(10, 10), &[(Detail::WebSearchCalls, 1), (Detail::FileSearchCalls, 2)]);
    unit(
        "openai",
        "gpt-4.1",
        searched,
        "0.0151 computed - input=10 output=10 web_search_request=1 file_search_call=2",
    );
    assert_eq!(catalogue.find("openai", "gpt-99-never"), Found::Unknown);
    assert_eq!(catalogue.find("openai", ""), Found::Unknown);
}

#[test]
fn an_expired_catalogue_still_prices_and_says_so() {
    let catalogue = catalogue();
    assert_eq!(catalogue.state(NOW), PriceState::Current);
    assert_eq!(catalogue.state(catalogue.expires_at()), PriceState::Current);
    let later = UnixNanos(catalogue.expires_at().0 + 1);
    assert_eq!(catalogue.state(later), PriceState::Stale);
    assert!(price(&exchange("openai", "gpt-x", usage(1, 1)), catalogue, later).amount.is_some());
}

fn any_usage() -> impl Strategy<Value = Usage> {
    let count = || proptest::option::of(prop_oneof![0_u64..2_000, 0_u64..400_000, any::<u64>()]);
    (count(), count(), count(), count(), count(), count(), count(), count(), count()).prop_map(
        |(input, output, cache_read, cache_creation, five, hour, reasoning, audio_input, web)| Usage {
            details: audio_input.map_or_else(Details::default, |audio| {
                // Any parts, also ones that contradict the whole.
                let mut details = Details::default();
                details.set(Detail::CachedAudio, audio / 2);
                details.set(Detail::VideoInput, audio.rotate_left(7));
                details.set(Detail::VideoOutput, audio / 3);
                details
            }),
            input,
            output,
            cache_read,
            cache_creation,
            cache_creation_5m: five,
            cache_creation_1h: hour,
            reasoning,
            audio_input,
            web_search_requests: web,
            ..Usage::default()
        },
    )
}

const MODELS: [(&str, &str); 6] = [
    ("openai", "multi-x"),
    ("openai", "gpt-x"),
    ("openai", "gpt-x-plain"),
    ("openai", "gpt-x-think"),
    ("anthropic", "claude-x"),
    ("deepseek", "ds"),
];

proptest! {
    #[test]
    fn the_amount_is_the_sum_of_its_parts(usage in any_usage(), model in proptest::sample::select(&MODELS[..])) {
        let cost = price(&exchange(model.0, model.1, usage), catalogue(), NOW);
        prop_assert_eq!(cost.amount.is_none(), cost.kind == CostKind::Unknown);
        prop_assert_eq!(cost.reason.is_none(), cost.kind == CostKind::Computed);
        let Some(amount) = cost.amount else { return Ok(()) };
        let sum: u128 = cost.parts.iter().map(|part| part.price.0 * u128::from(part.tokens)).sum();
        prop_assert_eq!(amount.0, sum);
        let charged = |classes: &[&str]| -> u128 {
            let parts = cost.parts.iter().filter(|part| classes.contains(&part.class));
            parts.map(|part| u128::from(part.tokens)).sum()
        };
        prop_assert_eq!(charged(&["output", "reasoning", "audio_output", "image_output", "video_output"]), u128::from(usage.output.unwrap_or(0)));
        let cached = u128::from(usage.cache_read.unwrap_or(0)) + u128::from(usage.cache_creation.unwrap_or(0));
        let input = charged(&["input", "audio_input", "image_input", "video_input", "cache_read", "audio_cache_read", "cache_write_5m", "cache_write_1h"]);
        prop_assert_eq!(input, u128::from(usage.input.unwrap_or(0)).max(cached), "every token is charged once");
    }

    #[test]
    fn more_tokens_never_cost_less(usage in any_usage(), more in 1_u64..1_000_000, model in proptest::sample::select(&MODELS[..])) {
        let before = price(&exchange(model.0, model.1, usage), catalogue(), NOW).amount;
        let longer = Usage { output: usage.output.map(|output| output.saturating_add(more)), ..usage };
        prop_assert!(price(&exchange(model.0, model.1, longer), catalogue(), NOW).amount >= before);
        let wider = Usage { input: usage.input.map(|input| input.saturating_add(more)), ..usage };
        // Audio is capped by what is left of the input; more of it may turn into plain tokens, never into fewer.
        prop_assert!(price(&exchange(model.0, model.1, wider), catalogue(), NOW).amount >= before);
    }
}
