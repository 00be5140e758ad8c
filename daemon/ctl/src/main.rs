//! `venturi`: asks the node's daemon over its unix socket and shows the answer, to people as tables and to programs
//! as JSON lines.
//!
//! It speaks the public API and nothing else: it links neither the store nor anything that knows the kernel, so what
//! it can show any client can.
//!
//! Exit codes (a contract for scripts): 0 good, 1 failed, 2 wrong arguments, 3 serving but degraded, 4 daemon
//! unreachable, 70 capture lost. A closed pipe is a good end.

mod action;
mod client;
mod command;
mod failure;
mod follow;
mod output;
mod since;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = action::Cli::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failure::Failure::Output)
        .and_then(|runtime| runtime.block_on(command::run(cli)));
    match outcome {
        Ok(outcome) => outcome.exit_code(),
        Err(failure) => {
            if !failure.is_closed_pipe() {
                eprintln!("venturi: {failure}");
            }
            failure.exit_code()
        }
    }
}
