//! Writing a WAL object: head, sealed facts, then its frames as they come.

use refloat_store::{Key, ObjectWriter, Store};
use refloat_types::{ObjectId, fault};

use super::frames::{Frame, WalFrames};
use super::{FRAME, LEAD, MAX_CLEAR, NewWal, WalClear, name_digest};
use crate::compress::Compressor;
use crate::crypt::random;
use crate::crypt::seal::{DataKey, FrameInfo, ObjectSeal, TAG_BYTES, Tag};
use crate::error::RepoError;
use crate::kind::{Kind, Suite};
use crate::layout;
use crate::object::Header;

/// Stores a WAL file in one write; `Ok` when it is durable. Answers its key and its size in the store.
///
/// # Errors
/// `frames` hold other than `size` bytes, or the store fails; then nothing is visible.
pub fn write(store: &dyn Store, wal: &NewWal<'_>, frames: &WalFrames) -> Result<(Key, u64), RepoError> {
    let mut sealer = Sealer::new(wal, frames.extent())?;
    sealer.append(frames)?;
    sealer.is_complete()?;
    fault::point("wal.before_put").map_err(|e| RepoError::internal("store a WAL file", e))?;
    store.put_new(&sealer.key, &sealer.out)?;
    fault::point("wal.after_put").map_err(|e| RepoError::internal("store a WAL file", e))?;
    Ok((sealer.key, sealer.out.len() as u64))
}

/// A WAL file too large for one write, on its way into the store. Dropped before [`WalWriter::finish`], nothing is visible.
pub struct WalWriter {
    object: Box<dyn ObjectWriter>,
    sealer: Sealer,
    stored: u64,
}

impl WalWriter {
    /// Begins the object.
    ///
    /// # Errors
    /// What the store says.
    pub fn begin(store: &dyn Store, wal: &NewWal<'_>) -> Result<Self, RepoError> {
        let sealer = Sealer::new(wal, (0, 0))?;
        Ok(Self { object: store.create(&sealer.key)?, sealer, stored: 0 })
    }

    /// Appends the next stretch of the file.
    ///
    /// # Errors
    /// It is more than was announced, or the store fails.
    pub fn append(&mut self, frames: &WalFrames) -> Result<(), RepoError> {
        self.sealer.append(frames)?;
        self.object.write(&self.sealer.out)?;
        self.stored += self.sealer.out.len() as u64;
        self.sealer.out.clear();
        Ok(())
    }

    /// `Ok` when it is durable. Answers its key and its size in the store.
    ///
    /// # Errors
    /// Bytes are missing, or the store fails; then nothing is visible.
    pub fn finish(self) -> Result<(Key, u64), RepoError> {
        self.sealer.is_complete()?;
        fault::point("wal.before_put").map_err(|e| RepoError::internal("store a WAL file", e))?;
        self.object.finish()?;
        fault::point("wal.after_put").map_err(|e| RepoError::internal("store a WAL file", e))?;
        Ok((self.sealer.key, self.stored))
    }
}

/// Makes the bytes of an object.
struct Sealer {
    key: Key,
    seal: ObjectSeal,
    /// Number of the next frame.
    index: u32,
    /// Bytes of the file that are still to come.
    left: u64,
    out: Vec<u8>,
}

impl Sealer {
    /// Makes the head. Room is made for frames of that extent.
    fn new(wal: &NewWal<'_>, (bytes, frames): (usize, usize)) -> Result<Self, RepoError> {
        let id = random::object_id();
        let seal = ObjectSeal::new(Kind::Wal, id, wal.key);
        let facts =
            serde_json::to_vec(&wal.sealed_facts).map_err(|e| RepoError::internal("write WAL facts", e))?;
        let mut payload = Vec::new();
        let codec = Compressor::new(wal.compression)?.compress(&facts, &mut payload)?;
        let plain = u32::try_from(facts.len()).map_err(|e| RepoError::internal("write WAL facts", e))?;
        let mut first = Vec::with_capacity(LEAD + payload.len() + TAG_BYTES);
        let tag = sealed(&seal, 0, wal.size == 0, Frame { payload: &payload, codec, plain }, &mut first);
        let head = head(wal, id, tag)?;
        let mut out = Vec::with_capacity(head.len() + first.len() + bytes + frames * (LEAD + TAG_BYTES));
        out.extend_from_slice(&head);
        out.extend_from_slice(&first);
        let key = layout::wal(wal.system, wal.name, &name_digest(&wal.digest));
        Ok(Self { key, seal, index: 1, left: wal.size, out })
    }

    fn append(&mut self, frames: &WalFrames) -> Result<(), RepoError> {
        for frame in frames.iter() {
            // Readers count the frames from the size of the file.
            if u64::from(frame.plain) != self.left.min(FRAME as u64) {
                return Err(RepoError::internal(
                    "store a WAL file",
                    "a frame of another length was expected",
                ));
            }
            self.left -= u64::from(frame.plain);
            sealed(&self.seal, self.index, self.left == 0, frame, &mut self.out);
            self.index += 1;
        }
        Ok(())
    }

    fn is_complete(&self) -> Result<(), RepoError> {
        if self.left == 0 {
            return Ok(());
        }
        Err(RepoError::internal("store a WAL file", format!("{} of its bytes are missing", self.left)))
    }
}

/// Appends a frame to `out`, sealed there; answers its tag.
fn sealed(seal: &ObjectSeal, index: u32, last: bool, frame: Frame<'_>, out: &mut Vec<u8>) -> Tag {
    out.extend_from_slice(&((frame.payload.len() + TAG_BYTES) as u32).to_le_bytes());
    out.extend_from_slice(&frame.plain.to_le_bytes());
    out.push(frame.codec.number());
    let start = out.len();
    out.extend_from_slice(frame.payload);
    let info = FrameInfo { index, last, codec: frame.codec, plain: frame.plain };
    let tag = seal.seal(info, &mut out[start..]);
    out.extend_from_slice(&tag);
    tag
}

fn head(wal: &NewWal<'_>, id: ObjectId, sealed_facts: Tag) -> Result<Vec<u8>, RepoError> {
    let clear = WalClear {
        name: wal.name.to_string(),
        system: wal.system,
        size: wal.size,
        digest: wal.digest,
        stored: wal.stored,
        facts: wal.facts.clone(),
        sealed_facts,
    };
    let clear = serde_json::to_vec(&clear).map_err(|e| RepoError::internal("write a WAL header", e))?;
    let length = u32::try_from(clear.len()).ok().filter(|n| *n <= MAX_CLEAR);
    let length = length.ok_or_else(|| RepoError::internal("write a WAL header", "its facts are too long"))?;
    let header = Header {
        kind: Kind::Wal,
        suite: if wal.key.is_some() { Suite::Standard } else { Suite::Plain },
        clear: length,
        id,
        key: wal.key.map_or(ObjectId::NONE, DataKey::id),
        agent: wal.signing.public().agent_id(),
    };
    let mut out = header.encode().to_vec();
    out.extend_from_slice(&clear);
    let signature = wal.signing.sign(&[&out]);
    out.extend_from_slice(&signature);
    Ok(out)
}
