//! The exchanges of a session: whose they are, which are open, which are made.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Made;
use crate::exchange::{
    Exchange, IdentifiedBy, RateLimits, Reason, SessionId, Timing, Usage, Withheld, Words,
};
use crate::http::{End, Key};
use crate::llm::mcp;
use crate::pipeline::open::Open;
use crate::pipeline::talk::Talk;
use crate::pipeline::{HostEvidence, SessionVerdict, Shared};
use crate::time::Moment;
use crate::workload::{ProcessKey, Workload};

/// Whose traffic it is.
#[derive(Clone, Debug)]
pub(super) enum Naming {
    /// No evidence that names a host yet.
    Unknown,
    /// An AI provider's.
    Provider(Arc<str>),
    /// Nobody's: nothing of it is looked at.
    NotAi,
}

/// The part of a session that a protocol reports to.
#[derive(Debug)]
pub(super) struct Exchanges {
    pub(super) id: SessionId,
    pub(super) process: ProcessKey,
    pub(super) workload: Arc<Workload>,
    pub(super) host: Option<HostEvidence>,
    pub(super) naming: Naming,
    pub(super) ordinal: u32,
    /// Boxed: what one holds of a body is not copied when the list changes.
    pub(super) open: SmallVec<[Box<Open>; 1]>,
    /// What is spoken over WebSockets: the session itself, or streams of it.
    pub(super) talks: Vec<Box<Talk>>,
    pub(super) made: Made,
}

impl Exchanges {
    pub(super) fn decide(&mut self, host: HostEvidence, naming: Naming) {
        self.made.verdict = Some(match naming {
            Naming::Provider(_) => SessionVerdict::Capture,
            Naming::NotAi | Naming::Unknown => SessionVerdict::Ignore,
        });
        self.host = Some(host);
        self.naming = naming;
    }

    /// Names the session by the Host field of a request to `target`, which speaks `mcp` by its fields or does not.
    pub(super) fn name_by_header(
        &mut self,
        authority: &str,
        method: &str,
        target: &str,
        mcp: bool,
        shared: &Shared,
    ) {
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
    pub(super) fn blank(&mut self, started: Moment) -> Exchange {
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

    pub(super) fn find(&mut self, key: Key) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.key == key).map(|open| &mut **open)
    }

    pub(super) fn talk(&mut self, key: Key) -> Option<&mut Talk> {
        self.talks.iter_mut().find(|talk| talk.key == key).map(|talk| &mut **talk)
    }

    /// Records the exchange if nothing more is to come.
    pub(super) fn settle(&mut self, key: Key) {
        if let Some(at) = self.open.iter().position(|open| open.key == key && open.is_over()) {
            let open = self.open.remove(at);
            self.made.exchanges.push(Box::new(open.finish()));
        }
    }

    /// Records everything open.
    pub(super) fn abandon(&mut self, reason: Reason, now: Moment) {
        for mut open in std::mem::take(&mut self.open) {
            if !open.is_over() {
                open.response_end(End::Cut(reason), now);
            }
            self.made.exchanges.push(Box::new(open.finish()));
        }
    }
}

/// A call that is known to have been made and was not seen.
pub(in crate::pipeline) fn missed(
    host: &HostEvidence,
    started: Moment,
    reason: Reason,
    shared: &Shared,
) -> Exchange {
    let provider =
        shared.directory.lookup(&host.host).map_or_else(|| "unknown".into(), |found| Arc::clone(&found.name));
    Exchange {
        identified_by: host.identified_by,
        reason: Some(reason),
        ..blank(provider, Arc::clone(&host.host), started)
    }
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
