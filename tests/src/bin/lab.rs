//! `lab setup`: installs the real clients and servers of the tests and says what could not be had.

use std::process::ExitCode;

use e2e::toolbox::{self, Toolbox};

fn main() -> ExitCode {
    let toolbox = Toolbox::get();
    for (name, path) in [("python", &toolbox.python), ("node", &toolbox.node), ("curl", &toolbox.curl)] {
        match path {
            Some(path) => println!("{name}: {}", path.display()),
            None => println!("{name}: missing"),
        }
    }
    let others = [
        ("python for QUIC", toolbox::quic_python()),
        ("python for WebSockets and gRPC", toolbox::peer_python()),
        ("node for gRPC", toolbox::grpc_node().map(|(node, _)| node)),
    ];
    let mut missing = toolbox.missing.clone();
    for (name, found) in others {
        match found {
            Ok(path) => println!("{name}: {}", path.display()),
            Err(error) => missing.push(format!("{name}: {error:#}")),
        }
    }
    missing.iter().for_each(|line| eprintln!("lab: {line}"));
    if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
