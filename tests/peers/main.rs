//! Real servers answer real clients; what passed between them is fed to the meter in the order in which it travelled
//! and compared with what the clients say they were answered. No kernel and no root are needed.

mod http;
mod recorder;

use std::path::PathBuf;
use std::process::Child;

/// A program of the test, ended with it.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The script `name` of the laboratory.
pub(crate) fn script(name: &str) -> PathBuf {
    e2e::toolbox::workspace().join("tests/clients").join(name)
}

/// `program`, or the reason why the test is skipped; in CI a missing program fails the test.
pub(crate) fn needs(test: &str, program: &str) -> Option<PathBuf> {
    match e2e::toolbox::which(program) {
        Ok(path) => Some(path),
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("{test}: {error:#}"),
        Err(error) => {
            println!("SKIPPED {test}: {error:#}");
            None
        }
    }
}
