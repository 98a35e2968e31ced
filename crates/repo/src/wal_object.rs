//! A WAL file in the repository: a signed header that tells what is in it, then its sealed bytes.
//!
//! Bytes: header (64, kind 10), clear JSON, 64-byte signature over both, then frames. Each frame is led by u32 stored
//! length, u32 plain length, codec byte; frame 0 holds the sealed facts (names of restore points), the others 256 KiB
//! of the file each; the last one is flagged. The signature covers a keyed digest of the plain bytes and the tag of frame
//! 0, so facts and origin are known from the first few kilobytes, and the bytes are checked against it when they are read.

use std::io::Read;

use refloat_store::{Key, Store};
use refloat_types::{ObjectId, SystemIdentifier, Timestamp, WalFileName, fault};
use serde::{Deserialize, Serialize};

use crate::binary::Reader;
use crate::compress::{Codec, Compression, Compressor, Decompressor};
use crate::crypt::random;
use crate::crypt::seal::{DataKey, FrameInfo, ObjectSeal, TAG_BYTES, Tag};
use crate::crypt::sign::{PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::error::RepoError;
use crate::kind::{Kind, Suite};
use crate::layout;
use crate::object::{HEADER_BYTES, Header, document};

/// Source bytes of one frame.
const FRAME: usize = 256 << 10;
/// Frames compressed at a time, on two threads: enough to keep both busy, 2 MiB in memory.
const BATCH: usize = 8;
/// Bytes before each frame: stored length, plain length, codec.
const LEAD: usize = 9;
/// Largest clear section accepted.
const MAX_CLEAR: u32 = 1 << 20;
/// How much is read at a time.
const READ: u64 = 4 << 20;

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
    /// Bytes that `plain` gives.
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

/// The digest under which a WAL file is stored: keyed, so that the name tells nothing about the bytes.
pub struct WalDigest(blake3::Hasher);

impl WalDigest {
    /// Begins one, under the repository's naming key.
    pub fn new(naming_key: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(naming_key))
    }
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The digest.
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The part of a digest that stands in a key.
pub fn name_digest(digest: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

/// Stores a WAL file; `Ok` when it is durable. Answers its key and its size in the store.
///
/// # Errors
/// `plain` gives other than `size` bytes, or the store fails; then nothing is visible.
pub fn write(store: &dyn Store, wal: &NewWal<'_>, plain: &mut dyn Read) -> Result<(Key, u64), RepoError> {
    let key = layout::wal(wal.system, wal.name, &name_digest(&wal.digest));
    let id = random::object_id();
    let seal = ObjectSeal::new(Kind::Wal, id, wal.key);
    let facts =
        serde_json::to_vec(&wal.sealed_facts).map_err(|e| RepoError::internal("write WAL facts", e))?;
    let frames = wal.size.div_ceil(FRAME as u64);
    let mut encoder = Encoder::new(wal.compression)?;
    let mut first = Vec::new();
    encoder.frame(&seal, 0, frames == 0, &facts, &mut first)?;
    let mut out = head(wal, id, tag_of(&first)?)?;
    out.extend_from_slice(&first);
    let mut left = wal.size;
    let mut index = 1_u32;
    // A WAL segment of usual size becomes one write; larger ones go to the store as they come.
    let mut streaming: Option<Box<dyn refloat_store::ObjectWriter>> = None;
    let mut stored = 0_u64;
    let mut batch = vec![0; BATCH * FRAME];
    while left > 0 {
        let length = left.min(batch.len() as u64) as usize;
        let bytes = &mut batch[..length];
        plain.read_exact(bytes).map_err(|e| RepoError::internal("read the WAL file", e))?;
        left -= length as u64;
        index = encoder.batch(&seal, index, left == 0, bytes, &mut out)?;
        if out.len() as u64 > 2 * READ || streaming.is_some() {
            let writer = match streaming.take() {
                Some(writer) => writer,
                None => store.create(&key)?,
            };
            let writer = streaming.insert(writer);
            writer.write(&out)?;
            stored += out.len() as u64;
            out.clear();
        }
    }
    fault::point("wal.before_put").map_err(|e| RepoError::internal("store a WAL file", e))?;
    stored += out.len() as u64;
    match streaming {
        Some(mut writer) => {
            writer.write(&out)?;
            writer.finish()?;
        }
        None => store.put_new(&key, &out)?,
    }
    fault::point("wal.after_put").map_err(|e| RepoError::internal("store a WAL file", e))?;
    Ok((key, stored))
}

/// The tag that ends a frame.
fn tag_of(frame: &[u8]) -> Result<Tag, RepoError> {
    let tag = frame.last_chunk().copied();
    tag.ok_or_else(|| RepoError::internal("store a WAL file", "a frame without a tag"))
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

/// Compresses and seals frames, a batch on two threads. Buffers are kept from one batch to the next.
struct Encoder {
    lanes: [Lane; 2],
    /// What the second lane made of its half of a batch.
    behind: Vec<u8>,
}

struct Lane {
    compressor: Compressor,
    payload: Vec<u8>,
}

impl Encoder {
    fn new(how: Compression) -> Result<Self, RepoError> {
        let lane = || Ok::<_, RepoError>(Lane { compressor: Compressor::new(how)?, payload: Vec::new() });
        Ok(Self { lanes: [lane()?, lane()?], behind: Vec::new() })
    }

    fn frame(
        &mut self,
        seal: &ObjectSeal,
        index: u32,
        last: bool,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        self.lanes[0].encode(seal, index, last, plain, out)
    }

    /// Appends the frames of `bytes`; answers the next index.
    fn batch(
        &mut self,
        seal: &ObjectSeal,
        first: u32,
        ends: bool,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u32, RepoError> {
        let frames: Vec<&[u8]> = bytes.chunks(FRAME).collect();
        let half = frames.len().div_ceil(2);
        let last_index = first + frames.len() as u32 - 1;
        let run = |lane: &mut Lane, frames: &[&[u8]], from: u32, out: &mut Vec<u8>| {
            for (index, frame) in (from..).zip(frames) {
                lane.encode(seal, index, ends && index == last_index, frame, out)?;
            }
            Ok::<_, RepoError>(())
        };
        let [a, b] = &mut self.lanes;
        let (left, right) = frames.split_at(half);
        if right.is_empty() {
            run(a, left, first, out)?;
        } else {
            let behind = &mut self.behind;
            behind.clear();
            std::thread::scope(|scope| {
                let other = scope.spawn(|| run(b, right, first + half as u32, behind));
                run(a, left, first, out)?;
                other.join().map_err(|_| RepoError::internal("compress a WAL file", "a thread panicked"))?
            })?;
            out.extend_from_slice(&self.behind);
        }
        Ok(last_index + 1)
    }
}

impl Lane {
    fn encode(
        &mut self,
        seal: &ObjectSeal,
        index: u32,
        last: bool,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        let codec = self.compressor.compress(plain, &mut self.payload)?;
        let length = u32::try_from(plain.len()).map_err(|e| RepoError::internal("seal a frame", e))?;
        let tag = seal.seal(FrameInfo { index, last, codec, plain: length }, &mut self.payload);
        out.extend_from_slice(&((self.payload.len() + TAG_BYTES) as u32).to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.push(codec.number());
        out.extend_from_slice(&self.payload);
        out.extend_from_slice(&tag);
        Ok(())
    }
}

/// The verified head of a stored WAL file.
#[derive(Debug, Clone)]
pub struct WalHead {
    /// Where it is.
    pub key: Key,
    /// Its header.
    pub header: Header,
    /// Its clear section.
    pub clear: WalClear,
    /// Where its frames begin.
    body: u64,
    /// Its size in the store.
    size: u64,
}

/// Reads the head of the object at `key` of `size` bytes; `agent` finds the public key of the agent that signed it.
///
/// # Errors
/// `Damaged`, `UnknownOrigin`, or what the store says.
pub fn read_head(
    store: &dyn Store,
    key: &Key,
    size: u64,
    agent: &dyn Fn(ObjectId) -> Result<PublicKey, RepoError>,
) -> Result<WalHead, RepoError> {
    let damaged = |what: &str| RepoError::damaged(key, what);
    let mut bytes = Vec::new();
    store.read(key, 0..size.min(4096), &mut bytes)?;
    let header = Header::decode(key.as_str(), &bytes, Kind::Wal)?;
    if header.clear > MAX_CLEAR {
        return Err(damaged("its header is too long"));
    }
    let clear_end = HEADER_BYTES + header.clear as usize;
    let body = clear_end + SIGNATURE_BYTES;
    if bytes.len() < body {
        if size < body as u64 {
            return Err(damaged("it ends within its header"));
        }
        bytes.clear();
        store.read(key, 0..body as u64, &mut bytes)?;
    }
    if !agent(header.agent)?.verifies(&[&bytes[..clear_end]], &bytes[clear_end..body]) {
        let why = "its signature does not hold".to_owned();
        return Err(RepoError::UnknownOrigin { object: key.to_string(), why });
    }
    let clear: WalClear = document::parse(key.as_str(), &bytes[HEADER_BYTES..clear_end])?;
    let named = layout::parse_wal(key);
    let belongs = named.is_some_and(|(name, digest)| {
        clear.name == name.to_string()
            && digest == name_digest(&clear.digest)
            && *key == layout::wal(clear.system, name, &digest)
    });
    if !belongs {
        return Err(damaged("it lies under another file's name"));
    }
    Ok(WalHead { key: key.clone(), header, clear, body: body as u64, size })
}

/// Reads every byte behind a head: gives the file's bytes to `sink` in order and answers the sealed facts.
///
/// # Errors
/// `Damaged` when anything is not what was written. `sink` may have got some bytes by then: nothing may be used before
/// this is `Ok`.
pub fn read_body(
    store: &dyn Store,
    head: &WalHead,
    key: Option<&DataKey>,
    naming_key: &[u8; 32],
    sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<serde_json::Value, RepoError> {
    let damaged = |what: &str| RepoError::damaged(&head.key, what);
    let seal = ObjectSeal::new(Kind::Wal, head.header.id, key);
    let frames = head.clear.size.div_ceil(FRAME as u64);
    let mut input = FrameInput { store, head, at: head.body, buffer: Vec::new(), used: 0, ahead: READ };
    let mut decompressor = Decompressor::new()?;
    let mut digest = WalDigest::new(naming_key);
    let (mut plain, mut facts) = (Vec::new(), serde_json::Value::Null);
    let mut total = 0_u64;
    for index in 0..=frames {
        let info_last = index == frames;
        let (lead, stored) = input.next()?;
        if index == 0 && stored.last_chunk() != Some(&head.clear.sealed_facts) {
            return Err(damaged("its facts are not the ones that were signed"));
        }
        let index = u32::try_from(index).map_err(|_| damaged("it has too many frames"))?;
        let info = FrameInfo { index, last: info_last, codec: lead.1, plain: lead.0 };
        let payload = seal.open(info, stored).ok_or_else(|| damaged("a frame cannot be opened"))?;
        decompressor
            .decompress(info.codec, payload, info.plain, &mut plain)
            .ok_or_else(|| damaged("a frame cannot be decompressed"))?;
        if index == 0 {
            facts = document::parse(head.key.as_str(), &plain)?;
            continue;
        }
        digest.update(&plain);
        total += plain.len() as u64;
        sink(&plain).map_err(|e| RepoError::internal("write the WAL file", e))?;
    }
    if input.at - (input.buffer.len() - input.used) as u64 != head.size {
        return Err(damaged("bytes follow its last frame"));
    }
    if total != head.clear.size || digest.finish() != head.clear.digest {
        return Err(damaged("its bytes are not the ones that were signed"));
    }
    Ok(facts)
}

/// Reads the sealed facts behind a head, and nothing else of it.
///
/// # Errors
/// `Damaged` when they are not what was written.
pub fn read_facts(
    store: &dyn Store,
    head: &WalHead,
    key: Option<&DataKey>,
) -> Result<serde_json::Value, RepoError> {
    let damaged = |what: &str| RepoError::damaged(&head.key, what);
    let seal = ObjectSeal::new(Kind::Wal, head.header.id, key);
    let mut input = FrameInput { store, head, at: head.body, buffer: Vec::new(), used: 0, ahead: 4096 };
    let ((length, codec), stored) = input.next()?;
    if stored.last_chunk() != Some(&head.clear.sealed_facts) {
        return Err(damaged("its facts are not the ones that were signed"));
    }
    let info = FrameInfo { index: 0, last: head.clear.size == 0, codec, plain: length };
    let payload = seal.open(info, stored).ok_or_else(|| damaged("its facts cannot be opened"))?;
    let mut plain = Vec::new();
    Decompressor::new()?
        .decompress(codec, payload, length, &mut plain)
        .ok_or_else(|| damaged("its facts cannot be decompressed"))?;
    document::parse(head.key.as_str(), &plain)
}

/// Reads frames one behind the other, some megabytes at a time.
struct FrameInput<'a> {
    store: &'a dyn Store,
    head: &'a WalHead,
    at: u64,
    buffer: Vec<u8>,
    used: usize,
    /// Least bytes read at a time.
    ahead: u64,
}

impl FrameInput<'_> {
    fn need(&mut self, bytes: usize) -> Result<(), RepoError> {
        if self.buffer.len() - self.used >= bytes {
            return Ok(());
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        let missing = (bytes - self.buffer.len()) as u64;
        let end = self.head.size.min(self.at + missing.max(self.ahead));
        if end < self.at + missing {
            return Err(RepoError::damaged(&self.head.key, "it ends within a frame"));
        }
        self.store.read(&self.head.key, self.at..end, &mut self.buffer)?;
        self.at = end;
        Ok(())
    }

    fn next(&mut self) -> Result<((u32, Codec), &mut [u8]), RepoError> {
        let damaged = |key: &Key| RepoError::damaged(key, "a frame's lengths are impossible");
        self.need(LEAD)?;
        let mut reader = Reader::new(&self.buffer[self.used..]);
        let lead = (|| Ok::<_, crate::binary::BadBytes>((reader.u32()?, reader.u32()?, reader.u8()?)))();
        let (stored, plain, codec) = lead.map_err(|_| damaged(&self.head.key))?;
        let codec = Codec::from_number(codec).ok_or_else(|| damaged(&self.head.key))?;
        let stored = stored as usize;
        if !(TAG_BYTES..=(16 << 20)).contains(&stored) || plain > 16 << 20 {
            return Err(damaged(&self.head.key));
        }
        self.need(LEAD + stored)?;
        let start = self.used + LEAD;
        self.used = start + stored;
        Ok(((plain, codec), &mut self.buffer[start..start + stored]))
    }
}
