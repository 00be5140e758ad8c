//! Sessions of whose beginning, or handshake, something was not seen.

use meter::exchange::Reason;
use meter::pipeline::Direction::{Received, Sent};

use super::{
    Carrier, Do, ask, begin, deflated, delta, done, frame, handshake, play, received, sent, session, told, usage,
    with_hole,
};
use crate::harness::Driver;

#[test]
fn a_session_joined_late_goes_on_with_the_next_message_that_can_be_read() {
    let late = "unknown -,-,-,-,- late_attach";
    let one = "unknown 5,2,1,-,- ok";
    let packed = || frame(Received, 0xc1, &deflated(&[&usage(5)], true)[0]);
    let gemini = "{\n  \"usageMetadata\": {\"promptTokenCount\": 5, \"responseTokenCount\": 2, \"totalTokenCount\": 7}}";
    let openai = "api.openai.com";
    let live = "generativelanguage.googleapis.com";
    // What is lost of the session, besides what is deflated: steps from the first on.
    for (name, host, script, expected, lost) in [
        ("a whole answer", openai, vec![ask(), begin(), delta(), done(5)], vec![one], 0),
        ("the end of an answer", openai, vec![done(5)], vec![one], 0),
        (
            "asked, not answered",
            openai,
            vec![begin(), done(5), ask()],
            vec![one, "unknown -,-,-,-,- no_response"],
            0,
        ),
        (
            "an answer that breaks off",
            openai,
            vec![begin(), delta()],
            vec!["unknown -,-,-,-,- interrupted"],
            0,
        ),
        (
            "after control frames",
            openai,
            vec![frame(Sent, 0x89, b"ping"), frame(Received, 0x8a, b"ping"), ask(), done(5)],
            vec![one],
            2,
        ),
        (
            "from within a frame",
            openai,
            with_hole(done(6), 0, 20)[2..].iter().cloned().chain([done(5)]).collect(),
            vec![one],
            1,
        ),
        (
            "binary messages, as Gemini sends them",
            live,
            vec![frame(Received, 0x82, gemini.as_bytes())],
            vec!["unknown 5,2,-,-,- ok"],
            0,
        ),
        ("a large message whose end comes later", openai, with_hole(done(5), 20, 0).to_vec(), vec![one], 0),
        // Nothing tells that these are messages.
        ("deflated", openai, vec![packed(), packed()], vec![late], 2),
        ("deflated, one that is not", openai, vec![packed(), begin(), packed()], vec![one], 1),
        ("deflated answers to plain requests", openai, vec![ask(), packed()], vec![one], 0),
        (
            "one that refers to others",
            openai,
            vec![ask(), frame(Received, 0xc1, &deflated(&[&usage(4), &usage(5)], false)[1])],
            vec!["unknown -,-,-,-,- late_attach"],
            0,
        ),
        ("control frames only", openai, vec![frame(Received, 0x89, b"ping")], vec![late], 1),
        ("the middle of a message", openai, vec![frame(Received, 0x80, usage(5).as_bytes())], vec![late], 1),
        (
            "masked by the server",
            openai,
            vec![Do::Bytes(Received, {
                let Do::Bytes(_, bytes) = sent(&usage(5)) else { unreachable!() };
                bytes
            })],
            vec![late],
            1,
        ),
        ("cut across writes", openai, with_hole(done(5), 1, 0).to_vec(), vec![late], 3),
        ("a provider without such sessions", "api.anthropic.com", vec![begin(), done(5)], vec![late], 2),
    ] {
        let mut driver = Driver::new(host, true);
        play(&mut driver, &script, usize::MAX);
        driver.close();
        let outcome = driver.outcome();
        assert_eq!(told(&outcome.exchanges), expected, "{name}: {:?}", outcome.lost);
        let lost: u64 = script[..lost]
            .iter()
            .map(|step| match step {
                Do::Bytes(_, bytes) => bytes.len() as u64,
                Do::Lose(_, bytes) => *bytes,
            })
            .sum();
        assert_eq!(outcome.lost_bytes(), lost, "{name}: {:?}", outcome.lost);
        assert!(!outcome.printed.contains("marker"), "a body shows itself");
    }
}

