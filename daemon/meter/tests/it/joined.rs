//! Sessions of which a part was not seen: a call that is told is one that was made, and its numbers are its own.
//!
//! A session is a tape of writes in the order of time. Of it all before an instant is taken away, as for a session that
//! is joined late, and any stretches of one direction or both, as for bytes that the kernel lost. Every call names
//! itself in its request, in the head of its response and in its body, so that halves of different calls are found out.
//! Where it is told how far the other direction had come, as the kernel tells it, a hole costs the calls that it touches
//! and no other.

use std::collections::BTreeSet;
use std::ops::Range;

use meter::exchange::{Exchange, Reason, Word};
use meter::pipeline::Direction::{self, Received, Sent};
use proptest::prelude::*;

use crate::harness::{Driver, Outcome, tokens};
use crate::http2::{PREFACE, block, frame};
use crate::websocket::{Deflater, frame_bytes};

/// What a client and its server wrote, in the order of time.
type Tape = Vec<(Direction, Vec<u8>)>;

/// How a call is made.
#[derive(Clone, Debug)]
struct Call {
    /// The head of the request is a write of its own.
    in_two: bool,
    /// The request's body is chunked (HTTP/1), or in two frames.
    asked_in_chunks: bool,
    /// The answer is a stream of events.
    streamed: bool,
    /// An interim response comes first.
    interim: bool,
    /// Bytes of the prompt and of the answer.
    filling: usize,
    /// The client looks whether the server is there, first (HTTP/1), or resets the stream early (HTTP/2).
    aside: bool,
}

impl Call {
    fn asked(&self, number: usize) -> String {
        format!(
            "{{\"model\":\"asked-{number}\",\"stream\":{},\"stream_options\":{{\"include_usage\":true}},\"messages\":\
             [{{\"role\":\"user\",\"content\":\"{}\"}}]}}",
            self.streamed,
            "ask ".repeat(self.filling)
        )
    }

    fn answer(&self, number: usize) -> String {
        let (input, filling) = (1000 + number, "say ".repeat(self.filling));
        let usage = format!("\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{}}}", number + 1);
        let head = format!("\"id\":\"chatcmpl-{number}\",\"model\":\"answered-{number}\"");
        match self.streamed {
            true => format!(
                "data: {{{head},\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{filling}\"}}}}]}}\n\n\
                 data: {{{head},\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n"
            ),
            false => {
                format!("{{{head},\"choices\":[{{\"message\":{{\"content\":\"{filling}\"}}}}],{usage}}}")
            }
        }
    }

