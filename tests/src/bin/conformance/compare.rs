//! What the recording expects against what the meter said.

use std::fmt;

use meter::exchange::{Exchange, Reason};
use serde_json::Value;

use crate::corpus::Line;
use crate::drive::{self, Seen};

/// Outcome of one rendering.
pub(crate) enum Verdict {
    /// As expected.
    Exact,
    /// The corpus does not say what is expected.
    NothingExpected,
    /// No dialect is built for it, and the meter says so.
    Unsupported,
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
    if exchange.dialect.is_some() {
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
        // Recordings call a host that they cannot name after where it is.
        if !matches!(line.provider.as_str(), "local" | "gateway") {
            same("provider", Some(line.provider.clone()), Some(exchange.provider.to_string()));
        }
    }
    if seen.lost > 0 {
        differences.push(difference("lost bytes", "0", &seen.lost.to_string(), reason));
    }
    if exchange.dialect.is_none() && inference && !differences.is_empty() {
        return Verdict::Unsupported;
    }
    if differences.is_empty() { Verdict::Exact } else { Verdict::Mismatch(differences) }
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
