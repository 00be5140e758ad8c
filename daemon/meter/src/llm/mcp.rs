//! The Model Context Protocol over HTTP: JSON-RPC, answered by a document or by events. Method and tool names are kept;
//! arguments and results never are. It uses no tokens.
//!
//! Source: <https://modelcontextprotocol.io/specification>, transports "Streamable HTTP" and "HTTP with SSE".

use super::dialect::{Dialect, Wire};
use super::facts::{Counts, Field, Merge};
use crate::exchange::Usage;
use crate::http::{Header, header};

const PATHS: [(&str, Field); 3] =
    [("/error", Field::Error), ("/error/code", Field::ErrorCode), ("/result/isError", Field::Failed)];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "mcp",
    paths: &[&PATHS],
    merge: Merge::LastObject,
    terminal: &[],
    usage_on_request: false,
    usage: |_: &Counts| Usage::default(),
    wire: Wire::Text,
};

/// Operations by method; a method that is not here is `mcp`.
const METHODS: [(&str, &str); 10] = [
    ("initialize", "mcp_initialize"),
    ("tools/list", "mcp_list_tools"),
    (CALL, "mcp_call_tool"),
    ("resources/list", "mcp_list_resources"),
    ("resources/templates/list", "mcp_list_resources"),
    ("resources/read", "mcp_read_resource"),
    ("prompts/list", "mcp_list_prompts"),
    ("prompts/get", "mcp_get_prompt"),
    ("completion/complete", "mcp_complete"),
    ("ping", "mcp_ping"),
];

/// The method whose `params.name` is a tool.
pub const CALL: &str = "tools/call";

/// The operation of a request with `method`; `mcp` for a message without one, an answer to the server for instance.
pub fn operation(method: Option<&str>) -> &'static str {
    match method {
        Some(method) if method.starts_with("notifications/") => "mcp_notify",
        Some(method) => METHODS.iter().find(|(known, _)| *known == method).map_or("mcp", |(_, name)| name),
        None => "mcp",
    }
}

/// Whether a request says in its fields that it speaks this protocol, whatever its path is.
pub fn is_spoken(headers: &[Header<'_>]) -> bool {
    header(headers, "mcp-protocol-version").is_some() || header(headers, "mcp-session-id").is_some()
}
