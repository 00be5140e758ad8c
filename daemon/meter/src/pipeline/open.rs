//! An exchange in progress: what its request and response said so far, and what is made of it at the end.

use super::attempts::Attempt;
use super::talk::Talk;
use crate::directory::Operation;
use crate::exchange::{Exchange, ProviderError, Reason, ReportedCost, TOOLS_MAX, Usage};
use crate::flow::{Direction, Piece};
use crate::http::body::Decoder;
use crate::http::grpc::{self, Messages, Part};
use crate::http::{End, Header, Key, ResponseHead, header, ws};
use crate::limits::{Budget, EXCHANGE_BYTES, Lease};
use crate::llm::answer::{self, Answer, Verdict};
use crate::llm::dialect::Dialect;
use crate::llm::facts::Count;
use crate::llm::live::{self, Spoken};
use crate::llm::request::{Reader, Shape};
use crate::llm::{anthropic_messages, bedrock, gemini, mcp, openai_chat};
use crate::time::Moment;

/// Response fields with counts: Amazon Bedrock's InvokeModel, TGI.
const METERED: [(&str, Count); 6] = [
    ("x-amzn-bedrock-input-token-count", Count::InputMetered),
    ("x-amzn-bedrock-output-token-count", Count::OutputMetered),
    ("x-amzn-bedrock-cache-read-input-token-count", Count::CacheReadMetered),
    ("x-amzn-bedrock-cache-write-input-token-count", Count::CacheWriteMetered),
    ("x-prompt-tokens", Count::InputMetered),
    ("x-generated-tokens", Count::OutputMetered),
];

/// What is leased for an exchange holds it, with 2 KiB for its texts and the form of its answer.
const _: () = assert!(size_of::<Open>() + 2048 <= EXCHANGE_BYTES);

/// An exchange whose request or response has not ended.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) key: Key,
    exchange: Exchange,
    dialect: Option<&'static Dialect>,
    /// The body tells what it is.
    by_shape: bool,
    asked: Reader,
    asked_coding: Decoder,
    /// The framing of a request in gRPC.
    asked_messages: Option<Box<Messages>>,
    attempt: Attempt,
    /// `None` while there is no response, and if no dialect reads it.
    answer: Option<Answer>,
    answer_coding: Decoder,
    /// The framing of an answer in gRPC.
    answer_messages: Option<Box<Messages>>,
    /// Its request was not seen.
    unasked: bool,
    /// Something of the request's body passed.
    has_body: bool,
    /// The path of the request could not be decoded.
    headless: bool,
    /// It asks for a WebSocket in its stream (RFC 8441).
    asks_for_talk: bool,
    /// Something is missing of what was sent and received in that stream, before a response was seen.
    holes: [bool; 2],
    /// What a head or trailers say of a call that failed.
    failure: Option<ProviderError>,
    /// Why the answer cannot be read to its end.
    unreadable: Option<Reason>,
    /// The response says that it is a stream of events.
    labelled_stream: bool,
    /// The coding of the answer stood in a field that could not be decoded: its first byte tells.
    coding_unknown: Option<Budget>,
    request_ended: bool,
    response: Option<End>,
    /// When the response ended.
    over_at: Moment,
    _lease: Lease,
}