    fn kind(&self) -> &'static str {
        if self.streamed { "text/event-stream" } else { "application/json" }
    }

    /// The call over HTTP/1.1.
    fn over_http1(&self, number: usize, tape: &mut Tape) {
        if self.aside {
            tape.push((Sent, b"HEAD /v1/models HTTP/1.1\r\nHost: api.openai.com\r\n\r\n".to_vec()));
            tape.push((Received, b"HTTP/1.1 200 OK\r\nContent-Length: 4321\r\n\r\n".to_vec()));
        }
        let body = self.asked(number);
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\n";
        let (framing, body) = match self.asked_in_chunks {
            true => ("Transfer-Encoding: chunked".into(), chunks(&body, 50)),
            false => (format!("Content-Length: {}", body.len()), body),
        };
        let head = format!("{head}{framing}\r\n\r\n");
        match self.in_two {
            true => tape.extend([(Sent, head.into_bytes()), (Sent, body.into_bytes())]),
            false => tape.push((Sent, [head, body].concat().into_bytes())),
        }
        if self.interim {
            tape.push((Received, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".to_vec()));
        }
        let body = self.answer(number);
        let head =
            format!("HTTP/1.1 200 OK\r\nx-request-id: req-{number}\r\nContent-Type: {}\r\n", self.kind());
        match self.streamed {
            true => {
                tape.push((Received, format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes()));
                let body = chunks(&body, 70);
                tape.extend(body.as_bytes().chunks(150).map(|part| (Received, part.to_vec())));
            }
            false => tape
                .push((Received, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes())),
        }
    }

    /// The call over HTTP/2: what is written of it, in its order. The first call of a connection fills the table
    /// of the client's head coder, the others refer to it.
    fn over_http2(&self, number: usize) -> Tape {
        let stream = number as u32 * 2 + 1;
        let head = match number == 0 {
            true => block(&[
                (":method", "POST"),
                (":path", "/v1/chat/completions"),
                (":authority", "api.openai.com"),
            ]),
            false => vec![0x80 | 64, 0x80 | 63, 0x80 | 62],
        };
        let body = self.asked(number);
        let (one, two) = body.split_at(if self.asked_in_chunks { body.len() / 2 } else { 0 });
        let mut tape = vec![(Sent, frame(1, 4, stream, &head))];
        if !one.is_empty() {
            tape.push((Sent, frame(0, 0, stream, one.as_bytes())));
        }
        tape.push((Sent, frame(0, 1, stream, two.as_bytes())));
        if self.aside {
            tape.push((Sent, frame(3, 0, stream, &[0, 0, 0, 8])));
        }
        let mut head = vec![0x88];
        let id = format!("req-{number}");
        head.extend([&[0, 12], b"x-request-id".as_slice(), &[id.len() as u8], id.as_bytes()].concat());
        head.extend([&[0, 12], b"content-type".as_slice(), &[self.kind().len() as u8]].concat());
        head.extend(self.kind().as_bytes());
        tape.push((Received, frame(1, 4, stream, &head)));
        let body = self.answer(number);
        let parts: Vec<&[u8]> = body.as_bytes().chunks(150).collect();
        for (at, part) in parts.iter().enumerate() {
            tape.push((Received, frame(0, u8::from(at + 1 == parts.len()), stream, part)));
        }
        if !self.in_two && !self.aside {
            let at = tape.iter().position(|(direction, _)| *direction == Received).unwrap_or(0);
            let sent: Vec<u8> = tape.drain(..at).flat_map(|(_, bytes)| bytes).collect();
            tape.insert(0, (Sent, sent));
        }
        tape
    }
}

/// One side of a WebSocket: how it writes its messages.
struct Side(Direction, Option<Deflater>);

impl Side {
    /// A message, in one frame or two.
    fn write(&mut self, text: &str, in_two: bool, tape: &mut Tape) {
        let Side(direction, deflater) = self;
        let (payload, flag) = match deflater {
            Some(deflater) => (deflater.message(text), 0x40),
            None => (text.as_bytes().to_vec(), 0),
        };
        match in_two {
            true => {
                let (one, two) = payload.split_at(payload.len() / 2);
                tape.push((*direction, frame_bytes(*direction, flag | 1, one)));
                tape.push((*direction, frame_bytes(*direction, 0x80, two)));
            }
            false => tape.push((*direction, frame_bytes(*direction, flag | 0x81, &payload))),
        }
    }
}

/// Calls over a WebSocket that deflates its messages (with windows that begin anew, or not), or does not. Where the first
/// message of each call's answer begins on the tape, and where the handshake ends with the server's answer.
fn over_websocket(calls: &[Call], deflate: Option<bool>, in_advance: bool) -> (Tape, Vec<usize>, usize) {
    let extension = match deflate {
        None => "",
        Some(false) => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        Some(true) => {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
        }
    };
    let get = format!(
        "GET /v1/responses HTTP/1.1\r\nHost: api.openai.com\r\nUpgrade: websocket\r\n{extension}\r\n"
    );
    let switch = format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n{extension}\r\n");
    let agreed = get.len();
    let mut tape = vec![(Sent, get.into_bytes()), (Received, switch.into_bytes())];
    let mut client = Side(Sent, deflate.map(Deflater::new));
    let mut server = Side(Received, deflate.map(Deflater::new));
    let mut begins = Vec::new();
    let mut ask = |number: usize, call: &Call, tape: &mut Tape| {
        let filling = "ask ".repeat(call.filling);
        let text =
            format!("{{\"type\":\"response.create\",\"model\":\"asked-{number}\",\"input\":\"{filling}\"}}");
        client.write(&text, call.in_two, tape);
    };
    if in_advance {
        calls.iter().enumerate().for_each(|(number, call)| ask(number, call, &mut tape));
    }
    for (number, call) in calls.iter().enumerate() {
        if !in_advance {
            ask(number, call, &mut tape);
        }
        begins.push(tape.iter().map(|(_, bytes)| bytes.len()).sum());
        if call.aside {
            tape.extend([
                (Received, frame_bytes(Received, 0x89, b"?")),
                (Sent, frame_bytes(Sent, 0x8a, b"?")),
            ]);
        }
        let response = format!("\"response\":{{\"id\":\"resp_{number}\",\"model\":\"answered-{number}\"");
        server.write(&format!("{{\"type\":\"response.created\",{response}}}}}"), false, &mut tape);
        for _ in 0..usize::from(call.streamed) * 3 {
            let filling = "say ".repeat(call.filling);
            let delta = format!("{{\"type\":\"response.output_text.delta\",\"delta\":\"{filling}\"}}");
            server.write(&delta, call.asked_in_chunks, &mut tape);
        }
        let usage =
            format!("\"usage\":{{\"input_tokens\":{},\"output_tokens\":{}}}", 1000 + number, number + 1);
        server.write(
            &format!("{{\"type\":\"response.completed\",{response},{usage}}}}}"),
            call.interim,
            &mut tape,
        );
    }
    (tape, begins, agreed)
}

fn chunks(body: &str, size: usize) -> String {
    let part = |part: &[u8]| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part));
    let mut chunked: String = body.as_bytes().chunks(size).map(part).collect();
    chunked.push_str("0\r\n\r\n");
    chunked
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = (any::<[bool; 5]>(), 0usize..120).prop_map(|(is, filling)| {
        let [in_two, asked_in_chunks, streamed, interim, aside] = is;
        Call { in_two, asked_in_chunks, streamed, interim, filling, aside }
    });
    prop::collection::vec(call, 1..6)
}

