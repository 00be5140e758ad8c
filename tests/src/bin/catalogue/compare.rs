//! Two sources, one answer: agreed, stated by one, or disputed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use crate::facts::{Facts, MODALITIES, Model, Prices, Rate, Rule, Tiered, UNITS, is_priced};

/// Where a provider's facts are.
struct Provider {
    name: &'static str,
    genai: &'static str,
    /// Whose models it also serves, if litellm confirms the price.
    fallback: &'static [&'static str],
    litellm: &'static [&'static str],
    /// What litellm puts before a model's name.
    strip: &'static [&'static str],
}

const PROVIDERS: [Provider; 18] = [
    Provider {
        name: "openai",
        genai: "openai",
        fallback: &[],
        litellm: &["openai", "text-completion-openai"],
        strip: &[],
    },
    Provider { name: "anthropic", genai: "anthropic", fallback: &[], litellm: &["anthropic"], strip: &[] },
    Provider { name: "gemini", genai: "google", fallback: &[], litellm: &["gemini"], strip: &["gemini/"] },
    Provider {
        name: "vertex",
        genai: "google",
        fallback: &["anthropic"],
        litellm: &[
            "vertex_ai",
            "vertex_ai-language-models",
            "vertex_ai-anthropic_models",
            "vertex_ai-mistral_models",
            "vertex_ai-llama_models",
            "vertex_ai-embedding-models",
            "vertex_ai-image-models",
        ],
        strip: &["vertex_ai/"],
    },
    Provider {
        name: "bedrock",
        genai: "aws",
        fallback: &[],
        litellm: &["bedrock", "bedrock_converse"],
        strip: &["bedrock/", "bedrock_converse/"],
    },
    Provider {
        name: "azure",
        genai: "azure",
        fallback: &["openai", "anthropic", "deepseek", "x-ai", "moonshotai"],
        litellm: &["azure", "azure_ai"],
        strip: &["azure/", "azure_ai/"],
    },
    Provider {
        name: "mistral",
        genai: "mistral",
        fallback: &[],
        litellm: &["mistral", "codestral"],
        strip: &["mistral/", "codestral/"],
    },
    Provider { name: "groq", genai: "groq", fallback: &[], litellm: &["groq"], strip: &["groq/"] },
    Provider {
        name: "deepseek",
        genai: "deepseek",
        fallback: &[],
        litellm: &["deepseek"],
        strip: &["deepseek/"],
    },
    Provider { name: "xai", genai: "x-ai", fallback: &[], litellm: &["xai"], strip: &["xai/"] },
    Provider {
        name: "cohere",
        genai: "cohere",
        fallback: &[],
        litellm: &["cohere", "cohere_chat"],
        strip: &["cohere/", "cohere_chat/"],
    },
    Provider {
        name: "together",
        genai: "together",
        fallback: &[],
        litellm: &["together_ai"],
        strip: &["together_ai/"],
    },
    Provider {
        name: "fireworks",
        genai: "fireworks",
        fallback: &[],
        litellm: &["fireworks_ai"],
        strip: &["fireworks_ai/"],
    },
    Provider {
        name: "perplexity",
        genai: "perplexity",
        fallback: &[],
        litellm: &["perplexity"],
        strip: &["perplexity/"],
    },
    Provider {
        name: "cerebras",
        genai: "cerebras",
        fallback: &[],
        litellm: &["cerebras"],
        strip: &["cerebras/"],
    },
    Provider { name: "voyage", genai: "voyageai", fallback: &[], litellm: &["voyage"], strip: &["voyage/"] },
    Provider {
        name: "moonshot",
        genai: "moonshotai",
        fallback: &[],
        litellm: &["moonshot"],
        strip: &["moonshot/"],
    },
    Provider { name: "zai", genai: "zai", fallback: &[], litellm: &["zai"], strip: &["zai/"] },
];

/// A model to be published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) model: Model,
    pub(crate) confirmed: bool,
}

