//! Entry points of what stands around the meter: the kernel's records, packets, files of other processes, the
//! configuration, and what the store reads back.

use std::io::{Seek, SeekFrom, Write};

use abi::event::{Packet, PacketKind};
use host::capture::names::{Assembler, HELLO_BYTES_MAX, Sni, dns_answer, quic_crypto, sni_of_stream};
use host::capture::{elf, event, image};
use meter::time::Moment;
use rustls::Side;
use rustls::quic::{Keys, Version};
use zerocopy::FromZeros;

/// A name, which is also that of its folder in the corpus, and what is attacked.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("ring", ring),
    ("hello", hello),
    ("quic", quic),
    ("dns", dns),
    ("packets", packets),
    ("maps", maps),
    ("elf", elf_file),
    ("config", config),
    ("replay", replay),
    ("stored", stored),
];

/// Records of both rings.
pub fn ring(data: &[u8]) {
    if let Ok(known) = event::parse(data) {
        let _ = known.ends_something();
    }
    if let Ok(chunk) = event::parse_chunk(data) {
        assert!(chunk.payload.len() < data.len());
        let _ = event::starts_a_request(chunk.payload);
    }
    if let [len, name @ ..] = data
        && let Some(name) = event::host_name(name, u32::from(*len))
    {
        assert!(!name.is_empty() && name.is_ascii() && name.len() <= usize::from(*len));
    }
}

/// A ClientHello in TLS records: more bytes never take back a name.
pub fn hello(data: &[u8]) {
    let whole = sni_of_stream(data);
    for end in [data.len() / 4, data.len() / 2, data.len().saturating_sub(1)] {
        if let Ok(Sni::Name(name)) = sni_of_stream(data.get(..end).unwrap_or_default())
            && let Ok(Sni::Name(later)) = &whole
        {
            assert_eq!(name, *later);
        }
    }
}

/// Frames inside a QUIC Initial that deciphers, and the bytes as a datagram of their own.
pub fn quic(data: &[u8]) {
    let _ = quic_crypto(data);
    let payload = data.get(..data.len().min(1_300)).unwrap_or_default();
    let Some(datagram) = initial(payload) else { return };
    let pieces = quic_crypto(&datagram).unwrap_or_else(|_| panic!("what was enciphered does not decipher"));
    let bytes: usize = pieces.iter().map(|(_, piece)| piece.len()).sum();
    assert!(bytes <= payload.len().max(20));
    assert!(pieces.iter().all(|(offset, _)| *offset < HELLO_BYTES_MAX));
}

/// `payload` in an Initial packet of version 1.
fn initial(payload: &[u8]) -> Option<Vec<u8>> {
    let destination = [7; 8];
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
    let keys = Keys::initial(Version::V1, suite, suite.quic?, &destination, Side::Client);
    // Short payloads leave no sample for the protection of the head.
    let mut payload = payload.to_vec();
    payload.resize(payload.len().max(20), 0);
    let length = u16::try_from(1 + payload.len() + 16).ok()? | 0x4000;
    let mut packet = vec![0xc0, 0, 0, 0, 1, 8];
    packet.extend_from_slice(&destination);
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(&length.to_be_bytes());
    let number_at = packet.len();
    packet.push(0);
    let tag = keys.local.packet.encrypt_in_place(0, &packet, &mut payload).ok()?;
    packet.extend_from_slice(&payload);
    packet.extend_from_slice(tag.as_ref());
    let (head, rest) = packet.split_at_mut(number_at);
    let sample = rest.get(4..20)?.to_vec();
    keys.local.header.encrypt_in_place(&sample, head.first_mut()?, rest.get_mut(..1)?).ok()?;
    Some(packet)
}

/// A DNS answer.
pub fn dns(data: &[u8]) {
    let _ = dns_answer(data);
}

/// Packets of taps in any order and of any kind, as the kernel hands them over: what waits for its rest is bounded.
pub fn packets(data: &[u8]) {
    const KINDS: [PacketKind; 3] = [PacketKind::ClientHello, PacketKind::QuicInitial, PacketKind::DnsAnswer];
    let (mut assembler, mut rest, mut now) = (Assembler::default(), data, 0);
    while let [kind, port, len, after @ ..] = rest {
        let mut packet = Packet::new_zeroed();
        let (bytes, later) = after.split_at((usize::from(*len) * 4).min(after.len()).min(packet.data.len()));
        rest = later;
        packet.packet_kind = KINDS.get(usize::from(*kind) % 4).map_or(77, |kind| kind.wire());
        packet.tuple.local_port = u16::from(*port);
        packet.data_len = u32::try_from(bytes.len()).unwrap_or(0) + u32::from(kind & 0x80) * 16;
        packet.data.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        now += 20_000_000;
        let _ = assembler.packet(&packet, Moment(now));
    }
}

/// Lines of `/proc/PID/maps`, names in which the other process chose.
pub fn maps(data: &[u8]) {
    for mapping in image::parse_maps(&String::from_utf8_lossy(data)) {
        let _ = mapping.likelihood();
    }
}

/// An ELF file that another process controls.
pub fn elf_file(data: &[u8]) {
    thread_local! {
        static FILE: std::fs::File = tempfile::tempfile().unwrap_or_else(|error| panic!("{error}"));
    }
    FILE.with(|file| {
        let mut file = file.try_clone().unwrap_or_else(|error| panic!("{error}"));
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.set_len(0))
            .and_then(|()| file.write_all(data))
            .unwrap_or_else(|error| panic!("{error}"));
        if let Ok(anatomy) = elf::dissect(&file) {
            assert!(anatomy.once.len() + anatomy.transfer.len() <= 64);
        }
    });
}

/// The configuration: sound, or everything that is wrong with it, and then its owners and providers are compiled.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match host::config::parse(text) {
        Ok(config) => {
            assert!(!config.tenant_names().is_empty());
            let mut directory = meter::directory::Directory::builtin();
            assert!(directory.extend(&config.providers).is_ok(), "checked providers are taken");
        }
        Err(wrong) => assert!(!wrong.is_empty()),
    }
}

/// A recorded capture.
pub fn replay(data: &[u8]) {
    let _ = host::replay::Recording::parse(data);
}

/// A row of the store, deciphered: what is read is written and read again the same.
pub fn stored(data: &[u8]) {
    if let Some(once) = store::rewritten(data) {
        assert_eq!(store::rewritten(&once), Some(once));
    }
}
