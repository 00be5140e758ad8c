//! The tap sees packets while it is open, delivers none, and is gone when it is closed.

use std::net::UdpSocket;

use abi::attacher::{Descriptor, Refusal, Verb};
use abi::counter::Counter;
use aya::maps::{Map, PerCpuArray};

use crate::harness::{Attacher, can_run, request};

const LOOPBACK: u64 = 1;

#[test]
fn a_tap_counts_packets_until_it_is_closed() {
    if !can_run("a_tap_counts_packets_until_it_is_closed") {
        return;
    }
    let mut attacher = Attacher::armed(&["--allow-loopback-tap"]);
    let counters = Map::PerCpuArray(attacher.map(Descriptor::Counters));
    let counters = PerCpuArray::<_, u64>::try_from(counters).expect("counters");
    let packets = || counters.get(&(Counter::TapPackets as u32), 0).expect("counter").iter().sum::<u64>();
    let tap = |verb| {
        let mut request = request(verb);
        request.value = LOOPBACK;
        request
    };
    let send = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.send_to(b"x", "127.0.0.1:9").expect("send");
    };

    send();
    assert_eq!(packets(), 0, "nothing is seen without a tap");
    attacher.done(tap(Verb::TapOpen));
    let (again, _) = attacher.ask(tap(Verb::TapOpen));
    assert_eq!(again.refusal, Refusal::NotAllowed.wire(), "one tap per interface");
    send();
    assert!(packets() > 0, "the tap sees what is sent");
    assert_eq!(queued(attacher.child.id()), 0, "the socket itself delivers nothing");
    attacher.done(tap(Verb::TapClose));
    let closed = packets();
    send();
    assert_eq!(packets(), closed, "nothing is seen any more");
    attacher.done(tap(Verb::TapOpen));
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
