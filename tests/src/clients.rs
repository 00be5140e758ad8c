//! Runs a real client in a mount namespace whose `/etc/hosts` names the laboratory's addresses.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::toolbox::{Toolbox, workspace};

/// Which client makes the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Python `openai` SDK, synchronous.
    PythonOpenai,
    /// Python `openai` SDK, asyncio.
    PythonOpenaiAsync,
    /// Python `anthropic` SDK, synchronous.
    PythonAnthropic,
    /// Python `anthropic` SDK, asyncio.
    PythonAnthropicAsync,
    /// Python `httpx`.
    PythonHttpx,
    /// Node `openai` SDK.
    NodeOpenai,
    /// Node `fetch`.
    NodeFetch,
    /// curl, HTTP/1.1.
    Curl,
    /// Python `httpx`, HTTP/2.
    PythonHttpxHttp2,
    /// Node `http2`.
    NodeHttp2,
    /// curl, HTTP/2.
    CurlHttp2,
}

impl Client {
    /// Every client.
    pub const ALL: &'static [Client] = &[
        Client::PythonOpenai,
        Client::PythonOpenaiAsync,
        Client::PythonAnthropic,
        Client::PythonAnthropicAsync,
        Client::PythonHttpx,
        Client::NodeOpenai,
        Client::NodeFetch,
        Client::Curl,
        Client::PythonHttpxHttp2,
        Client::NodeHttp2,
        Client::CurlHttp2,
    ];

    /// Whether it speaks HTTP/2 if the provider does.
    pub fn is_http2(self) -> bool {
        matches!(self, Client::PythonHttpxHttp2 | Client::NodeHttp2 | Client::CurlHttp2)
    }

    /// Mode word of the client's script.
    pub fn mode(self) -> &'static str {
        match self {
            Client::PythonOpenai => "openai",
            Client::PythonOpenaiAsync => "openai-async",
            Client::PythonAnthropic => "anthropic",
            Client::PythonAnthropicAsync => "anthropic-async",
            Client::PythonHttpx => "httpx",
            Client::NodeOpenai => "openai",
            Client::NodeFetch => "fetch",
            Client::Curl | Client::CurlHttp2 => "curl",
            Client::PythonHttpxHttp2 => "httpx-http2",
            Client::NodeHttp2 => "http2",
        }
    }
}

/// One call to make: what to ask for, and so what to expect of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `chat`, `responses` or `messages`.
    pub api: &'static str,
    /// Model asked for.
    pub model: String,
    /// Streamed.
    pub stream: bool,
    /// Whether a streamed chat asks for usage.
    pub include_usage: bool,
    /// Input tokens ordered; unique per call in a test, so that record and call find each other.
    pub input: u64,
    /// Output tokens ordered.
    pub output: u64,
    /// Cached part of the input.
    pub cached: u64,
    /// Reasoning part of the output.
    pub reasoning: u64,
    /// Extra bytes of prompt.
    pub padding: usize,
}

impl Call {
    /// A call of `api` with counts derived from `seed`.
    pub fn new(api: &'static str, stream: bool, seed: u64) -> Call {
        let reasoning = if api == "messages" { 0 } else { seed % 7 };
        let model = if api == "messages" { "claude-sonnet-4-5" } else { "gpt-4o" }.to_owned();
        Call {
            api,
            model,
            stream,
            include_usage: true,
            input: 1_000 + seed,
            output: 10 + seed % 90,
            cached: seed % 500,
            reasoning,
            padding: 0,
        }
    }

    /// What the prompt asks the provider for.
    fn order(&self) -> String {
        format!(
            "lab input={} output={} cached={} reasoning={}",
            self.input, self.output, self.cached, self.reasoning
        )
    }

    /// As the scripts read it.
    fn to_json(&self) -> Value {
        serde_json::json!({
            "api": self.api, "model": self.model, "stream": self.stream, "include_usage": self.include_usage,
            "padding": self.padding,
            "order": self.order(),
        })
    }
}

/// What a client reads on its standard input to make `calls`: a line of JSON each.
pub fn orders(calls: &[Call]) -> String {
    calls.iter().map(|call| format!("{}\n", call.to_json())).collect()
}

/// Where the client believes the providers to be.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Host name to address.
    pub hosts: BTreeMap<String, IpAddr>,
    /// Certificate authority.
    pub ca: PathBuf,
}