/// One provider's outcome.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) provider: &'static str,
    pub(crate) models: Vec<Published>,
    /// Names whose price the sources dispute.
    pub(crate) disputed: BTreeSet<String>,
    /// In sentences, for a person.
    pub(crate) notes: Vec<String>,
}

pub(crate) fn compare(facts: &Facts) -> Result<Vec<Outcome>> {
    PROVIDERS.iter().map(|provider| one(provider, facts)).collect()
}

fn one(provider: &Provider, facts: &Facts) -> Result<Outcome> {
    let genai =
        facts.genai.get(provider.genai).with_context(|| format!("genai-prices has no {}", provider.genai))?;
    let own = genai.len();
    let fallback = provider.fallback.iter().flat_map(|name| facts.genai.get(*name).into_iter().flatten());
    let models: Vec<&Model> = genai.iter().chain(fallback).collect();
    let named = litellm_names(provider, facts);

    let mut notes = Vec::new();
    let mut agreed: BTreeMap<usize, Vec<&Model>> = BTreeMap::new();
    let mut differing: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let mut limits: BTreeMap<usize, u64> = BTreeMap::new();
    let mut disputed = BTreeSet::new();
    let mut only_there: Vec<(&str, &Model)> = Vec::new();
    for (name, entry) in &named {
        let Some(at) = position(&models, name) else {
            only_there.push((name, entry));
            continue;
        };
        match agreement(models[at], entry) {
            Ok(up_to) => {
                agreed.entry(at).or_default().push(entry);
                if let Some(up_to) = up_to {
                    notes.push(format!("differs {name} ({}): above {up_to} input tokens", models[at].id));
                    let known = limits.entry(at).or_insert(up_to);
                    *known = up_to.min(*known);
                }
            }
            Err(difference) => {
                notes.push(format!("differs {name} ({}): {difference}", models[at].id));
                disputed.insert(name.clone());
                differing.entry(at).or_default().push(name);
            }
        }
    }
    let mut published = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (at, model) in models.iter().enumerate() {
        let confirming = agreed.get(&at);
        let names: Vec<&str> = model.matches.iter().filter_map(|rule| rule.exact.as_deref()).collect();
        let canonical = |name: &&str| *name == model.id.to_lowercase() || names.contains(name);
        if confirming.is_none() && differing.get(&at).is_some_and(|differing| differing.iter().any(canonical))
        {
            // No name of it has an agreed price: none of them is published.
            disputed.extend(names.iter().map(|name| (*name).to_owned()));
            continue;
        }
        if at >= own && confirming.is_none() {
            continue; // Another provider's price is no fact about this one.
        }
        let mut model = (*model).clone();
        if model.rates.iter().all(|rate| !is_priced(&rate.prices.base)) {
            notes.push(format!("not priced by what answers tell {}", model.id));
            continue;
        }
        model.rates.retain(|rate| is_priced(&rate.prices.base));
        if let Some(confirming) = confirming {
            let from = today(&model);
            for rate in &mut model.rates[from..] {
                limit(rate, limits.get(&at).copied());
            }
            reconcile_variants(&mut model, confirming, &mut notes);
            add_modalities(&mut model, confirming);
            model.sources.extend(confirming.iter().flat_map(|entry| entry.sources.clone()));
            model.rates.extend(regional(provider, facts, &model, confirming));
        }
        model.matches.retain(|rule| rule.exact.as_ref().is_none_or(|name| taken.insert(name.clone())));
        if model.matches.is_empty() {
            notes.push(format!("not recognisable {}", model.id));
            continue;
        }
        notes.extend(model.left_out.iter().map(|why| format!("left out of {}: {why}", model.id)));
        published.push(Published { model, confirmed: confirming.is_some() });
    }
    for (name, entry) in only_there {
        let mut model = entry.clone();
        let base = &model.rates[0].prices.base;
        let costs = |class: &&str| base.get(*class).is_some_and(|price| *price > 0);
        if !std::iter::once(&"input").chain(&UNITS).any(costs) || !taken.insert(name.to_owned()) {
            continue;
        }
        model.id = name.to_owned();
        model.matches = vec![Rule::exact(name)];
        model.rates.extend(regional(provider, facts, &model, &[entry]));
        published.push(Published { model, confirmed: false });
    }
    regions(provider, facts, &mut published);
    Ok(Outcome { provider: provider.name, models: published, disputed, notes })
}