/// One call after the other, and where on the tape each begins.
fn over_http1(calls: &[Call]) -> (Tape, Vec<usize>) {
    let (mut tape, mut begins) = (Tape::new(), Vec::new());
    for (number, call) in calls.iter().enumerate() {
        begins.push(tape.iter().map(|(_, bytes)| bytes.len()).sum());
        call.over_http1(number, &mut tape);
    }
    (tape, begins)
}

/// Calls asked in batches, of so many each: those of a batch before its first is answered.
fn over_http1_in_batches(calls: &[Call], sizes: &[usize]) -> Tape {
    let mut tape = Tape::new();
    let (mut numbered, mut sizes) = (calls.iter().enumerate().peekable(), sizes.iter().cycle());
    while numbered.peek().is_some() {
        let size = sizes.next().copied().unwrap_or(1).max(1);
        let mut writes = Tape::new();
        numbered.by_ref().take(size).for_each(|(number, call)| call.over_http1(number, &mut writes));
        let (mut sent, mut received) = (Tape::new(), Tape::new());
        for (at, write) in writes.into_iter().enumerate() {
            let side = if write.0 == Sent { &mut sent } else { &mut received };
            // Some clients write what they have to say at once.
            match side.last_mut() {
                Some((_, last)) if at % 3 == 0 => last.extend(write.1),
                _ => side.push(write),
            }
        }
        tape.extend([sent, received].concat());
    }
    tape
}

/// Streams in any interleaving; `picks` say in turn which goes on.
fn over_http2(calls: &[Call], picks: &[usize]) -> Tape {
    let mut tape =
        vec![(Sent, PREFACE.to_vec()), (Sent, frame(4, 0, 0, &[])), (Received, frame(4, 0, 0, &[]))];
    let mut waiting = calls.iter().enumerate().map(|(number, call)| call.over_http2(number));
    let (mut open, mut picks) = (Vec::new(), picks.iter().cycle());
    loop {
        let room = usize::from(waiting.len() > 0);
        if open.len() + room == 0 {
            return tape;
        }
        let pick = picks.next().copied().unwrap_or(0) % (open.len() + room);
        if pick == open.len() {
            let mut call = waiting.next().unwrap_or_default().into_iter();
            tape.extend(call.next());
            open.push(call);
        } else if let Some(step) = open[pick].next() {
            tape.push(step);
        } else {
            drop(open.swap_remove(pick));
        }
    }
}

/// Bytes that are not seen: of which directions, and where they lie on the tape.
#[derive(Clone, Debug)]
struct Hole {
    sent: bool,
    received: bool,
    at: usize,
    len: usize,
}

impl Hole {
    fn span(&self) -> Range<usize> {
        self.at..self.at.saturating_add(self.len)
    }
}

/// What is told of a session besides its bytes.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// It was joined late, whatever its first bytes look like.
    late: bool,
    /// With the bytes of one direction, how far the other had come.
    both: bool,
}

