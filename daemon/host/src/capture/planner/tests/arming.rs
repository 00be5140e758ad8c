//! Who is armed, when, and when the probes go again.

use super::*;

#[test]
fn the_next_process_of_an_executable_is_armed_at_exec_without_looking() {
    let mut world = world();
    call(&mut world, 7, 100, Some(120));
    world.lines.clear();
    world.at(1_000, exec(1_000, 8));
    world.check(&["attach"], &["attach 8 2"]);
    world.until(1_007).check(&["armed"], &["armed after 7"]);
    call(&mut world, 8, 1_020, Some(1_030));
    world.check(&["missed", "flow"], &["flow 8 openai captured"]);
    // It earned its probes: nothing is detached after the probation.
    world.until(100_000).check(&["detach"], &[]);
    world.at(100_001, exit(8)).until(101_002).check(&["detach"], &["detach 4"]);
}

#[test]
fn detaching_from_the_dead_holds_up_no_attach() {
    let mut world = world();
    call(&mut world, 7, 100, Some(120));
    world.lines.clear();
    // The next one begins as soon as one has ended.
    world.at(1_000, exit(7)).at(1_001, exec(1_001, 8)).at(1_900, exit(8)).at(1_901, exec(1_901, 9));
    world.until(2_850).check(&["attach", "detach"], &["attach 8 2", "attach 9 2"]);
    world.until(4_000).check(&["detach"], &["detach 2", "detach 4"]);
    // Where that never ends, a few at a time go after ten seconds, and as many as come when too many wait.
    let detached = |world: &mut World, from: u64, pids: std::ops::Range<u32>, every: u64| {
        world.lines.clear();
        for pid in pids.clone() {
            let ms = from + u64::from(pid - pids.start) * every;
            world.at(ms, exec(ms, pid)).at(ms + every / 2, exit(pid));
        }
        world.count("detach")
    };
    assert_eq!(detached(&mut world, 10_000, 10..30, 500), 0);
    assert!((10..=12).contains(&detached(&mut world, 20_000, 30..42, 500)), "{:?}", world.lines);
    let many = detached(&mut world, 26_000, 100..500, 20);
    assert!((160..200).contains(&many), "{many}");
    world.until(60_000);
    assert_eq!(world.planner.leaving.len(), 0);
}

#[test]
fn a_process_that_ended_too_soon_still_teaches_what_its_executable_uses() {
    let mut world = world();
    world.planner.handle(lookup(100, 7, false), Moment(100 * MS));
    world.planner.handle(Event::Maps(7, Ok(world.mapped.clone())), Moment(101 * MS));
    world.planner.handle(exit(7), Moment(102 * MS));
    let file = world.opened(&mapping(LIBSSL, "libssl.so.3"));
    world.at(150, Event::Library(LIBSSL, Ok(file))).at(200, exec(200, 8));
    world.check(&["attach"], &["attach all 2", "attach 8 2"]);
}

#[test]
fn a_process_armed_on_suspicion_is_let_go_after_a_minute() {
    let mut world = world();
    call(&mut world, 7, 100, Some(120));
    world.at(1_000, exec(1_000, 8)).lines.clear();
    world.at(2_000, connect(2_000, 8, 5, 6_379)).until(62_000);
    world.check(&["detach"], &["detach 4"]);
    world.at(70_000, lookup(70_000, 8, false)).until(70_007);
    world.check(&["attach", "armed"], &["armed after 7", "attach 8 2", "armed after 7"]);
}

#[test]
fn a_process_that_shows_other_sessions_is_let_go_until_it_calls_a_provider() {
    let check = |shown: &[u32], called: bool, expected: &[&str]| {
        let mut world = world();
        call(&mut world, 7, 100, Some(120));
        world.at(1_000, exec(1_000, 8)).until(1_100);
        if called {
            world.at(1_100, lookup(1_100, 8, false));
        }
        world.lines.clear();
        for (ms, calls) in (2_000..).zip(shown) {
            world.at(ms, other(8, *calls));
        }
        // Suspicion does not arm it again, and a provider's name does.
        world.at(3_000, connect(3_000, 8, 5, 443)).until(3_500).lines.push("now it calls".into());
        world.at(4_000, lookup(4_000, 8, false)).until(100_000);
        world.check(&["attach 8", "detach", "now"], expected);
    };
    check(&[1; 7], false, &["now it calls"]);
    check(&[1; 8], false, &["detach 4", "now it calls", "attach 8 2"]);
    check(&[1, event::OTHER_CALLS], false, &["detach 4", "now it calls", "attach 8 2"]);
    check(&[event::OTHER_CALLS; 9], true, &["now it calls"]);
}

