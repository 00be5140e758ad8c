//! The bytes of a catalogue: strict JSON, whole numbers only.
//!
//! A key that occurs twice, one that is not known, a negative number, a fraction, an exponent: each refuses the whole
//! catalogue. Times are seconds since 1970, prices pico-dollars a unit.

use std::collections::HashSet;

use serde::Deserialize;

/// More than a thousand dollars for one token or request is a mistake, not a price.
const PRICE_MAX: u64 = 1_000_000_000_000_000;

macro_rules! unit_prices {
    ($($(#[$doc:meta])* $class:ident,)+) => {
        /// Unit prices in pico-US-dollars; `None`: the provider publishes none.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct UnitPrices {
            $($(#[$doc])* pub $class: Option<u64>,)+
        }

        impl UnitPrices {
            /// `self`, with `base` where it says nothing.
            pub fn or(self, base: UnitPrices) -> UnitPrices {
                UnitPrices { $($class: self.$class.or(base.$class),)+ }
            }

            fn stated(&self) -> impl Iterator<Item = u64> {
                [$(self.$class,)+].into_iter().flatten()
            }
        }
    };
}

unit_prices! {
    /// Input that was not cached.
    input,
    /// Input read from a cache.
    cache_read,
    /// Input written to a cache for five minutes, or for the provider's only lifetime.
    cache_write_5m,
    /// Input written to a cache for one hour.
    cache_write_1h,
    /// Output.
    output,
    /// Output spent on reasoning, where it differs.
    reasoning,
    /// Audio in the input.
    audio_input,
    /// Audio in the output.
    audio_output,
    /// Images in the input.
    image_input,
    /// Images in the output.
    image_output,
    /// One web search.
    web_search_request,
    /// One request.
    request,
    /// Audio read from a cache, where it differs.
    audio_cache_read,
    /// Images read from a cache, where they differ.
    image_cache_read,
    /// Video in the input.
    video_input,
    /// Video in the output.
    video_output,
    /// One image made.
    image,
    /// One millisecond of audio in the request.
    audio_input_ms,
    /// One character.
    character,
    /// One page read.
    page,
    /// One search, as rerank bills it.
    search_unit,
    /// Input written to a cache for twelve hours.
    cache_write_12h,
    /// One search of the provider's tool in the caller's files.
    file_search_call,
}

/// Above so many input tokens, cached ones included, *all* tokens cost these prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Strictly more than this.
    pub tokens: u64,
    /// Where it says nothing the rate's own prices hold.
    pub prices: UnitPrices,
}

/// Prices under certain conditions. Of several that apply the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// In force from, seconds since 1970.
    #[serde(default)]
    pub from: Option<u64>,
    /// In force until, exclusive.
    #[serde(default)]
    pub to: Option<u64>,
    /// Seconds of the day (UTC) from and until, exclusive.
    #[serde(default)]
    pub daily: Option<(u32, u32)>,
    /// Region in the host name; `*`: any.
    #[serde(default)]
    pub region: Option<Box<str>>,
    /// Service tier: `flex`, `priority`, ..
    #[serde(default)]
    pub tier: Option<Box<str>>,
    /// Of batches.
    #[serde(default)]
    pub batch: bool,
    /// Above so many input tokens there is no agreed price.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Prices.
    pub prices: UnitPrices,
    /// By input tokens, ascending.
    #[serde(default)]
    pub over: Vec<Tier>,
}

/// How many independent sources state a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PriceConfidence {
    /// Two, and they agree.
    Confirmed,
    /// One.
    Single,
}

/// What must follow a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    /// `20260101` or `2026-01-01`, and the end.
    Date,
    /// A digit.
    Digit,
}

/// How a model is recognised; in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelMatch {
    #[serde(default)]
    exact: Option<Box<str>>,
    #[serde(default)]
    prefix: Option<Box<str>>,
    #[serde(default)]
    suffix: Option<Box<str>>,
    #[serde(default)]
    contains: Option<Box<str>>,
    /// After `prefix`.
    #[serde(default)]
    then: Option<Then>,
    /// Must not contain.
    #[serde(default)]
    without: Option<Box<str>>,
}

impl ModelMatch {
    /// The one name it stands for, if only one.
    pub fn exact(&self) -> Option<&str> {
        self.exact.as_deref()
    }

    /// Whether `model`, in lower case, is meant.
    pub fn matches(&self, model: &str) -> bool {
        let ModelMatch { exact, prefix, suffix, contains, then, without } = self;
        let after = prefix.as_deref().map(|prefix| model.strip_prefix(prefix));
        let follows = |rest: &str| match then {
            None => true,
            Some(Then::Digit) => rest.starts_with(|first: char| first.is_ascii_digit()),
            Some(Then::Date) => is_date(rest),
        };
        exact.as_deref().is_none_or(|exact| model == exact)
            && after.is_none_or(|rest| rest.is_some_and(follows))
            && suffix.as_deref().is_none_or(|suffix| model.ends_with(suffix))
            && contains.as_deref().is_none_or(|part| model.contains(part))
            && without.as_deref().is_none_or(|part| !model.contains(part))
    }

