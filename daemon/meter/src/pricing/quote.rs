//! Multiplies reported token counts by unit prices.

use super::catalogue::{Catalogue, Found};
use super::format::{ModelPrices, Rate, UnitPrices};
use crate::detail::Detail;
use crate::directory::Directory;
use crate::exchange::{Exchange, Usage, Word};
use crate::money::PicoUsd;
use crate::record::{Cost, CostKind, CostPart, CostParts};
use crate::time::UnixNanos;

/// What `exchange`, begun at `at`, cost by `catalogue`.
///
/// What the provider stated wins. Of assumptions the first is named.
pub fn price(exchange: &Exchange, catalogue: &Catalogue, at: UnixNanos) -> Cost {
    let mut cost = Cost {
        amount: None,
        kind: CostKind::Unknown,
        catalogue_version: catalogue.version(),
        parts: CostParts::new(),
        reason: None,
    };
    if let Some(reported) = exchange.reported_cost {
        return Cost { amount: Some(reported.0), kind: CostKind::ProviderReported, ..cost };
    }
    let mut notes = Notes::default();
    match quote(exchange, catalogue, at, &mut notes) {
        Ok((parts, amount)) => {
            cost.kind = if notes.first.is_some() { CostKind::Estimated } else { CostKind::Computed };
            (cost.amount, cost.parts, cost.reason) = (Some(amount), parts, notes.first);
        }
        Err(reason) => cost.reason = Some(reason),
    }
    cost
}

/// Assumptions made; the first one is kept.
#[derive(Default)]
struct Notes {
    first: Option<&'static str>,
}

impl Notes {
    fn add(&mut self, assumption: &'static str) {
        self.first.get_or_insert(assumption);
    }
}

fn quote(
    exchange: &Exchange,
    catalogue: &Catalogue,
    at: UnixNanos,
    notes: &mut Notes,
) -> Result<(CostParts, PicoUsd), &'static str> {
    if !exchange.inference {
        return Err("not_inference");
    }
    let usage = &billed(&exchange.usage);
    let in_units =
        usage.input.is_none() && usage.output.is_none() && UNITS.iter().any(|unit| unit.of(usage) > 0);
    if usage.input.is_none() && !in_units {
        return Err(if exchange.status.is_some_and(|status| status >= 400) {
            "error_response"
        } else {
            "unknown_usage"
        });
    }
    let model = model_of(exchange, catalogue, notes)?;
    let rate = rate_of(model, exchange, at, notes).ok_or("no_price_in_force")?;
    let input = usage.input.unwrap_or(0);
    let cached = usage.cache_read.unwrap_or(0).saturating_add(usage.cache_creation.unwrap_or(0));
    let total_input = input.max(cached);
    if rate.limit.is_some_and(|limit| total_input > limit) {
        return Err("disputed_price");
    }
    let prices = match rate.over.iter().rev().find(|tier| total_input > tier.tokens) {
        Some(tier) => tier.prices.or(rate.prices),
        None => rate.prices,
    };
    let mut parts = Parts::default();
    charge_units(usage, &prices, &mut parts);
    if in_units {
        if parts.list.is_empty() {
            return Err("no_unit_price");
        }
    } else {
        charge_input(usage, input, &prices, &mut parts, notes)?;
        charge_output(exchange.operation, usage, &prices, &mut parts, notes)?;
    }
    charge_compaction(usage, rate, &prices, &mut parts, notes);
    charge_tools(usage, &prices, &mut parts, notes);
    if let Some(price) = prices.request {
        parts.add("request", 1, price);
    }
    parts.total()
}

/// What the provider bills, where it says that this differs from what it used: then nothing is told apart.
fn billed(usage: &Usage) -> Usage {
    let (input, output) = (usage.details.get(Detail::BilledInput), usage.details.get(Detail::BilledOutput));
    if input.is_none() && output.is_none() {
        return *usage;
    }
    Usage { input: input.or(usage.input), output: output.or(usage.output), ..Usage::default() }
}

/// A unit that is not a token.
struct Unit {
    detail: Detail,
    class: &'static str,
    price: fn(&UnitPrices) -> Option<u64>,
}

impl Unit {
    fn of(&self, usage: &Usage) -> u64 {
        usage.details.get(self.detail).unwrap_or(0)
    }
}

