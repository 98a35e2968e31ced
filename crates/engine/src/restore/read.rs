//! Reading the files of a backup, planned by pack.
//!
//! The manifest is read in windows of bounded size. Within a window every needed frame is read and opened once, in the
//! order of its pack, neighbours with one read, by several threads; each piece of it goes to a [`Sink`] at once, while it
//! is in the processor's cache. The CRC of every range is checked at the window's end. A restore writes the pieces, a
//! verification drops them. Where files are there already, each range is compared first, and only what differs is fetched.
//!
//! Nothing is written here.

mod compare;
pub(crate) mod crc;
pub(crate) mod frames;
mod plan;
mod turns;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use refloat_repo::manifest::root::{BlobReader, LeafReader};
use refloat_repo::manifest::{Entry, Root, What};
use refloat_repo::pack::reader::PackKeys;
use refloat_repo::pack::{Copies, FrameOpener};
use refloat_repo::{RepoError, Repository, StateDirectory, layout};
use refloat_store::{Key, Store};
use refloat_types::ObjectId;

use refloat_repo::commit::CommitRecord;

use crate::progress::Progress;

pub use compare::{Compare, There};

/// A backup that can be read: its manifest's root and its keys.
pub struct Backup {
    store: Arc<dyn Store>,
    keys: Arc<PackKeys>,
    root: Root,
    state: StateDirectory,
    copies: Arc<Copies>,
    /// Keys whose envelopes are no good in its own repository.
    envelopes: Vec<ObjectId>,
}

/// A file, as far as its bytes are in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSlot {
    /// Its place among all files of the backup.
    pub number: u64,
    /// Path relative to the data directory.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Bytes.
    pub size: u64,
}

/// Takes the bytes of files. Called by several threads; each has a `Worker` of its own.
pub trait Sink: Sync {
    /// What a thread keeps between calls.
    type Worker: Send;

    /// The state of a new thread.
    fn worker(&self) -> Self::Worker;

    /// A whole file in one piece; nothing else is called for it.
    ///
    /// # Errors
    /// Ends the reading.
    fn whole(&self, worker: &mut Self::Worker, file: &FileSlot, bytes: &[u8]) -> Result<(), SinkError>;

    /// A piece of a file. Ranges that no piece covers are zeros.
    ///
    /// # Errors
    /// Ends the reading.
    fn piece(
        &self,
        worker: &mut Self::Worker,
        file: &FileSlot,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), SinkError>;

    /// All bytes of the file were given and are right. Some other thread may have given them.
    ///
    /// # Errors
    /// Ends the reading.
    fn finish(&self, worker: &mut Self::Worker, file: &FileSlot) -> Result<(), SinkError>;

    /// Something in the repository is not what was backed up. Ends the reading unless this says otherwise.
    ///
    /// # Errors
    /// Ends the reading.
    fn damaged(&self, damage: Damage) -> Result<(), Damage> {
        Err(damage)
    }
}

/// What a sink could not do.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", path.display())]
pub struct SinkError {
    /// What was attempted: `write`.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// Bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRange {
    /// Path relative to the data directory.
    pub path: Vec<u8>,
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// Bytes that cannot be had, or are not those that were backed up.
#[derive(Debug)]
pub struct Damage {
    /// What they belong to: at least one, every one of them.
    pub ranges: Vec<FileRange>,
    /// What is wrong.
    pub why: DamageCause,
}

/// Why bytes cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DamageCause {
    /// A frame cannot be read or opened.
    #[error(transparent)]
    Frame(#[from] RepoError),
    /// Each frame opened, and together they are not what was read from the server.
    #[error("the bytes have CRC-32C {found:08x}, the backup recorded {expected:08x}")]
    Checksum {
        /// As backed up.
        expected: u32,
        /// As read.
        found: u32,
    },
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The manifest or a key cannot be read.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// Damage that the sink did not put up with.
    #[error("could not read {} from the backup", name(ranges))]
    Damaged {
        /// What cannot be read.
        ranges: Vec<FileRange>,
        /// Why.
        #[source]
        why: DamageCause,
    },
    /// The sink failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A thread could not be started.
    #[error("could not start a thread")]
    Thread(#[source] std::io::Error),
}

/// `bytes 0 to 8192 of base/5/16384 (and 3 more ranges)`
fn name(ranges: &[FileRange]) -> String {
    let Some(first) = ranges.first() else { return "a file".to_owned() };
    let path = String::from_utf8_lossy(&first.path);
    let first = format!("bytes {} to {} of {path}", first.offset, first.offset.saturating_add(first.length));
    match ranges.len() {
        1 => first,
        n => format!("{first} (and {} more ranges)", n - 1),
    }
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        Self::Damaged { ranges: damage.ranges, why: damage.why }
    }
}

/// How much is read at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Bytes of files.
    pub bytes: u64,
    /// Pieces: 24 bytes of memory each, and up to 64 for its frame.
    pub pieces: usize,
    /// Files: some 150 bytes of memory each.
    pub files: usize,
}