#[test]
fn a_child_is_let_go_by_what_it_shows_and_not_by_time() {
    let mut world = world();
    world.at(100, lookup(100, 7, false)).until(200).lines.clear();
    world.at(200, fork(200, 7, 8)).until(100_000).check(&["attach 8", "detach"], &["attach 8 2"]);
    world.at(100_001, other(7, event::OTHER_CALLS)).at(100_002, other(8, event::OTHER_CALLS));
    world.check(&["detach"], &["detach 4"]);
}

#[test]
fn children_of_a_wanted_process_are_armed_unless_they_replace_their_program() {
    let mut world = world();
    world.at(100, lookup(100, 7, false)).until(200).lines.clear();
    world.at(200, fork(200, 7, 8)).at(200, fork(200, 7, 9));
    let mut other = task(9);
    other.exe_ino = 99;
    world.at(205, kernel(KernelEvent::Exec(event::Exec { head: head(205), task: other })));
    world.until(219).check(&["attach"], &[]);
    world.until(300).check(&["attach 8"], &["attach 8 2"]);
}

#[test]
fn a_library_that_is_mapped_later_is_found_by_looking_again() {
    let mut world = world();
    world.mapped = vec![mapping(LIBC, "libc.so.6"), mapping(PYTHON, "python3")];
    world.at(100, lookup(100, 7, false)).until(102);
    world.check_rows(&[]);
    world.mapped.push(mapping(LIBSSL, "libssl.so.3"));
    world
        .until(120)
        .check(&["maps", "attach 7", "armed"], &["maps 7", "maps 7", "attach 7 2", "armed after 10"]);
}

#[test]
fn a_refusal_is_told() {
    let mut world = world();
    world.attach_refused = Some(Refused::Denied);
    call(&mut world, 7, 100, None);
    world.check(
        &["missed", "flow", "armed"],
        &["missed 7 api.openai.com tls_hostname_call", "flow 7 openai metadata_only(late_attach)"],
    );
    world.check_rows(&["7 api.openai.com dark(attach_refused) armed=- late=1"]);
}

#[test]
fn switched_off_attaches_nothing_and_says_so() {
    let mut world = world_of(Scope::Off);
    call(&mut world, 7, 100, None);
    world.check(&["attach", "maps", "missed", "flow"], &["flow 7 openai dark(switched_off)"]);
    world.check_rows(&["7 api.openai.com dark(switched_off) armed=- late=0"]);
}

#[test]
fn a_number_used_again_is_another_process() {
    let mut world = world();
    world.at(100, lookup(100, 7, false)).until(120);
    let mut again = task(7);
    again.start_ns += 5_000_000_000;
    let connect = event::Connect { head: head(130), task: again, socket: 1, tuple: tuple(5_432) };
    world.at(130, kernel(KernelEvent::Connect(connect)));
    // Attached for the old one, answered after its end: let go at once. What it had goes in a quiet moment.
    let process = Some(process_key(7, task(7).start_ns));
    let late = Event::Attached { process, file: LIBSSL, number: 20, result: Ok(77) };
    world.at(140, late).check(&["detach"], &["detach 77"]);
    world.until(1_200).check(&["detach"], &["detach 77", "detach 2"]);
}

#[test]
fn what_was_there_before_us_is_armed_on_probation_and_recorded_at_the_end() {
    let key = process_key(7, task(7).start_ns);
    let check = |speaks: bool, expected: &[&str]| {
        let mut world = world();
        let image = Image { process: key, executable: Some(PYTHON), mappings: world.mapped.clone() };
        let connection = Connection { process: key, executable: Some(PYTHON), tuple: tuple(443) };
        world.at(1, Event::FoundImage(image)).at(1, Event::FoundConnection(connection)).until(100);
        if speaks {
            let host = HostEvidence { host: AI.into(), identified_by: IdentifiedBy::HostHeader };
            world.at(200, Event::HostSeen(key, host));
        }
        world.until(70_000).at(80_000, Event::Stop);
        world.check(&["attach 7", "detach", "flow", "missed"], expected);
    };
    check(true, &["attach 7 2", "flow 7 openai captured"]);
    check(false, &["attach 7 2", "detach 3"]);
}