const UNITS: [Unit; 6] = [
    Unit { detail: Detail::Images, class: "image", price: |prices| prices.image },
    Unit { detail: Detail::AudioInputMs, class: "audio_input_ms", price: |prices| prices.audio_input_ms },
    Unit { detail: Detail::Characters, class: "character", price: |prices| prices.character },
    Unit { detail: Detail::Pages, class: "page", price: |prices| prices.page },
    Unit { detail: Detail::SearchUnits, class: "search_unit", price: |prices| prices.search_unit },
    // Of the hardware, which no answer names.
    Unit { detail: Detail::ComputeMs, class: "compute_ms", price: |_| None },
];

/// Units have a price or tokens do: a model that is billed by tokens has none for the images that they make up.
fn charge_units(usage: &Usage, prices: &UnitPrices, parts: &mut Parts) {
    for unit in &UNITS {
        if let Some(price) = (unit.price)(prices) {
            parts.add(unit.class, unit.of(usage), price);
        }
    }
}

/// The entry that prices the exchange: by the model of the response, else by that of the request. On Bedrock the other
/// way round: only the request's id says through which geography the call went, and the response's is the vendor's.
fn model_of<'a>(
    exchange: &Exchange,
    catalogue: &'a Catalogue,
    notes: &mut Notes,
) -> Result<&'a ModelPrices, &'static str> {
    let (first, second, assumption) = match &*exchange.provider {
        "bedrock" => (&exchange.requested_model, &exchange.model, "priced_as_response_model"),
        _ => (&exchange.model, &exchange.requested_model, "priced_as_requested_model"),
    };
    let find = |model: &Option<Word>| match model {
        Some(model) => catalogue.find(&exchange.provider, model),
        None => Found::Unknown,
    };
    match find(first) {
        Found::Prices(prices) => return Ok(prices),
        Found::Disputed => return Err("disputed_price"),
        Found::Unknown => {}
    }
    match find(second) {
        Found::Prices(prices) => {
            if first.is_some() {
                notes.add(assumption);
            }
            Ok(prices)
        }
        Found::Disputed => Err("disputed_price"),
        Found::Unknown => Err("unknown_model"),
    }
}

/// The rate in force for the exchange's region, tier and time. A tier or a batch without a price of its own is priced
/// as standard, and says so.
fn rate_of<'a>(
    model: &'a ModelPrices,
    exchange: &Exchange,
    at: UnixNanos,
    notes: &mut Notes,
) -> Option<&'a Rate> {
    let seconds = at.0 / 1_000_000_000;
    let of_day = u32::try_from(seconds % 86_400).unwrap_or(0);
    let in_force = |rate: &&Rate| {
        rate.from.is_none_or(|from| seconds >= from)
            && rate.to.is_none_or(|to| seconds < to)
            && rate.daily.is_none_or(|(from, to)| match from <= to {
                true => (from..to).contains(&of_day),
                false => of_day >= from || of_day < to,
            })
    };
    let tier = exchange.service_tier.as_deref().map(how_served);
    let batch = exchange.batch || tier.is_some_and(|tier| tier.eq_ignore_ascii_case("batch"));
    let tier = tier.filter(|tier| !is_standard(tier));
    let region = Directory::region_of(&exchange.host);
    let same = |named: Option<&str>, tier: Option<&str>| match (named, tier) {
        (Some(named), Some(tier)) => named.eq_ignore_ascii_case(tier),
        (named, tier) => named == tier,
    };
    let pick = |tier: Option<&str>, batch: bool| {
        let regions: [Option<&str>; 3] = [region, region.map(|_| "*"), None];
        regions.into_iter().find_map(|region| {
            let fits = |rate: &&Rate| {
                rate.region.as_deref() == region && same(rate.tier.as_deref(), tier) && rate.batch == batch
            };
            model.rates.iter().rev().find(|rate| fits(rate) && in_force(rate))
        })
    };
    if let Some(rate) = pick(tier, batch) {
        return Some(rate);
    }
    if batch {
        notes.add("no_batch_price");
    } else if tier.is_some() {
        notes.add("no_tier_price");
    }
    pick(None, batch).or_else(|| pick(None, false))
}

/// The tier in what Vertex AI says of how traffic was served: `ON_DEMAND_FLEX`. Other names are as they are.
fn how_served(tier: &str) -> &str {
    const SERVED: &str = "on_demand_";
    match tier.split_at_checked(SERVED.len()) {
        Some((served, rest)) if served.eq_ignore_ascii_case(SERVED) => rest,
        _ => tier,
    }
}

