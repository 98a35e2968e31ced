//! What a file is, by its path relative to the data directory.

use std::fmt;

/// Oid of the tablespace `pg_default`: the directory `base`.
pub const TABLESPACE_DEFAULT: u32 = 1663;
/// Oid of the tablespace `pg_global`: the directory `global`.
pub const TABLESPACE_GLOBAL: u32 = 1664;

/// A relation is stored in up to four forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The data.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation is reset to after a crash; only unlogged relations have it.
    Init,
}

impl Fork {
    /// Its suffix in file names; none for the main fork.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Fsm => "_fsm",
            Self::Vm => "_vm",
            Self::Init => "_init",
        }
    }
    fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"fsm" => Some(Self::Fsm),
            b"vm" => Some(Self::Vm),
            b"init" => Some(Self::Init),
            _ => None,
        }
    }
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Main => "main",
            Self::Fsm => "fsm",
            Self::Vm => "vm",
            Self::Init => "init",
        })
    }
}

/// A relation segment: a part of up to 1 GiB of one fork of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    /// Oid of the tablespace.
    pub tablespace: u32,
    /// Oid of the database; 0 for relations that all databases share.
    pub database: u32,
    /// The relfilenumber: names the file, and changes when the relation is rewritten.
    pub number: u32,
    /// Which fork.
    pub fork: Fork,
    /// Number of the relation segment; the first, 0, carries none in its name.
    pub segment: u32,
}

impl RelationFile {
    /// Block number, in the whole fork, of the first block of this relation segment; `None` for a segment number that
    /// no relation can have.
    pub const fn first_block(&self, relation_segment_blocks: u32) -> Option<u32> {
        self.segment.checked_mul(relation_segment_blocks)
    }
}

/// Why a file is no part of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Excluded {
    /// In a directory that the server empties or rebuilds when it starts; the directory itself is kept.
    Ephemeral,
    /// Belongs to the running server: `postmaster.pid` and the like.
    Runtime,
    /// A temporary file.
    TemporaryFile,
    /// A temporary relation.
    TemporaryRelation,
    /// A fork of an unlogged relation; its init fork is kept.
    UnloggedRelation,
    /// The cache of the system catalogs; rebuilt when missing.
    RelationCache,
    /// Label, map or manifest of another backup.
    OtherBackup,
    /// Asks for recovery; a restore decides anew.
    RecoverySignal,
    /// Our own lock on a restored clone, and what else a restore says of one directory.
    Lock,
    /// WAL, which the archive has.
    Wal,
    /// In a tablespace, the directory of another major version.
    OtherVersion,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileClass {
    /// A relation segment.
    Relation(RelationFile),
    /// `pg_filenode.map`: relfilenumbers of the catalogs that know all others.
    RelationMap,
    /// `global/pg_control`: read last.
    ControlFile,
    /// Transaction status and the like.
    Slru,
    /// `PG_VERSION`, at the top or in a database directory.
    Version,
    /// Anything else, directories included.
    Other,
    /// No part of a backup.
    Excluded(Excluded),
}

/// Emptied or rebuilt at start, wherever a directory of that name is.
const EPHEMERAL_DIRECTORIES: [&[u8]; 7] = [
    b"pg_dynshmem",
    b"pg_notify",
    b"pg_replslot",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_stat_tmp",
    b"pg_subtrans",
];

/// Left out wherever a file of that name is; PostgreSQL compares names, not paths.
fn excluded_name(name: &[u8]) -> Option<Excluded> {
    match name {
        b"postmaster.pid" | b"postmaster.opts" | b"postgresql.auto.conf.tmp" | b"current_logfiles.tmp" => {
            Some(Excluded::Runtime)
        }
        b"backup_label" | b"tablespace_map" | b"backup_manifest" => Some(Excluded::OtherBackup),
        _ if name.starts_with(b"pgsql_tmp") => Some(Excluded::TemporaryFile),
        _ if name.starts_with(b"pg_internal.init") => Some(Excluded::RelationCache),
        _ => None,
    }
}

/// Left out at the top of the data directory beyond what PostgreSQL leaves out.
fn excluded_at_top(name: &[u8]) -> Option<Excluded> {
    match name {
        b"backup_label.old" | b"tablespace_map.old" => Some(Excluded::OtherBackup),
        b"recovery.signal" | b"standby.signal" => Some(Excluded::RecoverySignal),
        _ if super::RESTORE_FILES.iter().any(|own| name == own.as_bytes()) => Some(Excluded::Lock),
        _ => None,
    }
}

/// A number of an oid's size in PostgreSQL's own spelling: no sign, no leading zero, not 0.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `16384`, `16384.1`, `16384_fsm`, `16384_init.2`
fn relation_name(name: &[u8]) -> Option<(u32, Fork, u32)> {
    let (stem, segment) = match name.iter().position(|b| *b == b'.') {
        Some(dot) => (&name[..dot], number(&name[dot + 1..])?),
        None => (name, 0),
    };
    let (digits, fork) = match stem.iter().position(|b| *b == b'_') {
        Some(at) => (&stem[..at], Fork::from_name(&stem[at + 1..])?),
        None => (stem, Fork::Main),
    };
    Some((number(digits)?, fork, segment))
}

