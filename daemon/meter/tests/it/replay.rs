//! The committed fuzz corpus, through the very entry points that are fuzzed.

#[path = "../../../../tests/fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library of its own for the fuzz targets")]
mod entries;

use std::path::Path;

#[expect(clippy::disallowed_methods, reason = "a test reads its data")]
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.unwrap_or_else(|error| panic!("{error}")).path();
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.display().to_string(), bytes)
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn the_fuzz_corpus_finds_nothing() {
    type Entry = fn(&[u8]);
    let targets: [(&str, Entry); 5] = [
        ("h1", entries::h1),
        ("sse", entries::sse),
        ("json", entries::json),
        ("body", entries::body),
        ("pipeline", entries::pipeline),
    ];
    for (target, entry) in targets {
        let inputs = inputs(target);
        assert!(inputs.len() >= 4, "{target}: {} inputs", inputs.len());
        for (name, input) in inputs {
            println!("{name}");
            entry(&input);
            // Every prefix is an input too.
            for end in (0..input.len()).step_by(1 + input.len() / 64) {
                entry(&input[..end]);
            }
        }
    }
}
