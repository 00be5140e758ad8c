//! Operational confidence `c_oper`: a type that cannot hold more than 0.95, and types for what may not reach 0.80.
//!
//! [`Controlled`] rests on facts of the kernel or of an administrator. [`SelfAsserted`] rests on what the workload can
//! write itself, [`Inferred`] on shares, bytes or timing; neither can be billed: only a self-assertion that agrees with
//! a controlled fact may strengthen it, through [`Controlled::with`].

/// Confidence in basis points, 0 to 9,500.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Confidence(u16);

impl Confidence {
    /// The policy cap: 0.95.
    pub const CAP: Confidence = Confidence(9_500);
    /// The most that evidence without an administrator's agreement can reach: 0.7999.
    pub const BELOW_CHARGEBACK: Confidence = Confidence(7_999);
    /// 1.00 in basis points; no confidence reaches it.
    pub const WHOLE: u16 = 10_000;
    /// No confidence.
    pub const ZERO: Confidence = Confidence(0);

    /// `basis_points`, or `None` above the cap.
    pub const fn new(basis_points: u16) -> Option<Confidence> {
        if basis_points <= Self::CAP.0 { Some(Confidence(basis_points)) } else { None }
    }

    /// In basis points.
    pub const fn basis_points(self) -> u16 {
        self.0
    }

    /// What it may be used for.
    pub const fn band(self) -> Band {
        match self.0 {
            8_000.. => Band::ChargebackEligible,
            5_000..=7_999 => Band::Provisional,
            _ => Band::Estimate,
        }
    }
}

/// Confidence from facts that the workload cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Controlled(Confidence);

impl Controlled {
    /// `basis_points`, cut at the cap.
    pub const fn capped(basis_points: u16) -> Controlled {
        Controlled(if basis_points < Confidence::CAP.0 { Confidence(basis_points) } else { Confidence::CAP })
    }

    /// Alone.
    pub const fn confidence(self) -> Confidence {
        self.0
    }

    /// Strengthened by self-assertions that agree: the chance that not both are wrong.
    pub fn with(self, agreeing: SelfAsserted) -> Confidence {
        let wrong = u32::from(Confidence::WHOLE - self.0.0) * u32::from(Confidence::WHOLE - agreeing.0.0);
        let doubt = wrong.div_ceil(u32::from(Confidence::WHOLE));
        let sure = u32::from(Confidence::WHOLE).saturating_sub(doubt);
        Controlled::capped(u16::try_from(sure).unwrap_or(u16::MAX)).0
    }
}

/// Confidence from what the workload can write itself: below 0.80, whatever it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SelfAsserted(Confidence);

impl SelfAsserted {
    /// `basis_points`, cut at 7,999.
    pub const fn capped(basis_points: u16) -> SelfAsserted {
        SelfAsserted(below_chargeback(basis_points))
    }

    /// Alone: never chargeback-eligible.
    pub const fn confidence(self) -> Confidence {
        self.0
    }
}

/// Confidence from the network (bytes, packets, timing) or from an allocation: below 0.80, and nothing can lift it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inferred(Confidence);

impl Inferred {
    /// `basis_points`, cut at 7,999.
    pub const fn capped(basis_points: u16) -> Inferred {
        Inferred(below_chargeback(basis_points))
    }

    /// Alone: never chargeback-eligible.
    pub const fn confidence(self) -> Confidence {
        self.0
    }
}

const fn below_chargeback(basis_points: u16) -> Confidence {
    Confidence(if basis_points < Confidence::BELOW_CHARGEBACK.0 {
        basis_points
    } else {
        Confidence::BELOW_CHARGEBACK.0
    })
}

/// What a confidence may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Band {
    /// Below 0.50: excluded from automation.
    Estimate,
    /// 0.50 to 0.79: shown, never billed automatically.
    Provisional,
    /// 0.80 and above.
    ChargebackEligible,
}

impl Band {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Band::Estimate => "estimate",
            Band::Provisional => "provisional",
            Band::ChargebackEligible => "chargeback_eligible",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Band, Confidence, Controlled, Inferred, SelfAsserted};

    #[test]
    fn no_number_makes_more_than_its_type_allows() {
        for number in 0..=u16::MAX {
            assert_eq!(
                Confidence::new(number).map(Confidence::basis_points),
                (number <= 9_500).then_some(number)
            );
            let (controlled, asserted, inferred) =
                (Controlled::capped(number), SelfAsserted::capped(number), Inferred::capped(number));
            assert_eq!(controlled.confidence().basis_points(), number.min(9_500));
            assert_eq!(asserted.confidence().basis_points(), number.min(7_999));
            assert_eq!(inferred.confidence().basis_points(), number.min(7_999));
            assert_ne!(asserted.confidence().band(), Band::ChargebackEligible);
            assert_ne!(inferred.confidence().band(), Band::ChargebackEligible);
            let expected = match number {
                0..=4_999 => Band::Estimate,
                5_000..=7_999 => Band::Provisional,
                _ => Band::ChargebackEligible,
            };
            assert_eq!(controlled.confidence().band(), expected, "{number}");
            for other in [0, 1, 4_999, 7_999, 8_000, 10_000, u16::MAX] {
                let joined = Controlled::capped(number).with(SelfAsserted::capped(other));
                assert!(
                    joined <= Confidence::CAP && joined >= controlled.confidence(),
                    "{number} with {other}"
                );
            }
        }
    }
}
