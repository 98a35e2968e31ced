//! Backups: the commit, the packs it names, the manifest they hold.
//!
//! The manifest is always read: it is small, and only it says whether every file has a place. The bytes of files are
//! planned from it on the way when they are to be read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use refloat_repo::commit::CommitRecord;
use refloat_repo::error::KeyError;
use refloat_repo::layout::{self, Named};
use refloat_repo::manifest::root::{LeafReader, read_part};
use refloat_repo::manifest::{Entry, Leaf, Root, What};
use refloat_repo::pack::FrameOpener;
use refloat_repo::pack::reader::PackKeys;
use refloat_repo::{RepoError, Repository};
use refloat_types::{BackupId, ObjectId, SourceId, WalSegmentName};

use super::VerifyError;
use super::cold::is_cold;
use super::data::PackReader;
use super::ledger::Ledger;
use super::plan::{Shared, Window};
use super::report::{BackupName, Depends, FindingKind, Grade};
use super::run::Run;

/// A backup whose commit can be believed.
pub(super) struct Known {
    pub(super) name: BackupName,
    pub(super) source: SourceId,
    pub(super) record: CommitRecord,
    /// Opened keys of its packs; `None` where this host cannot open them.
    keys: Option<Arc<PackKeys>>,
    /// What the manifest says.
    pub(super) manifest: Option<Seen>,
}

/// What was seen of a manifest.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// All of it could be read.
    pub(super) whole: bool,
    /// WAL segments that are part of the backup.
    pub(super) wal: BTreeSet<WalSegmentName>,
}

