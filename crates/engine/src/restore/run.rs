//! The steps of a restore, in the one order that survives a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use refloat_pg::control::poison;
use refloat_repo::manifest::{Entry, What};
use refloat_store::Key;
use refloat_types::{TimelineId, WalFileName, fault};

use super::aside::{Move, link_of};
use super::claim::{self, Found};
use super::delta::{Comparer, sweep};
use super::disk::{make_directory, remove_contents, write_durably};
use super::error::{RestoreError, io_error};
use super::listing::Listing;
use super::marker::{MARKER, Marker};
use super::place::Placer;
use super::plan::{Present, RestorePlan, Tablespace, inspect};
use super::read::{Compare, SinkError, Window};
use super::sync::{Durable, sync_directory};
use super::{Become, Destination, Owner, Target, WalNeed, outside, recovery};
use crate::locked::{LOCK_FILE, Locked};
use crate::progress::Progress;

/// Fetches a WAL file to a path that does not exist yet.
pub type FetchWal<'a> =
    &'a dyn Fn(WalFileName, &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// WAL of the old directory that was never archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyWal {
    /// The `pg_wal` that holds it.
    pub path: PathBuf,
    /// How many files.
    pub count: u64,
}

/// What a restore over a cluster found to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reused {
    /// Bytes that stayed as they were.
    pub kept: u64,
    /// Bytes that were written: what differed, and files that were missing.
    pub rewritten: u64,
}

/// A restore that is done.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    /// The data directory.
    pub directory: PathBuf,
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// How long it took.
    pub took: Duration,
    /// How far recovery will go.
    pub target: Target,
    /// Major version of the server.
    pub major_version: u32,
    /// What was reused, where a cluster was restored over.
    pub reused: Option<Reused>,
    /// What was renamed, the data directory first.
    pub set_aside: Vec<Move>,
    /// WAL in what was set aside that no archive has acknowledged.
    pub ready_wal: Option<ReadyWal>,
    /// Where tablespaces are now.
    pub tablespaces: Vec<Tablespace>,
    /// WAL that is replayed before the server is consistent; recovery to a target replays more.
    pub wal: WalNeed,
    /// Archiving is locked until takeover (or for ever, for a copy).
    pub locked: bool,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Objects that are damaged in the repository and were read in another one, and what is wrong with each.
    pub passed_over: BTreeMap<Key, String>,
}

/// A restore at work.
pub(super) struct Restore<'a> {
    pub(super) plan: RestorePlan<'a>,
    progress: &'a dyn Progress,
    pub(super) notes: Vec<String>,
    /// Bytes that stay, where a cluster is restored over.
    kept: Option<u64>,
}

/// Restores a backup as planned. `fetch` is asked for WAL where the plan places some.
///
/// # Errors
/// Refusals, when the destination is no longer what the plan saw; then nothing was written. Anything else leaves a
/// directory that cannot be started, in which the same restore may be run again.
pub fn restore(
    plan: RestorePlan<'_>,
    progress: &dyn Progress,
    fetch: Option<FetchWal<'_>>,
) -> Result<RestoreReport, RestoreError> {
    let began = Instant::now();
    let notes = plan.notes.clone();
    let mut work = Restore { plan, progress, notes, kept: None };
    work.look_again()?;
    let (ready_wal, durable) = match work.plan.present.clone() {
        Present::Reused(reuse) => work.begin_over(&reuse)?,
        present => (work.clear_the_place(present)?, work.begin()?),
    };
    let listing = work.files()?;
    work.finish(listing, &durable, fetch)?;
    let Restore { plan, notes, kept, .. } = work;
    Ok(RestoreReport {
        bytes: plan.bytes,
        entries: plan.entries,
        took: began.elapsed(),
        target: plan.request.recovery.target.clone(),
        major_version: major(&plan),
        reused: kept.map(|kept| Reused { kept, rewritten: plan.bytes.saturating_sub(kept) }),
        set_aside: plan.set_aside,
        ready_wal,
        tablespaces: plan.tablespaces,
        wal: plan.wal,
        locked: plan.request.becomes.purpose().is_some(),
        passed_over: plan.backup.passed_over(),
        directory: plan.directory,
        notes,
    })
}

fn major(plan: &RestorePlan<'_>) -> u32 {
    plan.request.commit.commit.cluster.server_version / 10_000
}

