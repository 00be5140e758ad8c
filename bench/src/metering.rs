//! Placeholder until the pipeline's options exist.
pub fn run() -> anyhow::Result<()> {
    Ok(())
}
