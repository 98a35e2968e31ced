//! The side of those who write and read, while `expire` may be deleting.
//!
//! A job begins with [`Guard::begin`]: its pin is durable before the tombstones are read, and only then it chooses what it
//! uses, nothing of it [forbidden](Guard::forbidden). `expire` writes its tombstone first, waits for the grace time, and
//! reads pins only then. So whatever the order in which the two run, one of them sees the other. Before its commit a
//! backup reads the tombstones once more, and behind it again: a process that was stopped in between takes its commit back.
//!
//! A crash leaves a pin, which is dead when its lease is over.

mod error;
mod living;
mod renew;
mod uptime;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use refloat_repo::commit::{Commit, PackUse};
use refloat_repo::layout::{self, Named};
use refloat_repo::repository::{Marked, PinWriter, Uses};
use refloat_repo::{RepoError, Repository};
use refloat_store::{Key, StoreErrorKind};
use refloat_types::{
    BackupId, Lsn, ObjectId, SourceId, SystemIdentifier, Timestamp, WalFileName, WalSegmentName,
    WalSegmentSize,
};

use crate::packs;

pub use error::GuardError;
pub use living::{Living, living};
pub use uptime::{SinceBoot, Uptime};

/// A pin that is not renewed for so long holds nothing any more.
pub const LEASE: Duration = Duration::from_secs(30 * 60);
/// How often a pin is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);
/// A writer that last looked longer ago than this makes sure that its packs and its WAL are still there. Far below the shortest
/// grace time: what was marked since then cannot have been deleted yet.
pub const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);
/// The operation of those who copy backups: what they have stored is named by no commit for as long as it takes, as a backup's.
pub const COPY: &str = "copy";

/// How a job begins.
pub struct GuardRequest<'a> {
    /// `backup`, `restore`, `verify`.
    pub operation: &'a str,
    /// The backup that is being made.
    pub backup: Option<BackupId>,
    /// What must stay.
    pub uses: Uses,
    /// This host.
    pub host: &'a str,
    /// Host time.
    pub now: Timestamp,
    /// What measures whether this process was stopped.
    pub uptime: Arc<dyn Uptime>,
    /// Whether a thread renews the pin; without it, call [`Guard::renew`].
    pub renew: bool,
}

/// What tombstones name: nothing of it may be used for anything new.
#[derive(Debug, Clone, Default)]
pub struct Forbidden {
    /// Packs, with the tombstone that names each.
    pub packs: BTreeMap<ObjectId, String>,
    /// Backups.
    pub backups: BTreeSet<(SourceId, BackupId)>,
    /// WAL segments, with the tombstone that names each.
    pub wal: BTreeMap<(SystemIdentifier, WalSegmentName), String>,
}

impl Forbidden {
    /// Whether a backup must not be built on, or chosen as a parent.
    pub fn has_backup(&self, source: SourceId, backup: BackupId) -> bool {
        self.backups.contains(&(source, backup))
    }
    /// Whether a pack must not be referred to.
    pub fn has_pack(&self, pack: ObjectId) -> bool {
        self.packs.contains_key(&pack)
    }

    /// What of a new backup is named by a tombstone, and by which.
    fn of(&self, commit: &Commit, packs: &[PackUse]) -> Option<(String, &String)> {
        let mut all = packs.iter().map(|pack| pack.id);
        let pack = all.find_map(|id| Some((layout::pack(id).to_string(), self.packs.get(&id)?)));
        let system = commit.cluster.system;
        let named = |segment| Some((format!("{segment}"), self.wal.get(&(system, segment))?));
        pack.or_else(|| span(commit).find_map(named))
    }

    fn read(repository: &Repository) -> Result<Self, RepoError> {
        let mut forbidden = Self::default();
        for stored in repository.list_tombstones()? {
            for name in &stored.names {
                match Named::parse(name) {
                    Some(Named::Pack(id)) => {
                        forbidden.packs.entry(id).or_insert_with(|| stored.key.to_string());
                    }
                    Some(Named::Commit(source, _, backup)) => {
                        forbidden.backups.insert((source, backup));
                    }
                    Some(Named::Wal(system, WalFileName::Segment(segment), _)) => {
                        let by = stored.key.to_string();
                        forbidden.wal.entry((system, segment)).or_insert(by);
                    }
                    _ => {}
                }
            }
        }
        Ok(forbidden)
    }
}

/// The archived WAL that makes a backup consistent; none where it holds that itself.
pub(crate) fn span(commit: &Commit) -> impl Iterator<Item = WalSegmentName> + use<> {
    let point = &commit.cluster;
    let size = WalSegmentSize::new(point.wal_segment_size).filter(|_| !commit.own_wal);
    let (start, timeline) = (point.start_lsn, point.timeline);
    let last = Lsn(point.stop_lsn.0.saturating_sub(1)).max(start);
    size.into_iter().flat_map(move |size| {
        (start.0 / size.bytes()..=last.0 / size.bytes())
            .map(move |number| WalSegmentName::numbered(timeline, number, size))
    })
}

