//! The exported facts, in our words: pico-dollars a unit, price classes of the catalogue.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Prices by class of the catalogue, pico-dollars a unit.
pub(crate) type Prices = BTreeMap<&'static str, u64>;

/// Prices, and those above a number of input tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tiered {
    pub(crate) base: Prices,
    pub(crate) over: BTreeMap<u64, Prices>,
}

/// A price and when it holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate {
    pub(crate) from: Option<u64>,
    pub(crate) daily: Option<(u64, u64)>,
    pub(crate) region: Option<String>,
    pub(crate) tier: Option<String>,
    pub(crate) batch: bool,
    /// All prices in force, those of the standard rate included.
    pub(crate) prices: Tiered,
    /// What the source states for this rate itself.
    pub(crate) stated: Tiered,
    /// Above so many input tokens the sources do not agree.
    pub(crate) limit: Option<u64>,
}

/// A model as a source knows it.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) id: String,
    /// Rules of the catalogue's format.
    pub(crate) matches: Vec<Rule>,
    pub(crate) rates: Vec<Rate>,
    /// Why parts of it were left out.
    pub(crate) left_out: Vec<String>,
    pub(crate) sources: Vec<String>,
}

/// One way to recognise a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) exact: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) suffix: Option<String>,
    pub(crate) contains: Option<String>,
    pub(crate) then: Option<&'static str>,
    pub(crate) without: Option<String>,
}

impl Rule {
    pub(crate) fn exact(name: &str) -> Rule {
        Rule { exact: Some(name.to_lowercase()), ..Rule::default() }
    }

    pub(crate) fn to_json(&self) -> Value {
        let parts = [
            ("exact", self.exact.as_deref()),
            ("prefix", self.prefix.as_deref()),
            ("suffix", self.suffix.as_deref()),
            ("contains", self.contains.as_deref()),
            ("then", self.then),
            ("without", self.without.as_deref()),
        ];
        let parts = parts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), Value::from(text?))));
        Value::Object(parts.collect())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let rule: Result<meter::pricing::ModelMatch, _> = serde_json::from_value(self.to_json());
        rule.is_ok_and(|rule| rule.matches(name))
    }
}

/// Everything exported.
pub(crate) struct Facts {
    /// Package, version, SHA-256, licence.
    pub(crate) packages: Vec<[String; 4]>,
    /// Models by genai-prices' provider, in its order.
    pub(crate) genai: BTreeMap<String, Vec<Model>>,
    /// Models by litellm's provider and key.
    pub(crate) litellm: BTreeMap<String, Vec<Model>>,
    /// Uplift of regional endpoints by litellm's key: numerator and denominator.
    pub(crate) uplift: BTreeMap<String, (u64, u64)>,
}

