//! How a command can end, and the exit code of each end.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A command that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything asked for was answered.
    Good,
    /// The daemon serves, but something is not as it should be: replay, not armed, a degradation.
    Degraded,
    /// The daemon lost its capture process.
    CaptureLost,
}

impl Outcome {
    /// The code that scripts see.
    pub(crate) fn code(self) -> u8 {
        match self {
            Outcome::Good => 0,
            Outcome::Degraded => 3,
            Outcome::CaptureLost => 70,
        }
    }

    /// The code for `main`.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// A command that was not carried out. The message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers on the socket.
    #[error("no daemon at {}: {why}\n  {remedy}", socket.display())]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system said.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Somebody accepts on the socket but does not answer.
    #[error(
        "the daemon at {} did not answer within {} s: is it stopped or overloaded?\n  see `venturi doctor` and its log",
        socket.display(), waited.as_secs()
    )]
    Silent {
        /// Where it was asked.
        socket: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The daemon answered with an error.
    #[error("the daemon refused: {}", describe(.0))]
    Refused(Box<tonic::Status>),
    /// The answer lacks what was asked for.
    #[error("{0}")]
    NotFound(String),
    /// The answer could not be written.
    #[error("writing the answer: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The code that scripts see.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Unreachable { .. } | Failure::Silent { .. } => 4,
            Failure::Refused(status) if status.code() == tonic::Code::InvalidArgument => 2,
            Failure::Refused(_) | Failure::NotFound(_) => 1,
            Failure::Output(_) if self.is_closed_pipe() => 0,
            Failure::Output(_) => 1,
        }
    }

    /// The code for `main`.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// True if the reader of our output went away (`venturi calls | head`): nothing to complain about.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Failure::Output(err) if err.kind() == io::ErrorKind::BrokenPipe)
    }

    /// True if asking again later may help: the daemon went away or is restarting.
    pub(crate) fn may_pass(&self) -> bool {
        use tonic::Code;
        match self {
            Failure::Unreachable { .. } | Failure::Silent { .. } => true,
            Failure::Refused(status) => matches!(
                status.code(),
                Code::Unavailable
                    | Code::Unknown
                    | Code::Cancelled
                    | Code::Internal
                    | Code::Aborted
                    | Code::DataLoss
                    | Code::ResourceExhausted
                    | Code::DeadlineExceeded
            ),
            Failure::Usage(_) | Failure::NotFound(_) | Failure::Output(_) => false,
        }
    }
}

fn describe(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_the_code_of_the_contract() {
        fn check(failure: Failure, code: u8, may_pass: bool) {
            assert_eq!((failure.code(), failure.may_pass()), (code, may_pass), "{failure}");
        }
        let refused = |code| Failure::Refused(Box::new(tonic::Status::new(code, "no")));
        check(Failure::Usage("no".into()), 2, false);
        check(refused(tonic::Code::InvalidArgument), 2, false);
        check(refused(tonic::Code::PermissionDenied), 1, false);
        check(refused(tonic::Code::NotFound), 1, false);
        check(refused(tonic::Code::Internal), 1, true);
        check(Failure::NotFound("no".into()), 1, false);
        check(Failure::Silent { socket: "/s".into(), waited: Duration::from_secs(1) }, 4, true);
        check(Failure::Unreachable { socket: "/s".into(), why: "no".into(), remedy: "start it" }, 4, true);
        check(Failure::Output(io::Error::from(io::ErrorKind::BrokenPipe)), 0, false);
        check(Failure::Output(io::Error::from(io::ErrorKind::StorageFull)), 1, false);
        assert_eq!([Outcome::Good, Outcome::Degraded, Outcome::CaptureLost].map(Outcome::code), [0, 3, 70]);
    }
}
