//! `lab setup`: installs the real clients of the end-to-end tests and says what could not be had.

use std::process::ExitCode;

use e2e::toolbox::Toolbox;

fn main() -> ExitCode {
    let toolbox = Toolbox::get();
    for (name, path) in [("python", &toolbox.python), ("node", &toolbox.node), ("curl", &toolbox.curl)] {
        match path {
            Some(path) => println!("{name}: {}", path.display()),
            None => println!("{name}: missing"),
        }
    }
    for line in &toolbox.missing {
        eprintln!("lab: {line}");
    }
    if toolbox.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
