//! The table of good and bad configurations, and the example held against the code.

use super::{Config, EXAMPLE, parse};

/// `expected` lines must all appear as beginnings of problems, and there must be no others.
fn check_refused(text: &str, expected: &[&str]) {
    let problems = parse(text).expect_err("the configuration is refused");
    for beginning in expected {
        assert!(
            problems.iter().any(|problem| problem.starts_with(beginning)),
            "{beginning:?} not in {problems:#?}"
        );
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn mistakes_are_reported_with_path_and_allowed_values() {
    for (text, expected) in [
        (
            "[capture]\nscope = \"all\"",
            &["capture.scope: \"all\" is not one of \"on_demand\", \"eager\", \"off\""] as &[&str],
        ),
        ("[capture]\ntap = 3", &["capture.tap: must be a string, is a whole number"]),
        ("[capture]\nevents_ring_mib = 3", &["capture.events_ring_mib: 3 is not a power of two"]),
        ("[capture]\ncontent_ring_mib = 1024", &["capture.content_ring_mib: 1024 is outside 1 to 512"]),
        ("[capture]\ncontent_ring_mib = -1", &["capture.content_ring_mib: -1 is outside 1 to 512"]),
        (
            "[capture]\nloopback_gateways = [\"10.0.0.1:80\"]",
            &["capture.loopback_gateways: \"10.0.0.1:80\" is not on"],
        ),
        (
            "[capture]\nloopback_gateways = [\"localhost\"]",
            &["capture.loopback_gateways: \"localhost\" is not an"],
        ),
        ("capture = 1", &["capture: must be a table [capture], is a whole number"]),
        ("[capturing]", &["capturing: is unknown; allowed here: \"capture\", \"provider\""]),
        ("[attribution]\nconfidence_cap = 0.96", &["attribution.confidence_cap: is above 0.95"]),
        ("[attribution]\nconfidence_cap = 2", &["attribution.confidence_cap: 2 is outside 0 to 1"]),
        ("[attribution]\ntrusted_labels = [1]", &["attribution.trusted_labels[0]: 1 is not allowed"]),
        ("[[tenant]]\nname = \"A\"", &["tenant[0].name: \"A\" must be"]),
        ("[[tenant]]\nname = \"unassigned\"", &["tenant[0].name: \"unassigned\" is reserved"]),
        ("[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"a\"", &["tenant[1].name: \"a\" is named twice"]),
        (
            "[[tenant]]\nname = \"a\"\n[[tenant.grant]]\nrole = \"reader\"",
            &["tenant[0].grant[0].uids: a grant must name"],
        ),
        (
            "[[tenant]]\nname = \"a\"\n[[tenant.grant]]\nuids = [-1]",
            &["tenant[0].grant[0].uids[0]: -1 is not allowed", "tenant[0].grant[0].uids: a grant must name"],
        ),
        ("[[provider]]\nhosts = [\"a.example\"]", &["provider[0].name: is required"]),
        (
            "[[provider]]\nname = \"gw\"\nhosts = [\"a.example\"]\n[[provider.path]]\noperation = \"chat\"",
            &["provider[0].path[0].path: is required"],
        ),
        (
            "[[provider]]\nname = \"gw\"\nhosts = [\"a.example\"]\ndialect = \"x\"\n[[provider.path]]\n\
             path = \"ask\"\noperation = \"talk\"",
            &[
                "provider: provider \"gw\": dialect \"x\" is not built",
                "provider: provider \"gw\": operation \"talk\" is not known",
                "provider: provider \"gw\": path \"ask\": must begin with",
            ],
        ),
        ("[[owner]]\nteam = \"a\"", &["owner[0].match: must name at least one condition"]),
        (
            "[[owner]]\nmatch = { pod = \"x\" }",
            &["owner[0].match.pod: is unknown", "owner[0].match: must name"],
        ),
        (
            "[[owner]]\ntenant = \"b\"\nmatch = { user = \"x\" }",
            &["owner[0].tenant: \"b\" has no [[tenant]] table"],
        ),
        ("[store]\nrecords_days = 0", &["store.records_days: 0 is outside 1 to 3650"]),
        (
            "[store]\nrecords_days = 9\nrollups_days = 8",
            &["store.rollups_days: 8 is less than records_days (9)"],
        ),
        (
            "[store]\nrecords_days = 9\n[[tenant]]\nname = \"a\"\nretention = { rollups_days = 8 }",
            &["tenant[0].retention.rollups_days: 8 is less than records_days (9)"],
        ),
        ("[serve]\nsocket = \"run.sock\"", &["serve.socket: must be an absolute path"]),
        (
            "[log]\nlevel = \"loud\"\nformat = \"xml\"",
            &[
                "log.level: \"loud\" is not one of \"error\"",
                "log.format: \"xml\" is not one of \"text\", \"json\"",
            ],
        ),
        ("[log\n", &["not valid TOML: TOML parse error at line 1"]),
    ] {
        check_refused(text, expected);
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    check_refused(
        "colour = 1\n[capture]\nscope = 1\nnope = 2\n[[owner]]\nwhat = 3\n[attribution]\nconfidence_cap = 0.99\n",
        &[
            "capture.scope:",
            "capture.nope:",
            "attribution.confidence_cap:",
            "owner[0].match:",
            "owner[0].what:",
            "colour:",
        ],
    );
}

#[test]
fn nothing_configured_is_valid() {
    let config = parse("").expect("an empty file is valid");
    assert_eq!(config, Config::default());
    assert_eq!(config.tenant_names().len(), 1);
    assert_eq!(config.tenant_names()[0].as_str(), "default");
}

#[test]
fn a_second_tenant_brings_the_sealed_store() {
    let config = parse("[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"b\"\n").expect("valid");
    let names: Vec<String> = config.tenant_names().iter().map(|name| name.as_str().to_owned()).collect();
    assert_eq!(names, ["a", "b", "unassigned"]);
}

#[test]
fn a_tenant_keeps_what_the_node_keeps_unless_it_says_otherwise() {
    let config = parse(
        "[store]\nrecords_days = 500\nrecords_mib = 7\n[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"b\"\n\
         [tenant.retention]\nrecords_days = 2\n",
    )
    .expect("valid");
    let days = |retention: &store::Retention| {
        let days = |age: std::time::Duration| age.as_secs() / 86_400;
        (days(retention.records_age), days(retention.rollups_age), retention.records_bytes_max >> 20)
    };
    assert_eq!(days(&config.store.retention), (500, 500, 7));
    assert_eq!(days(&config.tenants[0].retention), (500, 500, 7));
    assert_eq!(days(&config.tenants[1].retention), (2, 500, 7));
}

#[test]
fn the_example_states_the_defaults() {
    let mut config = parse(EXAMPLE).expect("the example is valid");
    assert_eq!(config.serve.socket.take().as_deref(), Some(std::path::Path::new(crate::DEFAULT_SOCKET)));
    assert_eq!(config, Config::default());
}

#[test]
fn the_example_shows_every_key() {
    // A comment is followed by a space, a commented-out key is not.
    let all: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        })
        .fold(String::new(), |all, line| all + line + "\n");
    let config = parse(&all).unwrap_or_else(|problems| panic!("the full example is valid: {problems:#?}"));
    assert_eq!(config.tenants.len(), 1);
    assert_eq!(config.owners.rules.len(), 2);
    assert_eq!(config.providers.len(), 1);
    assert_eq!(config.providers[0].paths.len(), 1);
    // An unknown key makes each table name its allowed keys: all of them must be in the example.
    let probe = "zz = 1\n[capture]\nzz = 1\n[attribution]\nzz = 1\n[store]\nzz = 1\n[serve]\nzz = 1\n[log]\nzz = 1\n\
                 [[provider]]\nzz = 1\n[[provider.path]]\nzz = 1\n[[tenant]]\nzz = 1\n[tenant.retention]\nzz = 1\n[[tenant.grant]]\nzz = 1\n[[owner]]\nzz = 1\nmatch = { zz = 1 }";
    let problems = parse(probe).expect_err("unknown keys are refused");
    let unknown: Vec<&String> =
        problems.iter().filter(|problem| problem.contains("zz: is unknown")).collect();
    assert_eq!(unknown.len(), 13, "{problems:#?}");
    for problem in unknown {
        for key in problem.split('"').skip(1).step_by(2) {
            assert!(EXAMPLE.contains(key), "{key} is missing in the example: {problem}");
        }
    }
}
