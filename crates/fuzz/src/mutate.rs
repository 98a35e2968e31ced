//! Bytes changed at random, the same ones with every run.

/// Numbers that only look random (xorshift64*), begun by a seed.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

/// Where lengths, counts and signs turn over.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// No input grows beyond this, so that a run stays short.
const LONGEST: usize = 64 << 10;

impl Numbers {
    /// Numbers that a text begins.
    pub fn of(text: &str) -> Self {
        // FNV-1a; never 0, of which xorshift makes nothing else.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash | 1)
    }

    /// The next one.
    pub fn any(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `limit`; 0 where that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.any() % limit as u64) as usize }
    }

    /// Changes `bytes` in one to eight places; `other` is what pieces are taken from.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(8) {
            self.change(bytes, other);
        }
        bytes.truncate(LONGEST);
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let some = self.below(64) + 1;
        let to = (at + some).min(bytes.len());
        match self.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = self.any() as u8,
            2 => self.put_edge(bytes, at),
            3 => drop(bytes.drain(at..to)),
            4 => drop(bytes.splice(at..at, (0..some).map(|n| n as u8).collect::<Vec<_>>())),
            5 => drop(bytes.splice(at..at, bytes[at..to].to_vec())),
            6 => bytes.truncate(at),
            7 => {
                let from = self.below(other.len());
                let piece = &other[from..(from + some).min(other.len())];
                drop(bytes.splice(at..to, piece.to_vec()));
            }
            _ => {
                // Text and counts are made of digits.
                let digits = EDGES[self.below(EDGES.len())].to_string();
                drop(bytes.splice(at..at, digits.into_bytes()));
            }
        }
    }

    fn put_edge(&mut self, bytes: &mut [u8], at: usize) {
        let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
        let width = [1, 2, 4, 8][self.below(4)];
        for (byte, value) in bytes.iter_mut().skip(at).zip(&edge[..width]) {
            *byte = *value;
        }
    }
}
