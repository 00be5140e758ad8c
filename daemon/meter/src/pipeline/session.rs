//! One session: whose it is, what it speaks, and the exchanges open on it.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use super::open::Open;
use super::talk::Talk;
use super::{HostEvidence, SessionVerdict, Shared};
use crate::attribution::attribute;
use crate::directory::Operation;
use crate::exchange::{
    Exchange, IdentifiedBy, Place, RateLimits, Reason, SessionId, Timing, Usage, Withheld, Words,
};
use crate::flow::{Direction, Piece, Stream};
use crate::http::{End, Header, Key, Protocol, RequestHead, ResponseHead, Sink, h1, header, ws};
use crate::limits::{EXCHANGE_BYTES, SESSION_BYTES};
use crate::llm::dialect::{Dialect, Wire};
use crate::llm::live::{self, Spoken};
use crate::llm::{headers, mcp, names};
use crate::loss::Tally;
use crate::time::Moment;
use crate::workload::{ProcessKey, Workload};

/// Whose traffic it is.
#[derive(Clone, Debug)]
enum Naming {
    /// No evidence that names a host yet.
    Unknown,
    /// An AI provider's.
    Provider(Arc<str>),
    /// Nobody's: nothing of it is looked at.
    NotAi,
}

/// What a step made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Boxed as their records hold them; a step seldom makes more than one.
    pub(super) exchanges: SmallVec<[Box<Exchange>; 1]>,
    pub(super) verdict: Option<SessionVerdict>,
    pub(super) lost: Vec<(Reason, u64)>,
}

/// One TLS session or plain connection.
#[derive(Debug)]
pub(super) struct Session {
    protocol: Protocol,
    sent: Stream,
    received: Stream,
    tally: Tally,
    touched: Moment,
    state: Exchanges,
}

/// The part of a session that a protocol reports to.
#[derive(Debug)]
struct Exchanges {
    id: SessionId,
    process: ProcessKey,
    workload: Arc<Workload>,
    host: Option<HostEvidence>,
    naming: Naming,
    ordinal: u32,
    #[expect(clippy::vec_box, reason = "what it holds of a body is not copied when the list changes")]
    open: Vec<Box<Open>>,
    /// What is spoken over WebSockets: the session itself, or streams of it.
    talks: Vec<Box<Talk>>,
    made: Made,
}

/// What is kept of a session that was silent for long, or made room: whose it is, and how far it got.
#[derive(Debug)]
pub(super) struct Dormant {
    process: ProcessKey,
    workload: Arc<Workload>,
    host: Option<HostEvidence>,
    naming: Naming,
    ordinal: u32,
    sent: Stream,
    received: Stream,
}

const _: () = assert!(size_of::<Dormant>() <= SESSION_BYTES);

impl Session {
    /// What is to be kept of it when it is given up although it may go on.
    pub(super) fn dormant(&self) -> Dormant {
        let Exchanges { process, workload, host, naming, ordinal, .. } = &self.state;
        Dormant {
            process: *process,
            workload: Arc::clone(workload),
            host: host.clone(),
            naming: naming.clone(),
            ordinal: *ordinal,
            sent: self.sent,
            received: self.received,
        }
    }

    /// It goes on: what it speaks is found out as if it had been joined in the middle.
    pub(super) fn wake(id: SessionId, dormant: Dormant, now: Moment) -> Session {
        let Dormant { process, workload, host, naming, ordinal, sent, received } = dormant;
        let mut session = Session::new(id, process, workload, true, now);
        (session.sent, session.received) = (sent, received);
        (session.state.host, session.state.naming, session.state.ordinal) = (host, naming, ordinal);
        session
    }

    pub(super) fn new(
        id: SessionId,
        process: ProcessKey,
        workload: Arc<Workload>,
        joined_late: bool,
        now: Moment,
    ) -> Session {
        Session {
            protocol: Protocol::new(joined_late),
            sent: Stream::default(),
            received: Stream::default(),
            tally: Tally::default(),
            touched: now,
            state: Exchanges {
                id,
                process,
                workload,
                host: None,
                naming: Naming::Unknown,
                ordinal: 0,
                open: Vec::new(),
                talks: Vec::new(),
                made: Made::default(),
            },
        }
    }

