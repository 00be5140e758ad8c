//! What the recording expects against what the meter said.

use std::fmt;

use meter::exchange::{Exchange, Reason};
use serde_json::{Value, json};

use crate::drive::{self, Seen};
use e2e::corpus::Line;

/// Outcome of one rendering.
pub(crate) enum Verdict {
    /// As expected.
    Exact,
    /// The corpus does not say what is expected.
    NothingExpected,
    /// Something differs.
    Mismatch(Vec<Difference>),
}

/// One thing that differs.
pub(crate) struct Difference {
    /// What.
    pub(crate) what: &'static str,
    expected: String,
    seen: String,
    reason: Option<Reason>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, seen {}", self.what, self.expected, self.seen)?;
        match self.reason {
            Some(reason) => write!(f, " ({})", reason.as_str()),
            None => Ok(()),
        }
    }
}

/// Token classes that every recording states.
const CLASSES: [&str; 5] = [
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_output_tokens",
];

/// Compares.
pub(crate) fn compare(line: &Line, seen: &Seen) -> Verdict {
    let Some(expected) = &line.expected else { return Verdict::NothingExpected };
    if expected["is_ai"] == Value::Bool(false) {
        let used = seen.exchanges.iter().any(|exchange| !exchange.usage.is_unknown());
        let differences = if used { vec![difference("usage", "none", "some", None)] } else { Vec::new() };
        return if used { Verdict::Mismatch(differences) } else { Verdict::Exact };
    }
    if line.protocol == "websocket" {
        return session(line, expected, seen);
    }
    let inference = expected["inference"] != Value::Bool(false);
    let Some(exchange) = seen.exchange() else {
        let count = seen.exchanges.len();
        if count == 0 && !inference {
            return Verdict::Exact;
        }
        return Verdict::Mismatch(vec![difference("exchanges", "1", &count.to_string(), None)]);
    };
    let mut differences = usage(expected, exchange, inference);
    let reason = exchange.reason;
    // Scrubbed recordings have account numbers replaced in what they expect, not everywhere in the URL.
    let plain = |text: &str| if line.scrubbed { without_accounts(text) } else { text.to_owned() };
    let text = |key: &str| expected[key].as_str().map(plain);
    let mut same = |what, wanted: Option<String>, got: Option<String>| {
        if wanted != got {
            let show = |text: Option<String>| text.unwrap_or_else(|| "nothing".to_owned());
            differences.push(difference(what, &show(wanted), &show(got), reason));
        }
    };
    same("model", text("model"), drive::model(exchange).map(plain));
    // Of a request that is not JSON to the letter a recording knows no model, although the provider took it.
    let stated = text("request_model");
    let unread = stated.is_none() && serde_json::from_slice::<Value>(&line.request_body).is_err();
    if !unread {
        same("requested_model", stated, exchange.requested_model.as_deref().map(plain));
    }
    let streaming = expected["streaming"].as_bool().map(|streaming| streaming.to_string());
    same("streaming", streaming, exchange.streaming.map(|streaming| streaming.to_string()));
    facts(expected, exchange, &mut same);
    let size = |bytes: usize| Some(bytes.to_string());
    same(
        "request_bytes",
        size(line.request_body.len()),
        exchange.request_bytes.map(|bytes| bytes.to_string()),
    );
    same(
        "response_bytes",
        size(line.travelled().len()),
        exchange.response_bytes.map(|bytes| bytes.to_string()),
    );
    same("status", Some(line.status.to_string()), exchange.status.map(|status| status.to_string()));
    // Recordings call a host that they cannot name after where it is.
    if !matches!(line.provider.as_str(), "local" | "gateway") {
        same("provider", Some(line.provider.clone()), Some(exchange.provider.to_string()));
    }
    if seen.lost > 0 {
        differences.push(difference("lost bytes", "0", &seen.lost.to_string(), reason));
    }
    if differences.is_empty() { Verdict::Exact } else { Verdict::Mismatch(differences) }
}

