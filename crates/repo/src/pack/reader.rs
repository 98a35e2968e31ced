//! Opening frames and reading whole packs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use refloat_store::{Key, Store};
use refloat_types::ObjectId;

use super::copies::Copies;
use super::frame::{Content, FrameRef, MAX_FRAME};
use super::writer::{FOOTER_BYTES, Footer};
use crate::binary::Reader;
use crate::compress::{Codec, Decompressor};
use crate::crypt::seal::{DataKey, FrameInfo, ObjectSeal, TAG_BYTES};
use crate::error::{KeyError, RepoError};
use crate::kind::{Kind, Suite};
use crate::layout;
use crate::object::{HEADER_BYTES, Header};

/// Which key seals which pack, and the keys: what a commit and its envelopes give.
#[derive(Debug, Clone, Default)]
pub struct PackKeys {
    /// Key id by pack; none where nothing is encrypted.
    pub packs: BTreeMap<ObjectId, ObjectId>,
    /// Opened keys.
    pub keys: BTreeMap<ObjectId, Arc<DataKey>>,
}

impl PackKeys {
    fn seal_of(&self, pack: ObjectId) -> Result<ObjectSeal, RepoError> {
        let object = layout::pack(pack);
        let key = self.packs.get(&pack).ok_or_else(|| RepoError::UnknownOrigin {
            object: object.to_string(),
            why: "the backup does not name this pack".to_owned(),
        })?;
        if *key == ObjectId::NONE {
            return Ok(ObjectSeal::new(Kind::Pack, pack, None));
        }
        let data_key =
            self.keys.get(key).ok_or(RepoError::NoKey { key: *key, source: KeyError::NoIdentity })?;
        Ok(ObjectSeal::new(Kind::Pack, pack, Some(data_key)))
    }
}

/// How much of a pack is read at a time.
const READ_AHEAD: u64 = 2 << 20;

/// Gets each frame of a pack with what it holds: its bytes, or why they cannot be had. The tag of a reference is not set
/// with an error.
pub type EachFrame<'a> =
    &'a mut dyn FnMut(&FrameRef, Content, Result<&[u8], RepoError>) -> Result<(), RepoError>;

fn each_frame(
    each: EachFrame<'_>,
    frame: &FrameRef,
    content: Content,
    opened: Result<FrameRef, RepoError>,
    plain: &[u8],
) -> Result<(), RepoError> {
    match opened {
        Ok(frame) => each(&frame, content, Ok(plain)),
        Err(error) => each(frame, content, Err(error)),
    }
}

fn short(frame: &FrameRef) -> RepoError {
    RepoError::damaged(layout::pack(frame.pack), "a frame ends within its tag")
}

/// Where the bytes of a pack are.
trait Bytes {
    /// Appends exactly this range to `into`.
    fn read(&self, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), RepoError>;
}

/// In a store.
struct Stored<'a>(&'a dyn Store, Key);

impl Bytes for Stored<'_> {
    fn read(&self, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), RepoError> {
        Ok(self.0.read(&self.1, range, into)?)
    }
}

/// In memory.
struct Held<'a>(&'a [u8], Key);

impl Bytes for Held<'_> {
    fn read(&self, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), RepoError> {
        let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
        let bytes = start.ok().zip(end.ok()).and_then(|(start, end)| self.0.get(start..end));
        into.extend_from_slice(bytes.ok_or_else(|| RepoError::damaged(&self.1, "it is cut short"))?);
        Ok(())
    }
}

/// Opens frames; keeps the seals of the packs it met and its buffers. One a thread.
pub struct FrameOpener {
    keys: Arc<PackKeys>,
    seals: BTreeMap<ObjectId, ObjectSeal>,
    decompressor: Decompressor,
    stored: Vec<u8>,
    copies: Option<Arc<Copies>>,
}

impl FrameOpener {
    /// An opener with these keys.
    ///
    /// # Errors
    /// When no decompression context can be made.
    pub fn new(keys: Arc<PackKeys>) -> Result<Self, RepoError> {
        let decompressor = Decompressor::new()?;
        Ok(Self { keys, seals: BTreeMap::new(), decompressor, stored: Vec::new(), copies: None })
    }

    /// Takes frames from these copies where they cannot be had from where they should be.
    #[must_use]
    pub fn beside(mut self, copies: Arc<Copies>) -> Self {
        self.copies = Some(copies);
        self
    }

