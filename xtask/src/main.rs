//! `cargo xtask <noun>`: everything that is automated in this repository, in one place and in Rust.
//!
//! xtask builds, starts and checks our programs; it links none of our packages, so that a first `cargo xtask run`
//! compiles this small binary and then only what it starts. Each subcommand is one module with one `run`.
//!
//! Exit codes: 0 good, 1 failed, 2 wrong arguments; `run` and `gate` hand on the code of the program they start.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod codegen;
mod probes;
mod shell;

/// Build, try and check Venturi.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Rebuild the committed BPF objects, or check that they are fresh
    Probes(probes::Args),
    /// Regenerate the committed protobuf code, or check that it is fresh
    Codegen(codegen::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Probes(args) => probes::run(&args),
        Task::Codegen(args) => codegen::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("xtask: {err:#}");
            shell::exit_code_of(&err)
        }
    }
}
