//! Ratios, not times: machines are noisy, so the two sides of a comparison take turns within one run.

use std::time::{Duration, Instant};

/// The middle of the sorted values; 0 for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value below which `share` of the values lie.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return 0.0;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a small list")]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

/// Ratios `with / without` of paired measurements: median and quartiles.
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    /// Median of the pairs' ratios.
    pub(crate) median: f64,
    /// First quartile.
    pub(crate) low: f64,
    /// Third quartile.
    pub(crate) high: f64,
    /// Pairs.
    pub(crate) pairs: usize,
}

impl Ratio {
    /// Of pairs `(without, with)`.
    pub(crate) fn of(pairs: &[(f64, f64)]) -> Ratio {
        let ratios: Vec<f64> = pairs.iter().map(|(without, with)| with / without).collect();
        Ratio {
            median: median(&ratios),
            low: quantile(&ratios, 0.25),
            high: quantile(&ratios, 0.75),
            pairs: pairs.len(),
        }
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "x{:.3} (quartiles {:.3} to {:.3}, {} pairs)", self.median, self.low, self.high, self.pairs)
    }
}

/// Runs `work` again and again for at least `span`; returns seconds per run.
pub(crate) fn seconds_per_run(span: Duration, mut work: impl FnMut()) -> f64 {
    work();
    let started = Instant::now();
    let mut runs = 0_u32;
    while started.elapsed() < span {
        work();
        runs += 1;
    }
    started.elapsed().as_secs_f64() / f64::from(runs.max(1))
}
