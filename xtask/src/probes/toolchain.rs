//! The compiler and linker for BPF: found where they are, else installed.
//!
//! Building `core` for BPF needs the compiler's own library sources, which a plain rustup or Debian installation may
//! lack, and a `bpf-linker` that was built against the same major version of LLVM as the compiler. In this order:
//! the compiler that the manifest records, rustup's nightly with `rust-src`, Debian's `rustc-web` with `rust-web-src`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::shell;

/// Version of the linker that is installed when none fits.
const LINKER_VERSION: &str = "0.13.0";

/// Debian's packages, LLVM's major version aside.
const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "rust-web-src"];

/// Where they put it.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler with sources, and the linker that fits it.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
    linker_version: String,
}

struct Compiler {
    rustc: PathBuf,
    /// `rustc --version` and LLVM's version.
    version: String,
    llvm_major: u32,
    library: PathBuf,
}

/// Finds a toolchain; `recorded` is preferred. Installs what is missing where `install` allows it.
pub(crate) fn find(recorded: Option<&str>, install: bool) -> anyhow::Result<Toolchain> {
    let compiler = match found(recorded) {
        Some(compiler) => compiler,
        None if install => {
            install_compiler()?;
            found(recorded).context("the compiler that was just installed has no sources of `core`")?
        }
        None => bail!(
            "no Rust compiler with the sources of `core`: `rustup component add rust-src --toolchain nightly`, or \
             on Debian `apt-get install {}`",
            DEBIAN_COMPILER.join(" ")
        ),
    };
    let linker = match fitting_linker(compiler.llvm_major) {
        Some(linker) => linker,
        None if install => {
            install_linker(compiler.llvm_major)?;
            fitting_linker(compiler.llvm_major).context("the linker that was just installed does not fit")?
        }
        None => bail!(
            "no bpf-linker for LLVM {}: {}",
            compiler.llvm_major,
            shown_linker_install(compiler.llvm_major)
        ),
    };
    let version = shell::output(Command::new(&linker).arg("--version"))?;
    let linker_version = format!("{}, LLVM {}", version.trim(), compiler.llvm_major);
    Ok(Toolchain { compiler, linker, linker_version })
}

impl Toolchain {
    /// As recorded in the manifest.
    pub(crate) fn compiler_version(&self) -> &str {
        &self.compiler.version
    }

    /// As recorded in the manifest.
    pub(crate) fn linker_version(&self) -> &str {
        &self.linker_version
    }

    /// Compiles the package `probes` for the registers of `architecture`; the path of the object.
    pub(crate) fn compile(&self, architecture: &str) -> anyhow::Result<PathBuf> {
        // A directory each: the same flags every time keep what is compiled already.
        let target_dir = shell::target_dir().join("bpf").join(architecture);
        let cargo_home = cargo_home()?;
        // What the object may show of where it was built: nothing.
        let remapped = [
            (shell::root().to_path_buf(), "/venturi"),
            (cargo_home.join("registry/src"), "/registry"),
            (self.compiler.library.clone(), "/rust/library"),
        ];
        let mut flags = vec!["--cfg".to_owned(), format!("bpf_target_arch=\"{architecture}\"")];
        flags
            .extend(remapped.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
        let mut cargo = self.compiler.cargo();
        cargo
            .args(["build", "--release", "--locked", "--package", "probes", "-Z", "build-std=core"])
            .args(["--target", "bpfel-unknown-none"])
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_INCREMENTAL", "0")
            .env("RUSTC", &self.compiler.rustc)
            // Building `core` is unstable; Debian's compiler is a stable release.
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTUP_TOOLCHAIN");
        shell::run(&mut cargo).context("compiling the kernel programs")?;
        Ok(target_dir.join("bpfel-unknown-none/release/probes-bpf"))
    }
}

impl Compiler {
    /// The cargo that came with a rustup toolchain knows that version's library; Debian's compiler has none.
    fn cargo(&self) -> Command {
        let sibling = self.rustc.with_file_name("cargo");
        let own = self.rustc != Path::new(DEBIAN_RUSTC) && sibling.is_file();
        if own { shell::command(sibling) } else { shell::cargo() }
    }
}

/// The compiler to use: the recorded one where it exists, else the first that has sources.
fn found(recorded: Option<&str>) -> Option<Compiler> {
    let mut compilers: Vec<Compiler> = candidates().iter().filter_map(|rustc| describe(rustc)).collect();
    let preferred =
        compilers.iter().position(|compiler| Some(compiler.version.as_str()) == recorded).unwrap_or_default();
    (!compilers.is_empty()).then(|| compilers.swap_remove(preferred))
}

/// Compilers that may have sources.
fn candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if shell::exists("rustup") {
        let mut which = Command::new("rustup");
        which.args(["which", "--toolchain", "nightly", "rustc"]).env_remove("RUSTUP_TOOLCHAIN");
        if let Ok(path) = shell::output(&mut which) {
            candidates.push(PathBuf::from(path.trim()));
        }
    }
    candidates.push(PathBuf::from(DEBIAN_RUSTC));
    candidates
}