pub(crate) fn parse(text: &str) -> Result<Facts> {
    let root: Value = serde_json::from_str(text)?;
    let mut packages = Vec::new();
    for one in root["facts"].as_array().context("no facts")? {
        packages.push(
            ["name", "version", "sha256", "licence"]
                .map(|key| one[key].as_str().unwrap_or_default().to_owned()),
        );
    }
    let mut genai = BTreeMap::new();
    for (provider, one) in root["genai"].as_object().context("no genai")? {
        let sources: Vec<String> = texts(&one["sources"]);
        let models = one["models"].as_array().context("no models")?;
        let models: Result<Vec<Model>> = models.iter().map(|model| genai_model(model, &sources)).collect();
        genai.insert(provider.clone(), models?);
    }
    let mut litellm: BTreeMap<String, Vec<Model>> = BTreeMap::new();
    let mut uplift = BTreeMap::new();
    for (key, one) in root["litellm"].as_object().context("no litellm")? {
        let Some(provider) = one["litellm_provider"].as_str() else { continue };
        if let Some(text) = one["regional_endpoint_uplift_multiplier"].as_str() {
            uplift.insert(key.clone(), ratio(text)?);
        }
        litellm.entry(provider.to_owned()).or_default().push(litellm_model(key, one));
    }
    Ok(Facts { packages, genai, litellm, uplift })
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// genai-prices' keys in our classes, with the exponent that makes a unit price in pico-dollars of theirs.
const GENAI: [(&str, &str, i32); 20] = [
    ("input_mtok", "input", 6),
    ("cache_read_mtok", "cache_read", 6),
    ("cache_write_mtok", "cache_write_5m", 6),
    ("cache_write_1h_mtok", "cache_write_1h", 6),
    ("output_mtok", "output", 6),
    ("output_reasoning_mtok", "reasoning", 6),
    ("input_audio_mtok", "audio_input", 6),
    ("output_audio_mtok", "audio_output", 6),
    ("input_image_mtok", "image_input", 6),
    ("output_image_mtok", "image_output", 6),
    ("web_searches_kcount", "web_search_request", 9),
    ("requests_kcount", "request", 9),
    ("cache_audio_read_mtok", "audio_cache_read", 6),
    ("cache_image_read_mtok", "image_cache_read", 6),
    ("input_video_mtok", "video_input", 6),
    ("output_video_mtok", "video_output", 6),
    ("input_mchars", "character", 6),
    ("input_document_kpages", "page", 9),
    ("storage_searches_kcount", "file_search_call", 9),
    ("input_audio_hours", HOURS, 12),
];

/// Stands for a price an hour, which is one of a millisecond in the catalogue, rounded: at most two millionths of a dollar
/// an hour are lost.
const HOURS: &str = "audio_input_ms";
const MS_OF_HOUR: u64 = 3_600_000;
const MS_OF_SECOND: u64 = 1_000;

/// The price of one of `parts` of what costs `price`.
fn share(price: u64, parts: u64) -> u64 {
    (price + parts / 2) / parts
}

/// Classes that are billed instead of tokens. A price for both would bill the same thing twice.
pub(crate) const UNITS: [&str; 5] = ["image", "audio_input_ms", "character", "page", "search_unit"];

/// Whether something of a call can be priced with these.
pub(crate) fn is_priced(prices: &Prices) -> bool {
    prices.contains_key("input") || UNITS.iter().any(|class| prices.contains_key(class))
}

/// Classes in which prices differ by what is read and made.
pub(crate) const MODALITIES: [&str; 8] = [
    "audio_input",
    "audio_output",
    "audio_cache_read",
    "image_input",
    "image_output",
    "image_cache_read",
    "video_input",
    "video_output",
];

fn genai_prices(raw: &Value, left_out: &mut Vec<String>) -> Tiered {
    let mut found = Tiered::default();
    for (key, amount) in raw.as_object().into_iter().flatten() {
        let Some((_, class, exponent)) = GENAI.iter().find(|(name, ..)| name == key) else {
            left_out.push(format!("{key} is not a class of the catalogue"));
            continue;
        };
        let price = |text: &Value| {
            let price = pico(text.as_str().unwrap_or_default(), *exponent)?;
            Some(if *class == HOURS { share(price, MS_OF_HOUR) } else { price })
        };
        match price(&amount["base"]) {
            Some(base) => found.base.insert(class, base),
            None => {
                left_out.push(format!("{key} = {} is no whole number of pico-dollars", amount["base"]));
                continue;
            }
        };
        for tier in amount["tiers"].as_array().into_iter().flatten() {
            match (tier[0].as_u64(), price(&tier[1])) {
                (Some(start), Some(price)) => {
                    found.over.entry(start).or_default().insert(class, price);
                }
                _ => left_out.push(format!("{key}: a tier is not understood")),
            }
        }
    }
    fill_tiers(&mut found);
    found
}

/// A class that changes at an earlier tier keeps that price in a later one.
fn fill_tiers(found: &mut Tiered) {
    let mut known = Prices::new();
    for prices in found.over.values_mut() {
        for (class, price) in &known {
            prices.entry(class).or_insert(*price);
        }
        known.clone_from(prices);
    }
}

fn genai_model(raw: &Value, sources: &[String]) -> Result<Model> {
    let id = raw["id"].as_str().context("a model without id")?.to_owned();
    let mut left_out = Vec::new();
    let matches = rules(&raw["match"]).with_context(|| format!("{id}: match"))?;
    let mut rates: Vec<Rate> = Vec::new();
    for one in raw["rates"].as_array().into_iter().flatten() {
        let prices = genai_prices(&one["prices"], &mut left_out);
        let from = one["from"].as_str().map(start_of_day).transpose()?;
        let daily = one["daily"][0].as_u64().zip(one["daily"][1].as_u64());
        rates.push(Rate { from, daily, stated: prices.clone(), prices, ..Rate::default() });
    }
    if let Some(first) = rates.first_mut() {
        // Before everything else is in force the first one is.
        (first.from, first.daily) = (None, None);
    }
    let standard = rates.iter().rev().find(|rate| rate.daily.is_none()).map(|rate| rate.prices.clone());
    for one in raw["variants"].as_array().into_iter().flatten() {
        let when = one["when"].as_object().context("a variant without a condition")?;
        let mut rate = Rate { from: one["from"].as_str().map(start_of_day).transpose()?, ..Rate::default() };
        match when
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()[..]
        {
            [("processing", "batch")] => rate.batch = true,
            [("service_tier", "default")] => continue,
            [("service_tier" | "speed", tier)] => rate.tier = Some(tier.to_owned()),
            _ => {
                left_out.push(format!("prices under {when:?}"));
                continue;
            }
        }
        rate.stated = genai_prices(&one["prices"], &mut left_out);
        rate.prices = over(rate.stated.clone(), standard.as_ref());
        rates.push(rate);
    }
    left_out.sort();
    left_out.dedup();
    Ok(Model { id, matches, rates, left_out, sources: sources.to_vec() })
}

/// `variant`, with the standard price where it says nothing. Tiers of the standard price hold only for classes that
/// the variant leaves alone.
fn over(variant: Tiered, standard: Option<&Tiered>) -> Tiered {
    let Some(standard) = standard else { return variant };
    let mut merged = variant.clone();
    for (class, price) in &standard.base {
        merged.base.entry(class).or_insert(*price);
    }
    for (start, prices) in &standard.over {
        for (class, price) in prices.iter().filter(|(class, _)| !variant.base.contains_key(*class)) {
            merged.over.entry(*start).or_default().entry(class).or_insert(*price);
        }
    }
    fill_tiers(&mut merged);
    merged
}

/// A tree of clauses as a list of rules of which any must hold.
fn rules(clause: &Value) -> Result<Vec<Rule>> {
    if let Some(any) = clause["or"].as_array() {
        let lists: Result<Vec<Vec<Rule>>> = any.iter().map(rules).collect();
        return Ok(lists?.concat());
    }
    if let Some(all) = clause["and"].as_array() {
        let mut merged = Rule::default();
        for one in all {
            match rules(one)?.as_slice() {
                [Rule { exact, prefix, suffix, contains, then, without }] => {
                    merged = Rule {
                        exact: merged.exact.or(exact.clone()),
                        prefix: merged.prefix.or(prefix.clone()),
                        suffix: merged.suffix.or(suffix.clone()),
                        contains: merged.contains.or(contains.clone()),
                        then: merged.then.or(*then),
                        without: merged.without.or(without.clone()),
                    };
                }
                _ => bail!("an alternative inside a conjunction"),
            }
        }
        return Ok(vec![merged]);
    }
    let text = |key: &str| clause[key].as_str().map(str::to_lowercase);
    if let Some(regex) = clause["regex"].as_str() {
        return from_regex(regex);
    }
    let rule = Rule {
        exact: text("equals"),
        prefix: text("starts_with"),
        suffix: text("ends_with"),
        contains: text("contains"),
        ..Rule::default()
    };
    if rule == Rule::default() { bail!("clause {clause}") } else { Ok(vec![rule]) }
}

/// The few regular expressions that occur: a name with a date, a name with a digit, "no speech".
fn from_regex(regex: &str) -> Result<Vec<Rule>> {
    if regex == r"^(?!.*-[tT][tT][sS](?:$|-))" {
        return Ok(vec![Rule { without: Some("-tts".to_owned()), ..Rule::default() }]);
    }
    let body = regex.strip_prefix('^').with_context(|| format!("regular expression {regex}"))?;
    for (end, then) in [(r"\d{4}-\d{2}-\d{2}$", "date"), (r"\d{8}$", "date"), (r"\d", "digit")] {
        let Some(name) = body.strip_suffix(end) else { continue };
        let heads = match name.strip_suffix("[-@]") {
            Some(name) => vec![format!("{name}-"), format!("{name}@")],
            None => vec![name.to_owned()],
        };
        let heads: Vec<String> =
            heads.into_iter().map(|head| head.replace(r"\.", ".").to_lowercase()).collect();
        let plain = |head: &String| head.chars().all(|one| one.is_alphanumeric() || "-._/@".contains(one));
        if heads.iter().all(plain) {
            let rule = |head: String| Rule { prefix: Some(head), then: Some(then), ..Rule::default() };
            return Ok(heads.into_iter().map(rule).collect());
        }
    }
    // Bracketed variants and optional parts of providers that are not published anyway.
    Ok(Vec::new())
}

/// litellm's keys in our classes; the exponent makes pico-dollars of dollars.
const LITELLM: [(&str, &str); 15] = [
    ("input_cost_per_token", "input"),
    ("cache_read_input_token_cost", "cache_read"),
    ("cache_creation_input_token_cost", "cache_write_5m"),
    ("cache_creation_input_token_cost_above_1hr", "cache_write_1h"),
    ("output_cost_per_token", "output"),
    ("output_cost_per_reasoning_token", "reasoning"),
    ("input_cost_per_audio_token", "audio_input"),
    ("output_cost_per_audio_token", "audio_output"),
    ("output_cost_per_image_token", "image_output"),
    ("cache_creation_input_token_cost_above_12hr", "cache_write_12h"),
    ("cache_read_input_audio_token_cost", "audio_cache_read"),
    ("cache_read_input_image_token_cost", "image_cache_read"),
    ("input_cost_per_image_token", "image_input"),
    ("input_cost_per_video_token", "video_input"),
    ("output_cost_per_video_token", "video_output"),
];

/// Its keys for what is billed instead of tokens, of which mode of a model (an embedding's query is no search, and a song
/// no image), in our classes: the exponent is as above, a price is divided by the last.
const LITELLM_UNITS: [(&str, &str, &str, u64); 5] = [
    ("output_cost_per_image", "image_generation", "image", 1),
    ("input_cost_per_second", "audio_transcription", "audio_input_ms", MS_OF_SECOND),
    ("input_cost_per_character", "audio_speech", "character", 1),
    ("ocr_cost_per_page", "ocr", "page", 1),
    ("input_cost_per_query", "rerank", "search_unit", 1),
];

/// Adds what is billed instead of tokens, where no token has a price.
fn add_units(raw: &Value, suffix: &str, found: &mut Prices) {
    let tokens = ["input", "output", "image_output", "audio_output"];
    if tokens.iter().any(|class| found.get(class).is_some_and(|price| *price > 0)) {
        return;
    }
    let of_mode = LITELLM_UNITS.into_iter().filter(|(_, mode, ..)| raw["mode"].as_str() == Some(*mode));
    for (name, _, class, parts) in of_mode {
        let price = raw[format!("{name}{suffix}")].as_str().and_then(|text| pico(text, 12));
        if let Some(price @ 1..) = price {
            // A token for nothing stands for one that is not billed.
            found.retain(|class, _| !tokens.contains(class));
            found.insert(class, share(price, parts));
        }
    }
}

/// The price of a search in the web, if it does not depend on how much of what is found is read.
fn add_searches(raw: &Value, found: &mut Prices) {
    let sizes = raw["search_context_cost_per_query"].as_object();
    let mut prices =
        sizes.into_iter().flatten().map(|(_, price)| pico(price.as_str().unwrap_or_default(), 12));
    if let Some(Some(first @ 1..)) = prices.next()
        && prices.all(|price| price == Some(first))
    {
        found.insert("web_search_request", first);
    }
}

fn litellm_model(key: &str, raw: &Value) -> Model {
    let mut left_out = Vec::new();
    let mut prices = |suffix: &str| {
        let mut found = Tiered::default();
        for (name, class) in LITELLM {
            let price = |text: &Value| pico(text.as_str()?, 12);
            if let Some(base) = price(&raw[format!("{name}{suffix}")]) {
                found.base.insert(class, base);
            } else if !raw[format!("{name}{suffix}")].is_null() {
                left_out.push(format!("{name}{suffix} = {}", raw[format!("{name}{suffix}")]));
            }
            for thousands in [32_u64, 100, 128, 200, 256, 272, 512] {
                if let Some(above) = price(&raw[format!("{name}_above_{thousands}k_tokens{suffix}")]) {
                    found.over.entry(thousands * 1_000).or_default().insert(class, above);
                }
            }
        }
        fill_tiers(&mut found);
        add_units(raw, suffix, &mut found.base);
        found
    };
    let mut standard = prices("");
    if standard.base.contains_key("input") {
        add_searches(raw, &mut standard.base);
    }
    let mut rates = vec![Rate { prices: standard.clone(), stated: standard.clone(), ..Rate::default() }];
    for (suffix, tier, batch) in
        [("_batches", None, true), ("_flex", Some("flex"), false), ("_priority", Some("priority"), false)]
    {
        let special = prices(suffix);
        if is_priced(&special.base) {
            let tier = tier.map(str::to_owned);
            let prices = over(special.clone(), Some(&standard));
            rates.push(Rate { tier, batch, prices, stated: special, ..Rate::default() });
        }
    }
    let sources = raw["source"].as_str().map(str::to_owned).into_iter().collect();
    Model { id: key.to_owned(), matches: Vec::new(), rates, left_out, sources }
}

/// The number that decimal text spells, times ten to the `exponent`, if that is whole. What a binary float adds or
/// takes away at the end (`1.5999999999999999e-07`) is rounded off.
pub(crate) fn pico(text: &str, exponent: i32) -> Option<u64> {
    let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{part}");
    let power = power.parse::<i32>().ok()? + exponent - i32::try_from(part.len()).ok()?;
    let number: u128 = digits.parse().ok()?;
    if power >= 0 {
        return u64::try_from(number.checked_mul(10_u128.checked_pow(power.unsigned_abs())?)?).ok();
    }
    let scale = 10_u128.checked_pow(power.unsigned_abs())?;
    let rounded = (number + scale / 2) / scale;
    let off = number.abs_diff(rounded * scale);
    (off == 0 || (rounded > 0 && off <= number / 1_000_000_000))
        .then(|| u64::try_from(rounded).ok())
        .flatten()
}

/// `1.1` as 11 / 10.
fn ratio(text: &str) -> Result<(u64, u64)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let scale = 10_u64.pow(u32::try_from(part.len())?);
    Ok((format!("{whole}{part}").parse()?, scale))
}

