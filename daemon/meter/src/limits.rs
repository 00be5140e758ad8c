//! Every bound of this crate, with the arithmetic. Memory does not depend on what a provider or a client sends.
//!
//! A pipeline holds at most [`SESSIONS_MAX`] sessions of [`SESSION_BYTES`]; incomplete heads, tables of head fields,
//! open exchanges and inflaters come out of one shared [`Budget`]; br and zstd, whose windows are large, share
//! [`LARGE_WINDOWS_MAX`] places. Together [`TOTAL_BYTES_MAX`], reached only under attack: 100 keep-alive sessions with a streamed answer each
//! need about 1 MiB, with gzip 6 MiB.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of one request or response head, of which cookies are the largest part in practice.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Header fields of one head; more make it undecodable.
pub const HEADERS_MAX: usize = 128;

/// Requests of a session whose response has not ended.
pub const PENDING_MAX: usize = 32;

/// Sessions of one pipeline; the one idle longest makes room.
pub const SESSIONS_MAX: usize = 16_384;

/// Silence after which a session is given up, in ns: 30 minutes, three times the longest SDK default timeout.
pub const SESSION_IDLE_NS: u64 = 30 * 60 * 1_000_000_000;

/// Bytes kept of what is skipped while looking for the next message: a request line split by a chunk border.
pub const RESYNC_TAIL_MAX: usize = 4096;

/// Streams of one HTTP/2 connection that are followed at a time; servers allow 100 to 250.
pub const STREAMS_MAX: usize = 256;

/// Largest dynamic table of head fields that is kept for one direction of a connection; clients and servers use 4 to
/// 64 KiB. All sessions' tables together would be 2 GiB, so what they hold comes out of the [`Budget`].
pub const HPACK_TABLE_MAX: usize = 64 * 1024;

/// Bytes of the [`Budget`] by which a dynamic table grows: most never need more.
pub const HPACK_STEP_BYTES: usize = 1024;

/// Content codings stacked on one body.
pub const CODINGS_MAX: usize = 3;

/// Bytes a coding may give per byte it takes; deflate cannot exceed 1,032.
pub const EXPANSION_RATIO_MAX: u64 = 1_100;

/// Bytes a body may give before the ratio is judged.
pub const EXPANSION_FLOOR: u64 = 1024 * 1024;

/// State of one inflater with its output window and buffer.
pub const INFLATE_BYTES: usize = 32 * 1024 + 12 * 1024 + DECODE_BUFFER;

/// Output of a decoder handed on at once.
pub const DECODE_BUFFER: usize = 8 * 1024;

/// Window of zstd accepted (RFC 9659 allows content codings 8 MiB), as a power of two.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Bodies in br or zstd decoded at the same time by one pipeline; each may hold a 16 MiB window.
pub const LARGE_WINDOWS_MAX: usize = 8;

/// Nesting of JSON containers that are looked into; what is deeper is skipped, at any depth.
pub const JSON_DEPTH_MAX: usize = 16;

/// Bytes kept of one JSON string or key.
pub const JSON_TEXT_MAX: usize = 256;

/// Nesting of protobuf messages that are looked into; what is deeper is skipped.
pub const PROTOBUF_DEPTH_MAX: usize = 8;

/// Bytes kept of the name of a server-sent event.
pub const SSE_NAME_MAX: usize = 64;

/// Bytes of one event-stream message that is held for its checksum; the messages that matter have a few hundred.
pub const EVENT_MESSAGE_MAX: usize = 64 * 1024;

/// Bytes of a model's name: application inference profiles are ARNs of 150, files of local servers are paths.
pub const MODEL_NAME_MAX: usize = JSON_TEXT_MAX;

/// Bytes of any other name from the wire: tools have up to 128 (Anthropic), request ids up to 80.
pub const WORD_MAX: usize = 128;

/// Answers asked for or begun in one WebSocket session that have not ended; clients have one or two.
pub const TURNS_MAX: usize = 16;

/// Finish reasons kept of one exchange.
pub const FINISH_REASONS_MAX: usize = 16;

/// Silence after which the same request is a new one, in ns: twice the longest pause that SDKs and retry libraries make
/// between attempts (60 s).
pub const RETRY_WINDOW_NS: u64 = 2 * 60 * 1_000_000_000;

/// Requests of the last [`RETRY_WINDOW_NS`] that are remembered, of all pipelines together; the one heard of longest
/// ago makes room.
pub const ATTEMPTS_MAX: usize = 4096;

/// A remembered request: 48 bytes in a map and 40 in a set, with the slack of both.
pub const ATTEMPT_BYTES: usize = 256;

/// Time for which an answer that is to be fetched later is awaited, in ns: a day, longer than any provider keeps one that
/// nobody fetched (OpenAI 10 minutes, Replicate an hour, xAI a day).
pub const AWAITED_NS: u64 = 24 * 60 * 60 * 1_000_000_000;

/// Answers that are awaited, of all pipelines together, 96 bytes each; the oldest makes room.
pub const AWAITED_MAX: usize = 4096;

/// An open exchange with its scanners and texts, without decoders.
pub const EXCHANGE_BYTES: usize = 8 * 1024;

/// Bytes that all sessions of one pipeline may hold in incomplete heads, tables of head fields, open exchanges and
/// inflaters; what finds no room is lost (`limit_reached`), a table forgotten. 64 MiB are 8,000 exchanges at a time, or 1,000 compressed ones.
pub const BUFFERED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A session that holds none of these. What is kept of one that was idle for long takes its place.
pub const SESSION_BYTES: usize = 3 * 1024;

/// Worst case of one pipeline: quiet sessions, what is buffered, large windows.
pub const TOTAL_BYTES_MAX: usize =
    SESSIONS_MAX * SESSION_BYTES + BUFFERED_BYTES_MAX + LARGE_WINDOWS_MAX * 16 * 1024 * 1024;

const _: () = assert!(TOTAL_BYTES_MAX <= 240 * 1024 * 1024);

/// Memory that the sessions of one pipeline share.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes: Arc<AtomicUsize>,
    windows: Arc<AtomicUsize>,
}

impl Budget {
    /// All of [`BUFFERED_BYTES_MAX`] and [`LARGE_WINDOWS_MAX`].
    pub fn new() -> Budget {
        Budget {
            bytes: Arc::new(AtomicUsize::new(BUFFERED_BYTES_MAX)),
            windows: Arc::new(AtomicUsize::new(LARGE_WINDOWS_MAX)),
        }
    }

    /// `bytes` of the shared memory until the lease is dropped; `None` if they are not there.
    pub fn lease(&self, bytes: usize) -> Option<Lease> {
        Lease::of(&self.bytes, bytes)
    }

    /// A place for a large window until the lease is dropped; `None` if all are taken.
    pub fn window(&self) -> Option<Lease> {
        Lease::of(&self.windows, 1)
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new()
    }
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Lease {
    from: Arc<AtomicUsize>,
    amount: usize,
}

impl Lease {
    fn of(from: &Arc<AtomicUsize>, amount: usize) -> Option<Lease> {
        Lease { from: Arc::clone(from), amount: 0 }.grow(amount)
    }

    /// How much it is.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// It and `more`; `None`, and all of it given back, if that is not there.
    pub fn grow(mut self, more: usize) -> Option<Lease> {
        let taken =
            self.from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(more));
        taken.is_ok().then(|| {
            self.amount += more;
            self
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.from.fetch_add(self.amount, Ordering::Relaxed);
    }
}