/// Plays the tape from the byte at `joined` on, with holes, in pieces of the sizes `cuts`. Whether it was joined late
/// is told as the host tells it: by the first bytes, unless it is known.
fn play(tape: &Tape, joined: usize, holes: &[Hole], cuts: &[usize], told: Told) -> Outcome {
    let mut driver: Option<Driver> = None;
    let mut sizes = cuts.iter().cycle();
    let mut at = 0;
    for (direction, bytes) in tape {
        let mut rest = bytes.get(joined.saturating_sub(at)..).unwrap_or_default();
        at += bytes.len();
        while !rest.is_empty() {
            let from = at - rest.len();
            let ours = |hole: &&Hole| if *direction == Sent { hole.sent } else { hole.received };
            let mut len = sizes.next().copied().unwrap_or(rest.len()).min(rest.len());
            let within = holes.iter().filter(ours).find(|hole| hole.span().contains(&from));
            let edges = holes.iter().filter(ours).flat_map(|hole| [hole.span().start, hole.span().end]);
            len = edges.filter(|edge| *edge > from).map(|edge| edge - from).fold(len, usize::min);
            let from_request = *direction == Sent && begins_a_request(rest);
            let (piece, later) = rest.split_at(len);
            rest = later;
            if driver.is_none() && within.is_some() {
                continue; // The kernel does not know of it either.
            }
            let driver = driver.get_or_insert_with(|| {
                let mut driver = Driver::new("api.openai.com", told.late || !from_request);
                driver.both = told.both;
                driver
            });
            match (within.is_some(), direction) {
                (true, _) => driver.gap(*direction, len as u64),
                (false, Sent) => driver.sent(piece),
                (false, Received) => driver.received(piece),
            }
        }
    }
    let Some(mut driver) = driver else { return Outcome::default() };
    driver.close();
    driver.outcome()
}

fn begins_a_request(bytes: &[u8]) -> bool {
    [b"POST", b"HEAD", b"PRI ", b"GET "].iter().any(|start| bytes.starts_with(*start))
}

/// Plays a session that is older than the daemon, from the write `armed` on. Of its writes up to `judged` the kernel
/// shows the first bytes of those that look like a request, because it does not know yet whose session it is.
fn play_older(tape: &Tape, armed: usize, judged: usize, cuts: &[usize]) -> Outcome {
    let mut driver: Option<Driver> = None;
    let mut ends = [0; 2];
    let mut sizes = cuts.iter().cycle();
    for (number, (direction, bytes)) in tape.iter().enumerate().skip(armed) {
        let shown = match number < judged {
            true if *direction == Sent && begins_a_request(bytes) => bytes.len().min(512),
            true => 0,
            false => bytes.len(),
        };
        let (mut shown, hidden) = bytes.split_at(shown);
        while !shown.is_empty() {
            let driver = driver.get_or_insert_with(|| {
                let mut driver = Driver::new("", !(*direction == Sent && begins_a_request(shown)));
                driver.gap(Sent, ends[0]);
                driver.gap(Received, ends[1]);
                driver
            });
            let len = if number < judged { shown.len() } else { sizes.next().copied().unwrap_or(1) };
            let (piece, later) = shown.split_at(len.min(shown.len()));
            shown = later;
            match direction {
                Sent => driver.sent(piece),
                Received => driver.received(piece),
            }
        }
        match &mut driver {
            Some(driver) => driver.gap(*direction, hidden.len() as u64),
            None => ends[usize::from(*direction == Received)] += hidden.len() as u64,
        }
    }
    let Some(mut driver) = driver else { return Outcome::default() };
    driver.close();
    driver.outcome()
}

/// The number at the end of a name.
fn number(name: Option<&str>) -> Option<usize> {
    name?.rsplit('-').next()?.parse().ok()
}

/// What tells a record's call.
fn brief(exchange: &Exchange) -> String {
    let Exchange { operation, requested_model, model, provider_request_id, reason, timing, .. } = exchange;
    let tokens = tokens(exchange);
    format!(
        "{operation} {requested_model:?} {model:?} {provider_request_id:?} {tokens} {reason:?} at {:?}",
        timing.started
    )
}