    /// Opens `frame` out of another copy into `plain`, because of `error`.
    ///
    /// # Errors
    /// That error, where no copy has the frame.
    pub fn elsewhere(
        &mut self,
        frame: &FrameRef,
        plain: &mut Vec<u8>,
        error: RepoError,
    ) -> Result<(), RepoError> {
        let Some(copies) = self.copies.clone() else { return Err(error) };
        for store in copies.stores() {
            match self.fetch_from(store.as_ref(), frame, plain) {
                Ok(()) => {
                    copies.pass_over(frame.pack, error.to_string());
                    return Ok(());
                }
                Err(also) => {
                    tracing::debug!(store = store.describe(), error = %also, "a copy has no such frame either")
                }
            }
        }
        Err(error)
    }

    fn seal(&mut self, pack: ObjectId) -> Result<&ObjectSeal, RepoError> {
        if !self.seals.contains_key(&pack) {
            if self.seals.len() > 256 {
                self.seals.clear();
            }
            self.seals.insert(pack, self.keys.seal_of(pack)?);
        }
        Ok(&self.seals[&pack])
    }

    /// Opens `stored` (overwritten) as `frame` into `plain` (cleared first).
    ///
    /// # Errors
    /// `Damaged` when it is not the frame that was meant.
    pub fn open(
        &mut self,
        frame: &FrameRef,
        stored: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        let damaged = || {
            let what = format!("frame {} at byte {} cannot be opened", frame.index, frame.offset);
            RepoError::damaged(layout::pack(frame.pack), what)
        };
        if stored.len() != frame.stored as usize || stored.last_chunk::<TAG_BYTES>() != Some(&frame.tag) {
            return Err(damaged());
        }
        let payload = self.seal(frame.pack)?.open(frame.info(), stored).ok_or_else(damaged)?;
        self.decompressor.decompress(frame.codec, payload, frame.plain, plain).ok_or_else(damaged)
    }

    /// Reads `frame` from `store`, or from a copy, and opens it into `plain` (cleared first).
    ///
    /// # Errors
    /// When none can give it, or it is damaged: what `store` said.
    pub fn fetch(
        &mut self,
        store: &dyn Store,
        frame: &FrameRef,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        match self.fetch_from(store, frame, plain) {
            Err(error) => self.elsewhere(frame, plain, error),
            done => done,
        }
    }

    fn fetch_from(
        &mut self,
        store: &dyn Store,
        frame: &FrameRef,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        let mut stored = std::mem::take(&mut self.stored);
        stored.clear();
        store.read(&layout::pack(frame.pack), frame.offset..frame.end(), &mut stored)?;
        let result = self.open(frame, &mut stored, plain);
        self.stored = stored;
        result
    }

    /// Reads every byte of pack `id` and opens every frame: `each` gets them in order, the table excepted. A frame that
    /// cannot be read or opened is given as its error, and those behind it are read all the same.
    ///
    /// # Errors
    /// `Damaged` or `Missing` when header, table or footer are not what was written, so that nobody can say which frames
    /// there are; what `each` answers.
    pub fn read_pack(
        &mut self,
        store: &dyn Store,
        id: ObjectId,
        each: EachFrame<'_>,
    ) -> Result<u64, RepoError> {
        let key = layout::pack(id);
        let info = store.head(&key)?.ok_or_else(|| RepoError::Missing { object: key.to_string() })?;
        self.read_all(&Stored(store, key), id, info.size, each)?;
        Ok(info.size)
    }

    /// Opens every frame of pack `id`, whose bytes these shall be.
    ///
    /// # Errors
    /// `Damaged` when any of them is not what was written.
    pub fn check_pack(&mut self, id: ObjectId, bytes: &[u8]) -> Result<(), RepoError> {
        let whole: EachFrame<'_> = &mut |_, _, opened| opened.map(drop);
        self.read_all(&Held(bytes, layout::pack(id)), id, bytes.len() as u64, whole)
    }

    fn read_all(
        &mut self,
        pack: &dyn Bytes,
        id: ObjectId,
        size: u64,
        each: EachFrame<'_>,
    ) -> Result<(), RepoError> {
        let expected_key = self.keys.packs.get(&id).copied().unwrap_or_default();
        let frames = self.read_table(pack, id, size, expected_key)?;
        let mut stored = std::mem::take(&mut self.stored);
        let mut plain = Vec::new();
        let mut together = frames.chunk_by(|a, b| a.0.offset / READ_AHEAD == b.0.offset / READ_AHEAD);
        let result =
            together.try_for_each(|frames| self.read_frames(pack, frames, (&mut stored, &mut plain), each));
        self.stored = stored;
        result
    }

