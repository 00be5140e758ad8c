//! The committed fuzz corpus of what stands around the meter.

#[path = "../../../tests/fuzz/src/node.rs"]
#[expect(unreachable_pub, reason = "a library of its own for the fuzz targets")]
mod node;
#[path = "../../../tests/fuzz/src/replay.rs"]
#[expect(unreachable_pub, reason = "shared with the tests of other packages")]
mod shared;

#[test]
fn the_fuzz_corpus_of_the_node_finds_nothing() {
    shared::replay(node::TARGETS);
}
