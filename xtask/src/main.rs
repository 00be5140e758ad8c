//! `cargo xtask <noun>`: everything that is automated in this repository, in one place and in Rust.
//!
//! xtask builds, starts and checks our programs; it links none of our packages, so that a first `cargo xtask run`
//! compiles this small binary and then only what it starts. Each subcommand is one module with one `run`.
//!
//! Exit codes: 0 good, 1 failed, 2 wrong arguments; what is started hands on its own code.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod build;
mod ci;
mod codegen;
mod fuzz;
mod node;
mod probes;
mod setup;
mod shell;
mod start;
mod test;
mod tidy;

/// Build, try and check Venturi.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the release programs and start the daemon on live traffic, without any configuration
    Run(start::RunArgs),
    /// Show everything at work in a minute: local provider, daemon, real SDK calls, the answers
    Demo,
    /// Leave venturid, venturi-attach and venturi in target/release
    Build,
    /// Rebuild the committed BPF objects, or check that they are fresh
    Probes(probes::Args),
    /// Set up what the tests need and run them; say loudly what had to be skipped
    Test(test::Args),
    /// Attack the parsers with inputs guided by what they reach
    Fuzz(fuzz::Args),
    /// Regenerate the committed protobuf code, or check that it is fresh
    Codegen(codegen::Args),
    /// Check the architecture's invariants
    Tidy,
    /// Judge BPF objects by the read-only rules: 0 allowed, 1 forbidden
    Gate(start::GateArgs),
    /// Rebuild the vendored price catalogue from its sources
    Catalogue(start::PassedOn),
    /// Compare what the meter reads from recorded exchanges with what they contain
    Conformance(start::PassedOn),
    /// Measure the performance promises
    Bench(start::PassedOn),
    /// Everything that must hold before a change is merged
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Run(args) => start::run(&args),
        Task::Demo => start::demo(),
        Task::Build => build::release(),
        Task::Probes(args) => probes::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Codegen(args) => codegen::run(&args),
        Task::Tidy => tidy::run(),
        Task::Gate(args) => start::gate(&args),
        Task::Catalogue(args) => start::catalogue(&args),
        Task::Conformance(args) => start::conformance(&args),
        Task::Bench(args) => start::bench(&args),
        Task::Ci => ci::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("xtask: {err:#}");
            shell::exit_code_of(&err)
        }
    }
}

/// Names of all subcommands, for the check that the documentation names no other.
fn subcommands() -> Vec<String> {
    use clap::CommandFactory as _;
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}