/// Names by which providers call what is nothing special.
fn is_standard(tier: &str) -> bool {
    const NAMES: [&str; 6] = ["", "default", "standard", "on_demand", "auto", "batch"];
    NAMES.iter().any(|name| name.eq_ignore_ascii_case(tier))
}

fn charge_input(
    usage: &Usage,
    input: u64,
    prices: &UnitPrices,
    parts: &mut Parts,
    notes: &mut Notes,
) -> Result<(), &'static str> {
    let plain = prices.input.ok_or("no_input_price")?;
    let cache_read = usage.cache_read.unwrap_or(0);
    let written = usage.cache_creation.unwrap_or(0);
    let cached = cache_read.saturating_add(written);
    if cached > input {
        notes.add("cache_exceeds_input");
    }
    let uncached = input.saturating_sub(cached);
    // Of what was not cached, audio, images and video may have prices of their own.
    let details = &usage.details;
    let fresh =
        |all: Option<u64>, cached: Detail| all.unwrap_or(0).saturating_sub(details.get(cached).unwrap_or(0));
    let audio = fresh(usage.audio_input, Detail::CachedAudio).min(uncached);
    let image = fresh(usage.image_input, Detail::CachedImage).min(uncached - audio);
    let video = fresh(details.get(Detail::VideoInput), Detail::CachedVideo).min(uncached - audio - image);
    let told = [Detail::CachedText, Detail::CachedAudio, Detail::CachedImage, Detail::CachedVideo];
    let is_told = told.iter().any(|detail| details.get(*detail).is_some());
    if cached > 0 && !is_told && usage.audio_input.unwrap_or(0) > 0 && prices.audio_input.is_some() {
        notes.add("cached_modality_unknown");
    }
    parts.add("input", uncached - audio - image - video, plain);
    if audio > 0 && prices.audio_input.is_none() {
        notes.add("no_audio_price");
    }
    parts.add("audio_input", audio, prices.audio_input.unwrap_or(plain));
    parts.add("image_input", image, prices.image_input.unwrap_or(plain));
    parts.add("video_input", video, prices.video_input.unwrap_or(plain));
    if cache_read > 0 && prices.cache_read.is_none() {
        notes.add("no_cache_price");
    }
    let mut rest = cache_read;
    for (class, detail, price) in [
        ("audio_cache_read", Detail::CachedAudio, prices.audio_cache_read),
        ("image_cache_read", Detail::CachedImage, prices.image_cache_read),
    ] {
        if let Some(price) = price {
            let tokens = details.get(detail).unwrap_or(0).min(rest);
            rest -= tokens;
            parts.add(class, tokens, price);
        }
    }
    parts.add("cache_read", rest, prices.cache_read.unwrap_or(plain));
    charge_cache_writes(usage, written, plain, prices, parts, notes);
    Ok(())
}

fn charge_cache_writes(
    usage: &Usage,
    written: u64,
    plain: u64,
    prices: &UnitPrices,
    parts: &mut Parts,
    notes: &mut Notes,
) {
    let (half_hour, half_day) =
        (usage.details.get(Detail::CacheCreation30m), usage.details.get(Detail::CacheCreation12h));
    let lifetimes = [usage.cache_creation_5m, half_hour, usage.cache_creation_1h, half_day];
    let stated = lifetimes.into_iter().flatten().fold(0u64, u64::saturating_add);
    if lifetimes.iter().any(Option::is_some) && stated != written {
        // A lifetime that is not stated is the shorter one.
        notes.add("cache_lifetime_unknown");
    }
    let hour = usage.cache_creation_1h.unwrap_or(0).min(written);
    let half_day = half_day.unwrap_or(0).min(written - hour);
    let short = prices.cache_write_5m.unwrap_or(plain);
    for (class, tokens, price) in [
        ("cache_write_5m", written - hour - half_day, prices.cache_write_5m),
        ("cache_write_1h", hour, prices.cache_write_1h),
        ("cache_write_12h", half_day, prices.cache_write_12h),
    ] {
        if tokens > 0 && price.is_none() {
            notes.add("no_cache_write_price");
        }
        parts.add(class, tokens, price.unwrap_or(short));
    }
}

