//! Gathers map leaves from all copiers, stores them in packs of their own (so that a restore reads them in few
//! requests), and remembers where each is.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use refloat_repo::manifest::LeafRef;
use refloat_repo::manifest::root::{LeafGatherer, LeafName};
use refloat_repo::pack::Packer;

use super::BackupError;
use super::copy::Message;
use super::pages::{MOST_SUSPECTS, Suspect};
use super::places::{PlaceReader, Places, Span};

/// Everything the copiers told.
pub(super) struct Collected {
    pub(super) packer: Packer,
    pub(super) places: PlaceReader,
    pub(super) suspects: Vec<Suspect>,
    pub(super) suspects_dropped: u64,
    /// When the last suspect came.
    pub(super) last_suspect: Instant,
}

/// Leaves that wait for their frame: how much each covers.
#[derive(Default)]
struct Waiting {
    gatherer: LeafGatherer,
    lengths: VecDeque<u64>,
}

impl Waiting {
    /// Places have become known, in the order in which the leaves were added.
    fn placed(&mut self, placed: Vec<(LeafName, LeafRef)>, places: &mut Places) -> Result<(), BackupError> {
        for (name, leaf) in placed {
            let length = self.lengths.pop_front().ok_or(BackupError::Internal("a map leaf has no length"))?;
            places.put(number(name), Span::Leaf(length, leaf))?;
        }
        Ok(())
    }
}

/// The number of a span among all spans: files are named by their first one.
fn number((place, span): LeafName) -> u64 {
    place as u64 + span as u64
}

/// Receives until all copiers are gone.
pub(super) fn collect(
    inbox: &Receiver<Message>,
    mut packer: Packer,
    mut places: Places,
) -> Result<Collected, BackupError> {
    let mut waiting = Waiting::default();
    let mut suspects = Vec::new();
    let mut suspects_dropped = 0;
    let mut last_suspect = Instant::now();
    for message in inbox {
        match message {
            Message::Leaf { name, encoded, length } => {
                if length > 0 {
                    waiting.lengths.push_back(length);
                    let placed = waiting.gatherer.add(&mut packer, name, &encoded)?;
                    waiting.placed(placed, &mut places)?;
                }
            }
            Message::Kept { name, leaf, length } => places.put(number(name), Span::Leaf(length, leaf))?,
            Message::Vanished(file) => places.put(file as u64, Span::Vanished)?,
            Message::Suspect(suspect) => {
                last_suspect = Instant::now();
                if suspects.len() < MOST_SUSPECTS {
                    suspects.push(suspect);
                } else {
                    suspects_dropped += 1;
                }
            }
        }
    }
    let placed = waiting.gatherer.flush(&mut packer)?;
    waiting.placed(placed, &mut places)?;
    Ok(Collected { packer, places: places.finish()?, suspects, suspects_dropped, last_suspect })
}