/// The calls that are told with usage, if every record is of one call, and all are of different ones.
fn told(outcome: &Outcome, made: usize) -> Result<BTreeSet<usize>, TestCaseError> {
    let exchanges = &outcome.exchanges;
    let brief: Vec<String> = exchanges.iter().map(brief).collect();
    prop_assert!(exchanges.len() <= made, "{} records of {made} calls: {brief:#?}", exchanges.len());
    let (mut answered, mut metered) = (BTreeSet::new(), BTreeSet::new());
    let mut asked = BTreeSet::new();
    for exchange in exchanges {
        let Exchange { requested_model, provider_request_id, model, usage, .. } = exchange;
        let by_request = number(requested_model.as_deref());
        let by_head = number(provider_request_id.as_deref());
        let by_body = number(model.as_deref());
        let by_usage = usage.input.and_then(|input| usize::try_from(input).ok()?.checked_sub(1000));
        let all: BTreeSet<usize> = [by_request, by_head, by_body, by_usage].into_iter().flatten().collect();
        prop_assert!(all.len() <= 1, "of different calls: {brief:#?}");
        for (seen, number) in [(&mut asked, by_request), (&mut answered, by_head), (&mut metered, by_usage)] {
            prop_assert!(number.is_none_or(|number| seen.insert(number)), "told twice: {brief:#?}");
        }
        if let Some(number) = by_usage {
            prop_assert_eq!(usage.output, Some(number as u64 + 1));
            prop_assert_eq!(by_body, by_usage, "{:#?}", exchange);
        }
    }
    Ok(metered)
}

/// The calls as they are told when all of them is seen.
fn truths(tape: &Tape) -> Vec<Exchange> {
    play(tape, 0, &[], &[usize::MAX], Told { late: false, both: true }).exchanges
}

/// That each record is one of `truths` in every field, as far as it says anything.
fn nothing_mixed(outcome: &Outcome, truths: &[Exchange]) -> Result<(), TestCaseError> {
    let fits = |seen: &Exchange, truth: &Exchange| {
        let same = |seen: &Option<Word>, truth: &Option<Word>| seen.is_none() || seen == truth;
        // What was not seen to its end counts as far as it was seen.
        let bytes = |seen: Option<u64>, truth: Option<u64>| match seen.zip(truth) {
            Some((seen, truth)) => seen == truth || (seen < truth && !outcome.lost.is_empty()),
            None => seen.is_none(),
        };
        same(&seen.requested_model, &truth.requested_model)
            && same(&seen.model, &truth.model)
            && same(&seen.provider_request_id, &truth.provider_request_id)
            && (seen.operation == "unknown" || seen.operation == truth.operation)
            && (seen.status.is_none() || seen.status == truth.status)
            && (seen.usage.is_unknown() || seen.usage == truth.usage)
            && (seen.reason.is_some() || seen.streaming == truth.streaming)
            && (seen.finish_reasons.is_empty() || seen.finish_reasons == truth.finish_reasons)
            && bytes(seen.request_bytes, truth.request_bytes)
            && bytes(seen.response_bytes, truth.response_bytes)
    };
    for exchange in &outcome.exchanges {
        prop_assert!(truths.iter().any(|truth| fits(exchange, truth)), "a mixture: {}", brief(exchange));
    }
    Ok(())
}

/// Records of calls that were made before anything was seen.
fn late(outcome: &Outcome) -> usize {
    outcome.exchanges.iter().filter(|exchange| exchange.reason == Some(Reason::LateAttach)).count()
}

/// Calls that begin at `from` or later of which no byte is missing.
fn whole(begins: &[usize], from: usize, holes: &[Hole]) -> BTreeSet<usize> {
    let ends = begins.iter().skip(1).copied().chain([usize::MAX]);
    let untouched = |(begin, end): (usize, usize)| {
        begin >= from && holes.iter().all(|hole| hole.span().end <= begin || end <= hole.at)
    };
    let spans = begins.iter().copied().zip(ends);
    spans.enumerate().filter(|(_, span)| untouched(*span)).map(|(number, _)| number).collect()
}

fn made(calls: &[Call], http1: bool) -> usize {
    calls.len() + calls.iter().filter(|call| http1 && call.aside).count()
}

fn holes() -> impl Strategy<Value = Vec<Hole>> {
    let hole = (1u8..4, any::<prop::sample::Index>(), 1usize..1500).prop_map(|(which, at, len)| Hole {
        sent: which & 1 != 0,
        received: which & 2 != 0,
        at: at.index(8000),
        len,
    });
    prop::collection::vec(hole, 1..4)
}