    pub(super) fn workload(&self) -> &Arc<Workload> {
        &self.state.workload
    }

    pub(super) fn touched(&self) -> Moment {
        self.touched
    }

    pub(super) fn touch(&mut self, now: Moment) {
        self.touched = self.touched.max(now);
    }

    pub(super) fn take_made(&mut self) -> Made {
        let mut made = std::mem::take(&mut self.state.made);
        made.lost.extend(self.tally.lost.drain());
        made
    }

    pub(super) fn resolve(&mut self, workload: Arc<Workload>) {
        if workload.process == self.state.process || self.state.process.start_ticks == 0 {
            self.state.workload = workload;
        }
    }

    /// The host became known. Only evidence that may name a provider counts, and the first stays.
    pub(super) fn name(&mut self, host: HostEvidence, shared: &Shared, now: Moment) {
        if !host.identified_by.names_provider() || self.state.host.is_some() {
            return;
        }
        let naming = match shared.directory.lookup(&host.host) {
            Some(provider) => Naming::Provider(Arc::clone(&provider.name)),
            None => Naming::NotAi,
        };
        self.state.decide(host, naming);
        self.stop_if_not_ai(shared, now);
    }

    /// Takes bytes of one direction, which begin at `offset` when so many at least had moved in the `opposite` one.
    pub(super) fn chunk(
        &mut self,
        direction: Direction,
        [offset, opposite]: [u64; 2],
        bytes: &[u8],
        shared: &Shared,
        now: Moment,
    ) {
        let (stream, other, backwards) = match direction {
            Direction::Sent => (&mut self.sent, &mut self.received, Direction::Received),
            Direction::Received => (&mut self.received, &mut self.sent, Direction::Sent),
        };
        let missing = other.reach(opposite);
        let (gap, fresh) = stream.accept(offset, bytes);
        self.piece(backwards, Piece::Gap(missing), shared, now);
        self.piece(direction, Piece::Gap(gap), shared, now);
        self.piece(direction, Piece::Bytes(fresh), shared, now);
        self.name_by_prefix(shared);
        self.stop_if_not_ai(shared, now);
    }

    /// It is over; `ends` are the bytes that it moved, if they are known.
    pub(super) fn close(&mut self, ends: Option<(u64, u64)>, shared: &Shared, now: Moment) {
        if let Some((sent, received)) = ends {
            let gap = self.sent.reach(sent);
            self.piece(Direction::Sent, Piece::Gap(gap), shared, now);
            let gap = self.received.reach(received);
            self.piece(Direction::Received, Piece::Gap(gap), shared, now);
        }
        let mut sink = Meter { state: &mut self.state, shared, now };
        self.protocol.finish(None, &mut self.tally, &mut sink);
        sink.state.abandon(Reason::Interrupted, now);
    }

    /// A parser panicked: nothing of its state is looked at again. What was open is told without what it may have said.
    pub(super) fn panicked(&mut self) {
        let told = std::mem::take(&mut self.state.made.exchanges);
        self.state.made = Made { exchanges: told, ..Made::default() };
        for open in std::mem::take(&mut self.state.open) {
            self.state.made.exchanges.push(Box::new(open.given_up()));
        }
        for talk in std::mem::take(&mut self.state.talks) {
            self.state.made.exchanges.push(Box::new(talk.given_up()));
        }
        self.protocol = Protocol::Unmetered(Reason::Panicked);
        let missing =
            self.tally.seen.saturating_sub(self.tally.metered).saturating_sub(self.tally.lost.total());
        self.tally.lost.add(Reason::Panicked, missing);
        self.state.made.verdict = Some(SessionVerdict::MetadataOnly(Reason::Panicked));
    }

    fn piece(&mut self, direction: Direction, piece: Piece<'_>, shared: &Shared, now: Moment) {
        if piece.is_empty() {
            return;
        }
        if let Naming::NotAi = self.state.naming {
            // Not for us: what came before the kernel knew is passed over.
            self.tally.seen = self.tally.seen.saturating_add(piece.len());
            self.tally.metered = self.tally.metered.saturating_add(piece.len());
            return;
        }
        let mut sink = Meter { state: &mut self.state, shared, now };
        if let Some(reason) = self.protocol.push(direction, piece, &shared.budget, &mut self.tally, &mut sink)
        {
            sink.state.made.verdict = Some(SessionVerdict::MetadataOnly(reason));
        }
    }