impl Run<'_> {
    /// Reads the commits of `keys`.
    pub(super) fn read_commits(
        &mut self,
        keys: impl IntoIterator<Item = (SourceId, u64, BackupId)>,
    ) -> Result<(), VerifyError> {
        for (source, number, id) in keys {
            let named = Named::Commit(source, number, id);
            let key = named.key();
            let name = BackupName { source: self.source_name(source), number, id };
            let depends = Depends::on_backups([name.clone()]);
            self.ledger.present += 1;
            let inspected = match self.repository.inspect(&named) {
                Ok(inspected) => inspected,
                Err(error) => {
                    self.fail(&key, error, depends)?;
                    continue;
                }
            };
            self.ledger.used(key.as_str(), inspected.agent, inspected.key, &depends);
            if let Err(why) = inspected.opened {
                self.not_opened(&why);
            }
            if let Some(record) = inspected.commit {
                self.backups.push(Known { name, source, record, keys: None, manifest: None });
            }
        }
        Ok(())
    }

    /// Every pack that a backup names is there, with its size; every key opens.
    pub(super) fn check_packs(&mut self) -> Result<(), VerifyError> {
        let mut backups = std::mem::take(&mut self.backups);
        let mut counted = HashSet::new();
        for backup in &mut backups {
            let depends = Depends::on_backups([backup.name.clone()]);
            let commit = backup.record.commit.clone();
            let object = layout::commit(commit.source, commit.number, commit.backup).to_string();
            for pack in backup.record.packs.iter() {
                let key = layout::pack(pack.id);
                let size = match self.census.packs.get(&pack.id) {
                    Some(size) => Some(*size),
                    // A list may lag behind; the store itself knows.
                    None => match self.repository.store().head(&key) {
                        Ok(info) => info.map(|info| info.size),
                        Err(error) => {
                            self.fail(&key, error.into(), depends.clone())?;
                            continue;
                        }
                    },
                };
                if size.is_some() && counted.insert(pack.id) {
                    self.ledger.present += 1;
                }
                let what = match size {
                    None => Some((FindingKind::Missing, "it is not there".to_owned())),
                    Some(size) if size != pack.size => {
                        let what = format!("it has {size} bytes, the commit says {}", pack.size);
                        Some((FindingKind::Damaged, what))
                    }
                    Some(_) => None,
                };
                if let Some((kind, what)) = what {
                    self.ledger.add(kind, key.as_str(), what).depends.merge(depends.clone());
                }
            }
            let keys: BTreeSet<ObjectId> =
                backup.record.packs.iter().map(|pack| pack.key).chain(commit.keys.iter().copied()).collect();
            for key in keys.into_iter().filter(|key| *key != ObjectId::NONE) {
                self.ledger.used(&object, ObjectId::NONE, key, &depends);
            }
            if self.repository.can_read() {
                match self.repository.pack_keys(&backup.record) {
                    Ok(keys) => backup.keys = Some(Arc::new(keys)),
                    Err(RepoError::NoKey { .. }) => {}
                    Err(error) => self.fail_quietly(
                        &layout::commit(commit.source, commit.number, commit.backup),
                        error,
                        depends,
                    )?,
                }
            }
        }
        self.backups = backups;
        Ok(())
    }

    /// Reads manifests, and packs too where that was asked for.
    pub(super) fn check_manifests(&mut self) -> Result<(), VerifyError> {
        let mut backups = std::mem::take(&mut self.backups);
        let cold = self.look_for_cold(&backups)?;
        let mut reading = self.request.read_data.then(|| Reading::new(self, &backups));
        if reading.is_some() {
            let bytes = self.census.packs.values().sum();
            self.request.progress.phase("data", bytes);
        } else {
            self.request.progress.phase("manifests", 0);
        }
        for (at, backup) in backups.iter_mut().enumerate() {
            let Some(keys) = backup.keys.clone().filter(|_| !is_cold(backup, &cold)) else { continue };
            let mut walk = Walk {
                repository: self.repository,
                ledger: &mut self.ledger,
                depends: Depends::on_backups([backup.name.clone()]),
                sizes: backup.record.packs.iter().map(|pack| (pack.id, pack.size)).collect(),
                seen: Seen { whole: true, ..Seen::default() },
            };
            walk.backup(at as u32, &backup.record, &keys, reading.as_mut())?;
            backup.manifest = Some(walk.seen);
        }
        if let Some(mut reading) = reading {
            reading.flush(&mut self.ledger)?;
            let unneeded = self.unneeded_keys(&mut reading.packs, &cold)?;
            let named = backups.iter().filter(|backup| backup.keys.is_some());
            let named = named.flat_map(|backup| backup.record.packs.iter().map(|pack| pack.id));
            let rest: Vec<ObjectId> = named.chain(unneeded).filter(|pack| !cold.contains(pack)).collect();
            reading.packs.read_rest(rest.into_iter(), &mut self.ledger)?;
        }
        self.backups = backups;
        Ok(())
    }

    /// Packs that no backup names: their keys are the ones that they name themselves, if this host can open them.
    fn unneeded_keys(
        &mut self,
        reader: &mut PackReader<'_>,
        cold: &BTreeSet<ObjectId>,
    ) -> Result<Vec<ObjectId>, VerifyError> {
        let mut keys = (*reader.keys).clone();
        let mut readable = Vec::new();
        for pack in self.unneeded.clone().into_iter().filter(|pack| !cold.contains(pack)) {
            let object = layout::pack(pack);
            let claim = match self.repository.claim(&object) {
                Ok(Some(claim)) => claim,
                // What is wrong with it is said when it is read.
                Ok(None) => {
                    readable.push(pack);
                    continue;
                }
                Err(error) => {
                    self.fail(&object, error, Depends::other("no backup that is known here"))?;
                    continue;
                }
            };
            if claim.key != ObjectId::NONE && !keys.keys.contains_key(&claim.key) {
                match self.repository.open_key(claim.key) {
                    Ok(key) => drop(keys.keys.insert(claim.key, key)),
                    Err(RepoError::Store(error)) if error.is_retryable() => {
                        return Err(RepoError::Store(error).into());
                    }
                    Err(RepoError::NoKey { source: KeyError::NoIdentity, .. }) => {
                        self.not_opened(&KeyError::NoIdentity);
                        continue;
                    }
                    Err(error) => {
                        let what = format!(
                            "the key that its header names cannot be opened, so it was not read: {error}"
                        );
                        let finding = self.ledger.add(FindingKind::Unreadable, object.as_str(), what);
                        finding.depends.merge(Depends::other("no backup that is known here"));
                        finding.grade = Grade::Note;
                        continue;
                    }
                }
            }
            keys.packs.insert(pack, claim.key);
            readable.push(pack);
        }
        reader.keys = Arc::new(keys);
        Ok(readable)
    }
}

/// What is kept while packs are read.
struct Reading<'a> {
    packs: PackReader<'a>,
    window: Window,
    shared: Shared,
}

impl<'a> Reading<'a> {
    fn new(run: &Run<'a>, backups: &[Known]) -> Self {
        let mut keys = PackKeys::default();
        let mut users: BTreeMap<ObjectId, Vec<u32>> = BTreeMap::new();
        let mut shared = Shared::default();
        for (at, backup) in backups.iter().enumerate() {
            for pack in backup.record.packs.iter() {
                users.entry(pack.id).or_default().push(at as u32);
                shared.count(pack.id);
            }
            if let Some(opened) = &backup.keys {
                keys.packs.extend(opened.packs.iter().map(|(pack, key)| (*pack, *key)));
                keys.keys.extend(opened.keys.iter().map(|(id, key)| (*id, Arc::clone(key))));
            }
        }
        let packs = PackReader {
            store: run.repository.store().as_ref(),
            jobs: run.request.jobs,
            progress: run.request.progress,
            keys: Arc::new(keys),
            backups: backups.iter().map(|backup| backup.name.clone()).collect(),
            users,
            done: HashSet::new(),
        };
        Self { packs, window: Window::default(), shared }
    }

