//! Rescue kits: what somebody needs who has only the store and the key, in plain view.
//!
//! A kit is a signed list of files with their digests; the files lie beside it as they are, so that any client of the
//! store can fetch them. A later kit is a new one with the next number, and may name files of an earlier one. The list is written
//! before its files: a crash leaves a kit that lacks some, and never a file that no list names. So a file that none names
//! was put there by somebody else.
//!
//! Nothing of a kit is ever run or believed here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use aws_lc_rs::digest;
use refloat_store::{Key, ObjectInfo, Store, StoreErrorKind};
use refloat_types::{ObjectId, SourceId, Timestamp, fault, hex};
use serde::{Deserialize, Serialize};

use super::{Reach, Repository};
use crate::crypt::random;
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout::{self, Named};
use crate::object::{Body, Document};

/// Largest list of a kit accepted.
pub(super) const MAX_KIT: u64 = 1 << 20;
/// How the program of a kit is called.
pub const KIT_PROGRAM: &str = "refloat";
/// The kits with the newest programs stay, so many.
const KEPT_PROGRAMS: usize = 3;
/// Most objects below `rescue/` that are kept in mind: whoever can write could put millions there.
const MAX_OBJECTS: usize = 10_000;
/// How much of a file is read or written at a time.
const PIECE: u64 = 1 << 20;

/// A file of a kit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitFile {
    /// What it is called when it was fetched: `RESCUE.txt`.
    pub name: String,
    /// Where it lies.
    #[serde(with = "key_text")]
    pub key: Key,
    /// Its bytes.
    pub size: u64,
    /// Their SHA-256 digest: what `sha256sum` prints.
    #[serde(with = "hex::array")]
    pub sha256: [u8; 32],
}

/// A kit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kit {
    /// Counts the repository's kits.
    pub number: u64,
    /// When it was put there.
    pub at: Timestamp,
    /// The release of Refloat that it holds, or was made by.
    pub release: String,
    /// URLs that the repository was reached by.
    pub addresses: Vec<String>,
    /// How, where a URL does not say it; of one address the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<Reach>,
    /// The sources that it speaks of.
    pub sources: Vec<SourceId>,
    /// The generation of who can read that it speaks of.
    pub generation: u64,
    /// What it consists of.
    pub files: Vec<KitFile>,
    /// Who put it there.
    pub agent: ObjectId,
}

impl Kit {
    /// The file of this name.
    pub fn file(&self, name: &str) -> Option<&KitFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// A kit that is to be put there.
#[derive(Debug, Clone)]
pub struct NewKit {
    /// Its number, see [`Kits::next_number`].
    pub number: u64,
    /// As in [`Kit`].
    pub release: String,
    /// As in [`Kit`].
    pub addresses: Vec<String>,
    /// As in [`Kit`].
    pub reach: Vec<Reach>,
    /// As in [`Kit`].
    pub sources: Vec<SourceId>,
    /// All files, those that lie there already too.
    pub files: Vec<KitFile>,
}

/// What is wrong with something below `rescue/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KitWrong {
    /// Somebody else put it there.
    Foreign,
    /// It is not what was put there.
    Changed,
    /// It is not there.
    Missing,
}

/// Something below `rescue/` that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KitFinding {
    /// What.
    pub key: Key,
    /// What is wrong.
    pub wrong: KitWrong,
    /// The same in words.
    pub what: String,
}

/// Everything below `rescue/`.
#[derive(Debug, Default)]
pub struct Kits {
    /// Kits that an enrolled agent has signed, oldest first.
    pub kits: Vec<Kit>,
    /// Lists that cannot be believed.
    wrong: Vec<(Key, RepoError)>,
    objects: BTreeMap<Key, ObjectInfo>,
    /// Objects beyond [`MAX_OBJECTS`].
    more: u64,
}

impl Kits {
    /// The kit that counts.
    pub fn newest(&self) -> Option<&Kit> {
        self.kits.last()
    }

    /// The number of the next kit: a directory in which nothing lies, whoever put it there.
    pub fn next_number(&self) -> u64 {
        let mut number = self.newest().map_or(0, |kit| kit.number) + 1;
        while self.objects.keys().any(|key| layout::kit_number(key) == Some(number)) {
            number += 1;
        }
        number
    }

    /// Whether a file lies there with the size it should have.
    pub fn seems_whole(&self, file: &KitFile) -> bool {
        self.objects.get(&file.key).is_some_and(|info| info.size == file.size)
    }

