//! `cargo xtask catalogue`: makes and signs the vendored price catalogue.
//!
//! Facts come from two independent collections, the Python packages genai-prices and litellm. Where both state a price
//! and agree it is `confirmed`; where one states it, `single`; where they differ it is not published, and printed for a
//! person to decide. The private key is read from a file that the repository never holds.

mod compare;
mod facts;
mod write;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use ed25519_dalek::{Signer, SigningKey};
use meter::pricing::{Catalogue, CatalogueSource};

/// Make and sign the vendored price catalogue.
#[derive(Parser)]
struct Args {
    /// File with the private key: 64 hex digits
    #[arg(long)]
    key: PathBuf,
    /// Make a new private key at --key first; its public half replaces the committed one
    #[arg(long)]
    new_key: bool,
    /// Directory of the catalogue, its signature and public key
    #[arg(long, default_value = "daemon/meter/data")]
    out: PathBuf,
    /// Facts exported before, instead of installing the packages
    #[arg(long)]
    facts: Option<PathBuf>,
    /// Days until the catalogue counts as stale
    #[arg(long, default_value_t = 90)]
    days: u64,
    /// Print every price that is not published
    #[arg(long)]
    verbose: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.new_key {
        make_key(&args.key)?;
    }
    let key = read_key(&args.key)?;
    let exported = match &args.facts {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?,
        None => export_facts()?,
    };
    let facts = facts::parse(&exported).context("reading the exported facts")?;
    let compared = compare::compare(&facts)?;

    let issued_at =
        SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let public = key.verifying_key().to_bytes();
    let header = write::Header {
        version: next_version(&args.out, issued_at)?,
        issued_at,
        expires_at: issued_at + args.days * 86_400,
        key_id: Catalogue::key_id_of(&public),
    };
    let bytes = write::catalogue(&header, &facts, &compared);
    let signature = key.sign(&[Catalogue::DOMAIN, &bytes].concat()).to_bytes();
    let made = Catalogue::verify(&bytes, &signature, &public, CatalogueSource::Vendored, None)
        .context("the catalogue just made is refused by the program that reads it")?;

    let save = |name: &str, bytes: &[u8]| {
        let path = args.out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    };
    save("catalogue.json", &bytes)?;
    save("catalogue.sig", format!("{}\n", hex(&signature)).as_bytes())?;
    save("catalogue.pub", format!("{}\n", hex(&public)).as_bytes())?;
    save("PROVENANCE.md", write::provenance(&header, &facts, &compared, &bytes).as_bytes())?;
    print!("{}", write::report(&compared, args.verbose));
    println!(
        "catalogue {} with {} models, {} bytes, key {}",
        made.version(),
        made.entries(),
        bytes.len(),
        header.key_id
    );
    Ok(())
}

/// `YYYYMMDDNN`, above the version that is there.
fn next_version(out: &Path, now: u64) -> Result<u64> {
    let today = write::date(now).replace('-', "").parse::<u64>()? * 100 + 1;
    let Ok(bytes) = std::fs::read(out.join("catalogue.json")) else { return Ok(today) };
    let current: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(current["version"].as_u64().map_or(today, |current| today.max(current + 1)))
}

/// Installs both packages into an environment of their own, and runs the export in it.
fn export_facts() -> Result<String> {
    let dir = tempfile::tempdir().context("making a directory for the Python packages")?;
    let python = dir.path().join("bin/python");
    run(Command::new("python3").args(["-m", "venv"]).arg(dir.path()))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-deps", "litellm"]))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "genai-prices"]))?;
    let output = Command::new(&python)
        .args(["-c", include_str!("export.py")])
        .output()
        .context("running the export")?;
    ensure!(output.status.success(), "the export failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("the export is not UTF-8")
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {:?}", command.get_program()))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn make_key(path: &Path) -> Result<()> {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let mut seed = [0_u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut seed))
        .context("reading randomness")?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file =
        file.with_context(|| format!("making {}: an existing key is never replaced", path.display()))?;
    writeln!(file, "{}", hex(&seed)).with_context(|| format!("writing {}", path.display()))
}

fn read_key(path: &Path) -> Result<SigningKey> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the private key {}", path.display()))?;
    let text = text.trim();
    let bytes: Option<Vec<u8>> = (0..text.len() / 2)
        .map(|at| text.get(2 * at..2 * at + 2).and_then(|two| u8::from_str_radix(two, 16).ok()))
        .collect();
    match bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
        Some(seed) if text.len() == 64 => Ok(SigningKey::from_bytes(&seed)),
        _ => bail!("{}: a private key is 64 hex digits; make one with --new-key", path.display()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
