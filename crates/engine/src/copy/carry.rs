//! One backup into another repository: keys, packs, what must be stored again, WAL, and last its commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use refloat_repo::commit::{BackupType, Commit, CommitNames, CommitRecord, PackUse};
use refloat_repo::crypt::seal::DataKey;
use refloat_repo::manifest::Root;
use refloat_repo::pack::reader::PackKeys;
use refloat_repo::pack::{FrameOpener, PackSummary, Packer};
use refloat_repo::repository::{OwnerRecord, SourceInfo};
use refloat_repo::{Compression, RepoError, layout};
use refloat_store::{Key, StoreErrorKind};
use refloat_types::{Clock, ObjectId, SourceId, SourceName, SystemIdentifier, WalFileName};

use super::held;
use super::packs::{self, Side};
use super::rewrite::{Rewriter, Rewritten};
use super::wal::WalCarrier;
use super::{BackupCopied, CopyError, CopyRequest, Named};
use crate::guard::{Forbidden, Guard, span};
use crate::progress::Progress;

/// Carries backups of one source.
pub(super) struct Carrier<'a> {
    pub(super) from: Named<'a>,
    pub(super) to: Named<'a>,
    /// Its guard in the repository it goes to.
    pub(super) guard: &'a Guard<'a>,
    /// How long it shall stay there.
    pub(super) keep: Option<Duration>,
    pub(super) self_contained: bool,
    pub(super) compression: Compression,
    pub(super) jobs: usize,
    pub(super) wal_timeout: Duration,
    pub(super) clock: &'a dyn Clock,
    pub(super) progress: &'a dyn Progress,
    /// Data keys that are known without being opened.
    pub(super) known: &'a [Arc<DataKey>],
}

/// A backup to carry.
pub(super) struct CarryWhat<'a> {
    /// As it is where it comes from.
    pub(super) record: &'a CommitRecord,
    /// Its names.
    pub(super) names: &'a CommitNames,
    /// The source where it goes to.
    pub(super) source: SourceId,
}

/// What has to be done.
struct Plan {
    /// Taken over as they are, and lacking.
    copy: Vec<PackUse>,
    /// Taken over as they are, and there.
    present: Vec<PackUse>,
    /// Whose frames are stored again.
    moving: BTreeSet<ObjectId>,
}

impl<'a> Carrier<'a> {
    fn failed_from(&self, source: impl Into<RepoError>) -> CopyError {
        CopyError::Repository { repository: self.from.name.to_owned(), source: source.into() }
    }
    fn failed_to(&self, source: impl Into<RepoError>) -> CopyError {
        CopyError::Repository { repository: self.to.name.to_owned(), source: source.into() }
    }

