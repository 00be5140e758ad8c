//! Why the daemon ends, and with which exit code.

use crate::config::ConfigError;

/// Exit code of an ordered stop.
pub const EXIT_GOOD: u8 = 0;
/// Exit code of any failure without a code of its own.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a wrong command line or configuration.
pub const EXIT_USAGE: u8 = 2;
/// Exit code when the attacher has died: a supervisor restarts both.
pub const EXIT_CAPTURE_LOST: u8 = 70;
/// Exit code when a key must be refused: restarting does not help.
pub const EXIT_KEY_REFUSED: u8 = 78;

/// Why the daemon ends other than by an ordered stop.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stores cannot be used.
    #[error(transparent)]
    Store(#[from] store::PrepareError),
    /// The attacher has died. What was captured is stored.
    #[error("capture lost: venturi-attach has ended; what was captured is stored")]
    CaptureLost,
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// The exit code that tells a script which it was.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Config(_) => EXIT_USAGE,
            Failure::Store(error) => error.exit_code(),
            Failure::CaptureLost => EXIT_CAPTURE_LOST,
            Failure::Other(_) => EXIT_FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_can_tell_failures_apart() {
        let key =
            store::PrepareError::KeyRefused { tenant: "a".into(), path: "k".into(), why: "gone".into() };
        let unreadable =
            ConfigError::Unreadable { path: "c".into(), source: std::io::ErrorKind::NotFound.into() };
        for (failure, code) in [
            (Failure::from(unreadable), 2),
            (Failure::from(key), 78),
            (Failure::from(store::PrepareError::Locked { path: "l".into() }), 1),
            (Failure::CaptureLost, 70),
            (Failure::from(anyhow::anyhow!("something")), 1),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure}");
        }
    }
}