    /// What kits consist of that were replaced before `until`, by the store's clock, and that nobody needs any more: a sheet
    /// that was printed some releases ago still names the digest of a program that stays.
    pub fn replaced(&self, until: Timestamp) -> Vec<Key> {
        let mut programs: Vec<Option<[u8; 32]>> = Vec::new();
        let (mut stay, mut go): (Vec<&Kit>, Vec<&Kit>) = (Vec::new(), Vec::new());
        let mut successor = None;
        for kit in self.kits.iter().rev() {
            let program = kit.file(KIT_PROGRAM).map(|file| file.sha256);
            let is_new = !programs.contains(&program) && programs.len() < KEPT_PROGRAMS;
            let is_old = successor.is_some_and(|replaced| replaced < until);
            successor = self.objects.get(&layout::kit(kit.number)).map(|info| info.created);
            if is_new || !is_old {
                programs.push(program);
                stay.push(kit);
            } else {
                go.push(kit);
            }
        }
        let needed: BTreeSet<&Key> = stay.iter().flat_map(|kit| &kit.files).map(|file| &file.key).collect();
        let mut keys: BTreeSet<Key> =
            go.iter().flat_map(|kit| &kit.files).map(|file| file.key.clone()).collect();
        keys.retain(|key| !needed.contains(key) && self.objects.contains_key(key));
        // A list goes last: without it a file would be nobody's.
        keys.into_iter().chain(go.iter().map(|kit| layout::kit(kit.number))).collect()
    }

    /// Everything that lies there.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }
}

