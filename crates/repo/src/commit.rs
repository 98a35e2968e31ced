//! The commit: a backup exists when its commit exists.
//!
//! Its clear section says all that `list`, retention and healing need, without any reading key. Its table names each
//! pack: 16 bytes id, 16 bytes key id, u64 size, u64 live bytes, sorted by id. Its body seals names.

use std::collections::BTreeMap;
use std::sync::Arc;

use refloat_types::{BackupId, Lsn, ObjectId, SourceId, SystemIdentifier, TimelineId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::binary::Reader;
use crate::error::RepoError;
use crate::manifest::root::RootRef;

/// What kind of backup it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    /// Refers to nothing older.
    Full,
    /// To the last full.
    Diff,
    /// To the last of any kind.
    Incr,
}

impl BackupType {
    /// `full`, `diff`, `incr`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Incr => "incr",
        }
    }
}

/// The clear section of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Which source.
    pub source: SourceId,
    /// Which backup.
    pub backup: BackupId,
    /// 1 + the highest number seen when it was committed: the order of backups, never a clock.
    pub number: u64,
    /// Full, differential, incremental.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// What it refers to.
    pub parent: Option<BackupId>,
    /// Host time when it began.
    pub started: Timestamp,
    /// Host time when it was committed.
    pub finished: Timestamp,
    /// The cluster.
    pub cluster: ClusterPoint,
    /// Sizes.
    pub sizes: Sizes,
    /// Data keys that its packs need; none where nothing is encrypted.
    pub keys: Vec<ObjectId>,
    /// Where its manifest is.
    pub root: RootRef,
    /// The WAL that makes it consistent is inside the backup.
    pub own_wal: bool,
    /// Pages that failed their checksum twice: the backup is kept and a person must look.
    pub bad_pages: u64,
}

/// Where in a cluster's history a backup stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPoint {
    /// The cluster.
    pub system: SystemIdentifier,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Redo position that replay begins at.
    pub start_lsn: Lsn,
    /// Replay must reach this.
    pub stop_lsn: Lsn,
    /// Server time when the backup began.
    pub start_time: Timestamp,
    /// Server time when it ended: the earliest moment it can be restored to.
    pub stop_time: Timestamp,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// `server_version_num`, such as 150018.
    pub server_version: u32,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// Whether it was taken from a standby: then `stop_time` is a moment of its primary, which may lie far back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// Of a standby's, where no record follows `stop_lsn` in the WAL that it needs: where the record begins that ends there.
    /// PostgreSQL ends a recovery that shall end when it is consistent just before the record that follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_record: Option<Lsn>,
}

/// Sizes of a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub source: u64,
    /// Bytes of files that were read.
    pub read: u64,
    /// Bytes that this backup added to the repository.
    pub stored: u64,
}

/// The sealed part of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitNames {
    /// What the source is called.
    pub source_name: String,
    /// The host it was taken on.
    pub host: String,
    /// The data directory.
    pub data_directory: String,
    /// `--label`.
    pub label: Option<String>,
    /// Databases by name, with sizes in bytes.
    pub databases: BTreeMap<String, u64>,
    /// Bad pages: path and block.
    pub bad_pages: Vec<(String, u64)>,
}

/// One pack that a backup needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackUse {
    /// The pack.
    pub id: ObjectId,
    /// The key that seals it; none where nothing is encrypted.
    pub key: ObjectId,
    /// Its size in the store.
    pub size: u64,
    /// Bytes of it that this backup needs.
    pub live: u64,
}

/// Bytes of one row of the pack table.
const ROW: usize = 48;

/// A commit that was read and verified.
#[derive(Debug, Clone)]
pub struct CommitRecord {
    /// Its clear section.
    pub commit: Commit,
    /// Its packs, sorted by id.
    pub packs: Arc<[PackUse]>,
    /// Who committed it.
    pub agent: ObjectId,
}

/// The table's bytes.
pub fn encode_packs(packs: &[PackUse]) -> Vec<u8> {
    let mut out = Vec::with_capacity(packs.len() * ROW);
    for pack in packs {
        out.extend_from_slice(&pack.id.0);
        out.extend_from_slice(&pack.key.0);
        out.extend_from_slice(&pack.size.to_le_bytes());
        out.extend_from_slice(&pack.live.to_le_bytes());
    }
    out
}

/// Reads the table.
///
/// # Errors
/// `Damaged` when the bytes are none, or not sorted.
pub fn decode_packs(object: &str, bytes: &[u8]) -> Result<Arc<[PackUse]>, RepoError> {
    let damaged = |what: &str| RepoError::damaged(object, what);
    if !bytes.len().is_multiple_of(ROW) {
        return Err(damaged("its list of packs is cut"));
    }
    let row = |bytes: &[u8]| {
        let mut reader = Reader::new(bytes);
        Ok(PackUse {
            id: ObjectId(reader.array()?),
            key: ObjectId(reader.array()?),
            size: reader.u64()?,
            live: reader.u64()?,
        })
    };
    let packs: Vec<PackUse> = bytes
        .chunks_exact(ROW)
        .map(row)
        .collect::<Result<_, crate::binary::BadBytes>>()
        .map_err(|e| damaged(e.0))?;
    if packs.windows(2).any(|pair| pair[0].id >= pair[1].id) {
        return Err(damaged("its list of packs is not in order"));
    }
    Ok(packs.into())
}