/// `t3_16384`, `t3_16384_vm.1`: the number of a backend, then a relation's name.
fn is_temporary_relation(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"t") else { return false };
    let Some(at) = rest.iter().position(|b| *b == b'_') else { return false };
    let (backend, relation) = (&rest[..at], &rest[at + 1..]);
    !backend.is_empty() && backend.iter().all(u8::is_ascii_digit) && relation_name(relation).is_some()
}

/// Tablespace and database of a directory that holds relations.
fn relation_directory(parents: &[&[u8]]) -> Option<(u32, u32)> {
    match parents {
        [b"global"] => Some((TABLESPACE_GLOBAL, 0)),
        [b"base", database] => Some((TABLESPACE_DEFAULT, number(database)?)),
        [b"pg_tblspc", tablespace, version, database] if version.starts_with(b"PG_") => {
            Some((number(tablespace)?, number(database)?))
        }
        _ => None,
    }
}

/// More components than any path that means something to PostgreSQL.
const DEPTH: usize = 6;

/// What the file (or directory) at `path` is: bytes, relative to the data directory, without a leading `./`.
///
/// A file of an unlogged relation looks like any other; only its directory tells, so [`super::Walk`] knows and this
/// does not. Nor does it know the server's version: a tablespace directory of another one is classed as its own.
pub fn classify(path: &[u8]) -> FileClass {
    let mut parts: [&[u8]; DEPTH] = [b""; DEPTH];
    let mut depth = 0;
    let mut inside = false;
    for part in path.split(|b| *b == b'/') {
        if inside {
            return FileClass::Excluded(Excluded::Ephemeral);
        }
        if let Some(reason) = excluded_name(part) {
            return FileClass::Excluded(reason);
        }
        inside = EPHEMERAL_DIRECTORIES.contains(&part);
        if let Some(place) = parts.get_mut(depth) {
            *place = part;
        }
        depth += 1;
    }
    let Some(parts) = parts.get(..depth) else {
        return if parts[0] == b"pg_wal" { FileClass::Excluded(Excluded::Wal) } else { FileClass::Other };
    };
    let Some((name, parents)) = parts.split_last() else { return FileClass::Other };
    by_place(parents, name)
}

fn by_place(parents: &[&[u8]], name: &[u8]) -> FileClass {
    if let Some((tablespace, database)) = relation_directory(parents) {
        if let Some((number, fork, segment)) = relation_name(name) {
            return FileClass::Relation(RelationFile { tablespace, database, number, fork, segment });
        }
        if is_temporary_relation(name) {
            return FileClass::Excluded(Excluded::TemporaryRelation);
        }
        return match name {
            b"pg_control" if database == 0 => FileClass::ControlFile,
            b"pg_filenode.map" => FileClass::RelationMap,
            b"PG_VERSION" => FileClass::Version,
            _ => FileClass::Other,
        };
    }
    match parents {
        [] => match excluded_at_top(name) {
            Some(reason) => FileClass::Excluded(reason),
            None if name == b"PG_VERSION" => FileClass::Version,
            None => FileClass::Other,
        },
        // These two directories are kept, empty: a server before 14 does not make the first by itself.
        [b"pg_wal"] if matches!(name, b"archive_status" | b"summaries") => FileClass::Other,
        [b"pg_wal", ..] => FileClass::Excluded(Excluded::Wal),
        [b"pg_xact" | b"pg_commit_ts"] | [b"pg_multixact", b"members" | b"offsets"]
            if name.len() >= 4 && name.iter().all(u8::is_ascii_hexdigit) =>
        {
            FileClass::Slru
        }
        _ => FileClass::Other,
    }
}

/// Does a file consist of pages with checksums (in a cluster that has them)? These are the relation segments and
/// nothing else, as PostgreSQL decides it from 17 on; before, its base backup also took stray files beside them for
/// relations and complained of those.
pub fn checksummed(path: &[u8]) -> bool {
    matches!(classify(path), FileClass::Relation(_))
}

