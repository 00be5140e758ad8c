//! Records of the `CONTENT` ring: plaintext of sessions with an AI provider, and nothing else.
//!
//! A record is a [`ChunkHead`] followed by the payload area of its size class; `payload_len` bytes of it are meant.
//! One library call may give several records. `offset` counts every byte the session moved in that direction since
//! arming, captured or not, so a hole is a difference of offsets and its size is exact.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Payload areas, smallest first: a record reserves the smallest that holds its bytes.
pub const SIZE_CLASSES: [usize; 4] = [256, 1024, 4096, 16384];

/// Bytes of one library call that are captured; the rest is a hole. 16 records of the largest class: a request head
/// with the tools and system prompt of the largest agents fits, a 3 MB image does not and need not.
pub const CALL_BYTES_MAX: usize = 16 * SIZE_CLASSES[3];

/// Bytes of a write of a session of unknown name that are handed out.
pub const PREFIX_BYTES_MAX: usize = 512;

/// Writes of a session of unknown name whose prefix is handed out.
pub const PREFIX_WRITES_MAX: u32 = 8;

crate::wire_enum! {
    /// Direction, from the workload's side.
    Direction {
        /// Written by the process.
        Sent = 0,
        /// Read by the process.
        Received = 1,
    }
}

/// Set in [`ChunkHead::flags`]: the session's name is unknown and this is a bounded prefix.
pub const FLAG_PREFIX: u32 = 1;
/// Set in [`ChunkHead::flags`]: last record of its library call; a difference to `call_len` was not captured.
pub const FLAG_CALL_END: u32 = 2;

/// Head of a content record.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ChunkHead {
    /// `CLOCK_MONOTONIC` ns at the return of the library call.
    pub at_ns: u64,
    /// The `SSL*`.
    pub ssl: u64,
    /// When the session was opened as far as we saw.
    pub opened_ns: u64,
    /// Start of the process, as in [`crate::event::Task::start_ns`].
    pub start_ns: u64,
    /// Position of the payload's first byte in its direction's stream, counted from arming.
    pub offset: u64,
    /// Bytes the library call moved in all.
    pub call_len: u64,
    /// Bytes the session had moved in the other direction before this call, counted alike: what is missing of them went
    /// by before this.
    pub opposite: u64,
    /// Inode of the cgroup2 directory.
    pub cgroup_id: u64,
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Sequence number within the session, both directions, starting at 0; lost records use a number too.
    pub seq: u32,
    /// Payload bytes that follow.
    pub payload_len: u32,
    /// A [`Direction`].
    pub direction: u32,
    /// `FLAG_*`.
    pub flags: u32,
}