/// Seconds since 1970 of `YYYY-MM-DD`.
fn start_of_day(date: &str) -> Result<u64> {
    let mut parts = date.split('-').map(str::parse::<u64>);
    let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day))) = (parts.next(), parts.next(), parts.next()) else {
        bail!("date {date}");
    };
    // Days from civil, Howard Hinnant's algorithm, for years after 1970.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Ok((days - 719_468) * 86_400)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Model, genai_model, pico, ratio, rules, start_of_day};
    use crate::write::date;

    #[test]
    fn decimal_text_becomes_whole_pico_dollars() {
        let check = |text: &str, exponent: i32, expected: Option<u64>| {
            assert_eq!(pico(text, exponent), expected, "{text}")
        };
        check("2.5", 6, Some(2_500_000));
        check("0.0028", 6, Some(2_800));
        check("0.0000001", 6, None);
        check("1.25e-06", 12, Some(1_250_000));
        check("1.5999999999999999e-07", 12, Some(160_000));
        check("6E-8", 12, Some(60_000));
        check("0", 12, Some(0));
        check("3", 6, Some(3_000_000));
        check("-1", 6, None);
        check("1e308", 12, None);
        check("NaN", 12, None);
        check("", 12, None);
        assert_eq!(ratio("1.1").unwrap(), (11, 10));
    }

    #[test]
    fn dates_go_both_ways() {
        for (text, seconds) in [("1970-01-01", 0), ("2000-02-29", 951_782_400), ("2026-10-12", 1_791_763_200)]
        {
            assert_eq!(start_of_day(text).unwrap(), seconds);
            assert_eq!(date(seconds + 86_399), text);
        }
        assert!(start_of_day("yesterday").is_err());
    }

    #[test]
    fn clauses_become_rules() {
        let check = |clause: serde_json::Value, yes: &[&str], no: &[&str]| {
            let found = rules(&clause).unwrap();
            let any = |name: &str| found.iter().any(|rule| rule.matches(name));
            assert!(yes.iter().all(|name| any(name)) && !no.iter().any(|name| any(name)), "{clause}");
        };
        check(json!({"equals": "GPT-X"}), &["gpt-x"], &["gpt-x-mini"]);
        check(
            json!({"regex": r"^claude-x-5[-@]\d{8}$"}),
            &["claude-x-5-20260101", "claude-x-5@20260101"],
            &["claude-x-5", "claude-x-5-2026010", "claude-x-5-20260101-fast"],
        );
        check(
            json!({"regex": r"^g\.5-\d{4}-\d{2}-\d{2}$"}),
            &["g.5-2026-01-31"],
            &["gx5-2026-01-31", "g.5-mini"],
        );
        check(
            json!({"and": [{"starts_with": "gem"}, {"regex": r"^(?!.*-[tT][tT][sS](?:$|-))"}]}),
            &["gem-pro"],
            &["gem-pro-tts", "other"],
        );
        check(json!({"or": [{"contains": "a"}, {"ends_with": "z"}]}), &["bab", "xz"], &["zx"]);
    }

    #[test]
    fn a_variant_changes_what_it_names() {
        let model: Model = genai_model(
            &json!({
                "id": "m", "match": {"equals": "m"},
                "rates": [
                    {"from": "2020-01-01", "prices": {"input_mtok": {"base": "9", "tiers": []}}},
                    {"from": "2026-10-12", "prices": {
                        "input_mtok": {"base": "2", "tiers": [[200_000, "4"]]},
                        "cache_read_mtok": {"base": "0.2", "tiers": [[200_000, "0.4"]]}}}],
                "variants": [{"when": {"processing": "batch"}, "prices": {"input_mtok": {"base": "1", "tiers": []}}}]
            }),
            &[],
        )
        .unwrap();
        assert_eq!(model.rates[0].from, None, "the first rate holds before all others");
        let batch = &model.rates[2];
        assert!(batch.batch);
        assert_eq!(batch.prices.base["input"], 1_000_000);
        assert_eq!(batch.prices.base["cache_read"], 200_000);
        assert_eq!(batch.prices.over[&200_000].get("input"), None, "the variant's input has no tier");
        assert_eq!(batch.prices.over[&200_000]["cache_read"], 400_000);
    }
}
