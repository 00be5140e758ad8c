//! The catalogue's bytes, and what people read about it.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::compare::{Outcome, Published};
use crate::facts::{Facts, Prices, Rate};

/// What the catalogue says of itself.
pub(crate) struct Header {
    pub(crate) version: u64,
    pub(crate) issued_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) key_id: String,
}

/// One line for each model, so that two versions can be compared line by line.
pub(crate) fn catalogue(header: &Header, facts: &Facts, outcomes: &[Outcome]) -> Vec<u8> {
    let mut sources: Vec<String> = Vec::new();
    for model in outcomes.iter().flat_map(|outcome| &outcome.models) {
        sources.extend(model.model.sources.iter().cloned());
    }
    sources.sort();
    sources.dedup();
    let facts: Vec<Value> = facts
        .packages
        .iter()
        .map(|[name, version, sha256, licence]| {
            json!({"name": name, "version": version, "sha256": sha256, "licence": licence})
        })
        .collect();
    let mut text = format!(
        "{{\"format\":1,\"role\":\"prices\",\"version\":{},\"issued_at\":{},\"expires_at\":{},\"key_id\":\"{}\",\n\"facts\":{},\n\"sources\":[\n",
        header.version,
        header.issued_at,
        header.expires_at,
        header.key_id,
        Value::from(facts),
    );
    text.push_str(&lines(sources.iter().map(|source| Value::from(source.as_str()).to_string())));
    text.push_str("],\n\"providers\":[\n");
    let providers = outcomes.iter().map(|outcome| {
        let disputed: Vec<&String> = outcome.disputed.iter().collect();
        let models = lines(outcome.models.iter().map(|model| published(model, &sources).to_string()));
        format!(
            "{{\"provider\":\"{}\",\"disputed\":{},\"models\":[\n{models}]}}",
            outcome.provider,
            json!(disputed)
        )
    });
    text.push_str(&lines(providers));
    text.push_str("]}\n");
    text.into_bytes()
}

fn lines(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    format!("{}\n", items.join(",\n"))
}

fn published(one: &Published, sources: &[String]) -> Value {
    let model = &one.model;
    let rules: Vec<Value> = model.matches.iter().map(|rule| rule.to_json()).collect();
    let mut urls: Vec<usize> =
        model.sources.iter().filter_map(|source| sources.binary_search(source).ok()).collect();
    urls.sort_unstable();
    urls.dedup();
    json!({
        "model": model.id,
        "match": rules,
        "confidence": if one.confirmed { "confirmed" } else { "single" },
        "sources": urls,
        "rates": model.rates.iter().map(rate).collect::<Vec<_>>(),
    })
}

fn rate(rate: &Rate) -> Value {
    let mut found = Map::new();
    let mut put = |key: &str, value: Option<Value>| value.map(|value| found.insert(key.to_owned(), value));
    put("from", rate.from.map(Value::from));
    put("daily", rate.daily.map(|(from, to)| json!([from, to])));
    put("region", rate.region.as_deref().map(Value::from));
    put("tier", rate.tier.as_deref().map(Value::from));
    put("batch", rate.batch.then(|| Value::from(true)));
    put("limit", rate.limit.map(Value::from));
    put("prices", Some(prices(&rate.prices.base)));
    let over: Vec<Value> = rate
        .prices
        .over
        .iter()
        .map(|(tokens, above)| json!({"tokens": tokens, "prices": prices(above)}))
        .collect();
    put("over", (!over.is_empty()).then(|| Value::from(over)));
    Value::Object(found)
}

fn prices(prices: &Prices) -> Value {
    Value::Object(prices.iter().map(|(class, price)| ((*class).to_owned(), Value::from(*price))).collect())
}

/// How many models of each provider are agreed on, stated once and disputed; all disputes if `verbose`.
pub(crate) fn report(outcomes: &[Outcome], verbose: bool) -> String {
    let mut text = table(outcomes);
    for outcome in outcomes.iter().filter(|_| verbose) {
        for note in &outcome.notes {
            let _ = writeln!(text, "{}: {note}", outcome.provider);
        }
    }
    text
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| provider | models | confirmed | single | disputed names |\n|---|---:|---:|---:|---:|\n",
    );
    for outcome in outcomes {
        let confirmed = outcome.models.iter().filter(|model| model.confirmed).count();
        let all = outcome.models.len();
        let (provider, disputed) = (outcome.provider, outcome.disputed.len());
        let _ = writeln!(text, "| {provider} | {all} | {confirmed} | {} | {disputed} |", all - confirmed);
    }
    text
}

/// Where the catalogue comes from, for people and lawyers.
pub(crate) fn provenance(header: &Header, facts: &Facts, outcomes: &[Outcome], bytes: &[u8]) -> String {
    let mut text = String::from(
        "# Where the prices come from\n\nMade by `cargo xtask catalogue`; do not edit. Facts about published list prices, no code, from:\n\n",
    );
    for [name, version, sha256, licence] in &facts.packages {
        let _ = writeln!(
            text,
            "- Python package `{name}` {version}, licence {licence}, data file SHA-256 `{sha256}`"
        );
    }
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let _ = write!(
        text,
        "\nBoth are under the MIT licence; what is taken are facts, attributed here and to the addresses in the catalogue.\n\n\
         | | |\n|---|---|\n| version | {} |\n| issued | {} |\n| stale from | {} |\n| key | {} |\n| SHA-256 | `{digest}` |\n\n\
         Confirmed: both state the price and agree. Single: one states it. Disputed: they differ; such a price is not\n\
         published, and a call with such a model has no cost, with the reason `disputed_price`. Where they agree only up to a\n\
         number of input tokens, longer calls are treated like that.\n\n{}",
        header.version,
        date(header.issued_at),
        date(header.expires_at),
        header.key_id,
        table(outcomes),
    );
    text
}

/// `YYYY-MM-DD` of seconds since 1970.
pub(crate) fn date(seconds: u64) -> String {
    // Civil from days, Howard Hinnant's algorithm.
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
