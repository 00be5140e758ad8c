//! Regenerates the committed protobuf code, or checks that it is fresh.

/// What to do with the generated code.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only check that the committed code belongs to the .proto files
    #[arg(long)]
    pub(crate) check: bool,
}

/// Regenerates the code, or checks it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("code generation (check: {}) has not landed yet", args.check)
}
