//! The story of a backup.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel, sync_channel};
use std::time::{Duration, Instant};

use refloat_pg::control;
use refloat_pg::sql::{BackupMode, BackupStart, Session, StopPoint};
use refloat_repo::crypt::page_hash::{PageHasher, PageKey};
use refloat_repo::crypt::seal::DataKey;
use refloat_repo::pack::{PackSummary, Packer};
use refloat_repo::{Repository, layout};
use refloat_types::{BackupId, Lsn, Timestamp, fault};

use super::collect::{Collected, collect};
use super::commit::commit;
use super::copy::{Copier, Copies, Message, Shared};
use super::end::{Late, end_backup};
use super::facts::{self, RecordedFacts};
use super::files::{self, FileToCopy, Listing};
use super::leftovers::{self, Crashed, SourceLock};
use super::own_wal;
use super::parent::{self, Parent, ParentReader, Situation, Uses};
use super::places::Places;
use super::prepare::{Prepared, clear_abandoned, prepare, refuse_locked};
use super::queue::{Queue, Task};
use super::throttle::Throttle;
use super::{
    BackupError, BackupReport, BackupRequest, BadPage, FailingArchiver, histories, others, pages, preflight,
    standby,
};
use crate::progress::ByteCounter;
use crate::spill::Spill;

/// How often the server is asked whether the backup still goes on.
const PING_EVERY: Duration = Duration::from_secs(5);

/// What copying made.
pub(super) struct Copied {
    pub(super) listing: Listing,
    /// Files that came after the copy.
    pub(super) late: Vec<FileToCopy>,
    pub(super) collected: Collected,
    pub(super) data: Vec<PackSummary>,
    pub(super) stop: StopPoint,
    pub(super) facts: RecordedFacts,
    pub(super) outside: Vec<facts::OutsideFile>,
    pub(super) own_wal: bool,
    /// Where the record begins that ends the backup, where none follows.
    pub(super) stop_record: Option<Lsn>,
    pub(super) failing: Option<FailingArchiver>,
    pub(super) bad_pages: Vec<BadPage>,
    /// Bytes of files that were read.
    pub(super) read: u64,
    /// Before the first file was looked at.
    pub(super) read_from: Timestamp,
    /// What is used of older packs.
    pub(super) uses: Uses,
    pub(super) lost: Lost,
}

/// Leaves of the parent that could not be read.
#[derive(Debug, Clone, Default)]
pub(super) struct Lost {
    count: u64,
    why: Option<String>,
}

impl Lost {
    /// What a person should know of it.
    pub(super) fn note(&self) -> Option<String> {
        let why = self.why.as_ref()?;
        Some(format!(
            "{} ranges are stored anew, because what the backup before has of them cannot be read: {why}; \
             refloat verify --read-data tells what else that concerns",
            self.count
        ))
    }
}

/// What several copiers made.
#[derive(Default)]
struct Gathered {
    packs: Vec<PackSummary>,
    uses: Uses,
    lost: Lost,
}

impl Gathered {
    fn add(&mut self, copies: Copies) {
        self.packs.push(copies.packs);
        for (pack, bytes) in copies.uses {
            *self.uses.entry(pack).or_default() += bytes;
        }
        self.lost.count += copies.lost.0;
        self.lost.why = self.lost.why.take().or(copies.lost.1);
    }
}

/// Makes a backup.
///
/// # Errors
/// Nothing of it is visible then, and the server is not in backup mode.
pub fn run(request: &BackupRequest<'_>) -> Result<BackupReport, BackupError> {
    let began = Instant::now();
    let repository = request.repository;
    let lock = SourceLock::take(repository, &request.source, request.clock.now())?;
    refuse_locked(request)?;
    let session = Session::connect_to(&request.data_directory, &request.connection)?;
    let prepared = prepare(request, &session, &lock)?;
    let finished = copy_and_commit(request, session, &prepared, began);
    settle(request, &prepared, &lock, finished)
}

/// Clears what is of no more use. What a failed backup has stored may be of use to the next one; but where there is no space
/// left, WAL has none either, and comes first.
fn settle(
    request: &BackupRequest<'_>,
    prepared: &Prepared<'_>,
    lock: &SourceLock,
    finished: Result<BackupReport, BackupError>,
) -> Result<BackupReport, BackupError> {
    let (repository, source, guard) = (request.repository, prepared.source, &prepared.guard);
    let cleared = match &finished {
        Ok(report) => {
            let own = layout::commit(source, report.number, report.backup);
            leftovers::clear(repository, source, lock, guard, Some(&own))
        }
        Err(error) if error.is_out_of_space() => leftovers::clear(repository, source, lock, guard, None),
        Err(_) => {
            let expected = leftovers::header(request, prepared.control.system_identifier);
            leftovers::survey(repository, source, lock, guard, &expected).map(|(_, cleared)| cleared)
        }
    };
    let cleared = cleared.unwrap_or_else(|error| {
        tracing::warn!(id = %prepared.id, %error, "packs of no more use stay until the next backup");
        0
    });
    finished.map(|mut report| {
        report.cleared_packs += cleared;
        report
    })
}