impl Restore<'_> {
    pub(super) fn owner(&self) -> Option<Owner> {
        self.plan.request.owner
    }

    pub(super) fn point(&self, name: &'static str) -> Result<(), RestoreError> {
        fault::point(name).map_err(io_error("restore into", &self.plan.directory))
    }

    /// Looks once more: what is there must be what the plan saw.
    fn look_again(&self) -> Result<(), RestoreError> {
        let directory = &self.plan.directory;
        if inspect(directory, &self.plan.request)? != self.plan.present {
            return Err(RestoreError::NotEmpty { path: directory.clone() });
        }
        self.plan.check_outside()?;
        self.plan.check_made_tablespaces()
    }

    /// Sets aside what is there.
    fn clear_the_place(&mut self, present: Present) -> Result<Option<ReadyWal>, RestoreError> {
        let Present::Cluster(aside) = present else { return Ok(None) };
        // The new directories are like the old ones.
        let old = |path: &Path| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.mode() & 0o777, Owner { uid: meta.uid(), gid: meta.gid() }))
        };
        let owner = old(&aside.directory.from).or_else(|| old(&aside.directory.to)).map(|(_, owner)| owner);
        if rustix::process::geteuid().is_root() && self.owner().is_none() {
            self.plan.request.owner = owner;
        }
        aside.run()?;
        let moved = std::iter::once(&aside.directory).chain(aside.linked.iter().map(|linked| &linked.path));
        self.plan.set_aside = moved.cloned().collect();
        // A disk of its own for WAL stays in use.
        if let Some(wal) = &self.plan.wal_directory {
            self.notes.push(format!("pg_wal is in {}, as before", wal.display()));
        }
        Ok(ready_wal(&aside.directory.to.join("pg_wal")))
    }

    /// From here on the directory is ours, locked, and cannot be started.
    fn begin(&mut self) -> Result<Durable, RestoreError> {
        let (directory, owner) = (self.plan.directory.clone(), self.owner());
        make_directory(&directory, self.plan.mode, owner)
            .map_err(io_error("create directory", &directory))?;
        let outside = self.plan.outside();
        let written = Marker::new(&directory, &self.plan.request).and_then(|mut marker| {
            marker.outside.clone_from(&outside);
            marker.wal_directory.clone_from(&self.plan.wal_directory);
            if let Present::Half(before) = &self.plan.present {
                marker.goes_on(before);
            }
            marker.write(&directory, owner).map(|()| marker)
        });
        let marker = written.map_err(io_error("write", directory.join(MARKER)))?;
        self.point("restore.after_marker")?;
        if matches!(self.plan.present, Present::Half(_)) {
            self.clear_half(&directory, &marker)?;
        }
        for path in &outside {
            claim::take(path, &marker.claim(), owner).map_err(io_error("take", path))?;
        }
        // Recovery wants them to be there.
        for path in self.plan.request.made_tablespaces.iter().filter(|path| !path.exists()) {
            make_directory(path, 0o700, owner).map_err(io_error("create directory", path))?;
        }
        self.lock(&directory)?;
        self.point("restore.after_lock")?;
        let roots: Vec<PathBuf> = std::iter::once(directory).chain(outside).collect();
        Durable::open(&roots).map_err(|(path, error)| io_error("open", path)(error))
    }

    /// What a half-finished restore left: its control file first, everything else after it.
    fn clear_half(&self, directory: &Path, marker: &Marker) -> Result<(), RestoreError> {
        let control = directory.join("global/pg_control");
        match fs::remove_file(&control) {
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(io_error("remove", control)(error)),
            Ok(()) => sync_directory(&directory.join("global")).map_err(io_error("sync", &control))?,
        }
        self.point("restore.after_unstartable")?;
        remove_contents(directory, &[MARKER]).map_err(io_error("clear", directory))?;
        let wanted = self.plan.outside();
        for path in &marker.outside {
            let clear = || match claim::clear(path, &marker.claim())? {
                Found::Ours if !wanted.contains(path) => claim::release(path),
                _ => Ok(()),
            };
            clear().map_err(io_error("clear", path))?;
        }
        Ok(())
    }

    pub(super) fn lock(&self, directory: &Path) -> Result<(), RestoreError> {
        let request = &self.plan.request;
        let Some(purpose) = request.becomes.purpose() else { return Ok(()) };
        let lock = Locked {
            restore: request.restore_id.clone(),
            source: request.source_name.clone(),
            backup: request.commit.commit.backup.to_string(),
            at: request.now,
            purpose,
            system: request.commit.commit.cluster.system,
        };
        let written = lock.write(directory).and_then(|()| match request.owner {
            Some(Owner { uid, gid }) => {
                std::os::unix::fs::chown(directory.join(LOCK_FILE), Some(uid), Some(gid))
            }
            None => Ok(()),
        });
        written.map_err(io_error("write", directory.join(LOCK_FILE)))
    }

    /// Places every file but the control file.
    fn files(&mut self) -> Result<Listing, RestoreError> {
        let (directory, owner) = (self.plan.directory.clone(), self.owner());
        let jobs = self.plan.request.jobs.max(1);
        let system = self.plan.request.commit.commit.cluster.system;
        let over = self.plan.delta;
        if over {
            self.progress.phase("removing what the backup lacks", 0);
            sweep(&self.plan)?;
            self.point("restore.delta.after_sweep")?;
        }
        let placer = Placer::new(&directory, owner, over, jobs).map_err(io_error("open", &directory))?;
        let comparer = Comparer::new(&directory, &self.plan.hasher, self.progress)
            .map_err(io_error("open", &directory))?;
        let compare = over.then_some(&comparer as &dyn Compare);
        let state = self.plan.backup.state();
        let mut listing = Listing::begin(&directory, major(&self.plan), system, owner, state)
            .map_err(io_error("write", directory.join("backup_manifest")))?;
        let places = Places { plan: &self.plan, placer: &placer };
        let mut notes = Vec::new();
        let mut each = |entry: &Entry, crc: u32| -> Result<bool, SinkError> {
            match &entry.what {
                What::File { .. } if entry.path == self.plan.control_entry.path => return Ok(false),
                What::File { .. } => listing.file(entry, crc).map_err(|source| SinkError {
                    action: "write",
                    path: directory.join("backup_manifest"),
                    source,
                })?,
                What::Directory => places.directory(entry)?,
                What::Symlink { target } => notes.extend(places.link(entry, target)?),
            }
            Ok(true)
        };
        self.progress.phase("restoring files", self.plan.bytes);
        let window = Window::default();
        self.plan.backup.read_over(compare, &placer, &mut each, jobs, window, self.progress)?;
        places.missing()?;
        self.kept = over.then(|| comparer.kept());
        self.notes.extend(notes);
        Ok(listing)
    }

    /// Configuration, WAL, durability, and last what lets the server start.
    fn finish(
        &mut self,
        mut listing: Listing,
        durable: &Durable,
        fetch: Option<FetchWal<'_>>,
    ) -> Result<(), RestoreError> {
        let directory = self.plan.directory.clone();
        let owner = self.owner();
        for file in self.configure(&directory)? {
            listing.add(&file);
        }
        if self.plan.request.with_wal && !self.plan.wal.in_backup {
            self.place_wal(&directory, fetch)?;
        }
        let label = directory.join("backup_label");
        self.point("restore.before_label")?;
        write_durably(&label, &self.plan.label, 0o600, owner).map_err(io_error("write", &label))?;
        listing.add(&label);
        if self.plan.request.becomes.purpose().is_some() {
            listing.add(&directory.join(LOCK_FILE));
        }
        let control = poison(&self.plan.control).map_err(RestoreError::Control)?;
        listing
            .finish(&control, self.plan.request.now, &self.plan.wal)
            .map_err(io_error("write", directory.join("backup_manifest")))?;
        self.progress.phase("making it durable", 0);
        self.point("restore.before_sync")?;
        durable.sync().map_err(|(path, error)| io_error("sync", path)(error))?;
        self.point("restore.before_control")?;
        let path = directory.join("global/pg_control");
        write_durably(&path, &control, self.plan.control_entry.mode & 0o777, owner)
            .map_err(io_error("write", &path))?;
        self.point("restore.after_control")?;
        claim::release(&directory).map_err(io_error("remove", directory.join(MARKER)))?;
        // Finished. Without the marker of the data directory these mean nothing.
        for path in self.plan.outside() {
            self.point("restore.before_release")?;
            if let Err(error) = claim::release(&path) {
                tracing::warn!(%error, directory = %path.display(), "the mark of this restore stays, and means nothing");
            }
        }
        Ok(())
    }

    /// The files that were made or changed.
    fn configure(&mut self, directory: &Path) -> Result<BTreeSet<PathBuf>, RestoreError> {
        let blob = self.plan.backup.blob("outside_files")?;
        let files = outside::parse(blob.as_deref())?;
        let in_place = matches!(self.plan.request.to, Destination::InPlace(_));
        let there = if in_place { outside::main_file_there(&files) } else { None };
        let mut changed = BTreeSet::new();
        if there.is_none() {
            let (written, notes) = outside::write(directory, &files, &self.plan.request)?;
            self.notes.extend(notes);
            changed.extend(written);
        }
        let main = there.or_else(|| recovery::main_file_inside(directory));
        if main.is_none() {
            self.notes.push(
                "the backup has no postgresql.conf: the server starts with PostgreSQL's defaults".to_owned(),
            );
        }
        let request = &self.plan.request;
        let mut settings = recovery::settings(
            &request.recovery,
            request.becomes,
            &request.commit.commit.cluster,
            major(&self.plan),
        );
        if self.plan.request.becomes == Become::Copy {
            // Another tool's archive_command knows nothing of our lock.
            settings.push(("archive_mode", "off".to_owned()));
        }
        if self.plan.tablespaces_in_place {
            // Recovery ends in a panic over directories in pg_tblspc otherwise.
            settings.push(("allow_in_place_tablespaces", "on".to_owned()));
        }
        let major = major(&self.plan);
        changed.extend(recovery::write(directory, main.as_deref(), major, settings, &self.plan.request)?);
        Ok(changed)
    }

    fn place_wal(&self, directory: &Path, fetch: Option<FetchWal<'_>>) -> Result<(), RestoreError> {
        let wal = &self.plan.wal;
        let history = (wal.timeline != TimelineId::FIRST).then_some(WalFileName::History(wal.timeline));
        self.progress.phase("fetching WAL", wal.segments().count() as u64 * wal.segment_size.bytes());
        for name in history.into_iter().chain(wal.segments().map(WalFileName::Segment)) {
            let path = directory.join("pg_wal").join(name.to_string());
            let failed = |source| RestoreError::Wal { name: name.to_string(), source };
            let fetch = fetch.ok_or_else(|| failed("nothing was given to fetch it with".into()))?;
            fetch(name, &path).map_err(failed)?;
            if let Some(Owner { uid, gid }) = self.owner() {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid))
                    .map_err(io_error("give away", &path))?;
            }
            self.progress.advance(wal.segment_size.bytes());
        }
        Ok(())
    }
}

