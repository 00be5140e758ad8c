//! Why a record says what it says, in sentences for people. Only from what the record holds: no index, no catalogue.

use super::Record;

/// Why a record says what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The steps from the call to the owner and the cost, in order.
    pub steps: Vec<String>,
    /// What is not known, and why.
    pub gaps: Vec<String>,
}

impl Record {
    /// Why it says what it says.
    pub fn explain(&self) -> Explanation {
        Explanation::default()
    }
}
