//! What a restore will do, and every reason not to begin it. Nothing is written at its place.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use refloat_pg::control::{ControlFile, read_settled};
use refloat_pg::server::{ServerState, server_state};
use refloat_repo::crypt::page_hash::PageHasher;
use refloat_repo::manifest::{Entry, What};
use refloat_repo::repository::Uses;
use refloat_repo::{RepoError, Repository};
use refloat_types::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};

use super::aside::{Aside, Move, link_of};
use super::delta::Reuse;
use super::disk::{is_empty, real_path};
use super::error::{RestoreError, io_error};
use super::marker::Marker;
use super::read::Backup;
use super::{Destination, RestoreRequest, Target};
use crate::guard::{self, Guard, GuardRequest, SinceBoot};

/// A restore that can begin. While it is there, its backup is not deleted.
pub struct RestorePlan<'a> {
    pub(super) request: RestoreRequest,
    /// The pin; none where this host cannot write into the repository, and for a look.
    guard: Option<Guard<'a>>,
    pub(super) backup: Backup,
    pub(super) hasher: PageHasher,
    pub(super) control: Vec<u8>,
    pub(super) control_entry: Entry,
    pub(super) label: Vec<u8>,
    pub(super) present: Present,
    /// Some tablespaces are plain directories, which recovery accepts only when told so.
    pub(super) tablespaces_in_place: bool,
    /// A directory for WAL on a disk of its own, which stays in use.
    pub(super) wal_directory: Option<PathBuf>,
    /// The data directory, without links on the way.
    pub directory: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Where each tablespace goes.
    pub tablespaces: Vec<Tablespace>,
    /// Space on each file system.
    pub space: Vec<SpaceNeed>,
    /// WAL that is replayed before the server is consistent.
    pub wal: WalNeed,
    /// What will be renamed.
    pub set_aside: Vec<Move>,
    /// Whether a half-finished restore of this source is begun anew there.
    pub again: bool,
    /// A cluster is there, and what is the same in it is reused.
    pub delta: bool,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What is at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Present {
    /// Nothing.
    Nothing,
    /// A half-finished restore of this source.
    Half(Marker),
    /// A cluster to be set aside, or one that half is.
    Cluster(Aside),
    /// A cluster to be restored over, or one that half is.
    Reused(Reuse),
}

impl Present {
    /// A directory for WAL on a disk of its own, which stays in use.
    fn wal_directory(&self) -> Option<PathBuf> {
        match self {
            Self::Nothing => None,
            Self::Half(marker) => marker.wal_directory.clone(),
            Self::Cluster(aside) => aside.wal_directory(),
            Self::Reused(reuse) => reuse.wal_directory.clone(),
        }
    }
}

/// A tablespace that lay outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its oid.
    pub oid: u32,
    /// Where it was, as the link said.
    pub was: PathBuf,
    /// Where it goes; `None`: into the data directory.
    pub goes: Option<PathBuf>,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Space on one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceNeed {
    /// A directory on it.
    pub path: PathBuf,
    /// Bytes needed.
    pub need: u64,
    /// Bytes this user may write.
    pub free: u64,
}

/// WAL that a backup needs to become consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalNeed {
    /// Its timeline.
    pub timeline: TimelineId,
    /// From here.
    pub start: Lsn,
    /// To here.
    pub stop: Lsn,
    /// The WAL segment that holds `start`.
    pub first: WalSegmentName,
    /// The WAL segment that ends at or behind `stop`.
    pub last: WalSegmentName,
    /// How large they are.
    pub segment_size: WalSegmentSize,
    /// They are in the backup itself.
    pub in_backup: bool,
}

impl WalNeed {
    /// The WAL segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = WalSegmentName> {
        let (size, timeline) = (self.segment_size, self.timeline);
        (self.first.number(size)..=self.last.number(size))
            .map(move |number| WalSegmentName::numbered(timeline, number, size))
    }
}

/// Sums of a manifest.
#[derive(Default)]
struct Contents {
    entries: u64,
    bytes: u64,
    links: BTreeMap<u32, PathBuf>,
    tablespace_bytes: BTreeMap<u32, u64>,
    control: Option<Entry>,
    in_place: bool,
}

/// The one fact that is needed here.
#[derive(serde::Deserialize)]
struct RecordedMode {
    data_directory_mode: u32,
}

