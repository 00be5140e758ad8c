//! The entry points that machines attack. Each takes any bytes, checks the laws of its parser, and panics if one is
//! broken. `cargo xtask fuzz` attacks them; tests run them over the committed corpus.

#[cfg(feature = "node")]
pub mod node;
pub mod pure;

/// The target that the environment names.
///
/// # Panics
/// There is none of that name.
pub fn target(targets: &[pure::Target]) -> fn(&[u8]) {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET is {wanted:?}, not one of the targets")).1
}
