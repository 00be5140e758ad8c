//! The arguments, as types. What cannot be meant does not get past here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::since::{self, Since};

/// Who on this node calls which AI provider, what it costs, who owns it, and how sure that is.
///
/// Exit codes: 0 good, 1 failed, 2 wrong arguments, 3 serving but degraded, 4 daemon unreachable, 70 capture lost.
#[derive(Debug, Parser)]
#[command(name = "venturi", version)]
pub(crate) struct Cli {
    /// Socket of the daemon
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/venturi/venturid.sock")]
    pub(crate) socket: PathBuf,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Is capture armed, are queries served
    Status,
    /// Diagnose the node: kernel, privileges, losses, coverage of each process, what to mend
    Doctor,
    /// List connections to providers
    Flows(Listing),
    /// List calls to providers with model, tokens, cost and owner
    Calls(Calls),
    /// Sum cost and tokens
    Spend(Spend),
    /// Say why a record says what it says
    Explain(Explain),
}

/// Which records to list.
#[derive(Args, Debug)]
pub(crate) struct Listing {
    /// At most so many, the newest; by default 50 in a table, all with --json
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Only what started since: 90s, 15m, 1h, 7d or a moment in RFC 3339
    #[arg(long, value_name = "T")]
    pub(crate) since: Option<Since>,
    /// Tenant; not needed where the caller has only one
    #[arg(long, value_name = "TENANT", default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
}

/// Which calls to list, and whether to wait for more.
#[derive(Args, Debug)]
pub(crate) struct Calls {
    /// Show calls as they end, across restarts of the daemon; with --limit end after so many. What it waits for is said
    /// on stderr
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Which.
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// What to sum, and by what.
#[derive(Args, Debug)]
pub(crate) struct Spend {
    /// Group by these, separated by commas
    #[arg(long, value_name = "KEYS", value_enum, value_delimiter = ',', default_value = "team,model")]
    pub(crate) by: Vec<GroupKey>,
    /// Only what started since: 90s, 15m, 1h, 7d or a moment in RFC 3339
    #[arg(long, value_name = "T", default_value = "1h")]
    pub(crate) since: Since,
    /// Split the time into buckets of whole hours or days: 1h, 6h, 1d
    #[arg(long, value_name = "WIDTH", value_parser = since::bucket)]
    pub(crate) bucket: Option<u64>,
    /// Tenant; not needed where the caller has only one
    #[arg(long, value_name = "TENANT", default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
}

/// What usage can be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GroupKey {
    /// Tenant.
    Tenant,
    /// Owning team.
    Team,
    /// Owning service.
    Service,
    /// Workload that called.
    Workload,
    /// Provider that was called.
    Provider,
    /// Model that answered.
    Model,
}

impl GroupKey {
    /// Name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            GroupKey::Tenant => "tenant",
            GroupKey::Team => "team",
            GroupKey::Service => "service",
            GroupKey::Workload => "workload",
            GroupKey::Provider => "provider",
            GroupKey::Model => "model",
        }
    }
}

/// Which record to explain.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// Id of a record, or the last digits of one, as the tables show them
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Tenant; not needed where the caller has only one
    #[arg(long, value_name = "TENANT", default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_are_read_or_refused() {
        fn check(line: &str, good: bool) {
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert_eq!(parsed.is_ok(), good, "{line}: {parsed:?}");
            if let Err(err) = parsed {
                assert_eq!(err.exit_code(), 2, "{line}");
            }
        }
        check("venturi status", true);
        check("venturi status --json --socket /tmp/s", true);
        check("venturi --socket /tmp/s --json status", true);
        check("venturi calls --follow --since 15m --limit 3 --tenant acme", true);
        check("venturi calls --json", true);
        check("venturi flows --since 2026-01-31T09:30:00Z", true);
        check("venturi spend --by team,model --since 1h --bucket 1h", true);
        check("venturi spend --by tenant,service,workload,provider", true);
        check("venturi explain attr_00", true);
        check("venturi", false);
        check("venturi top", false);
        check("venturi calls --limit 0", false);
        check("venturi calls --limit -1", false);
        check("venturi calls --since tomorrow", false);
        check("venturi spend --by colour", false);
        check("venturi spend --bucket 90m", false);
        check("venturi explain", false);
        check("venturi flows --follow", false);
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let cli = Cli::try_parse_from(["venturi", "spend"]).expect("a command");
        assert_eq!(cli.socket, PathBuf::from("/run/venturi/venturid.sock"));
        let Action::Spend(Spend { by, since, bucket, tenant }) = cli.action else {
            panic!("{:?}", cli.action)
        };
        assert_eq!(by, [GroupKey::Team, GroupKey::Model]);
        assert_eq!((since, bucket, tenant.as_str()), ("1h".parse().expect("a length"), None, ""));
    }
}
