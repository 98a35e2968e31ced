//! The control file `global/pg_control`: what a cluster is and where its recovery begins.
//!
//! [`ControlFile::parse`] reads it, [`read_settled`] reads it from a running server, and [`poison`] makes the copy that
//! a restore installs last: with it a server that finds no `backup_label` stops at once instead of starting from a
//! checkpoint that is not consistent with the files beside it.
//!
//! Nothing here writes to disk; a crash leaves nothing.
//!
//! PostgreSQL: `src/include/catalog/pg_control.h`, `src/common/controldata_utils.c`, 13 to 18.

mod read;

use std::fmt;

use refloat_types::{Advice, Explain, Lsn, SystemIdentifier, TimelineId, Timestamp, WalSegmentSize};

pub use read::{ReadControlError, read_settled};

/// Size of the file. Only its first 300 bytes or so mean anything; the rest is zero.
pub const CONTROL_FILE_SIZE: usize = 8192;

/// A checkpoint pointer that no cluster ever has: it lies in WAL segment 0 of the cluster, which initdb leaves out.
/// Its offset in the page is behind the page header, because PostgreSQL checks that much before it looks for a
/// `backup_label`, and would refuse a good restore otherwise.
pub const POISONED_CHECKPOINT: Lsn = Lsn(0xBAD0);

/// What a cluster was doing when its control file was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Being created by initdb.
    Starting,
    /// Shut down cleanly as a primary.
    ShutDown,
    /// Shut down cleanly as a standby.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Replaying WAL after a crash.
    InCrashRecovery,
    /// Replaying WAL from an archive or a primary.
    InArchiveRecovery,
    /// Running as a primary, or killed while it was one.
    InProduction,
}

impl ClusterState {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Starting,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
    /// Did the server stop in order, so that its files need no recovery?
    pub const fn is_shut_down(self) -> bool {
        match self {
            Self::ShutDown | Self::ShutDownInRecovery => true,
            Self::Starting
            | Self::ShuttingDown
            | Self::InCrashRecovery
            | Self::InArchiveRecovery
            | Self::InProduction => false,
        }
    }
}

impl fmt::Display for ClusterState {
    /// The words of `pg_controldata`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// The setting `wal_level`. Ordered: more WAL is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Not enough for archive recovery.
    Minimal,
    /// Enough for archives and standbys.
    Replica,
    /// Enough for logical decoding.
    Logical,
}

impl WalLevel {
    /// The level with this number in control files and WAL records.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Minimal),
            1 => Some(Self::Replica),
            2 => Some(Self::Logical),
            _ => None,
        }
    }
}

impl fmt::Display for WalLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Minimal => "minimal",
            Self::Replica => "replica",
            Self::Logical => "logical",
        })
    }
}

/// The settings a standby must have at least as high as its primary, or it refuses to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyLimits {
    /// `max_connections`
    pub max_connections: i32,
    /// `max_worker_processes`
    pub max_worker_processes: i32,
    /// `max_wal_senders`
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: i32,
}

/// The checkpoint a control file remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where its record begins.
    pub location: Lsn,
    /// Where recovery from it begins.
    pub redo: Lsn,
    /// The timeline it was written on.
    pub timeline: TimelineId,
    /// The timeline before, when this checkpoint began a new one; else the same.
    pub previous_timeline: TimelineId,
    /// `full_page_writes` at that moment.
    pub full_page_writes: bool,
    /// `wal_level` at that moment; recorded since PostgreSQL 17.
    pub wal_level: Option<WalLevel>,
    /// The next transaction id, with its epoch in the upper half.
    pub next_xid: u64,
    /// The next object id.
    pub next_oid: u32,
    /// The next multixact id.
    pub next_multixact: u32,
    /// The oldest transaction id that any database still needs.
    pub oldest_xid: u32,
    /// When it was made, to the second.
    pub time: Timestamp,
}

