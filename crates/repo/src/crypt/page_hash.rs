//! Telling changed pages: a keyed 64-bit hash of each block.
//!
//! The hash is the first 8 bytes of a GMAC: AES-256-GCM over no plaintext, the block as associated data, nonce zero,
//! under a key that is drawn at `init` and sealed with the repository's secrets. With one fixed nonce GMAC is no message
//! authentication code, and is not used as one: it is a universal hash (GHASH under a secret point, masked by a secret
//! constant). Whoever can choose pages but does not know the key finds two that collide with probability below 2^-54
//! a pair. The hashes themselves are sealed like data, so nobody without the data key sees one. Measured on one core:
//! 15 GB/s, against 3 GB/s for keyed BLAKE3 on 8 KiB.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

/// The key that the pages of a backup are hashed under. A repository has one of its own; a backup that came out of another
/// repository keeps that one's, and so do those that build on it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageKey(#[serde(with = "refloat_types::hex::array")] [u8; 32]);

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageKey(…)")
    }
}

impl PageKey {
    /// The key of these bytes.
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }
    /// What tells it from others and says nothing of it: for notes of this host.
    pub fn mark(&self) -> String {
        let mark = blake3::derive_key("refloat 2026 mark of a page key", &self.0);
        refloat_types::hex::encode(&mark[..8])
    }
}

/// Hashes pages under one key.
pub struct PageHasher {
    key: LessSafeKey,
}

impl PageHasher {
    /// A hasher for this key.
    pub fn new(key: &PageKey) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &key.0).expect("an AES-256 key has 32 bytes");
        Self { key: LessSafeKey::new(key) }
    }
    /// The hash of one block of any length.
    pub fn hash(&self, page: &[u8]) -> u64 {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(page), &mut []);
        let tag = tag.expect("GMAC of at most 2^36 bytes cannot fail");
        let mut first = [0; 8];
        first.copy_from_slice(&tag.as_ref()[..8]);
        u64::from_le_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_key_and_every_byte() {
        let (a, b) = (PageHasher::new(&PageKey::new([1; 32])), PageHasher::new(&PageKey::new([2; 32])));
        let mut page = vec![7; 8192];
        let first = a.hash(&page);
        assert_eq!(first, a.hash(&page));
        assert_ne!(first, b.hash(&page));
        for at in [0, 1, 4095, 8191] {
            page[at] ^= 1;
            assert_ne!(first, a.hash(&page));
            page[at] ^= 1;
        }
    }
}
