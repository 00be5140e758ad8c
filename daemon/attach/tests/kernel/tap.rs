//! The tap sees packets while it is open, delivers none, and is gone when it is closed; what it hands out and counts is
//! what was sent, over a real link, whatever the headers before it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};

use abi::attacher::{Descriptor, Refusal, Verb};
use abi::control::{DatagramKey, DatagramState};
use abi::counter::Counter;
use abi::event::{Kind, Packet, PacketKind, Tuple};
use aya::maps::{HashMap, Map, PerCpuArray};
use zerocopy::FromBytes;

use crate::frames::{self, Frame, Link};
use crate::harness::{Attacher, can_run, read_until, request};

const LOOPBACK: u64 = 1;

#[test]
fn a_tap_counts_packets_until_it_is_closed() {
    if !can_run("a_tap_counts_packets_until_it_is_closed") {
        return;
    }
    let mut attacher = Attacher::armed(&["--allow-loopback-tap"]);
    let tap = |verb| tap(verb, LOOPBACK);
    let send = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.send_to(b"x", "127.0.0.1:9").expect("send");
    };

    send();
    assert_eq!(count(&attacher, Counter::TapPackets), 0, "nothing is seen without a tap");
    attacher.done(tap(Verb::TapOpen));
    let (again, _) = attacher.ask(tap(Verb::TapOpen));
    assert_eq!(again.refusal, Refusal::NotAllowed.wire(), "one tap per interface");
    send();
    assert!(count(&attacher, Counter::TapPackets) > 0, "the tap sees what is sent");
    assert_eq!(queued(attacher.child.id()), 0, "the socket itself delivers nothing");
    attacher.done(tap(Verb::TapClose));
    let closed = count(&attacher, Counter::TapPackets);
    send();
    assert_eq!(count(&attacher, Counter::TapPackets), closed, "nothing is seen any more");
    attacher.done(tap(Verb::TapOpen));
}

#[test]
fn a_hello_that_spans_segments_is_handed_out_whole() {
    if !can_run("a_hello_that_spans_segments_is_handed_out_whole") {
        return;
    }
    let Some(link) = Link::new("whole") else { return };
    let mut attacher = Attacher::armed(&[]);
    attacher.done(tap(Verb::TapOpen, link.ifindex));
    let mut ring = attacher.ring(Descriptor::Events);
    for family in ["IPv4", "IPv6"] {
        let far = link.far(family);
        let listener = link.inside(move || TcpListener::bind(far).expect("listen"));
        // Bytes of the record, bytes of each write: several segments, one that the tap sees joined, many small ones.
        for (len, piece) in [(517, 517), (1_700, 100), (1_700, 1_400), (6_000, 6_000), (12_000, 3_000)] {
            let hello = frames::client_hello(len);
            let mut client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
            let (mut server, _) = listener.accept().expect("accept");
            client.set_nodelay(true).expect("no delay");
            let drained = std::thread::spawn(move || std::io::copy(&mut server, &mut std::io::sink()));
            for part in hello.chunks(piece) {
                client.write_all(part).expect("write");
            }
            client.write_all(&[0x17, 3, 3, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]).expect("what follows");
            let port = client.local_addr().expect("address").port();
            drop(client);
            let mut seen = Vec::new();
            let whole = read_until(&mut ring, |record| {
                if let Some(packet) = packet_of(record, port) {
                    let first = packet.packet_kind == PacketKind::ClientHello.wire();
                    assert_eq!(first, seen.is_empty(), "{family} {len} by {piece}: the order of pieces");
                    seen.extend_from_slice(&packet.data[..packet.data_len as usize]);
                }
                seen.len() >= hello.len()
            });
            assert!(whole && seen == hello, "{family} {len} by {piece}: {} bytes seen", seen.len());
            drained.join().expect("server").expect("drained");
        }
    }
    for lost in [Counter::LostHelloSplit, Counter::LostPacketTruncated, Counter::LostEventsRingFull] {
        assert_eq!(count(&attacher, lost), 0, "{lost:?}");
    }
}