impl Default for Window {
    /// Below 100 MB of memory in the worst case; two windows are in work at a time.
    fn default() -> Self {
        Self { bytes: 8 << 30, pieces: 1 << 20, files: 1 << 17 }
    }
}

/// Told of every entry of the manifest, in order, with the CRC-32C of a file's bytes, before any of its bytes is read.
pub type OnEntry<'a> = &'a mut (dyn FnMut(&Entry, u32) -> Result<bool, SinkError> + Send);

impl Backup {
    /// Opens a backup: its keys and its manifest's root.
    ///
    /// # Errors
    /// When this host cannot open its keys, or the root is not the one that was signed.
    pub fn open(repository: &Repository, commit: &CommitRecord) -> Result<Self, RepoError> {
        Self::open_beside(repository, &[], commit)
    }

    /// The same where `others` may hold copies: what is damaged here is read there.
    ///
    /// # Errors
    /// When no repository can open its keys, or has the root that was signed.
    pub fn open_beside(
        repository: &Repository,
        others: &[&Repository],
        commit: &CommitRecord,
    ) -> Result<Self, RepoError> {
        let (keys, envelopes) = repository.pack_keys_beside(others, commit)?;
        let keys = Arc::new(keys);
        let store = Arc::clone(repository.store());
        let copies = Arc::new(Copies::new(others.iter().map(|other| Arc::clone(other.store())).collect()));
        let mut opener = FrameOpener::new(Arc::clone(&keys))?.beside(Arc::clone(&copies));
        let root = Root::read(store.as_ref(), &mut opener, &commit.commit.root)?;
        Ok(Self { store, keys, root, state: repository.state().clone(), copies, envelopes })
    }

    /// What was damaged in its own repository and had to be taken from another one, so far: objects, and what is wrong.
    pub fn passed_over(&self) -> BTreeMap<Key, String> {
        let packs = self.copies.passed_over().into_iter().map(|(pack, why)| (layout::pack(pack), why));
        let no_good = || "it does not open".to_owned();
        let envelopes = self.envelopes.iter().map(|id| (layout::envelope(*id), no_good()));
        packs.chain(envelopes).collect()
    }

