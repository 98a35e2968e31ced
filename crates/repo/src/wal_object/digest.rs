//! The digest of a WAL file: keyed BLAKE3 of its bytes, taken in order or by pieces that several threads hold.

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use super::FRAME;

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

/// What one frame's bytes add to the digest of the file they are from.
pub(super) struct PieceDigest {
    offset: u64,
    length: u64,
    /// Its node in BLAKE3's tree: a frame's size is a power of two, and so is the number of chunks below a node.
    node: ChainingValue,
    /// The digest of the file, were this all of it.
    alone: Option<[u8; 32]>,
}

impl PieceDigest {
    /// That of `bytes`, at most a frame, at `offset`, a multiple of a frame.
    pub(super) fn of(naming_key: &[u8; 32], offset: u64, bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(naming_key);
        hasher.set_input_offset(offset);
        hasher.update(bytes);
        let alone = (offset == 0).then(|| *hasher.finalize().as_bytes());
        Self { offset, length: bytes.len() as u64, node: hasher.finalize_non_root(), alone }
    }
}

/// The digest of the file that `pieces` make, in whatever order they come: a whole frame each but the last one, none lacking.
pub(super) fn joined(naming_key: &[u8; 32], mut pieces: Vec<PieceDigest>) -> [u8; 32] {
    pieces.sort_unstable_by_key(|piece| piece.offset);
    match pieces.as_slice() {
        [] => WalDigest::new(naming_key).finish(),
        [only] => only.alone.unwrap_or_default(),
        several => {
            let (left, right) = halves(several);
            let mode = Mode::KeyedHash(naming_key);
            *merge_subtrees_root(&node(naming_key, left), &node(naming_key, right), mode).as_bytes()
        }
    }
}

fn node(naming_key: &[u8; 32], pieces: &[PieceDigest]) -> ChainingValue {
    match pieces {
        [only] => only.node,
        several => {
            let (left, right) = halves(several);
            let mode = Mode::KeyedHash(naming_key);
            merge_subtrees_non_root(&node(naming_key, left), &node(naming_key, right), mode)
        }
    }
}

/// Where BLAKE3 parts a tree.
fn halves(pieces: &[PieceDigest]) -> (&[PieceDigest], &[PieceDigest]) {
    let total: u64 = pieces.iter().map(|piece| piece.length).sum();
    pieces.split_at((left_subtree_len(total) / FRAME as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_digest_of_the_whole() {
        let key = [7; 32];
        for length in [
            0,
            1,
            1024,
            FRAME - 1,
            FRAME,
            FRAME + 1,
            2 * FRAME,
            3 * FRAME + 5,
            7 * FRAME,
            8 * FRAME,
            9 * FRAME + 1025,
        ] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
            let mut whole = WalDigest::new(&key);
            whole.update(&bytes);
            let pieces = bytes.chunks(FRAME).enumerate();
            let mut pieces: Vec<_> =
                pieces.map(|(number, piece)| PieceDigest::of(&key, (number * FRAME) as u64, piece)).collect();
            pieces.reverse();
            assert_eq!(joined(&key, pieces), whole.finish(), "{length}");
        }
    }
}
