//! QUIC connections: when a tap is open for them, whose they are, how they end.

use abi::control::{DatagramKey, DatagramState};

use super::*;

const ROUTES: &str = "Iface\n eth0 00000000 00000000 0003 0 0 0 00000000 0 0 0\n";

fn routed() -> World {
    let mut world = world();
    world.at(1, Event::Routes(Routes::parse(ROUTES, "", &|_| Some(IFINDEX))));
    world
}

fn datagram_tuple(port: u16) -> event::Tuple {
    let mut tuple = tuple(443);
    (tuple.local, tuple.local_port, tuple.protocol) = (REMOTE, port, 17);
    tuple
}

/// A client's first Initial, as rustls makes it.
fn initial(ms: u64, port: u16, host: &'static str) -> Event {
    let data = crate::capture::names::tests::initials(host, rustls::quic::Version::V1, 4_000).remove(0);
    packet(ms, event::PacketKind::QuicInitial, datagram_tuple(port), &data)
}

/// What the kernel has counted: port, first and last datagram, bytes sent and received.
fn counts(all: &[(u16, u64, u64, u64, u64)]) -> Event {
    let count = |&(port, first, last, sent, received): &(u16, u64, u64, u64, u64)| {
        let key = DatagramKey { tuple: datagram_tuple(port), ifindex: IFINDEX, reserved: 0 };
        (key, DatagramState { first_ns: first * MS, last_ns: last * MS, sent, received })
    };
    Event::Datagrams(all.iter().map(count).collect())
}

#[test]
fn a_connection_is_recorded_with_its_bytes_when_its_process_ends() {
    let mut world = routed();
    world.owner = Some(7);
    world.at(100, lookup(100, 7, true)).at(110, initial(110, 50_000, AI)).until(140);
    world.at(500, counts(&[(50_000, 110, 400, 9_000, 70_000)])).at(900, exit(7));
    world.check(&["flow"], &[]);
    world.at(1_000, counts(&[(50_000, 110, 880, 10_000, 80_000)]));
    world.check(
        &["owner", "flow", "forget"],
        &["owner", "forget datagrams 1", "flow 7 openai metadata_only(quic) 10000/80000"],
    );
    world.check_rows(&["7 api.openai.com metadata_only(quic) armed=107 late=0"]);
}

#[test]
fn a_connection_ends_at_its_last_datagram() {
    let mut world = routed();
    world.at(100, initial(100, 50_000, AI)).at(500, counts(&[(50_000, 100, 400, 1, 2)]));
    world.at(30_300, counts(&[(50_000, 100, 400, 1, 2)])).check(&["flow"], &[]);
    let mut ended = None;
    for command in world.planner.handle(counts(&[(50_000, 100, 400, 1, 2)]), Moment(30_401 * MS)) {
        if let Command::Flow { flow, started, .. } = command {
            ended = Some((flow.ended_at.expect("an end").0 / MS, started.0 / MS));
        }
    }
    assert_eq!(ended, Some((400, 100)));
}

#[test]
fn the_process_is_the_holder_of_the_socket_then_the_only_one_told_then_nobody() {
    let check = |owner: Option<u32>, told: &[u32], expected: &str| {
        let mut world = routed();
        world.owner = owner;
        for pid in told {
            world.at(100, lookup(100, *pid, true));
        }
        world.at(110, initial(110, 50_000, AI)).until(200).at(40_000, counts(&[(50_000, 110, 300, 1, 2)]));
        world.check(&["flow"], &[expected]);
    };
    check(Some(9), &[7], "flow 9 openai metadata_only(quic) 1/2");
    check(None, &[7], "flow 7 openai metadata_only(quic) 1/2");
    check(None, &[7, 8], "flow 0 openai metadata_only(quic) 1/2");
    check(None, &[], "flow 0 openai metadata_only(quic) 1/2");
}

