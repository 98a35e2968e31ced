//! Sealing frames with a data key.
//!
//! A frame is sealed under a key of its own object: `HKDF-SHA-256(data key, salt = object id, info)`. The nonce is the
//! frame's index, so a (key, nonce) pair is used once as long as an object id seals one sequence of frames, which is
//! why a broken upload may be repeated with the same bytes but never continued.
//! Without encryption (suite 0) the payload is stored as it is and its tag is a BLAKE3 digest; references carry the tag,
//! so that from the signed commit downwards every byte is accounted for in both suites.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use refloat_types::{ObjectId, hex};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::compress::Codec;
use crate::kind::{FORMAT, Kind};

/// Bytes of a frame's tag.
pub const TAG_BYTES: usize = 16;

/// Proof that a frame is the one that was sealed.
pub type Tag = [u8; TAG_BYTES];

/// A 256-bit key that seals objects. Its id is public; the key is wiped when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey {
    #[zeroize(skip)]
    id: ObjectId,
    secret: [u8; 32],
}

impl DataKey {
    /// Draws a new key with a new id.
    pub fn draw() -> Self {
        Self { id: super::random::object_id(), secret: super::random::bytes() }
    }
    /// A key that was kept.
    pub fn from_parts(id: ObjectId, secret: [u8; 32]) -> Self {
        Self { id, secret }
    }
    /// Its id.
    pub fn id(&self) -> ObjectId {
        self.id
    }
    /// The key itself, for envelopes and the state directory.
    pub fn expose(&self) -> &[u8; 32] {
        &self.secret
    }
    /// A public value that only this key has: an envelope shows it, so no ciphertext opens under two keys.
    pub fn commitment(&self) -> [u8; 32] {
        derive(&self.secret, &self.id.0, &[b"refloat key commitment"])
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({}, ***)", hex::encode(&self.id.0))
    }
}

struct Bytes32;
impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

fn derive(secret: &[u8; 32], salt: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    let okm = prk.expand(info, Bytes32).expect("32 bytes are within HKDF's limit");
    okm.fill(&mut out).expect("the length is the one asked for");
    out
}

/// What is authenticated with a frame beside its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Place in its object, from 0; the nonce.
    pub index: u32,
    /// The last frame of its object.
    pub last: bool,
    /// How the payload is compressed.
    pub codec: Codec,
    /// Bytes before compression.
    pub plain: u32,
}

/// Seals and opens the frames of one object.
pub struct ObjectSeal {
    kind: Kind,
    id: ObjectId,
    cipher: Option<LessSafeKey>,
}

impl ObjectSeal {
    /// The seal of object `id` under `key`; without a key nothing is encrypted (suite 0).
    pub fn new(kind: Kind, id: ObjectId, key: Option<&DataKey>) -> Self {
        let cipher = key.map(|key| {
            let format = FORMAT.to_le_bytes();
            let mut derived = derive(&key.secret, &id.0, &[b"refloat frame", &format, &[kind.number()]]);
            let unbound = UnboundKey::new(&AES_256_GCM, &derived).expect("an AES-256 key has 32 bytes");
            derived.zeroize();
            LessSafeKey::new(unbound)
        });
        Self { kind, id, cipher }
    }

    /// `format, kind, id, index, last, codec, plain length`: 29 bytes.
    fn associated_data(&self, frame: FrameInfo) -> [u8; 29] {
        let mut out = [0; 29];
        out[..2].copy_from_slice(&FORMAT.to_le_bytes());
        out[2] = self.kind.number();
        out[3..19].copy_from_slice(&self.id.0);
        out[19..23].copy_from_slice(&frame.index.to_le_bytes());
        out[23] = u8::from(frame.last);
        out[24] = frame.codec.number();
        out[25..29].copy_from_slice(&frame.plain.to_le_bytes());
        out
    }

    fn nonce(index: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&index.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals `payload` in place and answers its tag.
    pub fn seal(&self, frame: FrameInfo, payload: &mut [u8]) -> Tag {
        let aad = self.associated_data(frame);
        match &self.cipher {
            Some(cipher) => {
                let tag =
                    cipher.seal_in_place_separate_tag(Self::nonce(frame.index), Aad::from(aad), payload);
                let tag = tag.expect("a frame is far below GCM's limit of 2^36 bytes");
                let mut out = [0; TAG_BYTES];
                out.copy_from_slice(tag.as_ref());
                out
            }
            None => digest_tag(&aad, payload),
        }
    }

    /// Opens `sealed` (payload, then tag) in place; answers the payload, or `None` when it is not what was sealed.
    pub fn open<'a>(&self, frame: FrameInfo, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let aad = self.associated_data(frame);
        match &self.cipher {
            Some(cipher) => {
                cipher.open_in_place(Self::nonce(frame.index), Aad::from(aad), sealed).ok().map(|p| &*p)
            }
            None => {
                let (payload, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
                (digest_tag(&aad, payload) == *tag).then_some(payload)
            }
        }
    }
}

fn digest_tag(aad: &[u8], payload: &[u8]) -> Tag {
    let mut hasher = blake3::Hasher::new();
    hasher.update(aad).update(payload);
    let mut out = [0; TAG_BYTES];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_BYTES]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(index: u32) -> FrameInfo {
        FrameInfo { index, last: false, codec: Codec::None, plain: 5 }
    }

    #[test]
    fn opens_only_what_was_sealed() {
        let key = DataKey::draw();
        let id = super::super::random::object_id();
        for key in [Some(&key), None] {
            let seal = ObjectSeal::new(Kind::Pack, id, key);
            let mut stored = b"hello".to_vec();
            let tag = seal.seal(frame(3), &mut stored);
            stored.extend_from_slice(&tag);
            assert_eq!(seal.open(frame(3), &mut stored.clone()), Some(&b"hello"[..]));
            assert_eq!(seal.open(frame(4), &mut stored.clone()), None, "another index");
            assert_eq!(
                seal.open(FrameInfo { last: true, ..frame(3) }, &mut stored.clone()),
                None,
                "another flag"
            );
            assert_eq!(
                seal.open(FrameInfo { plain: 6, ..frame(3) }, &mut stored.clone()),
                None,
                "another length"
            );
            let other = ObjectSeal::new(Kind::Wal, id, key);
            assert_eq!(other.open(frame(3), &mut stored.clone()), None, "another kind");
            for at in 0..stored.len() {
                let mut bad = stored.clone();
                bad[at] ^= 0x10;
                assert_eq!(seal.open(frame(3), &mut bad), None, "byte {at}");
            }
        }
    }

    #[test]
    fn a_key_never_prints() {
        let key = DataKey::from_parts(ObjectId::NONE, [0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
    }
}
