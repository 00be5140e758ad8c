//! What this machine allows: whether BPF can be used by us, and if not, why.

use std::fs;
use std::path::Path;

/// Linux that has ring buffers and CAP_BPF.
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Capabilities the attacher keeps, with their bits.
const CAPABILITIES: &[(&str, u32)] = &[
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
    ("CAP_CHECKPOINT_RESTORE", 40),
];

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    status_field("Uid:")
        .and_then(|uids| uids.split_whitespace().nth(1).map(|uid| uid == "0"))
        .unwrap_or(false)
}

/// Whether this is a continuous integration machine: nothing that it can do may be skipped there.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

/// Why live capture is not possible here, or `None`.
pub(crate) fn capture_blocked() -> Option<String> {
    if !is_root() {
        return Some("it needs root to load BPF programs (try `sudo -E cargo xtask run`)".to_owned());
    }
    let effective = status_field("CapEff:").and_then(|hex| u64::from_str_radix(&hex, 16).ok()).unwrap_or(0);
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        return Some(format!("root lacks {} here (a container without privileges?)", missing.join(", ")));
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release).is_none_or(|version| version < KERNEL_MIN) {
        let (major, minor) = KERNEL_MIN;
        return Some(format!("Linux {} is older than {major}.{minor}", release.trim()));
    }
    if !Path::new("/sys/kernel/tracing").exists() && !Path::new("/sys/kernel/debug/tracing").exists() {
        return Some("the kernel has no tracefs (CONFIG_TRACING)".to_owned());
    }
    None
}

/// Major and minor number of a kernel release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        fn check(release: &str, expected: Option<(u32, u32)>) {
            assert_eq!(version(release), expected, "{release}");
        }
        check("6.1.0-18-amd64\n", Some((6, 1)));
        check("5.10.0", Some((5, 10)));
        check("7.3", Some((7, 3)));
        check("", None);
        check("x.y", None);
        assert!((5, 10) > KERNEL_MIN && (5, 7) < KERNEL_MIN);
    }
}