/// The SHA-256 digest of these bytes.
pub fn sha256_of(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

impl Repository {
    /// Lists what lies below `rescue/`, and reads the lists of kits.
    ///
    /// # Errors
    /// When the store cannot list or does not answer. A list that cannot be believed is no error, see
    /// [`Repository::inspect_kits`].
    pub fn kits(&self) -> Result<Kits, RepoError> {
        let mut found = Kits::default();
        self.store.list(layout::RESCUE, &mut |info| {
            if found.objects.len() < MAX_OBJECTS {
                found.objects.insert(info.key.clone(), info);
            } else {
                found.more += 1;
            }
            ControlFlow::Continue(())
        })?;
        let numbers = found.objects.keys().filter_map(|key| match Named::parse(key) {
            Some(Named::Kit(number)) => Some(number),
            _ => None,
        });
        for number in numbers.collect::<Vec<_>>() {
            match self.read_kit(number) {
                Ok(kit) => found.kits.push(kit),
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                Err(error) => found.wrong.push((layout::kit(number), error)),
            }
        }
        found.kits.sort_by_key(|kit| kit.number);
        Ok(found)
    }

    /// Reads and verifies the list of one kit.
    ///
    /// # Errors
    /// `Damaged`, `UnknownOrigin`, or what the store says.
    pub fn read_kit(&self, number: u64) -> Result<Kit, RepoError> {
        let key = layout::kit(number);
        kit_of(number, &key, &self.get_signed(&key, Kind::RescueKit, MAX_KIT)?)
    }

    /// Puts the list of a kit there. Its files are put next, by [`Repository::put_kit_file`].
    ///
    /// # Errors
    /// `AlreadyExists` where somebody else has just put one; otherwise it may or may not be there.
    pub fn put_kit(&self, new: NewKit, now: Timestamp) -> Result<Kit, RepoError> {
        let kit = Kit {
            number: new.number,
            at: now,
            release: new.release,
            addresses: new.addresses,
            reach: new.reach,
            sources: new.sources,
            generation: self.current.number,
            files: new.files,
            agent: self.agent(),
        };
        fault::point("rescue.before_list").map_err(|e| RepoError::internal("put the rescue kit", e))?;
        let key = layout::kit(kit.number);
        self.put_signed(&key, Kind::RescueKit, random::object_id(), &kit, &[], Body::Empty)?;
        fault::point("rescue.after_list").map_err(|e| RepoError::internal("put the rescue kit", e))?;
        Ok(kit)
    }

    /// Puts a file of a kit there.
    ///
    /// # Errors
    /// When it may not be there.
    pub fn put_kit_file(&self, file: &KitFile, bytes: &[u8]) -> Result<(), RepoError> {
        let mut writer = self.store.create(&file.key)?;
        for piece in bytes.chunks(PIECE as usize) {
            writer.write(piece)?;
        }
        Ok(writer.finish()?)
    }

    /// Deletes the files of kits that are not what was put there, among `keys`: what stands under a name that a kit of ours gives
    /// and has another digest helps nobody. Answers which; the next kit has them again.
    ///
    /// # Errors
    /// When the store does not answer, or refuses to delete.
    pub fn delete_changed_kit_files(&self, keys: &[Key]) -> Result<Vec<Key>, RepoError> {
        let kits = self.kits()?;
        let ours = |key: &Key| kits.kits.iter().any(|kit| kit.files.iter().any(|file| file.key == *key));
        let mut deleted = Vec::new();
        for finding in self.inspect_kits(&kits)? {
            if finding.wrong == KitWrong::Changed && keys.contains(&finding.key) && ours(&finding.key) {
                self.store.delete(&finding.key)?;
                deleted.push(finding.key);
            }
        }
        Ok(deleted)
    }

    /// Compares everything below `rescue/` with what the kits say, byte by byte. What an older kit lacks is no finding:
    /// the newest one counts.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn inspect_kits(&self, kits: &Kits) -> Result<Vec<KitFinding>, RepoError> {
        let mut findings = Vec::new();
        let mut find =
            |key: &Key, wrong, what: String| findings.push(KitFinding { key: key.clone(), wrong, what });
        for (key, error) in &kits.wrong {
            match error {
                RepoError::UnknownOrigin { why, .. } => find(key, KitWrong::Foreign, why.clone()),
                error => find(key, KitWrong::Changed, error.to_string()),
            }
        }
        let mut named: BTreeMap<&Key, (&KitFile, bool)> = BTreeMap::new();
        for kit in &kits.kits {
            for file in &kit.files {
                let counts = kits.newest().is_some_and(|newest| newest.number == kit.number);
                let entry = named.entry(&file.key).or_insert((file, counts));
                entry.1 |= counts;
                if entry.0 != file {
                    find(&file.key, KitWrong::Changed, "two kits give it different digests".to_owned());
                }
            }
        }
        for (key, (file, counts)) in &named {
            match kits.objects.get(*key) {
                None if *counts => {
                    find(key, KitWrong::Missing, "the kit names it, and it is not there".to_owned())
                }
                None => {}
                Some(info)
                    if info.size != file.size || sha256_in(self.store.as_ref(), info)? != file.sha256 =>
                {
                    find(key, KitWrong::Changed, "it is not what was put there".to_owned());
                }
                Some(_) => {}
            }
        }
        let lists = kits.kits.iter().map(|kit| layout::kit(kit.number)).collect::<Vec<_>>();
        for key in kits.objects.keys() {
            let known = named.contains_key(key)
                || lists.contains(key)
                || kits.wrong.iter().any(|(wrong, _)| wrong == key);
            if !known {
                find(key, KitWrong::Foreign, "no kit of this repository's agents names it".to_owned());
            }
        }
        if kits.more > 0
            && let Some(last) = kits.objects.keys().next_back()
        {
            find(last, KitWrong::Foreign, format!("{} more objects lie there", kits.more));
        }
        Ok(findings)
    }
}

/// What the list of a kit whose signature holds says.
pub(super) fn kit_of(number: u64, key: &Key, document: &Document) -> Result<Kit, RepoError> {
    let kit: Kit = document.unverified().clear_as(key.as_str())?;
    if kit.number != number || kit.agent != document.header.agent {
        return Err(RepoError::damaged(key, "it is another kit"));
    }
    if kit.files.iter().any(|file| layout::kit_number(&file.key).is_none_or(|of| of > number)) {
        return Err(RepoError::damaged(key, "it names files that lie elsewhere"));
    }
    Ok(kit)
}

fn sha256_in(store: &dyn Store, info: &ObjectInfo) -> Result<[u8; 32], RepoError> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut at, mut piece) = (0, Vec::new());
    while at < info.size {
        let end = info.size.min(at + PIECE);
        piece.clear();
        match store.read(&info.key, at..end, &mut piece) {
            // Gone or shortened since it was listed: it is not what was put there, whatever it is now.
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Truncated) => {
                return Ok([0; 32]);
            }
            other => other?,
        }
        context.update(&piece);
        at = end;
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Ok(out)
}

/// A key as text.
mod key_text {
    use refloat_store::Key;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(key: &Key, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(key.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Key, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