    /// The manifest's root.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    pub(super) fn opener(&self) -> Result<FrameOpener, RepoError> {
        Ok(FrameOpener::new(Arc::clone(&self.keys))?.beside(Arc::clone(&self.copies)))
    }

    /// A byte string kept beside the files.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn blob(&self, name: &str) -> Result<Option<Vec<u8>>, RepoError> {
        self.root.blob(self.store.as_ref(), &mut self.opener()?, name)
    }

    /// The same, little by little.
    ///
    /// # Errors
    /// When its first bytes cannot be read.
    pub(super) fn blob_reader(&self, name: &str) -> Result<Option<BlobReader<'_>>, RepoError> {
        let Some(blob) = self.root.blobs.get(name) else { return Ok(None) };
        Ok(Some(BlobReader::new(self.store.as_ref(), self.opener()?, blob)))
    }

    /// Where this host keeps what is too much for memory.
    pub(super) fn state(&self) -> &StateDirectory {
        &self.state
    }

    /// Calls `each` for every entry of the manifest, in order.
    ///
    /// # Errors
    /// When a part cannot be read, or what `each` answers.
    pub fn entries<E: From<RepoError>>(&self, mut each: impl FnMut(Entry) -> Result<(), E>) -> Result<(), E> {
        let mut opener = self.opener()?;
        for part in &self.root.parts {
            let entries = refloat_repo::manifest::root::read_part(self.store.as_ref(), &mut opener, part)?;
            entries.into_iter().try_for_each(&mut each)?;
        }
        Ok(())
    }

    /// The bytes of one small file.
    ///
    /// # Errors
    /// When they cannot be read, are not those that were backed up, or are more than `limit`.
    pub fn read_file(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, ReadError> {
        let What::File { size, leaves, .. } = &entry.what else { return Ok(Vec::new()) };
        let path = String::from_utf8_lossy(&entry.path);
        if *size > limit {
            let what = format!("{path} has {size} bytes where at most {limit} are expected");
            return Err(RepoError::damaged("the backup", what).into());
        }
        let (mut opener, mut reader) = (self.opener()?, LeafReader::default());
        let (mut bytes, mut plain) = (Vec::new(), Vec::new());
        for leaf in leaves.iter() {
            let leaf = reader.read(self.store.as_ref(), &mut opener, leaf)?;
            let start = bytes.len();
            for run in &leaf.runs {
                let length = usize::try_from(run.length).unwrap_or(usize::MAX);
                match run.source.and_then(|(place, at)| Some((leaf.frames.get(place)?, at as usize))) {
                    None => bytes.resize(bytes.len().saturating_add(length), 0),
                    Some((frame, at)) => {
                        opener.fetch(self.store.as_ref(), frame, &mut plain)?;
                        bytes.extend_from_slice(plain.get(at..at + length).unwrap_or_default());
                    }
                }
            }
            let (expected, found) = (leaf.crc32c, crc32c::crc32c(bytes.get(start..).unwrap_or_default()));
            if expected != found {
                let range = FileRange { path: entry.path.clone(), offset: start as u64, length: leaf.length };
                let why = DamageCause::Checksum { expected, found };
                return Err(ReadError::Damaged { ranges: vec![range], why });
            }
        }
        Ok(bytes)
    }

    /// Reads the files of the backup into `sink`, on `jobs` threads at once; some more wait for a store that is far away.
    /// `each` is asked about every entry; files it
    /// answers `false` for are left out.
    ///
    /// # Errors
    /// When the manifest cannot be read, bytes are damaged, or sink or `each` fail.
    pub fn read<S: Sink>(
        &self,
        sink: &S,
        each: OnEntry<'_>,
        jobs: usize,
        window: Window,
        progress: &dyn Progress,
    ) -> Result<(), ReadError> {
        self.read_over(None, sink, each, jobs, window, progress)
    }

    /// The same over files that may be there already: what `compare` finds to be right is not read from the repository.
    ///
    /// # Errors
    /// As [`read`](Self::read), or when `compare` fails.
    pub fn read_over<S: Sink>(
        &self,
        compare: Option<&dyn Compare>,
        sink: &S,
        each: OnEntry<'_>,
        jobs: usize,
        window: Window,
        progress: &dyn Progress,
    ) -> Result<(), ReadError> {
        // One window is planned while the one before is read.
        let (sender, receiver) = sync_channel(0);
        std::thread::scope(|scope| {
            let planner = std::thread::Builder::new().name("restore-plan".to_owned());
            let planned = planner
                .spawn_scoped(scope, move || {
                    let over = compare.map(|compare| (compare, jobs.max(1)));
                    plan::windows(self, over, each, window, &sender)
                })
                .map_err(ReadError::Thread)?;
            let mut result = Ok(());
            for window in receiver {
                result = work::run(self, &window, sink, jobs.max(1), progress);
                if result.is_err() {
                    // Dropping the receiver ends the planner.
                    break;
                }
            }
            match planned.join() {
                Ok(planned) => result.and(planned),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}