/// What `global/pg_control` says. Holding one proves that its CRC held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// Drawn by initdb; the same on every standby.
    pub system_identifier: SystemIdentifier,
    /// 1300 for PostgreSQL 13 to 16, 1700 for 17, 1800 for 18.
    pub control_version: u32,
    /// Version of the catalogs, such as 202209061.
    pub catalog_version: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// When the control file was last written, to the second.
    pub time: Timestamp,
    /// The last checkpoint (on a standby: the last restartpoint).
    pub checkpoint: Checkpoint,
    /// Recovery must pass this before the files are consistent; `None` outside of archive recovery.
    pub min_recovery_point: Option<Lsn>,
    /// The timeline of `min_recovery_point`.
    pub min_recovery_timeline: Option<TimelineId>,
    /// Redo position of the base backup being recovered from; `None` once its end was reached.
    pub backup_start: Option<Lsn>,
    /// End of a backup that was taken from a standby and is being recovered.
    pub backup_end: Option<Lsn>,
    /// Must an end-of-backup record be seen before the files are consistent?
    pub backup_end_required: bool,
    /// `wal_level` of the running server.
    pub wal_level: WalLevel,
    /// `wal_log_hints` of the running server.
    pub wal_log_hints: bool,
    /// Settings that a standby must match.
    pub limits: StandbyLimits,
    /// `track_commit_timestamp` of the running server.
    pub track_commit_timestamp: bool,
    /// Bytes of a block of a relation, 8192 unless built otherwise.
    pub block_size: u32,
    /// Blocks of a relation segment, 131072 (1 GiB) unless built otherwise.
    pub relation_segment_blocks: u32,
    /// Bytes of a WAL page, 8192 unless built otherwise.
    pub wal_block_size: u32,
    /// Size of WAL segments.
    pub wal_segment_size: WalSegmentSize,
    /// 0: pages carry no checksums; 1: the checksum of [`crate::page`].
    pub checksum_version: u32,
    /// Was `char` signed where the cluster was made? Recorded since PostgreSQL 18.
    pub char_is_signed: Option<bool>,
}

/// Why bytes are no control file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// Fewer bytes than the data needs.
    #[error("the control file ends after {length} bytes")]
    Short {
        /// Bytes present.
        length: usize,
    },
    /// A format this does not know.
    #[error("the control file has format {found}, which this version of refloat does not know")]
    Version {
        /// The number found.
        found: u32,
    },
    /// Torn by a write while it was read, or damaged. Read again before believing the second.
    #[error("the CRC of the control file does not hold (computed {computed:08X}, stored {stored:08X})")]
    Crc {
        /// CRC-32C of the data.
        computed: u32,
        /// The one the file carries.
        stored: u32,
    },
    /// The CRC holds, and a field is impossible nevertheless.
    #[error("the control file says {field} is {value}, which cannot be")]
    Implausible {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: i64,
    },
}

impl Explain for ControlFileError {
    fn advice(&self) -> Advice {
        let safe = "nothing was changed; the control file was only read";
        match self {
            Self::Short { .. } | Self::Implausible { .. } => Advice::failed("FILE-001", safe)
                .hint("Run pg_controldata on the data directory; if it fails too, the cluster is damaged."),
            Self::Version { .. } => Advice::failed("FILE-002", safe).hint(
                "PostgreSQL 13 to 18 on little-endian machines are supported; check PG_VERSION of this data directory.",
            ),
            Self::Crc { .. } => Advice::failed("FILE-003", safe)
                .hint("Try again; if it stays so while the server is stopped, the control file is damaged."),
        }
    }
}

/// Where the CRC lies: behind all data.
fn crc_offset(control_version: u32) -> Option<usize> {
    match control_version {
        1300 | 1700 => Some(288),
        // 18 puts one byte (the signedness of char) before the 32 bytes of the nonce.
        1800 => Some(292),
        _ => None,
    }
}

/// Little-endian fields at fixed places of bytes that are known to be long enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("the caller asked for N bytes")
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }
    fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.bytes(at))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
    fn bool(&self, at: usize) -> bool {
        self.0[at] != 0
    }
    /// PostgreSQL's 0/0 is no position.
    fn lsn(&self, at: usize) -> Option<Lsn> {
        match self.u64(at) {
            0 => None,
            position => Some(Lsn(position)),
        }
    }
    fn time(&self, at: usize, field: &'static str) -> Result<Timestamp, ControlFileError> {
        let seconds = i64::from_le_bytes(self.bytes(at));
        Timestamp::from_second(seconds).map_err(|_| ControlFileError::Implausible { field, value: seconds })
    }
    fn timeline(&self, at: usize, field: &'static str) -> Result<TimelineId, ControlFileError> {
        TimelineId::new(self.u32(at)).ok_or(ControlFileError::Implausible { field, value: 0 })
    }
    fn wal_level(&self, at: usize, field: &'static str) -> Result<WalLevel, ControlFileError> {
        let number = self.u32(at);
        WalLevel::from_number(number).ok_or(ControlFileError::Implausible { field, value: i64::from(number) })
    }
    /// A power of two between `low` and `high`.
    fn power(&self, at: usize, field: &'static str, low: u32, high: u32) -> Result<u32, ControlFileError> {
        let value = self.u32(at);
        if value.is_power_of_two() && (low..=high).contains(&value) {
            Ok(value)
        } else {
            Err(ControlFileError::Implausible { field, value: i64::from(value) })
        }
    }
}

