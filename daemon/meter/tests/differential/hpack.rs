//! HPACK beside `loona-hpack`: blocks that it made, and blocks that nobody made.

use meter::http::hpack::{Decoder, Fields};
use meter::limits::Budget;
use proptest::prelude::*;

type List = Vec<(Vec<u8>, Vec<u8>)>;

/// What ours says of a block: its fields, or that it is broken. `None`: it refers to what was never seen, or is beyond
/// the bounds, on which the other has an opinion of its own.
fn ours(decoder: &mut Decoder, block: &[u8]) -> Option<Result<List, ()>> {
    let mut fields = Fields::default();
    match decoder.decode(block, &mut fields, &Budget::new()) {
        Ok(()) if fields.unknown > 0 => None,
        Ok(()) => Some(Ok(fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect())),
        Err(_) => Some(Err(())),
    }
}

fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let name = prop::sample::select(vec![
        ":method",
        ":path",
        ":status",
        "accept-encoding",
        "cookie",
        "x-a",
        "x-b",
        "authorization",
        "content-length",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec!["GET", "POST", "/", "200", "gzip, deflate", ""])
            .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..60),
        (0usize..5_000).prop_map(|len| vec![b'q'; len]),
    ];
    (name.prop_map(|name| name.as_bytes().to_vec()), value)
}

/// An integer of RFC 7541, 5.1.
fn integer(flags: u8, prefix: u32, value: usize) -> Vec<u8> {
    let most = (1usize << prefix) - 1;
    if value < most {
        return vec![flags | value as u8];
    }
    let (mut bytes, mut rest) = (vec![flags | most as u8], value - most);
    while rest >= 0x80 {
        bytes.push(rest as u8 & 0x7f | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// One instruction of a block, well formed in itself but for its strings.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let text = || {
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..12)).prop_map(|(packed, bytes)| {
            [integer(if packed { 0x80 } else { 0 }, 7, bytes.len()), bytes].concat()
        })
    };
    prop_oneof![
        (0usize..70).prop_map(|index| integer(0x80, 7, index)),
        (1usize..70, text()).prop_map(|(index, value)| [integer(0x40, 6, index), value].concat()),
        (text(), text()).prop_map(|(name, value)| [vec![0x40], name, value].concat()),
        (prop::sample::select(vec![0u8, 0x10]), 1usize..70, text()).prop_map(|(flags, index, value)| [
            integer(flags, 4, index),
            value
        ]
        .concat()),
        (prop::sample::select(vec![0u8, 0x10]), text(), text()).prop_map(|(flags, name, value)| [
            vec![flags],
            name,
            value
        ]
        .concat()),
    ]
}

/// A block: sizes of the table stand at its beginning (the other takes them elsewhere too).
fn block() -> impl Strategy<Value = Vec<u8>> {
    let size = (0usize..4_097).prop_map(|size| integer(0x20, 5, size));
    (prop::collection::vec(size, 0..2), prop::collection::vec(instruction(), 1..10))
        .prop_map(|(sizes, instructions)| [sizes.concat(), instructions.concat()].concat())
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn what_another_encoder_makes_is_read(
        blocks in prop::collection::vec(prop::collection::vec(field(), 0..12), 1..8),
    ) {
        let mut encoder = loona_hpack::Encoder::new();
        let mut decoder = Decoder::default();
        for fields in blocks {
            let block = encoder.encode(fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
            prop_assert_eq!(ours(&mut decoder, &block), Some(Ok(fields)));
        }
    }

    #[test]
    fn any_block_is_read_as_another_decoder_reads_it(
        blocks in prop::collection::vec(block(), 1..6),
    ) {
        let (mut theirs, mut decoder) = (loona_hpack::Decoder::new(), Decoder::default());
        for block in blocks {
            let mut list = List::new();
            let other = theirs.decode_with_cb(&block, |name, value| list.push((name.to_vec(), value.to_vec())));
            match (other, ours(&mut decoder, &block)) {
                (Ok(()), Some(seen)) => prop_assert_eq!(seen, Ok(list), "{:02x?}", block),
                (Ok(()), None) => prop_assert!(list.iter().any(|(name, _)| name.is_empty()), "{:02x?}", block),
                // After a broken block neither can go on.
                (Err(_), Some(Err(())) | None) => break,
                (Err(error), Some(Ok(seen))) => prop_assert!(false, "{:02x?}: {:?} but {:?}", block, error, seen),
            }
        }
    }
}
