//! Reading a WAL object: its head alone, its facts, or every byte.

use refloat_store::{Key, Store};
use refloat_types::ObjectId;

use super::{FRAME, LEAD, MAX_CLEAR, WalClear, WalDigest, name_digest};
use crate::binary::Reader;
use crate::compress::{Codec, Decompressor};
use crate::crypt::seal::{DataKey, FrameInfo, ObjectSeal, TAG_BYTES};
use crate::crypt::sign::{PublicKey, SIGNATURE_BYTES};
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout;
use crate::object::{HEADER_BYTES, Header, document};

/// How much is read at a time.
const READ: u64 = 4 << 20;

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