    /// Carries one backup. Nothing of it is visible before its commit.
    ///
    /// `None`: somebody else has copied it meanwhile.
    pub(super) fn carry(&self, what: &CarryWhat<'_>) -> Result<Option<BackupCopied>, CopyError> {
        let record = what.record;
        let mut plan = plan(self.to, self.self_contained, &self.guard.forbidden(), record)?;
        let short_locks = self.hold(&mut plan)?;
        let keys = Arc::new(self.keys(record, &plan)?);
        let bytes: u64 = plan.copy.iter().map(|pack| pack.size).sum();
        self.progress.phase("copy", bytes);
        let (from, to) = (self.from.repository, self.to.repository);
        packs::copy(from, to, &plan.copy, &keys, self.jobs, self.progress).map_err(|side| match side {
            Side::From(error) => self.failed_from(error),
            Side::To(error) => self.failed_to(error),
        })?;
        let mut commit = Commit { source: what.source, ..record.commit.clone() };
        let (mut uses, mut sealing, mut stored_again) = (record.packs.to_vec(), None, 0);
        if !plan.moving.is_empty() {
            let key = to.draw_key("backup", self.clock.now()).map_err(|error| self.failed_to(error))?;
            let rewritten = self.rewrite(record, &keys, &plan.moving, key.as_ref())?;
            stored_again = written(&rewritten.packs).map(|pack| pack.size).sum();
            uses = uses_of(record, &rewritten, &plan.moving);
            commit.root = rewritten.root;
            sealing = key;
            if plan.copy.is_empty() && plan.present.is_empty() {
                (commit.kind, commit.parent) = (BackupType::Full, None);
            }
        }
        if bytes + stored_again > 0 {
            commit.sizes.stored = bytes + stored_again;
        }
        commit.keys = uses.iter().map(|pack| pack.key).filter(|key| *key != ObjectId::NONE).collect();
        commit.keys.sort_unstable();
        commit.keys.dedup();
        self.wal(record)?;
        if sealing.is_none() && to.is_encrypted() {
            let sealed = keys.keys.values().next().cloned();
            sealing =
                Some(sealed.ok_or_else(|| {
                    self.failed_from(RepoError::internal("copy a backup", "it has no key"))
                })?);
        }
        // Two may copy it at once, from two hosts or by hand: one of them is enough.
        if self.commits_of(&commit)?.next().is_some() {
            return Ok(None);
        }
        commit.number = to.next_commit_number(what.source).map_err(|error| self.failed_to(error))?;
        let guarded = |source| CopyError::Guard { repository: self.to.name.to_owned(), source };
        self.guard.before_commit(&commit, &uses).map_err(guarded)?;
        match to.put_commit(&commit, &uses, what.names, sealing.as_deref()) {
            Err(RepoError::Store(error)) if error.kind == StoreErrorKind::AlreadyExists => return Ok(None),
            put => put.map_err(|error| self.failed_to(error))?,
        }
        self.guard.after_commit(&commit, &uses).map_err(guarded)?;
        if self.commits_of(&commit)?.any(|number| number < commit.number) {
            let key = layout::commit(commit.source, commit.number, commit.backup);
            to.store().delete(&key).map_err(|error| self.failed_to(error))?;
            return Ok(None);
        }
        Ok(Some(BackupCopied {
            backup: record.commit.backup,
            packs: plan.copy.len() as u64,
            bytes: bytes + stored_again,
            stored_again,
            present: plan.present.len() as u64,
            short_locks,
        }))
    }

    /// Sees to it that what is there already stays locked for as long as the backup; what cannot be is stored again, where this host
    /// can read it. Answers how many packs are locked too short all the same; `None` where that cannot be known.
    fn hold(&self, plan: &mut Plan) -> Result<Option<u64>, CopyError> {
        let short = held::hold(self.to.repository, &plan.present, self.keep, self.clock.now())
            .map_err(|error| self.failed_to(error))?;
        let Some(short) = short else { return Ok(None) };
        if !self.from.repository.can_read() {
            return Ok(Some(short.len() as u64));
        }
        plan.present.retain(|pack| !short.contains(&pack.id));
        plan.moving.extend(short);
        Ok(Some(0))
    }

    /// The numbers of the commits of this backup that are there.
    fn commits_of(&self, commit: &Commit) -> Result<impl Iterator<Item = u64> + use<>, CopyError> {
        let ending = format!("-{}", commit.backup);
        let keys = self.to.repository.commit_keys(commit.source).map_err(|error| self.failed_to(error))?;
        let of = move |key: Key| layout::number_of(&key).filter(|_| key.as_str().ends_with(&ending));
        Ok(keys.into_iter().filter_map(of))
    }

    /// The keys of a backup's packs, each known in the other repository where its packs are taken over.
    fn keys(&self, record: &CommitRecord, plan: &Plan) -> Result<PackKeys, CopyError> {
        let (from, to) = (self.from.repository, self.to.repository);
        let taken: BTreeSet<ObjectId> = plan.copy.iter().chain(&plan.present).map(|pack| pack.key).collect();
        let mut keys = PackKeys::default();
        for pack in record.packs.iter() {
            keys.packs.insert(pack.id, pack.key);
            if pack.key == ObjectId::NONE || keys.keys.contains_key(&pack.key) {
                continue;
            }
            let known = self.known.iter().find(|known| known.id() == pack.key).cloned();
            let opened = known.map_or_else(|| from.open_key(pack.key), Ok);
            let key = match opened {
                Ok(key) => key,
                // Nobody has to open what the other repository has a key for.
                Err(RepoError::NoKey { .. })
                    if !plan.moving.contains(&pack.id) && to.key_origin(pack.key).is_ok() =>
                {
                    continue;
                }
                Err(source @ RepoError::NoKey { .. }) => {
                    let why =
                        "the data keys of its backups have to be sealed to those who can read the other one";
                    return Err(CopyError::CannotRead { repository: self.from.name.to_owned(), why, source });
                }
                Err(error) => return Err(self.failed_from(error)),
            };
            if taken.contains(&pack.key) {
                let (purpose, created) =
                    from.key_origin(pack.key).map_err(|error| self.failed_from(error))?;
                to.adopt_key(&key, &purpose, created).map_err(|error| self.failed_to(error))?;
            }
            keys.keys.insert(pack.key, key);
        }
        Ok(keys)
    }

