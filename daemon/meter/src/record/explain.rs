//! Why a record says what it says, in sentences for people. Only from what the record holds: no index, no catalogue.

use super::{Cost, CostKind, Coverage, DarkReason, Flow, FlowSeen, Record, Subject};
use crate::attribution::{Attribution, NullReason, Owner};
use crate::exchange::{Exchange, IdentifiedBy, Reason};
use crate::workload::{Workload, WorkloadEvidence};

/// Why a record says what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The steps from the call to the owner and the cost, in order.
    pub steps: Vec<String>,
    /// What is not known, and why.
    pub gaps: Vec<String>,
}

impl Record {
    /// Why it says what it says.
    pub fn explain(&self) -> Explanation {
        let Record { id: _, started_at: _, recorded_at: _, subject, workload, attribution, cost } = self;
        let mut found = Explanation::default();
        match subject {
            Subject::Exchange(exchange) => found.call(exchange),
            Subject::Flow(flow) => found.flow(flow),
        }
        found.workload(workload);
        found.owner(attribution);
        if let Some(cost) = cost {
            found.cost(cost);
        }
        found
    }
}

impl Explanation {
    fn call(&mut self, exchange: &Exchange) {
        let host = &exchange.host;
        let how = identified(exchange.identified_by);
        self.steps
            .push(format!("call: {} to {} at {host}, named by {how}", exchange.operation, exchange.provider));
        match (&exchange.model, &exchange.requested_model) {
            (Some(model), _) => self.steps.push(format!("model: {model}, as the response names it")),
            (None, Some(model)) => self.steps.push(format!("model: {model}, as the request names it")),
            (None, None) => self.gaps.push("the model is not known".to_owned()),
        }
        if exchange.dialect.is_none() {
            self.gaps.push("no dialect reads this call: only its size and time are known".to_owned());
        }
        if let Some(retries @ 1..) = exchange.retries {
            self.steps.push(format!(
                "retry: {retries} earlier attempts of the same process at this request failed, never two minutes apart"
            ));
        }
        for place in exchange.withheld.places() {
            self.gaps.push(format!("{}: what stands there is not a name, so it is not kept", place.as_str()));
        }
        if exchange.usage.is_unknown() && exchange.inference {
            let why = exchange.reason.map_or("the provider reported none", because);
            self.gaps.push(format!("token counts are not known: {why}"));
        } else if let Some(reason) = exchange.reason {
            self.gaps.push(format!("the record is incomplete: {}", because(reason)));
        }
    }

    fn flow(&mut self, flow: &Flow) {
        let to = flow.host.as_deref().map_or_else(|| flow.remote.to_string(), str::to_owned);
        let seen = match flow.seen {
            FlowSeen::Connect => "seen at its connect",
            FlowSeen::AtStart => "older than the daemon",
            FlowSeen::Tap => "seen on the wire only",
        };
        let how = flow.identified_by.map_or("its address", identified);
        self.steps.push(format!("connection: to {to}, {seen}, named by {how}"));
        if flow.bytes_sent.is_none() {
            self.gaps.push("its bytes are not known: the kernel's type information is missing, or it is older than the daemon".to_owned());
        }
        match flow.coverage {
            Coverage::Captured => {}
            Coverage::MetadataOnly(reason) => {
                self.gaps.push(format!("its calls are not seen: {}", because(reason)))
            }
            Coverage::Dark(reason) => self.gaps.push(format!("its calls cannot be seen: {}", dark(reason))),
        }
    }

    fn workload(&mut self, workload: &Workload) {
        let pid = workload.process.pid;
        let name = workload.group_name();
        match workload.evidence {
            WorkloadEvidence::Exact => {
                self.steps.push(format!("workload: {name}, from the kernel for process {pid}"))
            }
            WorkloadEvidence::Lineage => {
                self.steps.push(format!("workload: {name}, inherited by process {pid} from its parent"));
                self.gaps.push(format!("process {pid} was gone before it could be looked at"));
            }
            WorkloadEvidence::Unknown => {
                self.gaps.push(format!("nothing but the number of process {pid} is known of the workload"));
            }
        }
    }

    fn owner(&mut self, attribution: &Attribution) {
        for evidence in &attribution.evidence {
            let kind =
                if evidence.self_asserted { "says the workload itself" } else { "a fact it cannot change" };
            let (method, weight) = (evidence.method.as_str(), decimal(evidence.weight));
            self.steps.push(format!("evidence: {} ({method}, {kind}, weight {weight})", evidence.statement));
        }
        let confidence = decimal(attribution.confidence.basis_points());
        let generation = attribution.index_generation;
        if let Some(reason) = attribution.null_reason {
            let tenant = attribution.owner.tenant.as_str();
            self.steps.push(format!("owner: unknown, kept under tenant {tenant} (index {generation})"));
            self.gaps.push(format!("no owner: {}", unowned(reason)));
            return;
        }
        let band = attribution.confidence.band().as_str();
        self.steps.push(format!(
            "owner: {}, confidence {confidence}, {band}, {} (index {generation})",
            owner(&attribution.owner),
            attribution.state.as_str(),
        ));
        for other in attribution.candidates.iter().skip(1) {
            let confidence = decimal(other.confidence.basis_points());
            self.steps.push(format!(
                "not chosen: {}, {confidence}, {}",
                owner(&other.owner),
                other.rationale
            ));
        }
        if attribution
            .evidence
            .iter()
            .all(|evidence| evidence.self_asserted || evidence.observed_at.is_some())
        {
            self.gaps.push("only what the workload says of itself names the owner: not billed before a rule on facts agrees".to_owned());
        }
    }