fn copy_and_commit(
    request: &BackupRequest<'_>,
    session: Session,
    prepared: &Prepared<'_>,
    began: Instant,
) -> Result<BackupReport, BackupError> {
    let archiver = session.archiver_status()?;
    let expect_archive = own_wal::archive_is_expected(request, &archiver, prepared.is_standby);
    // What a standby needs last may never be archived.
    if !expect_archive || prepared.is_standby {
        let held = session.reserve_wal()?;
        if held.lsn().is_none() {
            tracing::warn!(?held, "WAL is not held by a slot while the backup runs");
        }
    }
    request.progress.phase("checkpoint", 0);
    fault::point("backup.before_start").map_err(|_| BackupError::Internal("failpoint"))?;
    let label = request.label.clone().unwrap_or_else(|| format!("refloat {}", prepared.id));
    let mode = session.start_backup(&BackupStart { label, fast: request.fast_checkpoint })?;
    fault::point("backup.after_start").map_err(|_| BackupError::Internal("failpoint"))?;
    let start = mode.start().clone();
    if prepared.is_standby {
        standby::still(&start, request)?;
        standby::same_timeline(&start, &control::read_settled(&request.data_directory)?.0)?;
    }
    let history_notes = histories::keep(request, prepared.control.system_identifier, start.timeline)?;
    let situation = Situation {
        source: prepared.source,
        system: prepared.control.system_identifier,
        start: &start,
        // A standby's start is its last restartpoint; its pages are newer.
        reached: if prepared.is_standby { standby::reached(mode.session())? } else { start.lsn },
        history: histories::local(request, start.timeline)?,
        began: request.clock.now(),
        // The checkpoint may have taken long.
        forbidden: prepared.guard.look_again()?,
    };
    let mut choice = parent::choose(request, &situation)?;
    let (held, note) =
        parent::hold(request.repository, choice.parent.as_mut(), request.keep, prepared.guard.store_now())?;
    choice.notes.extend(note);
    let parent = choice.parent.iter().map(Parent::id);
    let used: Vec<BackupId> = parent.chain(prepared.crashed.backups().iter().copied()).collect();
    prepared.guard.uses(&used)?;
    let copied = copy(request, prepared, mode, choice.parent.as_ref(), expect_archive)?;
    let (mut report, names) = commit(request, prepared, &start, (choice, held), copied, began)?;
    report.notes.extend(history_notes);
    report.others = others::bring(request, prepared, &report, &names);
    // Behind the commit, so that one that is slow to answer holds up nothing, and one that failed is not asked at all.
    let brought = request.others.iter().zip(&report.others).filter(|(_, brought)| brought.failed.is_none());
    report.cleared_packs +=
        brought.map(|(other, _)| clear_abandoned(other.repository, &other.name)).sum::<u64>();
    Ok(report)
}

/// What pages are hashed under: as in the backup that this one refers to.
pub(super) fn page_key(repository: &Repository, parent: Option<&Parent>) -> PageKey {
    parent.and_then(Parent::page_key).unwrap_or_else(|| repository.page_key())
}

fn new_packer(
    request: &BackupRequest<'_>,
    prepared: &Prepared<'_>,
    key: Option<&Arc<DataKey>>,
) -> Result<Packer, BackupError> {
    let note = Arc::clone(&prepared.note);
    let store = Arc::clone(&prepared.packs);
    let announce = Arc::new(move |pack| note.announce(pack));
    Ok(Packer::new(store, key.cloned(), request.compression, announce)?)
}

