//! What a verification answers.

use std::collections::BTreeSet;
use std::fmt;

use refloat_types::{BackupId, ByteSize, Lsn, SystemIdentifier, Timestamp};
use serde::Serialize;

/// How bad it is. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Good to know; nothing is lost.
    Note,
    /// A person must look: somebody else wrote here, or something is not as it should be.
    Attention,
    /// Something cannot be restored.
    Damage,
}

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// An object that others name is not there.
    Missing,
    /// An object is not what was written.
    Damaged,
    /// The store has it and does not give it.
    Unreadable,
    /// No agent of this repository wrote it.
    UnknownOrigin,
    /// A later release wrote it.
    NewerFormat,
    /// This host cannot open a key.
    NoKey,
    /// WAL between WAL that is there is not.
    Gap,
    /// Two WAL files of one name with different bytes.
    Conflict,
    /// WAL that was stored and signed is not what PostgreSQL writes.
    BadWal,
    /// A chain of records has a hole.
    BrokenChain,
    /// It lies where nothing of a repository belongs.
    Foreign,
    /// Nothing names it: a backup that runs, or one that died.
    NotNeeded,
}

/// A backup, as people call it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BackupName {
    /// Name of its source; the source's id where the name cannot be read.
    pub source: String,
    /// Its number.
    pub number: u64,
    /// Its id.
    pub id: BackupId,
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.source)
    }
}

/// WAL of one timeline that follows each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct WalStretch {
    /// The cluster.
    pub system: SystemIdentifier,
    /// First WAL file.
    pub first: String,
    /// Last one.
    pub last: String,
    /// How many.
    pub count: u64,
    /// The last commit that is known before it.
    pub after: Option<Timestamp>,
    /// The first commit that is known behind it.
    pub before: Option<Timestamp>,
}

impl fmt::Display for WalStretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{}", self.first)?,
            count => write!(f, "{} to {} ({count} files)", self.first, self.last)?,
        }
        match (self.after, self.before) {
            (Some(after), Some(before)) => write!(f, ", commits between {after:.0} and {before:.0}"),
            (Some(after), None) => write!(f, ", commits after {after:.0}"),
            (None, Some(before)) => write!(f, ", commits before {before:.0}"),
            (None, None) => Ok(()),
        }
    }
}

/// What depends on an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Depends {
    /// Backups that cannot be restored whole without it.
    pub backups: BTreeSet<BackupName>,
    /// Backups that can be restored without it, and not be recovered beyond it.
    pub recovery: BTreeSet<BackupName>,
    /// WAL that cannot be used without it.
    pub wal: Vec<WalStretch>,
    /// Files of backups; the first of them.
    pub files: BTreeSet<String>,
    /// Further files.
    pub more_files: u64,
    /// Anything else, in words.
    pub other: BTreeSet<String>,
}

/// Most files, objects or other things that one finding names.
const NAMED: usize = 20;

impl Depends {
    /// Something else, in words.
    pub(super) fn other(what: impl Into<String>) -> Self {
        Self { other: BTreeSet::from([what.into()]), ..Self::default() }
    }
    pub(super) fn on_backups(backups: impl IntoIterator<Item = BackupName>) -> Self {
        Self { backups: backups.into_iter().collect(), ..Self::default() }
    }
    /// Whether nothing is known to depend on it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
    pub(super) fn file(&mut self, name: String) {
        if self.files.len() < NAMED || self.files.contains(&name) {
            self.files.insert(name);
        } else {
            self.more_files += 1;
        }
    }
    pub(super) fn merge(&mut self, mut more: Self) {
        self.backups.append(&mut more.backups);
        self.recovery.append(&mut more.recovery);
        // Who cannot restore at all need not hear that it cannot recover.
        self.recovery.retain(|backup| !self.backups.contains(backup));
        for stretch in more.wal {
            if self.wal.len() < NAMED && !self.wal.contains(&stretch) {
                self.wal.push(stretch);
            }
        }
        for file in more.files {
            self.file(file);
        }
        self.more_files += more.more_files;
        for other in more.other {
            if self.other.len() < NAMED {
                self.other.insert(other);
            }
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What kind of thing.
    pub kind: FindingKind,
    /// The object's key; for WAL that is missing, the begin of the key it would have.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// How many more things of this kind are wrong with it.
    pub more: u64,
    /// Other objects that show it; the first of them.
    pub also: Vec<String>,
    /// Further objects.
    pub more_objects: u64,
    /// What depends on it.
    pub depends: Depends,
}

impl Finding {
    pub(super) fn add_object(&mut self, object: &str) {
        if object.is_empty() || object == self.object || self.also.iter().any(|known| known == object) {
        } else if self.also.len() < NAMED {
            self.also.push(object.to_owned());
        } else {
            self.more_objects += 1;
        }
    }
    /// Whether it names this object.
    pub fn names(&self, object: &str) -> bool {
        self.object == object || self.also.iter().any(|known| known == object)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.what)?;
        if self.more > 0 {
            write!(f, " (and {} more like this)", self.more)?;
        }
        let list = |f: &mut fmt::Formatter<'_>, lead: &str, items: Vec<String>, more: u64| {
            const SHOWN: usize = 5;
            if items.is_empty() {
                return Ok(());
            }
            write!(f, "; {lead}{}", items[..items.len().min(SHOWN)].join(", "))?;
            match more + items.len().saturating_sub(SHOWN) as u64 {
                0 => Ok(()),
                more => write!(f, " and {more} more"),
            }
        };
        let text = |backup: &BackupName| backup.to_string();
        let Depends { backups, recovery, wal, files, more_files, other } = &self.depends;
        list(f, "seen by ", self.also.clone(), self.more_objects)?;
        list(f, "cannot be restored whole: ", backups.iter().map(text).collect(), 0)?;
        list(f, "cannot be recovered beyond it: ", recovery.iter().map(text).collect(), 0)?;
        list(f, "WAL: ", wal.iter().map(WalStretch::to_string).collect(), 0)?;
        list(f, "files: ", files.iter().cloned().collect(), *more_files)?;
        list(f, "", other.iter().cloned().collect(), 0)
    }
}

