//! WebSocket: frames, holes and answers, as a table of scripts, each over a connection of its own and in a stream of HTTP/2.

use meter::exchange::{Exchange, Reason, Word};
use meter::pipeline::Direction::{self, Received, Sent};

use crate::harness::{Driver, tokens};
use crate::http2::{PREFACE, block, frame as h2_frame};

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// A connection that was upgraded (RFC 6455).
    Connection,
    /// A stream that was asked for with CONNECT (RFC 8441).
    Stream,
}

/// A whole session: its handshake, in which both sides agree on `extension`, and what follows.
fn session(carrier: Carrier, extension: &str, steps: &[Do]) -> Vec<Do> {
    match carrier {
        Carrier::Connection => [handshake(extension).as_slice(), steps].concat(),
        Carrier::Stream => {
            let agreed = |head: &[(&'static str, &'static str)]| {
                let extensions = extension.split("\r\nSec-WebSocket-Extensions: ");
                let more: Vec<u8> =
                    extensions.flat_map(|value| block(&[("sec-websocket-extensions", value)])).collect();
                h2_frame(1, 4, 1, &[block(head), more].concat())
            };
            let ask = agreed(&[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "https"),
                (":path", "/v1/realtime?model=gpt-realtime"),
                (":authority", "api.openai.com"),
            ]);
            // SETTINGS_ENABLE_CONNECT_PROTOCOL.
            let settings = h2_frame(4, 0, 0, &[0, 8, 0, 0, 0, 1]);
            let begin = [
                Do::Bytes(Sent, [PREFACE, &h2_frame(4, 0, 0, &[]), &ask].concat()),
                Do::Bytes(Received, [settings, agreed(&[(":status", "200")])].concat()),
            ];
            begin.into_iter().chain(steps.iter().flat_map(in_stream)).collect()
        }
    }
}

/// A step as DATA of a stream. Of what is lost the head of its frame is seen.
fn in_stream(step: &Do) -> Vec<Do> {
    match step {
        Do::Bytes(direction, bytes) => vec![Do::Bytes(*direction, h2_frame(0, 0, 1, bytes))],
        Do::Lose(direction, bytes) => {
            let mut head = h2_frame(0, 0, 1, &vec![0; *bytes as usize]);
            head.truncate(9);
            vec![Do::Bytes(*direction, head), Do::Lose(*direction, *bytes)]
        }
    }
}

fn handshake(extension: &str) -> Vec<Do> {
    let request = format!(
        "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: api.openai.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Extensions: {extension}\r\n\r\n"
    );
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Extensions: {extension}\r\n\r\n"
    );
    vec![Do::Bytes(Sent, request.into_bytes()), Do::Bytes(Received, response.into_bytes())]
}

#[derive(Clone)]
enum Do {
    Bytes(Direction, Vec<u8>),
    Lose(Direction, u64),
}

fn frame(direction: Direction, head: u8, payload: &[u8]) -> Do {
    Do::Bytes(direction, frame_bytes(direction, head, payload))
}

