//! HTTP/1.1: framing, pairing, and finding the way back, as a table of scripts.

use meter::exchange::Reason;
use meter::pipeline::Direction::{self, Received, Sent};

use crate::harness::{Driver, Outcome, answer, chunked, post, tokens};

/// A usage of `input` and `output` tokens.
fn usage(input: u64, output: u64) -> String {
    format!(
        "{{\"model\":\"m\",\"choices\":[],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}}}}"
    )
}

fn ask() -> Vec<u8> {
    post("/v1/chat/completions", "{\"model\":\"m\"}")
}

fn reply(input: u64, output: u64) -> Vec<u8> {
    answer(200, "", usage(input, output).as_bytes())
}

/// The beginning of a call.
const CALL: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\n";

enum Do {
    Sent(Vec<u8>),
    Received(Vec<u8>),
    Gap(Direction, u64),
}

fn run(script: &[Do]) -> Outcome {
    let mut driver = Driver::new("api.openai.com", false);
    for step in script {
        match step {
            Do::Sent(bytes) => driver.sent(bytes),
            Do::Received(bytes) => driver.received(bytes),
            Do::Gap(direction, bytes) => driver.gap(*direction, *bytes),
        }
    }
    driver.close();
    driver.outcome()
}

/// Runs a script; compares `status:tokens:reason` of each exchange.
fn check(name: &str, script: &[Do], expected: &[&str]) -> Outcome {
    let outcome = run(script);
    let seen: Vec<String> = outcome
        .exchanges
        .iter()
        .map(|exchange| {
            let status = exchange.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            let reason = exchange.reason.map_or("ok", Reason::as_str);
            format!("{status} {} {reason}", tokens(exchange))
        })
        .collect();
    assert_eq!(seen, expected, "{name}: {:?}", outcome.lost);
    outcome
}

fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[test]
fn messages_are_framed_and_paired() {
    let body = usage(3, 4);
    for (name, script, expected) in [
        (
            "keep-alive",
            vec![Do::Sent(ask()), Do::Received(reply(1, 2)), Do::Sent(ask()), Do::Received(reply(3, 4))],
            vec!["200 1,2,-,-,- ok", "200 3,4,-,-,- ok"],
        ),
        (
            "pipelining",
            vec![Do::Sent([ask(), ask()].concat()), Do::Received([reply(1, 2), reply(3, 4)].concat())],
            vec!["200 1,2,-,-,- ok", "200 3,4,-,-,- ok"],
        ),
        (
            "chunks with extensions and trailers",
            vec![
                Do::Sent(ask()),
                Do::Received(chunked("", body.as_bytes(), 5)),
                Do::Sent(ask()),
                Do::Received(reply(1, 2)),
            ],
            vec!["200 3,4,-,-,- ok", "200 1,2,-,-,- ok"],
        ),
        (
            "interim responses",
            vec![
                Do::Sent(ask()),
                Do::Received(
                    [
                        text("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
                        reply(1, 2),
                    ]
                    .concat(),
                ),
            ],
            vec!["200 1,2,-,-,- ok"],
        ),
        (
            "until the connection ends",
            vec![Do::Sent(ask()), Do::Received(text(&format!("HTTP/1.0 200 OK\r\n\r\n{body}")))],
            vec!["200 3,4,-,-,- ok"],
        ),
        (
            "not until the connection ends, on which the client asks again",
            vec![
                Do::Sent(ask()),
                Do::Received(text("HTTP/1.1 205 Reset Content\r\n\r\n")),
                Do::Sent(ask()),
                Do::Received(reply(1, 2)),
            ],
            vec!["205 -,-,-,-,- undecodable", "200 1,2,-,-,- ok"],
        ),
        (
            "until the connection ends, cut",
            vec![
                Do::Sent(ask()),
                Do::Received(text(&format!("HTTP/1.0 200 OK\r\n\r\n{}", &body[..body.len() - 1]))),
            ],
            vec!["200 -,-,-,-,- interrupted"],
        ),
        (
            "no body after HEAD, 204 and 304",
            vec![
                Do::Sent(text("HEAD /v1/models HTTP/1.1\r\nHost: api.openai.com\r\n\r\n")),
                Do::Received(text("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")),
                Do::Sent(text("GET /v1/models HTTP/1.1\r\nHost: api.openai.com\r\n\r\n")),
                Do::Received(text("HTTP/1.1 304 X\r\nContent-Length: 500\r\n\r\n")),
                Do::Sent(text("DELETE /v1/files/1 HTTP/1.1\r\nHost: api.openai.com\r\n\r\n")),
                Do::Received(text("HTTP/1.1 204 X\r\n\r\n")),
                Do::Sent(ask()),
                Do::Received(reply(1, 2)),
            ],
            vec![
                "200 -,-,-,-,- not_inference",
                "304 -,-,-,-,- not_inference",
                "204 -,-,-,-,- not_inference",
                "200 1,2,-,-,- ok",
            ],
        ),
        (
            "an early refusal",
            vec![
                Do::Sent(text(
                    "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n",
                )),
                Do::Received(answer(
                    401,
                    "",
                    b"{\"error\":{\"type\":\"invalid_request_error\",\"code\":\"invalid_api_key\"}}",
                )),
                Do::Sent(ask()),
                Do::Received(reply(1, 2)),
            ],
            vec!["401 -,-,-,-,- not_reported", "200 1,2,-,-,- ok"],
        ),
        (
            "a body that waits to be asked for",
            vec![
                Do::Sent(text(&format!("{CALL}Expect: 100-continue\r\nContent-Length: 13\r\n\r\n"))),
                Do::Received(text("HTTP/1.1 100 Continue\r\n\r\n")),
                Do::Sent(text("{\"model\":\"m\"}")),
                Do::Received(reply(1, 2)),
                Do::Sent(text(&format!("{CALL}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"))),
                Do::Received(text("HTTP/1.1 100 Continue\r\n\r\n")),
                Do::Sent(text("d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n")),
                Do::Received(reply(3, 4)),
            ],
            vec!["200 1,2,-,-,- ok", "200 3,4,-,-,- ok"],
        ),
        (
            "blank lines between messages",
            vec![
                Do::Sent([text("\r\n"), ask()].concat()),
                Do::Received([text("\r\n"), reply(1, 2)].concat()),
            ],
            vec!["200 1,2,-,-,- ok"],
        ),
        ("no response", vec![Do::Sent(ask())], vec!["- -,-,-,-,- no_response"]),
        (
            "broken off",
            vec![Do::Sent(ask()), Do::Received(reply(1, 2)[..60].to_vec())],
            vec!["200 -,-,-,-,- interrupted"],
        ),
        (
            "broken off in a chunk",
            vec![Do::Sent(ask()), Do::Received(chunked("", body.as_bytes(), 1000)[..90].to_vec())],
            vec!["200 -,-,-,-,- interrupted"],
        ),
        (
            "upgraded",
            vec![
                Do::Sent(text(
                    "GET /v1/other HTTP/1.1\r\nHost: api.openai.com\r\nUpgrade: websocket\r\n\r\n",
                )),
                Do::Received(text("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nxxxx")),
                Do::Sent(text("yyyyy")),
            ],
            vec!["101 -,-,-,-,- upgraded"],
        ),
    ] {
        let outcome = check(name, &script, &expected);
        let lost = if name == "upgraded" { 9 } else { 0 };
        assert_eq!(outcome.lost_bytes(), lost, "{name}: {:?}", outcome.lost);
    }
}

#[test]
fn holes_stay_with_their_message() {
    let answered = reply(1, 2);
    let head = answered.len() - usage(1, 2).len();
    let request = ask();
    let long = usage(3, 4).replace("\"m\"", "\"mmmmmmmmmm\"");
    let in_chunks = chunked("", long.as_bytes(), 20);
    let data = in_chunks.windows(2).position(|pair| pair == b"{\"").unwrap_or(0);
    for (name, script, expected) in [
        (
            "exactly a body",
            vec![
                Do::Sent(ask()),
                Do::Received(answered[..head].to_vec()),
                Do::Gap(Received, usage(1, 2).len() as u64),
                Do::Sent(ask()),
                Do::Received(reply(3, 4)),
            ],
            vec!["200 -,-,-,-,- gap", "200 3,4,-,-,- ok"],
        ),
        (
            "inside a body",
            vec![
                Do::Sent(ask()),
                Do::Received(answered[..head + 5].to_vec()),
                Do::Gap(Received, 10),
                Do::Received(answered[head + 15..].to_vec()),
                Do::Sent(ask()),
                Do::Received(reply(3, 4)),
            ],
            vec!["200 -,-,-,-,- gap", "200 3,4,-,-,- ok"],
        ),
        (
            "inside a chunk",
            vec![
                Do::Sent(ask()),
                Do::Received(in_chunks[..data + 1].to_vec()),
                Do::Gap(Received, 3),
                Do::Received(in_chunks[data + 4..].to_vec()),
                Do::Sent(ask()),
                Do::Received(reply(3, 4)),
            ],
            vec!["200 -,-,-,-,- gap", "200 3,4,-,-,- ok"],
        ),
        (
            "across chunks",
            vec![
                Do::Sent(ask()),
                Do::Received(in_chunks[..data + 1].to_vec()),
                Do::Gap(Received, 40),
                Do::Received(in_chunks[data + 41..].to_vec()),
                Do::Sent(ask()),
                Do::Received(reply(3, 4)),
            ],
            vec!["200 -,-,-,-,- gap", "200 3,4,-,-,- ok"],
        ),
        (
            "a response head",
            vec![
                Do::Sent(ask()),
                Do::Received(answered[..9].to_vec()),
                Do::Gap(Received, 20),
                Do::Received(answered[29..].to_vec()),
                Do::Sent(ask()),
                Do::Received(reply(3, 4)),
            ],
            vec!["- -,-,-,-,- gap", "200 3,4,-,-,- ok"],
        ),
        (
            "a request body",
            vec![
                Do::Sent(request[..request.len() - 6].to_vec()),
                Do::Gap(Sent, 3),
                Do::Sent(request[request.len() - 3..].to_vec()),
                Do::Received(reply(3, 4)),
            ],
            vec!["200 3,4,-,-,- ok"],
        ),
        (
            "the end of a request head",
            vec![
                Do::Sent(request[..60].to_vec()),
                Do::Gap(Sent, request.len() as u64 - 60),
                Do::Received(reply(3, 4)),
                Do::Sent(ask()),
                Do::Received(reply(1, 2)),
            ],
            vec!["200 3,4,-,-,- ok", "200 1,2,-,-,- ok"],
        ),
        (
            "a whole call",
            vec![
                Do::Gap(Sent, request.len() as u64),
                Do::Gap(Received, answered.len() as u64),
                Do::Sent(ask()),
                Do::Received(reply(3, 4)),
            ],
            vec!["200 3,4,-,-,- ok"],
        ),
        (
            "a request that another follows before it is answered: whose answer it is, is not known",
            vec![Do::Gap(Sent, request.len() as u64), Do::Sent(ask()), Do::Received(reply(1, 2))],
            vec!["- -,-,-,-,- gap"],
        ),
    ] {
        let outcome = check(name, &script, &expected);
        assert!(outcome.lost.iter().any(|(reason, _)| *reason == Reason::Gap), "{name}: {:?}", outcome.lost);
    }
}

/// What is no length says nothing of where its message ends: that message is lost, the next is not.
#[test]
fn a_length_is_digits() {
    let body = usage(1, 2);
    let both = ["200 1,2,-,-,- ok", "200 3,4,-,-,- ok"];
    let lost = (["200 -,-,-,-,- not_http", both[1]], ["200 -,-,-,-,- undecodable", both[1]]);
    for (length, (request, response)) in [
        ("N", (both, both)),
        ("0N", (both, both)),
        (" N\t", (both, both)),
        // The same many times, in one field or in many (RFC 9110, 8.6).
        ("N, N", (both, both)),
        ("N\r\ncontent-length: N", (both, both)),
        ("N,7", lost),
        ("N\r\nContent-Length: 7", lost),
        ("", lost),
        ("+N", lost),
        ("-N", lost),
        ("0xN", lost),
        ("N N", lost),
        ("99999999999999999999", lost),
    ] {
        let said = |digits: usize| length.replace('N', &digits.to_string());
        let asked = format!("{CALL}Content-Length: {}\r\n\r\n{{\"model\":\"m\"}}", said(13));
        let answered = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", said(body.len()));
        let again = || [Do::Sent(ask()), Do::Received(reply(3, 4))];
        let asks = [Do::Sent(text(&asked)), Do::Received(reply(1, 2))];
        check(&asked, &asks.into_iter().chain(again()).collect::<Vec<_>>(), &request);
        let answers = [Do::Sent(ask()), Do::Received(text(&answered))];
        check(&answered, &answers.into_iter().chain(again()).collect::<Vec<_>>(), &response);
    }
}

/// What is no size of a chunk loses its message, and what is one whatever follows it does not.
#[test]
fn a_size_is_hex_digits() {
    let body = usage(1, 2);
    let both = ["200 1,2,-,-,- ok", "200 3,4,-,-,- ok"];
    let lost = ["200 -,-,-,-,- undecodable", both[1]];
    for (size, expected) in [
        ("N", both),
        ("000N", both),
        ("N ", both),
        ("N;", both),
        ("N ; a=b;c=\"d;\\\"e\"", both),
        ("0xN", lost),
        ("Nx", lost),
        ("+N", lost),
        (" N", lost),
        ("", lost),
        ("fffffffffffffffff", lost),
    ] {
        let size = size.replace('N', &format!("{:x}", body.len()));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answered = format!("{head}{size}\r\n{body}\r\n0;last\r\nX-A: 1\r\nX-B: 0\r\n\r\n");
        let script =
            [Do::Sent(ask()), Do::Received(text(&answered)), Do::Sent(ask()), Do::Received(reply(3, 4))];
        check(&size, &script, &expected);
    }
}

#[test]
fn what_is_not_http_is_not_invented() {
    for (name, sent, received, reason) in [
        ("something else", "\x16\x03\x01 hello", "", Reason::NotHttp),
        ("something else answered first", "", "\x16\x03\x01 hello", Reason::NotHttp),
    ] {
        let mut driver = Driver::new("api.openai.com", false);
        for byte in sent.bytes() {
            driver.sent(&[byte]);
        }
        if !received.is_empty() {
            driver.received(received.as_bytes());
        }
        driver.close();
        let outcome = driver.outcome();
        assert!(outcome.exchanges.is_empty(), "{name}: {:?}", outcome.exchanges);
        let verdict = Some(meter::pipeline::SessionVerdict::MetadataOnly(reason));
        assert_eq!(outcome.verdict, verdict, "{name}");
        assert_eq!(outcome.lost_bytes(), driver.moved(), "{name}: {:?}", outcome.lost);
    }
}
