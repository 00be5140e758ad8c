//! Keys: a local wrapping key per tenant, the data key it wraps, and one sub-key per purpose.
//!
//! The wrapping key lives in a file of its own, bound to one store by the store's id. It wraps the data key; the wrapped
//! form lies beside the database with a commitment to the data key, because AES-GCM-SIV alone does not commit to its
//! key. Nothing is ever encrypted under the data key itself: HKDF gives one key per purpose.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{constant_time, hkdf, hmac, rand};
use zeroize::Zeroizing;

/// Bytes of every key: 256 bits.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes of a nonce of AES-256-GCM-SIV.
pub(crate) const NONCE_BYTES: usize = 12;
/// Bytes of a tag of AES-256-GCM-SIV.
pub(crate) const TAG_BYTES: usize = 16;

/// Identity of one store, random, made with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreId(pub(crate) [u8; 16]);

impl StoreId {
    pub(crate) fn new() -> Result<StoreId, Unspecified> {
        let mut id = [0; 16];
        rand::fill(&mut id)?;
        Ok(StoreId(id))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// 256 secret bits, wiped when dropped, never printed.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<[u8; KEY_BYTES]>);

impl Secret {
    pub(crate) fn new() -> Result<Secret, Unspecified> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut bytes[..])?;
        Ok(Secret(bytes))
    }

    fn from_slice(bytes: &[u8]) -> Option<Secret> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        (bytes.len() == KEY_BYTES).then(|| secret.copy_from_slice(bytes))?;
        Some(Secret(secret))
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The sub-key for `purpose` in the store `store`.
    pub(crate) fn derive(&self, store: StoreId, purpose: &'static str) -> Result<Secret, Unspecified> {
        struct Bits256;
        impl hkdf::KeyType for Bits256 {
            fn len(&self) -> usize {
                KEY_BYTES
            }
        }
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &store.0).extract(&self.0[..]);
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        secret.expand(&[b"venturi store v1 ", purpose.as_bytes()], Bits256)?.fill(&mut bytes[..])?;
        Ok(Secret(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A wrapping key as it lies in its file: magic, store id, key, CRC32C over all of it.
#[derive(Debug)]
pub(crate) struct WrappingKey {
    pub(crate) store: StoreId,
    pub(crate) key: Secret,
}

const FILE_MAGIC: &[u8; 8] = b"VNTRKEY1";
/// Bytes of a key file.
pub(crate) const FILE_BYTES: usize = FILE_MAGIC.len() + 16 + KEY_BYTES + 4;

impl WrappingKey {
    pub(crate) fn to_file(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES));
        bytes.extend_from_slice(FILE_MAGIC);
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(self.key.bytes());
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        bytes
    }

    pub(crate) fn from_file(bytes: &[u8]) -> Result<WrappingKey, &'static str> {
        if bytes.len() != FILE_BYTES {
            return Err("it has the wrong length: restore the file from its backup");
        }
        let (body, sum) = bytes.split_at(FILE_BYTES - 4);
        let (magic, rest) = body.split_at(FILE_MAGIC.len());
        if magic != FILE_MAGIC || crc32c::crc32c(body).to_be_bytes() != *sum {
            return Err("it is damaged or not a key file: restore the file from its backup");
        }
        let (store, key) = rest.split_at(16);
        let mut id = [0; 16];
        id.copy_from_slice(store);
        let key = Secret::from_slice(key).ok_or("it has the wrong length")?;
        Ok(WrappingKey { store: StoreId(id), key })
    }

    /// Wraps a data key for the file beside the database.
    pub(crate) fn wrap(&self, data_key: &Secret, bound_to: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let cipher = Cipher::new(&self.key.derive(self.store, "wrap")?)?;
        cipher.seal(bound_to, data_key.bytes())
    }

    pub(crate) fn unwrap(&self, wrapped: &[u8], bound_to: &[u8]) -> Result<Secret, Unspecified> {
        let cipher = Cipher::new(&self.key.derive(self.store, "wrap")?)?;
        let bytes = Zeroizing::new(cipher.open(bound_to, wrapped)?);
        Secret::from_slice(&bytes).ok_or(Unspecified)
    }
}

/// The value stored beside a wrapped data key and compared after unwrapping: two keys cannot share it.
pub(crate) fn commitment(data_key: &Secret, store: StoreId) -> Result<[u8; KEY_BYTES], Unspecified> {
    data_key.derive(store, "commit").map(|secret| *secret.bytes())
}

/// Compares in constant time.
pub(crate) fn same(left: &[u8], right: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(left, right).is_ok()
}

/// AES-256-GCM-SIV with a random nonce in front and the tag behind. The only cipher calls of the daemon's store.
pub(crate) struct Cipher(RandomizedNonceKey);

