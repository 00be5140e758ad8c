//! Generates the Rust side of `proto/` and keeps it committed, so that a build needs no protobuf compiler.
//!
//! Two files come out: the messages and services in Rust, and the descriptor set that the daemon serves by reflection.
//! Nothing of the machine (paths, versions of installed tools) enters them: the compiler is a library of ours.
//!
//! An example, so that its dependencies are built for `cargo xtask codegen` and for the test below only; of this package
//! and not of `proto`, so that it still builds when the committed code does not.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use prost::Message as _;

/// Files that make up the public API, relative to `proto/`.
const SOURCES: &[&str] = &["v1/query.proto"];
/// What is generated, relative to `proto/src/generated/`.
const OUTPUTS: &[&str] = &["venturi.v1.rs", "descriptors.bin"];

fn main() -> anyhow::Result<()> {
    match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => run(false),
        [only] if only == "--check" => run(true),
        other => bail!("unknown arguments {other:?}: `cargo xtask codegen [--check]`"),
    }
}

/// Regenerates the protobuf code; with `check`, only compares and fails with the command that mends a difference.
fn run(check: bool) -> anyhow::Result<()> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no parent directory")?
        .join("proto");
    let committed = package.join("src/generated");
    let fresh = Scratch::new()?;
    generate(&package, &fresh.0)?;
    let mut stale = Vec::new();
    for name in OUTPUTS {
        let new = fs::read(fresh.0.join(name)).with_context(|| format!("reading the generated {name}"))?;
        let path = committed.join(name);
        if fs::read(&path).is_ok_and(|old| old == new) {
            continue;
        }
        if check {
            stale.push(*name);
        } else {
            fs::create_dir_all(&committed).with_context(|| format!("creating {}", committed.display()))?;
            fs::write(&path, new).with_context(|| format!("writing {}", path.display()))?;
            println!("codegen: wrote proto/src/generated/{name}");
        }
    }
    if !stale.is_empty() {
        bail!(
            "proto/src/generated/{{{}}} does not match proto/v1: run `cargo xtask codegen`",
            stale.join(",")
        );
    }
    Ok(())
}

fn generate(package: &Path, into: &Path) -> anyhow::Result<()> {
    let descriptors = protox::compile(SOURCES, [package]).context("compiling proto/v1")?;
    fs::write(into.join("descriptors.bin"), descriptors.encode_to_vec())
        .context("writing the descriptor set")?;
    tonic_prost_build::configure()
        .out_dir(into)
        .build_client(true)
        .build_server(true)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .context("generating Rust from the descriptor set")
}

/// A directory of this process that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("venturi-codegen-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left-over scratch files harm nobody; there is no one to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_code_is_current() {
        if let Err(error) = super::run(true) {
            panic!("{error:#}");
        }
    }
}
