//! Building our programs: the release ones for people, the `ci` ones for tests, end to end and gate.

use std::path::PathBuf;

use crate::shell;

/// The three programs that are shipped.
pub(crate) const PROGRAMS: &[&str] = &["venturid", "venturi-attach", "venturi"];

/// Which profile to build with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What is shipped, started and measured.
    Release,
    /// What is tested: quick to build, with debug assertions.
    Ci,
}

impl Profile {
    /// Name that cargo knows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Ci => "ci",
        }
    }

    /// Where a program built with it is.
    pub(crate) fn program(self, name: &str) -> PathBuf {
        shell::target_dir().join(self.name()).join(name)
    }
}

/// `cargo xtask build`.
pub(crate) fn release() -> anyhow::Result<()> {
    programs(Profile::Release, &[])?;
    for name in PROGRAMS {
        println!("{}", Profile::Release.program(name).display());
    }
    Ok(())
}

/// Builds the shipped programs, and those of `more`: pairs of package and program.
pub(crate) fn programs(profile: Profile, more: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["build", "--profile", profile.name()]);
    for package in ["host", "attach", "ctl"] {
        command.args(["--package", package]);
    }
    for name in PROGRAMS {
        command.args(["--bin", name]);
    }
    for (package, name) in more {
        command.args(["--package", package, "--bin", name]);
    }
    shell::run(&mut command)
}