    fn rewrite(
        &self,
        record: &CommitRecord,
        keys: &Arc<PackKeys>,
        moving: &BTreeSet<ObjectId>,
        key: Option<&Arc<DataKey>>,
    ) -> Result<Rewritten, CopyError> {
        let (from, to) = (self.from.repository, self.to.repository);
        self.progress.phase("store again", record.commit.sizes.source);
        let packer = || {
            Packer::new(Arc::clone(to.store()), key.cloned(), self.compression, Arc::new(|_| Ok(())))
                .map_err(|error| self.failed_to(error))
        };
        let store = from.store().as_ref();
        let work = |data: Packer, meta: Packer| -> Result<Rewritten, RepoError> {
            let mut opener = FrameOpener::new(Arc::clone(keys))?;
            let root = Root::read(store, &mut opener, &record.commit.root)?;
            let page_key = root.page_key.unwrap_or_else(|| from.page_key());
            Rewriter::new(store, Arc::clone(keys), moving, data, self.progress)?.run(&root, meta, page_key)
        };
        work(packer()?, packer()?).map_err(|error| self.failed_from(error))
    }

    /// The WAL that makes the backup consistent.
    fn wal(&self, record: &CommitRecord) -> Result<(), CopyError> {
        let commit = &record.commit;
        let system = commit.cluster.system;
        let mut carrier = None;
        for segment in span(commit) {
            let name = WalFileName::Segment(segment);
            if self.has_wal(system, name)? {
                continue;
            }
            let carrier = match &mut carrier {
                Some(carrier) => carrier,
                none => none.insert(self.wal_carrier()?),
            };
            if carrier.file(system, name)?.is_none() {
                return Err(CopyError::WalMissing {
                    repository: self.from.name.to_owned(),
                    segment: segment.to_string(),
                    backup: commit.backup,
                });
            }
        }
        Ok(())
    }

    /// Whether a WAL file is there, signed by somebody who may, and durable. Two that contradict each other are no proof.
    fn has_wal(&self, system: SystemIdentifier, name: WalFileName) -> Result<bool, CopyError> {
        let to = self.to.repository;
        let found = to.find_wal(system, name).map_err(|error| self.failed_to(error))?;
        let stored = match found.as_slice() {
            [] => return Ok(false),
            [one] => one,
            [one, ..] => {
                let what = "another file of that name, with other bytes, is stored too: nobody can say which is right";
                return Err(self.failed_to(RepoError::damaged(&one.key, what)));
            }
        };
        match to.read_wal_head(stored) {
            Ok(_) => {}
            // It is replaced by a right one.
            Err(RepoError::Damaged { .. } | RepoError::UnknownOrigin { .. }) => return Ok(false),
            Err(error) => return Err(self.failed_to(error)),
        }
        to.store().settle(&stored.key).map_err(|error| self.failed_to(error))?;
        Ok(true)
    }

