//! The frames of a WAL file, compressed while it is read and not yet sealed: every repository can take the same ones.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::{Builder, ScopedJoinHandle};

use super::FRAME;
use crate::compress::{Codec, Compression, Compressor};
use crate::error::RepoError;

/// Frames that wait for the second thread; the first one takes what does not fit.
const WAITING: usize = 2;

/// The compressed frames of a WAL file, or of a stretch of one that begins at a frame.
#[derive(Debug, Default)]
pub struct WalFrames {
    /// What each thread made.
    lanes: Vec<Vec<u8>>,
    /// In the order of the file.
    frames: Vec<Place>,
}

/// One frame on its way into an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) payload: &'a [u8],
    pub(super) codec: Codec,
    /// Bytes of the file in it.
    pub(super) plain: u32,
}

#[derive(Debug)]
struct Place {
    number: usize,
    lane: usize,
    bytes: Range<usize>,
    codec: Codec,
    plain: u32,
}

impl WalFrames {
    /// The frames of `bytes`.
    ///
    /// # Errors
    /// When compressing fails.
    pub fn of(how: Compression, bytes: &[u8]) -> Result<Self, RepoError> {
        let mut rest = bytes;
        Self::compress(how, bytes.len() as u64, &mut |buffer| {
            let (now, later) = rest.split_at(buffer.len());
            buffer.copy_from_slice(now);
            rest = later;
            Ok(())
        })
    }

    /// The frames of the next `length` bytes, which `fill` puts into one buffer after the other. The calling thread fills
    /// all of them, and compresses those that a second thread has no time for.
    ///
    /// # Errors
    /// What `fill` says, or that compressing fails.
    pub fn compress<E: From<RepoError>>(
        how: Compression,
        length: u64,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut own = Lane::new(how)?;
        if length <= FRAME as u64 {
            let mut buffer = vec![0; length as usize];
            if length > 0 {
                fill(&mut buffer)?;
                own.take(0, &buffer)?;
            }
            return Ok(Self::joined([own]));
        }
        let other = Lane::new(how)?;
        let lanes = std::thread::scope(|scope| {
            let (send, receive) = sync_channel(WAITING);
            let (give_back, returned) = channel();
            // A thread that cannot be started (too many processes) is no reason not to archive.
            let started = Builder::new().spawn_scoped(scope, move || other.serve(&receive, &give_back)).ok();
            share_out(length, fill, &mut own, &send, &returned)?;
            drop(send);
            let mut lanes = vec![own];
            lanes.extend(started.map(joined).transpose()?);
            Ok::<_, E>(lanes)
        })?;
        Ok(Self::joined(lanes))
    }

    fn joined(lanes: impl IntoIterator<Item = Lane>) -> Self {
        let mut all = Self::default();
        for (number, lane) in lanes.into_iter().enumerate() {
            all.frames.extend(lane.places.into_iter().map(|place| Place { lane: number, ..place }));
            all.lanes.push(lane.bytes);
        }
        all.frames.sort_unstable_by_key(|place| place.number);
        all
    }

    /// In the order of the file.
    pub(super) fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        self.frames.iter().map(|place| Frame {
            payload: &self.lanes[place.lane][place.bytes.clone()],
            codec: place.codec,
            plain: place.plain,
        })
    }

    /// Bytes that the frames take, and how many they are.
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.lanes.iter().map(Vec::len).sum(), self.frames.len())
    }
}

fn joined(thread: ScopedJoinHandle<'_, Result<Lane, RepoError>>) -> Result<Lane, RepoError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Fills buffers in order; each goes to the other thread where that has room, else `own` compresses it.
fn share_out<E: From<RepoError>>(
    length: u64,
    fill: &mut dyn FnMut(&mut [u8]) -> Result<(), E>,
    own: &mut Lane,
    send: &SyncSender<(usize, Vec<u8>)>,
    returned: &Receiver<Vec<u8>>,
) -> Result<(), E> {
    let mut left = length;
    let mut kept = None;
    for number in 0.. {
        if left == 0 {
            break;
        }
        let mut buffer: Vec<u8> = kept.take().or_else(|| returned.try_recv().ok()).unwrap_or_default();
        let plain = left.min(FRAME as u64) as usize;
        buffer.resize(plain, 0);
        fill(&mut buffer)?;
        left -= plain as u64;
        // A thread that ended early says why when it is joined.
        if let Err(TrySendError::Full((number, buffer)) | TrySendError::Disconnected((number, buffer))) =
            send.try_send((number, buffer))
        {
            own.take(number, &buffer)?;
            kept = Some(buffer);
        }
    }
    Ok(())
}

/// What one thread compresses.
struct Lane {
    compressor: Compressor,
    payload: Vec<u8>,
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl Lane {
    fn new(how: Compression) -> Result<Self, RepoError> {
        let compressor = Compressor::new(how)?;
        Ok(Self { compressor, payload: Vec::new(), bytes: Vec::new(), places: Vec::new() })
    }

    fn take(&mut self, number: usize, plain: &[u8]) -> Result<(), RepoError> {
        let codec = self.compressor.compress(plain, &mut self.payload)?;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&self.payload);
        let plain = u32::try_from(plain.len()).map_err(|e| RepoError::internal("compress a frame", e))?;
        self.places.push(Place { number, lane: 0, bytes: start..self.bytes.len(), codec, plain });
        Ok(())
    }

    fn serve(
        mut self,
        receive: &Receiver<(usize, Vec<u8>)>,
        give_back: &Sender<Vec<u8>>,
    ) -> Result<Self, RepoError> {
        for (number, buffer) in receive {
            self.take(number, &buffer)?;
            // Nobody fills any more.
            let _ = give_back.send(buffer);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_the_order_of_the_file_whichever_thread_made_them() {
        let bytes: Vec<u8> = (0..7 * FRAME + 100).map(|at| (at / FRAME * 31 + at % 251) as u8).collect();
        let frames = WalFrames::of(Compression::Zstd(1), &bytes).expect("compresses");
        let mut back = Vec::new();
        let mut decompressor = crate::compress::Decompressor::new().expect("a context");
        for frame in frames.iter() {
            let mut plain = Vec::new();
            decompressor.decompress(frame.codec, frame.payload, frame.plain, &mut plain).expect("our own");
            back.extend_from_slice(&plain);
        }
        assert!(back == bytes);
        assert_eq!(frames.extent().1, 8);
    }

    #[test]
    fn an_empty_file_has_no_frames() {
        assert_eq!(WalFrames::of(Compression::None, &[]).expect("nothing to do").extent(), (0, 0));
    }

    #[test]
    fn what_fill_says_ends_it() {
        let mut calls = 0;
        let failed = WalFrames::compress(Compression::None, 10 * FRAME as u64, &mut |_| {
            calls += 1;
            if calls == 3 { Err(RepoError::internal("read", "gone")) } else { Ok(()) }
        });
        assert!(failed.is_err());
        assert_eq!(calls, 3);
    }
}
