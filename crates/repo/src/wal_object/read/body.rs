//! Every byte of a stored WAL file: in order, or each piece to its place by two threads at once.

use std::io;
use std::sync::Mutex;
use std::thread::Builder;

use refloat_store::Store;

use super::frames::{Frames, Opened, Opener};
use super::input::Input;
use super::{WalHead, Wanted};
use crate::crypt::seal::DataKey;
use crate::error::RepoError;
use crate::wal_object::FRAME;
use crate::wal_object::digest::{PieceDigest, WalDigest, joined};

/// How much is read at a time where it is wanted in order.
const READ: u64 = 1 << 20;
/// Reads every byte behind a head: gives the file's bytes to `sink` in order and answers the sealed facts.
///
/// # Errors
/// `Damaged` when anything is not what was written. `sink` may have got some bytes by then: nothing may be used before
/// this is `Ok`.
pub fn read_body(
    store: &dyn Store,
    head: &WalHead,
    key: Option<&DataKey>,
    naming_key: &[u8; 32],
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<serde_json::Value, RepoError> {
    let input = Input::asked(store, &head.key, head.body, head.size, READ);
    let frames = Frames::of_body(head, key, input);
    let mut opener = frames.opener()?;
    let facts = opener.facts()?;
    let mut digest = WalDigest::new(naming_key);
    while let Some(frame) = opener.next()? {
        placed(head, &frame)?;
        digest.update(frame.plain);
        sink(frame.plain).map_err(unwritten)?;
    }
    signed(head, &digest.finish())?;
    Ok(facts)
}

/// Reads every byte behind a head: gives each piece of the file, with its offset, to `place`, in no order. Where it is wanted
/// now, on two threads at once: twice as soon done as [`read_body`], which matters where a recovery waits for it.
///
/// # Errors
/// As [`read_body`].
pub(super) fn place_body(
    frames: &Frames<'_>,
    head: &WalHead,
    wanted: Wanted,
    naming_key: &[u8; 32],
    place: &(dyn Fn(u64, &[u8]) -> io::Result<()> + Sync),
) -> Result<(), RepoError> {
    let mut opener = frames.opener()?;
    opener.facts()?;
    let pieces = Mutex::new(Vec::new());
    let work = |mut opener: Opener<'_, '_>| place_frames(&mut opener, head, naming_key, place, &pieces);
    if wanted == Wanted::Soon || head.clear.size <= FRAME as u64 {
        work(opener)?;
    } else {
        let other = frames.opener()?;
        std::thread::scope(|scope| {
            // A thread that cannot be started (too many processes) is no reason to stop a recovery.
            let thread = Builder::new().spawn_scoped(scope, || work(other)).ok();
            let own = work(opener);
            let joined =
                thread.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.unwrap_or(Ok(())).and(own)
        })?;
    }
    signed(head, &joined(naming_key, pieces.into_inner().unwrap_or_default()))
}

/// Opens, digests and places frames until none is left.
fn place_frames(
    opener: &mut Opener<'_, '_>,
    head: &WalHead,
    naming_key: &[u8; 32],
    place: &(dyn Fn(u64, &[u8]) -> io::Result<()> + Sync),
    pieces: &Mutex<Vec<PieceDigest>>,
) -> Result<(), RepoError> {
    let mut own = Vec::new();
    while let Some(frame) = opener.next()? {
        let offset = placed(head, &frame)?;
        own.push(PieceDigest::of(naming_key, offset, frame.plain));
        place(offset, frame.plain).map_err(unwritten)?;
    }
    if let Ok(mut pieces) = pieces.lock() {
        pieces.append(&mut own);
    }
    Ok(())
}

/// Where in the file a frame's bytes belong; there are as many as there have to be.
fn placed(head: &WalHead, frame: &Opened<'_>) -> Result<u64, RepoError> {
    let offset = u64::from(frame.index.saturating_sub(1)) * FRAME as u64;
    if frame.plain.len() as u64 == head.clear.size.saturating_sub(offset).min(FRAME as u64) {
        return Ok(offset);
    }
    Err(RepoError::damaged(&head.key, "a frame has another length than its place"))
}

fn signed(head: &WalHead, digest: &[u8; 32]) -> Result<(), RepoError> {
    if *digest == head.clear.digest {
        return Ok(());
    }
    Err(RepoError::damaged(&head.key, "its bytes are not the ones that were signed"))
}

fn unwritten(source: io::Error) -> RepoError {
    RepoError::internal("write the WAL file", source)
}
