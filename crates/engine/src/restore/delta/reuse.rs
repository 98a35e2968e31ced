//! What of a cluster is reused, and what is set aside.
//!
//! The data directory is reused, and each tablespace that its own link says lies where the backup's goes. Aside, by a new
//! name, goes `pg_wal`, because it may hold the last commits; and, in place, the directory of each tablespace that is not
//! reused. Elsewhere a link proves little: a copy of a data directory has the links of its original, whose server may run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use refloat_pg::control::read_settled;

use super::super::aside::{Aside, Move};
use super::super::disk::{LOST, is_empty, real_path, with_suffix};
use super::super::error::{RestoreError, io_error};
use super::super::marker::{Claim, Marker};
use super::super::plan::Tablespace;
use super::super::{Destination, RestoreRequest};

/// What comes between the old name and the id of the restore in the new one.
const BEFORE: &str = ".before-";

/// A cluster that is restored over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::restore) struct Reuse {
    /// The marker of the restore that began here, where this one goes on.
    pub(super) before: Option<Marker>,
    /// The old `pg_wal`; renamed already where a restore goes on.
    pub(in crate::restore) wal: Option<Move>,
    /// Where `pg_wal` is, when it lies elsewhere.
    pub(in crate::restore) wal_directory: Option<PathBuf>,
    /// Directories behind links in `pg_tblspc` and their new names, by oid.
    linked: BTreeMap<u32, Move>,
    /// The source's own directory.
    in_place: bool,
}

impl Reuse {
    /// Looks at the cluster in `directory`; `before` is the marker of a restore over it that stopped half-way.
    ///
    /// # Errors
    /// When it cannot be told that it is the cluster of the backup, or its WAL cannot be set aside.
    pub(in crate::restore) fn look(
        directory: &Path,
        request: &RestoreRequest,
        before: Option<Marker>,
    ) -> Result<Self, RestoreError> {
        let unknown = |why: String| Err(RestoreError::UnknownCluster { path: directory.to_owned(), why });
        if before.is_none()
            && let Err(error) = read_settled(directory)
        {
            return unknown(format!("its control file cannot be read ({error})"));
        }
        for name in ["global", "pg_tblspc"] {
            if fs::symlink_metadata(directory.join(name)).is_ok_and(|meta| !meta.is_dir()) {
                return unknown(format!("{name} in it is not a directory"));
            }
        }
        let id = id_of(before.as_ref(), request);
        let aside = Aside::plan(directory, id).map_err(io_error("read", directory))?;
        let mut wal_link = None;
        let mut linked = BTreeMap::new();
        for step in aside.linked {
            match step.oid() {
                Some(oid) => drop(linked.insert(oid, step.path)),
                None => wal_link = Some(step.path),
            }
        }
        let (wal, wal_directory) = old_wal(directory, id, before.as_ref(), wal_link)?;
        let in_place = matches!(request.to, Destination::InPlace(_));
        Ok(Self { before, wal, wal_directory, linked, in_place })
    }

    /// What the marks of a restore that goes on say.
    pub(in crate::restore) fn claim(&self) -> Option<Claim> {
        self.before.as_ref().map(Marker::claim)
    }

    /// A restore goes on that began before.
    pub(in crate::restore) const fn goes_on(&self) -> bool {
        self.before.is_some()
    }

    /// Whether what is in the place of a tablespace is reused.
    pub(in crate::restore) fn keeps(&self, tablespace: &Tablespace) -> bool {
        let Some(goes) = &tablespace.goes else { return false };
        let there = self.linked.get(&tablespace.oid).is_some_and(|step| step.from == *goes);
        there && (self.in_place || !self.is_the_sources(tablespace))
    }

    /// The place is the one that the backup was taken of, and this is not the directory it was taken of.
    pub(in crate::restore) fn is_the_sources(&self, tablespace: &Tablespace) -> bool {
        let goes = tablespace.goes.as_ref();
        !self.in_place && real_path(&tablespace.was).is_ok_and(|was| Some(&was) == goes)
    }

    /// What is renamed, `pg_wal` first, for a restore with these tablespaces. Some may be done.
    pub(in crate::restore) fn moves(&self, tablespaces: &[Tablespace]) -> Vec<Move> {
        let kept: Vec<u32> = tablespaces.iter().filter(|t| self.keeps(t)).map(|t| t.oid).collect();
        let linked = self.linked.iter().filter(|(oid, _)| self.in_place && !kept.contains(oid));
        let mut moves: Vec<Move> = self.wal.clone().into_iter().collect();
        for step in linked.map(|(_, step)| step) {
            if !moves.contains(step) {
                moves.push(step.clone());
            }
        }
        moves
    }

    /// Whether the directory at this path is still to be renamed.
    pub(in crate::restore) fn will_move(&self, path: &Path, tablespaces: &[Tablespace]) -> bool {
        self.moves(tablespaces).iter().any(|step| step.from == path && is_due(step))
    }
}

/// Not renamed yet.
pub(in crate::restore) fn is_due(step: &Move) -> bool {
    fs::symlink_metadata(&step.to).is_err() && fs::symlink_metadata(&step.from).is_ok()
}

/// A restore that goes on keeps to the names it began with; one in a marker that is no id of ours is not used.
fn id_of<'a>(before: Option<&'a Marker>, request: &'a RestoreRequest) -> &'a str {
    let known = before.map(|marker| marker.restore.as_str());
    let is_id = |id: &&str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    known.filter(is_id).unwrap_or(&request.restore_id)
}

/// The old `pg_wal` with its new name, and where `pg_wal` is when it lies elsewhere.
fn old_wal(
    directory: &Path,
    id: &str,
    before: Option<&Marker>,
    link: Option<Move>,
) -> Result<(Option<Move>, Option<PathBuf>), RestoreError> {
    let path = directory.join("pg_wal");
    let beside = with_suffix(directory, &format!(".pg_wal{BEFORE}{id}"));
    let inside = Move { from: path.clone(), to: beside };
    match before {
        Some(marker) => {
            // The pg_wal that is there may be the new one, which is not set aside.
            let began = |step: &Move| marker.delta.iter().flatten().any(|known| known == step);
            let Some(wal) = &marker.wal_directory else {
                return Ok((Some(inside).filter(began), None));
            };
            let step = Move { from: wal.clone(), to: with_suffix(wal, &format!("{BEFORE}{id}")) };
            let known = began(&step) && (is_there(&step.to) || link.as_ref() == Some(&step));
            Ok((known.then_some(step), Some(wal.clone())))
        }
        // Without WAL in it there is nothing to be kept, and nothing has to be renamed.
        None if is_real_directory(&path) => {
            let holds = holds_something(&path).map_err(io_error("read", &path))?;
            Ok((holds.then_some(inside), None))
        }
        None => match link {
            Some(step) => {
                let wal = step.from.clone();
                let empty = is_empty(&wal).map_err(io_error("read", &wal))?;
                Ok(((!empty).then_some(step), Some(wal)))
            }
            None if path.exists() => {
                let why = "it is neither a directory nor a link to one outside of the data directory";
                Err(RestoreError::CannotSetAside { path, why: why.to_owned() })
            }
            // Missing, or a link that leads nowhere.
            None => Ok((None, None)),
        },
    }
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether there is anything in a directory but empty ones.
fn holds_something(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() != LOST && !(entry.file_type()?.is_dir() && is_empty(&entry.path())?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}
