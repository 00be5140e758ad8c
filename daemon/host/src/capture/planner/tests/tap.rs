//! When a tap is open, and what it teaches.

use super::*;

#[test]
fn a_tap_is_open_only_while_a_name_is_missing() {
    let v4 = "Iface\n eth0 00000000 00000000 0003 0 0 0 00000000 0 0 0\n";
    let mut world = world();
    world.at(1, Event::Routes(Routes::parse(v4, "", &|_| Some(2))));
    // Named by its lookup, or to another port: no tap. (A lookup itself opens one for datagrams: see there.)
    world.at(90, lookup(90, 7, true)).until(3_000).lines.clear();
    world.at(3_100, lookup(3_100, 7, true)).at(3_101, connect(3_101, 7, 1, 443));
    world.at(3_102, connect(3_102, 8, 2, 5_432)).check(&["tap"], &[]);
    world.at(3_200, connect(3_200, 8, 3, 443)).at(3_300, connect(3_300, 8, 4, 443)).until(5_250);
    world.check(&["tap"], &["tap open 2"]);
    world.until(5_400).check(&["tap"], &["tap open 2", "tap close 2"]);
    let state = world.planner.tap_state(Moment(5_400 * MS));
    assert_eq!((state.open_now, state.opened), (0, 2));
    // 2.01 s of the first, 2.11 s of the second, of 5.4 s.
    assert!((740_000..800_000).contains(&state.open_ppm), "{state:?}");
}

#[test]
fn a_known_destination_of_an_armed_process_needs_no_tap() {
    let v4 = "Iface\n eth0 00000000 00000000 0003 0 0 0 00000000 0 0 0\n";
    let mut world = world();
    world.at(1, Event::Routes(Routes::parse(v4, "", &|_| Some(2))));
    let bytes = crate::capture::names::tests::hello(AI);
    let hello = packet(105, event::PacketKind::ClientHello, tuple(443), &bytes);
    // The first connection is named on the wire, which arms the process; the second by its TLS call.
    world.at(100, connect(100, 7, 1, 443)).at(105, hello).until(200);
    world.check(&["tap", "attach 7"], &["tap open 2", "attach 7 2"]);
    world.until(3_000).lines.clear();
    world.at(3_100, connect(3_100, 7, 2, 443)).until(3_200).check(&["tap"], &[]);
}

/// A provider at addresses of its own.
const UNSHARED: &str = "api.moonshot.ai";

/// A world in which nobody's TLS library is one that we read, and everything is reached by one interface.
fn unreadable() -> World {
    let v4 = "Iface\n eth0 00000000 00000000 0003 0 0 0 00000000 0 0 0\n";
    let mut world = world();
    world.mapped = vec![mapping(PYTHON, "python3")];
    world.at(1, Event::Routes(Routes::parse(v4, "", &|_| Some(2))));
    assert!(world.planner.start_tap(Moment(0)).is_empty());
    world
}

/// A connection of process 7 from `ms` on; 5 ms later an open tap sees its ClientHello, unless it is lost.
fn connection(world: &mut World, ms: u64, host: Option<&'static str>) {
    world.at(ms, connect(ms, 7, ms, 443)).until(ms + 5);
    if let Some(host) = host.filter(|_| world.planner.tap.is_open()) {
        let bytes = crate::capture::names::tests::hello(host);
        world.at(ms + 5, packet(ms + 5, event::PacketKind::ClientHello, tuple(443), &bytes));
    }
    world.at(ms + 50, closed(ms + 50, 7, ms, 2_000, true));
}

#[test]
fn a_connection_is_named_by_what_a_tap_showed_before() {
    let check = |hosts: &[&'static str], last: Option<&'static str>, expected: &[&str]| {
        let mut world = unreadable();
        for (ms, host) in (1_000..).step_by(10_000).zip(hosts) {
            connection(&mut world, ms, Some(host));
        }
        world.until(60_000).lines.clear();
        connection(&mut world, 60_100, last);
        world.until(70_000).check(&["tap", "flow"], expected);
    };
    let named = |provider| format!("flow 7 {provider} dark(unknown_tls_library)");
    let moonshot = named("moonshot");
    check(&[UNSHARED], None, &[&moonshot]);
    check(&[UNSHARED, UNSHARED], None, &[&moonshot]);
    // An address that others have, too, by the directory or by what was seen there, names nothing: the connection's own
    // ClientHello does, and for nothing else the tap is open.
    let asked = ["tap open 2", "tap close 2"];
    let openai = named("openai");
    check(&[AI], Some(AI), &[asked[0], asked[1], &openai]);
    check(&[AI], None, &asked);
    check(&[AI], Some("www.example.org"), &asked);
    check(&[UNSHARED, "www.example.org"], None, &[&moonshot]);
    check(&[UNSHARED, "api.moonshot.cn"], None, &[&moonshot]);
}

#[test]
fn a_tap_for_a_known_destination_closes_with_its_answer() {
    let mut world = unreadable();
    connection(&mut world, 1_000, Some(AI));
    let open = |world: &World, ms: u64| {
        let state = world.planner.tap_state(Moment(ms * MS));
        state.open_ppm * ms / 1_000_000
    };
    world.until(10_000);
    let first = open(&world, 10_000);
    assert!((2_000..2_020).contains(&first), "two quiet seconds: {first} ms");
    connection(&mut world, 10_100, Some(AI));
    world.until(20_000);
    // Until the ClientHello, and what the kernel takes to close it.
    assert!((10..25).contains(&(open(&world, 20_000) - first)), "{} ms", open(&world, 20_000) - first);
}

#[test]
fn another_name_at_a_known_address_is_seen_if_a_tap_is_open() {
    let mut world = unreadable();
    connection(&mut world, 1_000, Some(UNSHARED));
    world.until(10_000).lines.clear();
    // Another destination opens a tap, which sees what the cached name hides.
    let mut elsewhere = tuple(443);
    elsewhere.remote[15] = 9;
    let connect_elsewhere = |ms: u64| {
        kernel(KernelEvent::Connect(event::Connect {
            head: head(ms),
            task: task(7),
            socket: ms,
            tuple: elsewhere,
        }))
    };
    world.at(10_000, connect_elsewhere(10_000));
    connection(&mut world, 10_100, Some("www.example.org"));
    world.check(&["flow"], &[]);
    // From now on the address is one of several names.
    world.until(20_000).lines.clear();
    connection(&mut world, 20_100, Some(UNSHARED));
    world
        .check(&["tap", "flow"], &["tap open 2", "tap close 2", "flow 7 moonshot dark(unknown_tls_library)"]);
}
