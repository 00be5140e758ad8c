//! Which ring of tests may run here: loud skips on a machine that cannot, failures in CI.

/// Says why a test cannot run here. In CI (`VENTURI_REQUIRE_KERNEL=1`) that is a failure.
///
/// # Panics
/// If the environment demands that nothing is skipped.
pub fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none(), "{test} must run here, but cannot: {why}");
    eprintln!("SKIPPED {test}: {why}");
}

/// What kernel tests need and this machine lacks, or `None`.
pub fn kernel_tests_blocked() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root (BPF, mount namespaces)".to_owned());
    }
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF".to_owned());
    }
    None
}

/// Returns from the test after saying so if kernel tests cannot run here.
#[macro_export]
macro_rules! needs_kernel {
    ($test:expr) => {
        if let Some(why) = $crate::ring::kernel_tests_blocked() {
            $crate::ring::skip($test, &why);
            return;
        }
    };
}
