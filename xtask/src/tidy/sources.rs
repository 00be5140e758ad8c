//! Rules about single files: length, words, where a name may stand, what tests may not do.

use super::{Finding, Source};

/// Lines from which a file is a finding; half of it is a question for the reviewer.
const LINES_MAX: usize = 1_000;

/// Words that mean something only on somebody's machine. They are put together here so that this file has none.
const FOREIGN: &[&str] = &[concat!("/wo", "rk/"), concat!("/tmp", "/wt"), concat!(".lib", "rary/")];

/// What must not stand anywhere in Rust code, and why.
const NOWHERE: &[(&str, &str)] = &[
    (concat!("#[ig", "nore"), "a test that never runs proves nothing: print SKIPPED and return"),
    (concat!("#[should_", "panic"), "it passes for any panic: compare the result"),
    (concat!("#[al", "low("), "use #[expect(lint, reason = ..)], which says when it is no longer needed"),
    (concat!("#![al", "low("), "use #![expect(lint, reason = ..)], which says when it is no longer needed"),
];

/// What must not stand in tests.
const NOT_IN_TESTS: &[(&str, &str)] = &[
    (concat!("thread::sl", "eep"), "wait for a condition with a deadline"),
    (concat!("time::sl", "eep"), "wait for a condition with a deadline"),
];

/// What must not stand in the meter outside its tests: it is pure.
const NOT_IN_METER: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::stdin",
    "Instant::now",
    "SystemTime",
    "TcpStream",
    "UdpSocket",
    "println!",
    "eprintln!",
];

/// How bytes of somebody's traffic are held in a type: what derives `Debug` must not hold them, or it prints them.
const PAYLOAD: &[&str] = &["Vec<u8>", "[u8]", "[u8; "];

/// Bytes that are none: names of ours, and addresses.
const NO_PAYLOAD: &[&str] = &["&'static [u8]", "[u8; 16]"];

/// Where such types are.
const PAYLOAD_BELOW: &[&str] = &[
    "daemon/meter/src/flow",
    "daemon/meter/src/http",
    "daemon/meter/src/llm",
    "daemon/meter/src/pipeline",
    "daemon/meter/src/payload",
    "daemon/host/src/shards",
    "daemon/host/src/capture",
];

/// Names that belong to one place of a package: package source folder, name, places below it, why.
const PLACES: &[(&str, &str, &[&str], &str)] = &[
    ("daemon/host/src/", "aya::", &["capture/", "capture.rs"], "only capture talks to the kernel"),
    ("daemon/host/src/", "aya_obj::", &["capture/", "capture.rs"], "only capture talks to the kernel"),
    ("daemon/host/src/", "tonic::", &["api/", "api.rs", "catalogue"], "only the API speaks gRPC"),
    ("daemon/store/src/", "aws_lc_rs::aead", &["seal", "key"], "only there is a cipher called"),
];

/// Checks all files.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().flat_map(one).collect()
}

fn one(source: &Source) -> Vec<Finding> {
    let Source { path, text } = source;
    let mut findings = Vec::new();
    let mut find = |line: usize, what: String| findings.push(format!("{path}:{line}: {what}"));
    for (at, line) in text.lines().enumerate() {
        for word in FOREIGN.iter().filter(|word| line.contains(**word)) {
            find(at + 1, format!("`{word}` means nothing to a stranger"));
        }
    }
    if path.ends_with("Cargo.toml") && path != "Cargo.toml" && !path.starts_with("tests/fuzz/") {
        let inherits = text
            .split("[lints]")
            .nth(1)
            .is_some_and(|rest| rest.trim_start().starts_with("workspace = true"));
        if !inherits {
            find(1, "does not inherit the workspace's lints".to_owned());
        }
    }
    if !path.ends_with(".rs") || path.contains("/generated/") {
        return findings;
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        find(lines, format!("{lines} lines: a file of more than {LINES_MAX} hides a second one"));
    }
    let tests_from = tests_from(path, text);
    for (at, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or(line);
        for (word, why) in NOWHERE.iter().filter(|(word, _)| code.contains(word)) {
            find(at + 1, format!("`{word}`: {why}"));
        }
        let in_tests = at >= tests_from;
        if in_tests {
            for (word, why) in NOT_IN_TESTS.iter().filter(|(word, _)| code.contains(word)) {
                find(at + 1, format!("`{word}` in a test: {why}"));
            }
            continue;
        }
        if path.starts_with("daemon/meter/src/") {
            for word in NOT_IN_METER.iter().filter(|word| code.contains(**word)) {
                find(at + 1, format!("`{word}` in the meter: it performs no IO and reads no clock"));
            }
        }
        for (folder, word, places, why) in PLACES {
            let Some(below) = path.strip_prefix(folder) else { continue };
            if names(code, word) && !places.iter().any(|place| below.starts_with(place)) {
                find(at + 1, format!("`{word}` stands outside {places:?}: {why}"));
            }
        }
    }
    if PAYLOAD_BELOW.iter().any(|below| path.starts_with(below)) {
        for at in showing_payload(text).into_iter().filter(|at| *at < tests_from) {
            find(at + 1, "derives `Debug` and holds bytes: write one that says how many".to_owned());
        }
    }
    if path == "daemon/meter/src/lib.rs" && !text.contains("#![deny(clippy::float_arithmetic)]") {
        find(1, "lacks `#![deny(clippy::float_arithmetic)]`: money is never a float".to_owned());
    }
    findings
}

