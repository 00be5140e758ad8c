//! Fails the build when the committed BPF objects do not belong to their sources: what is loaded into the kernel must
//! be what the repository shows.

use std::path::Path;
use std::process::ExitCode;

#[path = "../../ebpf/objects/freshness.rs"]
mod freshness;

fn main() -> ExitCode {
    let root = Path::new("../..");
    for source in freshness::SOURCES.into_iter().chain(["ebpf/objects", "Cargo.lock"]) {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    match freshness::complaint(root) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(complaint)) => {
            println!("cargo::error={complaint}");
            ExitCode::FAILURE
        }
        Err(err) => {
            println!("cargo::error=comparing ebpf/objects with its sources: {err}");
            ExitCode::FAILURE
        }
    }
}