/// Copies everything while the server is in backup mode, ends that, and makes sure of the WAL.
fn copy(
    request: &BackupRequest<'_>,
    prepared: &Prepared<'_>,
    mode: BackupMode,
    parent: Option<&Parent>,
    expect_archive: bool,
) -> Result<Copied, BackupError> {
    let major = mode.session().info().major();
    let read_from = request.clock.now();
    let listing = files::list(request, major, &prepared.control, parent)?;
    preflight::check_space(request, &listing, prepared.crashed.bytes())?;
    let places = Places::new(Spill::create(request.repository.state())?);
    let start = mode.start().clone();
    // Backups that died here have hashed under this repository's own key, and this one's journal is read as if it had.
    let page_key = page_key(request.repository, parent);
    let is_own = page_key == request.repository.page_key();
    let nothing = Crashed::default();
    let shared = Shared {
        data_directory: &request.data_directory,
        parent,
        page_key,
        crashed: if is_own { &prepared.crashed } else { &nothing },
        note: is_own.then_some(&*prepared.note),
        block_size: prepared.control.block_size,
        checksums: prepared.control.checksum_version != 0,
        throttle: Throttle::new(request.max_read_rate),
        abort: AtomicBool::new(false),
        read: ByteCounter::default(),
        progress: request.progress,
    };
    request.progress.phase("copy", listing.bytes);
    let (sender, inbox) = sync_channel::<Message>(256);
    let meta_packer = new_packer(request, prepared, prepared.map_key.as_ref())?;
    let mut made = Gathered::default();
    let queue = Queue::new(&listing, request.jobs, parent.is_some());
    let (mut collected, ended, late) = std::thread::scope(|scope| {
        let collector = scope.spawn(move || collect(&inbox, meta_packer, places));
        let copied = copy_files(scope, request, prepared, &shared, &queue, &sender, &mode);
        let ended = copied.and_then(|copied| {
            made = copied;
            let packer = new_packer(request, prepared, prepared.key.as_ref())?;
            let copier = Copier::new(&shared, packer, None, sender.clone());
            let late = Late { copier, place: listing.spans, files: Vec::new() };
            end_backup(request, prepared, mode, &start, late, expect_archive)
        });
        drop(sender);
        let collected = collector.join().map_err(|_| BackupError::Internal("the collector panicked"))?;
        // The collector's own failure is why the copiers failed, if both did.
        let collected = collected?;
        let (ended, copies, late) = ended?;
        made.add(copies);
        Ok::<_, BackupError>((collected, ended, late))
    })?;
    let since = collected.last_suspect;
    let suspects = std::mem::take(&mut collected.suspects);
    let hasher = PageHasher::new(&page_key);
    let judged = pages::judge(&request.data_directory, &hasher, shared.checksums, suspects, since);
    let path = request.data_directory.clone();
    let mut bad_pages = judged.map_err(|source| BackupError::Read { path, source })?;
    ended.facts.name_relations(&mut bad_pages)?;
    Ok(Copied {
        listing,
        late,
        collected,
        data: made.packs,
        stop: ended.stop,
        facts: ended.facts,
        outside: ended.outside,
        own_wal: ended.own_wal,
        stop_record: ended.stop_record,
        failing: ended.failing,
        bad_pages,
        read: shared.read.get(),
        read_from,
        uses: made.uses,
        lost: made.lost,
    })
}

/// Copies all files on `jobs` threads and pings the server meanwhile.
fn copy_files<'scope, 'env: 'scope>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    request: &'env BackupRequest<'_>,
    prepared: &'env Prepared<'_>,
    shared: &'env Shared<'env>,
    queue: &'env Queue,
    sender: &std::sync::mpsc::SyncSender<Message>,
    mode: &BackupMode,
) -> Result<Gathered, BackupError> {
    let (done, finished) = channel::<()>();
    let mut workers = Vec::new();
    // All of them before the first begins: nobody copies when one cannot be made.
    let reader = |parent| ParentReader::new(parent, Arc::clone(request.repository.store()));
    let copiers: Vec<Copier<'_>> = (0..request.jobs.max(1))
        .map(|_| {
            let packer = new_packer(request, prepared, prepared.key.as_ref())?;
            let parent = shared.parent.map(reader).transpose()?;
            Ok(Copier::new(shared, packer, parent, sender.clone()))
        })
        .collect::<Result<_, BackupError>>()?;
    for copier in copiers {
        let done = done.clone();
        workers.push(scope.spawn(move || {
            let result = work(copier, queue);
            if result.is_err() {
                shared.abort.store(true, Ordering::Relaxed);
            }
            drop(done);
            result
        }));
    }
    drop(done);
    let mut lost = None;
    // The channel closes when the last worker is done.
    while matches!(finished.recv_timeout(PING_EVERY), Err(RecvTimeoutError::Timeout)) {
        if let Err(error) = mode.ping() {
            shared.abort.store(true, Ordering::Relaxed);
            lost = Some(error);
            break;
        }
    }
    let mut made = Gathered::default();
    let mut failed: Option<BackupError> = None;
    for worker in workers {
        match worker.join().map_err(|_| BackupError::Internal("a copying thread panicked"))? {
            Ok(copies) => made.add(copies),
            // "Another thread failed" is the least telling of all.
            Err(error) if failed.is_none() || matches!(failed, Some(BackupError::Internal(_))) => {
                failed = Some(error)
            }
            Err(_) => {}
        }
    }
    match (lost, failed) {
        (Some(error), _) => Err(error.into()),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(made),
    }
}

fn work(mut copier: Copier<'_>, queue: &Queue) -> Result<Copies, BackupError> {
    let mut run = VecDeque::new();
    loop {
        queue.take(&mut run)?;
        if run.is_empty() {
            return copier.finish();
        }
        for Task { file, span } in run.drain(..) {
            copier.range(file.place as usize, &file, span as usize)?;
        }
    }
}