/// The data of a control file and the place of its CRC, once the CRC was seen to hold.
fn checked(bytes: &[u8]) -> Result<(Fields<'_>, usize), ControlFileError> {
    let short = ControlFileError::Short { length: bytes.len() };
    let version = bytes.get(8..12).ok_or(short.clone())?;
    let found = u32::from_le_bytes(version.try_into().expect("four bytes"));
    let end = crc_offset(found).ok_or(ControlFileError::Version { found })?;
    if bytes.len() < end + 4 {
        return Err(short);
    }
    let fields = Fields(bytes);
    let (computed, stored) = (crc32c::crc32c(&bytes[..end]), fields.u32(end));
    if computed == stored { Ok((fields, end)) } else { Err(ControlFileError::Crc { computed, stored }) }
}

impl ControlFile {
    /// The timeline that the cluster is on.
    pub fn timeline(&self) -> TimelineId {
        // A promotion writes its first checkpoint later; until then only the point that crash recovery must reach knows.
        self.min_recovery_timeline
            .map_or(self.checkpoint.timeline, |after| after.max(self.checkpoint.timeline))
    }

    /// Reads the bytes of `global/pg_control`.
    ///
    /// # Errors
    /// [`ControlFileError::Crc`] for a torn read, which deserves another try; others are final.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let (f, _) = checked(bytes)?;
        let control_version = f.u32(8);
        let state = f.u32(16);
        let segment = f.power(228, "the size of WAL segments", 1 << 20, 1 << 30)?;
        Ok(Self {
            system_identifier: SystemIdentifier(f.u64(0)),
            control_version,
            catalog_version: f.u32(12),
            state: ClusterState::from_number(state).ok_or(ControlFileError::Implausible {
                field: "the state of the cluster",
                value: i64::from(state),
            })?,
            time: f.time(24, "its time")?,
            checkpoint: Checkpoint {
                location: Lsn(f.u64(32)),
                redo: Lsn(f.u64(40)),
                timeline: f.timeline(48, "the timeline")?,
                previous_timeline: f.timeline(52, "the previous timeline")?,
                full_page_writes: f.bool(56),
                wal_level: if control_version >= 1700 {
                    Some(f.wal_level(60, "the checkpoint's wal_level")?)
                } else {
                    None
                },
                next_xid: f.u64(64),
                next_oid: f.u32(72),
                next_multixact: f.u32(76),
                oldest_xid: f.u32(84),
                time: f.time(104, "the checkpoint's time")?,
            },
            min_recovery_point: f.lsn(136),
            min_recovery_timeline: TimelineId::new(f.u32(144)),
            backup_start: f.lsn(152),
            backup_end: f.lsn(160),
            backup_end_required: f.bool(168),
            wal_level: f.wal_level(172, "wal_level")?,
            wal_log_hints: f.bool(176),
            limits: StandbyLimits {
                max_connections: f.i32(180),
                max_worker_processes: f.i32(184),
                max_wal_senders: f.i32(188),
                max_prepared_transactions: f.i32(192),
                max_locks_per_transaction: f.i32(196),
            },
            track_commit_timestamp: f.bool(200),
            block_size: f.power(216, "the block size", 1 << 10, 1 << 15)?,
            relation_segment_blocks: match f.u32(220) {
                0 => {
                    let field = "the size of relation segments";
                    return Err(ControlFileError::Implausible { field, value: 0 });
                }
                blocks => blocks,
            },
            wal_block_size: f.power(224, "the WAL page size", 1 << 10, 1 << 16)?,
            wal_segment_size: WalSegmentSize::new(segment).expect("a power of two in its range"),
            checksum_version: f.u32(252),
            char_is_signed: (control_version >= 1800).then(|| f.bool(256)),
        })
    }

    /// The major version of PostgreSQL, known by the catalog version of its releases; `None` for one that no release
    /// has (a development version).
    pub const fn major_version(&self) -> Option<u32> {
        match self.catalog_version {
            202_007_201 => Some(13),
            202_107_181 => Some(14),
            202_209_061 => Some(15),
            202_307_071 => Some(16),
            202_406_281 => Some(17),
            202_506_291 => Some(18),
            _ => None,
        }
    }

    /// Do pages carry checksums?
    pub const fn has_checksums(&self) -> bool {
        self.checksum_version != 0
    }
}

/// The same control file with a checkpoint pointer that leads nowhere ([`POISONED_CHECKPOINT`]) and its CRC recomputed.
///
/// A server reads the pointer only when there is no `backup_label`: with the label it recovers as from the original,
/// without it it stops at once with "could not locate a valid checkpoint record".
///
/// # Errors
/// When `bytes` is no control file.
pub fn poison(bytes: &[u8]) -> Result<Vec<u8>, ControlFileError> {
    let (_, end) = checked(bytes)?;
    let mut out = bytes.to_vec();
    out[32..40].copy_from_slice(&POISONED_CHECKPOINT.0.to_le_bytes());
    let crc = crc32c::crc32c(&out[..end]);
    out[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests;
