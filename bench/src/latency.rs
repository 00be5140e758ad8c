//! Latency of a real SDK call: direct, with the daemon, and through the proxy that a user would pick instead.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use e2e::daemon::Daemon;
use e2e::lab::Lab;
use e2e::toolbox::{Toolbox, lab_dir, which, workspace};

use crate::measure::quantile;
use crate::report::Report;

const DIRECT: &str = "https://api.openai.com/v1";
const PROXY: &str = "http://127.0.0.1:14001/v1";

/// Runs blocks of calls in turn and reports the percentiles of each side.
pub(crate) fn run(calls: usize, with_proxy: bool, report: &mut Report) -> anyhow::Result<()> {
    const BLOCKS: usize = 4;
    let lab = Lab::new(&["http/1.1"]);
    let proxy = if with_proxy { Some(Proxy::start(&lab)?) } else { None };
    let mut sides: Vec<(&str, Vec<f64>)> = vec![("direct", Vec::new()), ("with venturid", Vec::new())];
    if proxy.is_some() {
        sides.push(("through LiteLLM proxy", Vec::new()));
    }
    for block in 0..BLOCKS {
        eprint!("\rlatency: block {} of {BLOCKS}   ", block + 1);
        let share = calls.div_ceil(BLOCKS);
        sides[0].1.extend(block_of(&lab, DIRECT, share)?);
        let daemon = Daemon::start(lab.path(), "")?;
        sides[1].1.extend(block_of(&lab, DIRECT, share)?);
        daemon.stop()?;
        if proxy.is_some() {
            sides[2].1.extend(block_of(&lab, PROXY, share)?);
        }
    }
    eprintln!();
    report.section("Latency of a call of the Python OpenAI SDK", "");
    let base = quantile(&sides[0].1, 0.5);
    for (name, times) in &sides {
        let (p50, p99) = (quantile(times, 0.5), quantile(times, 0.99));
        let of_direct = ("p50 x direct", Some(p50 / base));
        report.row(name, &[("p50 ms", Some(p50)), ("p99 ms", Some(p99)), of_direct]);
    }
    Ok(())
}

fn block_of(lab: &Lab, base: &str, calls: usize) -> anyhow::Result<Vec<f64>> {
    let python = Toolbox::get().python.as_ref().context("Python with the SDKs")?;
    let mut command = lab.world.command(lab.path(), python)?;
    command.arg(workspace().join("bench/clients/latency.py")).args([base, &calls.to_string()]);
    let output = command.output()?;
    if !output.status.success() {
        bail!("the client failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A LiteLLM proxy in front of the local provider.
struct Proxy(Child);

impl Proxy {
    fn start(lab: &Lab) -> anyhow::Result<Proxy> {
        let venv = install()?;
        let config = lab.path().join("litellm.yaml");
        let text = "model_list:\n  - model_name: gpt-4o\n    litellm_params:\n      model: openai/gpt-4o\n      api_key: sk-lab-proxy\n";
        std::fs::write(&config, text)?;
        let mut command = lab.world.command(lab.path(), &venv.join("bin/litellm"))?;
        command
            .args(["--host", "127.0.0.1", "--port", "14001", "--config"])
            .arg(&config)
            .env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true")
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let proxy = Proxy(command.spawn().context("starting the LiteLLM proxy")?);
        let started = Instant::now();
        while std::net::TcpStream::connect("127.0.0.1:14001").is_err() {
            if started.elapsed().as_secs() > 120 {
                bail!("the LiteLLM proxy does not listen after two minutes");
            }
            e2e::daemon::pause();
        }
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Python environment with the proxy, kept between runs.
fn install() -> anyhow::Result<PathBuf> {
    const PACKAGE: &str = "litellm[proxy]==1.106.0";
    let venv = lab_dir().join("litellm");
    let stamp = venv.join("packages");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == PACKAGE) {
        return Ok(venv);
    }
    eprintln!("bench: installing {PACKAGE}");
    let run = |command: &mut Command| -> anyhow::Result<()> {
        let output = command.output()?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    };
    run(Command::new(which("python3")?).args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet", PACKAGE]))?;
    std::fs::write(&stamp, PACKAGE)?;
    Ok(venv)
}
