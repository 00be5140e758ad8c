//! The life of files with hooks: written, used, unused, refused.

use super::*;

const HOUR_MS: u64 = 3_600_000;

fn attached(process: Option<ProcessKey>, number: u64, result: Result<u64, Refused>) -> Event {
    Event::Attached { process, file: LIBSSL, number, result }
}

#[test]
fn a_rewritten_library_is_opened_again_and_attached_once() {
    let mut world = world();
    world.at(100, lookup(100, 7, false)).until(500).lines.clear();
    // What is being let go cannot be opened yet; then it is another content, under another number.
    world.contents = 1;
    world.open_refusals = [Refused::Stale, Refused::Stale].into();
    world.at(1_000, Event::Rewritten(20)).at(1_000, Event::Rewritten(20)).until(5_000);
    world.check(&["attach", "detach", "armed", "lost"], &["attach all 2", "attach 7 2", "armed after 40"]);
    call(&mut world, 7, 6_000, Some(6_010));
    world.check(&["missed", "flow"], &["flow 7 openai captured"]);
}

#[test]
fn a_call_between_the_write_and_the_next_arming_is_late_and_no_silence() {
    let mut world = world();
    world.at(100, lookup(100, 7, false)).until(500);
    world.contents = 1;
    world.open_refusals = [Refused::Stale; 4].into();
    world.at(1_000, Event::Rewritten(20));
    call(&mut world, 7, 1_010, None);
    world.until(5_000).check(
        &["missed", "flow"],
        &["missed 7 api.openai.com tls_hostname_call", "flow 7 openai metadata_only(late_attach)"],
    );
    world.check_rows(&["7 api.openai.com captured armed=1020 late=1"]);
}

#[test]
fn a_write_that_only_a_refusal_tells_is_a_write_too() {
    let mut world = world();
    world.attach_refusals = [Refused::Stale].into();
    world.at(100, lookup(100, 7, false)).until(101).contents = 1;
    world.until(1_000);
    world.check(
        &["attach", "detach", "armed"],
        &["attach all 2", "attach 7 2", "attach all 1", "attach all 2", "attach 7 2", "armed after 27"],
    );
}

#[test]
fn answers_about_a_former_content_are_let_go() {
    let mut world = world();
    world.attach_ms = 100;
    world.at(100, lookup(100, 7, false)).until(101).contents = 1;
    let process = process_key(7, task(7).start_ns);
    world.at(110, Event::Rewritten(20)).at(115, attached(None, 20, Ok(71)));
    world.at(115, attached(Some(process), 20, Ok(72))).until(1_000);
    // Those of the script come as well: what they name belongs to nobody.
    world.check(&["detach"], &["detach 71", "detach 72", "detach 1", "detach 2"]);
    world.check(&["armed"], &["armed after 120"]);
}

#[test]
fn a_library_that_nobody_is_wanted_for_is_attached_again_all_the_same() {
    let mut world = world();
    world.at(100, connect(100, 7, 1, 5_432)).until(500).lines.clear();
    world.contents = 1;
    world.at(1_000, Event::Rewritten(20)).until(2_000);
    world.check(&["maps", "attach"], &["maps 7", "attach all 2"]);
}

#[test]
fn hooks_of_a_file_go_when_nobody_has_used_it_for_a_while() {
    let check = |other_lives: bool, expected: &[&str]| {
        let mut world = world();
        world.at(100, connect(100, 7, 1, 5_432)).at(110, connect(110, 8, 2, 5_432));
        world.at(200, closed(200, 7, 1, 10, true)).at(200, closed(200, 8, 2, 10, true)).at(300, exit(7));
        if !other_lives {
            world.at(300, exit(8));
        }
        world.until(300_000).check(&["detach"], &[]);
        world.until(HOUR_MS).check(&["detach"], expected);
        // It is found again by whoever comes next.
        world.lines.clear();
        world.at(HOUR_MS, lookup(HOUR_MS, 9, false)).until(HOUR_MS + 100);
        world.check(&["attach all"], if other_lives { &[] } else { &["attach all 2", "attach all 1"] });
        world.check(&["armed"], &["armed after 7"]);
    };
    check(true, &[]);
    check(false, &["detach 1", "detach 2"]);
}

#[test]
fn what_can_be_done_later_is_tried_again_for_a_while() {
    let check = |refused: Refused, lost: &[&str]| {
        let mut world = world();
        world.attach_refusals = [refused; 2].into();
        world.at(100, lookup(100, 7, false)).until(1_000);
        world.check(&["armed"], &["armed after 141"]);
        world.check(&["lost"], lost);
        world.check_rows(&[]);
    };
    check(Refused::Gone, &[]);
    check(Refused::Limit, &["lost attachments_full", "lost attachments_full"]);

    // And not for ever.
    let mut world = world();
    world.attach_refusals = [Refused::Limit; 1_000].into();
    world.at(100, lookup(100, 7, true)).at(101, connect(101, 7, 1, 443)).until(HOUR_MS);
    assert_eq!(world.count("attach 7"), 8, "{:#?}", world.lines);
    world.at(HOUR_MS, closed(HOUR_MS, 7, 1, 2_000, true));
    world.check_rows(&["7 api.openai.com dark(attach_refused) armed=- late=1"]);
}

#[test]
fn an_opening_that_was_refused_for_now_is_tried_again() {
    for refused in [Refused::Gone, Refused::Limit, Refused::Stale] {
        let mut world = world();
        world.open_refusals = [refused; 3].into();
        world.at(100, lookup(100, 7, false)).until(2_000);
        assert_eq!(world.count("armed"), 1, "{refused:?}: {:#?}", world.lines);
        assert_eq!(world.count("attach all 2"), 1, "{refused:?}: {:#?}", world.lines);
    }
}

#[test]
fn the_table_of_files_is_bounded_and_says_so() {
    const OF_EACH: u64 = 16;
    let mut world = world();
    let mut processes = 0..u32::MAX;
    // A process with files of its own, and of an executable of its own.
    let mut look = |world: &mut World, device: u64, name: &str| {
        let pid = 10 + processes.next().expect("enough");
        let inodes = u64::from(pid) * OF_EACH..(u64::from(pid) + 1) * OF_EACH;
        let mappings = inodes.map(|inode| mapping(FileKey { device, inode }, name)).collect();
        let process = process_key(pid, task(pid).start_ns);
        let executable = Some(FileKey { device: 9, inode: u64::from(pid) });
        world.at(100, Event::FoundImage(Image { process, executable, mappings })).until(100);
        pid
    };
    let enough = libraries::LIBRARIES_MAX as u64 / OF_EACH;
    for _ in 0..enough {
        look(&mut world, 3, "plain");
    }
    // Plain files make room; files with hooks that are used do not.
    let users: Vec<u32> = (0..enough).map(|_| look(&mut world, MANY_TLS, "libssl.so.3")).collect();
    world.check(&["lost"], &[]);
    world.until(200).lines.clear();
    world.mapped = vec![mapping(LIBSSL, "libssl.so.3")];
    world.at(500, lookup(500, 7, true)).at(501, connect(501, 7, 1, 443)).until(2_000);
    assert!(world.count("lost libraries_full") >= 1, "{:#?}", world.lines);
    world.check_rows(&["7 api.openai.com dark(attach_refused) armed=- late=0"]);
    // Those whose process is gone make room.
    world.lines.clear();
    world.at(3_000, exit(users[0])).until(20_000);
    assert_eq!(world.count("attach 7"), 1, "{:#?}", world.lines);
    assert_eq!(world.count("detach"), 16, "{:#?}", world.lines);
}
