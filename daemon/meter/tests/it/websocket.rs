//! WebSocket: frames, holes and answers, as a table of scripts.

use meter::exchange::{Exchange, Reason};
use meter::pipeline::Direction::{self, Received, Sent};

use crate::harness::{Driver, tokens};

/// The handshake of a session; `extension` is what both sides agree on.
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

/// A frame as its side writes it.
fn frame(direction: Direction, head: u8, payload: &[u8]) -> Do {
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
    Do::Bytes(direction, bytes)
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
fn deflated(texts: &[&str], fresh: bool) -> Vec<Vec<u8>> {
    let mut window = flate2::Compress::new(flate2::Compression::default(), false);
    texts
        .iter()
        .map(|text| {
            if fresh {
                window.reset();
            }
            let mut bytes = Vec::with_capacity(4096);
            window.compress_vec(text.as_bytes(), &mut bytes, flate2::FlushCompress::Sync).expect("memory");
            bytes.truncate(bytes.len() - 4);
            bytes
        })
        .collect()
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

/// Runs a script in one piece per step and in small pieces; compares `operation tokens reason` of each exchange.
fn check(name: &str, script: &[Do], expected: &[&str]) {
    for cut in [usize::MAX, 1, 7] {
        // A place that was lost is found again where a piece is nothing but frames: single bytes never are.
        if cut < usize::MAX && name.contains("resynchronised") {
            continue;
        }
        let mut driver = Driver::new("api.openai.com", false);
        play(&mut driver, script, cut);
        driver.close();
        let outcome = driver.outcome();
        assert!(!outcome.printed.contains("marker"), "{name}: a body shows itself");
        let seen: Vec<String> = outcome
            .exchanges
            .iter()
            .map(|exchange| {
                let reason = exchange.reason.map_or("ok", Reason::as_str);
                format!("{} {} {reason}", exchange.operation, tokens(exchange))
            })
            .collect();
        assert_eq!(seen, expected, "{name}, cut {cut}: {:?}", outcome.lost);
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
    let plain = || handshake("");
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
        check(name, &[plain(), steps].concat(), &expected);
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
        check(extension, &handshake(extension).into_iter().chain(frames).collect::<Vec<_>>(), &expected);
        // Deflating is each message's choice.
        let mixed = [frame(Received, 0xc1, &deflated(&[&usage(5)], true)[0]), done(6)];
        check(extension, &handshake(extension).into_iter().chain(mixed).collect::<Vec<_>>(), &expected[1..]);
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
        script.extend(with_hole(second, 20, 3));
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
        check(name, &[handshake(extension), steps].concat(), &expected);
    }
}

/// Without its handshake nobody knows what was agreed on: nothing is read as something else, and all of it is lost.
#[test]
fn a_session_joined_late_is_lost_and_invents_nothing() {
    for script in [
        vec![ask(), begin(), delta(), done(5)],
        vec![begin(), done(5), ask()],
        vec![frame(Sent, 0x89, b"ping"), frame(Received, 0x8a, b"ping"), ask(), done(5)],
        vec![frame(Received, 0xc1, &deflated(&[&usage(5)], true)[0]), ask()],
        with_hole(done(5), 10, 20).to_vec(),
    ] {
        let mut driver = Driver::new("api.openai.com", true);
        play(&mut driver, &script, usize::MAX);
        driver.close();
        let outcome = driver.outcome();
        let unknown = |exchange: &Exchange| exchange.usage.is_unknown() && exchange.reason.is_some();
        assert!(outcome.exchanges.iter().all(unknown), "{:?}", outcome.exchanges);
        assert_eq!(outcome.lost_bytes(), driver.moved(), "{:?}", outcome.lost);
        assert!(!outcome.printed.contains("marker"), "a body shows itself");
    }
}
