//! Content codings, undone as the bytes come: gzip, deflate (zlib and raw), br, zstd, stacked.
//!
//! Decoding never waits for more input than it needs and never gives more than the bounds in [`crate::limits`] allow.
//! A hole or a broken stream ends decoding for good: what would follow is noise.

use brotli_decompressor::{
    Allocator, BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapperMut, StandardAlloc,
};
use flate2::{Decompress, FlushDecompress, Status};
use smallvec::SmallVec;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

use super::{Header, list};
use crate::exchange::Reason;
use crate::limits::{
    Budget, CODINGS_MAX, DECODE_BUFFER, EXPANSION_FLOOR, EXPANSION_RATIO_MAX, INFLATE_BYTES, Lease,
    ZSTD_WINDOW_LOG_MAX,
};
use crate::payload::wipe;

/// Undoes the content codings of one body.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The coding applied last comes first.
    stages: SmallVec<[Stage; 1]>,
    broken: Option<Reason>,
    taken: u64,
    given: u64,
}

impl Decoder {
    /// The decoder for what the fields `content-encoding` and `transfer-encoding` of a message name. Chunks are undone
    /// before.
    pub fn new(headers: &[Header<'_>], budget: &Budget) -> Decoder {
        let mut decoder = Decoder::default();
        // A sender codes the content first, and then for the way (RFC 9112, 6.1).
        for field in ["transfer-encoding", "content-encoding"] {
            for name in list(headers, field).rev() {
                if ["identity", "chunked"].iter().any(|none| name.eq_ignore_ascii_case(none)) {
                    continue;
                }
                if let Err(reason) = decoder.add(name, budget) {
                    decoder.broken = Some(reason);
                    return decoder;
                }
            }
        }
        decoder
    }

    fn add(&mut self, name: &str, budget: &Budget) -> Result<(), Reason> {
        if self.stages.len() == CODINGS_MAX {
            return Err(Reason::LimitReached);
        }
        self.stages.push(Stage::new(name, budget)?);
        Ok(())
    }

    /// The decoder for a body of unknown coding that begins with `first`: no text begins like gzip or zstd.
    pub fn guess(first: u8, budget: &Budget) -> Decoder {
        let value: &[u8] = match first {
            0x1f => b"gzip",
            0x28 => b"zstd",
            _ => b"",
        };
        Decoder::new(&[Header { name: "content-encoding", value }], budget)
    }

    /// Hands what `bytes` decode to on to `out`, in parts.
    ///
    /// # Errors
    /// The reason why nothing more can be decoded; it stays.
    pub fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Reason> {
        if let Some(reason) = self.broken {
            return Err(reason);
        }
        if self.stages.is_empty() {
            out(bytes);
            return Ok(());
        }
        // Stacked codings multiply: only the whole way tells a bomb.
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        let (taken, given) = (self.taken, &mut self.given);
        let result = run(&mut self.stages, bytes, &mut |part| {
            *given = given.saturating_add(part.len() as u64);
            if *given > EXPANSION_FLOOR && *given / EXPANSION_RATIO_MAX > taken {
                return Err(Reason::LimitReached);
            }
            out(part);
            Ok(())
        });
        result.inspect_err(|reason| self.broken = Some(*reason))
    }

    /// Bytes are missing here: whether decoding can go on after them.
    pub fn gap(&mut self) -> bool {
        if !self.stages.is_empty() {
            self.broken = self.broken.or(Some(Reason::Gap));
        }
        self.broken.is_none()
    }
}

/// Takes decoded bytes, or says why it wants no more.
pub(super) type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Reason>;

fn run(stages: &mut [Stage], bytes: &[u8], out: Take<'_>) -> Result<(), Reason> {
    let Some((stage, later)) = stages.split_first_mut() else { return out(bytes) };
    stage.push(bytes, &mut |part| run(later, part, out))
}

/// One coding.
struct Stage {
    coding: Coding,
    _lease: Lease,
}

impl std::fmt::Debug for Stage {
    /// Its name only: the window holds the body.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.coding {
            Coding::Gzip(_) => "gzip",
            Coding::Deflate(_) => "deflate",
            Coding::Brotli(..) => "br",
            Coding::Zstd(_) => "zstd",
        })
    }
}

