//! The frame around every value in a database: what a stolen disk shows, and what a read verifies.
//!
//! version (1), row kind (1), length of the rest (4), CRC32C of everything else (4), key id (8), nonce (12),
//! ciphertext, tag (16). The tag also covers format, tenant, store, row kind, row key and key id, so that a row that was
//! moved to another place, store or tenant does not open.

use aws_lc_rs::error::Unspecified;

use crate::key::{Cipher, NONCE_BYTES, Secret, StoreId, TAG_BYTES, join};

/// What a row is. Visible on disk, bound by the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Exchange = 1,
    Flow = 2,
    Rollup = 3,
    Meta = 4,
    Commit = 5,
}

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 10;
const KEY_ID_BYTES: usize = 8;

/// Why a value was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Not a frame of a version that we know, or cut.
    Frame,
    /// The checksum differs: damage on disk.
    Checksum,
    /// Sealed under another key.
    OtherKey,
    /// The tag does not verify: changed or moved on purpose.
    Tag,
}

/// Seals and opens the rows of one store.
pub(crate) struct Sealer {
    cipher: Cipher,
    key_id: [u8; KEY_ID_BYTES],
    tenant: Box<str>,
    store: StoreId,
}

impl Sealer {
    pub(crate) fn new(data_key: &Secret, tenant: &str, store: StoreId) -> Result<Sealer, Unspecified> {
        let mut key_id = [0; KEY_ID_BYTES];
        key_id.copy_from_slice(&data_key.derive(store, "key id")?.bytes()[..KEY_ID_BYTES]);
        Ok(Sealer {
            cipher: Cipher::new(&data_key.derive(store, "rows")?)?,
            key_id,
            tenant: tenant.into(),
            store,
        })
    }

    pub(crate) fn seal(&self, row: Row, row_key: &[u8], plain: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let sealed = self.cipher.seal(&self.bound_to(row as u8, row_key), plain)?;
        let rest = u32::try_from(KEY_ID_BYTES + sealed.len()).map_err(|_| Unspecified)?;
        let mut frame = Vec::with_capacity(HEAD_BYTES + KEY_ID_BYTES + sealed.len());
        frame.extend_from_slice(&[VERSION, row as u8]);
        frame.extend_from_slice(&rest.to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&self.key_id);
        frame.extend_from_slice(&sealed);
        let sum = checksum(&frame);
        frame[6..HEAD_BYTES].copy_from_slice(&sum.to_be_bytes());
        Ok(frame)
    }

    pub(crate) fn open(&self, row: Row, row_key: &[u8], frame: &[u8]) -> Result<Vec<u8>, Broken> {
        let (head, rest) = frame.split_at_checked(HEAD_BYTES).ok_or(Broken::Frame)?;
        let told = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
        if head[0] != VERSION
            || told as usize != rest.len()
            || rest.len() < KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES
        {
            return Err(Broken::Frame);
        }
        if head[6..HEAD_BYTES] != checksum(frame).to_be_bytes() {
            return Err(Broken::Checksum);
        }
        let (key_id, sealed) = rest.split_at(KEY_ID_BYTES);
        if key_id != self.key_id {
            return Err(Broken::OtherKey);
        }
        if head[1] != row as u8 {
            return Err(Broken::Tag);
        }
        self.cipher.open(&self.bound_to(row as u8, row_key), sealed).map_err(|_| Broken::Tag)
    }

    fn bound_to(&self, row: u8, row_key: &[u8]) -> Vec<u8> {
        let tenant = self.tenant.as_bytes();
        join(&[b"venturi row", &[VERSION], tenant, &self.store.0, &[row], row_key, &self.key_id])
    }
}

/// The row kind that a frame claims, without verifying it: lets a listing pass over what it does not want.
pub(crate) fn claimed(frame: &[u8]) -> Option<Row> {
    [Row::Exchange, Row::Flow, Row::Rollup, Row::Meta]
        .into_iter()
        .find(|row| frame.get(1) == Some(&(*row as u8)))
}

fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..6]), &frame[HEAD_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_opens_only_where_it_was_sealed() {
        let key = Secret::new().unwrap();
        let store = StoreId([7; 16]);
        let sealer = Sealer::new(&key, "shop", store).unwrap();
        let frame = sealer.seal(Row::Exchange, b"id", b"plain").unwrap();
        assert_eq!(sealer.open(Row::Exchange, b"id", &frame).unwrap(), b"plain");
        assert_eq!(claimed(&frame), Some(Row::Exchange));

        let check = |sealer: &Sealer, row, row_key: &[u8], expected| {
            assert_eq!(sealer.open(row, row_key, &frame), Err(expected));
        };
        check(&sealer, Row::Flow, b"id", Broken::Tag);
        check(&sealer, Row::Exchange, b"it", Broken::Tag);
        check(&Sealer::new(&key, "shoq", store).unwrap(), Row::Exchange, b"id", Broken::Tag);
        check(&Sealer::new(&key, "shop", StoreId([8; 16])).unwrap(), Row::Exchange, b"id", Broken::OtherKey);
        let other = Secret::new().unwrap();
        check(&Sealer::new(&other, "shop", store).unwrap(), Row::Exchange, b"id", Broken::OtherKey);
    }

    #[test]
    fn no_changed_or_cut_frame_opens() {
        let sealer = Sealer::new(&Secret::new().unwrap(), "shop", StoreId([7; 16])).unwrap();
        let frame = sealer.seal(Row::Meta, b"k", b"some plain text").unwrap();
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open(Row::Meta, b"k", &bad).is_err(), "bit {bit}");
        }
        for length in 0..frame.len() {
            assert!(sealer.open(Row::Meta, b"k", &frame[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_changed_row_with_a_mended_checksum_is_refused_by_the_tag() {
        let sealer = Sealer::new(&Secret::new().unwrap(), "shop", StoreId([7; 16])).unwrap();
        let mut frame = sealer.seal(Row::Meta, b"k", b"some plain text").unwrap();
        let last = frame.len() - 20;
        frame[last] ^= 1;
        let sum = checksum(&frame);
        frame[6..HEAD_BYTES].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(sealer.open(Row::Meta, b"k", &frame), Err(Broken::Tag));
    }
}