/// A plan that is only looked at: it cannot be carried out, because nothing keeps its backup from being deleted.
pub struct DryPlan<'a>(RestorePlan<'a>);

impl<'a> std::ops::Deref for DryPlan<'a> {
    type Target = RestorePlan<'a>;
    fn deref(&self) -> &RestorePlan<'a> {
        &self.0
    }
}

/// Pins the backup, reads its manifest and looks at the destination.
///
/// # Errors
/// Every reason not to begin; at the destination nothing was written.
pub fn plan(repository: &Repository, request: RestoreRequest) -> Result<RestorePlan<'_>, RestoreError> {
    plan_beside(repository, &[], request)
}

/// The same where `others` may hold copies of the backup: what is damaged is read there.
///
/// # Errors
/// As for [`plan`].
pub fn plan_beside<'a>(
    repository: &'a Repository,
    others: &[&Repository],
    request: RestoreRequest,
) -> Result<RestorePlan<'a>, RestoreError> {
    let asked = GuardRequest {
        operation: "restore",
        backup: None,
        uses: Uses::Backups(vec![request.commit.commit.backup]),
        host: &request.host,
        now: request.now,
        uptime: Arc::new(SinceBoot),
        renew: true,
    };
    let guard = guard::reading(repository, &asked)?;
    planned(repository, others, request, guard)
}

/// The same without a trace in the repository.
///
/// # Errors
/// Every reason not to begin; nothing was written.
pub fn dry_run(repository: &Repository, request: RestoreRequest) -> Result<DryPlan<'_>, RestoreError> {
    dry_run_beside(repository, &[], request)
}

/// The same where `others` may hold copies of the backup.
///
/// # Errors
/// As for [`dry_run`].
pub fn dry_run_beside<'a>(
    repository: &'a Repository,
    others: &[&Repository],
    request: RestoreRequest,
) -> Result<DryPlan<'a>, RestoreError> {
    planned(repository, others, request, None).map(DryPlan)
}

fn planned<'a>(
    repository: &'a Repository,
    others: &[&Repository],
    request: RestoreRequest,
    guard: Option<Guard<'a>>,
) -> Result<RestorePlan<'a>, RestoreError> {
    check_target(&request)?;
    let directory = real_path(request.to.path())?;
    let present = inspect(&directory, &request)?;
    let backup = Backup::open_beside(repository, others, &request.commit)?;
    let contents = contents(&backup)?;
    let control_entry =
        contents.control.clone().ok_or(RestoreError::Incomplete { what: "global/pg_control" })?;
    let control = backup.read_file(&control_entry, 64 << 10)?;
    ControlFile::parse(&control).map_err(RestoreError::Control)?;
    let label = backup.blob("backup_label")?.filter(|label| !label.is_empty());
    let label = label.ok_or(RestoreError::Incomplete { what: "backup_label" })?;
    let tablespaces = tablespaces(&contents, &request)?;
    let wal = wal_need(&request)?;
    let recorded = match backup.blob_reader("facts")? {
        // What is no such document says nothing of the mode; a frame that cannot be read ends the restore.
        Some(facts) => match serde_json::from_reader::<_, RecordedMode>(BufReader::new(facts)) {
            Ok(mode) => Some(mode),
            Err(error) if error.is_io() => {
                return Err(match io::Error::from(error).downcast::<RepoError>() {
                    Ok(error) => error.into(),
                    Err(error) => RepoError::internal("read a backup's facts", error).into(),
                });
            }
            Err(_) => None,
        },
        None => None,
    };
    let made = request.made_tablespaces.clone().into_iter();
    let mut plan = RestorePlan {
        mode: mode(&directory, recorded.map(|facts| facts.data_directory_mode)),
        entries: contents.entries,
        bytes: contents.bytes,
        again: match &present {
            Present::Nothing | Present::Cluster(_) => false,
            Present::Half(_) => true,
            Present::Reused(reuse) => reuse.goes_on(),
        },
        delta: matches!(present, Present::Reused(_)),
        set_aside: Vec::new(),
        space: Vec::new(),
        notes: made.map(|path| format!("recovery makes a tablespace in {}", path.display())).collect(),
        request,
        guard,
        hasher: PageHasher::new(&backup.root().page_key.unwrap_or_else(|| repository.page_key())),
        backup,
        control,
        control_entry,
        label,
        wal_directory: present.wal_directory(),
        present,
        tablespaces_in_place: contents.in_place || tablespaces.iter().any(|t| t.goes.is_none()),
        directory,
        tablespaces,
        wal,
    };
    plan.check_outside()?;
    plan.check_made_tablespaces()?;
    plan.check_aside()?;
    plan.check_space()?;
    Ok(plan)
}

