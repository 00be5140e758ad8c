//! Where in a file the probes of each call stand: at the call's own function, or behind it.
//!
//! Pure: what is exported and how code is read come in, addresses go out. [`super::prologue`] shows what may be moved.

use std::collections::BTreeMap;

use abi::attacher::Hook;
use iced_x86::Register;

use super::prologue::{Code, FIFTH, FOURTH, cheap_entry, hands_on_to};

/// Wrappers around a function that are looked through.
const WRAPPERS_MAX: usize = 3;

/// A function of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) address: u64,
    /// Bytes, where a symbol says.
    pub(super) size: Option<u64>,
}

/// Address of the probe of each hook: the function's first byte, or better (see [`super::prologue`]).
///
/// In most builds of OpenSSL 1.1 and 3 both variants of a call are thin wrappers around one inner function whose result
/// is that of the `_ex` variant: one probe there sees the calls of both.
pub(super) fn probed(
    exported: &BTreeMap<Hook, Function>,
    mut code_of: impl FnMut(Function) -> Option<Code>,
) -> BTreeMap<Hook, u64> {
    let mut probed: BTreeMap<Hook, u64> = exported
        .iter()
        .map(|(hook, function)| {
            let cheap = code_of(*function).and_then(|code| cheap_entry(&code, FOURTH));
            (*hook, cheap.unwrap_or(function.address))
        })
        .collect();
    for (ex, plain) in [(Hook::SslWriteEx, Hook::SslWrite), (Hook::SslReadEx, Hook::SslRead)] {
        let Some(inner) = exported.get(&ex).and_then(|wrapper| innermost(*wrapper, &mut code_of)) else {
            continue;
        };
        // A call of the plain variant must pass the inner function too, or it would count twice or not at all.
        let both = exported.get(&plain).is_none_or(|plain| {
            code_of(*plain).is_some_and(|code| code.whole && code.leads_to(inner.function))
        });
        let hook = match (ex, inner.fourth) {
            (ex, FOURTH) => ex,
            (Hook::SslWriteEx, FIFTH) => Hook::SslWriteEx2,
            _ => continue,
        };
        if both {
            probed.remove(&plain);
            probed.remove(&ex);
            probed.insert(hook, inner.place);
        }
    }
    probed
}

/// The function behind wrappers.
struct Inner {
    function: u64,
    /// Where it is probed.
    place: u64,
    /// Register of what is the wrapper's fourth argument.
    fourth: Register,
}