/// How many objects there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ObjectCounts {
    /// Objects that should be there.
    pub expected: u64,
    /// Objects that are.
    pub present: u64,
}

/// What is known of one backup.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupVerdict {
    /// The backup.
    #[serde(flatten)]
    pub name: BackupName,
    /// Nothing was found that would prevent restoring it, as far as it was looked at.
    pub restorable: bool,
    /// Nothing was found that would prevent recovering it to the newest WAL.
    pub recoverable: bool,
    /// Its manifest was read: every file has a place.
    pub manifest_read: bool,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What is stored of one timeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WalVerdict {
    /// The cluster.
    pub system: SystemIdentifier,
    /// The timeline.
    pub timeline: u32,
    /// First whole WAL segment.
    pub first: Option<String>,
    /// Last one.
    pub last: Option<String>,
    /// Where it ends.
    pub end: Option<Lsn>,
    /// Whole WAL segments.
    pub segments: u64,
    /// How many are missing between the first and the last.
    pub missing: u64,
    /// First commit that is told.
    pub first_commit: Option<Timestamp>,
    /// Last commit that is told.
    pub last_commit: Option<Timestamp>,
}

/// What a verification proved, found, and did not prove.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Objects that were looked for.
    pub objects: ObjectCounts,
    /// Every byte was read that can be without thawing.
    pub read_data: bool,
    /// Bytes of packs and WAL files that were read.
    pub bytes_read: u64,
    /// Packs that were not because they lie in a cold class.
    pub cold_packs: u64,
    /// Their bytes.
    pub cold_bytes: u64,
    /// Backups that were looked at.
    pub backups: Vec<BackupVerdict>,
    /// WAL that was looked at.
    pub wal: Vec<WalVerdict>,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// Findings beyond the first ten thousand.
    pub findings_left_out: u64,
    /// What was not proved.
    pub not_proved: Vec<String>,
    /// Seconds of the whole.
    pub seconds: f64,
}

impl VerifyReport {
    /// The worst that was found.
    pub fn worst(&self) -> Option<Grade> {
        self.findings.iter().map(|finding| finding.grade).max()
    }
    /// Whether a person must look.
    pub fn needs_attention(&self) -> bool {
        self.findings_left_out > 0 || self.worst() >= Some(Grade::Attention)
    }
    /// One line that says what was proved and what was not; never a bare "ok".
    pub fn summary(&self) -> String {
        let ObjectCounts { expected, present } = self.objects;
        let read = ByteSize(self.bytes_read);
        let bytes = match (self.read_data, self.cold_packs) {
            (false, _) => "bytes not read (--read-data)".to_owned(),
            (true, 0) => format!("every byte read ({read})"),
            (true, packs) => {
                let packs = if packs == 1 { "1 pack".to_owned() } else { format!("{packs} packs") };
                format!(
                    "{read} read, {packs} in a cold class ({}) not read (--read-data --thaw)",
                    ByteSize(self.cold_bytes)
                )
            }
        };
        format!("present: {present} of {expected} objects; {bytes}, not restored (--restore)")
    }
}
