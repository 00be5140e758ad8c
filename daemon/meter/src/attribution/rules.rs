//! Owner rules: conditions on a workload, and the owner they name.

use std::sync::Arc;

use super::TenantName;

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// Kubernetes namespace.
    Namespace,
    /// A label or annotation of container or pod.
    Label(Box<str>),
    /// systemd unit.
    Unit,
    /// User name, or `uid:1000`.
    User,
    /// Path of the executable.
    Executable,
    /// Container name.
    Container,
    /// Image reference.
    Image,
    /// Cgroup path.
    Cgroup,
    /// Host name of the provider.
    Host,
}

/// How a value is compared. Case matters, except for host names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// Equal.
    Exact(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
    /// Ends with.
    Suffix(Box<str>),
    /// `*` any run of characters, `?` one character.
    Glob(Box<str>),
}

impl Pattern {
    /// The pattern that `text` spells: `api` exact, `api-*` prefix, `*-api` suffix, any other use of `*` and `?` glob.
    pub fn parse(text: &str) -> Pattern {
        Pattern::Exact(text.into())
    }

    /// Whether `value` fits.
    pub fn matches(&self, value: &str) -> bool {
        matches!(self, Pattern::Exact(text) if &**text == value)
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Condition {
    /// What it looks at.
    pub field: Field,
    /// What it must be.
    pub pattern: Pattern,
}

/// If all conditions hold, the workload belongs to this owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerRule {
    /// All must hold; at least one.
    pub conditions: Vec<Condition>,
    /// Tenant; `None`: the only one there is.
    pub tenant: Option<TenantName>,
    /// Team.
    pub team: Option<Arc<str>>,
    /// Service.
    pub service: Option<Arc<str>>,
    /// Cost centre.
    pub cost_centre: Option<Arc<str>>,
    /// Environment.
    pub environment: Option<Arc<str>>,
}
