//! Several signals for the same owner to one number: a noisy-OR with discounts for signals that depend on each other.
//!
//! `1 - product(1 - weight x dependency x diminishing)`, in whole basis points, rounded towards doubt at each step. The
//! strongest signal counts in full; order does not matter.

use super::Method;
use super::confidence::{Confidence, Controlled, SelfAsserted};

/// One signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signal {
    /// Basis points; more than 10,000 counts as 10,000.
    pub weight: u16,
    /// How it was found: signals found in related ways depend on each other.
    pub method: Method,
}

/// From the third signal on each counts half.
const DIMINISHING: u64 = 5_000;

/// How much of a signal counts beside a stronger one, in basis points.
fn dependency(stronger: Method, weaker: Method) -> u64 {
    use Method::{R2, R3, R4, R5};
    match (stronger.min(weaker), stronger.max(weaker)) {
        (R3, R4) => 5_000,
        (R2, R5) => 4_000,
        (R4, R5) => 3_000,
        // Two findings of one method share their mistakes.
        (one, other) if one == other => 5_000,
        _ => 10_000,
    }
}

/// Confidence from signals on facts that the workload cannot change.
pub fn controlled(signals: &[Signal]) -> Controlled {
    Controlled::capped(noisy_or(signals))
}

/// Confidence from signals that the workload can write itself.
pub fn self_asserted(signals: &[Signal]) -> SelfAsserted {
    SelfAsserted::capped(noisy_or(signals))
}

/// In basis points, up to 10,000, before any cap.
fn noisy_or(signals: &[Signal]) -> u16 {
    const WHOLE: u64 = Confidence::WHOLE as u64;
    /// Doubt in units of 1e-12.
    const SCALE: u64 = 1_000_000_000_000;
    let mut ordered = signals.to_vec();
    ordered.sort_unstable_by(|one, other| other.cmp(one));
    let mut doubt = SCALE;
    for (position, signal) in ordered.iter().enumerate() {
        let discounts = ordered[..position].iter().map(|stronger| dependency(stronger.method, signal.method));
        let mut counts = u64::from(signal.weight).min(WHOLE) * discounts.min().unwrap_or(WHOLE) / WHOLE;
        if position >= 2 {
            counts = counts * DIMINISHING / WHOLE;
        }
        doubt = (doubt * (WHOLE - counts)).div_ceil(WHOLE);
    }
    u16::try_from((SCALE - doubt) / (SCALE / WHOLE)).unwrap_or(Confidence::WHOLE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Signal, controlled, noisy_or, self_asserted};
    use crate::attribution::Method;
    use crate::attribution::confidence::{Band, Confidence};

    #[test]
    fn signals_combine_as_computed_by_hand() {
        let check = |signals: &[(u16, Method)], expected: u16| {
            let signals: Vec<_> = signals.iter().map(|&(weight, method)| Signal { weight, method }).collect();
            assert_eq!(noisy_or(&signals), expected, "{signals:?}");
        };
        check(&[], 0);
        check(&[(7_000, Method::R3)], 7_000);
        // 1 - 0.3 x 0.4
        check(&[(7_000, Method::R3), (6_000, Method::R2)], 8_800);
        // 1 - 0.3 x (1 - 0.5 x 0.6)
        check(&[(7_000, Method::R3), (6_000, Method::R4)], 7_900);
        check(&[(6_000, Method::R4), (7_000, Method::R3)], 7_900);
        // 1 - 0.3 x (1 - 0.5 x 0.6), same method
        check(&[(7_000, Method::R3), (6_000, Method::R3)], 7_900);
        // R5 beside R2 counts 0.4, beside R4 0.3; third and later half: 1 - 0.2 x 0.3 x (1 - 0.5 x 0.3 x 0.6)
        check(&[(8_000, Method::R2), (7_000, Method::R4), (6_000, Method::R5)], 9_454);
        check(&[(10_000, Method::R1)], 10_000);
        check(&[(u16::MAX, Method::R1)], 10_000);
    }

    fn signals() -> impl Strategy<Value = Vec<Signal>> {
        let method = prop_oneof![
            Just(Method::R1),
            Just(Method::R2),
            Just(Method::R3),
            Just(Method::R4),
            Just(Method::R5)
        ];
        let signal = (any::<u16>(), method).prop_map(|(weight, method)| Signal { weight, method });
        proptest::collection::vec(signal, 0..8)
    }

    proptest! {
        #[test]
        fn the_laws_hold(signals in signals(), seed in any::<usize>()) {
            let combined = noisy_or(&signals);
            let strongest = signals.iter().map(|signal| signal.weight.min(10_000)).max().unwrap_or(0);
            prop_assert!(combined >= strongest, "agreement never weakens");
            prop_assert!(combined <= 10_000);
            prop_assert!(controlled(&signals).confidence() <= Confidence::CAP);
            prop_assert_ne!(self_asserted(&signals).confidence().band(), Band::ChargebackEligible);
            let mut turned = signals.clone();
            if !turned.is_empty() {
                let by = seed % turned.len();
                turned.rotate_left(by);
            }
            prop_assert_eq!(noisy_or(&turned), combined, "order does not matter");
        }
    }
}
