//! Attacks on a catalogue: each is refused.

use ed25519_dalek::Signer;
use proptest::prelude::*;

use super::tests::{ISSUED, PROVIDERS, catalogue, key, key_id, sign, text, verify};
use super::{Catalogue, CatalogueError, CatalogueSource};

#[test]
fn every_changed_byte_is_refused() {
    let public = Catalogue::release_key().unwrap();
    let bytes = include_bytes!("../../data/catalogue.json").to_vec();
    let signature = super::hex(include_str!("../../data/catalogue.sig")).unwrap();
    let verify = |bytes: &[u8], signature: &[u8], key: &[u8]| {
        Catalogue::verify(bytes, signature, key, CatalogueSource::Cached, None).map(|_| ())
    };
    assert_eq!(verify(&bytes, &signature, &public), Ok(()));
    // A sample of positions all over; every bit would take minutes without optimisation.
    for at in (0..bytes.len()).step_by(bytes.len() / 12).chain([0, bytes.len() - 1]) {
        for bit in [0, 3, 7] {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert_eq!(
                verify(&changed, &signature, &public),
                Err(CatalogueError::BadSignature),
                "byte {at} bit {bit}"
            );
        }
    }
    let small = text("7", "").into_bytes();
    let (signature, public) = (sign(&small), key().verifying_key().to_bytes());
    for bit in (0..small.len() * 8).step_by(11) {
        let mut changed = small.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verify(&changed, &signature, &public), Err(CatalogueError::BadSignature), "bit {bit}");
    }
    for bit in (0..512).step_by(3) {
        let mut changed = signature;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            verify(&small, &changed, &public),
            Err(CatalogueError::BadSignature),
            "signature bit {bit}"
        );
    }
    for length in [0, 63, 65] {
        assert_eq!(verify(&small, &vec![0; length], &public), Err(CatalogueError::BadSignature));
    }
    assert_eq!(verify(&small, &signature, &public[..31]), Err(CatalogueError::BadKey));
    // A key of small order verifies anything in a lenient verifier.
    let mut weak = [0; 32];
    weak[0] = 1;
    let mut forged = [0; 64];
    forged[0] = 1;
    assert!(verify(&small, &forged, &weak).is_err());
    // A signature over the bare bytes is for something else.
    let bare = key().sign(&small).to_bytes();
    assert_eq!(verify(&small, &bare, &public), Err(CatalogueError::BadSignature));
    assert_eq!(verify(&small[..small.len() - 1], &signature, &public), Err(CatalogueError::BadSignature));
    let huge = vec![b' '; Catalogue::BYTES_MAX + 1];
    assert_eq!(verify(&huge, &signature, &public), Err(CatalogueError::TooLarge { bytes: huge.len() }));
}

#[test]
fn older_and_other_catalogues_are_refused() {
    let current = catalogue().trusted();
    assert_eq!(current.version, 7);
    let with = |version: &str, providers: &str| {
        verify(text(version, providers).as_bytes(), Some(current)).map(|_| ())
    };
    assert_eq!(with("6", PROVIDERS), Err(CatalogueError::Rollback { offered: 6, current: 7 }));
    assert_eq!(with("1", ""), Err(CatalogueError::Rollback { offered: 1, current: 7 }));
    assert_eq!(with("7", ""), Err(CatalogueError::Equivocation { version: 7 }));
    assert_eq!(with("7", PROVIDERS), Ok(()));
    assert_eq!(with("8", ""), Ok(()));
    assert_eq!(with("18446744073709551615", ""), Ok(()));
    assert!(matches!(with("18446744073709551616", ""), Err(CatalogueError::Malformed(_))));
    let other_key = text("8", "").replace(&key_id(), "0011223344556677");
    assert!(matches!(verify(other_key.as_bytes(), None), Err(CatalogueError::WrongKey { .. })));
}

#[test]
fn signed_nonsense_is_refused() {
    let with = |from: &str, to: &str| {
        let whole = text("7", PROVIDERS);
        assert!(whole.contains(from), "{from}");
        verify(whole.replacen(from, to, 1).as_bytes(), None).map(|_| ())
    };
    for (from, to) in [
        ("\"format\":1", "\"format\":1,\"format\":1"),
        ("\"format\":1", "\"format\":2"),
        ("\"role\":\"prices\"", "\"role\":\"release\""),
        ("\"version\":7", "\"version\":7,\"version\":8"),
        ("\"version\":7", "\"version\":0"),
        ("\"version\":7", "\"version\":7.0"),
        ("\"version\":7", "\"version\":-7"),
        ("\"version\":7", "\"version\":\"7\""),
        ("\"input\":2500000", "\"input\":2500000,\"input\":1"),
        ("\"input\":2500000", "\"input\":-1"),
        ("\"input\":2500000", "\"input\":-0"),
        ("\"input\":2500000", "\"input\":2.5"),
        ("\"input\":2500000", "\"input\":25e5"),
        ("\"input\":2500000", "\"input\":1e308"),
        ("\"input\":2500000", "\"input\":NaN"),
        ("\"input\":2500000", "\"input\":Infinity"),
        ("\"input\":2500000", "\"input\":18446744073709551616"),
        ("\"input\":2500000", "\"input\":1000000000000001"),
        ("\"input\":2500000", "\"surprise\":1"),
        ("\"tokens\":272000", "\"tokens\":-272000"),
        ("\"provider\":\"anthropic\"", "\"provider\":\"openai\""),
        ("{\"exact\":\"gpt-x-plain\"}", "{\"exact\":\"gpt-x\"}"),
        ("{\"exact\":\"gpt-x\"}", "{}"),
        ("{\"exact\":\"gpt-x\"}", "{\"prefix\":\"\"}"),
        ("{\"exact\":\"gpt-x\"}", "{\"exact\":\"gpt-x\",\"then\":\"date\"}"),
        ("\"sources\":[0]", "\"sources\":[1]"),
        ("\"confidence\":\"confirmed\"", "\"confidence\":\"maybe\""),
        ("\"to\":1700000000", "\"from\":1700000000,\"to\":1700000000"),
        ("[82800,3600]", "[82800,86401]"),
        ("\"expires_at\":", "\"expires_at\":1,\"x\":"),
    ] {
        assert!(matches!(with(from, to), Err(CatalogueError::Malformed(_))), "{to}");
    }
    for bytes in [&b""[..], b"null", b"[]", b"{}", b"\xff\xfe", b"{\"format\":1}"] {
        assert!(matches!(verify(bytes, None), Err(CatalogueError::Malformed(_))));
    }
    let trailing = text("7", "") + "x";
    assert!(matches!(verify(trailing.as_bytes(), None), Err(CatalogueError::Malformed(_))));
    let deep = text("7", &"[".repeat(100_000));
    assert!(matches!(verify(deep.as_bytes(), None), Err(CatalogueError::Malformed(_))));
    let late = text("7", "").replace(&ISSUED.to_string(), "18446744073").replace("1800086400", "18446744074");
    assert!(matches!(verify(late.as_bytes(), None), Err(CatalogueError::Malformed(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(crate::pricing::format::parse(&bytes).is_err());
    }
}