    /// Of a session of unknown name only the start of a write is handed out: its host may stand there although the
    /// head is not whole.
    fn name_by_prefix(&mut self, shared: &Shared) {
        if let (Naming::Unknown, Protocol::Http1(connection)) = (&self.state.naming, &self.protocol)
            && let Some(host) = h1::host_of_partial(connection.partial_request())
        {
            let target = first_target(connection.partial_request()).unwrap_or("/").to_owned();
            let host = host.to_owned();
            self.state.name_by_header(&host, "POST", &target, false, shared);
        }
    }

    fn stop_if_not_ai(&mut self, shared: &Shared, now: Moment) {
        if let (Naming::NotAi, false) = (&self.state.naming, matches!(self.protocol, Protocol::Unmetered(_)))
        {
            self.state.open.clear();
            let mut sink = Meter { state: &mut self.state, shared, now };
            let mut ended = Tally::default();
            self.protocol.finish(Some(Reason::UnknownSession), &mut ended, &mut sink);
            self.tally.metered = self.tally.metered.saturating_add(ended.lost.total());
            self.state.open.clear();
            self.state.made.exchanges.clear();
        }
    }
}

fn first_target(head: &[u8]) -> Option<&str> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)
}

impl Exchanges {
    fn decide(&mut self, host: HostEvidence, naming: Naming) {
        self.made.verdict = Some(match naming {
            Naming::Provider(_) => SessionVerdict::Capture,
            Naming::NotAi | Naming::Unknown => SessionVerdict::Ignore,
        });
        self.host = Some(host);
        self.naming = naming;
    }

    /// Names the session by the Host field of a request to `target`, which speaks `mcp` by its fields or does not.
    fn name_by_header(&mut self, authority: &str, method: &str, target: &str, mcp: bool, shared: &Shared) {
        let host = host_name(authority);
        let operation = shared.directory.operation("", method, target);
        let telling = || operation.telling || mcp;
        let naming = match shared.directory.lookup(authority).or_else(|| shared.directory.lookup(&host)) {
            Some(provider) if !provider.mixed || telling() => Naming::Provider(Arc::clone(&provider.name)),
            Some(_) => Naming::NotAi,
            None if shared.detect_by_path && (mcp || operation.dialect == Some(&mcp::DIALECT)) => {
                Naming::Provider(mcp::DIALECT.name.into())
            }
            None if shared.detect_by_path && telling() => Naming::Provider(unnamed(&host).into()),
            None => Naming::NotAi,
        };
        self.decide(HostEvidence { host: host.into(), identified_by: IdentifiedBy::HostHeader }, naming);
    }

    /// An exchange of this session of which nothing is known yet but that it is there.
    fn blank(&mut self, started: Moment) -> Exchange {
        let ordinal = self.ordinal;
        self.ordinal = self.ordinal.wrapping_add(1);
        let provider = match &self.naming {
            Naming::Provider(name) => Arc::clone(name),
            Naming::Unknown | Naming::NotAi => "unknown".into(),
        };
        let host = self.host.as_ref();
        let host_name = host.map_or_else(|| "".into(), |host| Arc::clone(&host.host));
        Exchange {
            session: self.id,
            ordinal,
            identified_by: host.map_or(IdentifiedBy::IpRange, |host| host.identified_by),
            ..blank(provider, host_name, started)
        }
    }

    fn find(&mut self, key: Key) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.key == key).map(|open| &mut **open)
    }

    fn talk(&mut self, key: Key) -> Option<&mut Talk> {
        self.talks.iter_mut().find(|talk| talk.key == key).map(|talk| &mut **talk)
    }

    /// Records the exchange if nothing more is to come.
    fn settle(&mut self, key: Key) {
        if let Some(at) = self.open.iter().position(|open| open.key == key && open.is_over()) {
            let open = self.open.remove(at);
            self.made.exchanges.push(Box::new(open.finish()));
        }
    }

    /// Records everything open.
    fn abandon(&mut self, reason: Reason, now: Moment) {
        for mut open in std::mem::take(&mut self.open) {
            if !open.is_over() {
                open.response_end(End::Cut(reason), now);
            }
            self.made.exchanges.push(Box::new(open.finish()));
        }
    }
}

