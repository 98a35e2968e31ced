//! The frames that a window needs, each once, and the pieces that are taken from each.

use std::collections::HashMap;

use refloat_repo::pack::frame::FrameRef;

/// Pieces and the frames they are taken from, as they are met.
#[derive(Debug)]
pub(crate) struct Taken<P> {
    frames: Vec<FrameRef>,
    known: HashMap<FrameRef, u32>,
    /// Each with the number of its frame.
    pieces: Vec<(u32, P)>,
}

/// Frames in an order, and the pieces of each.
#[derive(Debug)]
pub(crate) struct ByFrame<P> {
    /// In that order.
    pub(crate) frames: Vec<FrameRef>,
    pieces: Vec<(u32, P)>,
    /// Where the pieces of each frame begin; one more at the end.
    first: Vec<u32>,
}

impl<P> Default for Taken<P> {
    fn default() -> Self {
        Self { frames: Vec::new(), known: HashMap::new(), pieces: Vec::new() }
    }
}

impl<P> Taken<P> {
    /// The number of a frame.
    pub(crate) fn number(&mut self, frame: &FrameRef) -> u32 {
        let frames = &mut self.frames;
        if frames.last() == Some(frame) {
            return frames.len() as u32 - 1;
        }
        *self.known.entry(*frame).or_insert_with(|| {
            frames.push(*frame);
            frames.len() as u32 - 1
        })
    }

    /// A piece is taken from the frame of this number.
    pub(crate) fn take(&mut self, frame: u32, piece: P) {
        self.pieces.push((frame, piece));
    }

    /// How many pieces there are.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Orders the frames by a key, which is asked for in the order they were met, and the pieces by their frames.
    pub(crate) fn by_frame<K: Ord>(self, key: impl FnMut(&FrameRef) -> K) -> ByFrame<P> {
        let Self { frames, mut pieces, .. } = self;
        let keys: Vec<K> = frames.iter().map(key).collect();
        let mut order: Vec<u32> = (0..frames.len() as u32).collect();
        order.sort_by(|a, b| keys[*a as usize].cmp(&keys[*b as usize]));
        let mut rank = vec![0_u32; order.len()];
        for (place, at) in order.iter().enumerate() {
            rank[*at as usize] = place as u32;
        }
        let mut first = vec![0_u32; order.len() + 1];
        for (frame, _) in &mut pieces {
            *frame = rank[*frame as usize];
            first[*frame as usize + 1] += 1;
        }
        for at in 1..first.len() {
            first[at] += first[at - 1];
        }
        // Mostly sorted already, which this sort is fast for; it is stable, so files stay in order.
        pieces.sort_by_key(|(frame, _)| *frame);
        ByFrame { frames: order.iter().map(|at| frames[*at as usize]).collect(), pieces, first }
    }
}

impl<P> ByFrame<P> {
    /// The pieces of a frame.
    pub(crate) fn pieces_of(&self, frame: usize) -> impl Iterator<Item = &P> + Clone {
        let pieces = &self.pieces[self.first[frame] as usize..self.first[frame + 1] as usize];
        pieces.iter().map(|(_, piece)| piece)
    }
}