    fn cost(&mut self, cost: &Cost) {
        let version = cost.catalogue_version;
        for part in &cost.parts {
            self.steps.push(format!("price: {} {} at {} USD each", part.tokens, part.class, part.price));
        }
        match (cost.amount, cost.kind) {
            (Some(amount), CostKind::ProviderReported) => {
                self.steps.push(format!("cost: {amount} USD, as the provider stated"));
            }
            (Some(amount), kind) => {
                self.steps.push(format!(
                    "cost: {amount} USD, {}, list prices of catalogue {version}",
                    kind.as_str()
                ));
            }
            (None, _) => {}
        }
        let why = cost.reason.map(priced);
        match (cost.amount, why) {
            (None, why) => self.gaps.push(format!("no cost: {}", why.unwrap_or("the reason was not kept"))),
            (Some(_), Some(why)) => self.gaps.push(format!("the cost is an estimate: {why}")),
            (Some(_), None) => {}
        }
    }
}

/// Basis points as a decimal fraction: `0.95`.
fn decimal(basis_points: u16) -> String {
    let text = format!("{}.{:04}", basis_points / 10_000, basis_points % 10_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn owner(owner: &Owner) -> String {
    let Owner { tenant, team, service, cost_centre, environment } = owner;
    let named =
        [("team", team), ("service", service), ("cost centre", cost_centre), ("environment", environment)];
    let named = named.iter().filter_map(|(key, name)| Some(format!(", {key} {}", name.as_deref()?)));
    format!("tenant {}{}", tenant.as_str(), named.collect::<String>())
}

fn identified(by: IdentifiedBy) -> &'static str {
    match by {
        IdentifiedBy::Sni => "the TLS ClientHello",
        IdentifiedBy::SniCached => {
            "the TLS ClientHello of an earlier connection of its executable to this address"
        }
        IdentifiedBy::Dns => "a DNS answer",
        IdentifiedBy::Getaddrinfo => "the process's own name lookup",
        IdentifiedBy::HostHeader => "the request's Host header",
        IdentifiedBy::TlsHostnameCall => "the name given to the TLS library",
        IdentifiedBy::IpRange => "a published address range",
        IdentifiedBy::Configured => "the configuration",
    }
}

fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::LateAttach => "the call was made before the process was armed",
        Reason::UndecodableHead => "its head refers to parts of the HTTP/2 connection that were not seen",
        Reason::Upgraded => "the session was upgraded to another protocol",
        Reason::NotHttp => "the session does not speak HTTP",
        Reason::UnknownSession => "the session's host name never became known",
        Reason::StreamUsageNotRequested => "the client did not ask for usage in the stream",
        Reason::Interrupted => "the stream ended early",
        Reason::Gap => "bytes were lost on the way",
        Reason::Undecodable => "the body's encoding is not understood",
        Reason::UnsupportedDialect => "no dialect reads this call",
        Reason::NotReported => "the provider answered without them",
        Reason::NoResponse => "no response was seen",
        Reason::LimitReached => "a limit of the parser was reached",
        Reason::Panicked => "the parser gave the session up",
        Reason::Quic => "the connection speaks QUIC, whose content is not read",
        Reason::NotInference => "the call is not inference",
    }
}

fn dark(reason: DarkReason) -> &'static str {
    match reason {
        DarkReason::UnknownTlsLibrary => "the process has no TLS library that is known",
        DarkReason::AttachRefused => "the kernel refused the probes",
        DarkReason::Unreadable => "the process's files could not be read",
        DarkReason::SwitchedOff => "content capture is switched off",
        DarkReason::Gone => "the process ended before it could be looked at",
    }
}

fn unowned(reason: NullReason) -> &'static str {
    match reason {
        NullReason::NoRules => "the configuration names no owners",
        NullReason::NoRuleMatched => "no owner rule matched",
        NullReason::Conflict => "rules of the same strength name different owners",
        NullReason::IndexStale => "the owner index was too old",
        NullReason::WorkloadUnknown => "the workload was gone before it could be identified",
    }
}

