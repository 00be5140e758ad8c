//! The public API of a Venturi node: generated from `proto/v1/query.proto` by `cargo xtask codegen` and committed.
//!
//! Nothing here knows an inner type of the daemon, and no inner type derives from these: `host::api::convert` is the
//! only bridge.

/// Messages, clients and servers of `venturi.v1`. The documentation of each is in the `.proto` file.
#[expect(
    missing_docs,
    reason = "generated; what is not commented in the .proto file explains itself by its name"
)]
#[expect(clippy::allow_attributes_without_reason, reason = "the generator writes its own attributes")]
pub mod v1 {
    include!("generated/venturi.v1.rs");
}

/// Every message and service with all they import, as an encoded `google.protobuf.FileDescriptorSet`: what gRPC
/// reflection answers from.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");

/// Metadata of an answer to `WatchAttributions`: the cursor at which it begins.
pub const WATCH_CURSOR: &str = "venturi-cursor";