#[test]
fn datagrams_of_a_quic_connection_are_counted_behind_every_kind_of_header() {
    if !can_run("datagrams_of_a_quic_connection_are_counted_behind_every_kind_of_header") {
        return;
    }
    let Some(link) = Link::new("count") else { return };
    let mut attacher = Attacher::armed(&[]);
    attacher.done(tap(Verb::TapOpen, link.ifindex));
    let mut ring = attacher.ring(Descriptor::Events);
    let datagrams = Map::HashMap(attacher.map(Descriptor::Datagrams));
    let datagrams =
        HashMap::<_, [u8; size_of::<DatagramKey>()], [u8; size_of::<DatagramState>()]>::try_from(datagrams);
    let datagrams = datagrams.expect("the table");
    let counted = |port: u16| {
        let read = |(key, state): ([u8; size_of::<DatagramKey>()], [u8; size_of::<DatagramState>()])| {
            let key = DatagramKey::read_from_bytes(&key).expect("a key");
            let state = DatagramState::read_from_bytes(&state).expect("a state");
            (key.tuple.local_port == port).then_some((state.sent, state.received))
        };
        datagrams.iter().flatten().find_map(read)
    };
    let initial = frames::quic_initial(1_200);
    let mut port = 40_000;
    let mut expected = BTreeMap::new();
    for frame in Frame::ALL {
        port += 1;
        link.send(&frame.of(port, 443, &initial));
        link.send(&frame.of(port, 443, &[0x40; 100]));
        link.send(&frame.of(port, 443, &[0x40; 3]));
        // The answer begins with an Initial, too: it is counted, and not taken for a new connection.
        link.send(&frame.back().of(443, port, &initial));
        link.send(&frame.back().of(443, port, &[0x40; 55]));
        expected.insert(port, (frame, (1_303, 1_255)));
    }
    // A last one says that everything before it was seen.
    link.send(&Frame::ALL[0].of(50_000, 443, &initial));
    let mut handed_out: BTreeMap<u16, u32> = BTreeMap::new();
    assert!(read_until(&mut ring, |record| {
        if let Some(packet) = packet_of(record, 0)
            && packet.packet_kind == PacketKind::QuicInitial.wire()
        {
            assert_eq!(&packet.data[..packet.data_len as usize], initial, "port {}", packet.tuple.local_port);
            *handed_out.entry(packet.tuple.local_port).or_default() += 1;
        }
        handed_out.contains_key(&50_000)
    }));
    for (port, (frame, bytes)) in expected {
        assert_eq!(counted(port), Some(bytes), "{frame:?}");
        assert_eq!(handed_out.get(&port), Some(&1), "{frame:?}");
    }
    assert!(!handed_out.contains_key(&443), "an answer is no connection");
}

#[test]
fn what_has_no_ports_or_too_many_headers_is_counted_as_lost() {
    if !can_run("what_has_no_ports_or_too_many_headers_is_counted_as_lost") {
        return;
    }
    let Some(link) = Link::new("lost") else { return };
    let mut attacher = Attacher::armed(&[]);
    attacher.done(tap(Verb::TapOpen, link.ifindex));
    let initial = frames::quic_initial(1_200);
    let check = |frame: &[u8], expected: (u64, u64)| {
        let lost = [Counter::LostFragments, Counter::LostHeadersTooMany];
        let before = lost.map(|counter| count(&attacher, counter));
        let seen = count(&attacher, Counter::TapPackets);
        link.send(frame);
        // A raw frame passes the taps before the call that sends it returns.
        assert!(count(&attacher, Counter::TapPackets) > seen);
        let after = lost.map(|counter| count(&attacher, counter));
        assert_eq!((after[0] - before[0], after[1] - before[1]), expected);
    };
    check(&Frame::LATER_FRAGMENT_V4.of(1, 443, &initial), (1, 0));
    check(&Frame::LATER_FRAGMENT_V6.of(1, 443, &initial), (1, 0));
    check(&Frame::SEVEN_EXTENSIONS.of(1, 443, &initial), (0, 1));
    check(&Frame::ALL[0].of(1, 443, &initial), (0, 0));
}

/// A request for the tap of an interface.
fn tap(verb: Verb, ifindex: u64) -> abi::attacher::Request {
    let mut request = request(verb);
    request.value = ifindex;
    request
}

fn count(attacher: &Attacher, counter: Counter) -> u64 {
    let counters = Map::PerCpuArray(attacher.map(Descriptor::Counters));
    let counters = PerCpuArray::<_, u64>::try_from(counters).expect("counters");
    counters.get(&(counter as u32), 0).expect("counter").iter().sum()
}

/// The packet in a record, if it was sent from `port` (0: from any).
fn packet_of(record: &[u8], port: u16) -> Option<Packet> {
    let (packet, _) = Packet::read_from_prefix(record).ok()?;
    let Tuple { local_port, .. } = packet.tuple;
    (packet.head.kind == Kind::Packet.wire() && (port == 0 || local_port == port)).then_some(packet)
}

/// Bytes that wait in packet sockets of a process (`Rmem` of `/proc/net/packet`, matched by inode).
fn queued(pid: u32) -> u64 {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let own: Vec<String> = links
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/packet").expect("packet sockets");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours: Vec<u64> = rows
        .filter(|row| row.last().is_some_and(|inode| own.iter().any(|known| known == inode)))
        .map(|row| row[6].parse().expect("Rmem"))
        .collect();
    assert!(!ours.is_empty(), "the tap is a packet socket of the attacher");
    ours.into_iter().sum()
}