impl World {
    /// A command that runs `program` in this world. The script `exec`s, so the process keeps the pid of the command.
    pub fn command(&self, dir: &Path, program: &Path) -> anyhow::Result<Command> {
        let hosts = tempfile::Builder::new().prefix("hosts").tempfile_in(dir)?;
        let (mut file, path) = hosts.keep().context("keeping the hosts file")?;
        writeln!(file, "127.0.0.1 localhost")?;
        for (name, address) in &self.hosts {
            writeln!(file, "{address} {name}")?;
        }
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                r#"mount --bind "$0" /etc/hosts && exec "$@""#,
            ])
            .arg(path)
            .arg(program)
            .env("SSL_CERT_FILE", &self.ca)
            .env("NODE_EXTRA_CA_CERTS", &self.ca)
            .env("CURL_CA_BUNDLE", &self.ca)
            .env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", &self.ca)
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy");
        Ok(command)
    }
}

/// A client that is running; its calls go in on standard input, its reports come out on standard output.
pub struct Running {
    /// The process.
    pub child: Child,
    /// Its pid, the same as the client's.
    pub pid: u32,
}

/// What a client says of one call.
#[derive(Clone, Debug)]
pub struct Report {
    /// Everything the client reported.
    pub value: Value,
}

impl Report {
    /// True if the call succeeded as far as the application could see.
    pub fn ok(&self) -> bool {
        self.value["ok"] == Value::Bool(true)
    }

    /// True if this is the report of `call`.
    pub fn is_of(&self, call: &Call) -> bool {
        self.value["order"] == call.order()
    }
}

/// Starts `client` in `world` with `calls`; `env` is added to its environment.
pub fn start(
    client: Client,
    world: &World,
    dir: &Path,
    calls: &[Call],
    env: &[(&str, &str)],
) -> anyhow::Result<Running> {
    let toolbox = Toolbox::get();
    let scripts = workspace().join("tests/clients");
    let missing = || toolbox.missing.join("; ");
    let mut command = match client {
        Client::PythonOpenai
        | Client::PythonOpenaiAsync
        | Client::PythonAnthropic
        | Client::PythonAnthropicAsync
        | Client::PythonHttpx
        | Client::PythonHttpxHttp2 => {
            let python = toolbox.python.as_ref().with_context(missing)?;
            let mut command = world.command(dir, python)?;
            command.arg(scripts.join("client.py"));
            command
        }
        Client::NodeOpenai | Client::NodeFetch | Client::NodeHttp2 => {
            let node = toolbox.node.as_ref().with_context(missing)?;
            let mut command = world.command(dir, node)?;
            command.arg(scripts.join("client.mjs")).env("LAB_NODE_MODULES", &toolbox.node_dir);
            command
        }
        Client::Curl | Client::CurlHttp2 => {
            let version = if client.is_http2() { "--http2" } else { "--http1.1" };
            let curl = toolbox.curl.as_ref().with_context(missing)?;
            let mut command = world.command(dir, Path::new("/bin/sh"))?;
            command.arg(scripts.join("curl.sh")).env("LAB_CURL", curl).env("LAB_CURL_VERSION", version);
            command
        }
    };
    command.arg(client.mode()).envs(env.iter().copied());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {client:?}"))?;
    let mut stdin = child.stdin.take().context("standard input of the client")?;
    stdin.write_all(orders(calls).as_bytes())?;
    drop(stdin);
    let pid = child.id();
    Ok(Running { child, pid })
}

impl Running {
    /// Waits for the end and returns the client's reports, one per call.
    pub fn reports(self) -> anyhow::Result<Vec<Report>> {
        let output = self.child.wait_with_output().context("waiting for the client")?;
        if !output.status.success() {
            bail!(
                "the client ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let text = String::from_utf8(output.stdout).context("the client's report")?;
        text.lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| Ok(Report { value: serde_json::from_str(line).with_context(|| line.to_owned())? }))
            .collect()
    }
}

/// Runs `client` to its end.
pub fn run(client: Client, world: &World, dir: &Path, calls: &[Call]) -> anyhow::Result<(u32, Vec<Report>)> {
    let running = start(client, world, dir, calls, &[])?;
    let pid = running.pid;
    Ok((pid, running.reports()?))
}