/// Is everything below the directory at `path` left out, so that there is no need to look?
pub fn contents_excluded(path: &[u8]) -> bool {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    EPHEMERAL_DIRECTORIES.contains(&name) || path.starts_with(b"pg_wal/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(tablespace: u32, database: u32, number: u32, fork: Fork, segment: u32) -> FileClass {
        FileClass::Relation(RelationFile { tablespace, database, number, fork, segment })
    }

    #[test]
    fn relations_are_known_wherever_they_are() {
        for (path, class) in [
            ("base/5/16384", relation(1663, 5, 16384, Fork::Main, 0)),
            ("base/5/16384.12", relation(1663, 5, 16384, Fork::Main, 12)),
            ("base/5/16384_fsm", relation(1663, 5, 16384, Fork::Fsm, 0)),
            ("base/5/16384_init", relation(1663, 5, 16384, Fork::Init, 0)),
            ("global/1262", relation(1664, 0, 1262, Fork::Main, 0)),
            ("global/1262_vm.1", relation(1664, 0, 1262, Fork::Vm, 1)),
            ("pg_tblspc/16385/PG_15_202209061/5/4294967295", relation(16385, 5, u32::MAX, Fork::Main, 0)),
        ] {
            assert_eq!(classify(path.as_bytes()), class, "{path}");
            assert!(checksummed(path.as_bytes()), "{path}");
        }
        let last = RelationFile { tablespace: 1663, database: 5, number: 1, fork: Fork::Main, segment: 3 };
        assert_eq!(last.first_block(131_072), Some(393_216));
        assert_eq!(RelationFile { segment: 40_000, ..last }.first_block(131_072), None);
    }

    #[test]
    fn what_only_looks_like_a_relation_is_none() {
        for path in [
            "base/5/4294967296",
            "base/5/016384",
            "base/5/0",
            "base/5/16384.",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/16384_x",
            "base/5/16384_fsm_fsm",
            "base/5/_fsm",
            "base/5/16384 ",
            "base/x/16384",
            "base/5/6/16384",
            "base/16384",
            "16384",
            "pg_tblspc/16385/5/16384",
            "pg_tblspc/16385/PG_15_202209061/16384",
            "other/5/16384",
            "base/5/t_16384",
            "base/5/tx_16384",
            "base/5/t3_x",
            "global/5/pg_control",
            "",
            "a/b/c/d/e/f/g/h",
        ] {
            assert_eq!(classify(path.as_bytes()), FileClass::Other, "{path}");
            assert!(!checksummed(path.as_bytes()), "{path}");
        }
        assert_eq!(classify(b"base/5/\xff\xfe"), FileClass::Other);
    }

    #[test]
    fn other_files_have_their_class() {
        for (path, class) in [
            ("global/pg_control", FileClass::ControlFile),
            ("global/pg_filenode.map", FileClass::RelationMap),
            ("base/5/pg_filenode.map", FileClass::RelationMap),
            ("base/5/PG_VERSION", FileClass::Version),
            ("PG_VERSION", FileClass::Version),
            ("pg_xact/0000", FileClass::Slru),
            ("pg_multixact/members/00AF", FileClass::Slru),
            ("pg_multixact/members", FileClass::Other),
            ("pg_commit_ts/000000000000001", FileClass::Slru),
            ("postgresql.conf", FileClass::Other),
            ("current_logfiles", FileClass::Other),
            ("pg_wal", FileClass::Other),
            ("pg_wal/archive_status", FileClass::Other),
            ("pg_replslot", FileClass::Other),
            ("sub/standby.signal", FileClass::Other),
        ] {
            assert_eq!(classify(path.as_bytes()), class, "{path}");
        }
    }

    #[test]
    fn what_is_left_out_says_why() {
        for (path, reason) in [
            ("postmaster.pid", Excluded::Runtime),
            ("postgresql.auto.conf.tmp", Excluded::Runtime),
            ("base/5/pg_internal.init", Excluded::RelationCache),
            ("global/pg_internal.init.1234", Excluded::RelationCache),
            ("backup_label", Excluded::OtherBackup),
            ("backup_label.old", Excluded::OtherBackup),
            ("tablespace_map.old", Excluded::OtherBackup),
            ("backup_manifest", Excluded::OtherBackup),
            ("recovery.signal", Excluded::RecoverySignal),
            ("standby.signal", Excluded::RecoverySignal),
            ("refloat.locked", Excluded::Lock),
            ("refloat.restoring", Excluded::Lock),
            ("refloat.aside", Excluded::Lock),
            ("base/pgsql_tmp", Excluded::TemporaryFile),
            ("base/pgsql_tmp/pgsql_tmp1.0", Excluded::TemporaryFile),
            ("pg_tblspc/1/PG_15_202209061/pgsql_tmp/x", Excluded::TemporaryFile),
            ("base/5/t3_16384", Excluded::TemporaryRelation),
            ("base/5/t12_16384_vm.1", Excluded::TemporaryRelation),
            ("pg_notify/0000", Excluded::Ephemeral),
            ("pg_replslot/slot/state", Excluded::Ephemeral),
            ("deep/pg_subtrans/0000", Excluded::Ephemeral),
            ("pg_wal/000000010000000000000001", Excluded::Wal),
            ("pg_wal/archive_status/x.ready", Excluded::Wal),
            ("pg_wal/summaries/x", Excluded::Wal),
            ("pg_wal/a/b/c/d/e/f/g", Excluded::Wal),
        ] {
            assert_eq!(classify(path.as_bytes()), FileClass::Excluded(reason), "{path}");
        }
        for path in ["pg_notify", "pg_wal/archive_status", "pg_wal/summaries"] {
            assert!(contents_excluded(path.as_bytes()), "{path}");
        }
        for path in ["", "base", "pg_wal", "pg_xact"] {
            assert!(!contents_excluded(path.as_bytes()), "{path}");
        }
    }
}
