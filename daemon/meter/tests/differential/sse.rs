//! Server-sent events beside the crate `sse-stream`.

use futures::StreamExt;
use meter::http::sse::{Events, Sse};
use proptest::prelude::*;
use sse_stream::SseByteStream;

use crate::tape::converse;

/// Names and data.
#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    events: Vec<(String, String)>,
    data: Vec<u8>,
}

impl Events for Log {
    fn data(&mut self, part: &[u8]) {
        self.data.extend_from_slice(part);
    }

    fn dispatch(&mut self, name: &[u8]) {
        let name = if name.is_empty() { b"message" } else { name };
        let data = std::mem::take(&mut self.data);
        self.events
            .push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(&data).into_owned()));
    }
}

fn ours(text: &str, cuts: &[usize]) -> Vec<(String, String)> {
    let (mut sse, mut log, mut rest) = (Sse::default(), Log::default(), text.as_bytes());
    for size in cuts.iter().cycle() {
        let (piece, later) = rest.split_at((*size).min(rest.len()));
        sse.push(piece, &mut log);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    log.events
}

/// Blocks with data are the events.
fn theirs(text: &str) -> Vec<(String, String)> {
    let bytes = futures::stream::iter([Ok::<_, std::convert::Infallible>(text.as_bytes())]);
    let blocks: Vec<_> = converse(SseByteStream::new(bytes).collect());
    let blocks = blocks.into_iter().map(|block| block.expect("text never fails"));
    let named =
        |name: Option<String>| name.filter(|name| !name.is_empty()).unwrap_or_else(|| "message".to_owned());
    blocks.filter_map(|block| Some((named(block.event), block.data?))).collect()
}

fn line() -> impl Strategy<Value = String> {
    let name =
        prop::sample::select(vec!["data", "event", "id", "retry", "", "dat", "datas", "events", "Data", "x"]);
    let colon = prop::sample::select(vec![":", ": ", ":  ", ""]);
    let value = prop::sample::select(vec![
        "",
        "a",
        "{\"b\":1}",
        "c: d",
        " e",
        "[DONE]",
        "é😀",
        "12",
        "message_stop",
        ":",
    ]);
    (name, colon, value).prop_map(|(name, colon, value)| match colon {
        "" => name.to_owned(),
        _ => format!("{name}{colon}{value}"),
    })
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["\n", "\r\n", "\r", "\n\n", "\r\n\r\n", "\r\r"])
}

proptest! {
    #![proptest_config(crate::cases(512))]

    #[test]
    fn events_are_read_as_another_parser_reads_them(
        mark: bool,
        lines in prop::collection::vec((line(), line_end()), 0..14),
        cuts in prop::collection::vec(1usize..30, 1..6),
    ) {
        let mut text = if mark { "\u{feff}".to_owned() } else { String::new() };
        for (line, end) in &lines {
            text.push_str(line);
            text.push_str(end);
        }
        prop_assert_eq!(ours(&text, &cuts), theirs(&text), "{:?}", text);
    }
}
