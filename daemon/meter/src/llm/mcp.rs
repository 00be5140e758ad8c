//! The Model Context Protocol over HTTP: JSON-RPC, answered by a document or by events, one message or a batch of them
//! (protocol version 2025-03-26). Methods and names of tools are kept; arguments, results and the session's id never are.
//! It uses no tokens.
//!
//! Source: <https://modelcontextprotocol.io/specification>, transports "Streamable HTTP" and "HTTP with SSE".

use super::dialect::{Dialect, nothing};
use super::facts::{Field, tool};
use crate::exchange::ToolUse;
use crate::http::{Header, header};

/// Members of a message, below `prefix`.
macro_rules! message {
    ($prefix:literal) => {
        [
            (concat!($prefix, "/error"), Field::Error),
            (concat!($prefix, "/error/code"), Field::ErrorCode),
            (concat!($prefix, "/result/isError"), Field::Failed),
            (concat!($prefix, "/result/tools/*/name"), Field::Offered),
        ]
    };
}

const ONE: [(&str, Field); 4] = message!("");
const BATCH: [(&str, Field); 4] = message!("/*");

/// The dialect.
pub static DIALECT: Dialect =
    Dialect { name: "mcp", paths: &[&ONE, &BATCH], usage: nothing, ..Dialect::TEXT };

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
const CALL: &str = "tools/call";

/// What the messages of a request ask for.
#[derive(Debug, Default)]
pub struct Asked {
    /// Of the message in progress: its members come in any order.
    method: Option<Box<str>>,
    subject: Option<Box<str>>,
    /// Of those before it.
    operation: Option<&'static str>,
    tools: Vec<ToolUse>,
}

impl Asked {
    /// A message begins.
    pub fn begin(&mut self) {
        let (method, subject) = (self.method.take(), self.subject.take());
        if method.as_deref() == Some(CALL)
            && let Some(name) = subject
        {
            tool(&mut self.tools, &name, 1);
        }
        if let Some(method) = method {
            let operation = operation(&method);
            let same = self.operation.is_none_or(|before| before == operation);
            self.operation = Some(if same { operation } else { "mcp_batch" });
        }
    }

    /// Its method.
    pub fn method(&mut self, method: &str) {
        self.method = Some(method.into());
    }

    /// The name of what it is about.
    pub fn subject(&mut self, name: &str) {
        self.subject = Some(name.into());
    }

    /// What all of them are for, and the tools they call: `mcp_batch` if they are for different things, `mcp` for messages
    /// without a method, answers to the server for instance.
    pub fn told(mut self) -> (&'static str, Vec<ToolUse>) {
        self.begin();
        (self.operation.unwrap_or("mcp"), self.tools)
    }
}

/// The operation of a message with `method`.
fn operation(method: &str) -> &'static str {
    match METHODS.iter().find(|(known, _)| *known == method) {
        Some((_, name)) => name,
        None if method.starts_with("notifications/") => "mcp_notify",
        None => "mcp",
    }
}

/// Whether a request says in its fields that it speaks this protocol, whatever its path is.
pub fn is_spoken(headers: &[Header<'_>]) -> bool {
    header(headers, "mcp-protocol-version").is_some() || header(headers, "mcp-session-id").is_some()
}
