//! Values as they are written, and the whole numbers in them.

/// A value at a wanted path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it is written.
    Number(&'a [u8]),
    /// A string, unescaped. Only its first [`JSON_TEXT_MAX`](crate::limits::JSON_TEXT_MAX) bytes if it is longer: then `whole` is false.
    Text {
        /// Bytes, UTF-8 if the document is.
        bytes: &'a [u8],
        /// False if cut.
        whole: bool,
    },
    /// An object begins; its members follow.
    Object,
    /// An array begins; its elements follow.
    Array,
}

impl Value<'_> {
    /// The count in a number or a string, `10.0` included. `None` for anything else, negative numbers and fractions.
    pub fn count(&self) -> Option<u64> {
        let text = match self {
            Value::Number(text) => text,
            Value::Text { bytes, whole: true } => bytes,
            _ => return None,
        };
        let (mantissa, exponent) = decimal(text)?;
        let mut number = mantissa;
        for _ in 0..exponent.unsigned_abs() {
            if exponent > 0 {
                number = number.checked_mul(10)?;
            } else if number % 10 == 0 {
                number /= 10;
            } else {
                return None;
            }
        }
        u64::try_from(number).ok()
    }

    /// The number scaled by `10^power`, cut to a whole number. `None` for anything else and negative numbers.
    pub fn scaled(&self, power: i32) -> Option<u128> {
        let text = match self {
            Value::Number(text) => text,
            Value::Text { bytes, whole: true } => bytes,
            _ => return None,
        };
        let (mut number, exponent) = decimal(text)?;
        let exponent = exponent.checked_add(power)?;
        if exponent < -40 {
            return Some(0);
        }
        for _ in 0..exponent.unsigned_abs() {
            number = if exponent > 0 { number.checked_mul(10)? } else { number / 10 };
        }
        Some(number)
    }
}

/// Digits as a whole number, and the power of ten it is to be multiplied with.
fn decimal(text: &[u8]) -> Option<(u128, i32)> {
    let (mut number, mut exponent, mut digits, mut fraction) = (0u128, 0i32, 0u32, false);
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b'0'..=b'9' => {
                digits += 1;
                exponent = exponent.checked_sub(i32::from(fraction))?;
                match number.checked_mul(10).and_then(|tens| tens.checked_add(u128::from(byte - b'0'))) {
                    Some(more) => number = more,
                    // More digits than any amount has: the rest only moves the point.
                    None => exponent = exponent.checked_add(1)?,
                }
            }
            b'.' if !fraction => fraction = true,
            b'e' | b'E' => {
                let written: i32 = std::str::from_utf8(after).ok()?.parse().ok()?;
                exponent = exponent.checked_add(written)?;
                break;
            }
            _ => return None,
        }
        rest = after;
    }
    if number == 0 {
        exponent = 0;
    }
    (digits > 0 && exponent.abs() <= 80).then_some((number, exponent))
}