/// How many calls are asked before the first of them is answered, in turn.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..5, 1..4)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![usize::MAX]), prop::collection::vec(1usize..400, 1..8)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_session_joined_late_over_http1_tells_what_it_saw(calls in calls(), joined: prop::sample::Index, cuts in cuts(), surely_late: bool, both: bool) {
        let (tape, begins) = over_http1(&calls);
        let joined = joined.index(tape.iter().map(|(_, bytes)| bytes.len()).sum());
        let outcome = play(&tape, joined, &[], &cuts, Told { late: surely_late, both });
        let metered = told(&outcome, made(&calls, true))?;
        let mut whole = whole(&begins, joined, &[]);
        let begun = begins.iter().filter(|begin| **begin < joined).count();
        if surely_late && begins.contains(&joined) {
            // What comes back first may be another's answer.
            whole.pop_first();
        }
        prop_assert!(metered.is_superset(&whole), "{whole:?} were seen whole from {joined} on, lost {:?}, {:?}: {:#?}", outcome.lost, outcome.verdict, outcome.exchanges);
        prop_assert!(metered.iter().all(|number| *number + 1 >= begun), "{metered:?} of {begun} begun before");
        prop_assert!(late(&outcome) <= 1, "{:#?}", outcome.exchanges);
    }

    #[test]
    fn calls_asked_in_advance_are_not_mixed(calls in calls(), cuts in cuts()) {
        let tape = over_http1_in_batches(&calls, &[calls.len()]);
        let outcome = play(&tape, 0, &[], &cuts, Told { late: false, both: true });
        let metered = told(&outcome, made(&calls, true))?;
        prop_assert_eq!(metered.len(), calls.len(), "{:#?}", outcome.exchanges);
        prop_assert_eq!(late(&outcome), 0);
    }

    #[test]
    fn calls_asked_in_advance_and_joined_late_are_not_mixed(calls in calls(), sizes in sizes(), joined: prop::sample::Index, cuts in cuts(), both: bool) {
        let tape = over_http1_in_batches(&calls, &sizes);
        let joined = joined.index(tape.iter().map(|(_, bytes)| bytes.len()).sum());
        let outcome = play(&tape, joined, &[], &cuts, Told { late: joined > 0, both });
        told(&outcome, made(&calls, true))?;
        nothing_mixed(&outcome, &truths(&tape))?;
    }

    #[test]
    fn a_hole_mixes_no_calls_that_are_asked_in_advance(calls in calls(), sizes in sizes(), holes in holes(), joined in prop_oneof![Just(0), 0usize..2000], cuts in cuts(), both: bool) {
        let tape = over_http1_in_batches(&calls, &sizes);
        let outcome = play(&tape, joined, &holes, &cuts, Told { late: joined > 0, both });
        told(&outcome, made(&calls, true))?;
        nothing_mixed(&outcome, &truths(&tape))?;
    }

    #[test]
    fn a_session_joined_late_over_http2_tells_what_it_saw(calls in calls(), picks in prop::collection::vec(0usize..6, 1..40), joined: prop::sample::Index, cuts in cuts(), surely_late: bool, both: bool) {
        let tape = over_http2(&calls, &picks);
        let joined = joined.index(tape.iter().map(|(_, bytes)| bytes.len()).sum());
        let outcome = play(&tape, joined, &[], &cuts, Told { late: surely_late, both });
        let metered = told(&outcome, made(&calls, false))?;
        if joined == 0 {
            let whole: BTreeSet<usize> = (0..calls.len()).filter(|at| !calls[*at].aside).collect();
            prop_assert_eq!(metered, whole);
            prop_assert_eq!(late(&outcome), 0);
        }
    }

    #[test]
    fn a_session_joined_late_over_a_websocket_tells_what_it_saw(calls in calls(), deflate: Option<bool>, in_advance: bool, joined: prop::sample::Index, cuts in cuts(), surely_late: bool, both: bool) {
        let (tape, begins, agreed) = over_websocket(&calls, deflate, in_advance);
        let joined = joined.index(tape.iter().map(|(_, bytes)| bytes.len()).sum());
        let outcome = play(&tape, joined, &[], &cuts, Told { late: surely_late, both });
        let metered = told(&outcome, calls.len())?;
        let whole = (0..calls.len()).filter(|at| begins[*at] >= joined).collect::<BTreeSet<usize>>();
        let in_writes = cuts == [usize::MAX];
        match deflate {
            // Messages may refer to those before the first that is seen, and nothing tells that deflated ones are messages.
            Some(_) if joined > agreed => {}
            // With single bytes the place is never found again.
            _ if in_writes || joined == 0 => prop_assert!(metered.is_superset(&whole), "{whole:?} were seen whole from {joined} on, lost {:?}: {:#?}", outcome.lost, outcome.exchanges),
            _ => {}
        }
    }

    #[test]
    fn a_hole_over_a_websocket_mixes_no_calls(calls in calls(), deflate: Option<bool>, in_advance: bool, holes in holes(), joined in prop_oneof![Just(0), 0usize..2000], cuts in cuts(), both: bool) {
        let (tape, ..) = over_websocket(&calls, deflate, in_advance);
        let outcome = play(&tape, joined, &holes, &cuts, Told { late: false, both });
        told(&outcome, calls.len())?;
    }

    #[test]
    fn a_hole_over_the_answer_to_a_handshake_costs_what_it_takes(calls in calls(), deflate: Option<bool>, in_advance: bool, from in 0usize..60, len in 60usize..1500, both: bool) {
        let (tape, begins, agreed) = over_websocket(&calls, deflate, in_advance);
        let hole = Hole { sent: false, received: true, at: agreed + from, len };
        let outcome = play(&tape, 0, std::slice::from_ref(&hole), &[usize::MAX], Told { late: false, both });
        let metered = told(&outcome, calls.len())?;
        let whole = (0..calls.len()).filter(|at| begins[*at] >= hole.span().end).collect::<BTreeSet<usize>>();
        // Messages may refer to what it took. What it took is told with the bytes that the client sends, if at all.
        if both && deflate != Some(false) {
            prop_assert!(metered.is_superset(&whole), "{whole:?} were seen whole, lost {:?}: {:#?}", outcome.lost, outcome.exchanges);
        }
    }

    #[test]
    fn of_a_session_older_than_the_daemon_what_is_seen_whole_is_metered(calls in calls(), armed: prop::sample::Index, more in 1usize..12, cuts in cuts()) {
        let (tape, begins) = over_http1(&calls);
        let armed = armed.index(tape.len());
        let shows = tape.iter().skip(armed).position(|(direction, bytes)| *direction == Sent && begins_a_request(bytes));
        let judged = armed + shows.unwrap_or(0) + more;
        let outcome = play_older(&tape, armed, judged, &cuts);
        let metered = told(&outcome, made(&calls, true))?;
        let bytes_before = tape.iter().take(judged).map(|(_, bytes)| bytes.len()).sum();
        let whole = whole(&begins, bytes_before, &[]);
        prop_assert!(metered.is_superset(&whole), "{whole:?} were seen whole, lost {:?}, {:?}: {:#?}", outcome.lost, outcome.verdict, outcome.exchanges);
        prop_assert!(late(&outcome) <= 1, "{:#?}", outcome.exchanges);
    }

    #[test]
    fn a_hole_over_http1_mixes_no_calls(calls in calls(), holes in holes(), joined in prop_oneof![Just(0), 0usize..2000], cuts in cuts(), both: bool) {
        let (tape, begins) = over_http1(&calls);
        let outcome = play(&tape, joined, &holes, &cuts, Told { late: false, both });
        let metered = told(&outcome, made(&calls, true))?;
        prop_assert!(late(&outcome) <= 1, "{:#?}", outcome.exchanges);
        let whole = whole(&begins, joined, &holes);
        prop_assert!(!both || metered.is_superset(&whole), "{whole:?} were seen whole, lost {:?}, {:?}: {:#?}", outcome.lost, outcome.verdict, outcome.exchanges);
    }

    #[test]
    fn a_hole_over_http2_mixes_no_calls(calls in calls(), picks in prop::collection::vec(0usize..6, 1..40), holes in holes(), joined in prop_oneof![Just(0), 0usize..2000], cuts in cuts(), both: bool) {
        let tape = over_http2(&calls, &picks);
        let outcome = play(&tape, joined, &holes, &cuts, Told { late: false, both });
        told(&outcome, made(&calls, false))?;
    }
}
