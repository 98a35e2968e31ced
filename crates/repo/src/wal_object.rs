//! A WAL file in the repository: a signed header that tells what is in it, then its sealed bytes.
//!
//! Bytes: header (64, kind 10), clear JSON, 64-byte signature over both, then frames. Each frame is led by u32 stored
//! length, u32 plain length, codec byte; frame 0 holds the sealed facts (names of restore points), the others 256 KiB
//! of the file each; the last one is flagged. The signature covers a keyed digest of the plain bytes and the tag of frame
//! 0, so facts and origin are known from the first few kilobytes, and the bytes are checked against it when they are read.

mod digest;
mod frames;
mod read;
mod write;

pub use digest::WalDigest;
pub use frames::WalFrames;
pub(crate) use read::place_all;
pub use read::{WalHead, Wanted, read_body, read_facts, read_head};
pub use write::{WalWriter, write};

use refloat_types::{SystemIdentifier, Timestamp, WalFileName};
use serde::{Deserialize, Serialize};

use crate::compress::Compression;
use crate::crypt::seal::{DataKey, Tag};
use crate::crypt::sign::SigningKey;

/// Source bytes of one frame.
const FRAME: usize = 256 << 10;
/// Bytes before each frame: stored length, plain length, codec.
const LEAD: usize = 9;
/// Largest clear section accepted.
const MAX_CLEAR: u32 = 1 << 20;

/// The clear section: what is known of a stored WAL file without reading its bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WalClear {
    /// The file's name.
    pub name: String,
    /// The cluster.
    pub system: SystemIdentifier,
    /// Bytes of the file.
    pub size: u64,
    /// Keyed BLAKE3 of its bytes.
    #[serde(with = "refloat_types::hex::array")]
    pub digest: [u8; 32],
    /// Host time when it was stored.
    pub stored: Timestamp,
    /// What its records tell (no names).
    pub facts: serde_json::Value,
    /// Tag of the frame with the sealed facts: so they are signed too, where nothing is encrypted as well.
    #[serde(with = "refloat_types::hex::array")]
    pub sealed_facts: Tag,
}

/// What is to be stored.
pub struct NewWal<'a> {
    /// The file's name.
    pub name: WalFileName,
    /// The cluster.
    pub system: SystemIdentifier,
    /// Its bytes.
    pub size: u64,
    /// Their keyed digest.
    pub digest: [u8; 32],
    /// Host time.
    pub stored: Timestamp,
    /// What its records tell, without names.
    pub facts: serde_json::Value,
    /// What its records tell, with names; sealed.
    pub sealed_facts: serde_json::Value,
    /// How to compress.
    pub compression: Compression,
    /// Data key; none where nothing is encrypted.
    pub key: Option<&'a DataKey>,
    /// The agent's key.
    pub signing: &'a SigningKey,
}

/// The part of a digest that stands in a key.
pub fn name_digest(digest: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}
