//! `venturid`: the arguments, then [`host::run`], then the exit code.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Watches egress to AI providers and answers who called what, at what cost, for whom
#[derive(Debug, Parser)]
#[command(name = "venturid", version = env!("CARGO_PKG_VERSION"))]
struct Arguments {
    /// Configuration [default: /etc/venturi/config.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where records are kept
    #[arg(long, value_name = "DIR", default_value = host::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Where the tenants' keys are [default: /var/lib/venturi-keys; with --state-dir DIR: DIR.keys]
    #[arg(long, value_name = "DIR")]
    key_dir: Option<PathBuf>,
    /// Unix socket on which queries are answered [default: /run/venturi/venturid.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The privileged process [default: venturi-attach beside this program]
    #[arg(long, value_name = "PATH")]
    attacher: Option<PathBuf>,
    /// User to become when started by root [default: venturi if it exists, else uid 61342]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Serve a recorded capture instead of the kernel's; without FILE the one that is built in
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    replay: Option<Option<PathBuf>>,
    /// Print the documented configuration with all defaults, and end
    #[arg(long)]
    print_example_config: bool,
}

fn main() -> ExitCode {
    host::telemetry::keep_panics_quiet();
    host::memory::tune();
    let arguments = Arguments::parse();
    if arguments.print_example_config {
        let printed = std::io::stdout().write_all(host::config::EXAMPLE.as_bytes());
        return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(host::error::EXIT_FAILED) };
    }
    let Arguments { config, state_dir, key_dir, socket, attacher, user, replay, print_example_config: _ } =
        arguments;
    let options = host::Options { config, state_dir, key_dir, socket, attacher, user, replay };
    match host::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // The log may not be set up yet, and a supervisor shows the last lines of stderr.
            let _ = writeln!(std::io::stderr(), "venturid: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
