//! Ratios, not times: machines are noisy, so the two sides of a comparison take turns within one run.

use std::time::{Duration, Instant};

use crate::report::Figure;

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

    /// As figures of a report.
    pub(crate) fn figures(&self) -> [Figure; 4] {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let pairs = self.pairs as f64;
        [
            ("ratio", Some(self.median)),
            ("1st quartile", Some(self.low)),
            ("3rd quartile", Some(self.high)),
            ("pairs", Some(pairs)),
        ]
    }
}

/// One side of a comparison: seconds per run of it, measured for as long as it is told.
pub(crate) type Side<'a> = Box<dyn FnMut(Duration) -> anyhow::Result<f64> + 'a>;

/// A side that is `work`, again and again.
pub(crate) fn side<'a>(mut work: impl FnMut() + 'a) -> Side<'a> {
    Box::new(move |span| Ok(seconds_per_run(span, &mut work)))
}

/// What became of a side that took turns with others.
pub(crate) struct Turns {
    /// Seconds per run, the median of its turns.
    pub(crate) seconds: f64,
    /// How many times as long as the first side it took in the same round, the median of the rounds.
    pub(crate) of_first: f64,
}

/// Odd, so that the median is a measured value.
const ROUNDS: usize = 7;

/// Lets the sides take turns, so that whatever else the machine does meets all of them; `span` is for all turns of one
/// side together.
pub(crate) fn take_turns(span: Duration, sides: &mut [Side<'_>]) -> anyhow::Result<Vec<Turns>> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let turn = span / u32::try_from(ROUNDS)?;
        rounds.push(sides.iter_mut().map(|side| side(turn)).collect::<anyhow::Result<Vec<f64>>>()?);
    }
    let of_side = |at: usize| Turns {
        seconds: median(&rounds.iter().map(|round| round[at]).collect::<Vec<f64>>()),
        of_first: median(&rounds.iter().map(|round| round[at] / round[0]).collect::<Vec<f64>>()),
    };
    Ok((0..sides.len()).map(of_side).collect())
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