/// litellm's entries by the name that a request would use.
fn litellm_names<'a>(provider: &Provider, facts: &'a Facts) -> BTreeMap<String, &'a Model> {
    let entries = provider.litellm.iter().flat_map(|name| facts.litellm.get(*name).into_iter().flatten());
    let mut named: BTreeMap<String, &Model> = BTreeMap::new();
    for entry in entries {
        let stripped = provider.strip.iter().find_map(|prefix| entry.id.strip_prefix(prefix));
        let name = stripped.unwrap_or(&entry.id).to_lowercase();
        let free_form = matches!(provider.name, "together" | "fireworks" | "groq" | "perplexity");
        let first = entry.rates.first();
        let usable = first.is_some_and(|rate| is_priced(&rate.prices.base));
        // `us/gpt-4o`, `us-east-1/anthropic..`, `1024-x-1024/..`, `ft:..`: not the name of a model.
        if usable && (free_form || !name.contains('/')) && !name.starts_with("ft:") {
            named.entry(name).or_insert(entry);
        }
    }
    named
}

/// The model that `name` means: by name first, then the first that recognises it.
fn position(models: &[&Model], name: &str) -> Option<usize> {
    let exact = |model: &&Model| model.matches.iter().any(|rule| rule.exact.as_deref() == Some(name));
    let loose = |model: &&Model| model.matches.iter().any(|rule| rule.matches(name));
    models.iter().position(exact).or_else(|| models.iter().position(loose))
}

/// The number of input tokens up to which two sources agree on today's standard price (`None`: everywhere), or what
/// they state differently.
fn agreement(model: &Model, entry: &Model) -> Result<Option<u64>, String> {
    let Some(there) = entry.rates.first() else { return Err("no price".to_owned()) };
    // Where the day has several prices any of them may be quoted.
    let mut outcome = Err("no price in force".to_owned());
    for rate in &model.rates[today(model)..] {
        if rate.tier.is_none() && !rate.batch {
            outcome = agreed(&rate.stated, &there.stated);
            if outcome.is_ok() {
                return outcome;
            }
        }
    }
    outcome
}

/// Where today's standard rates begin: at the last one without a time of day.
fn today(model: &Model) -> usize {
    model
        .rates
        .iter()
        .rposition(|rate| rate.daily.is_none() && rate.tier.is_none() && !rate.batch)
        .unwrap_or(0)
}

fn agreed(here: &Tiered, there: &Tiered) -> Result<Option<u64>, String> {
    if let Some(found) = difference(&here.base, &there.base) {
        return Err(found);
    }
    // "More than 199,999" and "200,000 and more" are the same.
    let near = |tiers: &BTreeMap<u64, Prices>, start: u64| {
        [start, start + 1, start.saturating_sub(1)].iter().find_map(|start| tiers.get(start).cloned())
    };
    let starts: BTreeSet<u64> = here.over.keys().chain(there.over.keys()).copied().collect();
    let same = |start: &u64| match (near(&here.over, *start), near(&there.over, *start)) {
        (Some(one), Some(other)) => difference(&one, &other).is_none(),
        _ => false,
    };
    Ok(starts.into_iter().find(|start| !same(start)))
}

/// The first class that both state and differ on. Audio, images and reasoning apart: one of them repeats the plain
/// price there.
fn difference(here: &Prices, there: &Prices) -> Option<String> {
    let tokens = ["input", "cache_read", "cache_write_5m", "cache_write_1h", "output"];
    tokens.iter().chain(&UNITS).find_map(|class| match (here.get(class), there.get(class)) {
        // A price by time is stated an hour, a minute or a second, and rounded.
        (Some(one), Some(other)) if class.ends_with("_ms") && one.abs_diff(*other) * 1_000 <= *one => None,
        (Some(one), Some(other)) if one != other => Some(format!("{class} {one} and {other} pico-dollars")),
        _ => None,
    })
}

