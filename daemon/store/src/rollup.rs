//! Hourly sums over exchanges, kept in step with the records: what makes spend queries cheap.
//!
//! An exchange counts in the hour of its `started_at`. What is not inference adds to the number of exchanges and
//! nothing else. Flows do not count.

use std::collections::BTreeMap;

use meter::attribution::confidence::Band;
use meter::exchange::{Exchange, Reason, Usage};
use meter::record::{Record, Subject};
use meter::time::UnixNanos;
use prost::Message as _;

use crate::format::{self, Dimensions, amount_from_bytes, amount_to_bytes};

/// Nanoseconds of an hour.
pub(crate) const HOUR_NS: u64 = 3_600_000_000_000;

/// The hour, counted from 1970, that `time` lies in.
pub(crate) fn hour_of(time: UnixNanos) -> u64 {
    time.0 / HOUR_NS
}

/// Sums per combination of dimensions.
pub(crate) type Groups = BTreeMap<Dimensions, Sums>;

/// What is summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) exchanges: u64,
    pub(crate) without_usage: u64,
    pub(crate) without_cost: u64,
    pub(crate) errors: u64,
    pub(crate) usage: Usage,
    pub(crate) amount: Option<u128>,
    pub(crate) eligible: Option<u128>,
}

impl Sums {
    /// What one exchange adds.
    fn of(record: &Record, exchange: &Exchange) -> Sums {
        let failed = exchange.error.is_some() || exchange.status.is_some_and(|status| status >= 400);
        let mut sums = Sums { exchanges: 1, errors: u64::from(failed), ..Sums::default() };
        if !exchange.inference && exchange.reason.is_none_or(|reason| reason == Reason::NotInference) {
            return sums;
        }
        sums.usage = exchange.usage;
        sums.without_usage = u64::from(exchange.usage.is_unknown());
        sums.amount = record.cost.as_ref().and_then(|cost| cost.amount).map(|amount| amount.0);
        sums.without_cost = u64::from(sums.amount.is_none());
        let eligible = record.attribution.confidence.band() == Band::ChargebackEligible;
        sums.eligible = sums.amount.map(|amount| if eligible { amount } else { 0 });
        sums
    }

    /// Adds `other`; what is too large stays at the largest number.
    pub(crate) fn add(&mut self, other: &Sums) {
        let Sums { exchanges, without_usage, without_cost, errors, usage, amount, eligible } = other;
        self.exchanges = self.exchanges.saturating_add(*exchanges);
        self.without_usage = self.without_usage.saturating_add(*without_usage);
        self.without_cost = self.without_cost.saturating_add(*without_cost);
        self.errors = self.errors.saturating_add(*errors);
        add_usage(&mut self.usage, usage);
        self.amount = known(self.amount, *amount, u128::saturating_add);
        self.eligible = known(self.eligible, *eligible, u128::saturating_add);
    }

    pub(crate) fn encode(&self, dimensions: &Dimensions) -> Vec<u8> {
        format::Rollup {
            dimensions: Some(dimensions.clone()),
            exchanges: self.exchanges,
            without_usage: self.without_usage,
            without_cost: self.without_cost,
            errors: self.errors,
            usage: Some(format::usage_out(&self.usage)),
            amount: self.amount.map(amount_to_bytes),
            eligible: self.eligible.map(amount_to_bytes),
        }
        .encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<(Dimensions, Sums)> {
        let message = format::Rollup::decode(bytes).ok()?;
        let amount = |bytes: Option<Vec<u8>>| match bytes {
            Some(bytes) => amount_from_bytes(&bytes).map(Some),
            None => Some(None),
        };
        let sums = Sums {
            exchanges: message.exchanges,
            without_usage: message.without_usage,
            without_cost: message.without_cost,
            errors: message.errors,
            usage: message.usage.as_ref().map(format::usage_in).unwrap_or_default(),
            amount: amount(message.amount)?,
            eligible: amount(message.eligible)?,
        };
        Some((message.dimensions?, sums))
    }
}

/// Adds what a record contributes; a flow contributes nothing.
pub(crate) fn count(groups: &mut Groups, record: &Record) {
    if let Subject::Exchange(exchange) = &record.subject {
        groups.entry(dimensions_of(record, exchange)).or_default().add(&Sums::of(record, exchange));
    }
}

fn dimensions_of(record: &Record, exchange: &Exchange) -> Dimensions {
    let owner = &record.attribution.owner;
    let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
    Dimensions {
        team: text(&owner.team),
        service: text(&owner.service),
        cost_centre: text(&owner.cost_centre),
        environment: text(&owner.environment),
        workload: record.workload.group_name(),
        provider: exchange.provider.to_string(),
        model: exchange.model.as_deref().or(exchange.requested_model.as_deref()).map(str::to_owned),
    }
}

fn add_usage(sum: &mut Usage, more: &Usage) {
    let Usage {
        input,
        output,
        cache_read,
        cache_creation,
        cache_creation_5m,
        cache_creation_1h,
        reasoning,
        audio_input,
        audio_output,
        image_input,
        image_output,
        total,
        web_search_requests,
        details,
    } = *more;
    sum.details.add_all(&details);
    let pairs = [
        (&mut sum.input, input),
        (&mut sum.output, output),
        (&mut sum.cache_read, cache_read),
        (&mut sum.cache_creation, cache_creation),
        (&mut sum.cache_creation_5m, cache_creation_5m),
        (&mut sum.cache_creation_1h, cache_creation_1h),
        (&mut sum.reasoning, reasoning),
        (&mut sum.audio_input, audio_input),
        (&mut sum.audio_output, audio_output),
        (&mut sum.image_input, image_input),
        (&mut sum.image_output, image_output),
        (&mut sum.total, total),
        (&mut sum.web_search_requests, web_search_requests),
    ];
    for (sum, more) in pairs {
        *sum = known(*sum, more, u64::saturating_add);
    }
}

/// The sum of what is known; unknown only if both are.
fn known<N>(left: Option<N>, right: Option<N>, add: impl FnOnce(N, N) -> N) -> Option<N> {
    match (left, right) {
        (Some(left), Some(right)) => Some(add(left, right)),
        (one, other) => one.or(other),
    }
}
