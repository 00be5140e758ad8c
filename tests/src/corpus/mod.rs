//! Recorded exchanges: one JSON object per line, gzip or not, as far as it matters here.

pub mod heads;
pub mod render;
mod websocket;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// The exchanges of a file, in their order.
pub fn lines(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Line>> + use<>> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut magic = [0; 2];
    let read = file.read(&mut magic)?;
    let whole = Cursor::new(magic).take(read as u64).chain(file);
    let reader: Box<dyn BufRead> = match magic {
        [0x1f, 0x8b] => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(whole))),
        _ => Box::new(BufReader::new(whole)),
    };
    let path = path.to_owned();
    Ok(reader.lines().enumerate().filter_map(move |(number, text)| {
        let text = match text.with_context(|| format!("reading {}", path.display())) {
            Ok(text) if text.trim().is_empty() => return None,
            Ok(text) => text,
            Err(error) => return Some(Err(error)),
        };
        Some(Line::parse(&text).with_context(|| format!("line {} of the corpus", number + 1)))
    }))
}

/// A recorded exchange.
pub struct Line {
    /// Identity.
    pub id: String,
    /// Provider, as the recording names it.
    pub provider: String,
    /// `json`, `sse`, ..
    pub protocol: String,
    /// Request method.
    pub method: String,
    /// Request URL.
    pub url: String,
    /// Request fields.
    pub request_headers: Vec<(String, String)>,
    /// Request body.
    pub request_body: Vec<u8>,
    /// Response status.
    pub status: u16,
    /// Response fields.
    pub response_headers: Vec<(String, String)>,
    /// Response body, content codings undone.
    pub response_body: Vec<u8>,
    /// Response body as it travelled, where it was kept.
    pub wire_body: Option<Vec<u8>>,
    /// Messages of a WebSocket, in order; true if the client sent it.
    pub frames: Vec<(bool, String)>,
    /// Something in it was replaced.
    pub scrubbed: bool,
    /// What is expected, where it is known.
    pub expected: Option<Value>,
}

impl Line {
    /// Parses a line.
    pub fn parse(text: &str) -> anyhow::Result<Line> {
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

    /// The URL's host, without its port.
    pub fn host(&self) -> &str {
        let (authority, _) = render::authority_and_target(&self.url);
        authority.split_once(':').map_or(authority, |(host, _)| host)
    }

    /// Whether the response has no body by its status or the request's method (RFC 9112, 6.3).
    fn is_bodiless(&self) -> bool {
        self.method == "HEAD" || matches!(self.status, 204 | 304)
    }

    /// The response body as it travels.
    pub fn travelled(&self) -> &[u8] {
        let body = self.wire_body.as_deref().unwrap_or(&self.response_body);
        if self.is_bodiless() { &[] } else { body }
    }

    /// Dialect of the recording.
    pub fn dialect(&self) -> Option<&str> {
        self.expected.as_ref()?["dialect"].as_str()
    }

    /// Whether `wanted` selects it.
    pub fn is_dialect(&self, wanted: &str) -> bool {
        match &self.expected {
            None => true,
            Some(expected) if expected["is_ai"] == Value::Bool(false) => wanted == "negative",
            Some(_) => self.dialect() == Some(wanted),
        }
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
