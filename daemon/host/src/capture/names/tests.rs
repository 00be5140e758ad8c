//! Hellos made by rustls, answers made by hickory, cut and joined in every way.

use std::str::FromStr;

use hickory_proto::op::{OpCode, Query};
use hickory_proto::rr::{Name, Record, RecordType, rdata};
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use zerocopy::FromZeros;

use super::*;

/// A time.
const AT: Moment = Moment(1_000_000_000);

fn config() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions");
    Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// What a client sends first.
pub(in crate::capture) fn hello(host: &'static str) -> Vec<u8> {
    let name = ServerName::try_from(host).expect("a name");
    let mut client = ClientConnection::new(config(), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory");
    bytes
}

/// A client's first datagrams.
pub(in crate::capture) fn initials(host: &'static str, version: Version, piece_len: usize) -> Vec<Vec<u8>> {
    let name = ServerName::try_from(host).expect("a name");
    let mut tls13 = (*config()).clone();
    tls13.alpn_protocols = vec![b"h3".to_vec()];
    let mut client =
        rustls::quic::ClientConnection::new(Arc::new(tls13), version, name, vec![0]).expect("a client");
    let mut handshake = Vec::new();
    client.write_hs(&mut handshake);
    let pieces = handshake.chunks(piece_len).enumerate();
    pieces
        .map(|(index, piece)| datagram(version, u8::try_from(index).expect("few"), index * piece_len, piece))
        .collect()
}

fn datagram(version: Version, number: u8, offset: usize, crypto: &[u8]) -> Vec<u8> {
    let destination = [7; 8];
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("TLS 1.3");
    let keys = Keys::initial(version, suite, suite.quic.expect("QUIC"), &destination, Side::Client);
    let short = |value: usize| (0x4000 | u16::try_from(value).expect("short")).to_be_bytes();
    // PING, then CRYPTO, then padding.
    let mut payload = vec![1, 6];
    payload.extend(short(offset));
    payload.extend(short(crypto.len()));
    payload.extend_from_slice(crypto);
    payload.resize(payload.len().max(1_100), 0);
    let (first, wire) = match version {
        Version::V2 => (0xd0, 0x6b33_43cf_u32),
        _ => (0xc0, 1),
    };
    let mut packet = vec![first];
    packet.extend(wire.to_be_bytes());
    packet.push(8);
    packet.extend(destination);
    packet.extend([0, 0]);
    packet.extend(short(1 + payload.len() + 16));
    let number_at = packet.len();
    packet.push(number);
    let tag = keys.local.packet.encrypt_in_place(u64::from(number), &packet, &mut payload).expect("a key");
    packet.extend(payload);
    packet.extend(tag.as_ref());
    let (head, rest) = packet.split_at_mut(number_at);
    let sample = rest[4..20].to_vec();
    keys.local.header.encrypt_in_place(&sample, &mut head[0], &mut rest[..1]).expect("a key");
    packet
}

fn packet(kind: PacketKind, port: u16, data: &[u8]) -> Packet {
    let mut packet = Packet::new_zeroed();
    packet.packet_kind = kind.wire();
    packet.tuple.local_port = port;
    packet.data_len = u32::try_from(data.len()).expect("short");
    packet.data[..data.len()].copy_from_slice(data);
    packet
}

fn found(host: &str, quic: bool) -> Result<Found, Unparsed> {
    Ok(Found::Hello { host: host.into(), quic })
}

#[test]
fn the_name_of_a_hello_is_found_however_it_is_cut() {
    let bytes = hello("API.openai.com");
    for cut in 0..=bytes.len() {
        let mut assembler = Assembler::default();
        let first = assembler.packet(&packet(PacketKind::ClientHello, 1, &bytes[..cut]), AT);
        if first != found("api.openai.com", false) {
            assert_eq!(first, Ok(Found::More), "cut at {cut}");
            let second = assembler.packet(&packet(PacketKind::HelloRest, 1, &bytes[cut..]), AT);
            assert_eq!(second, found("api.openai.com", false), "cut at {cut}");
        }
        assert!(assembler.pending.is_empty());
    }
}

#[test]
fn hellos_of_two_connections_are_not_mixed() {
    let (one, two) = (hello("one.example"), hello("two.example"));
    let mut assembler = Assembler::default();
    let mut feed = |kind, port, data: &[u8]| assembler.packet(&packet(kind, port, data), AT);
    assert_eq!(feed(PacketKind::ClientHello, 1, &one[..60]), Ok(Found::More));
    assert_eq!(feed(PacketKind::ClientHello, 2, &two[..60]), Ok(Found::More));
    assert_eq!(feed(PacketKind::HelloRest, 2, &two[60..]), found("two.example", false));
    assert_eq!(feed(PacketKind::HelloRest, 1, &one[60..]), found("one.example", false));
    // What follows a hello that named its host already, or was never seen, is of no interest.
    assert_eq!(feed(PacketKind::HelloRest, 1, &one[60..]), Ok(Found::Nothing));
}

#[test]
fn a_first_piece_that_is_sent_again_begins_anew() {
    let bytes = hello("one.example");
    let mut assembler = Assembler::default();
    let mut feed = |kind, data: &[u8]| assembler.packet(&packet(kind, 1, data), AT);
    assert_eq!(feed(PacketKind::ClientHello, &bytes[..60]), Ok(Found::More));
    assert_eq!(feed(PacketKind::ClientHello, &bytes[..60]), Ok(Found::More));
    assert_eq!(feed(PacketKind::HelloRest, &bytes[60..]), found("one.example", false));
}

#[test]
fn a_hello_whose_rest_never_comes_is_given_up_and_counted() {
    let bytes = hello("one.example");
    let mut assembler = Assembler::default();
    let first = |assembler: &mut Assembler, port, at| {
        assembler.packet(&packet(PacketKind::ClientHello, port, &bytes[..60]), at)
    };
    assert_eq!(first(&mut assembler, 1, AT), Ok(Found::More));
    assert_eq!(first(&mut assembler, 2, Moment(AT.0 + PENDING_NS)), Ok(Found::More));
    assert_eq!((assembler.take_given_up(), assembler.take_given_up()), (1, 0));
    for port in 3..=u16::try_from(PENDING_MAX).expect("few") + 3 {
        let _ = first(&mut assembler, port, Moment(AT.0 + PENDING_NS));
    }
    assert_eq!((assembler.take_given_up(), assembler.pending.len()), (2, PENDING_MAX));
}

#[test]
fn a_hello_without_a_name_and_no_hello_at_all_are_told_apart() {
    assert_eq!(sni_of_stream(&hello("127.0.0.1")), Ok(Sni::Absent));
    let check = |bytes: &[u8], expected: Result<Sni, Unparsed>| assert_eq!(sni_of_stream(bytes), expected);
    check(b"", Ok(Sni::More));
    check(b"GET / HTTP/1.1\r\n\r\n", Err(Unparsed));
    check(&[22, 3, 1, 0, 4, 2, 0, 0, 0], Err(Unparsed));
    check(&[22, 3, 1, 0, 4, 1, 0, 0, 200], Ok(Sni::More));
}

#[test]
fn quic_initials_of_both_versions_name_their_host_in_any_order() {
    for version in [Version::V1, Version::V2] {
        let datagrams = initials("api.anthropic.com", version, 4_000);
        let mut assembler = Assembler::default();
        assert_eq!(datagrams.len(), 1);
        let data = &datagrams[0][..datagrams[0].len().min(abi::event::PACKET_MAX)];
        if data.len() == datagrams[0].len() {
            assert_eq!(
                assembler.packet(&packet(PacketKind::QuicInitial, 1, data), AT),
                found("api.anthropic.com", true)
            );
        }
        let datagrams = initials("api.anthropic.com", version, 900);
        let mut seen = Vec::new();
        for datagram in datagrams.iter().rev() {
            seen.push(assembler.packet(&packet(PacketKind::QuicInitial, 2, datagram), AT));
        }
        assert!(seen.contains(&found("api.anthropic.com", true)), "{seen:?}");
    }
    assert_eq!(quic_crypto(&[0xc0; 40]), Err(Unparsed));
}

#[test]
fn dns_answers_give_the_name_asked_for_and_its_addresses() {
    let asked = Name::from_str("API.OpenAI.com.").expect("a name");
    let alias = Name::from_str("edge.example.net.").expect("a name");
    let mut message = Message::response(1, OpCode::Query);
    message.queries.push(Query::query(asked.clone(), RecordType::A));
    message.answers.push(Record::from_rdata(asked, 60, RData::CNAME(rdata::CNAME(alias.clone()))));
    message.answers.push(Record::from_rdata(alias.clone(), 60, RData::A(rdata::A::new(10, 0, 0, 1))));
    message.answers.push(Record::from_rdata(
        alias,
        60,
        RData::AAAA(rdata::AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ));
    let bytes = message.to_vec().expect("a message");
    let mapped = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
    let v6 = std::net::Ipv6Addr::from_str("2001:db8::1").expect("an address").octets();
    let expected = Found::Answer { name: "api.openai.com".into(), addresses: vec![mapped, v6] };
    assert_eq!(dns_answer(&bytes), Ok(expected));
    message.answers.clear();
    assert_eq!(dns_answer(&message.to_vec().expect("a message")), Ok(Found::Nothing));
    assert_eq!(dns_answer(b"short"), Err(Unparsed));
}

proptest! {
    #[test]
    fn any_bytes_are_read(data in proptest::collection::vec(any::<u8>(), 0..1500), kind in 0_u32..5) {
        let mut packet = packet(PacketKind::ClientHello, 1, &data);
        packet.packet_kind = kind;
        let mut assembler = Assembler::default();
        for _ in 0..3 {
            let _ = assembler.packet(&packet, AT);
        }
        prop_assert!(assembler.pending.iter().map(|pending| pending.bytes).sum::<usize>() <= HELLO_BYTES_MAX);
        packet.data_len = u32::MAX;
        prop_assert_eq!(assembler.packet(&packet, AT), Err(Unparsed));
    }

    #[test]
    fn a_damaged_hello_is_read(at in 0_usize..200, with in any::<u8>()) {
        let mut bytes = hello("api.openai.com");
        let index = at % bytes.len();
        bytes[index] = with;
        let _ = sni_of_stream(&bytes);
        let _ = sni_of_handshake(bytes.get(5..).unwrap_or_default());
    }

    #[test]
    fn a_damaged_initial_is_read(at in 0_usize..1200, with in any::<u8>()) {
        let mut datagram = initials("api.openai.com", Version::V1, 900).remove(0);
        let index = at % datagram.len();
        datagram[index] = with;
        let _ = quic_crypto(&datagram);
    }
}
