//! Reading packs, each once, on several threads: every byte of header, frames, table and footer, and of every range of
//! every file whether its bytes are those that were backed up.
//!
//! A pack that lies at the border of two windows is read as a whole with the first of them, and of the second's frames
//! only those that it needs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use refloat_repo::pack::FrameOpener;
use refloat_repo::pack::frame::Content;
use refloat_repo::pack::reader::PackKeys;
use refloat_repo::{RepoError, layout};
use refloat_store::Store;
use refloat_types::ObjectId;

use super::VerifyError;
use super::ledger::{Fault, Ledger};
use super::plan::{Ordered, Range};
use super::report::{BackupName, Depends, FindingKind, Grade};
use crate::progress::Progress;

/// Reads packs for all backups.
pub(super) struct PackReader<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) jobs: usize,
    pub(super) progress: &'a dyn Progress,
    /// Keys of every pack that may be read.
    pub(super) keys: Arc<PackKeys>,
    /// The backups, by their place.
    pub(super) backups: Vec<BackupName>,
    /// Which backups need which pack.
    pub(super) users: BTreeMap<ObjectId, Vec<u32>>,
    /// Packs that were read as a whole.
    pub(super) done: HashSet<ObjectId>,
}

/// What the threads of a window share.
struct Shared<'a, 'l> {
    reader: &'a PackReader<'a>,
    window: &'a Ordered,
    packs: Vec<Job>,
    next: AtomicUsize,
    stop: AtomicBool,
    failed: Mutex<Option<VerifyError>>,
    ledger: Mutex<&'l mut Ledger>,
}

/// One pack to be read.
struct Job {
    pack: ObjectId,
    /// Its frames in the window.
    frames: std::ops::Range<usize>,
    /// All of it is read.
    whole: bool,
}

impl PackReader<'_> {
    /// Reads everything that a window needs, and the packs it lies in.
    pub(super) fn read_window(&mut self, window: &Ordered, ledger: &mut Ledger) -> Result<(), VerifyError> {
        let jobs = window.packs.iter().map(|(pack, frames)| {
            let whole = self.keys.packs.contains_key(pack) && self.done.insert(*pack);
            Job { pack: *pack, frames: frames.clone(), whole }
        });
        let jobs = jobs.collect();
        self.run(window, jobs, ledger)?;
        for range in window.wrong() {
            let finding = ledger.add(
                FindingKind::Damaged,
                layout::pack(range.leaf).to_string(),
                "the bytes it places are not those that were backed up: their CRC-32C is another",
            );
            finding.depends.merge(self.depends(range.leaf));
            finding.depends.file(self.describe(range));
        }
        Ok(())
    }

    /// Reads the packs that no file's bytes lie in.
    pub(super) fn read_rest(
        &mut self,
        packs: impl Iterator<Item = ObjectId>,
        ledger: &mut Ledger,
    ) -> Result<(), VerifyError> {
        let done = &mut self.done;
        let fresh: BTreeSet<ObjectId> = packs.filter(|pack| done.insert(*pack)).collect();
        let jobs = fresh.into_iter().map(|pack| Job { pack, frames: 0..0, whole: true }).collect();
        self.run(&super::plan::Window::default().take(), jobs, ledger)
    }

    fn run(&self, window: &Ordered, packs: Vec<Job>, ledger: &mut Ledger) -> Result<(), VerifyError> {
        let jobs = self.jobs.clamp(1, packs.len().max(1));
        let shared = Shared {
            reader: self,
            window,
            packs,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
            ledger: Mutex::new(ledger),
        };
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                let body = || shared.work().unwrap_or_else(|error| shared.fail(error));
                let thread = std::thread::Builder::new().name("verify".to_owned());
                if let Err(error) = thread.spawn_scoped(scope, body) {
                    shared.fail(VerifyError::Thread(error));
                }
            }
        });
        match shared.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// What needs a pack.
    pub(super) fn depends(&self, pack: ObjectId) -> Depends {
        let users = self.users.get(&pack).map(Vec::as_slice).unwrap_or_default();
        Depends::on_backups(users.iter().filter_map(|at| self.backups.get(*at as usize)).cloned())
    }

    fn describe(&self, range: &Range) -> String {
        match self.backups.get(range.backup as usize) {
            Some(backup) if self.backups.len() > 1 => format!("{}: {}", backup.id, range.describe()),
            _ => range.describe(),
        }
    }
}

