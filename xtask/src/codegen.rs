//! Regenerates the committed protobuf code, or checks that it is fresh. The work is done by `examples/codegen.rs`, whose
//! dependencies the other subcommands need not wait for.

use crate::shell;

/// What to do with the generated code.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only check that the committed code belongs to the .proto files
    #[arg(long)]
    pub(crate) check: bool,
}

/// Regenerates the code, or checks it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["run", "--quiet", "--package", "xtask", "--example", "codegen", "--"]);
    if args.check {
        command.arg("--check");
    }
    shell::run(&mut command)
}
