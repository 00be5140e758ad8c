//! Owner rules: conditions on a workload, and the owner they name.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::TenantName;
use crate::workload::Workload;

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
        let inner = text.trim_matches('*');
        if inner.contains(['*', '?']) {
            return Pattern::Glob(text.into());
        }
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (None, None) => Pattern::Exact(text.into()),
            (None, Some(prefix)) if prefix == inner => Pattern::Prefix(inner.into()),
            (Some(suffix), None) if suffix == inner => Pattern::Suffix(inner.into()),
            _ => Pattern::Glob(text.into()),
        }
    }

    /// True if it names one value.
    pub fn is_exact(&self) -> bool {
        matches!(self, Pattern::Exact(_))
    }

    /// Whether `value` fits.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Pattern::Exact(text) => **text == *value,
            Pattern::Prefix(text) => value.starts_with(&**text),
            Pattern::Suffix(text) => value.ends_with(&**text),
            Pattern::Glob(text) => glob(text, value),
        }
    }
}

/// As an administrator would write it: `"shop"`, `"shop-*"`.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(text) | Pattern::Glob(text) => write!(f, "{text:?}"),
            Pattern::Prefix(text) => write!(f, "{:?}", format!("{text}*")),
            Pattern::Suffix(text) => write!(f, "{:?}", format!("*{text}")),
        }
    }
}

/// Matches with one position to return to: linear in practice, quadratic at worst, never exponential.
fn glob(pattern: &str, value: &str) -> bool {
    let (pattern, value): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < value.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == value[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

impl Field {
    /// Name in evidence and configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Field::Namespace => "namespace",
            Field::Label(_) => "label",
            Field::Unit => "unit",
            Field::User => "user",
            Field::Executable => "executable",
            Field::Container => "container",
            Field::Image => "image",
            Field::Cgroup => "cgroup",
            Field::Host => "host_name",
        }
    }
}

/// As in evidence: `namespace = "shop"`, `label app = "shop-*"`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Field::Label(key) => write!(f, "label {key} = {}", self.pattern),
            field => write!(f, "{} = {}", field.as_str(), self.pattern),
        }
    }
}

impl Condition {
    /// Whether it holds for a call of `workload` to `host`.
    pub fn holds(&self, host: Option<&str>, workload: &Workload) -> bool {
        let fits = |value: Option<&str>| value.is_some_and(|value| self.pattern.matches(value));
        let container = workload.container.as_ref();
        match &self.field {
            Field::Namespace => fits(workload.pod.as_ref().and_then(|pod| pod.namespace.as_deref())),
            Field::Label(key) => fits(workload.labels.get(key).map(|value| &**value)),
            Field::Unit => fits(workload.unit.as_deref()),
            Field::User => {
                fits(workload.user.as_deref())
                    || fits(workload.uid.map(|uid| format!("uid:{uid}")).as_deref())
            }
            Field::Executable => fits(workload.exe.as_deref()),
            Field::Container => fits(container.and_then(|container| container.name.as_deref())),
            Field::Image => fits(container.and_then(|container| container.image.as_deref())),
            Field::Cgroup => fits(workload.cgroup.as_deref()),
            Field::Host => fits(host.map(str::to_ascii_lowercase).as_deref()),
        }
    }

    /// Whether the workload could have made it hold by itself.
    ///
    /// Under a user's own service manager (`user@UID.service`) cgroups and units are the user's to name. Inside a
    /// container paths and user ids are what its author chose; a pod's author also names containers and images. A label
    /// counts as written by an administrator only if its key is `trusted`. A host name is whatever the client sends.
    pub fn self_asserted(&self, workload: &Workload, trusted: &BTreeSet<Box<str>>) -> bool {
        let delegated = workload.cgroup.as_deref().is_some_and(|path| path.contains("/user@"));
        let contained = workload.container.is_some() || workload.pod.is_some();
        match &self.field {
            Field::Namespace | Field::Unit | Field::Cgroup => delegated,
            Field::Container | Field::Image => delegated || workload.pod.is_some(),
            Field::User | Field::Executable => contained,
            Field::Label(key) => delegated || !trusted.contains(key),
            Field::Host => true,
        }
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

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns_match() {
        let check = |pattern: &str, value: &str, expected: bool| {
            assert_eq!(Pattern::parse(pattern).matches(value), expected, "{pattern:?} on {value:?}");
        };
        check("shop", "shop", true);
        check("shop", "shop2", false);
        check("shop-*", "shop-", true);
        check("shop-*", "shop-api", true);
        check("shop-*", "ship-api", false);
        check("*-api", "shop-api", true);
        check("*-api", "shop-api2", false);
        check("*", "", true);
        check("*", "anything", true);
        check("a*c", "abbbc", true);
        check("a*c", "abbb", false);
        check("a*b*c", "aXbYbZc", true);
        check("*mid*", "amidst", true);
        check("*mid*", "amdst", false);
        check("v?", "v1", true);
        check("v?", "v", false);
        check("?*", "", false);
        check("/usr/bin/python3*", "/usr/bin/python3.11", true);
        check("\u{e9}?", "\u{e9}x", true);
        check("", "", true);
        let evil = "a*".repeat(64) + "b";
        check(&evil, &"a".repeat(4096), false);
    }

    #[test]
    fn patterns_print_as_written() {
        for text in ["shop", "shop-*", "*-api", "a*c", "*mid*", "v?", "*"] {
            assert_eq!(Pattern::parse(text).to_string(), format!("{text:?}"));
        }
    }
}