/// The value of the parameter `name` in the query of a request target, percent-encoded as it came.
fn query<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The provider's name for a host that only its paths give away.
fn unnamed(host: &str) -> &'static str {
    let local = host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| match address {
            std::net::IpAddr::V4(address) => {
                address.is_loopback() || address.is_private() || address.is_unspecified()
            }
            std::net::IpAddr::V6(address) => address.is_loopback() || address.is_unspecified(),
        });
    if local { "local" } else { "gateway" }
}

/// Lower case, without port and final dot.
fn host_name(authority: &str) -> String {
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    let plain: String = host.chars().filter(char::is_ascii_graphic).take(253).collect();
    plain.trim_end_matches('.').to_ascii_lowercase()
}

fn blank(provider: Arc<str>, host: Arc<str>, started: Moment) -> Exchange {
    Exchange {
        session: SessionId(0),
        ordinal: 0,
        provider,
        host,
        identified_by: IdentifiedBy::IpRange,
        dialect: None,
        operation: "unknown",
        inference: true,
        requested_model: None,
        model: None,
        streaming: None,
        status: None,
        usage: Usage::default(),
        reported_cost: None,
        service_tier: None,
        batch: false,
        finish_reasons: Words::new(),
        tools: Vec::new(),
        provider_request_id: None,
        organization: None,
        project: None,
        error: None,
        api_key_fingerprint: None,
        sdk: None,
        trace_id: None,
        rate_limits: RateLimits::default(),
        retries: None,
        request_bytes: None,
        response_bytes: None,
        timing: Timing { started, ..Timing::default() },
        withheld: Withheld::default(),
        reason: None,
    }
}

/// A call that is known to have been made and was not seen.
pub(super) fn missed(host: &HostEvidence, started: Moment, reason: Reason, shared: &Shared) -> Exchange {
    let provider =
        shared.directory.lookup(&host.host).map_or_else(|| "unknown".into(), |found| Arc::clone(&found.name));
    Exchange {
        identified_by: host.identified_by,
        reason: Some(reason),
        ..blank(provider, Arc::clone(&host.host), started)
    }
}

/// Turns messages into exchanges.
struct Meter<'a> {
    state: &'a mut Exchanges,
    shared: &'a Shared,
    now: Moment,
}

impl Meter<'_> {
    fn fingerprint(&self, headers: &[Header<'_>], target: &str) -> Option<Box<str>> {
        if self.shared.fingerprint_keys.is_empty() {
            return None;
        }
        let secret = headers::credential(headers, target)?;
        let host = self.state.host.as_ref().map(|host| &*host.host);
        let now = self.shared.clock.at(self.now);
        let owner = attribute(host, &self.state.workload, &self.shared.owners, now).owner;
        self.shared.fingerprint_keys.fingerprint(&owner.tenant, secret)
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
}

impl Meter<'_> {
    /// What a WebSocket to this provider speaks whose path was not seen.
    fn usually_spoken(&self) -> Option<Spoken> {
        let Naming::Provider(provider) = &self.state.naming else { return None };
        self.shared.directory.likely_operation(provider).dialect.and_then(live::usual)
    }

    /// Reads what passes in a stream that is a WebSocket; false if it is none. The connection counts its bytes.
    fn frames(&mut self, key: Key, direction: Direction, data: Piece<'_>) -> bool {
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
            open.request_end(End::Cut(reason), now);
        }
    }

    fn response(&mut self, key: Key, head: &ResponseHead<'_>) {
        let (budget, now) = (&self.shared.budget, self.now);
        if let Some(open) = self.state.find(key) {
            let exchange = open.exchange_mut();
            exchange.status = (head.status != 0).then_some(head.status);
            exchange.response_bytes = Some(0);
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
                talk.frames = Some(Box::new(ws::Connection::new(key, ws::Options::agreed(head.headers))));
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