/// What a recording states of an answer beside model and normalised counts, by its names there and ours.
const REPORTED: [(&str, &str); 22] = [
    ("total", "total_tokens"),
    ("cache_creation_5m", "cache_creation_5m_input_tokens"),
    ("cache_creation_1h", "cache_creation_1h_input_tokens"),
    ("audio_input", "audio_input_tokens"),
    ("audio_output", "audio_output_tokens"),
    ("image_input", "image_input_tokens"),
    ("image_output", "image_output_tokens"),
    ("text_input", "text_input_tokens"),
    ("text_output", "text_output_tokens"),
    ("video_input", "video_input_tokens"),
    ("document_input", "document_input_tokens"),
    ("tool_use_prompt", "tool_input_tokens"),
    ("accepted_prediction", "accepted_prediction_tokens"),
    ("rejected_prediction", "rejected_prediction_tokens"),
    ("billed_input", "billed_input_tokens"),
    ("billed_output", "billed_output_tokens"),
    ("cache_read_text", "cached_text_input_tokens"),
    ("cache_read_audio", "cached_audio_input_tokens"),
    ("search_units", "search_units"),
    ("web_search_requests", "web_search_requests"),
    ("deepseek_cache_hit", "cache_read_input_tokens"),
    ("cache_read", "cache_read_input_tokens"),
];

