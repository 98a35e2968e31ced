//! Which backup is referred to, and how far the file system's word is taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use refloat_repo::commit::{BackupType, CommitRecord};
use refloat_repo::manifest::{Reading, Root};
use refloat_repo::pack::FrameOpener;
use refloat_repo::{RepoError, Repository, layout};
use refloat_types::{ObjectId, Timestamp};

use super::{Parent, Situation, Trust, Wanted, kind_of, may_pass};
use crate::backup::{BackupError, BackupRequest, others};
use crate::{packs, thaw};

/// How long backups may go on without one that reads every file: a disk that lies is found then.
const UNREAD: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long before it was read a file must have been left alone: as long as a write may take that had begun.
const SETTLED: Duration = Duration::from_secs(2);
/// From when on a new full backup is advised.
const OLD_FULL: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is made, and of what.
pub(in crate::backup) struct Choice {
    pub(in crate::backup) kind: BackupType,
    pub(in crate::backup) parent: Option<Parent>,
    /// What a person should know.
    pub(in crate::backup) notes: Vec<String>,
}

/// Chooses the parent: the newest backup that qualifies. Where none does, a full backup is made, and why is noted.
///
/// # Errors
/// When the repository does not answer.
pub(in crate::backup) fn choose(
    request: &BackupRequest<'_>,
    situation: &Situation<'_>,
) -> Result<Choice, BackupError> {
    let mut notes = Vec::new();
    let full = |notes| Ok(Choice { kind: BackupType::Full, parent: None, notes });
    if request.wanted == Wanted::Full {
        return full(notes);
    }
    let mut commits = request.repository.list_commits(situation.source, &mut |key, error| {
        notes.push(format!("backup {} cannot be believed and is passed over: {error}", key.file_name()));
    })?;
    let last_full = commits.iter().rfind(|record| record.commit.kind == BackupType::Full).cloned();
    if request.wanted == Wanted::Diff {
        commits.retain(|record| record.commit.kind == BackupType::Full);
    }
    let asked = request.wanted != Wanted::Suitable;
    let (mut passed_over, mut doubtful) = (None, None);
    for record in in_order(request, &commits, situation.began) {
        let why = match refuses(request, situation, record, &mut doubtful)? {
            Some(why) => why,
            None => match open(request, situation, record) {
                Ok(parent) => {
                    if let Some(why) = &passed_over {
                        notes.push(format!("it refers to {}, because {why}", record.commit.backup));
                    }
                    notes.extend(advice(last_full.as_ref(), situation.began));
                    if let Trust::Nothing(why) = &parent.trust
                        && !request.scan
                    {
                        notes.push(format!("every file is read: {why}"));
                    }
                    return Ok(Choice { kind: kind_of(request.wanted), parent: Some(parent), notes });
                }
                Err(error) if may_pass(&error) => return Err(error.into()),
                Err(error) => format!("it cannot be read: {error}"),
            },
        };
        passed_over.get_or_insert_with(|| format!("{} is no parent: {why}", record.commit.backup));
    }
    match passed_over {
        Some(why) => notes.push(format!("a full backup is made: {why}")),
        None if asked => notes.push("a full backup is made: there is none yet to refer to".to_owned()),
        None => {}
    }
    full(notes)
}

/// The newest first; but before it those that every other repository has too, unless they are too old to be of use: what the
/// others lack of a parent has to be copied to them.
fn in_order<'a>(
    request: &BackupRequest<'_>,
    commits: &'a [CommitRecord],
    now: Timestamp,
) -> Vec<&'a CommitRecord> {
    let common = others::common(request).unwrap_or_default();
    let is_common = |record: &&CommitRecord| {
        common.contains(&record.commit.backup) && age(now, record.commit.finished) < UNREAD
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = commits.iter().rev().partition(is_common);
    first.extend(rest);
    first
}