/// A cheap look at what the archive's plan says better: a backup cannot be restored to before its own end.
fn check_target(request: &RestoreRequest) -> Result<(), RestoreError> {
    let point = &request.commit.commit.cluster;
    let (target, end) = match &request.recovery.target {
        Target::Time(at) if *at < point.stop_time => (at.to_string(), point.stop_time.to_string()),
        Target::Lsn(lsn) if *lsn < point.stop_lsn => (lsn.to_string(), point.stop_lsn.to_string()),
        _ => return Ok(()),
    };
    Err(RestoreError::TargetTooEarly { target, end })
}

/// What is at the destination, or why it must be left alone. Called again right before the first write.
pub(super) fn inspect(directory: &Path, request: &RestoreRequest) -> Result<Present, RestoreError> {
    let bad = |why: &str| RestoreError::BadPlace { path: directory.to_owned(), why: why.to_owned() };
    if let Some(cluster) = directory.ancestors().skip(1).find(|path| is_data_directory(path)) {
        return Err(bad(&format!("{} is a data directory", cluster.display())));
    }
    let in_place = matches!(request.to, Destination::InPlace(_));
    let unfinished = |error| io_error("read", directory)(error);
    let meta = match fs::symlink_metadata(directory) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let left = if in_place { Aside::unfinished(directory).map_err(unfinished)? } else { None };
            return Ok(left.map_or(Present::Nothing, Present::Cluster));
        }
        Err(error) => return Err(io_error("read", directory)(error)),
    };
    if !meta.is_dir() {
        return Err(bad("it is not a directory"));
    }
    refuse_running(directory)?;
    if let Some(marker) = Marker::believed(directory).map_err(unfinished)? {
        if marker.source != request.commit.commit.source {
            let other = marker.source_name;
            return Err(RestoreError::OtherRestore { path: directory.to_owned(), other });
        }
        return match (marker.delta.is_some(), request.delta) {
            (false, _) => Ok(Present::Half(marker)),
            (true, true) => Reuse::look(directory, request, Some(marker)).map(Present::Reused),
            // Beginning anew would remove what may still be the only copy of the old cluster.
            (true, false) => Err(RestoreError::HalfDelta { path: directory.to_owned() }),
        };
    }
    if in_place && let Some(left) = Aside::unfinished(directory).map_err(unfinished)? {
        return Ok(Present::Cluster(left));
    }
    if is_empty(directory).map_err(unfinished)? {
        return Ok(Present::Nothing);
    }
    refuse_foreign(directory, request)?;
    if request.delta && directory.join("PG_VERSION").exists() {
        return Reuse::look(directory, request, None).map(Present::Reused);
    }
    if in_place && directory.join("PG_VERSION").exists() {
        let aside = Aside::plan(directory, &request.restore_id).map_err(unfinished)?;
        return Ok(Present::Cluster(aside));
    }
    Err(RestoreError::NotEmpty { path: directory.to_owned() })
}

pub(super) fn is_data_directory(path: &Path) -> bool {
    path.join("PG_VERSION").is_file() && path.join("global").is_dir()
}

fn refuse_running(directory: &Path) -> Result<(), RestoreError> {
    let who = match server_state(directory)? {
        ServerState::NotRunning { .. } => return Ok(()),
        ServerState::Running(file) => match file.port {
            Some(port) => Some(format!("process {}, port {port}", file.pid)),
            None => Some(format!("process {}", file.pid)),
        },
        ServerState::Doubtful { why } => Some(why),
    };
    Err(RestoreError::Running { path: directory.to_owned(), who })
}

/// A cluster whose control file cannot be read any more may be set aside; one that is another may not.
fn refuse_foreign(directory: &Path, request: &RestoreRequest) -> Result<(), RestoreError> {
    let expected = request.commit.commit.cluster.system;
    match read_settled(directory) {
        Ok((control, _)) if control.system_identifier != expected => Err(RestoreError::Foreign {
            path: directory.to_owned(),
            found: control.system_identifier,
            expected,
        }),
        _ => Ok(()),
    }
}