impl Cipher {
    pub(crate) fn new(key: &Secret) -> Result<Cipher, Unspecified> {
        RandomizedNonceKey::new(&AES_256_GCM_SIV, key.bytes()).map(Cipher)
    }

    /// nonce, ciphertext, tag.
    pub(crate) fn seal(&self, bound_to: &[u8], plain: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut out = vec![0; NONCE_BYTES];
        out.reserve(plain.len() + TAG_BYTES);
        let mut body = plain.to_vec();
        let (nonce, tag) = self.0.seal_in_place_separate_tag(Aad::from(bound_to), &mut body)?;
        out.copy_from_slice(nonce.as_ref());
        out.append(&mut body);
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    pub(crate) fn open(&self, bound_to: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let (nonce, body) = sealed.split_at_checked(NONCE_BYTES).ok_or(Unspecified)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce)?;
        let mut body = body.to_vec();
        let length = self.0.open_in_place(nonce, Aad::from(bound_to), &mut body)?.len();
        body.truncate(length);
        Ok(body)
    }
}

/// Keyed 128-bit names for rows, so that a name tells nothing about what it names.
pub(crate) struct Namer(hmac::Key);

impl Namer {
    pub(crate) fn new(key: &Secret) -> Namer {
        Namer(hmac::Key::new(hmac::HMAC_SHA256, key.bytes()))
    }

    pub(crate) fn name(&self, bytes: &[u8]) -> [u8; 16] {
        let digest = hmac::sign(&self.0, bytes);
        let mut name = [0; 16];
        name.copy_from_slice(&digest.as_ref()[..16]);
        name
    }
}

/// Joins fields so that no two different lists give the same bytes: each is preceded by its length.
pub(crate) fn join(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.iter().map(|field| field.len() + 8).sum());
    for field in fields {
        out.extend_from_slice(&(field.len() as u64).to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

#[cfg(test)]
mod tests {
    use aes_gcm_siv::Aes256GcmSiv;
    use aes_gcm_siv::aead::{Aead as _, KeyInit as _, Payload};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// An implementation that shares no code with ours opens what we seal, and the other way round.
        #[test]
        fn agrees_with_another_implementation(
            key in any::<[u8; 32]>(),
            nonce in any::<[u8; 12]>(),
            aad in proptest::collection::vec(any::<u8>(), 0..80),
            plain in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let ours = Cipher::new(&Secret::from_slice(&key).unwrap()).unwrap();
            let twin = Aes256GcmSiv::new_from_slice(&key).unwrap();
            let sealed = ours.seal(&aad, &plain).unwrap();
            let seen_nonce: [u8; 12] = sealed[..12].try_into().unwrap();
            let opened = twin.decrypt(&seen_nonce.into(), Payload { msg: &sealed[12..], aad: &aad });
            prop_assert_eq!(opened.unwrap(), plain.clone());

            let mut theirs = nonce.to_vec();
            theirs.extend(twin.encrypt(&nonce.into(), Payload { msg: &plain, aad: &aad }).unwrap());
            prop_assert_eq!(ours.open(&aad, &theirs).unwrap(), plain);
        }

        #[test]
        fn any_flipped_bit_is_refused(bit in 0usize..(12 + 5 + 16) * 8) {
            let cipher = Cipher::new(&Secret::new().unwrap()).unwrap();
            let mut sealed = cipher.seal(b"aad", b"plain").unwrap();
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(cipher.open(b"aad", &sealed).is_err());
        }
    }

    #[test]
    fn joined_fields_are_unambiguous() {
        assert_ne!(join(&[b"ab", b"c"]), join(&[b"a", b"bc"]));
        assert_ne!(join(&[b"ab"]), join(&[b"ab", b""]));
    }

    #[test]
    fn a_key_file_survives_no_change() {
        let key = WrappingKey { store: StoreId::new().unwrap(), key: Secret::new().unwrap() };
        let file = key.to_file();
        assert_eq!(WrappingKey::from_file(&file).unwrap().store, key.store);
        for at in 0..file.len() {
            let mut bad = file.to_vec();
            bad[at] ^= 0x10;
            assert!(WrappingKey::from_file(&bad).is_err(), "byte {at}");
        }
        assert!(WrappingKey::from_file(&file[..file.len() - 1]).is_err());
        assert!(WrappingKey::from_file(b"").is_err());
    }

    #[test]
    fn purposes_and_stores_have_keys_of_their_own() {
        let (key, one, two) = (Secret::new().unwrap(), StoreId([1; 16]), StoreId([2; 16]));
        let of = |store, purpose| *key.derive(store, purpose).unwrap().bytes();
        assert_eq!(of(one, "rows"), of(one, "rows"));
        assert_ne!(of(one, "rows"), of(one, "names"));
        assert_ne!(of(one, "rows"), of(two, "rows"));
    }
}
