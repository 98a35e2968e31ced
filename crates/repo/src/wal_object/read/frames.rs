//! The frames of one WAL object, handed out in order to whoever opens them: one thread, or several.

use std::sync::{Mutex, PoisonError};

use super::WalHead;
use super::input::Input;
use crate::binary::Reader;
use crate::compress::{Codec, Decompressor};
use crate::crypt::seal::{DataKey, FrameInfo, ObjectSeal, TAG_BYTES};
use crate::error::RepoError;
use crate::kind::Kind;
use crate::object::document;
use crate::wal_object::{FRAME, LEAD};

/// Most bytes of a frame, stored or plain.
const MOST: usize = 16 << 20;

/// The frames behind a head.
pub(super) struct Frames<'a> {
    head: &'a WalHead,
    seal: ObjectSeal,
    stored: Mutex<Stored<'a>>,
}

impl<'a> Frames<'a> {
    /// Those of the object that `head` was read of, from which `input` gives what follows `start`: its beginning, with the head.
    pub(super) fn behind(
        head: &'a WalHead,
        key: Option<&'a DataKey>,
        start: Vec<u8>,
        input: Input<'a>,
    ) -> Self {
        let used = start.len().min(usize::try_from(head.body).unwrap_or(usize::MAX));
        Self::new(head, key, (start, used), input)
    }

    /// The same, where `input` gives what follows the head.
    pub(super) fn of_body(head: &'a WalHead, key: Option<&'a DataKey>, input: Input<'a>) -> Self {
        Self::new(head, key, (Vec::new(), 0), input)
    }

    fn new(
        head: &'a WalHead,
        key: Option<&'a DataKey>,
        (buffer, used): (Vec<u8>, usize),
        input: Input<'a>,
    ) -> Self {
        let last = head.clear.size.div_ceil(FRAME as u64);
        let stored = Stored { head, input, buffer, used, next: 0, last };
        Self { head, seal: ObjectSeal::new(Kind::Wal, head.header.id, key), stored: Mutex::new(stored) }
    }

    /// What opens frames on one thread.
    ///
    /// # Errors
    /// When there is no memory for a context.
    pub(super) fn opener(&self) -> Result<Opener<'_, 'a>, RepoError> {
        Ok(Opener { frames: self, decompressor: Decompressor::new()?, stored: Vec::new(), plain: Vec::new() })
    }
}

/// Opens frames; several may share the frames of an object.
pub(super) struct Opener<'f, 'a> {
    frames: &'f Frames<'a>,
    decompressor: Decompressor,
    stored: Vec<u8>,
    plain: Vec<u8>,
}

/// An open frame.
pub(super) struct Opened<'o> {
    /// Its place in the object, from 0.
    pub(super) index: u32,
    /// What was in it.
    pub(super) plain: &'o [u8],
}

impl Opener<'_, '_> {
    /// The sealed facts, which are in frame 0: to be asked for first.
    ///
    /// # Errors
    /// As [`Opener::next`].
    pub(super) fn facts(&mut self) -> Result<serde_json::Value, RepoError> {
        let head = self.frames.head;
        let first = self.next()?.ok_or_else(|| RepoError::damaged(&head.key, "it has no facts"))?;
        document::parse(head.key.as_str(), first.plain)
    }

    /// The next frame that nobody has taken; `None` behind the last one.
    ///
    /// # Errors
    /// `Damaged`, or what the store says.
    pub(super) fn next(&mut self) -> Result<Option<Opened<'_>>, RepoError> {
        let head = self.frames.head;
        let damaged = |what: &str| RepoError::damaged(&head.key, what);
        let taken = {
            let mut frames = self.frames.stored.lock().unwrap_or_else(PoisonError::into_inner);
            frames.take(&mut self.stored)?
        };
        let Some(info) = taken else { return Ok(None) };
        if info.index == 0 && self.stored.last_chunk() != Some(&head.clear.sealed_facts) {
            return Err(damaged("its facts are not the ones that were signed"));
        }
        let payload = self.frames.seal.open(info, &mut self.stored);
        let payload = payload.ok_or_else(|| damaged("a frame cannot be opened"))?;
        self.decompressor
            .decompress(info.codec, payload, info.plain, &mut self.plain)
            .ok_or_else(|| damaged("a frame cannot be decompressed"))?;
        Ok(Some(Opened { index: info.index, plain: &self.plain }))
    }
}

/// The frames as they are stored, one behind the other.
struct Stored<'a> {
    head: &'a WalHead,
    input: Input<'a>,
    /// What came and is not used up.
    buffer: Vec<u8>,
    used: usize,
    /// Number of the next frame.
    next: u64,
    /// Number of the last one.
    last: u64,
}

impl Stored<'_> {
    fn need(&mut self, bytes: usize) -> Result<(), RepoError> {
        if self.buffer.len() - self.used >= bytes {
            return Ok(());
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        let missing = (bytes - self.buffer.len()) as u64;
        self.input.more(missing, &mut self.buffer)
    }

    /// Puts the next frame as it is stored into `into`, and answers what is said before it; `None` behind the last one, and
    /// where another thread was told already why there are no more.
    fn take(&mut self, into: &mut Vec<u8>) -> Result<Option<FrameInfo>, RepoError> {
        if self.input.has_failed() {
            return Ok(None);
        }
        let head = self.head;
        let damaged = |what: &str| RepoError::damaged(&head.key, what);
        if self.next > self.last {
            let read = self.input.at() - (self.buffer.len() - self.used) as u64;
            return if read == head.size { Ok(None) } else { Err(damaged("bytes follow its last frame")) };
        }
        let index = u32::try_from(self.next).map_err(|_| damaged("it has too many frames"))?;
        let impossible = || damaged("a frame's lengths are impossible");
        self.need(LEAD)?;
        let mut reader = Reader::new(&self.buffer[self.used..]);
        let lead = (|| Ok::<_, crate::binary::BadBytes>((reader.u32()?, reader.u32()?, reader.u8()?)))();
        let (stored, plain, codec) = lead.map_err(|_| impossible())?;
        let codec = Codec::from_number(codec).ok_or_else(impossible)?;
        let stored = stored as usize;
        if !(TAG_BYTES..=MOST).contains(&stored) || plain as usize > MOST {
            return Err(impossible());
        }
        self.need(LEAD + stored)?;
        let start = self.used + LEAD;
        self.used = start + stored;
        into.clear();
        into.extend_from_slice(&self.buffer[start..start + stored]);
        self.next += 1;
        Ok(Some(FrameInfo { index, last: index as u64 == self.last, codec, plain }))
    }
}