/// What summing the conversation up used is billed like the answer, and in none of its counts.
fn charge_compaction(usage: &Usage, rate: &Rate, prices: &UnitPrices, parts: &mut Parts, notes: &mut Notes) {
    let used = |detail| usage.details.get(detail).unwrap_or(0);
    let (read, written) = (used(Detail::CompactionCacheRead), used(Detail::CompactionCacheCreation));
    let whole = used(Detail::CompactionInput).saturating_add(read).saturating_add(written);
    if rate.over.first().is_some_and(|tier| whole > tier.tokens) {
        // Of several turns only the sum is known.
        notes.add("compaction_tier_unknown");
    }
    for (class, tokens, price) in [
        ("compaction_input", used(Detail::CompactionInput), prices.input),
        ("compaction_cache_read", read, prices.cache_read.or(prices.input)),
        ("compaction_cache_write", written, prices.cache_write_5m.or(prices.input)),
        ("compaction_output", used(Detail::CompactionOutput), prices.output),
    ] {
        match price {
            Some(price) => parts.add(class, tokens, price),
            None if tokens > 0 => notes.add("no_compaction_price"),
            None => {}
        }
    }
}

/// What the provider's own tools did, each call for a price.
fn charge_tools(usage: &Usage, prices: &UnitPrices, parts: &mut Parts, notes: &mut Notes) {
    let listed = |detail| usage.details.get(detail);
    for (class, calls, price, missing) in [
        (
            "web_search_request",
            usage.web_search_requests.or(listed(Detail::WebSearchCalls)),
            prices.web_search_request,
            "no_web_search_price",
        ),
        (
            "file_search_call",
            listed(Detail::FileSearchCalls),
            prices.file_search_call,
            "no_file_search_price",
        ),
        // Billed by the session of a container, which no answer names.
        ("code_interpreter_call", listed(Detail::CodeInterpreterCalls), None, "no_code_interpreter_price"),
        // At the price of another model, which no count names.
        ("advisor_output", listed(Detail::AdvisorOutput), None, "no_advisor_price"),
    ] {
        match (calls, price) {
            (Some(calls), Some(price)) => parts.add(class, calls, price),
            (Some(1..), None) => notes.add(missing),
            _ => {}
        }
    }
}

fn charge_output(
    operation: &str,
    usage: &Usage,
    prices: &UnitPrices,
    parts: &mut Parts,
    notes: &mut Notes,
) -> Result<(), &'static str> {
    let Some(output) = usage.output else {
        // Embeddings have no output; of everything else it is missing.
        return if operation == "embeddings" || prices.output.is_none() {
            Ok(())
        } else {
            Err("unknown_usage")
        };
    };
    if output == 0 {
        return Ok(());
    }
    let plain = prices.output.ok_or("no_output_price")?;
    let audio = usage.audio_output.unwrap_or(0).min(output);
    let image = usage.image_output.unwrap_or(0).min(output - audio);
    let video = usage.details.get(Detail::VideoOutput).unwrap_or(0).min(output - audio - image);
    let mut text = output - audio - image - video;
    if let Some(price) = prices.reasoning {
        let reasoning = usage.reasoning.unwrap_or(0).min(text);
        text -= reasoning;
        parts.add("reasoning", reasoning, price);
    }
    if (audio > 0 && prices.audio_output.is_none())
        || (image > 0 && prices.image_output.is_none())
        || (video > 0 && prices.video_output.is_none())
    {
        notes.add("no_modality_price");
    }
    parts.add("output", text, plain);
    parts.add("audio_output", audio, prices.audio_output.unwrap_or(plain));
    parts.add("image_output", image, prices.image_output.unwrap_or(plain));
    parts.add("video_output", video, prices.video_output.unwrap_or(plain));
    Ok(())
}

/// What is charged; classes without tokens are left out.
#[derive(Default)]
struct Parts {
    list: CostParts,
}

impl Parts {
    fn add(&mut self, class: &'static str, tokens: u64, price: u64) {
        if tokens > 0 {
            self.list.push(CostPart { class, tokens, price: PicoUsd(u128::from(price)) });
        }
    }

    fn total(self) -> Result<(CostParts, PicoUsd), &'static str> {
        let add = |sum: PicoUsd, part: &CostPart| sum.plus(part.price.times(part.tokens)?);
        match self.list.iter().try_fold(PicoUsd(0), add) {
            Some(amount) => Ok((self.list, amount)),
            None => Err("amount_overflow"),
        }
    }
}