enum Coding {
    Gzip(Gzip),
    Deflate(Deflate),
    Brotli(Box<BrotliState<Wiping, Wiping, Wiping>>, bool),
    Zstd(Box<ZstdDecoder<'static>>),
}

impl Stage {
    fn new(name: &str, budget: &Budget) -> Result<Stage, Reason> {
        let is = |known: &[&str]| known.iter().any(|known| name.eq_ignore_ascii_case(known));
        let (coding, lease) = if is(&["gzip", "x-gzip"]) {
            (Coding::Gzip(Gzip::new()), budget.lease(INFLATE_BYTES))
        } else if is(&["deflate"]) {
            (Coding::Deflate(Deflate::Unknown(None)), budget.lease(INFLATE_BYTES))
        } else if is(&["br"]) {
            let state = BrotliState::new(Wiping::default(), Wiping::default(), Wiping::default());
            (Coding::Brotli(Box::new(state), false), budget.window())
        } else if is(&["zstd"]) {
            let mut decoder = ZstdDecoder::new().map_err(|_| Reason::Undecodable)?;
            decoder
                .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                .map_err(|_| Reason::Undecodable)?;
            (Coding::Zstd(Box::new(decoder)), budget.window())
        } else {
            return Err(Reason::Undecodable);
        };
        let lease = lease.ok_or(Reason::LimitReached)?;
        Ok(Stage { coding, _lease: lease })
    }

    fn push(&mut self, bytes: &[u8], out: Take<'_>) -> Result<(), Reason> {
        run_through(bytes, &mut |bytes, buffer| self.coding.step(bytes, buffer), out)
    }
}

/// Takes some of what is coded and gives some of what it stands for: how many bytes were used and made.
pub(super) type Step<'a> = &'a mut dyn FnMut(&[u8], &mut [u8]) -> Result<(usize, usize), Reason>;

/// Decodes `bytes` step by step and hands what comes of them on to `out`.
///
/// What little comes, as with servers that flush every event, gets little room: a large one costs more to make than the
/// inflating that it is for.
pub(super) fn run_through(bytes: &[u8], step: Step<'_>, out: Take<'_>) -> Result<(), Reason> {
    match bytes.len() {
        0..128 => run_in(&mut [0; DECODE_BUFFER / 8], bytes, step, out),
        _ => run_in(&mut [0; DECODE_BUFFER], bytes, step, out),
    }
}

fn run_in(buffer: &mut [u8], mut bytes: &[u8], step: Step<'_>, out: Take<'_>) -> Result<(), Reason> {
    let mut most = 0;
    let result = loop {
        let (used, made) = match step(bytes, buffer) {
            Ok(step) => step,
            // It may have made something before it failed.
            Err(reason) => {
                most = buffer.len();
                break Err(reason);
            }
        };
        most = most.max(made);
        bytes = bytes.get(used..).unwrap_or_default();
        if made > 0
            && let Err(reason) = out(buffer.get(..made).unwrap_or_default())
        {
            break Err(reason);
        }
        // What a call gives back may be older input's, without taking any: at the end of its window a decoder hands
        // out what is there, however much room there is, and has more.
        if made == 0 && (bytes.is_empty() || used == 0) {
            break Ok(());
        }
    };
    wipe(buffer.get_mut(..most).unwrap_or_default());
    result
}

impl Drop for Stage {
    /// Windows hold the last of a body. That of zstd belongs to a C library, which frees it as it is.
    fn drop(&mut self) {
        match &mut self.coding {
            Coding::Gzip(gzip) => {
                let made = if gzip.members > 0 { INFLATE_WINDOW } else { gzip.state.total_out() };
                forget(&mut gzip.state, made);
            }
            Coding::Deflate(Deflate::Known { state, .. }) => {
                let made = state.total_out();
                forget(state, made);
            }
            // Its allocator wipes what it frees.
            Coding::Brotli(..) | Coding::Deflate(Deflate::Unknown(_)) | Coding::Zstd(_) => {}
        }
    }
}

/// Bytes that deflated data may refer to (RFC 1951, 2).
const INFLATE_WINDOW: u64 = 32 * 1024;

/// Wipes the window of an inflater that made so many bytes. Nothing reaches it but data: stored blocks of zeros (RFC 1951,
/// 3.2.4).
pub(super) fn forget(state: &mut Decompress, made: u64) {
    const BLOCK: u16 = 4096;
    const HEAD: [u8; 5] = {
        let [low, high] = BLOCK.to_le_bytes();
        [0, low, high, !low, !high]
    };
    const ZEROS: &[u8] = &[0; BLOCK as usize];
    state.reset(false);
    let mut nothing = [0; BLOCK as usize];
    for _ in 0..made.min(INFLATE_WINDOW).div_ceil(u64::from(BLOCK)) {
        for part in [&HEAD, ZEROS] {
            // It cannot fail: a state that was reset takes any lawful data.
            let _ = state.decompress(part, &mut nothing, FlushDecompress::None);
        }
    }
}

/// Gives memory to the decoder of br, and wipes it when it comes back.
#[derive(Default)]
struct Wiping(StandardAlloc);

impl<T: Clone + Copy + Default> Allocator<T> for Wiping {
    type AllocatedMemory = <StandardAlloc as Allocator<T>>::AllocatedMemory;

