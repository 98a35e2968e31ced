//! The threads that read a window: take a unit, read it, open its frames, hand out their pieces.
//!
//! Where each read goes over a network, more of them are on their way than threads open frames: otherwise every thread would
//! stand still for the time of an answer, once for each unit.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use refloat_repo::pack::FrameOpener;
use refloat_repo::pack::frame::FrameRef;
use refloat_repo::{RepoError, layout};

use super::crc;
use super::plan::{Part, Piece, Planned, Unit};
use super::turns::Turns;
use super::{Backup, Damage, DamageCause, FileRange, ReadError, Sink};
use crate::progress::Progress;

/// Files that one thread finishes at a time.
const BATCH: usize = 64;
/// Reads on their way at least, beyond the threads that work, where the store is remote. Each holds a unit: 4 MiB.
const AHEAD: usize = 6;

/// What the threads of a window share.
struct Shared<'a, S> {
    backup: &'a Backup,
    window: &'a Planned,
    sink: &'a S,
    progress: &'a dyn Progress,
    turns: Turns,
    next_unit: AtomicUsize,
    next_batch: AtomicUsize,
    stop: AtomicBool,
    failed: Mutex<Option<ReadError>>,
}

/// Reads a window; `jobs` threads work at once.
pub(super) fn run<S: Sink>(
    backup: &Backup,
    window: &Planned,
    sink: &S,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<(), ReadError> {
    let shared = Shared {
        backup,
        window,
        sink,
        progress,
        turns: Turns::new(jobs),
        next_unit: AtomicUsize::new(0),
        next_batch: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        failed: Mutex::new(None),
    };
    let ahead = if backup.store.features().remote { jobs.max(AHEAD) } else { 0 };
    shared.on_threads((jobs + ahead).min(window.units.len()), Shared::read);
    // Only now every range is complete.
    shared.on_threads(jobs.min(window.files.len().div_ceil(BATCH)), Shared::finish);
    match shared.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl<S: Sink> Shared<'_, S> {
    fn on_threads(&self, jobs: usize, work: fn(&Self) -> Result<(), ReadError>) {
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                let body = || work(self).unwrap_or_else(|error| self.fail(error));
                let thread = std::thread::Builder::new().name("restore".to_owned());
                if let Err(error) = thread.spawn_scoped(scope, body) {
                    self.fail(ReadError::Thread(error));
                }
            }
        });
    }

    /// Keeps the first error and stops the others.
    fn fail(&self, error: ReadError) {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn read(&self) -> Result<(), ReadError> {
        let mut opener = self.backup.opener()?;
        let mut worker = self.sink.worker();
        let (mut stored, mut plain) = (Vec::new(), Vec::new());
        while !self.stop.load(Ordering::Relaxed) {
            let Some(unit) = self.window.units.get(self.next_unit.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            self.read_unit(unit, &mut opener, &mut worker, (&mut stored, &mut plain))?;
        }
        Ok(())
    }

    fn read_unit(
        &self,
        unit: &Unit,
        opener: &mut FrameOpener,
        worker: &mut S::Worker,
        (stored, plain): (&mut Vec<u8>, &mut Vec<u8>),
    ) -> Result<(), ReadError> {
        let frames = unit.frames.start as usize..unit.frames.end as usize;
        let Some(pack) = self.window.taken.frames.get(frames.start).map(|frame| frame.pack) else {
            return Ok(());
        };
        stored.clear();
        let store = self.backup.store.as_ref();
        let together = store.read(&layout::pack(pack), unit.start..unit.end, stored).is_ok();
        let _turn = self.turns.take();
        for at in frames {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let frame = &self.window.taken.frames[at];
            // A read that failed is tried frame by frame: most of a pack that was cut short can still be had.
            let opened = if together {
                match open(opener, frame, stored, unit.start, plain) {
                    Err(error) => opener.elsewhere(frame, plain, error),
                    done => done,
                }
            } else {
                opener.fetch(store, frame, plain)
            };
            let mut pieces = self.window.taken.pieces_of(at);
            match opened {
                Ok(()) => pieces.try_for_each(|piece| self.place(piece, plain, worker))?,
                Err(error) => self.damaged(pieces, error)?,
            }
        }
        Ok(())
    }

    fn place(&self, piece: &Piece, plain: &[u8], worker: &mut S::Worker) -> Result<(), ReadError> {
        let start = piece.at as usize;
        // The leaf was checked against the frame's length, and the frame opened to exactly that.
        let Some(bytes) = plain.get(start..start + piece.length as usize) else { return Ok(()) };
        let range = &self.window.ranges[piece.range as usize];
        let behind = range.length - piece.offset - piece.length;
        range.found.fetch_xor(crc::contribution(crc32c::crc32c(bytes), u64::from(behind)), Ordering::Relaxed);
        let part = &self.window.files[range.file as usize];
        if part.single {
            self.sink.whole(worker, &part.slot, bytes)?;
        } else {
            self.sink.piece(worker, &part.slot, range.offset + u64::from(piece.offset), bytes)?;
        }
        self.progress.advance(u64::from(piece.length));
        Ok(())
    }

    fn damaged<'p>(
        &self,
        pieces: impl Iterator<Item = &'p Piece>,
        error: RepoError,
    ) -> Result<(), ReadError> {
        let ranges = pieces.map(|piece| {
            let range = &self.window.ranges[piece.range as usize];
            // Its CRC cannot hold now, and needs no second word.
            range.damaged.store(true, Ordering::Relaxed);
            let path = self.window.files[range.file as usize].slot.path.clone();
            let offset = range.offset + u64::from(piece.offset);
            FileRange { path, offset, length: u64::from(piece.length) }
        });
        let damage = Damage { ranges: ranges.collect(), why: DamageCause::Frame(error) };
        Ok(self.sink.damaged(damage)?)
    }

    fn finish(&self) -> Result<(), ReadError> {
        let mut worker = self.sink.worker();
        while !self.stop.load(Ordering::Relaxed) {
            let start = self.next_batch.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = self.window.files.get(start..) else { break };
            if batch.is_empty() {
                break;
            }
            for part in batch.iter().take(BATCH) {
                self.finish_file(part, &mut worker)?;
            }
        }
        Ok(())
    }

    fn finish_file(&self, part: &Part, worker: &mut S::Worker) -> Result<(), ReadError> {
        for range in &self.window.ranges[part.ranges.start as usize..part.ranges.end as usize] {
            let (expected, found) = (range.expected, range.found.load(Ordering::Relaxed));
            if expected != found && !range.damaged.load(Ordering::Relaxed) {
                let path = part.slot.path.clone();
                let range = FileRange { path, offset: range.offset, length: u64::from(range.length) };
                let why = DamageCause::Checksum { expected, found };
                self.sink.damaged(Damage { ranges: vec![range], why })?;
            }
        }
        if part.ends && !part.single {
            self.sink.finish(worker, &part.slot)?;
        }
        Ok(())
    }
}

fn open(
    opener: &mut FrameOpener,
    frame: &FrameRef,
    stored: &mut [u8],
    start: u64,
    plain: &mut Vec<u8>,
) -> Result<(), RepoError> {
    let range = usize::try_from(frame.offset - start).ok().map(|at| at..at + frame.stored as usize);
    let stored = range.and_then(|range| stored.get_mut(range)).unwrap_or_default();
    opener.open(frame, stored, plain)
}
