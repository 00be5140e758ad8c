//! The committed corpus, through the very entry points that are fuzzed: included by the tests of the packages that
//! these belong to.

use std::path::Path;

/// A name and what is attacked.
type Target = (&'static str, fn(&[u8]));

/// Runs every input of every target, and prefixes of it, which are inputs too.
pub fn replay(targets: &[Target]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    for (target, entry) in targets {
        let folder = corpus.join(target);
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut inputs: Vec<_> =
            entries.map(|entry| entry.unwrap_or_else(|error| panic!("{error}")).path()).collect();
        inputs.sort();
        assert!(inputs.len() >= 3, "{target}: {} inputs", inputs.len());
        for path in inputs {
            let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            println!("{}", path.display());
            entry(&input);
            for end in (0..input.len()).step_by(1 + input.len() / 16) {
                entry(&input[..end]);
            }
        }
    }
}