    fn wal_carrier(&self) -> Result<WalCarrier<'a>, CopyError> {
        WalCarrier::new(self.from, self.to, self.compression, self.wal_timeout, self.clock)
    }

    /// The source where it goes to: described there as where it comes from, and with the same owner.
    pub(super) fn source(&self, name: &SourceName, from: &SourceInfo) -> Result<SourceId, CopyError> {
        let to = self.to.repository;
        let there = to.find_source(name).map_err(|error| self.failed_to(error))?;
        let systems = self.from.repository.systems_of(from.id).map_err(|error| self.failed_from(error))?;
        if let (Some(there), Some(here)) = (there.as_ref().and_then(|there| there.system), from.system)
            && there != here
            && !systems.contains(&there)
        {
            let (name, repository) = (name.to_string(), self.to.name.to_owned());
            return Err(CopyError::OtherCluster { name, repository, there, here });
        }
        let is_same =
            |there: &SourceInfo| there.system == from.system && there.description == from.description;
        let id = match (there, &from.description, from.system) {
            (Some(there), ..) if is_same(&there) => there.id,
            (there, Some(description), Some(system)) => {
                let id = there.map(|there| there.id);
                to.describe_source(id, description, system, self.clock.now())
                    .map_err(|e| self.failed_to(e))?
                    .id
            }
            (Some(there), ..) => there.id,
            (None, ..) => {
                let (repository, name) = (self.from.name.to_owned(), name.to_string());
                return Err(CopyError::NoSource { repository, name });
            }
        };
        self.owner(from.id, id)?;
        Ok(id)
    }

    fn owner(&self, from: SourceId, to: SourceId) -> Result<(), CopyError> {
        let Some(owner) = self.from.repository.owner(from).map_err(|error| self.failed_from(error))? else {
            return Ok(());
        };
        let is_same = |there: &OwnerRecord| {
            (there.system, there.timeline, there.fork_lsn) == (owner.system, owner.timeline, owner.fork_lsn)
        };
        // One that is further there was recorded while this repository did not answer.
        let is_behind = |there: &OwnerRecord| there.system == owner.system && there.timeline > owner.timeline;
        // Another copy may record it at the same time: then it is looked at once more.
        for is_last in [false, true] {
            let there = self.to.repository.owner(to).map_err(|error| self.failed_to(error))?;
            if there.as_ref().is_some_and(|there| is_same(there) || is_behind(there)) {
                break;
            }
            let record = OwnerRecord { source: to, number: 0, ..owner.clone() };
            match self.to.repository.put_owner(record) {
                Err(RepoError::Store(error)) if error.kind == StoreErrorKind::AlreadyExists && !is_last => {}
                put => return put.map(drop).map_err(|error| self.failed_to(error)),
            }
        }
        Ok(())
    }
}

/// What copying a backup would cost.
pub(super) fn estimate(
    request: &CopyRequest<'_>,
    forbidden: &Forbidden,
    record: &CommitRecord,
) -> Result<BackupCopied, CopyError> {
    let plan = plan(request.to, request.self_contained, forbidden, record)?;
    let again = record.packs.iter().filter(|pack| plan.moving.contains(&pack.id));
    let stored_again = again.map(|pack| pack.live).sum::<u64>();
    Ok(BackupCopied {
        backup: record.commit.backup,
        packs: plan.copy.len() as u64,
        bytes: plan.copy.iter().map(|pack| pack.size).sum::<u64>() + stored_again,
        stored_again,
        present: plan.present.len() as u64,
        short_locks: Some(0),
    })
}

fn plan(
    to: Named<'_>,
    self_contained: bool,
    forbidden: &Forbidden,
    record: &CommitRecord,
) -> Result<Plan, CopyError> {
    let moves = |pack: &PackUse| {
        let is_plain = pack.key == ObjectId::NONE;
        // What is going to be deleted there is never used again, and what everybody can read does not go among what is
        // encrypted, nor the other way round: nobody there could open it.
        self_contained || forbidden.has_pack(pack.id) || is_plain == to.repository.is_encrypted()
    };
    let (moving, stays): (Vec<PackUse>, Vec<PackUse>) = record.packs.iter().copied().partition(moves);
    let fail = |source| CopyError::Repository { repository: to.name.to_owned(), source };
    let there = crate::packs::whole(to.repository, &stays).map_err(fail)?;
    let (present, copy) = stays.into_iter().partition(|pack| there.contains(&pack.id));
    Ok(Plan { copy, present, moving: moving.into_iter().map(|pack| pack.id).collect() })
}

/// What the backup needs now: packs that stayed, as far as they are still used, and those that were written.
fn uses_of(record: &CommitRecord, rewritten: &Rewritten, moving: &BTreeSet<ObjectId>) -> Vec<PackUse> {
    let stays = record.packs.iter().filter(|pack| !moving.contains(&pack.id));
    let used = stays.filter_map(|pack| {
        let live = *rewritten.uses.get(&pack.id)?;
        Some(PackUse { live: live.min(pack.size), ..*pack })
    });
    let mut uses: Vec<PackUse> = used.chain(written(&rewritten.packs)).collect();
    uses.sort_by_key(|pack| pack.id);
    uses
}

fn written(summaries: &[PackSummary]) -> impl Iterator<Item = PackUse> + '_ {
    let mut live: BTreeMap<ObjectId, u64> = BTreeMap::new();
    for summary in summaries {
        live.extend(&summary.live);
    }
    summaries.iter().flat_map(|summary| &summary.packs).map(move |pack| PackUse {
        id: pack.id,
        key: pack.key,
        size: pack.size,
        live: live.get(&pack.id).copied().unwrap_or(0),
    })
}
