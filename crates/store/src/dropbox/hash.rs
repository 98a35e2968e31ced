//! Dropbox's digest of a file: SHA-256 over the SHA-256 digests of its blocks of 4 MiB.

use aws_lc_rs::digest::{Context, SHA256};

const BLOCK: usize = 4 << 20;

/// The digest of what was added so far.
#[derive(Clone)]
pub(super) struct ContentHash {
    all: Context,
    block: Context,
    /// Bytes in the block that is being filled.
    filled: usize,
}

impl ContentHash {
    pub(super) fn new() -> Self {
        Self { all: Context::new(&SHA256), block: Context::new(&SHA256), filled: 0 }
    }

    pub(super) fn of(bytes: &[u8]) -> String {
        let mut hash = Self::new();
        hash.add(bytes);
        hash.finish()
    }

    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.block.update(now);
            self.filled += now.len();
            if self.filled == BLOCK {
                self.end_block();
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        let block = std::mem::replace(&mut self.block, Context::new(&SHA256));
        self.all.update(block.finish().as_ref());
        self.filled = 0;
    }

    /// 64 lower-case hex digits.
    pub(super) fn finish(mut self) -> String {
        if self.filled > 0 {
            self.end_block();
        }
        data_encoding::HEXLOWER.encode(self.all.finish().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(bytes: &[u8]) -> Vec<u8> {
        aws_lc_rs::digest::digest(&SHA256, bytes).as_ref().to_vec()
    }

    #[test]
    fn blocks_are_digested_one_by_one() {
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        assert_eq!(ContentHash::of(b""), hex(&sha256(b"")));
        assert_eq!(ContentHash::of(b"x"), hex(&sha256(&sha256(b"x"))));
        let long = vec![7_u8; BLOCK + 3];
        let digests = [sha256(&long[..BLOCK]), sha256(&long[BLOCK..])].concat();
        assert_eq!(ContentHash::of(&long), hex(&sha256(&digests)));
        let whole = vec![7_u8; BLOCK];
        assert_eq!(ContentHash::of(&whole), hex(&sha256(&sha256(&whole))));
        let mut pieces = ContentHash::new();
        long.chunks(1_000_003).for_each(|piece| pieces.add(piece));
        assert_eq!(pieces.finish(), ContentHash::of(&long));
    }
}
