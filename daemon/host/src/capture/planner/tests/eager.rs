//! `capture.scope = "eager"`: every process with a TLS library is armed, whoever it talks to.

use super::*;

#[test]
fn processes_are_armed_at_start_at_exec_and_when_they_map_a_library() {
    let mut world = world_of(Scope::Eager);
    let key = process_key(7, task(7).start_ns);
    let mappings = world.mapped.clone();
    world.at(1, Event::FoundImage(Image { process: key, executable: Some(PYTHON), mappings })).until(50);
    world.check(&["attach 7", "armed"], &["attach 7 2", "armed after 7"]);

    // The next process of the executable is armed without looking, before it has mapped anything.
    world.at(100, exec(100, 8)).until(150);
    world.check(&["maps", "attach 8"], &["attach 8 2"]);

    // One of another executable is looked at until it has mapped a library.
    world.mapped.retain(|mapping| mapping.file != LIBSSL);
    let mut other = task(9);
    other.exe_ino = 77;
    world.at(200, kernel(KernelEvent::Exec(event::Exec { head: head(200), task: other }))).until(210);
    world.check(&["attach 9"], &[]);
    world.mapped.push(mapping(LIBSSL, "libssl.so.3"));
    world.until(300).check(&["attach 9"], &["attach 9 2"]);

    // Nobody is let go after a minute, and who talks to no provider has no coverage to tell of.
    world.until(200_000).check(&["detach"], &[]);
    world.check_rows(&[]);
    world.at(200_001, exit(8)).until(201_100);
    assert_eq!(world.count("detach"), 1);
}

#[test]
fn a_first_call_is_captured_and_a_child_is_armed() {
    let mut world = world_of(Scope::Eager);
    world.at(100, exec(100, 7)).at(200, fork(200, 7, 8)).until(300);
    world.check(&["attach 8"], &["attach 8 2"]);
    call(&mut world, 7, 300, Some(301));
    world.check(&["missed", "flow"], &["flow 7 openai captured"]);
    world.check_rows(&["7 api.openai.com captured armed=107 late=0"]);
}

#[test]
fn executables_that_never_load_a_library_are_soon_left_alone() {
    let mut world = world_of(Scope::Eager);
    world.mapped = vec![mapping(LIBC, "libc.so.6"), mapping(PYTHON, "true")];
    for pid in 10..60 {
        let ms = u64::from(pid) * 100;
        world.at(ms, exec(ms, pid)).at(ms + 50, exit(pid));
    }
    assert!(world.count("maps") < 20, "{}", world.count("maps"));
    assert_eq!(world.count("attach 1"), 0);
}

#[test]
fn on_demand_arms_none_of_them() {
    let mut world = world();
    let key = process_key(7, task(7).start_ns);
    let mappings = world.mapped.clone();
    world.at(1, Event::FoundImage(Image { process: key, executable: Some(PYTHON), mappings }));
    world.at(100, exec(100, 8)).until(300).check(&["attach 7", "attach 8"], &[]);
}
