//! Real servers answer real clients; what passed between them is fed to the meter in the order in which it travelled
//! and compared with what the clients say they were answered. No kernel and no root are needed.

mod answer;
mod grpc;
mod http;
mod recorder;
mod websocket;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A program of the test, ended with it.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The script `name` of the laboratory.
pub(crate) fn script(name: &str) -> PathBuf {
    e2e::toolbox::workspace().join("tests/clients").join(name)
}

/// Runs `command` with the word `serve`; gives what it says of where it listens.
pub(crate) fn serving(command: &mut Command) -> (Running, impl Fn(&str) -> u16 + use<>) {
    let mut running = Running(command.arg("serve").stdout(Stdio::piped()).spawn().expect("a server"));
    let mut line = String::new();
    let stdout = running.0.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("where it listens");
    let ports: Value = serde_json::from_str(&line).expect("a JSON line");
    let port = move |name: &str| u16::try_from(ports[name].as_u64().expect("a port")).expect("a port");
    (running, port)
}

/// A runtime for recorders.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// What was found, or the reason why the test is skipped; in CI what is missing fails the test.
pub(crate) fn available<T>(test: &str, found: anyhow::Result<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("{test}: {error:#}"),
        Err(error) => {
            println!("SKIPPED {test}: {error:#}");
            None
        }
    }
}