/// Directories and links.
struct Places<'a> {
    plan: &'a RestorePlan<'a>,
    placer: &'a Placer,
}

/// Directories without which a server does not start, or makes with another mode.
pub(super) const NEEDED: [&str; 19] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
];

impl Places<'_> {
    fn directory(&self, entry: &Entry) -> Result<(), SinkError> {
        match &self.plan.wal_directory {
            Some(wal) if entry.path == b"pg_wal" => self.placer.link(&entry.path, wal.as_os_str().as_bytes()),
            _ => self.placer.directory(&entry.path, entry.mode),
        }
    }

    /// A tablespace's link leads to its new place. A link where PostgreSQL wants a directory becomes one; others are left
    /// out, as PostgreSQL's own base backup does: nothing is ever written through a link that we did not make.
    fn link(&self, entry: &Entry, target: &[u8]) -> Result<Option<String>, SinkError> {
        let tablespace =
            link_of(&entry.path).and_then(|oid| self.plan.tablespaces.iter().find(|t| t.oid == oid));
        if let Some(tablespace) = tablespace {
            return match &tablespace.goes {
                Some(path) => self.placer.link(&entry.path, path.as_os_str().as_bytes()).map(|()| None),
                None => self.placer.directory(&entry.path, self.plan.mode).map(|()| None),
            };
        }
        if NEEDED.iter().any(|name| entry.path == name.as_bytes()) {
            return self.directory(entry).map(|()| None);
        }
        let (path, target) = (String::from_utf8_lossy(&entry.path), String::from_utf8_lossy(target));
        Ok(Some(format!("the link {path}, which led to {target}, is left out")))
    }

    fn missing(&self) -> Result<(), SinkError> {
        NEEDED
            .iter()
            .filter(|name| fs::symlink_metadata(self.plan.directory.join(name)).is_err())
            .try_for_each(|name| self.placer.directory(name.as_bytes(), self.plan.mode))
    }
}

/// Files in `archive_status` that wait for their segments to be archived.
pub(super) fn ready_wal(pg_wal: &Path) -> Option<ReadyWal> {
    let entries = fs::read_dir(pg_wal.join("archive_status")).ok()?;
    let ready = entries.flatten().filter(|entry| entry.file_name().as_bytes().ends_with(b".ready"));
    let count = ready.count() as u64;
    (count > 0).then(|| ReadyWal { path: pg_wal.to_owned(), count })
}
