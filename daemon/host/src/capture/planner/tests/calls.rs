//! Calls that are captured, missed, or neither; what sessions and connections say of them.

use super::*;

#[test]
fn a_lookup_arms_the_process_and_its_call_is_captured() {
    let mut world = world();
    call(&mut world, 7, 100, Some(120));
    world.check(
        &["maps", "attach", "armed", "session", "close", "flow", "missed"],
        &[
            "maps 7",
            "attach all 2",
            "attach 7 2",
            "attach all 1",
            "armed after 7",
            "session 7 api.openai.com late=false",
            "close 7 Some(1000)",
            "flow 7 openai captured",
        ],
    );
    world.check_rows(&["7 api.openai.com captured armed=107 late=0"]);
}

#[test]
fn a_call_before_arming_is_missed_exactly_once() {
    let mut world = world();
    world.attach_ms = 1_000;
    call(&mut world, 7, 100, None);
    world.until(5_000).at(5_001, exit(7));
    world.check(
        &["missed", "flow"],
        &["missed 7 api.openai.com tls_hostname_call", "flow 7 openai metadata_only(late_attach)"],
    );
    world.check_rows(&["7 api.openai.com captured armed=1100 late=1"]);
}

#[test]
fn a_call_of_a_process_that_ends_before_it_is_looked_at_is_missed_too() {
    let mut world = world();
    world.attach_ms = 1_000;
    world.at(100, lookup(100, 7, false)).at(100, lookup(100, 7, true)).at(101, connect(101, 7, 1, 443));
    world.at(102, exit(7)).at(110, closed(110, 7, 1, 2_000, true));
    // An address from a lookup arms and names nothing: the flow has a host and no provider.
    world.check(
        &["missed", "flow"],
        &["missed 7 api.openai.com getaddrinfo", "flow 7 - metadata_only(late_attach)"],
    );
    world.until(200_000);
    world.check(&["detach"], &["detach 2"]);
    world.check_rows(&["7 api.openai.com dark(gone) armed=- late=1"]);
}

#[test]
fn what_moved_no_request_is_not_missed() {
    let check = |sent: u64, established: bool, expected: &[&str]| {
        let mut world = world();
        world.attach_ms = 1_000;
        world.at(100, lookup(100, 7, true)).at(101, connect(101, 7, 1, 443));
        world.at(110, closed(110, 7, 1, sent, established));
        world.check(&["missed"], expected);
    };
    check(0, false, &[]);
    check(2_000, false, &[]);
    check(600, true, &[]);
    check(700, true, &["missed 7 api.openai.com getaddrinfo"]);
}

#[test]
fn a_session_joined_in_the_middle_is_left_to_the_pipeline() {
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(100, connect(100, 7, 1, 443)).at(101, named(101, 7, 1));
    world.at(120, content(7, 1, 101, Direction::Received, false));
    world.at(150, freed(7, 1, 101, 0)).at(160, closed(160, 7, 1, 2_000, true));
    world.check(
        &["missed", "session", "flow"],
        &["session 1 api.openai.com late=true", "flow 7 openai metadata_only(late_attach)"],
    );
}

#[test]
fn a_session_whose_first_calls_went_by_is_missed_if_its_connection_shows_more() {
    let check = |flow_sent: u64, expected: &[&str]| {
        let mut world = world();
        world.attach_ms = 30;
        world.at(100, lookup(100, 7, true)).at(100, connect(100, 7, 1, 443)).at(101, named(101, 7, 1));
        world.at(140, content(7, 1, 101, Direction::Sent, true));
        world.at(150, freed(7, 1, 101, 1_000)).at(160, closed(160, 7, 1, flow_sent, true));
        world.check(&["missed"], expected);
    };
    check(2_000, &[]);
    check(3_750, &[]);
    check(3_751, &["missed 7 api.openai.com tls_hostname_call"]);
}

#[test]
fn a_session_without_a_connection_is_judged_by_itself() {
    let check = |armed_first: bool, expected: &[&str]| {
        let mut world = world();
        world.attach_ms = if armed_first { 1 } else { 1_000 };
        world.at(100, lookup(100, 7, false)).at(150, named(150, 7, 1)).at(160, freed(7, 1, 150, 0));
        world.check(&["missed"], expected);
    };
    check(true, &[]);
    check(false, &["missed 7 api.openai.com tls_hostname_call"]);
}

