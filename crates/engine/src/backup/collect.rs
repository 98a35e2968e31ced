//! Gathers map leaves from all copiers, stores them in packs of their own (so that a restore reads them in few
//! requests), and remembers where each is.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use refloat_repo::manifest::LeafRef;
use refloat_repo::manifest::leaf::LEAF_SPAN;
use refloat_repo::manifest::root::{LeafGatherer, LeafName};
use refloat_repo::pack::Packer;

use super::BackupError;
use super::copy::Message;
use super::pages::{MOST_SUSPECTS, Suspect};

/// Leaves of one file.
#[derive(Debug, Clone, Default)]
pub(super) struct FileLeaves {
    pub(super) vanished: bool,
    pub(super) size: u64,
    pub(super) leaves: Vec<(usize, LeafRef)>,
}

impl FileLeaves {
    /// The file has at least the bytes that a leaf of this length covers.
    fn reaches(&mut self, span: usize, length: u64) {
        self.size = self.size.max(span as u64 * LEAF_SPAN + length);
    }
}

/// What is known of a file; those that come after the copy are added as they come.
fn of(known: &mut Vec<FileLeaves>, file: usize) -> &mut FileLeaves {
    if file >= known.len() {
        known.resize(file + 1, FileLeaves::default());
    }
    &mut known[file]
}

/// Everything the copiers told.
pub(super) struct Collected {
    pub(super) packer: Packer,
    pub(super) files: Vec<FileLeaves>,
    pub(super) suspects: Vec<Suspect>,
    pub(super) suspects_dropped: u64,
    /// When the last suspect came.
    pub(super) last_suspect: Instant,
}

/// Receives until all copiers are gone.
pub(super) fn collect(
    inbox: &Receiver<Message>,
    mut packer: Packer,
    files: usize,
) -> Result<Collected, BackupError> {
    let mut gatherer = LeafGatherer::default();
    let mut known = vec![FileLeaves::default(); files];
    let mut suspects = Vec::new();
    let mut suspects_dropped = 0;
    let mut last_suspect = Instant::now();
    let place = |known: &mut Vec<FileLeaves>, placed: Vec<(LeafName, LeafRef)>| {
        for ((file, span), leaf) in placed {
            of(known, file).leaves.push((span, leaf));
        }
    };
    for message in inbox {
        match message {
            Message::Leaf { name, encoded, length } => {
                if length > 0 {
                    of(&mut known, name.0).reaches(name.1, length);
                    let placed = gatherer.add(&mut packer, name, &encoded)?;
                    place(&mut known, placed);
                }
            }
            Message::Kept { name, leaf, length } => {
                let file = of(&mut known, name.0);
                file.reaches(name.1, length);
                file.leaves.push((name.1, leaf));
            }
            Message::Vanished(file) => of(&mut known, file).vanished = true,
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
    let placed = gatherer.flush(&mut packer)?;
    place(&mut known, placed);
    for file in &mut known {
        file.leaves.sort_by_key(|(span, _)| *span);
    }
    Ok(Collected { packer, files: known, suspects, suspects_dropped, last_suspect })
}
