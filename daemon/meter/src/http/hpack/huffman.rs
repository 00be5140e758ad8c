//! The Huffman code of RFC 7541, appendix B, the decoding side.

/// Most bytes that so many packed ones stand for: the shortest code has five bits.
pub(super) fn most(packed: usize) -> usize {
    packed * 8 / 5
}

/// Unpacks into the front of `out`, which has room for [`most`]; how many bytes that gives, `None` if it is no string of
/// this code. What is left of the last byte is filled with ones, and the end of string is never coded (RFC 7541, 5.2).
pub(super) fn unpack(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut packed, mut out) = (packed, out.iter_mut());
    let room = out.len();
    // The next bits of the string, the first of them on top; behind the `held` ones stand zeros.
    let (mut bits, mut held) = (0u64, 0u32);
    loop {
        if held < LONGEST {
            if let Some((four, rest)) = packed.split_first_chunk() {
                bits |= u64::from(u32::from_be_bytes(*four)) << (32 - held);
                (held, packed) = (held + 32, rest);
            } else if let Some((one, rest)) = packed.split_first() {
                bits |= u64::from(*one) << (56 - held);
                (held, packed) = (held + 8, rest);
                continue;
            }
        }
        let (symbol, length) = CODE.first(bits)?;
        if length <= held {
            *out.next()? = symbol;
            (bits, held) = (bits << length, held - length);
        } else {
            // All codes of less than a byte have a zero: nothing whole is left.
            let padding = u64::MAX.checked_shl(64 - held).unwrap_or(0);
            return (held < 8 && bits == padding).then(|| room - out.len());
        }
    }
}

/// The longest code; that of the end of string is as long.
const LONGEST: u32 = 30;

/// A canonical code: codes of one length follow each other in the order of their symbols, behind all shorter ones. So the
/// lengths are all there is to know.
struct Code {
    /// By the first eight bits: the symbol and the length of its code; no length if that is longer.
    short: [(u8, u8); 256],
    /// By length.
    spans: [Span; LONGEST as usize + 1],
    /// In the order of their codes.
    symbols: [u8; 256],
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct Span {
    /// The first code.
    begin: u64,
    /// The one behind the last.
    end: u64,
    /// Place of the first one's symbol.
    place: usize,
}

static CODE: Code = Code::canonical(&LENGTHS);

impl Code {
    const fn canonical(lengths: &[u8; 256]) -> Code {
        let none = Span { begin: 0, end: 0, place: 0 };
        let mut code = Code { short: [(0, 0); 256], spans: [none; LONGEST as usize + 1], symbols: [0; 256] };
        let (mut next, mut placed, mut length) = (0u64, 0, 1);
        while length <= LONGEST {
            next <<= 1;
            let mut span = Span { begin: next, end: next, place: placed };
            let mut symbol = 0;
            while symbol < 256 {
                if lengths[symbol] as u32 == length {
                    let mut ending = 0;
                    while length <= 8 && ending < 1 << (8 - length) {
                        code.short[(next << (8 - length)) as usize + ending] = (symbol as u8, length as u8);
                        ending += 1;
                    }
                    code.symbols[placed] = symbol as u8;
                    placed += 1;
                    next += 1;
                }
                symbol += 1;
            }
            span.end = next;
            code.spans[length as usize] = span;
            length += 1;
        }
        code
    }

    /// The symbol whose code stands on top of `bits`, and the length of it.
    fn first(&self, bits: u64) -> Option<(u8, u32)> {
        let &(symbol, length) = self.short.get((bits >> 56) as usize)?;
        if length > 0 {
            return Some((symbol, u32::from(length)));
        }
        (9..=LONGEST).find_map(|length| {
            let span = self.spans.get(length as usize)?;
            let code = bits >> (64 - length);
            let place = span.place + usize::try_from(code.checked_sub(span.begin)?).ok()?;
            (code < span.end).then(|| self.symbols.get(place)).flatten().map(|symbol| (*symbol, length))
        })
    }
}

/// By symbol.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26,
];