fn open(
    request: &BackupRequest<'_>,
    situation: &Situation<'_>,
    record: &CommitRecord,
) -> Result<Parent, RepoError> {
    let repository: &Repository = request.repository;
    if let Some(pack) = packs::lacking(repository, &record.packs)? {
        return Err(RepoError::Missing { object: layout::pack(pack).to_string() });
    }
    let keys = Arc::new(repository.map_keys(record)?);
    let mut opener = FrameOpener::new(Arc::clone(&keys))?;
    let root = Root::read(repository.store().as_ref(), &mut opener, &record.commit.root)?;
    let bad = match record.commit.bad_pages {
        0 => Some(BTreeSet::new()),
        count => bad_files(repository, record, count)?,
    };
    let trust = match bad {
        Some(_) => trust(request, root.reading.as_ref(), situation.began),
        None => Trust::Nothing("the backup before has more damaged pages than it names".to_owned()),
    };
    let bad = bad.unwrap_or_default();
    Ok(Parent { record: record.clone(), keys, root, bad, avoided: BTreeSet::new(), trust })
}

/// Why a backup is no parent without looking into it.
fn refuses(
    request: &BackupRequest<'_>,
    situation: &Situation<'_>,
    record: &CommitRecord,
    doubtful: &mut Option<thaw::Doubtful>,
) -> Result<Option<String>, RepoError> {
    if let Some(why) = plain_before(request, record).or_else(|| situation.refuses(record)) {
        return Ok(Some(why));
    }
    // Its page hashes lie in its packs.
    let doubtful = match doubtful {
        Some(doubtful) => doubtful,
        none => none.insert(thaw::Doubtful::of(request.repository)?),
    };
    let frozen = doubtful.first_of(request.repository, record)?;
    Ok(frozen.map(|one| format!("what it holds is in {} and cannot be read unless it is thawed", one.class)))
}

/// What was stored before encryption was turned on is not carried on: it would stay readable as long as backups are made.
fn plain_before(request: &BackupRequest<'_>, record: &CommitRecord) -> Option<String> {
    let is_plain = record.packs.iter().any(|pack| pack.key == ObjectId::NONE);
    (request.repository.is_encrypted() && is_plain)
        .then(|| "it was stored before encryption was turned on".to_owned())
}

/// The files with damaged pages; `None` when there are more than are named.
fn bad_files(
    repository: &Repository,
    record: &CommitRecord,
    count: u64,
) -> Result<Option<BTreeSet<Vec<u8>>>, RepoError> {
    let named = repository.read_commit_names(record)?.bad_pages;
    let is_all = named.len() as u64 == count;
    Ok(is_all.then(|| named.into_iter().map(|(path, _)| path.into_bytes()).collect()))
}

fn trust(request: &BackupRequest<'_>, reading: Option<&Reading>, now: Timestamp) -> Trust {
    let nothing = |why: &str| Trust::Nothing(why.to_owned());
    if request.scan {
        return nothing("it was asked for");
    }
    let Some(reading) = reading else {
        return nothing("the backup before does not say how it read its files");
    };
    if reading.machine != request.machine {
        return nothing("the backup before was made on another machine");
    }
    if reading.began > now {
        return nothing("the backup before was made later, by this host's clock");
    }
    if age(now, reading.everything) > UNREAD {
        return nothing(
            "the backup that it refers to goes back to one that read every file more than 7 days ago",
        );
    }
    let before = reading.began.as_nanosecond() - SETTLED.as_nanos() as i128;
    i64::try_from(before).map_or_else(|_| nothing("its time is out of range"), Trust::Before)
}

fn advice(full: Option<&CommitRecord>, now: Timestamp) -> Option<String> {
    let full = full?;
    let age = age(now, full.commit.finished);
    (age > OLD_FULL).then(|| {
        format!(
            "the last full backup, {}, is {} days old; nothing depends on its age, but a new one stores everything \
             again, apart from the packs that have served so long: --type full",
            full.commit.backup,
            age.as_secs() / 86_400
        )
    })
}

/// How long ago `at` was; zero where it is still to come.
fn age(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}