impl Open {
    pub(super) fn new(
        key: Key,
        exchange: Exchange,
        operation: &Operation<'_>,
        headers: &[Header<'_>],
        attempt: Attempt,
        budget: &Budget,
        lease: Lease,
    ) -> Open {
        Open {
            key,
            exchange,
            dialect: operation.dialect,
            by_shape: operation.by_shape,
            asked: Reader::new(operation.dialect),
            asked_coding: Decoder::new(headers, budget),
            asked_messages: Messages::of(headers, budget).map(Box::new),
            attempt,
            answer: None,
            answer_coding: Decoder::default(),
            answer_messages: None,
            unasked: false,
            has_body: false,
            headless: false,
            asks_for_talk: false,
            holes: [false; 2],
            failure: None,
            unreadable: None,
            labelled_stream: false,
            coding_unknown: None,
            request_ended: false,
            response: None,
            over_at: Moment(0),
            _lease: lease,
        }
    }

    /// Its request was not seen, for `reason`.
    pub(super) fn without_request(&mut self, reason: Reason, now: Moment) {
        self.unasked = true;
        self.request_end(End::Cut(reason), now);
    }

    /// Whether its request was not seen.
    pub(super) fn is_unasked(&self) -> bool {
        self.unasked
    }

    /// What the request was for could not be decoded; the answer is read as the provider's usual ones.
    pub(super) fn without_head(&mut self) {
        self.headless = true;
    }

    /// The request asks for a WebSocket in its stream.
    pub(super) fn asks_for_talk(&mut self) {
        self.asks_for_talk = true;
    }

    /// Takes a part of a stream that asks for a WebSocket. Whether it is one although the response was not seen; and if so,
    /// whether something is missing of what was sent.
    pub(super) fn shows_talk(&mut self, direction: Direction, data: Piece<'_>) -> Option<bool> {
        if !self.asks_for_talk || self.exchange.status.is_some() {
            return None;
        }
        let [sent, received] = self.holes;
        match (direction, data) {
            (Direction::Sent, Piece::Gap(_)) => self.holes[0] = true,
            (Direction::Received, Piece::Gap(_)) => self.holes[1] = true,
            // A client sends nothing before it is answered.
            (Direction::Sent, Piece::Bytes(bytes)) if received && !sent => {
                return ws::begins_no_request(bytes).then_some(false);
            }
            (Direction::Sent, Piece::Bytes(bytes)) if received => {
                return ws::is_nothing_but_frames(direction, bytes).then_some(true);
            }
            (Direction::Received, Piece::Bytes(bytes)) if received => {
                return ws::begins_with_messages(direction, bytes).then_some(sent);
            }
            _ => {}
        }
        None
    }

    /// Whether a response of this status is the WebSocket that the request asks for.
    pub(super) fn becomes_talk(&self, status: u16) -> bool {
        self.asks_for_talk && (200..300).contains(&status)
    }

    pub(super) fn exchange_mut(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    /// The upgrade to a WebSocket, if its dialect is spoken there. If its request was not seen, it speaks what is `usual`.
    pub(super) fn into_talk(self, usual: Option<Spoken>) -> Result<Talk, Box<Open>> {
        let spoken = self.dialect.and_then(live::spoken).or(usual.filter(|_| self.unasked));
        let Some(spoken) = spoken else { return Err(Box::new(self)) };
        let Open { key, exchange, _lease: lease, .. } = self;
        Ok(Talk::new(key, Exchange { reason: None, ..exchange }, spoken, lease))
    }

    /// The exchange as its heads tell it: a parser panicked.
    pub(super) fn given_up(self: Box<Open>) -> Exchange {
        let dialect = self.dialect.map(|dialect| dialect.name);
        Exchange { dialect, reason: Some(Reason::Panicked), ..self.exchange.clone() }
    }

    /// Whether nothing more is to come.
    pub(super) fn is_over(&self) -> bool {
        self.request_ended && self.response.is_some()
    }

    pub(super) fn request_data(&mut self, data: Piece<'_>) {
        count(&mut self.exchange.request_bytes, data);
        self.has_body |= !data.is_empty();
        match data {
            Piece::Bytes(bytes) => {
                self.attempt.push(bytes);
                let asked = &mut self.asked;
                if let (Some(messages), Some(dialect)) = (&mut self.asked_messages, self.dialect) {
                    let read = messages.push(bytes, &mut |part| {
                        if let Part::Data(data) = part {
                            asked.push_message(dialect, data);
                        }
                    });
                    if read.is_err() {
                        self.asked.gap();
                    }
                    return;
                }
                // What cannot be decoded is not known; the request's framing is not affected.
                if self.asked_coding.push(bytes, &mut |part| asked.push(part)).is_err() {
                    self.asked.gap();
                }
            }
            Piece::Gap(lost) => {
                if let Some(messages) = &mut self.asked_messages {
                    messages.gap(lost);
                }
                self.attempt.gap();
                self.asked_coding.gap();
                self.asked.gap();
            }
        }
    }

    pub(super) fn request_end(&mut self, end: End, now: Moment) {
        self.asked.finish();
        self.attempt.sent(end == End::Complete, now);
        self.exchange.request_bytes = counted(self.exchange.request_bytes, end);
        self.request_ended = true;
    }

    /// Looks at the request's body for what its path did not say.
    fn recognise(&mut self) {
        let shape = self.asked.asked().shape;
        if self.by_shape
            && let Some(shape) = shape
        {
            (self.exchange.operation, self.dialect) = match shape {
                Shape::Chat => ("chat", Some(&openai_chat::DIALECT)),
                Shape::Messages => ("chat", Some(&anthropic_messages::DIALECT)),
                Shape::Contents => ("generate_content", Some(&gemini::GENERATE)),
            };
            self.exchange.inference = true;
        }
        // An inference profile may hide whose model it is.
        if self.dialect == Some(&bedrock::INVOKE) && shape == Some(Shape::Messages) {
            self.dialect = Some(&anthropic_messages::DIALECT);
        }
    }

    pub(super) fn begin_response(&mut self, head: &ResponseHead<'_>, budget: &Budget, now: Moment) {
        let headers = head.headers;
        self.exchange.timing.first_byte.get_or_insert(now);
        self.recognise();
        self.answer = self.dialect.map(Answer::new);
        self.labelled_stream = header(headers, "content-type").is_some_and(answer::is_stream);
        self.refuse(headers);
        let Some(answer) = &mut self.answer else { return };
        self.answer_messages = Messages::of(headers, budget).map(Box::new);
        self.answer_coding = Decoder::new(headers, budget);
        let told = header(headers, "content-encoding").is_some();
        self.coding_unknown = (!head.whole && !told).then(|| budget.clone());
        for (name, count) in METERED {
            if let Some(value) = header(headers, name).and_then(|text| text.parse().ok()) {
                answer.note(count, value);
            }
        }
    }

    pub(super) fn response_data(&mut self, data: Piece<'_>, now: Moment) {
        count(&mut self.exchange.response_bytes, data);
        if !data.is_empty() {
            self.exchange.timing.first_byte.get_or_insert(now);
        }
        let Some(answer) = &mut self.answer else {
            // Either nobody reads it, or its head was not seen, and then nobody knows what else.
            if !data.is_empty() {
                self.unreadable.get_or_insert(Reason::Gap);
            }
            return;
        };
        if let Piece::Bytes([first, ..]) = data
            && let Some(budget) = self.coding_unknown.take()
        {
            self.answer_coding = Decoder::guess(*first, &budget);
        }
        let unreadable = match (data, &mut self.answer_messages) {
            (Piece::Bytes(bytes), Some(messages)) if self.unreadable.is_none() => {
                let mut take = |part: Part<'_>| match part {
                    Part::Data(data) => answer.push(data, now),
                    Part::End => answer.message_end(now),
                };
                messages.push(bytes, &mut take).err()
            }
            (Piece::Gap(lost), Some(messages)) => match messages.gap(lost) {
                true => {
                    answer.gap();
                    None
                }
                false => Some(Reason::Gap),
            },
            (Piece::Bytes(bytes), None) if self.unreadable.is_none() => {
                self.answer_coding.push(bytes, &mut |part| answer.push(part, now)).err()
            }
            (Piece::Bytes(_), _) => None,
            (Piece::Gap(_), None) if self.answer_coding.gap() => {
                answer.gap();
                None
            }
            (Piece::Gap(_), None) => Some(Reason::Gap),
        };
        if let Some(reason) = unreadable {
            self.unreadable.get_or_insert(reason);
            answer.gap();
        }
    }

    /// Notes that the call failed, if these fields of its head or trailers say so.
    pub(super) fn refuse(&mut self, headers: &[Header<'_>]) {
        if let Some((code, class)) = grpc::failure(headers) {
            let error = ProviderError { class: Some(class.into()), code: Some(code.to_string().into()) };
            self.failure = Some(error);
        }
    }

    pub(super) fn response_end(&mut self, end: End, now: Moment) {
        if let Some(answer) = &mut self.answer {
            answer.finish(now);
        }
        if self.exchange.timing.first_byte.is_some() {
            self.exchange.timing.ended = Some(now);
        }
        self.exchange.response_bytes = counted(self.exchange.response_bytes, end);
        self.over_at = now;
        self.response = Some(end);
    }

    /// The exchange as it is recorded.
    pub(super) fn finish(mut self: Box<Open>) -> Exchange {
        // Only the exchange leaves its place; what is left of the bodies is wiped there.
        let Open {
            mut exchange,
            dialect,
            ref mut asked,
            ref mut answer,
            ref mut attempt,
            unreadable,
            labelled_stream,
            response,
            headless,
            has_body,
            failure,
            over_at,
            ..
        } = *self;
        let end = response.unwrap_or(End::Cut(Reason::Interrupted));
        let asked = asked.take();
        exchange.requested_model = asked.model.or(exchange.requested_model);
        exchange.withheld.join(asked.withheld);
        exchange.dialect = dialect.map(|dialect| dialect.name);
        let responded = exchange.status.is_some() || exchange.timing.first_byte.is_some();
        let mut usage = (Usage::default(), Verdict::Absent);
        if let Some(answer) = answer {
            usage = answer.usage(end);
            let mut facts = answer.take_facts();
            // What was accepted before counts when it is fetched for the first time.
            if let Some(id) = facts.id {
                let awaited = attempt.awaited();
                match (exchange.inference, facts.is_pending()) {
                    (true, true) => awaited.remember(&exchange.provider, id, over_at),
                    (false, false) if usage.1 == Verdict::Whole => {
                        exchange.inference = awaited.arrives(&exchange.provider, id, over_at);
                    }
                    _ => {}
                }
            }
            exchange.finish_reasons = facts.finish_reasons();
            exchange.tools = facts.tools();
            let refused = exchange.status.is_some_and(|status| status >= 400);
            let told = if refused { Some(facts.refused()) } else { facts.error };
            exchange.error = match (told, exchange.error.take()) {
                (Some(told), Some(head)) => {
                    Some(ProviderError { class: told.class.or(head.class), code: told.code.or(head.code) })
                }
                (told, head) => told.or(head),
            };
            exchange.streaming = Some(answer.is_streamed() || labelled_stream);
            exchange.model = facts.model;
            exchange.withheld.join(facts.withheld);
            exchange.batch |= facts.tier.as_deref() == Some("batch");
            let tier = if facts.fast { Some("fast".into()) } else { facts.tier };
            // The first events of a stream name the tier that was asked for.
            let served = tier.filter(|_| !matches!(usage.1, Verdict::Gap | Verdict::Cut));
            exchange.service_tier = served.or(exchange.service_tier);
            if exchange.finish_reasons.is_empty() {
                exchange.finish_reasons.extend(facts.status);
            }
            let whole = matches!(usage.1, Verdict::Whole | Verdict::Absent)
                && unreadable.is_none()
                && !answer.has_holes();
            if !whole {
                exchange.tools.iter_mut().for_each(|tool| tool.calls = None);
            }
            exchange.reported_cost = facts.cost.map(ReportedCost).or(exchange.reported_cost);
            (exchange.timing.first_token, exchange.timing.last_token) = answer.output();
        } else if responded {
            exchange.streaming = Some(labelled_stream);
        }
        if dialect == Some(&mcp::DIALECT) && exchange.operation == "mcp" {
            let (operation, called) = asked.calls.told();
            exchange.operation = operation;
            exchange.tools.extend(called);
            exchange.tools.truncate(TOOLS_MAX);
        }
        exchange.error = failure.or(exchange.error);
        if exchange.status.is_some_and(|status| status >= 400) {
            exchange.error.get_or_insert_default();
        }
        // What was not seen of an answer says nothing of the call.
        let broke_off = matches!(end, End::Cut(Reason::Interrupted | Reason::NoResponse));
        exchange.retries = attempt.over(broke_off || exchange.error.is_some(), over_at);
        let cut = match end {
            End::Cut(reason) => Some(reason),
            End::Complete | End::WithConnection => None,
        };
        let why = match () {
            () if exchange.reason.is_some() => exchange.reason,
            () if !responded => Some(cut.unwrap_or(Reason::NoResponse)),
            // Without a body it asks for something that exists: what it reports was counted before.
            () if headless && !has_body => Some(Reason::UndecodableHead),
            () if !exchange.inference => Some(Reason::NotInference),
            () if dialect.is_none() => Some(Reason::UnsupportedDialect),
            () => match usage.1 {
                Verdict::Whole => None,
                Verdict::Gap => Some(unreadable.unwrap_or(Reason::Gap)),
                Verdict::Cut => Some(unreadable.or(cut).unwrap_or(Reason::Interrupted)),
                Verdict::Absent if headless => Some(unreadable.unwrap_or(Reason::UndecodableHead)),
                Verdict::Absent => {
                    Some(unreadable.unwrap_or_else(|| absent(&exchange, dialect, asked.include_usage)))
                }
            },
        };
        exchange.reason = why;
        if why.is_none() {
            exchange.usage = usage.0;
            if headless {
                exchange.reason = Some(Reason::UndecodableHead);
            }
        } else {
            exchange.reported_cost = None;
        }
        exchange
    }
}

/// Why a whole answer has no usage.
fn absent(exchange: &Exchange, dialect: Option<&'static Dialect>, asked: Option<bool>) -> Reason {
    let streamed = exchange.streaming == Some(true) && exchange.error.is_none();
    let on_request = dialect.is_some_and(|dialect| dialect.usage_on_request);
    if streamed && on_request && asked != Some(true) {
        Reason::StreamUsageNotRequested
    } else {
        Reason::NotReported
    }
}

/// Counts the bytes of a part of a body. How many a hole took may not be known: then nothing of the body is counted.
fn count(sum: &mut Option<u64>, part: Piece<'_>) {
    *sum = match part {
        Piece::Gap(0) => None,
        part => sum.map(|sum| sum.saturating_add(part.len())),
    };
}

/// What was counted of a body that ended so: nothing, if more of it may have passed.
fn counted(sum: Option<u64>, end: End) -> Option<u64> {
    sum.filter(
        |_| !matches!(end, End::Cut(reason) if !matches!(reason, Reason::Interrupted | Reason::NoResponse)),
    )
}
