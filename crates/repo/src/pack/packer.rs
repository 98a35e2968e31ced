//! A stream of frames cut into packs. Each worker has one; a pack is made durable behind the worker's back while it
//! fills the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use refloat_store::Store;
use refloat_types::ObjectId;

use super::frame::{Content, FrameRef};
use super::writer::{FinishedPack, PackWriter};
use crate::compress::{Compression, Compressor};
use crate::crypt::seal::DataKey;
use crate::error::RepoError;

/// A pack is closed when it has grown beyond this.
pub const PACK_TARGET: u64 = 48 << 20;

/// What a packer made.
#[derive(Debug, Default)]
pub struct PackSummary {
    /// Packs, whole and durable.
    pub packs: Vec<FinishedPack>,
    /// Payload bytes by pack, without headers, tables and footers.
    pub live: BTreeMap<ObjectId, u64>,
}

/// Told the id of every pack before it is begun, so that what a crash leaves behind is known.
pub type Announce = Arc<dyn Fn(ObjectId) -> Result<(), RepoError> + Send + Sync>;

/// Compresses, seals and packs.
pub struct Packer {
    store: Arc<dyn Store>,
    key: Option<Arc<DataKey>>,
    announce: Announce,
    compressor: Compressor,
    payload: Vec<u8>,
    open: Option<PackWriter>,
    finishing: Option<JoinHandle<Result<FinishedPack, RepoError>>>,
    summary: PackSummary,
}

impl Packer {
    /// A packer that seals with `key`, or not at all.
    ///
    /// # Errors
    /// When no compression context can be made.
    pub fn new(
        store: Arc<dyn Store>,
        key: Option<Arc<DataKey>>,
        compression: Compression,
        announce: Announce,
    ) -> Result<Self, RepoError> {
        Ok(Self {
            store,
            key,
            announce,
            compressor: Compressor::new(compression)?,
            payload: Vec::new(),
            open: None,
            finishing: None,
            summary: PackSummary::default(),
        })
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// Nothing of this packer may be used any more.
    pub fn add(&mut self, content: Content, plain: &[u8]) -> Result<FrameRef, RepoError> {
        let length = u32::try_from(plain.len()).map_err(|e| RepoError::internal("append a frame", e))?;
        let codec = self.compressor.compress(plain, &mut self.payload)?;
        let mut pack = match self.open.take() {
            Some(pack) => pack,
            None => {
                let id = PackWriter::fresh_id();
                (self.announce)(id)?;
                PackWriter::create(self.store.as_ref(), id, self.key.as_deref())?
            }
        };
        let frame = pack.append(content, codec, length, &mut self.payload)?;
        *self.summary.live.entry(frame.pack).or_default() += u64::from(frame.stored);
        if pack.size() >= PACK_TARGET {
            self.close(pack)?;
        } else {
            self.open = Some(pack);
        }
        Ok(frame)
    }

    /// One pack at a time is made durable behind us: memory and dirty pages stay bounded.
    fn close(&mut self, pack: PackWriter) -> Result<(), RepoError> {
        self.wait()?;
        let thread = std::thread::Builder::new().name("pack-finish".to_owned());
        let handle =
            thread.spawn(move || pack.finish()).map_err(|e| RepoError::internal("start a thread", e))?;
        self.finishing = Some(handle);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), RepoError> {
        if let Some(handle) = self.finishing.take() {
            let finished =
                handle.join().map_err(|_| RepoError::internal("finish a pack", "its thread panicked"))?;
            self.summary.packs.push(finished?);
        }
        Ok(())
    }

    /// Bytes appended so far.
    pub fn stored(&self) -> u64 {
        self.summary.live.values().sum()
    }

    /// Closes the last pack; `Ok` when all are durable.
    ///
    /// # Errors
    /// Some packs may not exist.
    pub fn finish(mut self) -> Result<PackSummary, RepoError> {
        self.wait()?;
        if let Some(pack) = self.open.take() {
            self.summary.packs.push(pack.finish()?);
        }
        Ok(std::mem::take(&mut self.summary))
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        // A pack that is being finished holds the store; nobody may see it appear after we reported failure.
        let _ = self.wait();
    }
}