/// A frame as its side writes it.
pub(crate) fn frame_bytes(direction: Direction, head: u8, payload: &[u8]) -> Vec<u8> {
    let mask_bit = if direction == Sent { 0x80 } else { 0 };
    let mut bytes = vec![head];
    match payload.len() {
        0..=125 => bytes.push(mask_bit | payload.len() as u8),
        126..=0xffff => {
            bytes.push(mask_bit | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask_bit | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let mask: &[u8] = if direction == Sent { &[0x12, 0x34, 0x56, 0x78] } else { &[0] };
    if direction == Sent {
        bytes.extend(mask);
    }
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn sent(text: &str) -> Do {
    frame(Sent, 0x81, text.as_bytes())
}

fn received(text: &str) -> Do {
    frame(Received, 0x81, text.as_bytes())
}

fn ask() -> Do {
    sent("{\"type\":\"response.create\"}")
}

fn begin() -> Do {
    received("{\"type\":\"response.created\",\"response\":{\"id\":\"r\"}}")
}

fn delta() -> Do {
    received(&format!("{{\"type\":\"response.output_text.delta\",\"delta\":\"marker {}\"}}", "x".repeat(200)))
}

fn usage(input: u64) -> String {
    format!(
        "{{\"type\":\"response.done\",\"response\":{{\"status\":\"completed\",\"usage\":{{\"input_tokens\":{input},\
         \"output_tokens\":2,\"input_token_details\":{{\"cached_tokens\":1}}}}}}}}"
    )
}

fn done(input: u64) -> Do {
    received(&usage(input))
}

/// The first half of a frame's bytes, a hole, and the rest.
fn with_hole(whole: Do, from: usize, len: usize) -> [Do; 3] {
    let Do::Bytes(direction, bytes) = whole else { unreachable!("a frame") };
    [
        Do::Bytes(direction, bytes[..from].to_vec()),
        Do::Lose(direction, len as u64),
        Do::Bytes(direction, bytes[from + len..].to_vec()),
    ]
}

/// Messages as one side deflates them, each with a fresh window or all with one.
pub(crate) struct Deflater {
    window: flate2::Compress,
    fresh: bool,
}

impl Deflater {
    pub(crate) fn new(fresh: bool) -> Deflater {
        Deflater { window: flate2::Compress::new(flate2::Compression::default(), false), fresh }
    }

    pub(crate) fn message(&mut self, text: &str) -> Vec<u8> {
        if self.fresh {
            self.window.reset();
        }
        let mut bytes = Vec::with_capacity(text.len() + 1024);
        self.window.compress_vec(text.as_bytes(), &mut bytes, flate2::FlushCompress::Sync).expect("memory");
        bytes.truncate(bytes.len() - 4);
        bytes
    }
}

fn deflated(texts: &[&str], fresh: bool) -> Vec<Vec<u8>> {
    let mut deflater = Deflater::new(fresh);
    texts.iter().map(|text| deflater.message(text)).collect()
}

/// Each step in pieces of at most `cut`.
fn play(driver: &mut Driver, script: &[Do], cut: usize) {
    for step in script {
        match step {
            Do::Bytes(direction, bytes) => bytes.chunks(cut.min(1 << 20)).for_each(|piece| match direction {
                Sent => driver.sent(piece),
                Received => driver.received(piece),
            }),
            Do::Lose(direction, bytes) => driver.gap(*direction, *bytes),
        }
    }
}

/// Each exchange as `operation tokens reason`.
fn told(exchanges: &[Exchange]) -> Vec<String> {
    let told = |exchange: &Exchange| {
        let reason = exchange.reason.map_or("ok", Reason::as_str);
        format!("{} {} {reason}", exchange.operation, tokens(exchange))
    };
    exchanges.iter().map(told).collect()
}

/// Runs a session in one piece per step and in small pieces; compares what is told of each exchange.
fn check(name: &str, extension: &str, steps: &[Do], expected: &[&str]) {
    for (carrier, cut) in [Carrier::Connection, Carrier::Stream]
        .into_iter()
        .flat_map(|carrier| [usize::MAX, 1, 7].map(|cut| (carrier, cut)))
    {
        let script = &session(carrier, extension, steps);
        // A place that was lost is found again where a piece is nothing but frames: single bytes never are.
        if cut < usize::MAX && name.contains("resynchronised") {
            continue;
        }
        let mut driver = Driver::new("api.openai.com", false);
        play(&mut driver, script, cut);
        driver.close();
        let outcome = driver.outcome();
        assert!(!outcome.printed.contains("marker"), "{name}: a body shows itself");
        assert_eq!(told(&outcome.exchanges), expected, "{name}, {carrier:?}, cut {cut}: {:?}", outcome.lost);
        let ordinals: Vec<u32> = outcome.exchanges.iter().map(|exchange| exchange.ordinal).collect();
        assert_eq!(ordinals, (0..expected.len() as u32).collect::<Vec<u32>>(), "{name}");
        let lost: u64 =
            script.iter().map(|step| if let Do::Lose(_, bytes) = step { *bytes } else { 0 }).sum();
        assert!(outcome.lost_bytes() >= lost && outcome.lost_bytes() <= driver.moved(), "{name}");
        if lost == 0 && !name.contains("not a frame") {
            assert_eq!(outcome.lost_bytes(), 0, "{name}: {:?}", outcome.lost);
        }
    }
}

#[test]
fn each_answer_of_a_session_is_an_exchange() {
    let one = "realtime 5,2,1,-,- ok";
    let transcribed = "{\"type\":\"conversation.item.input_audio_transcription.completed\",\"transcript\":\"marker\",\
                       \"usage\":{\"type\":\"tokens\",\"input_tokens\":8,\"output_tokens\":3}}";
    for (name, steps, expected) in [
        ("one", vec![ask(), begin(), delta(), done(5)], vec![one]),
        (
            "several",
            vec![ask(), begin(), delta(), done(5), ask(), begin(), done(6)],
            vec![one, "realtime 6,2,1,-,- ok"],
        ),
        ("without being asked for", vec![begin(), done(5)], vec![one]),
        ("seen only at its end", vec![done(5)], vec![one]),
        (
            "in fragments, with control frames between",
            vec![
                ask(),
                begin(),
                frame(Received, 0x01, &usage(5).as_bytes()[..40]),
                frame(Received, 0x89, b"ping"),
                frame(Sent, 0x8a, b"ping"),
                frame(Received, 0x00, b""),
                frame(Received, 0x80, &usage(5).as_bytes()[40..]),
                frame(Received, 0x88, &[3, 0xe8]),
                frame(Sent, 0x88, &[3, 0xe8]),
            ],
            vec![one],
        ),
        ("broken off", vec![ask(), begin(), delta()], vec!["realtime -,-,-,-,- interrupted"]),
        ("never answered", vec![ask()], vec!["realtime -,-,-,-,- no_response"]),
        ("nothing asked", vec![frame(Received, 0x89, b"")], vec!["realtime -,-,-,-,- not_inference"]),
        (
            "without usage",
            vec![begin(), received("{\"response\":{\"usage\":{}},\"type\":\"response.done\"}")],
            vec!["realtime -,-,-,-,- not_reported"],
        ),
        (
            "what the user said is transcribed apart",
            vec![received(transcribed), begin(), done(5)],
            vec!["transcription 8,3,-,-,- ok", one],
        ),
        (
            "not a frame",
            vec![ask(), begin(), Do::Bytes(Received, vec![0xff; 40])],
            vec!["realtime -,-,-,-,- gap"],
        ),
    ] {
        check(name, "", &steps, &expected);
    }
}

#[test]
fn deflated_messages_are_read() {
    let texts = [&*usage(5), "{\"type\":\"response.created\"}", &*usage(5), &*usage(6)];
    let expected = ["realtime 5,2,1,-,- ok", "realtime 5,2,1,-,- ok", "realtime 6,2,1,-,- ok"];
    for (extension, fresh) in [
        ("permessage-deflate", false),
        ("permessage-deflate; client_max_window_bits=12; server_max_window_bits=15", false),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", true),
        (
            "x-other; a=b\r\nSec-WebSocket-Extensions: x-more, permessage-deflate;server_no_context_takeover",
            true,
        ),
    ] {
        let frames = deflated(&texts, fresh).into_iter().map(|bytes| frame(Received, 0xc1, &bytes));
        check(extension, extension, &frames.collect::<Vec<_>>(), &expected);
        // Deflating is each message's choice.
        let mixed = [frame(Received, 0xc1, &deflated(&[&usage(5)], true)[0]), done(6)];
        check(extension, extension, &mixed, &expected[1..]);
    }
}

#[test]
fn holes_stay_with_their_message() {
    let gap = "realtime -,-,-,-,- gap";
    let packed = |fresh: bool| {
        let texts = [&*usage(5), &*usage(6), &*usage(7)];
        let frames: Vec<Do> =
            deflated(&texts, fresh).into_iter().map(|bytes| frame(Received, 0xc1, &bytes)).collect();
        let [first, second, third] = frames.try_into().unwrap_or_else(|_| unreachable!("three"));
        let mut script = vec![first];
        script.extend(with_hole(second, 5, 3));
        script.push(third);
        script
    };
    let one = "realtime 5,2,1,-,- ok";
    for (name, extension, steps, expected) in [
        (
            "in output",
            "",
            [vec![begin()], with_hole(delta(), 60, 50).to_vec(), vec![done(5)]].concat(),
            vec![one],
        ),
        ("in usage", "", [vec![begin()], with_hole(done(5), 60, 20).to_vec()].concat(), vec![gap]),
        (
            "across frames: resynchronised at the next write",
            "",
            [vec![begin()], with_hole(delta(), 60, 150).to_vec(), vec![Do::Lose(Received, 300), done(5)]]
                .concat(),
            vec![one],
        ),
        (
            "a whole answer: resynchronised, and told",
            "",
            vec![ask(), begin(), Do::Lose(Received, 300), ask(), begin(), done(5)],
            vec![one, gap],
        ),
        (
            "with windows that begin anew",
            "permessage-deflate; server_no_context_takeover",
            packed(true),
            vec![one, "realtime 7,2,1,-,- ok"],
        ),
        ("with a window that is kept", "permessage-deflate", packed(false), vec![one]),
    ] {
        check(name, extension, &steps, &expected);
    }
}

#[test]
fn bytes_are_counted_as_they_travel() {
    let packed = deflated(&[&usage(5)], true).concat();
    assert!(packed.len() < usage(5).len());
    let asked = "{\"type\":\"response.create\"}";
    for (extension, payload, head) in
        [("", usage(5).into_bytes(), 0x81), ("permessage-deflate", packed, 0xc1)]
    {
        for carrier in [Carrier::Connection, Carrier::Stream] {
            let mut driver = Driver::new("api.openai.com", false);
            let steps = [sent(asked), frame(Received, 0x89, b"ping"), frame(Received, head, &payload)];
            play(&mut driver, &session(carrier, extension, &steps), usize::MAX);
            let outcome = driver.outcome();
            assert_eq!(outcome.one().request_bytes, Some(asked.len() as u64), "{carrier:?} {extension}");
            assert_eq!(outcome.one().response_bytes, Some(payload.len() as u64), "{carrier:?} {extension}");
        }
    }
}

#[test]
fn each_stream_of_a_connection_is_a_session_of_its_own() {
    let head = |stream: u32, protocol: &str| {
        let asked =
            [(":method", "CONNECT"), (":protocol", protocol), (":path", "/v1/realtime"), (":authority", "a")];
        h2_frame(1, 4, stream, &block(&asked))
    };
    let data = |step: Do, stream: u32| {
        let Do::Bytes(_, bytes) = step else { unreachable!("a frame") };
        h2_frame(0, 0, stream, &bytes)
    };
    let mut driver = Driver::new("api.openai.com", false);
    driver.sent(&[PREFACE, &head(1, "websocket"), &head(3, "WebSocket"), &head(5, "connect-udp")].concat());
    let [one, three, five] = [1, 3, 5].map(|stream| h2_frame(1, 4, stream, &[0x88]));
    driver.received(&[one, three, five, h2_frame(0, 1, 5, b"{}")].concat());
    driver.sent(&[data(ask(), 1), data(ask(), 3)].concat());
    driver.received(&[data(begin(), 1), data(done(3), 3), data(done(1), 1)].concat());
    // One ends, one is reset.
    driver.received(&[h2_frame(0, 1, 3, &[]), data(begin(), 1), h2_frame(3, 0, 1, &[0, 0, 0, 8])].concat());
    let outcome = driver.outcome();
    let mut seen = told(&outcome.exchanges);
    seen.sort();
    let expected = [
        "other -,-,-,-,- not_inference",
        "realtime -,-,-,-,- interrupted",
        "realtime 1,2,1,-,- ok",
        "realtime 3,2,1,-,- ok",
    ];
    assert_eq!(seen, expected);
    assert_eq!(outcome.lost_bytes(), 0, "{:?}", outcome.lost);
}

/// Each answer has the model that its own request asked for, or none that it was not for.
#[test]
fn answers_keep_to_their_requests() {
    let ask = |model: &str| sent(&format!("{{\"type\":\"response.create\",\"model\":\"asked-{model}\"}}"));
    let answer = |model: &str| {
        let response = format!("\"response\":{{\"model\":\"made-{model}\"");
        [
            received(&format!("{{\"type\":\"response.created\",{response}}}}}")),
            received(&format!(
                "{{\"type\":\"response.completed\",{response},\"usage\":{{\"input_tokens\":1}}}}}}"
            )),
        ]
    };
    let [first, second] = &[answer("1").to_vec(), answer("2").to_vec()];
    let asked = &[ask("1"), ask("2")][..];
    let lost = |step: &Do| match step {
        Do::Bytes(direction, bytes) => Do::Lose(*direction, bytes.len() as u64),
        lost => lost.clone(),
    };
    for (name, steps, expected) in [
        ("asked in advance", [asked, first, second].concat(), vec!["asked-1 made-1", "asked-2 made-2"]),
        (
            "one after the other",
            [&asked[..1], first, &asked[1..], second].concat(),
            vec!["asked-1 made-1", "asked-2 made-2"],
        ),
        (
            "a request is lost",
            [&[lost(&asked[0])], &asked[1..], first, second].concat(),
            vec!["- made-1", "- made-2"],
        ),
        (
            "an answer is lost",
            [asked.to_vec(), first.iter().map(lost).collect(), second.clone()].concat(),
            vec!["- made-2", "- -"],
        ),
        (
            "the end of an answer is lost",
            [asked, &first[..1], &[lost(&first[1])], second].concat(),
            vec!["- made-2", "- -"],
        ),
    ] {
        let mut driver = Driver::new("api.openai.com", false);
        let [get, switch] = handshake("").try_into().unwrap_or_else(|_| unreachable!("two"));
        let Do::Bytes(direction, get) = get else { unreachable!("a request") };
        let get = String::from_utf8(get).expect("text").replace("realtime?model=gpt-realtime", "responses");
        play(
            &mut driver,
            &[&[Do::Bytes(direction, get.into_bytes()), switch], steps.as_slice()].concat(),
            usize::MAX,
        );
        driver.close();
        let named = |name: &Option<Word>| name.as_deref().unwrap_or("-").to_owned();
        let seen: Vec<String> = driver
            .outcome()
            .exchanges
            .iter()
            .map(|exchange| [named(&exchange.requested_model), named(&exchange.model)].join(" "))
            .collect();
        assert_eq!(seen, expected, "{name}");
    }
}