impl<'l> Shared<'_, 'l> {
    fn fail(&self, error: VerifyError) {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn ledger(&self) -> MutexGuard<'_, &'l mut Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> Result<(), VerifyError> {
        let mut opener = FrameOpener::new(Arc::clone(&self.reader.keys))?;
        let mut plain = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(job) = self.packs.get(self.next.fetch_add(1, Ordering::Relaxed)) else { break };
            if !job.whole || !self.read_whole(job, &mut opener)? {
                self.read_frames(job, &mut opener, &mut plain)?;
            }
        }
        Ok(())
    }

    /// Reads a pack; `false` when its table cannot be had, so that nothing of it was looked at.
    fn read_whole(&self, job: &Job, opener: &mut FrameOpener) -> Result<bool, VerifyError> {
        let reader = self.reader;
        let mut next = job.frames.clone();
        let mut fatal = None;
        let read = opener.read_pack(reader.store, job.pack, &mut |frame, content, bytes| {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut files = Vec::new();
            while let Some(wanted) =
                next.clone().next().filter(|at| self.window.taken.frames[*at].index <= frame.index)
            {
                next.next();
                match &bytes {
                    Ok(plain) if self.window.taken.frames[wanted] == *frame => {
                        self.window.place(wanted, plain)
                    }
                    Ok(_) => self.other_frame(job.pack, wanted),
                    Err(_) => files.extend(self.window.lose(wanted).map(|range| reader.describe(range))),
                }
            }
            reader.progress.advance(u64::from(frame.stored));
            if let Err(error) = bytes
                && let Err(error) = self.damaged(job.pack, content, error, files)
            {
                self.stop.store(true, Ordering::Relaxed);
                fatal = Some(error);
            }
            Ok(())
        });
        if let Some(error) = fatal {
            return Err(error);
        }
        match read {
            Ok(size) => {
                // What is left lies behind the pack's last frame.
                next.for_each(|wanted| self.other_frame(job.pack, wanted));
                self.ledger().bytes_read += size;
                Ok(true)
            }
            Err(error) => {
                self.damaged(job.pack, Content::Table, error, Vec::new())?;
                Ok(false)
            }
        }
    }

    /// Reads only the frames that the window needs.
    fn read_frames(
        &self,
        job: &Job,
        opener: &mut FrameOpener,
        plain: &mut Vec<u8>,
    ) -> Result<(), VerifyError> {
        for wanted in job.frames.clone() {
            let frame = &self.window.taken.frames[wanted];
            match opener.fetch(self.reader.store, frame, plain) {
                Ok(()) => self.window.place(wanted, plain),
                Err(error) => {
                    let files = self.window.lose(wanted).map(|range| self.reader.describe(range)).collect();
                    self.damaged(job.pack, Content::Data, error, files)?;
                }
            }
        }
        Ok(())
    }

    /// A leaf names a frame that the pack does not have.
    fn other_frame(&self, pack: ObjectId, wanted: usize) {
        let frame = &self.window.taken.frames[wanted];
        let what =
            format!("it has not the frame {} at byte {} that a backup names", frame.index, frame.offset);
        let files: Vec<String> = self.window.lose(wanted).map(|range| self.reader.describe(range)).collect();
        let mut ledger = self.ledger();
        let finding = ledger.add(FindingKind::Damaged, layout::pack(pack).to_string(), what);
        finding.depends.merge(self.reader.depends(pack));
        files.into_iter().for_each(|file| finding.depends.file(file));
    }

    fn damaged(
        &self,
        pack: ObjectId,
        content: Content,
        error: RepoError,
        files: Vec<String>,
    ) -> Result<(), VerifyError> {
        let object = layout::pack(pack).to_string();
        let fault = Fault::of(&object, error)?;
        let mut depends = self.reader.depends(pack);
        let is_needed = !depends.is_empty();
        if !is_needed {
            depends = Depends::other("no backup that is known here");
        }
        files.into_iter().for_each(|file| depends.file(file));
        if matches!(content, Content::Leaves | Content::Part | Content::Root) && is_needed {
            depends.merge(Depends::other("the manifest of a backup"));
        }
        let mut ledger = self.ledger();
        let finding = ledger.add(fault.kind, fault.object, fault.what);
        if !is_needed {
            finding.grade = Grade::Note;
        }
        finding.depends.merge(depends);
        Ok(())
    }
}
