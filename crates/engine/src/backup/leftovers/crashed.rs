//! Packs of backups that died, as a second source of pages that need not be stored again.
//!
//! The journal of such a backup only proposes: every byte of the data directory is read, and a page is taken from one of
//! these packs only where its keyed hash, just computed, is the one that was noted when the page was stored. That is what
//! an incremental goes by for its parent's pages. No commit names these packs, so a full backup may use them too.

use std::collections::BTreeMap;

use refloat_repo::commit::PackUse;
use refloat_repo::manifest::Leaf;
use refloat_repo::pack::frame::FrameRef;
use refloat_types::{BackupId, ObjectId};

use super::journal::{Left, name_of};
use crate::backup::draft::Old;
use crate::backup::parent::Uses;

/// Most ranges that are remembered, of all journals: 48 MiB.
const MOST_RANGES: usize = 1 << 21;

/// What backups that died left of use.
#[derive(Default)]
pub(in crate::backup) struct Crashed {
    pub(super) backups: Vec<BackupId>,
    /// Their packs that are whole.
    packs: BTreeMap<ObjectId, PackUse>,
    journals: Vec<Left>,
    /// Name of a range, which journal, where in it; sorted.
    ranges: Vec<(u64, u32, u64)>,
}

impl Crashed {
    /// Adds a backup; those that died last come first. `false` when its journal tells of nothing.
    pub(super) fn add(&mut self, backup: BackupId, packs: Vec<PackUse>, journal: Left) -> bool {
        let number = self.journals.len() as u32;
        let before = self.ranges.len();
        journal.index(&mut |name, at| {
            self.ranges.push((name, number, at));
            self.ranges.len() < MOST_RANGES
        });
        if self.ranges.len() == before {
            return false;
        }
        self.ranges.sort_unstable();
        self.backups.push(backup);
        self.packs.extend(packs.into_iter().map(|pack| (pack.id, pack)));
        self.journals.push(journal);
        true
    }

    /// The backups, for the pin of whoever uses them.
    pub(in crate::backup) fn backups(&self) -> &[BackupId] {
        &self.backups
    }

    /// Their packs; how much of each is used is not said.
    pub(in crate::backup) fn packs(&self) -> impl Iterator<Item = &PackUse> {
        self.packs.values()
    }

    /// Bytes of their packs.
    pub(in crate::backup) fn bytes(&self) -> u64 {
        self.packs.values().map(|pack| pack.size).sum()
    }

    fn has(&self, frame: &FrameRef) -> bool {
        self.packs.get(&frame.pack).is_some_and(|pack| frame.end() <= pack.size)
    }
}

/// A range as a backup had it that died.
pub(in crate::backup) struct Remains {
    pub(in crate::backup) leaf: Leaf,
    /// By block: it lies in a pack that cannot be used.
    lost: Vec<bool>,
}

impl Remains {
    /// What of `leaf` lies in frames that `is_there` knows; `None` for a leaf without hashes, or of which nothing does.
    fn of(leaf: Leaf, is_there: impl Fn(&FrameRef) -> bool) -> Option<Self> {
        let block = u64::from(leaf.block_size);
        if block == 0 {
            return None;
        }
        let there: Vec<bool> = leaf.frames.frames().iter().map(is_there).collect();
        let mut lost = vec![false; leaf.hashes.len()];
        let (mut at, mut any) = (0_u64, false);
        for run in leaf.runs.iter().filter(|run| run.length > 0) {
            let end = at + run.length;
            match run.source {
                Some((place, _)) if !there.get(place).copied().unwrap_or(false) => {
                    let blocks = (at / block) as usize..(end.div_ceil(block) as usize).min(lost.len());
                    lost.get_mut(blocks).into_iter().flatten().for_each(|lost| *lost = true);
                }
                Some(_) => any = true,
                None => {}
            }
            at = end;
        }
        any.then_some(Self { leaf, lost })
    }

    /// Every byte of it can be used.
    pub(in crate::backup) fn is_whole(&self) -> bool {
        !self.lost.contains(&true)
    }

    /// For comparing a range with it.
    pub(in crate::backup) fn old(&self) -> Old<'_> {
        Old::with_losses(&self.leaf, &self.lost)
    }
}

/// Looks for ranges. One a thread.
pub(in crate::backup) struct CrashedReader<'a> {
    crashed: &'a Crashed,
    payload: Vec<u8>,
    uses: Uses,
}

impl<'a> CrashedReader<'a> {
    pub(in crate::backup) fn new(crashed: &'a Crashed) -> Self {
        Self { crashed, payload: Vec::new(), uses: Uses::new() }
    }

    /// What the backups that died have of a range, the last one's first.
    pub(in crate::backup) fn read(&mut self, path: &[u8], span: usize) -> Vec<Remains> {
        let name = name_of(path, span as u64);
        let crashed = self.crashed;
        let first = crashed.ranges.partition_point(|range| range.0 < name);
        let same = crashed.ranges[first..].iter().take_while(|range| range.0 == name);
        same.filter_map(|(_, journal, at)| {
            let journal = crashed.journals.get(*journal as usize)?;
            let leaf = journal.leaf(*at, path, span as u64, &mut self.payload)?;
            Remains::of(leaf, |frame| crashed.has(frame))
        })
        .collect()
    }

    /// The frames of a new leaf are used, as far as they are in these packs.
    pub(in crate::backup) fn takes_frames(&mut self, leaf: &Leaf) {
        for run in &leaf.runs {
            let Some(frame) = run.source.and_then(|(place, _)| leaf.frames.get(place)) else { continue };
            if self.crashed.packs.contains_key(&frame.pack) {
                *self.uses.entry(frame.pack).or_default() += frame.share(run.length);
            }
        }
    }

    /// What was used.
    pub(in crate::backup) fn finish(self) -> Uses {
        self.uses
    }
}