/// Everything else that a recording states of an exchange.
fn facts(
    expected: &Value,
    exchange: &Exchange,
    same: &mut impl FnMut(&'static str, Option<String>, Option<String>),
) {
    let usage = drive::usage(exchange);
    let count = |value: Option<&Value>| value.and_then(Value::as_u64).map(|count| count.to_string());
    let tokens = if exchange.inference { &expected["tokens"] } else { &Value::Null };
    for (theirs, ours) in REPORTED {
        let seen = match theirs {
            // What is billed alone is the input.
            "billed_input" => usage.get(ours).or(usage.get("input_tokens")),
            "billed_output" => usage.get(ours).or(usage.get("output_tokens")),
            // Text that tools put in is told apart by the recording only.
            "text_input" if tokens.get("tool_use_prompt").is_some() => continue,
            _ => usage.get(ours),
        };
        // What a recording does not tell apart may be known nevertheless.
        if let Some(stated) = count(tokens.get(theirs)) {
            same(theirs, Some(stated), count(seen));
        }
    }
    let mut stated = |what, value: &Value, got: Option<&str>| {
        if let Some(stated) = value.as_str() {
            same(what, Some(stated.to_owned()), got.map(str::to_owned));
        }
    };
    stated("service_tier", &expected["service_tier"], exchange.service_tier.as_deref());
    stated("request_id", &expected["request_id"], exchange.provider_request_id.as_deref());
    let (class, code) =
        exchange.error.as_ref().map_or((None, None), |error| (error.class.as_deref(), error.code.as_deref()));
    // xAI has a code alone, which recordings call a type.
    stated("error_class", &expected["error"]["type"], class.or(code));
    stated("error_code", &expected["error"]["code"], code);
    for reason in expected["finish_reasons"].as_array().into_iter().flatten() {
        // `incomplete` is a state, for which there is a reason as well.
        if reason.as_str() != Some("incomplete") {
            let seen = exchange.finish_reasons.iter().map(|seen| seen.as_str()).collect::<Vec<_>>();
            stated(
                "finish_reasons",
                reason,
                seen.iter().find(|seen| Some(**seen) == reason.as_str()).or(seen.last()).copied(),
            );
        }
    }
}

/// Token classes that a recording of a session states where it knows them, by their names there.
const SESSION_CLASSES: [(&str, &str); 9] = [
    ("input", "input_tokens"),
    ("output", "output_tokens"),
    ("cache_read", "cache_read_input_tokens"),
    ("reasoning", "reasoning_output_tokens"),
    ("audio_input", "audio_input_tokens"),
    ("audio_output", "audio_output_tokens"),
    ("image_input", "image_input_tokens"),
    ("image_output", "image_output_tokens"),
    ("total", "total_tokens"),
];

/// A WebSocket session: each answer in it is an exchange of its own.
fn session(line: &Line, expected: &Value, seen: &Seen) -> Verdict {
    let mut differences = Vec::new();
    let answers: Vec<&Exchange> = seen.answers().collect();
    let mut same = |what, wanted: Option<String>, got: Option<String>, reason| {
        if wanted != got {
            let show = |text: Option<String>| text.unwrap_or_else(|| "nothing".to_owned());
            differences.push(difference(what, &show(wanted), &show(got), reason));
        }
    };
    let stated = stated_of_session(line, expected);
    same(
        "answers",
        expected["responses"].as_u64().map(|count| count.to_string()),
        Some(answers.len().to_string()),
        None,
    );
    for (stated, exchange) in stated.iter().zip(&answers) {
        let usage = drive::usage(exchange);
        for (theirs, ours) in SESSION_CLASSES {
            let count = |value: Option<&Value>| value.and_then(Value::as_u64).map(|count| count.to_string());
            // What a recording does not tell apart may be known nevertheless.
            if stated.get(theirs).is_some() || matches!(theirs, "input" | "output" | "total") {
                same(theirs, count(stated.get(theirs)), count(usage.get(ours)), exchange.reason);
            }
        }
        same(
            "model",
            expected["model"].as_str().map(str::to_owned),
            drive::model(exchange).map(str::to_owned),
            exchange.reason,
        );
        same(
            "streaming",
            Some("true".to_owned()),
            exchange.streaming.map(|yes| yes.to_string()),
            exchange.reason,
        );
        // The URLs of these recordings were put in afterwards, so a gateway's has the host of the provider behind it.
        if !line.provider.ends_with("_gateway") {
            same(
                "provider",
                Some(line.provider.clone()),
                Some(exchange.provider.to_string()),
                exchange.reason,
            );
        }
    }
    same("lost bytes", Some("0".to_owned()), Some(seen.lost.to_string()), None);
    if differences.is_empty() { Verdict::Exact } else { Verdict::Mismatch(differences) }
}

/// What each answer of a session used. A recording states what it finds in the response; xAI leaves that empty and
/// reports beside it.
fn stated_of_session(line: &Line, expected: &Value) -> Vec<Value> {
    let mut stated = expected["tokens_per_response"].as_array().cloned().unwrap_or_default();
    let messages = line.frames.iter().filter(|(sent, _)| !sent);
    let done = messages.filter_map(|(_, text)| serde_json::from_str::<Value>(text).ok());
    let done: Vec<Value> = done.filter(|message| message["type"] == "response.done").collect();
    if done.len() == stated.len() {
        for (stated, message) in stated.iter_mut().zip(&done) {
            if *stated == json!({}) && message["usage"].is_object() {
                let usage = &message["usage"];
                *stated = json!({
                    "input": usage["input_tokens"], "output": usage["output_tokens"],
                    "total": usage["total_tokens"],
                    "audio_input": usage["input_token_details"]["audio_tokens"],
                    "audio_output": usage["output_token_details"]["audio_tokens"],
                });
            }
        }
    }
    stated
}

/// Twelve digits between colons are an account.
fn without_accounts(text: &str) -> String {
    let is_account = |part: &str| part.len() == 12 && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split(':').map(|part| if is_account(part) { "ACCOUNT" } else { part }).collect::<Vec<_>>().join(":")
}

fn usage(expected: &Value, exchange: &Exchange, inference: bool) -> Vec<Difference> {
    let seen = drive::usage(exchange);
    let mut differences = Vec::new();
    for class in CLASSES {
        // What is no inference must add nothing, although it may repeat counts.
        let wanted = if inference { expected["normalized"][class].as_u64() } else { None };
        let got = seen.get(class).and_then(Value::as_u64);
        if wanted != got {
            let show =
                |count: Option<u64>| count.map_or_else(|| "nothing".to_owned(), |count| count.to_string());
            differences.push(difference(class, &show(wanted), &show(got), exchange.reason));
        }
    }
    differences
}

fn difference(what: &'static str, expected: &str, seen: &str, reason: Option<Reason>) -> Difference {
    Difference { what, expected: expected.to_owned(), seen: seen.to_owned(), reason }
}