    fn alloc_cell(&mut self, len: usize) -> Self::AllocatedMemory {
        self.0.alloc_cell(len)
    }

    fn free_cell(&mut self, mut data: Self::AllocatedMemory) {
        wipe(data.slice_mut());
        self.0.free_cell(data);
    }
}

impl Coding {
    /// Decodes some of `bytes` into `buffer`: how many were used and made. Nothing used and nothing made means that
    /// the rest is of no use.
    fn step(&mut self, bytes: &[u8], buffer: &mut [u8]) -> Result<(usize, usize), Reason> {
        match self {
            Coding::Gzip(gzip) => gzip.step(bytes, buffer),
            Coding::Deflate(deflate) => deflate.step(bytes, buffer),
            Coding::Brotli(_, true) => Ok((0, 0)),
            Coding::Brotli(state, ended) => {
                let (mut available_in, mut used) = (bytes.len(), 0);
                let (mut available_out, mut made, mut total) = (buffer.len(), 0, 0);
                match BrotliDecompressStream(
                    &mut available_in,
                    &mut used,
                    bytes,
                    &mut available_out,
                    &mut made,
                    buffer,
                    &mut total,
                    state,
                ) {
                    BrotliResult::ResultFailure => return Err(Reason::Undecodable),
                    BrotliResult::ResultSuccess => *ended = true,
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                }
                Ok((used, made))
            }
            Coding::Zstd(decoder) => {
                let status = decoder.run_on_buffers(bytes, buffer).map_err(|_| Reason::Undecodable)?;
                Ok((status.bytes_read, status.bytes_written))
            }
        }
    }
}

/// Inflates some of `bytes` into `buffer`: how many were used and made, and whether the data says that it is over.
pub(super) fn inflate(
    state: &mut Decompress,
    bytes: &[u8],
    buffer: &mut [u8],
) -> Result<(usize, usize, bool), Reason> {
    let (taken, given) = (state.total_in(), state.total_out());
    let status = state.decompress(bytes, buffer, FlushDecompress::None).map_err(|_| Reason::Undecodable)?;
    let used = usize::try_from(state.total_in() - taken).unwrap_or(bytes.len());
    let made = usize::try_from(state.total_out() - given).unwrap_or(buffer.len());
    Ok((used, made, status == Status::StreamEnd))
}

/// `deflate` is zlib by the standard and raw deflate by the habit of some servers.
enum Deflate {
    /// Holds the first byte, if it came alone.
    Unknown(Option<u8>),
    Known {
        state: Box<Decompress>,
        first: Option<u8>,
        ended: bool,
    },
}

impl Deflate {
    fn step(&mut self, bytes: &[u8], buffer: &mut [u8]) -> Result<(usize, usize), Reason> {
        match self {
            Deflate::Unknown(first) => {
                let (low, high) = match (*first, bytes) {
                    (_, []) => return Ok((0, 0)),
                    (None, [byte]) => {
                        *first = Some(*byte);
                        return Ok((1, 0));
                    }
                    (None, [low, high, ..]) => (*low, *high),
                    (Some(low), [high, ..]) => (low, *high),
                };
                let zlib = low & 0x0f == 8 && (u16::from(low) << 8 | u16::from(high)) % 31 == 0;
                *self =
                    Deflate::Known { state: Box::new(Decompress::new(zlib)), first: *first, ended: false };
                self.step(bytes, buffer)
            }
            Deflate::Known { ended: true, .. } => Ok((0, 0)),
            Deflate::Known { state, first, ended } => {
                if let Some(byte) = first.take() {
                    inflate(state, &[byte], buffer)?;
                }
                let (used, made, over) = inflate(state, bytes, buffer)?;
                *ended = over;
                Ok((used, made))
            }
        }
    }
}

/// RFC 1952: members of header, raw deflate and an eight-byte trailer.
struct Gzip {
    place: GzipPlace,
    state: Decompress,
    flags: u8,
    members: u32,
}

#[derive(Clone, Copy)]
enum GzipPlace {
    /// At this byte of the fixed header.
    Fixed(u8),
    /// In the low or high byte of the length of the extra field.
    ExtraLength(u8, u16),
    /// Bytes of the extra field to come.
    Extra(u16),
    Name,
    Comment,
    /// Bytes of the header's checksum to come.
    HeaderChecksum(u8),
    Data,
    /// Bytes of the trailer to come.
    Trailer(u8),
    /// After the last member: padding.
    Over,
}

const FLAG_HEADER_CHECKSUM: u8 = 2;
const FLAG_EXTRA: u8 = 4;
const FLAG_NAME: u8 = 8;
const FLAG_COMMENT: u8 = 16;

impl Gzip {
    fn new() -> Gzip {
        Gzip { place: GzipPlace::Fixed(0), state: Decompress::new(false), flags: 0, members: 0 }
    }