/// Lines (from 0) of types that derive `Debug` although a field of theirs holds bytes.
fn showing_payload(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !line.starts_with("#[derive(") {
            continue;
        }
        let rest = lines.iter().skip(at);
        let attribute = rest.clone().take_while(|line| {
            !line.starts_with("pub") && !line.starts_with("struct") && !line.starts_with("enum")
        });
        let derives = attribute.clone().any(|line| line.contains("Debug"));
        // A type ends at the first line that closes at the margin.
        let body = rest.skip(attribute.count());
        let end = body.clone().position(|line| line.starts_with('}') || line.ends_with(';')).unwrap_or(0);
        let mut fields = body.take(end + 1).filter(|line| !line.trim_start().starts_with("//"));
        if derives
            && fields.any(|line| {
                let other = NO_PAYLOAD.iter().fold((*line).to_owned(), |line, none| line.replace(none, ""));
                PAYLOAD.iter().any(|held| other.contains(held))
            })
        {
            found.push(at);
        }
    }
    found
}

/// The line (from 0) from which a file holds tests.
fn tests_from(path: &str, text: &str) -> usize {
    let name = path.rsplit('/').next().unwrap_or(path);
    if path.starts_with("tests/it/") || path.contains("/tests/") || name == "tests.rs" {
        return 0;
    }
    text.lines()
        .position(|line| line.trim() == "#[cfg(test)]")
        .filter(|at| is_module(text, *at))
        .unwrap_or(usize::MAX)
}

/// Whether the attribute in line `at` stands before a module with a body.
fn is_module(text: &str, at: usize) -> bool {
    text.lines().nth(at + 1).is_some_and(|line| line.contains("mod ") && line.trim_end().ends_with('{'))
}

/// Whether `code` names the crate `word` (with its `::`), not something that ends like it.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected: &[&str]) {
        let found = one(&Source { path: path.to_owned(), text: text.to_owned() });
        assert_eq!(found.len(), expected.len(), "{path}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} should say {expected}");
        }
    }

    #[test]
    fn broken_rules_are_found_with_their_line() {
        let sleep = concat!("fn wait() { std::thread::sl", "eep(PAUSE); }");
        check("daemon/host/src/supervise.rs", sleep, &[]);
        check("tests/it/faults.rs", sleep, &["tests/it/faults.rs:1: `thread"]);
        check(
            "daemon/host/src/a.rs",
            &format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{sleep}\n}}\n"),
            &[":4: `thread"],
        );
        check("daemon/host/src/a.rs", &format!("#[cfg(test)]\nmod tests;\n{sleep}\n"), &[]);
        check("daemon/meter/src/a.rs", "use std::fs;", &["in the meter"]);
        check("daemon/meter/src/a.rs", "// std::fs is not used", &[]);
        check("daemon/meter/src/lib.rs", "", &["float_arithmetic"]);
        check("daemon/host/src/shards.rs", "use aya::maps::HashMap;", &["only capture"]);
        check("daemon/host/src/shards.rs", "use maya::maps::HashMap;", &[]);
        check("daemon/host/src/capture/ring.rs", "use aya::maps::HashMap;", &[]);
        let held =
            |derived: &str| format!("{derived}\npub struct A<'a> {{\n    b: u8,\n    c: &'a [u8],\n}}\n");
        check("daemon/meter/src/http/a.rs", &held("#[derive(Clone, Debug)]"), &[":1: derives"]);
        check("daemon/meter/src/http/a.rs", &held("#[derive(Clone)]"), &[]);
        check("daemon/meter/src/pricing/a.rs", &held("#[derive(Debug)]"), &[]);
        check("daemon/meter/src/flow/a.rs", "#[derive(Debug)]\nstruct A(Vec<u8>);\n", &[":1: derives"]);
        check("daemon/meter/src/flow/a.rs", "#[derive(Debug)]\nstruct A;\nstruct B(Vec<u8>);\n", &[]);
        check("a.rs", concat!("#[ig", "nore]"), &["never runs"]);
        check("a.rs", &"\n".repeat(LINES_MAX + 1), &["hides a second one"]);
        check("proto/src/generated/a.rs", &"\n".repeat(LINES_MAX + 1), &[]);
        check("README.md", concat!("see /wo", "rk/x"), &["means nothing"]);
        check("daemon/x/Cargo.toml", "[lints]\nworkspace = true\n", &[]);
        check("daemon/x/Cargo.toml", "[package]\n", &["lints"]);
    }
}