fn contents(backup: &Backup) -> Result<Contents, RestoreError> {
    let mut contents = Contents::default();
    backup.entries(|entry| {
        contents.entries += 1;
        let oid = tablespace_of(&entry.path);
        match &entry.what {
            What::File { size, .. } => {
                contents.bytes += size;
                if let Some(oid) = oid {
                    *contents.tablespace_bytes.entry(oid).or_default() += size;
                }
                if entry.path == b"global/pg_control" {
                    contents.control = Some(entry);
                }
            }
            What::Directory => contents.in_place |= link_of(&entry.path).is_some(),
            What::Symlink { target } => {
                if let Some(oid) = link_of(&entry.path) {
                    contents.links.insert(oid, PathBuf::from(std::ffi::OsStr::from_bytes(target)));
                }
            }
        }
        Ok::<(), RestoreError>(())
    })?;
    Ok(contents)
}

fn tablespace_of(path: &[u8]) -> Option<u32> {
    let rest = path.strip_prefix(b"pg_tblspc/")?;
    let end = rest.iter().position(|b| *b == b'/')?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

/// 0700, or 0750 where the cluster lets its group read.
fn mode(directory: &Path, recorded: Option<u32>) -> u32 {
    let there = fs::metadata(directory).ok().filter(|meta| meta.is_dir()).map(|meta| meta.mode() & 0o777);
    let wanted = there.filter(|mode| matches!(mode, 0o700 | 0o750)).or(recorded);
    if wanted.is_some_and(|mode| mode & 0o050 == 0o050) { 0o750 } else { 0o700 }
}

/// Decides where each tablespace goes.
fn tablespaces(contents: &Contents, request: &RestoreRequest) -> Result<Vec<Tablespace>, RestoreError> {
    let plain = |path: &Path| path.components().collect::<PathBuf>();
    let known: Vec<PathBuf> = contents.links.values().map(|path| plain(path)).collect();
    let maps: BTreeMap<PathBuf, &PathBuf> =
        request.tablespaces.iter().map(|(old, new)| (plain(old), new)).collect();
    if let Some(path) = maps.keys().find(|old| !known.contains(old)) {
        return Err(RestoreError::NoSuchTablespace { path: path.clone(), known });
    }
    let in_place = matches!(request.to, Destination::InPlace(_));
    let (mut all, mut unmapped) = (Vec::new(), Vec::new());
    for (oid, was) in &contents.links {
        let goes = match maps.get(&plain(was)) {
            Some(new) => Some(real_path(new)?),
            None if request.tablespaces_inside => None,
            None if in_place => Some(real_path(was)?),
            None => {
                unmapped.push(was.clone());
                continue;
            }
        };
        let bytes = contents.tablespace_bytes.get(oid).copied().unwrap_or(0);
        all.push(Tablespace { oid: *oid, was: was.clone(), goes, bytes });
    }
    if unmapped.is_empty() { Ok(all) } else { Err(RestoreError::Unmapped { paths: unmapped }) }
}

fn wal_need(request: &RestoreRequest) -> Result<WalNeed, RestoreError> {
    let commit = &request.commit.commit;
    let point = &commit.cluster;
    let segment_size = WalSegmentSize::new(point.wal_segment_size)
        .ok_or(RestoreError::Incomplete { what: "size of WAL segments that PostgreSQL has" })?;
    Ok(WalNeed {
        timeline: point.timeline,
        start: point.start_lsn,
        stop: point.stop_lsn,
        first: WalSegmentName::containing(point.timeline, point.start_lsn, segment_size),
        last: WalSegmentName::ending(point.timeline, point.stop_lsn, segment_size),
        segment_size,
        in_backup: commit.own_wal,
    })
}

impl RestorePlan<'_> {
    /// The request it came from.
    pub const fn request(&self) -> &RestoreRequest {
        &self.request
    }

    /// The pin that keeps the backup; `None` where this host cannot write into the repository.
    pub const fn guard(&self) -> Option<&Guard<'_>> {
        self.guard.as_ref()
    }

    /// Directories outside of the data directory that this restore writes to.
    pub(super) fn outside(&self) -> Vec<PathBuf> {
        let tablespaces = self.tablespaces.iter().filter_map(|tablespace| tablespace.goes.clone());
        tablespaces.chain(self.wal_directory.clone()).collect()
    }
}
