//! Sessions: whose they are, what is told of what was not seen, and what a record carries.

use meter::exchange::{Exchange, IdentifiedBy, Reason};
use meter::pipeline::{Direction, HostEvidence, Input, Output, Pipeline, SessionVerdict};
use meter::record::Subject;
use meter::time::Moment;
use meter::workload::{ProcessKey, Workload};

use crate::harness::{Driver, SESSION, answer, options, post, tokens};

const USAGE: &[u8] = b"{\"model\":\"m-1\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}";

fn request(host: &str, target: &str) -> Vec<u8> {
    let body = "{\"model\":\"m\"}";
    format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

#[test]
fn the_host_header_names_a_session_of_unknown_host() {
    for (host, target, verdict, provider) in [
        ("api.openai.com", "/v1/chat/completions", SessionVerdict::Capture, Some("openai")),
        ("API.OpenAI.com:443", "/v1/chat/completions", SessionVerdict::Capture, Some("openai")),
        ("api.stripe.com", "/v1/charges", SessionVerdict::Ignore, None),
        ("127.0.0.1:8000", "/v1/chat/completions", SessionVerdict::Capture, Some("local")),
        ("llm.example.com", "/v1/chat/completions", SessionVerdict::Capture, Some("gateway")),
        ("shop.example.com", "/v1/messages/7", SessionVerdict::Ignore, None),
    ] {
        for whole in [true, false] {
            let mut driver = Driver::new("", false);
            let sent = request(host, target);
            // Capture hands out only a prefix of what it cannot name yet.
            let seen = if whole { sent.len() } else { sent.len() - 30 };
            driver.sent(&sent[..seen]);
            driver.gap(Direction::Sent, (sent.len() - seen) as u64);
            let outcome = driver.outcome();
            assert_eq!(outcome.verdict, Some(verdict), "{host} {whole}");
            driver.received(&answer(200, "", USAGE));
            driver.close();
            let outcome = driver.outcome();
            match provider {
                Some(provider) => {
                    let exchange = outcome.one();
                    assert_eq!(&*exchange.provider, provider, "{host} {whole}");
                    assert_eq!(exchange.identified_by, IdentifiedBy::HostHeader);
                    assert_eq!(tokens(exchange), "1,2,-,-,-", "{host} {whole}: {:?}", exchange.reason);
                }
                None => {
                    assert!(outcome.exchanges.is_empty(), "{host}");
                    assert_eq!(outcome.lost_bytes(), 0, "{host}: bytes that are not ours are not lost");
                }
            }
        }
    }
}

#[test]
fn evidence_that_arms_does_not_name() {
    let mut driver = Driver::new("", false);
    for identified_by in [IdentifiedBy::Dns, IdentifiedBy::Getaddrinfo, IdentifiedBy::IpRange] {
        let host = HostEvidence { host: "api.openai.com".into(), identified_by };
        driver.pipeline.handle(Input::Named { session: SESSION, host }, Moment(5));
    }
    assert_eq!(driver.outcome().verdict, None);
    let host = HostEvidence { host: "example.com".into(), identified_by: IdentifiedBy::Sni };
    driver.pipeline.handle(Input::Named { session: SESSION, host }, Moment(6));
    assert_eq!(driver.outcome().verdict, Some(SessionVerdict::Ignore));
}

#[test]
fn what_was_not_seen_is_told_once() {
    let body = request("api.openai.com", "/v1/chat/completions");
    let reply = answer(200, "", USAGE);
    type Script<'a> = &'a [(Direction, &'a [u8])];
    use Direction::{Received, Sent};
    for (name, script, expected) in [
        ("the answer only", &[(Received, reply.as_slice())] as Script<'_>, &["late_attach"] as &[&str]),
        ("the end of an answer only", &[(Received, &reply[40..])], &["late_attach"]),
        ("the end of a request, its answer", &[(Sent, &body[70..]), (Received, &reply)], &["late_attach"]),
        (
            "a missed and a seen call",
            &[(Received, &reply[40..]), (Sent, &body), (Received, &reply)],
            &["late_attach", "ok"],
        ),
        // It may be another's answer: nothing was seen before.
        ("a seen call", &[(Sent, &body), (Received, &reply)], &["late_attach"]),
        (
            "two seen calls",
            &[(Sent, &body), (Received, &reply), (Sent, &body), (Received, &reply)],
            &["late_attach", "ok"],
        ),
        ("nothing", &[], &[]),
    ] {
        for cut in [usize::MAX, 7, 1] {
            let mut driver = Driver::new("api.openai.com", true);
            for (direction, bytes) in script {
                for piece in bytes.chunks(cut.min(bytes.len().max(1))) {
                    match direction {
                        Sent => driver.sent(piece),
                        Received => driver.received(piece),
                    }
                }
            }
            driver.close();
            let outcome = driver.outcome();
            let seen: Vec<&str> = outcome
                .exchanges
                .iter()
                .map(|exchange| exchange.reason.map_or("ok", Reason::as_str))
                .collect();
            assert_eq!(seen, expected, "{name}, cut {cut}");
            for exchange in &outcome.exchanges {
                assert_eq!(exchange.usage.is_unknown(), exchange.reason.is_some(), "{name}");
                assert_eq!(&*exchange.provider, "openai");
            }
        }
    }
}

#[test]
fn missed_calls_become_records() {
    let mut pipeline = Pipeline::new(options());
    let process = ProcessKey { pid: 5, start_ticks: 5 };
    pipeline.handle(
        Input::Missed {
            process,
            workload: Workload::unknown(process),
            host: HostEvidence { host: "api.anthropic.com".into(), identified_by: IdentifiedBy::Sni },
            started: Moment(10),
            reason: Reason::LateAttach,
        },
        Moment(20),
    );
    let Some(Output::Record(record)) = pipeline.poll() else { panic!("no record") };
    let Subject::Exchange(exchange) = &record.subject else { panic!("no exchange") };
    assert_eq!((&*exchange.provider, exchange.reason), ("anthropic", Some(Reason::LateAttach)));
    assert!(exchange.usage.is_unknown());
    assert_eq!(record.cost.as_ref().and_then(|cost| cost.amount), None);
}

#[test]
fn heads_say_who_calls_and_never_the_key() {
    let mut driver = Driver::new("api.openai.com", false);
    driver.sent(&post("/v1/chat/completions", "{\"model\":\"gpt-4o\"}"));
    driver.received(&answer(
        200,
        "x-request-id: req_1\r\nopenai-organization: org-1\r\nopenai-project: proj_1\r\n",
        USAGE,
    ));
    driver.close();
    let outcome = driver.outcome();
    let exchange: &Exchange = outcome.one();
    assert_eq!(exchange.sdk.as_deref(), Some("OpenAI/Python 2.8.0"));
    assert_eq!(exchange.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(exchange.provider_request_id.as_deref(), Some("req_1"));
    assert_eq!(exchange.organization.as_deref(), Some("org-1"));
    assert_eq!(exchange.project.as_deref(), Some("proj_1"));
    assert_eq!(exchange.request_bytes, Some(18));
    assert_eq!(exchange.response_bytes, Some(USAGE.len() as u64));
    assert_eq!(exchange.api_key_fingerprint.as_deref().map(str::len), Some(32));
    assert!(exchange.timing.first_byte.is_some() && exchange.timing.ended >= exchange.timing.first_byte);
    assert!(!outcome.printed.contains("sk-test-1"));
    assert!(!format!("{:?}", driver.pipeline).contains("sk-test-1"));
}

#[test]
fn silent_sessions_end_by_themselves() {
    let mut driver = Driver::new("api.openai.com", false);
    driver.sent(&post("/v1/chat/completions", "{}"));
    let Some(due) = driver.pipeline.deadline() else { panic!("no deadline") };
    driver.pipeline.handle(Input::Tick, Moment(due.0 - 1));
    assert_eq!(driver.pipeline.sessions(), 1);
    // It was active after it was opened, so it is looked at again later.
    driver.pipeline.handle(Input::Tick, due);
    let Some(due) = driver.pipeline.deadline() else { panic!("no deadline") };
    driver.pipeline.handle(Input::Tick, due);
    assert_eq!((driver.pipeline.sessions(), driver.pipeline.deadline()), (0, None));
    assert_eq!(driver.outcome().one().reason, Some(Reason::NoResponse));
}

#[test]
fn a_session_that_was_silent_goes_on() {
    let mut driver = Driver::new("", false);
    let call = |driver: &mut Driver| {
        driver.sent(&request("api.openai.com", "/v1/chat/completions"));
        driver.received(&answer(200, "", USAGE));
        driver.outcome()
    };
    assert_eq!(tokens(call(&mut driver).one()), "1,2,-,-,-");
    for silence in 1..3 {
        while let Some(due) = driver.pipeline.deadline() {
            driver.pipeline.handle(Input::Tick, due);
        }
        assert_eq!(driver.pipeline.sessions(), 0);
        let outcome = call(&mut driver);
        assert_eq!((tokens(outcome.one()), outcome.one().reason), ("1,2,-,-,-".to_owned(), None));
        assert_eq!(outcome.one().ordinal, silence);
        assert_eq!(outcome.lost_bytes(), 0, "{:?}", outcome.lost);
    }
    driver.close();
    assert_eq!(driver.pipeline.sessions(), 0);
    driver.sent(b"more");
    assert_eq!(driver.outcome().lost_bytes(), 4, "a session that is over does not go on");
}

#[test]
fn record_ids_sort_by_time_and_differ() {
    let mut driver = Driver::new("api.openai.com", false);
    let mut ids = Vec::new();
    for _ in 0..50 {
        driver.sent(&post("/v1/chat/completions", "{}"));
        driver.received(&answer(200, "", USAGE));
        while let Some(output) = driver.pipeline.poll() {
            if let Output::Record(record) = output {
                assert_eq!(record.id.0 >> 80, u128::from(record.started_at.0 / 1_000_000));
                ids.push(record.id);
            }
        }
    }
    assert_eq!(ids.len(), 50);
    assert!(ids.is_sorted());
    ids.dedup();
    assert_eq!(ids.len(), 50);
}
