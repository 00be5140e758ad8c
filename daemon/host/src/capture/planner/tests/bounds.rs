//! Full tables: who goes, who is refused, and that what matters still happens.

use super::*;

/// Processes that connect somewhere and end at once.
fn short_lived(world: &mut World, pids: std::ops::Range<u32>, ms: u64) {
    for pid in pids {
        world.play(ms, connect(ms, pid, u64::from(pid), 5_432));
        world.play(ms, closed(ms, pid, u64::from(pid), 10, true));
        world.play(ms, exit(pid));
    }
}

fn full() -> std::ops::Range<u32> {
    let count = u32::try_from(processes::PROCESSES_MAX).expect("small");
    1_000..1_000 + count
}

#[test]
fn short_lived_processes_keep_nobody_from_being_armed() {
    let mut world = world();
    short_lived(&mut world, full(), 100);
    world.until(150).lines.clear();
    call(&mut world, 7, 200, Some(220));
    world.check(
        &["lost", "armed", "flow"],
        &["lost processes_evicted_ended", "armed after 7", "flow 7 openai captured"],
    );
    // Without connections to tell the end of they are forgotten soon, and nobody goes early.
    world.until(20_000).lines.clear();
    short_lived(&mut world, full(), 30_000);
    assert_eq!(world.count("lost"), 1, "{:#?}", world.lines);
}

#[test]
fn the_end_of_a_connection_is_told_after_the_end_of_its_process() {
    let mut world = world();
    world.at(100, lookup(100, 7, true)).at(120, connect(120, 7, 1, 443)).at(121, named(121, 7, 1));
    world.at(125, content(7, 1, 121, Direction::Sent, true)).at(130, exit(7));
    world.at(60_000, closed(60_000, 7, 1, 2_000, true));
    world.check(&["flow"], &["flow 7 openai captured"]);
}

#[test]
fn living_processes_of_no_use_make_room_and_wanted_ones_stay() {
    let mut world = world();
    for pid in full() {
        world.play(100, connect(100, pid, u64::from(pid), 5_432));
    }
    world.until(200).check(&["lost"], &[]);
    world.lines.clear();
    world.at(200, lookup(200, 7, false)).until(300).check(&["armed"], &["armed after 7"]);
    // Those seen longest ago, so many that the next ones find room at once.
    assert_eq!(world.count("lost processes_evicted_idle"), processes::PROCESSES_MAX / 16);
    world.lines.clear();
    world.at(300, lookup(300, 8, false)).until(350).check(&["lost", "armed"], &["armed after 7"]);
    // Everybody is wanted: a newcomer is refused, and that is counted.
    for pid in full() {
        world.play(360, lookup(360, pid, false));
    }
    world.until(399).lines.clear();
    world.at(400, lookup(400, 9, false)).until(500);
    world.check(&["lost", "armed"], &["lost processes_full"]);
}

#[test]
fn a_full_table_of_connections_keeps_nobody_from_being_armed() {
    let mut world = world();
    for socket in 1..=FLOWS_MAX as u64 {
        world.play(100, connect(100, 8, socket, 5_432));
    }
    world.until(150).check(&["lost"], &[]);
    // An address that is used again takes the place of its former connection.
    world.at(200, connect(200, 8, 5, 5_432)).check(&["lost"], &[]);
    world.lines.clear();
    world.at(300, lookup(300, 7, true)).at(310, connect(310, 7, 90_000, 443)).until(400);
    world.check(&["lost", "attach 7", "armed"], &["attach 7 2", "armed after 7", "lost flows_full"]);
    world.check_rows(&["7 api.openai.com captured armed=307 late=0"]);
}

#[test]
fn sessions_that_are_not_followed_are_closed_in_their_shards() {
    let mut world = world();
    // Of a process that is not known, or of another one with its number.
    world.at(100, content(7, 1, 90, Direction::Sent, true));
    world.at(110, freed(7, 2, 90, 500));
    let closes = ["verdict 1 MetadataOnly", "close 1 None", "close 2 Some(500)"];
    world.check(
        &["lost", "verdict", "close", "session"],
        &[&["lost sessions_orphaned"], &closes[..]].concat(),
    );
    world.lines.clear();

    // No room.
    world.at(200, lookup(200, 7, false)).until(300);
    for ssl in 0..SESSIONS_MAX as u64 {
        world.play(300, content(7, ssl, 300, Direction::Sent, true));
    }
    world.lines.clear();
    world.at(400, content(7, 1 << 20, 400, Direction::Sent, true));
    let expected = ["lost sessions_full", "verdict 1048576 MetadataOnly", "close 1048576 None"];
    world.check(&["lost", "verdict", "close", "session"], &expected);
    // Those of a process end with it.
    world.lines.clear();
    world.at(500, exit(7));
    assert_eq!(world.count("close"), SESSIONS_MAX);
}

#[test]
fn what_is_learnt_of_a_process_that_is_forgotten_makes_no_process() {
    let mut world = world();
    let host = HostEvidence { host: AI.into(), identified_by: IdentifiedBy::HostHeader };
    world.at(100, Event::HostSeen(process_key(7, task(7).start_ns), host));
    world.check_rows(&[]);
    assert!(world.planner.processes.is_empty());
}
