//! Do the committed objects belong to the sources? Shared by `cargo xtask probes`, the attacher's build script and the
//! tests, so that they cannot disagree; part of no package, and only the hash function comes from outside.
//!
//! The hash covers what ends up in an object: the package `probes`, the package `abi` except what only the two
//! processes say to each other, and the versions of the packages that contribute kernel code. It reads sources, it
//! builds nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The command that mends every complaint of this module.
pub(crate) const REMEDY: &str = "run `cargo xtask probes` and commit ebpf/objects";

/// Directories and files whose contents count, relative to the repository's root.
pub(crate) const SOURCES: [&str; 5] = [
    "ebpf/abi/Cargo.toml",
    "ebpf/abi/src",
    "ebpf/probes/Cargo.toml",
    "ebpf/probes/build.rs",
    "ebpf/probes/src",
];

/// Only main and the attacher use it.
const NOT_IN_OBJECTS: &str = "ebpf/abi/src/attacher.rs";

/// Packages whose code is compiled into the objects or generates it.
const PACKAGES: [&str; 7] = [
    "aya-ebpf",
    "aya-ebpf-bindings",
    "aya-ebpf-cty",
    "aya-ebpf-macros",
    "aya-log-common",
    "aya-log-ebpf",
    "aya-log-ebpf-macros",
];

/// The committed objects, by file name.
pub(crate) const OBJECTS: [&str; 2] = ["probes.x86_64.o", "probes.aarch64.o"];

/// Why the objects in `ebpf/objects` are not those of the sources, or `None` if they are. Errors are unreadable files.
pub(crate) fn complaint(root: &Path) -> io::Result<Option<String>> {
    let directory = root.join("ebpf/objects");
    let manifest = match fs::read_to_string(directory.join("manifest.json")) {
        Ok(manifest) => manifest,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            return Ok(Some(format!("ebpf/objects/manifest.json is missing: {REMEDY}")));
        }
        Err(err) => return Err(err),
    };
    let current = source_hash(root)?;
    if recorded(&manifest, "source_hash") != Some(&current) {
        return Ok(Some(format!("the BPF objects are older than their sources: {REMEDY}")));
    }
    for object in OBJECTS {
        let bytes = fs::read(directory.join(object))?;
        let Some(entry) = manifest.split_once(&format!("\"{object}\"")) else {
            return Ok(Some(format!("ebpf/objects/manifest.json does not know {object}: {REMEDY}")));
        };
        if recorded(entry.1, "sha256") != Some(&hex(&Sha256::digest(&bytes))) {
            return Ok(Some(format!("ebpf/objects/{object} is not the object that was built: {REMEDY}")));
        }
    }
    Ok(None)
}

/// SHA-256 over names and contents of the sources and over the versions of [`PACKAGES`], as hexadecimal digits.
pub(crate) fn source_hash(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(root, &root.join(source), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files.iter().filter(|file| file.as_str() != NOT_IN_OBJECTS) {
        let contents = fs::read(root.join(file))?;
        hasher.update(format!("{file}\0{}\0", contents.len()));
        hasher.update(contents);
    }
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        if PACKAGES.iter().any(|package| line == format!("name = \"{package}\"")) {
            hasher.update(format!("{line}\n{}\n", lines.next().unwrap_or_default()));
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first string value of `key` in our own pretty-printed JSON.
fn recorded<'a>(manifest: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = manifest.split_once(&format!("\"{key}\": \""))?;
    rest.split('"').next()
}

/// Adds the files at `path`, relative to `root` with forward slashes.
fn collect(root: &Path, path: &Path, files: &mut Vec<String>) -> io::Result<()> {
    if path.is_dir() {
        let entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        return entries.iter().try_for_each(|entry| collect(root, entry, files));
    }
    let relative = path.strip_prefix(root).unwrap_or(path);
    files.push(relative.to_string_lossy().into_owned());
    Ok(())
}
