//! The share of time that a tap is open under a mixed load: a service that talks to forty hosts which have nothing to do
//! with AI and to one provider, ten connections a second, none of them named by a lookup (as Go and static programs do).
//!
//! The service cannot be told from one that has just begun to use AI, so this is the unfavourable case: a process whose
//! names come from `getaddrinfo` needs a tap only to see whether it speaks QUIC.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use e2e::daemon::{Daemon, pause};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::link::Link;
use crate::node_cost::Server;
use crate::report::Report;

/// Far addresses: the first is the provider's.
const HOSTS: u8 = 41;
/// Pause between two connections.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs the load for `seconds` and reports the share of each minute.
pub(crate) fn run(seconds: u64, report: &mut Report) -> anyhow::Result<()> {
    let link = Link::new(HOSTS)?;
    let _server = Server::start("0.0.0.0:443".parse()?, Some(link.namespace))?;
    let dir = tempfile::tempdir()?;
    let started = Instant::now();
    let daemon = Daemon::start(dir.path(), "")?;
    let title =
        format!("Share of time that a tap is open, {HOSTS} hosts, 10 connections a second of unknown name");
    report.section(&title, "");
    let mut reached = (Instant::now(), open(&daemon, started)?);
    let daemon_started = started;
    let started = Instant::now();
    let (mut made, mut minute) = (0_u64, 1);
    while started.elapsed() < Duration::from_secs(seconds) {
        // Every fortieth connection goes to the provider.
        let host = u8::try_from(made % u64::from(HOSTS)).unwrap_or_default();
        let name = if host == 0 { "api.openai.com" } else { "www.example.org" };
        hello(SocketAddr::from(([198, 18, 77, 2 + host], 443)), name)?;
        made += 1;
        let due = started + PAUSE * u32::try_from(made)?;
        while Instant::now() < due {
            pause();
        }
        if started.elapsed() >= Duration::from_secs(60 * minute) {
            reached = share(&daemon, minute, reached, daemon_started, report)?;
            minute += 1;
        }
    }
    if started.elapsed() < Duration::from_secs(60) {
        share(&daemon, minute, reached, daemon_started, report)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "printed")]
    let made = made as f64;
    report.row("in all", &[("connections", Some(made)), ("times opened", Some(number(&daemon, "opened")?))]);
    daemon.stop()?;
    Ok(())
}

/// Reports the share since `since`; returns this moment with the open time until now.
fn share(
    daemon: &Daemon,
    minute: u64,
    since: (Instant, f64),
    daemon_started: Instant,
    report: &mut Report,
) -> anyhow::Result<(Instant, f64)> {
    let now = (Instant::now(), open(daemon, daemon_started)?);
    let share = (now.1 - since.1) / (now.0 - since.0).as_secs_f64() * 100.0;
    report.row(&format!("minute {minute}"), &[("% of the time", Some(share))]);
    Ok(now)
}

/// Seconds during which a tap was open since the daemon started.
fn open(daemon: &Daemon, started: Instant) -> anyhow::Result<f64> {
    Ok(number(daemon, "open_ppm")? / 1e6 * started.elapsed().as_secs_f64())
}

fn number(daemon: &Daemon, field: &str) -> anyhow::Result<f64> {
    let status = daemon.json_lines(&["status", "--json"])?;
    let value = status.first().and_then(|status| status["tap"][field].as_f64());
    value.with_context(|| format!("venturi status says nothing of tap.{field}"))
}

/// Connects and sends what a TLS client sends first.
fn hello(to: SocketAddr, name: &'static str) -> anyhow::Result<()> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name)?)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    TcpStream::connect(to)?.write_all(&bytes)?;
    Ok(())
}
