//! Who wrote an object: Ed25519 signatures, and how a public key is shown to people.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use refloat_types::{ObjectId, hex};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Put before the bytes that are signed, so that a signature made for Refloat means nothing elsewhere.
const DOMAIN: &[u8] = b"refloat object signature 1\0";

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A public signing key.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(#[serde(with = "refloat_types::hex::array")] pub [u8; 32]);

impl PublicKey {
    /// The id of the agent that holds this key: the first 16 bytes of its BLAKE3 digest.
    pub fn agent_id(&self) -> ObjectId {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(&self.0).as_bytes()[..16]);
        ObjectId(id)
    }
    /// How people compare it: 4 words and 4 digits from its BLAKE3 digest (57 bits), such as `SUNSET-GUITAR-4401-ELBOW-RIVER`.
    pub fn fingerprint(&self) -> String {
        let digest = blake3::derive_key("refloat fingerprint 1", &self.0);
        let number = |at: usize| usize::from(u16::from_le_bytes([digest[at], digest[at + 1]]));
        let words = bip39::Language::English.word_list();
        let word = |at: usize| words[number(at) % words.len()].to_uppercase();
        format!("{}-{}-{:04}-{}-{}", word(0), word(2), number(8) % 10_000, word(4), word(6))
    }
    /// Whether `signature` is this key's over `parts`, joined.
    pub fn verifies(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&message(parts), signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(&self.0))
    }
}

/// Only the digest is signed: objects may be large, and Ed25519 reads its message twice.
fn message(parts: &[&[u8]]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    [DOMAIN, hasher.finalize().as_bytes()].concat()
}

/// A private signing key. Its seed is wiped when dropped and never printed.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Draws a new one.
    pub fn draw() -> Self {
        Self::from_seed(super::random::bytes()).expect("32 random bytes are a seed")
    }
    /// One that was kept; `None` when the seed is not accepted.
    pub fn from_seed(seed: [u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
        Some(Self { seed, pair })
    }
    /// The seed, for sealing it and for the state directory.
    pub fn expose_seed(&self) -> &[u8; 32] {
        &self.seed
    }
    /// Another handle on it, for a thread of its own.
    pub fn again(&self) -> Option<Self> {
        Self::from_seed(self.seed)
    }
    /// Its public half.
    pub fn public(&self) -> PublicKey {
        let mut out = [0; 32];
        out.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(out)
    }
    /// Signs `parts`, joined.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
        let mut out = [0; SIGNATURE_BYTES];
        out.copy_from_slice(self.pair.sign(&message(parts)).as_ref());
        out
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(*** of {:?})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_verifies() {
        let key = SigningKey::draw();
        let signature = key.sign(&[b"ab", b"c"]);
        assert!(key.public().verifies(&[b"a", b"bc"], &signature), "parts are joined");
        assert!(!key.public().verifies(&[b"abd"], &signature));
        assert!(!SigningKey::draw().public().verifies(&[b"abc"], &signature));
        let again = SigningKey::from_seed(*key.expose_seed()).expect("a seed");
        assert_eq!(again.public(), key.public());
    }

    #[test]
    fn fingerprint_is_stable() {
        assert_eq!(PublicKey([0; 32]).fingerprint(), PublicKey([0; 32]).fingerprint());
        assert_ne!(PublicKey([0; 32]).fingerprint(), PublicKey([1; 32]).fingerprint());
    }
}
