//! Operational confidence `c_oper`: a type that cannot hold more than 0.95.

/// Confidence in basis points, 0 to 9,500.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Confidence(u16);

impl Confidence {
    /// The policy cap: 0.95.
    pub const CAP: Confidence = Confidence(9_500);
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
