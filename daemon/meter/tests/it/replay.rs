//! The committed fuzz corpus of the meter.

#[path = "../../../../tests/fuzz/src/pure/mod.rs"]
#[expect(unreachable_pub, reason = "a library of its own for the fuzz targets")]
mod pure;
#[path = "../../../../tests/fuzz/src/replay.rs"]
#[expect(unreachable_pub, reason = "shared with the tests of other packages")]
#[expect(clippy::disallowed_methods, reason = "a test reads its data")]
mod shared;

#[test]
fn the_fuzz_corpus_finds_nothing() {
    shared::replay(pure::TARGETS);
}