/// Asks a compiler who it is; `None` without sources.
fn describe(rustc: &Path) -> Option<Compiler> {
    let verbose = shell::output(Command::new(rustc).arg("-vV")).ok()?;
    let sysroot = shell::output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if !library.join("core/src/lib.rs").exists() {
        return None;
    }
    let llvm = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(Compiler {
        rustc: rustc.to_owned(),
        version: format!("{}, LLVM {llvm}", verbose.lines().next()?),
        llvm_major: llvm.split('.').next()?.parse().ok()?,
        // Debug information and panics name the real path, behind Debian's links.
        library: fs::canonicalize(&library).unwrap_or(library),
    })
}

/// A `bpf-linker` for this LLVM: ours in the target directory, or one on the path that is linked against it.
fn fitting_linker(llvm_major: u32) -> Option<PathBuf> {
    let own = linker_root(llvm_major).join("bin/bpf-linker");
    if own.exists() {
        return Some(own);
    }
    let on_path = env::split_paths(&env::var_os("PATH")?)
        .chain(cargo_home().ok().map(|home| home.join("bin")))
        .map(|dir| dir.join("bpf-linker"))
        .find(|path| path.is_file())?;
    let libraries = shell::output(Command::new("ldd").arg(&on_path)).ok()?;
    let library = format!("libLLVM.so.{llvm_major}.");
    let old_name = format!("libLLVM-{llvm_major}.so");
    (libraries.contains(&library) || libraries.contains(&old_name)).then_some(on_path)
}

fn linker_root(llvm_major: u32) -> PathBuf {
    shell::target_dir().join(format!("bpf/linker-llvm-{llvm_major}"))
}

/// Adds `rust-src` to rustup's nightly, or Debian's compiler to the system.
fn install_compiler() -> anyhow::Result<()> {
    let mut tried = Vec::new();
    if shell::exists("rustup") {
        let mut rustup = Command::new("rustup");
        rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        match shell::run(&mut rustup) {
            Ok(()) => return Ok(()),
            Err(err) => tried.push(format!("{err:#}")),
        }
    }
    if shell::exists("apt-get") {
        match apt_install(&DEBIAN_COMPILER.map(str::to_owned)) {
            Ok(()) => return Ok(()),
            Err(err) => tried.push(format!("{err:#}")),
        }
    }
    bail!("no Rust compiler with the sources of `core`, and none could be installed: {}", tried.join("; "))
}

/// Builds `bpf-linker` against the system's LLVM into the target directory.
fn install_linker(llvm_major: u32) -> anyhow::Result<()> {
    ensure!(
        (21..=23).contains(&llvm_major),
        "bpf-linker {LINKER_VERSION} does not know LLVM {llvm_major}: use a compiler with LLVM 21 to 23"
    );
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm_major}"));
    if !prefix.join("include/llvm-c").exists() && shell::exists("apt-get") {
        apt_install(&[
            format!("llvm-{llvm_major}-dev"),
            format!("libpolly-{llvm_major}-dev"),
            format!("clang-{llvm_major}"),
        ])?;
    }
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm_major}"), "--root"])
        .arg(linker_root(llvm_major))
        .env_remove("CARGO_TARGET_DIR");
    if prefix.exists() {
        cargo.env("LLVM_PREFIX", &prefix);
    }
    shell::run(&mut cargo)
        .with_context(|| format!("installing it; by hand: {}", shown_linker_install(llvm_major)))
}

fn shown_linker_install(llvm_major: u32) -> String {
    format!(
        "`LLVM_PREFIX=/usr/lib/llvm-{llvm_major} cargo install bpf-linker@{LINKER_VERSION} --no-default-features \
         --features llvm-{llvm_major}` (needs llvm-{llvm_major}-dev and libpolly-{llvm_major}-dev)"
    )
}

fn apt_install(packages: &[String]) -> anyhow::Result<()> {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    shell::run(&mut apt).with_context(|| format!("installing {} (needs root)", packages.join(" ")))
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}