#[test]
fn connections_to_others_are_not_recorded_and_hold_no_tap() {
    let mut world = routed();
    world.at(100, lookup(100, 7, true)).at(110, initial(110, 50_000, "www.example.org"));
    // An Initial that cannot be deciphered any more is no loss.
    let mut later = initial(120, 50_000, AI);
    if let Event::Kernel(KernelEvent::Packet(packet)) = &mut later {
        packet.data[6] ^= 1;
    }
    world.at(120, later);
    for seconds in 1..10 {
        world.at(seconds * 1_000, counts(&[(50_000, 110, seconds * 1_000, 1, 2)]));
    }
    world.until(10_000).check(&["tap", "flow", "owner", "lost"], &["tap open 2", "tap close 2"]);
    world.at(50_000, counts(&[(50_000, 110, 9_000, 1, 2)])).check(&["forget"], &["forget datagrams 1"]);
    assert!(!world.planner.follows_datagrams());
}

#[test]
fn a_tap_stays_open_as_long_as_a_connection_to_a_provider_moves() {
    let mut world = routed();
    world.at(100, lookup(100, 7, true)).at(110, initial(110, 50_000, AI));
    for seconds in 1..20 {
        world.at(seconds * 1_000, counts(&[(50_000, 110, seconds * 1_000, 1, 2)]));
    }
    world.check(&["tap"], &["tap open 2"]);
    for seconds in 20..60 {
        world.at(seconds * 1_000, counts(&[(50_000, 110, 19_000, 1, 2)]));
    }
    world.check(&["tap", "flow"], &["tap open 2", "flow 7 openai metadata_only(quic) 1/2", "tap close 2"]);
}

#[test]
fn one_that_lasts_too_long_is_lost_sight_of_without_bytes() {
    let mut world = routed();
    world.at(100, lookup(100, 7, true)).at(110, initial(110, 50_000, AI));
    for seconds in 1..700 {
        world.at(seconds * 1_000, counts(&[(50_000, 110, seconds * 1_000, 1, 2)]));
    }
    world.check(&["tap", "flow"], &["tap open 2", "flow 7 openai metadata_only(quic)", "tap close 2"]);
}

#[test]
fn at_the_end_of_the_daemon_an_open_connection_has_no_bytes() {
    let mut world = routed();
    world.at(100, initial(100, 50_000, AI)).at(500, counts(&[(50_000, 100, 400, 1, 2)]));
    world.at(600, Event::Stop).check(&["flow"], &["flow 0 openai metadata_only(quic)"]);
}

#[test]
fn an_executable_is_asked_less_and_less_whether_it_speaks_quic() {
    let mut world = routed();
    for minute in 0..600 {
        world.at(minute * 60_000 + 1_000, lookup(minute * 60_000 + 1_000, 7, true));
    }
    let opened = world.lines.iter().filter(|line| line.starts_with("tap open")).count();
    // After 0, 1, 3, 7, 15, 31, 63 minutes, then every hour.
    assert!((14..=16).contains(&opened), "{opened}");
    let quiet = world.planner.tap_state(Moment(600 * 60_000 * MS));
    assert!(quiet.open_ppm < 1_000, "{quiet:?}");
    // One that spoke is watched at each lookup.
    world.owner = Some(7);
    world.at(36_100_000, initial(36_100_000, 50_000, AI)).until(36_101_000).lines.clear();
    world.at(36_140_000, counts(&[(50_000, 36_100_000, 36_100_000, 1, 2)]));
    for second in (36_150..36_180).step_by(10) {
        world.at(second * 1_000, lookup(second * 1_000, 7, true));
    }
    world.until(36_190_000).lines.retain(|line| line.starts_with("tap open"));
    assert_eq!(world.lines.len(), 3);
}

#[test]
fn what_the_kernel_follows_and_nobody_knows_is_removed() {
    let mut world = routed();
    world.at(100, counts(&[(50_000, 90, 95, 1, 2)])).check(&["forget"], &[]);
    world.at(10_100, counts(&[(50_000, 90, 95, 1, 2)])).check(&["forget"], &["forget datagrams 1"]);
}
