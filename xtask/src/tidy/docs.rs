//! The documentation names only commands, files and tests that exist.

use super::{Finding, Source};

/// Documents for people.
const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

/// Checks the documents against the code.
pub(super) fn check(sources: &[Source], subcommands: &[String]) -> Vec<Finding> {
    let actions = actions(sources);
    let mut findings = Vec::new();
    for document in DOCUMENTS {
        let Some(source) = sources.iter().find(|source| source.path == *document) else {
            findings.push(format!("{document} is missing"));
            continue;
        };
        for (at, line) in source.text.lines().enumerate() {
            let unknown = words_after(line, "cargo xtask ")
                .filter(|word| !subcommands.iter().any(|known| known == word))
                .map(|word| format!("`cargo xtask {word}` does not exist"))
                .chain(
                    words_after(line, "venturi ")
                        .filter(|word| !actions.iter().any(|known| known == word))
                        .map(|word| format!("`venturi {word}` does not exist")),
                )
                .chain(missing(line, sources, *document == "ARCHITECTURE.md"));
            findings.extend(unknown.map(|what| format!("{document}:{}: {what}", at + 1)));
        }
    }
    findings
}

/// Commands of the CLI: the variants of its `Action`, in lower case.
fn actions(sources: &[Source]) -> Vec<String> {
    let text = sources
        .iter()
        .find(|source| source.path == "daemon/ctl/src/action.rs")
        .map_or("", |it| it.text.as_str());
    let body = text.split("enum Action {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or("");
    body.lines()
        .map(|line| line.trim().trim_end_matches(',').split('(').next().unwrap_or(""))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(str::to_lowercase)
        .collect()
}

/// The words that follow `prefix` where it begins a command: at the start of a line, or after a back-quote, `/` or `$ `.
fn words_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).filter_map(move |(at, _)| {
        let before = line[..at].trim_end().chars().next_back();
        let starts = before.is_none_or(|c| matches!(c, '`' | '$' | '/'));
        let word = line[at + prefix.len()..].split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or("");
        (starts && !word.is_empty()).then_some(word)
    })
}

/// Names in back-quotes that look like a file of ours or, with `tests`, like a test, and are not there.
fn missing<'a>(line: &'a str, sources: &'a [Source], tests: bool) -> impl Iterator<Item = String> + 'a {
    line.split('`').skip(1).step_by(2).filter_map(move |name| {
        let is_path = name.contains('/')
            && !name.contains([' ', '{', '*', '<', '$', ':'])
            && !name.starts_with(['/', '.', '-', '~']);
        let ours = ["daemon/", "ebpf/", "proto/", "tests/", "bench/", "xtask/", "deploy/"]
            .iter()
            .any(|top| name.starts_with(top));
        if is_path && ours {
            let there = sources.iter().any(|it| {
                it.path == name || it.path.starts_with(&format!("{}/", name.trim_end_matches('/')))
            });
            return (!there).then(|| format!("`{name}` does not exist"));
        }
        let is_test = name.matches('_').count() >= 2
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if tests && is_test && name.len() > 20 {
            let there =
                sources.iter().any(|it| it.path.ends_with(".rs") && it.text.contains(&format!("fn {name}(")));
            return (!there).then(|| format!("no test or function is called `{name}`"));
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_is_found() {
        fn check(document: &str, text: &str, expected: &[&str]) {
            let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
            let sources = [
                source("README.md", if document == "README.md" { text } else { "" }),
                source("ARCHITECTURE.md", if document == "ARCHITECTURE.md" { text } else { "" }),
                source("CONTRIBUTING.md", ""),
                source(
                    "daemon/ctl/src/action.rs",
                    "pub enum Action {\n    /// Is it armed\n    Status,\n    Calls(Calls),\n}\n",
                ),
                source("daemon/meter/src/lib.rs", "fn cutting_a_stream_changes_nothing() {}"),
            ];
            let found = super::check(&sources, &["run".to_owned(), "test".to_owned()]);
            assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{found} should say {expected}");
            }
        }
        check("README.md", "cargo xtask run\n`cargo xtask test pure`\n    venturi calls --json", &[]);
        check("README.md", "`cargo xtask fly`", &["README.md:1: `cargo xtask fly`"]);
        check("README.md", "text\n$ venturi top", &["README.md:2: `venturi top`"]);
        check("README.md", "what venturi does is not a command", &[]);
        check("README.md", "see `daemon/meter/src/lib.rs` and `daemon/meter`", &[]);
        check("README.md", "see `daemon/meter/src/gone.rs`", &["gone.rs` does not exist"]);
        check("ARCHITECTURE.md", "held by `cutting_a_stream_changes_nothing`", &[]);
        check("ARCHITECTURE.md", "held by `cutting_a_stream_changes_everything`", &["no test"]);
    }
}