/// A job that is seen by `expire`. Dropping it removes the pin.
pub struct Guard<'a> {
    repository: &'a Repository,
    pin: ObjectId,
    writer: Arc<Mutex<PinWriter>>,
    store_now: Timestamp,
    uptime: Arc<dyn Uptime>,
    looked: Mutex<Duration>,
    forbidden: Mutex<Arc<Forbidden>>,
    _renewer: Option<renew::Renewer>,
}

impl<'a> Guard<'a> {
    /// Writes the pin, then reads the tombstones.
    ///
    /// # Errors
    /// When one of the two cannot be done. A pin that was written is removed again.
    pub fn begin(repository: &'a Repository, request: &GuardRequest<'_>) -> Result<Self, GuardError> {
        let guard = Self::pinned(repository, request)?;
        guard.look()?;
        Ok(guard)
    }

    fn pinned(repository: &'a Repository, request: &GuardRequest<'_>) -> Result<Self, GuardError> {
        let GuardRequest { operation, backup, host, now, .. } = *request;
        let began = request.uptime.get();
        let lease = LEASE.as_secs();
        let mut writer = repository.pin_writer(operation, backup, request.uses.clone(), lease, host, now)?;
        let key = writer.renew()?;
        let pin = writer.pin().pin;
        let writer = Arc::new(Mutex::new(writer));
        let mut guard = Self {
            repository,
            pin,
            store_now: written_at(repository, &key)?,
            writer: Arc::clone(&writer),
            uptime: Arc::clone(&request.uptime),
            looked: Mutex::new(began),
            forbidden: Mutex::default(),
            _renewer: None,
        };
        if request.renew {
            guard._renewer = renew::Renewer::start(writer, RENEW_EVERY);
        }
        Ok(guard)
    }

    /// The id of its pin.
    pub const fn pin(&self) -> ObjectId {
        self.pin
    }