    fn step(&mut self, bytes: &[u8], buffer: &mut [u8]) -> Result<(usize, usize), Reason> {
        let mut used = 0;
        loop {
            if let GzipPlace::Data = self.place {
                let rest = bytes.get(used..).unwrap_or_default();
                let (taken, made, ended) = inflate(&mut self.state, rest, buffer)?;
                if ended {
                    self.place = GzipPlace::Trailer(8);
                }
                return Ok((used + taken, made));
            }
            let Some(byte) = bytes.get(used) else { return Ok((used, 0)) };
            used += 1;
            self.place = self.header(*byte)?;
        }
    }

    fn header(&mut self, byte: u8) -> Result<GzipPlace, Reason> {
        Ok(match self.place {
            GzipPlace::Fixed(at) => {
                let good = match at {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8,
                    _ => true,
                };
                if !good {
                    return if self.members > 0 { Ok(GzipPlace::Over) } else { Err(Reason::Undecodable) };
                }
                if at == 3 {
                    self.flags = byte;
                }
                if at < 9 { GzipPlace::Fixed(at + 1) } else { self.after(0) }
            }
            GzipPlace::ExtraLength(0, _) => GzipPlace::ExtraLength(1, u16::from(byte)),
            GzipPlace::ExtraLength(_, low) => match low | u16::from(byte) << 8 {
                0 => self.after(FLAG_EXTRA),
                length => GzipPlace::Extra(length),
            },
            GzipPlace::Extra(1) => self.after(FLAG_EXTRA),
            GzipPlace::Extra(left) => GzipPlace::Extra(left - 1),
            GzipPlace::Name if byte == 0 => self.after(FLAG_NAME),
            GzipPlace::Comment if byte == 0 => self.after(FLAG_COMMENT),
            GzipPlace::HeaderChecksum(2) => GzipPlace::HeaderChecksum(1),
            GzipPlace::HeaderChecksum(_) => GzipPlace::Data,
            GzipPlace::Trailer(1) => {
                self.state.reset(false);
                self.members = self.members.saturating_add(1);
                GzipPlace::Fixed(0)
            }
            GzipPlace::Trailer(left) => GzipPlace::Trailer(left - 1),
            place @ (GzipPlace::Name | GzipPlace::Comment | GzipPlace::Data | GzipPlace::Over) => place,
        })
    }

    /// What follows once the optional field `done` (0: the fixed header) is over.
    fn after(&self, done: u8) -> GzipPlace {
        let next = |flag: u8| self.flags & flag != 0 && (done < flag && done != FLAG_HEADER_CHECKSUM);
        if next(FLAG_EXTRA) {
            GzipPlace::ExtraLength(0, 0)
        } else if next(FLAG_NAME) {
            GzipPlace::Name
        } else if next(FLAG_COMMENT) {
            GzipPlace::Comment
        } else if self.flags & FLAG_HEADER_CHECKSUM != 0 {
            GzipPlace::HeaderChecksum(2)
        } else {
            GzipPlace::Data
        }
    }
}
