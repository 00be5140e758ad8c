//! Finds or installs the real clients: Python and Node with the official SDKs, curl; and what stands in for servers.
//!
//! What is installed goes below `target/lab` of the workspace and is kept between runs; a file with the list of
//! packages says whether it is complete.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, bail};

/// Packages of the Python environment.
const PYTHON_PACKAGES: &[&str] = &["openai==3.54.0", "anthropic==2.12.0", "httpx[http2]==0.28.1"];

/// Packages of the Python environment of QUIC clients.
const QUIC_PACKAGES: &[&str] = &["aioquic==1.7.2"];

/// Packages of the Python environment of other protocols' servers and clients.
const PEER_PACKAGES: &[&str] = &[
    "websockets==17.4",
    "grpcio==1.85.1",
    "google-ai-generativelanguage==0.12.1",
    "httpx[http2,brotli]==0.28.1",
];

/// Packages of the Node project.
const NODE_PACKAGES: &[&str] = &["openai@7"];

/// Packages of the Node project of gRPC servers and clients.
const GRPC_PACKAGES: &[&str] =
    &["@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1", "google-proto-files@5.0.3"];

/// Held while something is installed: tests of one process want the same at the same time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Folder below which clients are installed.
pub fn lab_dir() -> PathBuf {
    workspace().join("target/lab")
}

/// The clients of this machine.
#[derive(Clone, Debug, Default)]
pub struct Toolbox {
    /// Python with `openai`, `anthropic` and `httpx`.
    pub python: Option<PathBuf>,
    /// Node with `openai` resolvable from `node_dir`.
    pub node: Option<PathBuf>,
    /// Folder with `node_modules`.
    pub node_dir: PathBuf,
    /// curl.
    pub curl: Option<PathBuf>,
    /// Why something is missing, one line each.
    pub missing: Vec<String>,
}

impl Toolbox {
    /// Finds or installs everything, once per process.
    pub fn get() -> &'static Toolbox {
        static TOOLBOX: OnceLock<Toolbox> = OnceLock::new();
        TOOLBOX.get_or_init(|| {
            let mut toolbox = Toolbox { node_dir: lab_dir().join("node"), ..Toolbox::default() };
            let keep = |result: anyhow::Result<PathBuf>, missing: &mut Vec<String>| match result {
                Ok(path) => Some(path),
                Err(error) => {
                    missing.push(format!("{error:#}"));
                    None
                }
            };
            toolbox.python = keep(python(), &mut toolbox.missing);
            let node = node_project(&toolbox.node_dir, NODE_PACKAGES);
            toolbox.node = keep(node, &mut toolbox.missing);
            toolbox.curl = keep(which("curl"), &mut toolbox.missing);
            toolbox
        })
    }
}

/// The program `name` on `PATH`, with links resolved.
pub fn which(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for dir in std::env::split_paths(&path) {
        let candidate = dir.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not installed")
}

/// Python with `aioquic`.
pub fn quic_python() -> anyhow::Result<PathBuf> {
    environment("quic", QUIC_PACKAGES)
}

/// Python with `websockets`, `grpcio`, Google's client of the Gemini API, and `httpx` with HTTP/2.
pub fn peer_python() -> anyhow::Result<PathBuf> {
    environment("peers", PEER_PACKAGES)
}

/// Node, and the folder with `node_modules` that have gRPC.
pub fn grpc_node() -> anyhow::Result<(PathBuf, PathBuf)> {
    let dir = lab_dir().join("grpc");
    Ok((node_project(&dir, GRPC_PACKAGES)?, dir))
}

fn python() -> anyhow::Result<PathBuf> {
    environment("venv", PYTHON_PACKAGES)
}

fn environment(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = lab_dir().join(name);
    let python = dir.join("bin/python");
    let stamp = dir.join("packages");
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    eprintln!("lab: installing {wanted} for Python");
    run(Command::new(which("python3")?).args(["-m", "venv", "--clear"]).arg(&dir))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(packages))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(python)
}

fn node_project(dir: &Path, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let node = which("node")?;
    let stamp = dir.join("packages");
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(node);
    }
    eprintln!("lab: installing {wanted} for Node");
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    run(Command::new(which("npm")?)
        .args(["install", "--no-fund", "--no-audit", "--silent", "--prefix"])
        .arg(dir)
        .args(packages))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(node)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
