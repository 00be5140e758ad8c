//! AWS event stream beside `aws-smithy-eventstream`.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use meter::http::eventstream::EventStream;
use proptest::prelude::*;

/// Kind, name and payload.
type Seen = (String, String, Vec<u8>);

fn header() -> impl Strategy<Value = Header> {
    let name = prop::sample::select(vec![":content-type", "x", ":event-typ", "a-very-long-name-of-a-header"]);
    let value = prop_oneof![
        any::<bool>().prop_map(HeaderValue::Bool),
        any::<i8>().prop_map(HeaderValue::Byte),
        any::<i16>().prop_map(HeaderValue::Int16),
        any::<i32>().prop_map(HeaderValue::Int32),
        any::<i64>().prop_map(HeaderValue::Int64),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| HeaderValue::ByteArray(bytes.into())),
        "[ -~é]{0,40}".prop_map(|text| HeaderValue::String(text.into())),
        (0i64..4_000_000_000)
            .prop_map(|seconds| HeaderValue::Timestamp(aws_smithy_types::DateTime::from_secs(seconds))),
        any::<u128>().prop_map(HeaderValue::Uuid),
    ];
    (name, value).prop_map(|(name, value)| Header::new(name, value))
}

/// A message and what is to be seen of it.
fn message() -> impl Strategy<Value = (Message, Seen)> {
    let kind = prop::sample::select(vec![
        ("event", ":event-type"),
        ("exception", ":exception-type"),
        ("error", ":error-code"),
    ]);
    let name =
        prop::sample::select(vec!["chunk", "metadata", "contentBlockDelta", "throttlingException", ""]);
    let large = (0usize..80_000).prop_map(|len| vec![b'p'; len]);
    let payload = prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..400), 1 => large];
    let others = || prop::collection::vec(header(), 0..5);
    (kind, name, payload, others(), others()).prop_map(
        |((kind, name_field), name, payload, before, after)| {
            let text = |text: &'static str| HeaderValue::String(text.into());
            let mut message = Message::new(payload.clone());
            for header in before {
                message = message.add_header(header);
            }
            message = message.add_header(Header::new(":message-type", text(kind)));
            message = message.add_header(Header::new(name_field, text(name)));
            for header in after {
                message = message.add_header(header);
            }
            (message, (kind.to_owned(), name.to_owned(), payload))
        },
    )
}

fn read(stream: &mut EventStream, bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let (mut seen, mut rest) = (Vec::new(), bytes);
    for size in cuts.iter().cycle() {
        let (piece, later) = rest.split_at((*size).min(rest.len()));
        stream.push(piece, &mut |message| {
            seen.push((message.kind.to_owned(), message.name.to_owned(), message.payload.to_vec()));
        });
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    seen
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn messages_are_read_as_they_were_written(
        messages in prop::collection::vec(message(), 0..6),
        cuts in prop::collection::vec(1usize..700, 1..6),
        flip in prop::option::weighted(0.3, (any::<prop::sample::Index>(), 0u8..8)),
    ) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (message, _) in &messages {
            write_message_to(message, &mut bytes).expect("it fits");
            ends.push(bytes.len());
        }
        let mut whole = messages.len();
        if let Some((at, bit)) = flip
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            whole = ends.iter().filter(|end| **end <= at).count();
        }
        let mut stream = EventStream::default();
        let seen = read(&mut stream, &bytes, &cuts);
        // Messages too large to matter are passed over unread.
        let lengths: Vec<usize> = std::iter::once(&0).chain(&ends).zip(&ends).map(|(from, upto)| upto - from).collect();
        let wanted: Vec<Seen> = messages.iter().zip(&lengths).take(whole)
            .filter(|(_, length)| **length <= meter::limits::EVENT_MESSAGE_MAX)
            .map(|((_, seen), _)| seen.clone())
            .collect();
        // A flipped bit in a message that is passed over is nobody's business.
        let passed = lengths.get(whole).is_some_and(|length| *length > meter::limits::EVENT_MESSAGE_MAX);
        if !passed {
            prop_assert_eq!(&seen, &wanted);
        }
        prop_assert!(seen.starts_with(&wanted));
        prop_assert!(flip.is_some() || !stream.is_broken());
    }
}