/// The function that does what a wrapper is called for, if it can be probed cheaply and the wrapper cannot.
fn innermost(wrapper: Function, code_of: &mut impl FnMut(Function) -> Option<Code>) -> Option<Inner> {
    let (mut code, mut fourth) = (code_of(wrapper)?, FOURTH);
    if cheap_entry(&code, fourth).is_some() {
        return None;
    }
    for _ in 0..WRAPPERS_MAX {
        let function;
        (function, fourth) = hands_on_to(&code, fourth)?;
        code = code_of(Function { address: function, size: None })?;
        if let Some(place) = cheap_entry(&code, fourth) {
            return Some(Inner { function, place, fourth });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts of functions as their builds have them: symbols, inner functions, and where the probes belong.
    #[test]
    fn each_build_is_probed_where_it_is_cheap() {
        let check =
            |build: &str, symbols: &[(Hook, u64, &str)], inner: &[(u64, &str)], expected: &[(Hook, u64)]| {
                let bytes = |hex: &str| -> Vec<u8> {
                    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("text"));
                    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
                };
                let code: Vec<(u64, Vec<u8>)> = symbols
                    .iter()
                    .map(|(_, address, hex)| (*address, bytes(hex)))
                    .chain(inner.iter().map(|(address, hex)| (*address, bytes(hex))))
                    .collect();
                let code_of = |function: Function| {
                    let (address, bytes) = code.iter().find(|(address, _)| *address == function.address)?;
                    Some(Code { address: *address, bytes: bytes.clone(), whole: function.size.is_some() })
                };
                let exported = symbols
                    .iter()
                    .map(|(hook, address, _)| (*hook, Function { address: *address, size: Some(1) }))
                    .collect();
                let probed: Vec<_> = probed(&exported, code_of).into_iter().collect();
                assert_eq!(probed, expected, "{build}");
            };
        let write_ex =
            (Hook::SslWriteEx, 0x35a10, "4883ec08e887fbffff31d285c00f48c24883c40831d231c931f631ffc3");
        let write = (
            Hook::SslWrite,
            0x35980,
            "4883ec1864488b042528000000488944240831c085d2782f4889e14863d2e8fdfbffff85c07e038b",
        );
        let inner = (0x355a0, "41564155415455534883ec3064488b042528000000488944");
        let debian = "OpenSSL 3.0 of Debian 12";
        check(debian, &[write_ex, write], &[inner], &[(Hook::SslWriteEx, 0x355a0)]);
        check(debian, &[write_ex], &[inner], &[(Hook::SslWriteEx, 0x355a0)]);
        check(debian, &[write], &[inner], &[(Hook::SslWrite, 0x35980)]);
        check(
            "its plain variant going another way",
            &[write_ex, (Hook::SslWrite, 0x35980, "4883ec184883c418c3")],
            &[inner],
            &[(Hook::SslWrite, 0x35980), (Hook::SslWriteEx, 0x35a10)],
        );
        check(
            "its inner function beginning with nothing cheap",
            &[write_ex, write],
            &[(0x355a0, "4883ec3064488b0425280000004889")],
            &[(Hook::SslWrite, 0x35980), (Hook::SslWriteEx, 0x35a10)],
        );
        check(
            debian,
            &[
                (Hook::SslReadEx, 0x354c0, "4883ec08e8c7fdffff31d285c00f48c24883c40831d231c931f631ffc3"),
                (
                    Hook::SslRead,
                    0x35430,
                    "4883ec1864488b042528000000488944240831c085d2782f4889e14863d2e83dfeffff85c07e038b",
                ),
            ],
            &[(0x35290, "4155415455534883ec3864488b0425280000004889442428")],
            &[(Hook::SslReadEx, 0x35290)],
        );
        check(
            "OpenSSL 3.5 in a wheel for manylinux",
            &[
                (Hook::SslReadEx, 0x3bee0, "4883ec08e8d7fdffffba0000000085c00f48c24883c408c3"),
                (
                    Hook::SslRead,
                    0x3be80,
                    "4883ec1885d27819488d4c24084863d2e82bfeffff85c00f4f4424084883c418c3",
                ),
                (Hook::SslWriteEx, 0x3c5e0, "4989c831c9e9d6ffffff"),
                (
                    Hook::SslWrite,
                    0x3c560,
                    "4883ec1885d2781b31c94863d24c8d442408e879fcffff85c00f4f4424084883c418c3",
                ),
                (Hook::SslCtrl, 0x3d0e0, "4531c0e968fbffff"),
                (Hook::SslFree, 0x440c0, "4885ff746355b8ffffffff4889fdf00fc14720"),
            ],
            &[
                (0x3bcc0, "415741564155415455534883ec384885ff0f84910000008b"),
                (0x3c5c0, "4883ec08e827fcffffba0000000085c00f48c24883c408c3"),
                (0x3c1f0, "415741564155415455534883ec484885ff0f84a10000008b"),
            ],
            &[
                (Hook::SslCtrl, 0x3d0e3),
                (Hook::SslFree, 0x440c3),
                (Hook::SslReadEx, 0x3bcc0),
                (Hook::SslWriteEx2, 0x3c1f0),
            ],
        );
        check(
            "Node 20",
            &[
                (Hook::SslWrite, 0x1a6b940, "554889e54156415541544883ec4885d20f881d010000"),
                (Hook::SslWriteEx, 0x1a6bb20, "554889e54157415641554154534883ec3848837f3000"),
            ],
            &[],
            &[(Hook::SslWrite, 0x1a6b940), (Hook::SslWriteEx, 0x1a6bb20)],
        );
    }
}
