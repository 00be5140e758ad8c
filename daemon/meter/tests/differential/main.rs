//! The meter's parsers beside well-kept implementations of the same protocols.
//!
//! The others make the bytes, from generated input, and say what they understood; the meter reads the same bytes, cut
//! anywhere, and has to say the same. What the meter does otherwise on purpose is a comment where it is compared.

mod eventstream;
mod hpack;
mod http1;
mod http2;
mod log;
mod sse;
mod tape;
mod websocket;

/// So many generated inputs; what fails is printed, not written beside the sources.
fn cases(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases, failure_persistence: None, ..Default::default() }
}