    /// Reads neighbouring frames with one read, or one by one where that fails.
    fn read_frames(
        &mut self,
        pack: &dyn Bytes,
        frames: &[(FrameRef, Content)],
        (stored, plain): (&mut Vec<u8>, &mut Vec<u8>),
        each: EachFrame<'_>,
    ) -> Result<(), RepoError> {
        let [(first, _), .., (last, _)] = frames else {
            return frames.iter().try_for_each(|(frame, content)| {
                stored.clear();
                let opened = match pack.read(frame.offset..frame.end(), stored) {
                    Ok(()) => self.open_own(frame, stored, plain),
                    Err(error) => Err(error),
                };
                each_frame(each, frame, *content, opened, plain)
            });
        };
        stored.clear();
        if pack.read(first.offset..last.end(), stored).is_err() {
            return frames.chunks(1).try_for_each(|one| self.read_frames(pack, one, (stored, plain), each));
        }
        let mut rest = stored.as_mut_slice();
        for (frame, content) in frames {
            let (bytes, behind) =
                rest.split_at_mut_checked(frame.stored as usize).ok_or_else(|| short(frame))?;
            rest = behind;
            let opened = self.open_own(frame, bytes, plain);
            each_frame(each, frame, *content, opened, plain)?;
        }
        Ok(())
    }

    /// Opens a frame that only the pack's own table names: its tag is the one that is stored.
    fn open_own(
        &mut self,
        frame: &FrameRef,
        stored: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<FrameRef, RepoError> {
        let tag = *stored.last_chunk::<TAG_BYTES>().ok_or_else(|| short(frame))?;
        let frame = FrameRef { tag, ..*frame };
        self.open(&frame, stored, plain)?;
        Ok(frame)
    }

    /// Header, table and footer of a pack of `size` bytes; the references lack their tags.
    fn read_table(
        &mut self,
        pack: &dyn Bytes,
        id: ObjectId,
        size: u64,
        expected_key: ObjectId,
    ) -> Result<Vec<(FrameRef, Content)>, RepoError> {
        let key = layout::pack(id);
        let damaged = |what: &str| RepoError::damaged(&key, what);
        if size < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            return Err(damaged("it is shorter than a pack can be"));
        }
        let mut bytes = Vec::new();
        pack.read(0..HEADER_BYTES as u64, &mut bytes)?;
        let header = Header::decode(key.as_str(), &bytes, Kind::Pack)?;
        let suite = if expected_key == ObjectId::NONE { Suite::Plain } else { Suite::Standard };
        let expected =
            Header { kind: Kind::Pack, suite, clear: 0, id, key: expected_key, agent: ObjectId::NONE };
        if header != expected {
            return Err(damaged("its header is another pack's"));
        }
        bytes.clear();
        pack.read(size - FOOTER_BYTES as u64..size, &mut bytes)?;
        let footer = Footer::decode(&bytes).map_err(|e| damaged(e.0))?;
        let table_end = footer.table_offset.checked_add(u64::from(footer.table_stored));
        if table_end != Some(size - FOOTER_BYTES as u64) || footer.table_stored > 8 * MAX_FRAME {
            return Err(damaged("its footer does not fit its size"));
        }
        bytes.clear();
        pack.read(footer.table_offset..size - FOOTER_BYTES as u64, &mut bytes)?;
        let info =
            FrameInfo { index: footer.frames, last: true, codec: Codec::None, plain: footer.table_plain };
        let table =
            self.seal(id)?.open(info, &mut bytes).ok_or_else(|| damaged("its table cannot be opened"))?;
        if table.len() != footer.table_plain as usize {
            return Err(damaged("its table's length is not what its footer says"));
        }
        parse_table(id, footer, table).map_err(|e| damaged(e.0))
    }
}

fn parse_table(
    id: ObjectId,
    footer: Footer,
    table: &[u8],
) -> Result<Vec<(FrameRef, Content)>, crate::binary::BadBytes> {
    let bad = crate::binary::BadBytes;
    let mut reader = Reader::new(table);
    let mut offset = HEADER_BYTES as u64;
    let mut frames = Vec::new();
    for index in 0..footer.frames {
        let stored = reader.varint32()?;
        let plain = reader.varint32()?;
        let codec = Codec::from_number(reader.u8()?).ok_or(bad("a codec is not known"))?;
        let content = Content::from_number(reader.u8()?).ok_or(bad("a frame's content is not known"))?;
        if plain > MAX_FRAME || stored > MAX_FRAME + TAG_BYTES as u32 {
            return Err(bad("a frame's length is impossible"));
        }
        frames
            .push((FrameRef { pack: id, offset, index, stored, plain, codec, tag: [0; TAG_BYTES] }, content));
        offset += u64::from(stored);
    }
    reader.end()?;
    if offset != footer.table_offset {
        return Err(bad("its frames do not end where its table begins"));
    }
    Ok(frames)
}
