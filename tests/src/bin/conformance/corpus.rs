//! A line of the corpus, as far as it matters here.

use anyhow::Context;
use serde_json::Value;

/// A recorded exchange.
pub(crate) struct Line {
    /// Identity.
    pub(crate) id: String,
    /// Provider, as the recording names it.
    pub(crate) provider: String,
    /// `json`, `sse`, ..
    pub(crate) protocol: String,
    /// Request method.
    pub(crate) method: String,
    /// Request URL.
    pub(crate) url: String,
    /// Request fields.
    pub(crate) request_headers: Vec<(String, String)>,
    /// Request body.
    pub(crate) request_body: Vec<u8>,
    /// Response status.
    pub(crate) status: u16,
    /// Response fields.
    pub(crate) response_headers: Vec<(String, String)>,
    /// Response body, content codings undone.
    pub(crate) response_body: Vec<u8>,
    /// Response body as it travelled, where it was kept.
    pub(crate) wire_body: Option<Vec<u8>>,
    /// Messages of a WebSocket, in order; true if the client sent it.
    pub(crate) frames: Vec<(bool, String)>,
    /// Something in it was replaced.
    pub(crate) scrubbed: bool,
    /// What is expected, where it is known.
    pub(crate) expected: Option<Value>,
}

impl Line {
    /// Parses a line.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Line> {
        let value: Value = serde_json::from_str(text).context("is not JSON")?;
        let (request, response) = (&value["request"], &value["response"]);
        Ok(Line {
            id: string(&value["id"]),
            provider: string(&value["provider"]),
            protocol: string(&value["protocol"]),
            method: string(&request["method"]),
            url: string(&request["url"]),
            request_headers: fields(&request["headers"]),
            request_body: body(request, "body_base64")?.unwrap_or_default(),
            status: response["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(200),
            response_headers: fields(&response["headers"]),
            response_body: body(response, "body_base64")?.unwrap_or_default(),
            wire_body: match response.get("wire_body_base64") {
                Some(text) => Some(base64(text.as_str().unwrap_or(""))?),
                None => None,
            },
            frames: value["frames"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|frame| (frame["dir"] == "sent", string(&frame["text"])))
                .collect(),
            scrubbed: value["scrubbed"] == Value::Bool(true),
            expected: value.get("expected").cloned(),
        })
    }

    /// Dialect of the recording.
    pub(crate) fn dialect(&self) -> Option<&str> {
        self.expected.as_ref()?["dialect"].as_str()
    }

    /// Whether `wanted` selects it.
    pub(crate) fn is_dialect(&self, wanted: &str) -> bool {
        match &self.expected {
            None => true,
            Some(expected) if expected["is_ai"] == Value::Bool(false) => wanted == "negative",
            Some(_) => self.dialect() == Some(wanted),
        }
    }

    /// Whether the user selected it by name.
    pub(crate) fn is_selected(&self, dialects: &[String]) -> bool {
        self.expected.is_some() && dialects.iter().any(|wanted| self.is_dialect(wanted))
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn fields(value: &Value) -> Vec<(String, String)> {
    let pairs = value.as_array().map(Vec::as_slice).unwrap_or_default();
    pairs.iter().map(|pair| (string(&pair[0]), string(&pair[1]))).collect()
}

fn body(message: &Value, encoded: &str) -> anyhow::Result<Option<Vec<u8>>> {
    match (message.get("body"), message.get(encoded)) {
        (Some(Value::String(text)), _) => Ok(Some(text.clone().into_bytes())),
        (_, Some(Value::String(text))) => base64(text).map(Some),
        _ => Ok(None),
    }
}

/// Standard base64, padded or not.
fn base64(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=' && !byte.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => anyhow::bail!("a body is not base64"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff)?);
        }
    }
    Ok(bytes)
}
