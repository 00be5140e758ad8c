//! Turns the messages of a session into exchanges.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::exchanges::{Exchanges, Naming};
use crate::attribution::tenant_of;
use crate::directory::Operation;
use crate::exchange::{Exchange, Place, Reason};
use crate::flow::{Direction, Piece};
use crate::http::{End, Header, Key, RequestHead, ResponseHead, Sink, header, ws};
use crate::limits::EXCHANGE_BYTES;
use crate::llm::dialect::{Dialect, Wire};
use crate::llm::live::{self, Spoken};
use crate::llm::{headers, mcp, names};
use crate::loss::Tally;
use crate::pipeline::Shared;
use crate::pipeline::open::Open;
use crate::pipeline::talk::Talk;
use crate::time::Moment;

/// Turns messages into exchanges.
pub(super) struct Meter<'a> {
    pub(super) state: &'a mut Exchanges,
    pub(super) shared: &'a Shared,
    pub(super) now: Moment,
}

impl Meter<'_> {
    fn fingerprint(&self, headers: &[Header<'_>], target: &str) -> Option<Box<str>> {
        if self.shared.fingerprint_keys.is_empty() {
            return None;
        }
        let secret = headers::credential(headers, target)?;
        let host = self.state.host.as_ref().map(|host| &*host.host);
        let now = self.shared.clock.at(self.now);
        let tenant = tenant_of(host, &self.state.workload, &self.shared.owners, now);
        self.shared.fingerprint_keys.fingerprint(&tenant, secret)
    }

    /// Follows an exchange whose request begins with `head`: host, method, target.
    fn open(
        &mut self,
        key: Key,
        exchange: Exchange,
        operation: &Operation<'_>,
        head: [&str; 3],
        headers: &[Header<'_>],
    ) {
        let budget = &self.shared.budget;
        match budget.lease(EXCHANGE_BYTES) {
            Some(lease) => {
                let attempt = self.shared.attempts.begin(self.state.process, head);
                let open = Open::new(key, exchange, operation, headers, attempt, budget, lease);
                self.state.open.push(Box::new(open));
            }
            // No room to follow it: told at once, with what the head said.
            None => {
                let exchange = Exchange { reason: Some(Reason::LimitReached), ..exchange };
                self.state.made.exchanges.push(Box::new(exchange));
            }
        }
    }
    /// What a WebSocket to this provider speaks whose path was not seen.
    fn usually_spoken(&self) -> Option<Spoken> {
        let Naming::Provider(provider) = &self.state.naming else { return None };
        self.shared.directory.likely_operation(provider).dialect.and_then(live::usual)
    }

    /// Reads what passes in a stream that is a WebSocket; false if it is none. The connection counts its bytes.
    fn frames(&mut self, key: Key, direction: Direction, data: Piece<'_>) -> bool {
        if let Some(holed) = self.state.find(key).and_then(|open| open.shows_talk(direction, data))
            && self.converse(key)
        {
            let frames = Box::new(ws::Connection::unanswered(key, holed, self));
            if let Some(talk) = self.state.talk(key) {
                talk.frames = Some(frames);
            }
        }
        let Some(mut frames) = self.state.talk(key).and_then(|talk| talk.frames.take()) else { return false };
        let mut counted = Tally::default();
        match data {
            Piece::Gap(0) => frames.lose_place(direction, &mut counted, self),
            data => frames.push(direction, data, &self.shared.budget, &mut counted, self),
        }
        if let Some(talk) = self.state.talk(key) {
            talk.frames = Some(frames);
        }
        true
    }
}

impl Sink for Meter<'_> {
    fn request(&mut self, key: Key, head: &RequestHead<'_>) {
        let authority = head.authority.or_else(|| header(head.headers, "host")).unwrap_or("");
        let mcp = mcp::is_spoken(head.headers);
        if let Naming::Unknown = self.state.naming {
            self.state.name_by_header(authority, head.method, head.target, mcp, self.shared);
        }
        let Naming::Provider(provider) = &self.state.naming else { return };
        let websocket = head.protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
        // In HTTP/2 a WebSocket is asked for by CONNECT; what it is for says the path, as that of a GET.
        let method = if websocket { "GET" } else { head.method };
        let operation = match head.target {
            // Its head could not be decoded: what the provider's answers look like is known nevertheless.
            "" => self.shared.directory.likely_operation(provider),
            target => self.shared.directory.operation(provider, method, target),
        };
        let operation = match mcp && !operation.inference {
            true => Operation { name: "mcp", dialect: Some(&mcp::DIALECT), ..Operation::OTHER },
            false => operation,
        };
        let mut exchange = self.state.blank(self.now);
        exchange.operation = operation.name;
        exchange.inference = operation.inference;
        exchange.batch = operation.batch;
        exchange.requested_model = operation.model.and_then(|model| {
            let decoded: Cow<'_, [u8]> = percent_decode_str(model).into();
            names::model(&decoded).at(Place::RequestedModel, &mut exchange.withheld).map(Into::into)
        });
        if exchange.requested_model.is_none()
            && matches!(operation.dialect, Some(Dialect { wire: Wire::Session(_), .. }))
        {
            let model = query(head.target, "model").or_else(|| query(head.target, "deployment"));
            let model = model.map(|model| Cow::from(percent_decode_str(model)));
            exchange.requested_model = model.and_then(|model| {
                names::model(&model).at(Place::RequestedModel, &mut exchange.withheld).map(Into::into)
            });
        }
        headers::of_request(head.headers, &mut exchange);
        exchange.api_key_fingerprint = self.fingerprint(head.headers, head.target);
        exchange.request_bytes = Some(0);
        let host = Arc::clone(&exchange.host);
        self.open(key, exchange, &operation, [&host, head.method, head.target], head.headers);
        if head.target.is_empty()
            && let Some(open) = self.state.find(key)
        {
            open.without_head();
        }
        if websocket && let Some(open) = self.state.find(key) {
            open.asks_for_talk();
        }
    }

    fn request_data(&mut self, key: Key, data: Piece<'_>) {
        if self.frames(key, Direction::Sent, data) {
            return;
        }
        if let Some(open) = self.state.find(key) {
            open.request_data(data);
        }
    }

    fn request_end(&mut self, key: Key, end: End) {
        let now = self.now;
        if let Some(open) = self.state.find(key) {
            open.request_end(end, now);
        }
        self.state.settle(key);
    }

    fn unasked(&mut self, key: Key, reason: Reason) {
        if !matches!(self.state.naming, Naming::Provider(_)) {
            return;
        }
        let exchange = Exchange { reason: Some(reason), ..self.state.blank(self.now) };
        self.open(key, exchange, &Operation::OTHER, [""; 3], &[]);
        let now = self.now;
        if let Some(open) = self.state.find(key) {
            open.without_request(reason, now);
        }
    }

    fn response(&mut self, key: Key, head: &ResponseHead<'_>) {
        let (budget, now) = (&self.shared.budget, self.now);
        if let Some(open) = self.state.find(key) {
            let asked = !open.is_unasked();
            let exchange = open.exchange_mut();
            exchange.status = (head.status != 0).then_some(head.status);
            // Of a response whose request was not seen its framing is not known: it may be one for HEAD.
            exchange.response_bytes = asked.then_some(0);
            headers::of_response(head.headers, exchange, self.shared.clock.at(now));
            let talk = open.becomes_talk(head.status);
            if head.status == 101 || talk {
                open.exchange_mut().reason = Some(Reason::Upgraded);
            }
            open.begin_response(head, budget, now);
            if talk
                && self.converse(key)
                && let Some(talk) = self.state.talk(key)
            {
                let options =
                    if head.whole { ws::Options::agreed(head.headers) } else { ws::Options::UNKNOWN };
                talk.frames = Some(Box::new(ws::Connection::new(key, options)));
            }
        }
    }

    fn response_data(&mut self, key: Key, data: Piece<'_>) {
        if self.frames(key, Direction::Received, data) {
            return;
        }
        let now = self.now;
        if let Some(open) = self.state.find(key) {
            open.response_data(data, now);
        }
    }

    fn trailers(&mut self, key: Key, headers: &[Header<'_>]) {
        if let Some(open) = self.state.find(key) {
            open.refuse(headers);
        }
    }

    fn response_end(&mut self, key: Key, end: End) {
        let now = self.now;
        if self.state.talk(key).is_some() {
            // A stream that is cut off ends its WebSocket as a connection does.
            let end = if end == End::Cut(Reason::Interrupted) { End::WithConnection } else { end };
            return self.hung_up(key, end);
        }
        if let Some(open) = self.state.find(key) {
            open.response_end(end, now);
        }
        self.state.settle(key);
    }

    fn orphan(&mut self, reason: Reason) {
        if let Naming::Provider(_) = self.state.naming {
            let exchange = self.state.blank(self.now);
            self.state.made.exchanges.push(Box::new(Exchange { reason: Some(reason), ..exchange }));
        }
    }

    fn converse(&mut self, key: Key) -> bool {
        let Some(at) = self.state.open.iter().position(|open| open.key == key) else { return false };
        let usual = self.usually_spoken();
        match self.state.open.remove(at).into_talk(usual) {
            Ok(talk) => {
                self.state.talks.push(Box::new(talk));
                true
            }
            Err(open) => {
                self.state.open.insert(at, open);
                false
            }
        }
    }

    fn overhear(&mut self, key: Key, reason: Reason) -> bool {
        let Some(spoken) = self.usually_spoken() else { return false };
        let Some(lease) = self.shared.budget.lease(EXCHANGE_BYTES) else { return false };
        let exchange = self.state.blank(self.now);
        self.state.talks.push(Box::new(Talk::overheard(key, exchange, spoken, reason, lease)));
        true
    }

    fn carried(&mut self, key: Key, direction: Direction, bytes: u64) {
        if let Some(talk) = self.state.talk(key) {
            talk.carried(direction, bytes);
        }
    }

    fn message(&mut self, key: Key, direction: Direction, part: Piece<'_>) {
        if let Some(talk) = self.state.talk(key) {
            talk.message(direction, part);
        }
    }

    fn message_end(&mut self, key: Key, direction: Direction) {
        let now = self.now;
        let Exchanges { talks, made, ordinal, .. } = &mut *self.state;
        if let Some(talk) = talks.iter_mut().find(|talk| talk.key == key) {
            made.exchanges.extend(talk.message_end(direction, now, ordinal).into_iter().map(Box::new));
        }
    }

    fn hung_up(&mut self, key: Key, end: End) {
        let at = self.state.talks.iter().position(|talk| talk.key == key);
        if let Some(mut talk) = at.map(|at| self.state.talks.swap_remove(at)) {
            let told = talk.hung_up(end, self.now, &mut self.state.ordinal);
            self.state.made.exchanges.extend(told.into_iter().map(Box::new));
        }
    }

    fn upgraded(&mut self) {
        let now = self.now;
        self.state.abandon(Reason::Upgraded, now);
    }
}

/// The value of the parameter `name` in the query of a request target, percent-encoded as it came.
fn query<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}