/// The reasons that pricing gives.
fn priced(reason: &'static str) -> &'static str {
    match reason {
        "unknown_model" => "the catalogue does not know the model",
        "disputed_price" => "the catalogue's sources do not agree on this price",
        "unknown_usage" => "token counts are not known",
        "error_response" => "the provider answered with an error and no usage",
        "not_inference" => "the call is not inference",
        "no_price_in_force" => "the catalogue has no price for that time",
        "no_unit_price" => "the catalogue has no price for the units that were reported",
        "no_input_price" | "no_output_price" => "the catalogue has no price for one of the token classes",
        "amount_overflow" => "the amount is beyond all reason",
        "priced_as_requested_model" => "the model that answered is not known; the requested one was priced",
        "priced_as_response_model" => {
            "the model of the request is not known; the one that answered was priced"
        }
        "no_tier_price" => "the service tier has no price of its own; the standard price was taken",
        "no_batch_price" => "batches have no price of their own; the standard price was taken",
        "no_cache_price" => "cached input has no price of its own; the full price was taken",
        "no_cache_write_price" => "cache writes have no price of their own; another was taken",
        "cache_lifetime_unknown" => "the lifetime of cache writes is not stated; the shorter one was taken",
        "cache_exceeds_input" => "the provider states more cached input than input",
        "cached_modality_unknown" => "which of the cached tokens are audio is not stated",
        "no_audio_price" | "no_modality_price" => {
            "audio or images have no price of their own; the text price was taken"
        }
        "no_web_search_price" => "web searches have no price and are not included",
        "no_file_search_price" => "searches in files have no price and are not included",
        "no_code_interpreter_price" => "code is run for a price by the session, which is not included",
        "no_advisor_price" => {
            "what another model was asked for advice used is priced as that model, and not included"
        }
        "no_compaction_price" => "what summing the conversation up used has no price and is not included",
        "compaction_tier_unknown" => {
            "summing the conversation up is priced as for short inputs: the answer tells only its sum"
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::attribution::{Condition, Field, OwnerConfig, OwnerIndex, OwnerRule, Pattern, attribute};
    use crate::exchange::{IdentifiedBy, Reason};
    use crate::money::PicoUsd;
    use crate::record::{Cost, CostKind, CostPart, Coverage, Flow, FlowSeen, Record, RecordId, Subject};
    use crate::time::UnixNanos;
    use crate::workload::{ProcessKey, Workload, WorkloadEvidence};

    fn record(rules: Vec<OwnerRule>, cost: Option<Cost>) -> Record {
        let mut workload = Workload::clone(&Workload::unknown(ProcessKey { pid: 7, start_ticks: 1 }));
        workload.unit = Some("shop.service".into());
        workload.evidence = WorkloadEvidence::Exact;
        let now = UnixNanos(1);
        let index = OwnerIndex::compile(&OwnerConfig { rules, ..OwnerConfig::default() }, 5, now).unwrap();
        let flow = Flow {
            ended_at: None,
            local: "10.0.0.1:4000".parse().unwrap(),
            remote: "10.0.0.2:443".parse().unwrap(),
            protocol: 6,
            bytes_sent: Some(1),
            bytes_received: Some(1),
            provider: Some(Arc::from("openai")),
            host: Some(Arc::from("api.openai.com")),
            identified_by: Some(IdentifiedBy::Sni),
            seen: FlowSeen::Connect,
            coverage: Coverage::MetadataOnly(Reason::NotHttp),
        };
        Record {
            id: RecordId(1),
            started_at: now,
            recorded_at: now,
            subject: Subject::Flow(Box::new(flow)),
            attribution: attribute(Some("api.openai.com"), &workload, &index, now),
            workload: Arc::new(workload),
            cost,
        }
    }

    #[test]
    fn a_record_says_why() {
        let condition = Condition { field: Field::Unit, pattern: Pattern::parse("shop.service") };
        let rule =
            OwnerRule { conditions: vec![condition], team: Some("shop".into()), ..OwnerRule::default() };
        let part = CostPart { class: "input", tokens: 1_000, price: PicoUsd(2_500_000) };
        let cost = Cost {
            amount: Some(PicoUsd(2_500_000_000)),
            kind: CostKind::Estimated,
            catalogue_version: 9,
            parts: [part].into_iter().collect(),
            reason: Some("no_tier_price"),
        };
        let found = record(vec![rule], Some(cost)).explain();
        assert_eq!(
            found.steps,
            [
                "connection: to api.openai.com, seen at its connect, named by the TLS ClientHello",
                "workload: shop.service, from the kernel for process 7",
                "evidence: process 7 made the call, in a systemd unit, by its cgroup (R1, a fact it cannot change, weight 0.95)",
                "evidence: rule[0]: unit = \"shop.service\" (R1, a fact it cannot change, weight 0.98)",
                "owner: tenant default, team shop, confidence 0.95, chargeback_eligible, deterministically_resolved (index 5)",
                "price: 1000 input at 0.0000025 USD each",
                "cost: 0.0025 USD, estimated, list prices of catalogue 9",
            ]
        );
        assert_eq!(
            found.gaps,
            [
                "its calls are not seen: the session does not speak HTTP",
                "the cost is an estimate: the service tier has no price of its own; the standard price was taken",
            ]
        );
    }

    #[test]
    fn a_record_without_an_owner_says_so() {
        let found = record(Vec::new(), None).explain();
        assert!(found.steps.contains(&"owner: unknown, kept under tenant default (index 5)".to_owned()));
        assert!(found.gaps.contains(&"no owner: the configuration names no owners".to_owned()));
    }
}