#[test]
fn a_handshake_of_which_only_the_answer_was_seen_begins_a_session() {
    let script =
        [&handshake("permessage-deflate")[1..], &[frame(Received, 0xc1, &deflated(&[&usage(5)], true)[0])]]
            .concat();
    let mut driver = Driver::new("api.openai.com", true);
    play(&mut driver, &script, usize::MAX);
    driver.close();
    let outcome = driver.outcome();
    assert_eq!(told(&outcome.exchanges), ["unknown 5,2,1,-,- ok"], "{:?}", outcome.lost);
    assert_eq!(outcome.lost_bytes(), 0);
}

#[test]
fn a_session_goes_on_whose_answer_to_the_handshake_is_lost() {
    let one = "realtime 5,2,1,-,- ok";
    let gap = "realtime -,-,-,-,- gap";
    let packed = |texts: &[&str], fresh: bool| -> Vec<Do> {
        deflated(texts, fresh).into_iter().map(|bytes| frame(Received, 0xc1, &bytes)).collect()
    };
    let packed_ask = || frame(Sent, 0xc1, &deflated(&["{\"type\":\"response.create\"}"], true)[0]);
    let lost = |steps: Vec<Do>| {
        let bytes = |step: &Do| match step {
            Do::Bytes(_, bytes) => bytes.len() as u64,
            Do::Lose(_, bytes) => *bytes,
        };
        Do::Lose(Received, steps.iter().map(bytes).sum())
    };
    let asked = |more: Vec<Do>| [vec![ask()], more].concat();
    for (name, steps, expected) in [
        ("the client goes on", asked(vec![begin(), delta(), done(5)]), vec![one]),
        ("the server goes on", vec![begin(), done(5)], vec![one]),
        ("with answers too", asked(vec![lost(vec![begin(), done(4)]), ask(), done(5)]), vec![one, gap]),
        ("deflated", [vec![packed_ask()], packed(&[&usage(5)], true)].concat(), vec![one]),
        (
            "deflated with one window",
            [vec![packed_ask()], packed(&[&usage(5), &usage(6)], false)].concat(),
            vec![one, "realtime 6,2,1,-,- ok"],
        ),
        (
            "deflated with one window of which the beginning is lost",
            [
                vec![packed_ask(), lost(packed(&[&usage(4)], false)), packed_ask()],
                packed(&[&usage(4), &usage(5)], false)[1..].to_vec(),
            ]
            .concat(),
            vec![gap, gap],
        ),
        ("nothing follows", vec![], vec![gap]),
        ("nothing is said", vec![frame(Sent, 0x89, b"ping")], vec![gap]),
    ] {
        for carrier in [Carrier::Connection, Carrier::Stream] {
            let mut script = session(carrier, "permessage-deflate", &steps);
            script[1] = lost(vec![script[1].clone()]);
            let mut driver = Driver::new("api.openai.com", false);
            play(&mut driver, &script, usize::MAX);
            driver.close();
            let outcome = driver.outcome();
            assert_eq!(told(&outcome.exchanges), expected, "{name}, {carrier:?}: {:?}", outcome.lost);
            assert!(outcome.lost.iter().all(|(reason, _)| *reason == Reason::Gap), "{name}, {carrier:?}");
        }
    }
    // Where the answer was a refusal, the client goes on with requests.
    let [Do::Bytes(_, get), Do::Bytes(_, switch)] = &handshake("")[..] else { unreachable!("two") };
    let mut driver = Driver::new("api.openai.com", false);
    driver.sent(get);
    driver.gap(Received, switch.len() as u64);
    driver.sent(get);
    driver.received(switch);
    play(&mut driver, &[ask(), done(5)], usize::MAX);
    driver.close();
    assert_eq!(told(&driver.outcome().exchanges), [gap, one]);
}

#[test]
fn a_session_goes_on_of_which_the_handshake_is_lost() {
    let fetch = b"GET /v1/models HTTP/1.1\r\nHost: api.openai.com\r\n\r\n";
    let found = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    let mut driver = Driver::new("api.openai.com", false);
    driver.sent(fetch);
    driver.received(found);
    for step in handshake("") {
        let Do::Bytes(direction, bytes) = step else { unreachable!("bytes") };
        driver.gap(direction, bytes.len() as u64);
    }
    play(&mut driver, &[ask(), begin(), done(5)], usize::MAX);
    driver.close();
    let expected = ["models -,-,-,-,- not_inference", "unknown 5,2,1,-,- ok"];
    assert_eq!(told(&driver.outcome().exchanges), expected);
}
