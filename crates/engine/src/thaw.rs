//! What of a backup lies in a class from which it has to be thawed before it can be read.
//!
//! Only packs ever do: everything that listing, expiring and planning read is kept where it can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use refloat_repo::commit::CommitRecord;
use refloat_repo::repository::Uses;
use refloat_repo::{RepoError, Repository, layout};
use refloat_store::{Key, Readiness};
use refloat_types::{ByteSize, Timestamp};

use crate::guard::{self, Guard, GuardError, GuardRequest, SinceBoot};

/// A pack that cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Its name.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// The class it is in.
    pub class: String,
    /// Somebody has asked for it already.
    pub is_thawing: bool,
}

/// Questions at once: each is one short call.
const AT_ONCE: usize = 16;

/// Packs of these backups that cannot be read now, by their names.
///
/// # Errors
/// When the store does not answer.
pub fn frozen<'r>(
    repository: &Repository,
    records: impl IntoIterator<Item = &'r CommitRecord>,
) -> Result<Vec<Frozen>, RepoError> {
    let packs = records.into_iter().flat_map(|record| record.packs.iter());
    let needed: BTreeMap<Key, u64> = packs.map(|pack| (layout::pack(pack.id), pack.size)).collect();
    frozen_of(repository, &needed)
}

/// Those of these packs, with their sizes, that cannot be read now.
///
/// # Errors
/// As [`frozen`].
pub(crate) fn frozen_of(
    repository: &Repository,
    needed: &BTreeMap<Key, u64>,
) -> Result<Vec<Frozen>, RepoError> {
    let mut doubtful = Vec::new();
    repository.store().list_cold(layout::PACKS, &mut |key| {
        if let Some(size) = needed.get(&key) {
            doubtful.push((key, *size));
        }
        ControlFlow::Continue(())
    })?;
    let next = AtomicUsize::new(0);
    let found: Mutex<Result<Vec<Frozen>, RepoError>> = Mutex::new(Ok(Vec::new()));
    let work = || {
        while let Some((key, size)) = doubtful.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one = repository.store().readiness(key);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *found, one) {
                (Err(_), _) => return,
                (_, Err(error)) => *found = Err(error.into()),
                (Ok(all), Ok(readiness)) => all.extend(Frozen::of(key, *size, readiness)),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(doubtful.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut all = found.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    all.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(all)
}

/// Objects of a repository that may be cold, listed once for many questions.
pub(crate) struct Doubtful(BTreeSet<Key>);

impl Doubtful {
    /// Lists them.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) fn of(repository: &Repository) -> Result<Self, RepoError> {
        let mut all = BTreeSet::new();
        repository.store().list_cold(layout::PACKS, &mut |key| {
            all.insert(key);
            ControlFlow::Continue(())
        })?;
        Ok(Self(all))
    }

    /// The first pack of a backup that cannot be read now.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) fn first_of(
        &self,
        repository: &Repository,
        record: &CommitRecord,
    ) -> Result<Option<Frozen>, RepoError> {
        for pack in record.packs.iter() {
            let key = layout::pack(pack.id);
            if self.0.contains(&key)
                && let Some(frozen) = Frozen::of(&key, pack.size, repository.store().readiness(&key)?)
            {
                return Ok(Some(frozen));
            }
        }
        Ok(None)
    }
}

/// As text: how many, how large, in which class, and how many of them somebody has asked for.
pub fn describe<'f>(frozen: impl IntoIterator<Item = &'f Frozen>) -> String {
    let (mut count, mut bytes, mut asked, mut classes) = (0, 0, 0, BTreeSet::new());
    for one in frozen {
        count += 1;
        bytes += one.size;
        asked += usize::from(one.is_thawing);
        classes.insert(one.class.as_str());
    }
    let classes = classes.into_iter().collect::<Vec<_>>().join(" and ");
    let packs = if count == 1 { "pack" } else { "packs" };
    let asked = if asked > 0 { format!(", {asked} of them asked for already,") } else { String::new() };
    format!("{count} {packs} ({}) in {classes}{asked}", ByteSize(bytes))
}

impl Frozen {
    fn of(key: &Key, size: u64, readiness: Readiness) -> Option<Self> {
        let (class, is_thawing) = match readiness {
            Readiness::Ready => return None,
            Readiness::Cold(class) => (class, false),
            Readiness::Thawing(class) => (class, true),
        };
        Some(Self { key: key.clone(), size, class, is_thawing })
    }
}

/// Keeps these backups from being deleted while they are waited for, which can take days; none where this host cannot write.
///
/// # Errors
/// When the pin cannot be written.
pub fn hold<'a>(
    repository: &'a Repository,
    records: &[CommitRecord],
    operation: &str,
    host: &str,
    now: Timestamp,
) -> Result<Option<Guard<'a>>, GuardError> {
    let asked = GuardRequest {
        operation,
        backup: None,
        uses: Uses::Backups(records.iter().map(|record| record.commit.backup).collect()),
        host,
        now,
        uptime: Arc::new(SinceBoot),
        renew: true,
    };
    guard::reading(repository, &asked)
}