/// Cuts a rate off where the sources stop agreeing.
fn limit(rate: &mut Rate, at: Option<u64>) {
    let Some(at) = at else { return };
    rate.limit = Some(rate.limit.map_or(at, |known| known.min(at)));
    rate.prices.over.retain(|start, _| *start < at);
}

/// Variants that both state and that differ are not published.
fn reconcile_variants(model: &mut Model, confirming: &[&Model], notes: &mut Vec<String>) {
    let id = model.id.clone();
    model.rates.retain_mut(|rate| {
        if rate.tier.is_none() && !rate.batch {
            return true;
        }
        for entry in confirming {
            let Some(theirs) =
                entry.rates.iter().find(|one| one.tier == rate.tier && one.batch == rate.batch)
            else {
                continue;
            };
            match agreed(&rate.stated, &theirs.stated) {
                Ok(at) => limit(rate, at),
                Err(difference) => {
                    let which = rate.tier.as_deref().unwrap_or("batch");
                    notes.push(format!("differs {id} ({which}): {difference}"));
                    return false;
                }
            }
        }
        true
    });
}

/// Adds prices of audio, images and video that only the confirming source states. One that repeats the price of text
/// says nothing.
fn add_modalities(model: &mut Model, confirming: &[&Model]) {
    let plain = |class: &str| if class.ends_with("output") { "output" } else { "input" };
    for rate in &mut model.rates {
        let theirs = confirming.iter().flat_map(|entry| &entry.rates);
        let Some(same) = theirs.into_iter().find(|one| one.tier == rate.tier && one.batch == rate.batch)
        else {
            continue;
        };
        for class in MODALITIES {
            let text = if class.ends_with("cache_read") { "cache_read" } else { plain(class) };
            let price = same.prices.base.get(class).filter(|price| same.prices.base.get(text) != Some(price));
            if let Some(price) = price {
                rate.prices.base.entry(class).or_insert(*price);
            }
        }
    }
}

/// A named region costs more where the source says by how much.
fn regional(provider: &Provider, facts: &Facts, model: &Model, entries: &[&Model]) -> Vec<Rate> {
    if provider.name != "vertex" {
        return Vec::new();
    }
    let Some((times, by)) = entries.iter().find_map(|entry| facts.uplift.get(&entry.id)) else {
        return Vec::new();
    };
    let lift = |prices: &Prices| -> Option<Prices> {
        let lifted = |price: &u64| (price * times).is_multiple_of(*by).then(|| price * times / by);
        prices
            .iter()
            .map(|(class, price)| {
                Some((*class, if class.ends_with("request") { *price } else { lifted(price)? }))
            })
            .collect()
    };
    let lifted = model.rates.iter().filter_map(|rate| {
        let base = lift(&rate.prices.base)?;
        let over: Option<BTreeMap<u64, Prices>> =
            rate.prices.over.iter().map(|(start, prices)| Some((*start, lift(prices)?))).collect();
        Some(Rate { region: Some("*".to_owned()), prices: Tiered { base, over: over? }, ..rate.clone() })
    });
    lifted.collect()
}

/// Bedrock's prices by region: `bedrock/us-east-1/anthropic.claude-v2`.
fn regions(provider: &Provider, facts: &Facts, published: &mut [Published]) {
    if provider.name != "bedrock" {
        return;
    }
    for entry in facts.litellm.get("bedrock").into_iter().flatten() {
        let Some((region, name)) = entry.id.strip_prefix("bedrock/").and_then(|rest| rest.split_once('/'))
        else {
            continue;
        };
        let named = |model: &Model| model.matches.iter().any(|rule| rule.exact.as_deref() == Some(name));
        let Some(model) = published.iter_mut().find(|one| named(&one.model)) else { continue };
        let Some(rate) = entry.rates.first() else { continue };
        if rate.prices.base.contains_key("input") && rate.prices != model.model.rates[0].prices {
            model.model.rates.push(Rate { region: Some(region.to_owned()), ..rate.clone() });
        }
    }
}