#[test]
fn a_connection_to_a_shared_address_is_no_call_of_a_watched_process() {
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(120, connect(120, 7, 1, 443)).at(121, named(121, 7, 9));
    world.at(130, content(7, 9, 121, Direction::Sent, true)).at(140, connect(140, 7, 2, 443));
    world.at(150, closed(150, 7, 2, 5_000, true)).at(160, closed(160, 7, 1, 2_000, true));
    world.check(&["missed", "flow"], &["flow 7 openai captured"]);
}

#[test]
fn a_refused_connection_gives_its_session_to_the_next_one() {
    let mut world = world();
    world.attach_ms = 1_000;
    world.at(100, lookup(100, 7, true)).at(100, connect(100, 7, 1, 443)).at(101, named(101, 7, 9));
    world.at(102, closed(102, 7, 1, 0, false)).at(103, connect(103, 7, 2, 443));
    world.at(150, closed(150, 7, 2, 2_000, true)).at(151, freed(7, 9, 101, 0));
    world.check(&["missed"], &["missed 7 api.openai.com tls_hostname_call"]);
}

#[test]
fn a_process_without_a_known_library_is_dark_and_not_late() {
    let mut world = world();
    world.mapped = vec![mapping(LIBC, "libc.so.6"), mapping(PYTHON, "python3")];
    world
        .at(100, lookup(100, 7, true))
        .at(101, connect(101, 7, 1, 443))
        .at(150, closed(150, 7, 1, 2_000, true));
    world.check(&["missed", "flow"], &["flow 7 - dark(unknown_tls_library)"]);
    world.check_rows(&["7 api.openai.com dark(unknown_tls_library) armed=- late=0"]);
    // It is looked at a bounded number of times.
    world.until(1_000_000);
    let scans = world.lines.iter().filter(|line| line.starts_with("maps")).count();
    assert!((3..=12).contains(&scans), "{scans}");
}

#[test]
fn decisions_reach_the_kernel_and_coverage() {
    use meter::pipeline::SessionVerdict::{Capture, Ignore, MetadataOnly};
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(101, connect(101, 7, 1, 443)).at(102, named(102, 7, 1));
    world.at(120, content(7, 1, 102, Direction::Sent, true));
    let decide =
        |ssl, opened, verdict| Event::Decided(Decision { identity: identity(7, ssl, opened), verdict });
    world.at(121, decide(1, 102, MetadataOnly(Reason::NotHttp)));
    world.at(130, content(7, 2, 130, Direction::Sent, true)).at(131, decide(2, 130, Ignore));
    world.at(132, content(7, 3, 132, Direction::Sent, true)).at(133, decide(3, 132, Capture));
    world.check(
        &["verdict", "close"],
        &["verdict 1 MetadataOnly", "verdict 2 NotAi", "close 2 None", "verdict 3 Ai"],
    );
    world
        .at(150, closed(150, 7, 1, 2_000, true))
        .check(&["flow", "missed"], &["flow 7 openai metadata_only(not_http)"]);
    world.check_rows(&["7 api.openai.com metadata_only(not_http) armed=107 late=0"]);
}

#[test]
fn a_decision_that_comes_after_the_end_of_its_session_still_counts() {
    use meter::pipeline::SessionVerdict::MetadataOnly;
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(120, connect(120, 7, 1, 443)).at(121, named(121, 7, 9));
    world.at(130, content(7, 9, 121, Direction::Sent, true)).at(140, freed(7, 9, 121, 500)).at(141, exit(7));
    let verdict = MetadataOnly(Reason::NotHttp);
    world.at(142, Event::Decided(Decision { identity: identity(7, 9, 121), verdict }));
    world.at(150, closed(150, 7, 1, 2_000, true));
    world.check(&["verdict", "flow", "missed"], &["flow 7 openai metadata_only(not_http)"]);
    world.check_rows(&["7 api.openai.com metadata_only(not_http) armed=107 late=0"]);
}
