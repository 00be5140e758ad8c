//! JSON for programs: a key is there or it is not. Absent means unknown; `null`, an empty name and a zero that means
//! "unknown" never appear. Keys are added, never renamed.

use std::collections::{BTreeMap, HashMap};

use proto::v1::{Cost, Owner, RateLimit, Timing, ToolCalls, Usage, Workload};
use serde_json::{Map, Number, Value};

use super::text::{moment, rfc3339};

/// An object whose keys keep the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Object(Map<String, Value>);

impl Object {
    /// An empty object.
    pub(crate) fn new() -> Object {
        Object::default()
    }

    /// Adds a value that is known.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Object {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a value, if it is known.
    pub(crate) fn opt(self, key: &str, value: Option<impl Into<Value>>) -> Object {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// Adds a name, unless it is empty.
    pub(crate) fn text(self, key: &str, value: &str) -> Object {
        if value.is_empty() { self } else { self.set(key, value) }
    }

    /// Adds names, unless there are none.
    pub(crate) fn list(self, key: &str, values: &[String]) -> Object {
        if values.is_empty() { self } else { self.set(key, values.to_vec()) }
    }

    /// Adds values, unless there are none.
    pub(crate) fn values(self, key: &str, values: Vec<Value>) -> Object {
        if values.is_empty() { self } else { self.set(key, values) }
    }

    /// Adds a moment in RFC 3339, if it is known.
    pub(crate) fn time(self, key: &str, value: Option<&prost_types::Timestamp>) -> Object {
        self.opt(key, moment(value).map(rfc3339))
    }

    /// Adds a fraction, if it is a number.
    pub(crate) fn real(self, key: &str, value: Option<f64>) -> Object {
        self.opt(key, value.and_then(Number::from_f64))
    }

    /// Adds an object, unless it is empty.
    pub(crate) fn object(self, key: &str, value: Object) -> Object {
        if value.0.is_empty() { self } else { self.set(key, Value::Object(value.0)) }
    }

    /// As a value.
    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// As one line with its line break.
    pub(crate) fn into_line(self) -> String {
        let mut line = self.into_value().to_string();
        line.push('\n');
        line
    }
}

/// Token counts.
pub(crate) fn usage(usage: Option<&Usage>) -> Object {
    let Some(usage) = usage else { return Object::new() };
    let Usage {
        input_tokens,
        output_tokens,
        cache_read_input_tokens,
        cache_creation_input_tokens,
        cache_creation_5m_input_tokens,
        cache_creation_1h_input_tokens,
        reasoning_output_tokens,
        audio_input_tokens,
        audio_output_tokens,
        image_input_tokens,
        image_output_tokens,
        total_tokens,
        web_search_requests,
        details,
    } = usage;
    let object = Object::new()
        .opt("input_tokens", *input_tokens)
        .opt("output_tokens", *output_tokens)
        .opt("cache_read_input_tokens", *cache_read_input_tokens)
        .opt("cache_creation_input_tokens", *cache_creation_input_tokens)
        .opt("cache_creation_5m_input_tokens", *cache_creation_5m_input_tokens)
        .opt("cache_creation_1h_input_tokens", *cache_creation_1h_input_tokens)
        .opt("reasoning_output_tokens", *reasoning_output_tokens)
        .opt("audio_input_tokens", *audio_input_tokens)
        .opt("audio_output_tokens", *audio_output_tokens)
        .opt("image_input_tokens", *image_input_tokens)
        .opt("image_output_tokens", *image_output_tokens)
        .opt("total_tokens", *total_tokens)
        .opt("web_search_requests", *web_search_requests);
    details.iter().fold(object, |object, detail| object.set(&detail.unit, detail.count))
}

/// What it cost. A version of 0 means that no catalogue was used.
pub(crate) fn cost(cost: Option<&Cost>) -> Object {
    let Some(cost) = cost else { return Object::new() };
    let parts: Vec<Value> = cost
        .parts
        .iter()
        .map(|part| {
            Object::new()
                .text("token_class", &part.token_class)
                .set("tokens", part.tokens)
                .set("pico_usd_per_token", part.pico_usd_per_token)
                .into_value()
        })
        .collect();
    Object::new()
        .opt("amount_usd", cost.amount_usd.clone())
        .text("kind", &cost.kind)
        .opt("catalogue_version", (cost.catalogue_version != 0).then_some(cost.catalogue_version))
        .opt("parts", (!parts.is_empty()).then_some(parts))
        .opt("reason", cost.reason.clone())
}

/// How long things took, in milliseconds.
pub(crate) fn timing(timing: Option<&Timing>) -> Object {
    let Some(timing) = timing else { return Object::new() };
    Object::new()
        .real("first_byte_ms", timing.first_byte_ms)
        .real("first_token_ms", timing.first_token_ms)
        .real("last_token_ms", timing.last_token_ms)
        .real("total_ms", timing.total_ms)
        .real("output_tokens_per_second", timing.output_tokens_per_second)
}

/// Tools with how often each was called.
pub(crate) fn tool_calls(tools: &[ToolCalls]) -> Vec<Value> {
    tools
        .iter()
        .map(|tool| Object::new().text("name", &tool.name).opt("calls", tool.calls).into_value())
        .collect()
}

/// Limits by what they count.
pub(crate) fn rate_limits(limits: &[RateLimit]) -> Object {
    limits.iter().fold(Object::new(), |object, limit| {
        let numbers = Object::new()
            .opt("limit", limit.limit)
            .opt("remaining", limit.remaining)
            .opt("reset_after_ms", limit.reset_after_ms)
            .time("reset_at", limit.reset_at.as_ref());
        object.object(&limit.unit, numbers)
    })
}

/// Who ran it.
pub(crate) fn workload(workload: Option<&Workload>) -> Object {
    let Some(workload) = workload else { return Object::new() };
    Object::new()
        .opt("pid", workload.pid)
        .opt("exe", workload.exe.clone())
        .opt("comm", workload.comm.clone())
        .opt("uid", workload.uid)
        .opt("user", workload.user.clone())
        .opt("container_id", workload.container_id.clone())
        .opt("container_name", workload.container_name.clone())
        .opt("image", workload.image.clone())
        .opt("runtime", workload.runtime.clone())
        .opt("pod", workload.pod.clone())
        .opt("pod_uid", workload.pod_uid.clone())
        .opt("namespace", workload.namespace.clone())
        .opt("controller", workload.controller.clone())
        .opt("unit", workload.unit.clone())
        .opt("cgroup", workload.cgroup.clone())
        .object("labels", names(&workload.labels))
        .text("evidence", &workload.evidence)
}

/// Who answers for it.
pub(crate) fn owner(owner: Option<&Owner>) -> Object {
    let Some(owner) = owner else { return Object::new() };
    Object::new()
        .text("tenant", &owner.tenant)
        .opt("team", owner.team.clone())
        .opt("service", owner.service.clone())
        .opt("cost_centre", owner.cost_centre.clone())
        .opt("environment", owner.environment.clone())
}

/// Names by name, in alphabetical order.
pub(crate) fn names(map: &HashMap<String, String>) -> Object {
    let sorted: BTreeMap<&String, &String> = map.iter().collect();
    sorted.into_iter().fold(Object::new(), |object, (key, value)| object.text(key, value))
}