    fn is_empty(&self) -> bool {
        let parts = [&self.exact, &self.prefix, &self.suffix, &self.contains];
        parts.iter().all(|part| part.as_deref().is_none_or(str::is_empty))
    }
}

fn is_date(text: &str) -> bool {
    let digits =
        |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = text.split('-');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(all), None, ..) => digits(all, 8),
        (Some(year), Some(month), Some(day), None) => digits(year, 4) && digits(month, 2) && digits(day, 2),
        _ => false,
    }
}

/// A model's prices.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrices {
    /// Id.
    pub model: Box<str>,
    /// Names it goes by: any of these.
    #[serde(rename = "match")]
    pub matches: Vec<ModelMatch>,
    /// How many sources agree.
    pub confidence: PriceConfidence,
    /// When a person or a program last compared it with the provider's page, seconds since 1970.
    #[serde(default)]
    pub checked_at: Option<u64>,
    /// Where it is published: positions in the catalogue's list of addresses.
    #[serde(default)]
    pub sources: Vec<u32>,
    /// Prices.
    pub rates: Vec<Rate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderPrices {
    pub(super) provider: Box<str>,
    /// Names on whose price the sources differ: not published, and not guessed by a looser match.
    #[serde(default)]
    pub(super) disputed: Vec<Box<str>>,
    pub(super) models: Vec<ModelPrices>,
}

/// Where facts come from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    name: Box<str>,
    version: Box<str>,
    sha256: Box<str>,
    licence: Box<str>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    format: u32,
    role: Box<str>,
    pub(super) version: u64,
    pub(super) issued_at: u64,
    pub(super) expires_at: u64,
    pub(super) key_id: Box<str>,
    facts: Vec<Facts>,
    sources: Vec<Box<str>>,
    pub(super) providers: Vec<ProviderPrices>,
}

/// Parses and checks verified bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<File, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|err| err.to_string())?;
    if file.format != 1 {
        return Err(format!("format {} is not known; this program reads 1", file.format));
    }
    if &*file.role != "prices" {
        return Err("its role is not \"prices\"".to_owned());
    }
    if file.version == 0 || file.expires_at <= file.issued_at {
        return Err("version must be above 0 and expires_at after issued_at".to_owned());
    }
    if file
        .facts
        .iter()
        .any(|one| [&one.name, &one.version, &one.sha256, &one.licence].iter().any(|text| text.is_empty()))
    {
        return Err("facts without a name, version, hash or licence".to_owned());
    }
    let mut names = HashSet::new();
    for provider in &file.providers {
        if !names.insert(&provider.provider) {
            return Err(format!("provider {:?} occurs twice", provider.provider));
        }
        let mut exact: HashSet<&str> = HashSet::new();
        for model in &provider.models {
            let at = || format!("{}/{}", provider.provider, model.model);
            check(model, file.sources.len()).map_err(|problem| format!("{}: {problem}", at()))?;
            if let Some(twice) =
                model.matches.iter().filter_map(ModelMatch::exact).find(|name| !exact.insert(name))
            {
                return Err(format!("{}: {twice:?} is matched twice", at()));
            }
        }
    }
    Ok(file)
}

fn check(model: &ModelPrices, sources: usize) -> Result<(), &'static str> {
    if model.matches.is_empty() || model.matches.iter().any(ModelMatch::is_empty) {
        return Err("a match that matches everything");
    }
    if model.matches.iter().any(|one| one.then.is_some() && one.prefix.is_none()) {
        return Err("\"then\" without \"prefix\"");
    }
    if model.sources.iter().any(|source| usize::try_from(*source).is_ok_and(|at| at >= sources)) {
        return Err("a source that is not listed");
    }
    if model.rates.is_empty() {
        return Err("no rate");
    }
    for rate in &model.rates {
        if rate.from.zip(rate.to).is_some_and(|(from, to)| from >= to) {
            return Err("a rate that ends before it begins");
        }
        if rate.daily.is_some_and(|(from, to)| from > 86_400 || to > 86_400 || from == to) {
            return Err("a daily time out of range");
        }
        if rate.over.windows(2).any(|pair| pair[0].tokens >= pair[1].tokens) {
            return Err("tiers out of order");
        }
        let prices = std::iter::once(&rate.prices).chain(rate.over.iter().map(|tier| &tier.prices));
        if prices.flat_map(UnitPrices::stated).any(|price| price > PRICE_MAX) {
            return Err("a price above 1,000 USD a unit");
        }
    }
    Ok(())
}