    fn flush(&mut self, ledger: &mut Ledger) -> Result<(), VerifyError> {
        if self.window.is_empty() {
            return Ok(());
        }
        self.packs.read_window(&self.window.take(), ledger)
    }
}

/// The way through one manifest.
struct Walk<'a> {
    repository: &'a Repository,
    ledger: &'a mut Ledger,
    depends: Depends,
    sizes: HashMap<ObjectId, u64>,
    seen: Seen,
}

impl Walk<'_> {
    fn fail(&mut self, error: RepoError, files: Option<&[u8]>) -> Result<(), VerifyError> {
        self.seen.whole = false;
        let mut depends = self.depends.clone();
        match files {
            Some(path) => depends.file(String::from_utf8_lossy(path).into_owned()),
            None => depends.merge(Depends::other("the manifest of a backup")),
        }
        self.ledger.fail("", error, None, depends)
    }

    fn backup(
        &mut self,
        at: u32,
        record: &CommitRecord,
        keys: &Arc<PackKeys>,
        mut reading: Option<&mut Reading<'_>>,
    ) -> Result<(), VerifyError> {
        let store = self.repository.store().as_ref();
        let mut opener = FrameOpener::new(Arc::clone(keys))?;
        let root = match Root::read(store, &mut opener, &record.commit.root) {
            Ok(root) => root,
            Err(error) => return self.fail(error, None),
        };
        let mut piece = Vec::new();
        for blob in root.blobs.values() {
            if let Err(error) = blob.iter().try_for_each(|frame| opener.fetch(store, frame, &mut piece)) {
                self.fail(error, None)?;
            }
        }
        let mut leaves = LeafReader::default();
        let mut last: Vec<u8> = Vec::new();
        for part in &root.parts {
            let entries = match read_part(store, &mut opener, part) {
                Ok(entries) => entries,
                Err(error) => {
                    self.fail(error, None)?;
                    continue;
                }
            };
            let object = layout::pack(part.frame.pack);
            for entry in entries {
                if self.seen.entries > 0 && entry.path <= last {
                    self.fail(RepoError::damaged(&object, "manifest parts are not in order"), None)?;
                }
                self.entry(at, &entry, &mut leaves, &mut opener, reading.as_deref_mut())?;
                last = entry.path;
            }
        }
        let sizes = record.commit.sizes;
        if self.seen.whole && (sizes.entries, sizes.source) != (self.seen.entries, self.seen.bytes) {
            let object = layout::commit(record.commit.source, record.commit.number, record.commit.backup);
            let what = "its manifest has other numbers of files and bytes than it says";
            self.fail(RepoError::damaged(object, what), None)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: u32,
        entry: &Entry,
        reader: &mut LeafReader,
        opener: &mut FrameOpener,
        mut reading: Option<&mut Reading<'_>>,
    ) -> Result<(), VerifyError> {
        self.seen.entries += 1;
        let What::File { size, leaves, .. } = &entry.what else { return Ok(()) };
        self.seen.bytes = self.seen.bytes.saturating_add(*size);
        if let Some(segment) = entry.path.strip_prefix(b"pg_wal/").and_then(|name| str::from_utf8(name).ok())
            && let Ok(segment) = segment.parse::<WalSegmentName>()
        {
            self.seen.wal.insert(segment);
        }
        let (mut offset, mut whole) = (0_u64, true);
        for place in leaves.iter() {
            let leaf = reader.read(self.repository.store().as_ref(), opener, place);
            match leaf.and_then(|leaf| self.check_leaf(leaf, place.frame.pack)) {
                Err(error) => {
                    whole = false;
                    self.fail(error, Some(&entry.path))?;
                }
                Ok(leaf) => {
                    if let Some(reading) = reading.as_deref_mut()
                        && reading.shared.is_new(place)
                    {
                        if reading.window.is_full() {
                            reading.flush(self.ledger)?;
                        }
                        reading.window.add(at, &entry.path, offset, &leaf, place);
                    }
                    offset = offset.saturating_add(leaf.length);
                }
            }
        }
        if whole && offset != *size {
            let pack = leaves.first().map_or(ObjectId::NONE, |leaf| leaf.frame.pack);
            let what = "a file has another size than its map leaves";
            self.fail(RepoError::damaged(layout::pack(pack), what), Some(&entry.path))?;
        }
        Ok(())
    }

    /// Every frame of a leaf lies in a pack that the commit names, and inside it.
    fn check_leaf(&self, leaf: Leaf, pack: ObjectId) -> Result<Leaf, RepoError> {
        for frame in leaf.frames.frames() {
            let inside = self.sizes.get(&frame.pack).is_some_and(|size| frame.end() <= *size);
            if !inside {
                let what = format!("a map leaf in it names a frame outside the backup: pack {}", frame.pack);
                return Err(RepoError::damaged(layout::pack(pack), what));
            }
        }
        Ok(leaf)
    }
}
