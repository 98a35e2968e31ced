use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use refloat_repo::Compression;
use refloat_repo::crypt::page_hash::{PageHasher, PageKey};
use refloat_repo::pack::FrameOpener;
use refloat_repo::pack::reader::PackKeys;
use refloat_testkit::memory_store::Memory;

use super::*;

const BLOCK: usize = 8192;

/// What was stored, and how to read it.
struct Bench {
    store: Memory,
    hasher: PageHasher,
    keys: PackKeys,
}

impl Bench {
    fn new() -> Self {
        Self {
            store: Memory::new(),
            hasher: PageHasher::new(&PageKey::new([3; 32])),
            keys: PackKeys::default(),
        }
    }

    /// One backup of a range: its leaf, and the bytes that it stored.
    fn back_up(&mut self, bytes: &[u8], old: Option<&Leaf>) -> (Leaf, u64) {
        let store = Arc::new(self.store.clone());
        let mut packer = Packer::new(store, None, Compression::None, Arc::new(|_| Ok(()))).expect("a packer");
        let mut draft = Draft::new(BLOCK as u32);
        let mut cursor: Vec<Old<'_>> = old.map(Old::new).into_iter().collect();
        for slice in bytes.chunks(FRAME) {
            draft.leaf.crc32c = crc32c::crc32c_append(draft.leaf.crc32c, slice);
            draft.leaf.hashes.extend(slice.chunks(BLOCK).map(|page| self.hasher.hash(page)));
            draft.slice(slice, &mut cursor, &mut packer).expect("stores");
        }
        let leaf = draft.finish(old, &mut packer).expect("stores");
        let summary = packer.finish().expect("stores");
        let stored = summary.live.values().sum();
        self.keys.packs.extend(summary.packs.iter().map(|pack| (pack.id, pack.key)));
        let leaf = leaf.unwrap_or_else(|| old.expect("the same as something").clone());
        // As it goes into the repository and comes out again.
        let mut encoded = Vec::new();
        leaf.encode(&mut encoded);
        (Leaf::decode(&encoded).expect("a leaf"), stored)
    }

    fn read(&self, leaf: &Leaf) -> Vec<u8> {
        let mut opener = FrameOpener::new(Arc::new(self.keys.clone())).expect("an opener");
        let (mut out, mut plain) = (Vec::new(), Vec::new());
        for run in &leaf.runs {
            let Some((place, at)) = run.source else {
                out.resize(out.len() + run.length as usize, 0);
                continue;
            };
            opener.fetch(&self.store, leaf.frames.get(place).expect("a frame"), &mut plain).expect("opens");
            out.extend_from_slice(&plain[at as usize..][..run.length as usize]);
        }
        out
    }
}

#[derive(Debug, Clone)]
enum Change {
    Page(usize, u8),
    Zero(usize, usize),
    Cut(usize),
    Grow(usize, u8),
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change = prop_oneof![
        8 => (0_usize..160, any::<u8>()).prop_map(|(at, with)| Change::Page(at, with)),
        1 => (0_usize..160, 1_usize..40).prop_map(|(at, count)| Change::Zero(at, count)),
        1 => (0_usize..1_200_000).prop_map(Change::Cut),
        1 => (1_usize..300_000, any::<u8>()).prop_map(|(by, with)| Change::Grow(by, with)),
    ];
    prop::collection::vec(prop::collection::vec(change, 0..12), 1..25)
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match *change {
        Change::Page(at, with) => {
            let start = (at * BLOCK).min(bytes.len());
            let end = (start + BLOCK).min(bytes.len());
            let page = &mut bytes[start..end];
            page.iter_mut().enumerate().for_each(|(n, byte)| *byte = with.wrapping_add((n % 7) as u8));
        }
        Change::Zero(at, count) => {
            let start = (at * BLOCK).min(bytes.len());
            let end = (start + count * BLOCK).min(bytes.len());
            bytes[start..end].fill(0);
        }
        Change::Cut(to) => bytes.truncate(to),
        Change::Grow(by, with) => bytes.resize((bytes.len() + by).min(5 * FRAME), with),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn a_chain_of_any_changes_reads_back_as_it_was(rounds in changes()) {
        let mut bench = Bench::new();
        let mut bytes: Vec<u8> = (0..4 * FRAME + 5000).map(|at| (at / BLOCK + at % 13) as u8).collect();
        let mut leaf: Option<Leaf> = None;
        let mut all = Vec::new();
        for round in rounds {
            round.iter().for_each(|change| apply(&mut bytes, change));
            let (next, _) = bench.back_up(&bytes, leaf.as_ref());
            prop_assert_eq!(next.length, bytes.len() as u64);
            prop_assert_eq!(next.crc32c, crc32c::crc32c(&bytes));
            let frames: BTreeMap<_, _> = next.frames.frames().iter().map(|f| ((f.pack, f.index), ())).collect();
            prop_assert_eq!(frames.len(), next.frames.frames().len(), "each frame is named once");
            all.push((next.clone(), bytes.clone()));
            leaf = Some(next);
        }
        // None of them depends on those that came after.
        for (leaf, bytes) in &all {
            prop_assert!(bench.read(leaf) == *bytes);
        }
    }
}

#[test]
fn one_page_costs_one_page_and_nothing_costs_nothing() {
    let mut bench = Bench::new();
    let mut bytes: Vec<u8> = (0..8 * FRAME).map(|at| (at / BLOCK + at % 251) as u8).collect();
    let (first, stored) = bench.back_up(&bytes, None);
    assert_eq!(stored, 8 * (FRAME as u64 + 16));
    let (same, stored) = bench.back_up(&bytes, Some(&first));
    assert_eq!((stored, &same), (0, &first));
    bytes[5 * FRAME + 3 * BLOCK + 9] ^= 1;
    bytes[7 * FRAME + 9] ^= 1;
    let (second, stored) = bench.back_up(&bytes, Some(&first));
    assert_eq!(stored, 2 * BLOCK as u64 + 16, "two pages share a frame");
    assert_eq!(second.frames.frames().len(), 9);
    assert!(bench.read(&second) == bytes);
}

/// Incrementals for ever do not make a restore read a frame for every page.
#[test]
fn pages_that_lie_scattered_are_stored_together_again() {
    let mut bench = Bench::new();
    let mut bytes: Vec<u8> = (0..FRAME).map(|at| (at / BLOCK + at % 251) as u8).collect();
    let (mut leaf, _) = bench.back_up(&bytes, None);
    let mut most = 0;
    for round in 0..200_usize {
        bytes[(round * 7 % 32) * BLOCK + 100] = round as u8;
        leaf = bench.back_up(&bytes, Some(&leaf)).0;
        most = most.max(leaf.frames.frames().len());
        assert!(bench.read(&leaf) == bytes, "{round}");
    }
    assert!(most > 4 && most <= MOST_FRAMES + 1, "{most} frames");
}
