//! gRPC's message framing (gRPC over HTTP/2, "Length-Prefixed-Message"), and the codes of its status.
//!
//! A message is a byte that says whether it is compressed, four bytes of length, and as many bytes. Each compressed
//! message is one stream of the coding that the head names. A hole inside a message leaves the framing in step; any
//! other loses it for good, because messages have no mark to find them by.

use super::{Header, header};
use crate::exchange::Reason;
use crate::limits::Budget;
use crate::payload::Short;

use super::body::Decoder;

/// Flag and length before each message.
const PREFIX: usize = 5;

/// A part of the stream of messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Bytes of a message, decoded.
    Data(&'a [u8]),
    /// The message is over.
    End,
}

impl std::fmt::Debug for Part<'_> {
    /// How much, never what.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Data(bytes) => write!(f, "{} bytes", bytes.len()),
            Part::End => f.write_str("End"),
        }
    }
}

/// The messages of one body.
#[derive(Debug)]
pub struct Messages {
    /// Of the message in progress, as far as it is there.
    prefix: Short<PREFIX>,
    /// Bytes of the message to come.
    left: u64,
    /// The message in progress is compressed.
    packed: bool,
    coding: Box<str>,
    decoder: Decoder,
    budget: Budget,
    broken: Option<Reason>,
}

impl Messages {
    /// The messages of a body with this head; `None` if it is not gRPC.
    pub fn of(headers: &[Header<'_>], budget: &Budget) -> Option<Messages> {
        let kind = header(headers, "content-type")?;
        if !kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case("application/grpc")) {
            return None;
        }
        let coding = header(headers, "grpc-encoding").unwrap_or("identity");
        Some(Messages {
            prefix: Short::default(),
            left: 0,
            packed: false,
            coding: coding.chars().take(16).collect::<String>().into(),
            decoder: Decoder::default(),
            budget: budget.clone(),
            broken: None,
        })
    }

    /// Hands the messages in `bytes` on to `out`.
    ///
    /// # Errors
    /// The reason why nothing more can be read; it stays.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(Part<'_>)) -> Result<(), Reason> {
        while !bytes.is_empty() && self.broken.is_none() {
            if self.prefix.len() < PREFIX {
                self.prefix(&mut bytes, out);
                continue;
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (data, rest) = bytes.split_at(here);
            bytes = rest;
            self.left -= here as u64;
            let taken = match self.packed {
                true => self.decoder.push(data, &mut |part| out(Part::Data(part))),
                false => {
                    out(Part::Data(data));
                    Ok(())
                }
            };
            match taken {
                Ok(()) if self.left == 0 => self.over(out),
                Ok(()) => {}
                Err(reason) => self.broken = Some(reason),
            }
        }
        self.broken.map_or(Ok(()), Err)
    }

    /// `bytes` are missing here, or nobody knows how many (0): whether what follows can be read.
    pub fn gap(&mut self, bytes: u64) -> bool {
        let within = bytes > 0 && bytes < self.left;
        if self.broken.is_none() && self.prefix.len() == PREFIX && !self.packed && within {
            self.left -= bytes;
            return true;
        }
        self.broken = self.broken.or(Some(Reason::Gap));
        false
    }

    fn prefix(&mut self, bytes: &mut &[u8], out: &mut dyn FnMut(Part<'_>)) {
        let Some((byte, rest)) = bytes.split_first() else { return };
        *bytes = rest;
        self.prefix.push(&[*byte]);
        let Some(&[flag, length @ ..]) = self.prefix.first_chunk::<PREFIX>() else { return };
        self.left = u64::from(u32::from_be_bytes(length));
        self.packed = flag == 1;
        match flag {
            0 => {}
            1 => {
                let coding = [Header { name: "content-encoding", value: self.coding.as_bytes() }];
                self.decoder = Decoder::new(&coding, &self.budget);
            }
            _ => self.broken = Some(Reason::Undecodable),
        }
        if self.left == 0 && self.broken.is_none() {
            self.over(out);
        }
    }

    fn over(&mut self, out: &mut dyn FnMut(Part<'_>)) {
        self.prefix.clear();
        self.decoder = Decoder::default();
        out(Part::End);
    }
}

/// Number and name of the status in trailers, or in a head without body; `None` if there is none or it is `OK`.
pub fn failure(headers: &[Header<'_>]) -> Option<(u32, &'static str)> {
    // https://grpc.io/docs/guides/status-codes/
    const NAMES: [&str; 16] = [
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let code: u32 = header(headers, "grpc-status")?.parse().ok()?;
    let place = usize::try_from(code.checked_sub(1)?).ok()?;
    Some((code, NAMES.get(place).copied().unwrap_or("UNKNOWN")))
}
