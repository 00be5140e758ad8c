//! `bench`: every performance promise as a figure, a ratio within one run wherever two things are compared.

mod allocations;
mod app_cost;
mod exit_time;
mod ingest;
mod latency;
mod link;
mod loss;
mod measure;
mod memory;
mod metering;
mod node_cost;
mod report;
mod tap_share;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::Report;

#[derive(Parser)]
#[command(about = "Measures Venturi's performance promises")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    /// One JSON object per figure's row, instead of tables.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Bench {
    /// CPU added to the application per write+read pair, beside a bare probe pair on the same functions.
    App {
        /// Interleaved rounds.
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
    /// What unrelated traffic of the node pays, at rest and with an open tap.
    Node {
        /// Interleaved pairs.
        #[arg(long, default_value_t = 20)]
        pairs: usize,
        /// No daemon on either side: what the machine's noise makes of equal things.
        #[arg(long)]
        noise: bool,
    },
    /// The share of time that a tap is open under a mixed load.
    Tap {
        /// How long.
        #[arg(long, default_value_t = 180)]
        seconds: u64,
    },
    /// Latency of a real SDK call: direct, with the daemon, through the LiteLLM proxy.
    Latency {
        /// Calls per side.
        #[arg(long, default_value_t = 100)]
        calls: usize,
        /// Leave the LiteLLM proxy out.
        #[arg(long)]
        no_litellm: bool,
    },
    /// Loss under unthrottled 16 KB writes.
    Loss,
    /// Meter throughput and allocations beside copying, parsing, unframing and unpacking the same bytes.
    Meter {
        /// Only shapes and recordings whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Store ingest and query.
    Store,
    /// PSS of both processes, idle and loaded.
    Memory,
    /// Exit time with armed processes.
    Exit {
        /// Armed processes.
        #[arg(long, default_value_t = 100)]
        processes: usize,
    },
    /// Everything, one after the other.
    All,
    /// The far end of the node's traffic; started by `node`.
    #[command(hide = true)]
    Serve {
        /// Where to listen.
        address: std::net::SocketAddr,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.bench, &mut Report::new(arguments.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    match bench {
        Bench::App { rounds } => app_cost::run(*rounds, report),
        Bench::Node { pairs, noise } => node(*pairs, *noise, report),
        Bench::Tap { seconds } => tap_share::run(*seconds, report),
        Bench::Latency { calls, no_litellm } => latency::run(*calls, !no_litellm, report),
        Bench::Loss => loss::run(report),
        Bench::Meter { only } => metering::run(only, report),
        Bench::Store => ingest::run(report),
        Bench::Memory => memory::run(report),
        Bench::Exit { processes } => exit_time::run(*processes, report),
        Bench::All => {
            metering::run("", report)?;
            ingest::run(report)?;
            app_cost::run(9, report)?;
            latency::run(100, true, report)?;
            loss::run(report)?;
            memory::run(report)?;
            exit_time::run(100, report)?;
            tap_share::run(180, report)?;
            node(20, true, report)?;
            node(20, false, report)
        }
        Bench::Serve { address } => node_cost::serve(*address),
    }
}

fn node(pairs: usize, noise: bool, report: &mut Report) -> anyhow::Result<()> {
    let sides: &[(&str, Option<&str>)] = if noise {
        &[("noise: no daemon on either side", None)]
    } else {
        &[("at rest", Some("")), ("tap always open", Some("[capture]\ntap = \"always\"\n"))]
    };
    for (name, config) in sides {
        let title = format!("What the node pays, {name}, time per step with / without the daemon");
        report.section(&title, "at most 1.01");
        for (load, ratio) in node_cost::run(pairs, *config)? {
            report.row(&load, &ratio.figures());
        }
    }
    Ok(())
}
