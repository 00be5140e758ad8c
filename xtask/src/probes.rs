//! Builds the committed BPF objects, or checks that they are fresh.
//!
//! The objects are committed beside their sources so that a plain `cargo build` needs no BPF toolchain. A build is
//! reproducible: the same sources, compiler and linker give the same bytes wherever they are checked out.
//!
//! `--check` fails when the objects do not belong to the sources. Then it rebuilds them beside the committed ones,
//! once per sources and compiler: with the recorded compiler and linker the bytes must be the same, with others the
//! programs, maps and helpers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use crate::shell;
use manifest::Manifest;
use toolchain::Toolchain;

#[path = "../../ebpf/objects/freshness.rs"]
mod freshness;
mod manifest;
mod toolchain;

/// What to do with the objects.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only check that the committed objects belong to the sources
    #[arg(long)]
    pub(crate) check: bool,
}

/// CPUs that objects are built for: a file name each, and whether the result was ever run.
const ARCHITECTURES: [(&str, bool); 2] = [("x86_64", true), ("aarch64", false)];

/// Rebuilds the objects, or checks them.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.check { check() } else { rebuild() }
}

/// Fails with the remedy unless the committed objects belong to the sources. Reads files, builds nothing.
pub(crate) fn verify_fresh() -> anyhow::Result<()> {
    match freshness::complaint(shell::root()).context("comparing ebpf/objects with its sources")? {
        None => Ok(()),
        Some(complaint) => bail!("{complaint}"),
    }
}

fn rebuild() -> anyhow::Result<()> {
    let toolchain = toolchain::find(recorded().as_ref().map(|manifest| manifest.compiler()), true)?;
    let directory = objects();
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let built = build(&toolchain)?;
    for (name, bytes) in &built.objects {
        fs::write(directory.join(name), bytes).with_context(|| format!("writing ebpf/objects/{name}"))?;
    }
    fs::write(manifest_path(), built.manifest.text()?).context("writing ebpf/objects/manifest.json")?;
    verify_fresh()?;
    println!("built {} with {}", freshness::OBJECTS.join(", "), toolchain.compiler_version());
    Ok(())
}

fn check() -> anyhow::Result<()> {
    verify_fresh()?;
    let Some(recorded) = recorded() else {
        bail!("ebpf/objects/manifest.json cannot be read: {}", freshness::REMEDY)
    };
    let required = std::env::var_os("VENTURI_REQUIRE_KERNEL").is_some_and(|value| value == "1")
        || (crate::node::is_ci() && crate::node::is_root());
    let toolchain = match toolchain::find(Some(recorded.compiler()), required) {
        Ok(toolchain) => toolchain,
        Err(err) if !required => {
            println!("the BPF objects belong to their sources");
            println!("SKIPPED rebuilding them: {err:#}");
            return Ok(());
        }
        Err(err) => return Err(err),
    };
    let stamp = shell::target_dir().join("bpf/checked");
    let checked =
        format!("{}\n{}\n{}\n", recorded.text()?, toolchain.compiler_version(), toolchain.linker_version());
    if fs::read_to_string(&stamp).is_ok_and(|text| text == checked) {
        println!("the BPF objects belong to their sources (rebuilt and compared before)");
        return Ok(());
    }
    let built = build(&toolchain)?;
    if recorded.made_by(&toolchain) {
        for (name, bytes) in &built.objects {
            let committed =
                fs::read(objects().join(name)).with_context(|| format!("reading ebpf/objects/{name}"))?;
            ensure!(
                &committed == bytes,
                "ebpf/objects/{name} is not what the recorded toolchain builds: {}",
                freshness::REMEDY
            );
        }
        println!("the BPF objects are bit for bit what {} builds", toolchain.compiler_version());
    } else {
        recorded.same_interface(&built.manifest)?;
        println!(
            "the BPF objects have the programs, maps and helpers that {} builds (recorded: {})",
            toolchain.compiler_version(),
            recorded.compiler()
        );
    }
    fs::write(&stamp, checked).with_context(|| format!("writing {}", stamp.display()))
}

/// Objects by file name, and what they are.
struct Built {
    objects: Vec<(String, Vec<u8>)>,
    manifest: Manifest,
}

/// Compiles every object into the target directory.
fn build(toolchain: &Toolchain) -> anyhow::Result<Built> {
    let mut objects = Vec::new();
    let mut manifest = Manifest::new(freshness::source_hash(shell::root())?, toolchain);
    for (architecture, tested) in ARCHITECTURES {
        let path = toolchain.compile(architecture)?;
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let name = format!("probes.{architecture}.o");
        manifest.describe(&name, tested, &freshness::hex(&Sha256::digest(&bytes)), &bytes)?;
        objects.push((name, bytes));
    }
    Ok(Built { objects, manifest })
}

fn recorded() -> Option<Manifest> {
    Manifest::parse(&fs::read_to_string(manifest_path()).ok()?)
}

fn objects() -> PathBuf {
    shell::root().join(Path::new("ebpf/objects"))
}

fn manifest_path() -> PathBuf {
    objects().join("manifest.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_objects_belong_to_their_sources() {
        verify_fresh().unwrap();
    }

    #[test]
    fn the_manifest_describes_the_committed_objects() {
        let recorded = recorded().unwrap();
        let mut seen = recorded.clone();
        for (architecture, tested) in ARCHITECTURES {
            let name = format!("probes.{architecture}.o");
            let bytes = fs::read(objects().join(&name)).unwrap();
            seen.describe(&name, tested, &freshness::hex(&Sha256::digest(&bytes)), &bytes).unwrap();
        }
        assert_eq!(seen.text().unwrap(), recorded.text().unwrap());
    }
}
