//! Runs recorded exchanges through the whole pure pipeline, as they would travel, and compares what it says of them.
//!
//! Input: one JSON object per line, gzip or not, with or without `expected`. Each is rendered as HTTP/1.1 in one piece
//! (`h1`) and cut at random places, always the same ones (`h1-cut`), and as HTTP/2 (`h2`, `h2-cut`); what was recorded
//! over a WebSocket or gRPC travels so (`ws`, `ws-cut`, `grpc`, `grpc-cut`). Exit status: 0 all as expected, 1 a mismatch,
//! 2 usage.

mod compare;
mod damage;
mod drive;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use compare::Verdict;
use e2e::corpus::{self, render};

/// Runs recorded exchanges through the meter and compares.
#[derive(Parser)]
struct Arguments {
    /// Recorded exchanges, one JSON object per line, gzip or not.
    #[arg(long)]
    corpus: PathBuf,
    /// Only these dialects, as the recording's `expected.dialect` names them; `negative` for what is no AI at all.
    #[arg(long, value_delimiter = ',')]
    dialect: Vec<String>,
    /// Write one JSON object per exchange and rendering.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Damage each exchange so often instead (holes, missing ends, late joins): what is said must be true or not there.
    #[arg(long, value_name = "ROUNDS", conflicts_with_all = ["json", "dialect"])]
    damaged: Option<u32>,
    /// Print so many mismatches in full.
    #[arg(long, default_value_t = 20)]
    show: usize,
}

/// Results of one provider.
#[derive(Default)]
struct Row {
    exchanges: u64,
    exact: u64,
    mismatches: u64,
    unjudged: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    if let Some(rounds) = arguments.damaged {
        let lines = corpus::lines(&arguments.corpus)?.collect::<anyhow::Result<Vec<_>>>()?;
        let tally = damage::run(&lines, rounds, arguments.show);
        let damage::Tally { connections, told, with_usage, untrue } = tally;
        println!(
            "{connections} damaged connections: {told} exchanges told, {with_usage} with usage, {untrue} untrue"
        );
        return Ok(untrue == 0);
    }
    let mut json = match &arguments.json {
        Some(path) => {
            Some(BufWriter::new(File::create(path).with_context(|| format!("creating {}", path.display()))?))
        }
        None => None,
    };
    let mut rows: BTreeMap<(String, &'static str), Row> = BTreeMap::new();
    let mut reasons: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut shown = 0;
    for line in corpus::lines(&arguments.corpus)? {
        let line = line?;
        if !arguments.dialect.is_empty() && !arguments.dialect.iter().any(|wanted| line.is_dialect(wanted)) {
            continue;
        }
        for (rendering, pieces) in render::renderings(&line) {
            let row = rows.entry((line.provider.clone(), rendering)).or_default();
            row.exchanges += 1;
            let seen = drive::drive(&pieces);
            if let Some(file) = &mut json {
                serde_json::to_writer(&mut *file, &seen.to_json(&line.id, rendering))?;
                file.write_all(b"\n")?;
            }
            match compare::compare(&line, &seen) {
                Verdict::Exact => row.exact += 1,
                Verdict::NothingExpected => row.unjudged += 1,
                Verdict::Mismatch(differences) => {
                    row.mismatches += 1;
                    let dialect = line.dialect().unwrap_or("negative").to_owned();
                    let kinds: Vec<&str> = differences.iter().map(|difference| difference.what).collect();
                    *reasons.entry((dialect, kinds.join("+"))).or_default() += 1;
                    if shown < arguments.show {
                        shown += 1;
                        println!("{} {rendering} {} {}", line.id, line.method, line.url);
                        for difference in &differences {
                            println!("    {difference}");
                        }
                    }
                }
            }
        }
    }
    if let Some(mut file) = json {
        file.flush()?;
    }
    Ok(report(&rows, &reasons))
}

/// Prints the table; true if nothing mismatched.
fn report(rows: &BTreeMap<(String, &'static str), Row>, reasons: &BTreeMap<(String, String), u64>) -> bool {
    println!(
        "{:<20} {:<8} {:>9} {:>9} {:>10} {:>8}",
        "provider", "as", "exchanges", "exact", "mismatches", "unjudged"
    );
    let mut total = Row::default();
    for ((provider, rendering), row) in rows {
        println!(
            "{provider:<20} {rendering:<8} {:>9} {:>9} {:>10} {:>8}",
            row.exchanges, row.exact, row.mismatches, row.unjudged
        );
        total.exchanges += row.exchanges;
        total.exact += row.exact;
        total.mismatches += row.mismatches;
        total.unjudged += row.unjudged;
    }
    println!(
        "{:<20} {:<8} {:>9} {:>9} {:>10} {:>8}",
        "total", "", total.exchanges, total.exact, total.mismatches, total.unjudged
    );
    for ((dialect, what), count) in reasons {
        println!("mismatch {dialect}: {what}: {count}");
    }
    total.mismatches == 0
}
