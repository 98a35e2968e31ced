//! The parent's map leaves, as the copying threads want them, and what of its packs is used again.

use std::collections::BTreeMap;
use std::sync::Arc;

use refloat_repo::manifest::root::LeafReader;
use refloat_repo::manifest::{Leaf, LeafRef};
use refloat_repo::pack::FrameOpener;
use refloat_repo::{RepoError, layout};
use refloat_store::Store;
use refloat_types::ObjectId;

use super::{Parent, may_pass};

/// Bytes of older packs that a backup uses, by pack.
pub(in crate::backup) type Uses = BTreeMap<ObjectId, u64>;

/// Reads leaves of the parent. One a thread.
pub(in crate::backup) struct ParentReader<'a> {
    parent: &'a Parent,
    store: Arc<dyn Store>,
    opener: FrameOpener,
    leaves: LeafReader,
    uses: Uses,
    /// Leaves that could not be read, and why the first could not.
    lost: (u64, Option<String>),
}

impl<'a> ParentReader<'a> {
    pub(in crate::backup) fn new(parent: &'a Parent, store: Arc<dyn Store>) -> Result<Self, RepoError> {
        let opener = FrameOpener::new(Arc::clone(&parent.keys))?;
        let (leaves, uses) = (LeafReader::default(), Uses::new());
        Ok(Self { parent, store, opener, leaves, uses, lost: (0, None) })
    }

    /// A leaf of the parent; `None` when it cannot be read or names what the parent has not: then its range is stored
    /// anew.
    ///
    /// # Errors
    /// When the store does not answer: nothing is known of the leaf then.
    pub(in crate::backup) fn read(&mut self, place: &LeafRef) -> Result<Option<Leaf>, RepoError> {
        let read = self.leaves.read(self.store.as_ref(), &mut self.opener, place);
        let why = match read {
            Ok(leaf) => match self.stranger(&leaf) {
                None if self.is_avoided(place, &leaf) => return Ok(None),
                None => return Ok(Some(leaf)),
                Some(pack) => format!("a map leaf names {}, which the backup does not", layout::pack(pack)),
            },
            Err(error) if may_pass(&error) => return Err(error),
            Err(error) => error.to_string(),
        };
        self.lost.0 += 1;
        self.lost.1.get_or_insert(why);
        Ok(None)
    }

    /// Whether something of it must be stored again.
    fn is_avoided(&self, place: &LeafRef, leaf: &Leaf) -> bool {
        let frames = leaf.frames.frames().iter().map(|frame| frame.pack);
        frames.chain([place.frame.pack]).any(|pack| self.parent.avoids(pack))
    }

    fn stranger(&self, leaf: &Leaf) -> Option<ObjectId> {
        let known = &self.parent.keys.packs;
        leaf.frames.frames().iter().map(|frame| frame.pack).find(|pack| !known.contains_key(pack))
    }

    /// A leaf of the parent is taken over as it is.
    pub(in crate::backup) fn takes_leaf(&mut self, place: &LeafRef, leaf: &Leaf) {
        *self.uses.entry(place.frame.pack).or_default() += place.frame.share(u64::from(place.length));
        self.takes_frames(leaf);
    }

    /// The frames of a leaf are used, as far as they are the parent's.
    pub(in crate::backup) fn takes_frames(&mut self, leaf: &Leaf) {
        for run in &leaf.runs {
            let Some(frame) = run.source.and_then(|(place, _)| leaf.frames.get(place)) else { continue };
            if self.parent.keys.packs.contains_key(&frame.pack) {
                *self.uses.entry(frame.pack).or_default() += frame.share(run.length);
            }
        }
    }

    /// What was used, and what could not be read.
    pub(in crate::backup) fn finish(self) -> (Uses, (u64, Option<String>)) {
        (self.uses, self.lost)
    }
}