    /// What tells this host and state directory from copies of it.
    pub fn holder(&self) -> [u8; 16] {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).pin().holder
    }

    /// The store's time when it began.
    pub const fn store_now(&self) -> Timestamp {
        self.store_now
    }

    /// What must not be used, as of the last look.
    pub fn forbidden(&self) -> Arc<Forbidden> {
        Arc::clone(&self.forbidden.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on only these backups must stay: call it when the parent is chosen, with none for a full backup. Until
    /// then a backup keeps all of its source from being deleted.
    ///
    /// # Errors
    /// When that cannot be written; more than that stays, then.
    pub fn uses(&self, backups: &[BackupId]) -> Result<(), GuardError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(writer.uses(Uses::Backups(backups.to_vec()))?)
    }

    /// Renews the pin.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn renew(&self) -> Result<(), GuardError> {
        self.renewed().map(drop)
    }

    /// Renews the pin and answers where: its age is the store's time.
    pub(crate) fn renewed(&self) -> Result<Key, GuardError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(writer.renew()?)
    }

    /// What must not be used now: call it when something is chosen long after the beginning.
    ///
    /// # Errors
    /// When the tombstones cannot be read.
    pub fn look_again(&self) -> Result<Arc<Forbidden>, GuardError> {
        self.look()
    }

    fn look(&self) -> Result<Arc<Forbidden>, GuardError> {
        let forbidden = Arc::new(Forbidden::read(self.repository)?);
        *self.forbidden.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&forbidden);
        Ok(forbidden)
    }

    /// Makes sure that nothing the new backup needs, packs and WAL, is being deleted: call it right before the commit is
    /// written.
    ///
    /// # Errors
    /// The backup must be withdrawn.
    pub fn before_commit(&self, commit: &Commit, packs: &[PackUse]) -> Result<(), GuardError> {
        let before = self.uptime.get();
        let forbidden = self.look()?;
        if let Some((object, tombstone)) = forbidden.of(commit, packs) {
            return Err(GuardError::Marked { object, tombstone: tombstone.clone() });
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if self.uptime.get().saturating_sub(*looked) > LOOK_AGAIN {
            self.all_there(commit, packs)?;
        }
        *looked = before;
        Ok(())
    }

    /// Looks once more when the commit is there: this process may have been stopped between the last look and its commit.
    /// A commit that must not be is taken back.
    ///
    /// # Errors
    /// The commit is withdrawn, or could not be; it must not be acknowledged.
    pub fn after_commit(&self, commit: &Commit, packs: &[PackUse]) -> Result<(), GuardError> {
        let Err(error) = self.before_commit(commit, packs) else { return Ok(()) };
        // What could not be asked says nothing against the backup, unless this process was stopped for long.
        if let GuardError::Repository(_) = &error {
            let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if self.uptime.get().saturating_sub(looked) <= LOOK_AGAIN {
                return Ok(());
            }
        }
        let key = layout::commit(commit.source, commit.number, commit.backup);
        match self.repository.store().delete(&key) {
            Err(denied) if denied.is_denied() => {
                self.disown(commit, &key)?;
                Err(GuardError::NotWithdrawn { commit: key.to_string(), why: error.to_string() })
            }
            other => {
                other.map_err(RepoError::from)?;
                Err(error)
            }
        }
    }

    /// A commit that must not be, where this host may not delete: nobody builds on what a tombstone names, and whoever may
    /// delete does it.
    fn disown(&self, commit: &Commit, key: &Key) -> Result<(), RepoError> {
        let mut marked = Marked::default();
        self.repository.list_tombstones()?.iter().for_each(|stored| marked.merge(&stored.tombstone.marked));
        marked.add_commit(commit.source, commit.number, commit.backup);
        self.repository.put_tombstone(vec![key.clone()], BTreeMap::new(), marked, commit.finished).map(drop)
    }

    fn all_there(&self, commit: &Commit, named: &[PackUse]) -> Result<(), GuardError> {
        let absent = packs::absent(self.repository, named)?;
        let mut gone: Vec<String> = absent.into_iter().map(|id| layout::pack(id).to_string()).collect();
        for segment in span(commit) {
            let name = WalFileName::Segment(segment);
            if self.repository.find_wal(commit.cluster.system, name)?.is_empty() {
                gone.push(segment.to_string());
            }
        }
        match gone.first() {
            None => Ok(()),
            Some(first) => Err(GuardError::Gone { object: first.clone(), count: gone.len() }),
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // First the thread, so that it does not write the pin again.
        self._renewer = None;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.remove() {
            tracing::debug!(%error, "the pin stays until its lease is over");
        }
    }
}

/// The store's time when an object was written: its clock, not ours.
pub(crate) fn written_at(repository: &Repository, key: &Key) -> Result<Timestamp, RepoError> {
    let info = repository.store().head(key)?;
    info.map(|info| info.created).ok_or_else(|| RepoError::Missing { object: key.to_string() })
}

/// What must not be used now, for those who only want to know.
///
/// # Errors
/// When the tombstones cannot be read.
pub(crate) fn forbidden(repository: &Repository) -> Result<Forbidden, RepoError> {
    Forbidden::read(repository)
}

/// Begins to guard a job that only reads; `None` where this host cannot write into the repository. A tombstone that cannot
/// be read is `verify`'s business: it must not keep anybody from restoring.
///
/// # Errors
/// When the repository fails otherwise.
pub fn reading<'a>(
    repository: &'a Repository,
    request: &GuardRequest<'_>,
) -> Result<Option<Guard<'a>>, GuardError> {
    if enrol(repository, request.now)? { as_it_is(repository, request) } else { Ok(None) }
}

/// Enrols this host where it is not; `false` where it cannot write into the repository.
///
/// # Errors
/// When the repository fails otherwise.
pub fn enrol(repository: &Repository, now: Timestamp) -> Result<bool, GuardError> {
    unless_read_only(repository.ensure_enrolled(now).map_err(GuardError::from)).map(|done| done.is_some())
}

/// As [`reading`], but adds nothing except for the pin: where this host is not enrolled, or its record is gone, there is none.
/// For `verify`, which must not mend what it looks at.
///
/// # Errors
/// When the repository fails otherwise.
pub(crate) fn as_it_is<'a>(
    repository: &'a Repository,
    request: &GuardRequest<'_>,
) -> Result<Option<Guard<'a>>, GuardError> {
    let agent = layout::agent(repository.agent());
    if repository.store().head(&agent).map_err(RepoError::from)?.is_none() {
        return Ok(None);
    }
    let guard = unless_read_only(Guard::pinned(repository, request))?;
    if let Some(Err(error)) = guard.as_ref().map(Guard::look) {
        tracing::warn!(%error, "what is going to be deleted cannot be told");
    }
    Ok(guard)
}

/// `None` where it could not be done because this host cannot write.
fn unless_read_only<T>(done: Result<T, GuardError>) -> Result<Option<T>, GuardError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(GuardError::Repository(RepoError::NotEnrolled { .. })) => Ok(None),
        Err(GuardError::Repository(RepoError::Store(error)))
            if matches!(
                error.kind,
                StoreErrorKind::ReadOnly | StoreErrorKind::Denied | StoreErrorKind::NoSpace
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
