//! `cargo xtask tidy`: the invariants of the codebase that no compiler checks. What is not checked is not a rule.
//!
//! Each check returns findings in words; one finding fails the run. Checks look at what git knows, so that scratch
//! files disturb nobody.

mod docs;
mod layers;
mod sources;

use std::fs;

use anyhow::{Context as _, bail};

use crate::shell;

/// A rule that is broken: where and how.
pub(crate) type Finding = String;

/// One file of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// Content; empty if it is not text.
    pub(crate) text: String,
}

/// Checks everything.
pub(crate) fn run() -> anyhow::Result<()> {
    let sources = sources()?;
    let mut findings = layers::check()?;
    findings.extend(sources::check(&sources));
    findings.extend(docs::check(&sources, &crate::subcommands()));
    findings.extend(crate::probes::verify_fresh().err().map(|err| format!("{err:#}")));
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files and the layers between packages are in order", sources.len());
            Ok(())
        }
        count => bail!("{count} findings"),
    }
}

/// Every file that git knows or would add.
fn sources() -> anyhow::Result<Vec<Source>> {
    let listed = shell::output(shell::command("git").args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut sources = Vec::new();
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        let full = shell::root().join(path);
        if !full.is_file() {
            continue;
        }
        let bytes = fs::read(&full).with_context(|| format!("reading {path}"))?;
        sources.push(Source { path: path.to_owned(), text: String::from_utf8(bytes).unwrap_or_default() });
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    /// The same as `cargo xtask tidy`, so that a plain `cargo test` finds it too.
    #[test]
    fn the_repository_is_tidy() {
        if let Err(err) = super::run() {
            panic!("{err:#}: run `cargo xtask tidy`");
        }
    }
}
