//! How a body is delimited: by a length, in chunks, or by the end of the connection.

use crate::http::{Header, list};

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Bytes to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// Everything until the connection ends.
    UntilClose,
}

/// Place inside the chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the digits of a size.
    Size { value: u64, digits: u8 },
    /// In the rest of the size line.
    Extension { value: u64 },
    /// Inside data, bytes to come.
    Data(u64),
    /// Before the line end after data.
    DataEnd,
    /// In a trailer line, of which so many bytes were seen.
    Trailer(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
    Broken,
}

impl Framing {
    /// That of a request; `None` if nobody can say.
    pub(super) fn of_request(headers: &[Header<'_>]) -> Option<Framing> {
        Framing::told(headers, Framing::Length(0))
    }

    /// That of a response; `None` if nobody can say.
    pub(super) fn of_response(headers: &[Header<'_>]) -> Option<Framing> {
        Framing::told(headers, Framing::UntilClose)
    }

    /// What the fields say (RFC 9112, 6.3), or else `untold`.
    fn told(headers: &[Header<'_>], untold: Framing) -> Option<Framing> {
        let last = list(headers, "transfer-encoding").next_back();
        match last.filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
            Some(coding) if coding.eq_ignore_ascii_case("chunked") => {
                return Some(Framing::Chunked(Chunk::Size { value: 0, digits: 0 }));
            }
            // Whatever a length says, it is not that of the coded body.
            Some(_) => return (untold == Framing::UntilClose).then_some(untold),
            None => {}
        }
        // The same length said many times is one (RFC 9110, 8.6).
        if !headers.iter().any(|field| field.name.eq_ignore_ascii_case("content-length")) {
            return Some(untold);
        }
        let mut lengths = list(headers, "content-length");
        let first = lengths.next()?;
        length(first).filter(|_| lengths.all(|other| other == first)).map(Framing::Length)
    }

    pub(super) fn gap(&mut self, bytes: u64) -> Progress {
        match self {
            Framing::UntilClose => Progress::More,
            Framing::Length(left) | Framing::Chunked(Chunk::Data(left)) if bytes > *left => Progress::Broken,
            Framing::Length(left) => {
                *left -= bytes;
                if *left == 0 { Progress::Done } else { Progress::More }
            }
            Framing::Chunked(place) => match place {
                Chunk::Data(left) => {
                    *left -= bytes;
                    if *left == 0 {
                        *place = Chunk::DataEnd;
                    }
                    Progress::More
                }
                _ => Progress::Broken,
            },
        }
    }

    /// The next data in `bytes`, how many of them are used up, and what comes then.
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], usize, Progress) {
        match self {
            Framing::UntilClose => (bytes, bytes.len(), Progress::More),
            Framing::Length(left) => {
                let data = prefix(bytes, *left);
                *left -= data.len() as u64;
                (data, data.len(), if *left == 0 { Progress::Done } else { Progress::More })
            }
            Framing::Chunked(place) => {
                if let Chunk::Data(left) = place {
                    let data = prefix(bytes, *left);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *place = Chunk::DataEnd;
                    }
                    return (data, data.len(), Progress::More);
                }
                let (used, progress) = place.take(bytes);
                (&[], used, progress)
            }
        }
    }
}

impl Chunk {
    /// Works through what is not data.
    fn take(&mut self, bytes: &[u8]) -> (usize, Progress) {
        for (at, byte) in bytes.iter().enumerate() {
            match (*self, *byte) {
                (Chunk::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
                    let digit = (byte as char).to_digit(16).unwrap_or(0);
                    if digits >= 15 {
                        return (at + 1, Progress::Broken);
                    }
                    *self = Chunk::Size { value: value * 16 + u64::from(digit), digits: digits + 1 };
                }
                (Chunk::Size { digits: 0, .. }, _) => return (at + 1, Progress::Broken),
                (Chunk::Size { value, .. } | Chunk::Extension { value }, b'\n') => {
                    *self = if value == 0 { Chunk::Trailer(0) } else { Chunk::Data(value) };
                    if value > 0 {
                        return (at + 1, Progress::More);
                    }
                }
                // What follows the digits is no part of the number, or they were none.
                (Chunk::Size { value, .. }, b';' | b' ' | b'\t' | b'\r') => {
                    *self = Chunk::Extension { value }
                }
                (Chunk::Size { .. }, _) => return (at + 1, Progress::Broken),
                (Chunk::Extension { .. } | Chunk::DataEnd, b'\r') => {}
                (Chunk::Extension { .. }, _) => {}
                (Chunk::DataEnd, b'\n') => *self = Chunk::Size { value: 0, digits: 0 },
                (Chunk::DataEnd | Chunk::Data(_), _) => return (at + 1, Progress::Broken),
                (Chunk::Trailer(0), b'\n') => return (at + 1, Progress::Done),
                (Chunk::Trailer(_), b'\n') => *self = Chunk::Trailer(0),
                (Chunk::Trailer(_), b'\r') => {}
                (Chunk::Trailer(seen), _) => *self = Chunk::Trailer(seen.saturating_add(1)),
            }
        }
        (bytes.len(), Progress::More)
    }
}

/// A length is digits and nothing else, no sign either (RFC 9110, 8.6).
fn length(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn prefix(bytes: &[u8], left: u64) -> &[u8] {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(..len).unwrap_or_default()
}
