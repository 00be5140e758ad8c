//! `venturi-attach`: started by `venturid` with a socket at descriptor 3; as a command, the read-only gate.

use std::process::ExitCode;

use attach::gate::{self, GateError};
use attach::{Options, adopt_socket, embedded_object, run};

const HELP: &str = "\
venturi-attach - the privileged half of venturid: loads and attaches observing BPF programs, nothing else

Started by venturid, not by hand:
  venturi-attach [--fd N] [--events-mib N] [--content-mib N] [--allow-loopback-tap] [--no-uprobe-multi]
      --fd N                 descriptor of the SOCK_SEQPACKET socket to venturid (default 3)
      --events-mib N         size of the ring for events, a power of two from 1 to 512 (default 4)
      --content-mib N        size of the ring for content, a power of two from 1 to 512 (default 16)
      --allow-loopback-tap   let venturid look for names on a loopback interface
      --no-uprobe-multi      attach through perf events even where the kernel has something better

The read-only gate, as it runs before every load:
  venturi-attach gate [FILE.o...]
      Judges BPF objects; without a file, the one compiled in. Exit code 0: allowed; 1: forbidden, naming program,
      kind and rule; 2: not readable.

  venturi-attach --version | --help

Messages go to stderr; VENTURI_LOG sets their level (error, warn, info, debug, trace).
";

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    match arguments.first().map(String::as_str) {
        Some("--version" | "-V") => {
            println!("venturi-attach {} (protocol {})", env!("CARGO_PKG_VERSION"), abi::VERSION);
            ExitCode::SUCCESS
        }
        Some("--help" | "-h") => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Some("gate") => gate_command(arguments.get(1..).unwrap_or_default()),
        _ => serve_command(&arguments),
    }
}

fn serve_command(arguments: &[String]) -> ExitCode {
    let usage = |why: String| {
        eprintln!("venturi-attach: {why}; see venturi-attach --help");
        ExitCode::from(2)
    };
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(why) => return usage(why),
    };
    let socket = match adopt_socket(options.fd) {
        Ok(socket) => socket,
        Err(error) => return usage(format!("{error}; it is started by venturid, not by hand")),
    };
    match run(socket, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("venturi-attach: nothing is captured: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number = |allowed: fn(u32) -> bool| {
            let value = rest.next().and_then(|text| text.parse::<u32>().ok()).filter(|value| allowed(*value));
            value.ok_or_else(|| format!("{argument} needs a number in its range"))
        };
        let ring = |mib: u32| mib.is_power_of_two() && mib <= 512;
        match argument.as_str() {
            "--fd" => options.fd = number(|fd| (3..=1 << 20).contains(&fd))?.cast_signed(),
            "--events-mib" => options.events_mib = number(ring)?,
            "--content-mib" => options.content_mib = number(ring)?,
            "--allow-loopback-tap" => options.allow_loopback_tap = true,
            "--no-uprobe-multi" => options.allow_uprobe_multi = false,
            unknown => return Err(format!("unknown argument {unknown:?}")),
        }
    }
    Ok(options)
}

/// Judges each file; the worst answer is the exit code (2 over 1 over 0).
fn gate_command(files: &[String]) -> ExitCode {
    if files.is_empty() {
        return ExitCode::from(judge("(compiled in)", embedded_object()));
    }
    let mut worst = 0;
    for file in files {
        let code = match std::fs::read(file) {
            Ok(bytes) => judge(file, &bytes),
            Err(error) => {
                eprintln!("{file}: {error}");
                2
            }
        };
        worst = worst.max(code);
    }
    ExitCode::from(worst)
}

fn judge(file: &str, bytes: &[u8]) -> u8 {
    match gate::judge_object(bytes) {
        Ok(approval) => {
            println!("{file}: allowed");
            for program in &approval.programs {
                let helpers: Vec<_> = program.helpers.iter().map(String::as_str).collect();
                let (name, kind, count) = (&program.name, program.kind.name(), program.instructions);
                println!("  {name} ({kind}): {count} instructions; {}", helpers.join(" "));
            }
            for (name, kind) in &approval.maps {
                println!("  {name} (map): {kind}");
            }
            0
        }
        Err(GateError::Forbidden(findings)) => {
            for finding in findings {
                println!("{file}: forbidden: {finding}");
            }
            1
        }
        Err(unreadable) => {
            eprintln!("{file}: {unreadable}");
            2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Result<Options, &str>) {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match (parse(&arguments), expected) {
            (Ok(options), Ok(expected)) => assert_eq!(options, expected, "{line}"),
            (Err(why), Err(part)) => assert!(why.contains(part), "{line}: {why}"),
            (got, expected) => panic!("{line}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn options_are_read_and_mistakes_named() {
        check("", Ok(Options::default()));
        check(
            "--fd 7 --allow-loopback-tap",
            Ok(Options { fd: 7, allow_loopback_tap: true, ..Options::default() }),
        );
        check(
            "--events-mib 8 --content-mib 64 --no-uprobe-multi",
            Ok(Options { events_mib: 8, content_mib: 64, allow_uprobe_multi: false, ..Options::default() }),
        );
        check("--fd 1", Err("--fd needs a number"));
        check("--fd", Err("--fd needs a number"));
        check("--content-mib 3", Err("--content-mib needs a number"));
        check("--frobnicate", Err("unknown argument"));
    }
}
