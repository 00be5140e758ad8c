//! HPACK beside other implementations: blocks that `loona-hpack` and, Huffman coded, `httlib-hpack` made, and blocks that
//! nobody made.

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

/// A block with one field, Huffman coded.
fn packed(value: &[u8]) -> Vec<u8> {
    let form = httlib_hpack::Encoder::HUFFMAN_NAME | httlib_hpack::Encoder::HUFFMAN_VALUE;
    let mut block = Vec::new();
    let coded = httlib_hpack::Encoder::default().encode((b"a".to_vec(), value.to_vec(), form), &mut block);
    coded.expect("a block");
    block
}

/// Of `block`, what both say of it alone: its values, or that it is broken.
fn alone(block: &[u8]) -> [Option<Vec<Vec<u8>>>; 2] {
    let mut list = Vec::new();
    let theirs = loona_hpack::Decoder::new().decode_with_cb(block, |_, value| list.push(value.to_vec()));
    let ours = ours(&mut Decoder::default(), block).expect("it refers to nothing").ok();
    [theirs.ok().map(|()| list), ours.map(|fields| fields.into_iter().map(|(_, value)| value).collect())]
}

#[test]
fn every_symbol_is_unpacked() {
    let one = (0..=u8::MAX).map(|symbol| vec![symbol]);
    let several = (0..=u8::MAX).map(|symbol| vec![symbol, b'a', symbol, symbol, b'\n', symbol, 0xff]);
    for value in one.chain(several).chain([(0..=u8::MAX).collect(), Vec::new()]) {
        assert_eq!(alone(&packed(&value)), [Some(vec![value.clone()]), Some(vec![value])]);
    }
}

/// What a Huffman coded string may not be (RFC 7541, 5.2): padded with more than seven bits, with others than ones, or
/// with the end of string in it.
#[test]
fn strings_that_are_not_packed_are_told_alike() {
    // Each behind 0 to 7 bits of whole symbols: `0` has five bits, all of them zeros.
    let ends: [&[u8]; 7] = [&[], &[0xff], &[0xff; 3], &[0xff; 4], &[0xff; 5], &[0x00], &[0xfe]];
    for begun in 0..8 {
        for (end, last) in ends.iter().flat_map(|end| (0..=u8::MAX).map(move |last| (end, last))) {
            let string = [&vec![0; begun * 5 / 8], &[last][..], end].concat();
            let block = [&[0x00, 0x01, b'a', 0x80 | string.len() as u8], &string[..]].concat();
            let [theirs, ours] = alone(&block);
            assert_eq!(ours, theirs, "{string:02x?}");
        }
    }
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
    fn what_was_packed_is_unpacked(value in prop::collection::vec(any::<u8>(), 0..3_000)) {
        prop_assert_eq!(alone(&packed(&value)), [Some(vec![value.clone()]), Some(vec![value])]);
    }

    #[test]
    fn any_string_is_unpacked_as_another_unpacks_it(
        text in "[ -~]{0,40}",
        (at, bit) in (any::<prop::sample::Index>(), 0..8),
        more in prop::collection::vec(prop::sample::select(vec![0xff, 0x00, 0xfe, 0x7f]), 0..5),
    ) {
        // The string whole, with more behind it, and with that and one bit another. Its length is the fourth byte.
        let whole = packed(text.as_bytes());
        let [name, string] = [&whole[..3], &whole[4..]];
        prop_assume!(whole[3] & 0x7f == string.len() as u8 && !string.is_empty());
        let mut damaged = [string, &more].concat();
        let at = at.index(damaged.len());
        damaged[at] ^= 1u8 << bit;
        for string in [string.to_vec(), [string, &more].concat(), damaged] {
            let block = [name, &[0x80 | string.len() as u8], &string].concat();
            let [theirs, ours] = alone(&block);
            prop_assert_eq!(ours, theirs, "{:02x?}", string);
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
