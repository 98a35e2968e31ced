//! Setting an old cluster aside, whole: data directory, tablespaces and a `pg_wal` that lies elsewhere are renamed
//! beside their places, and the links among them follow. Nothing is deleted.
//!
//! `refloat.aside` in the old directory lists the steps before the first is made, and `global/pg_control` bears another
//! name until the last is done, so a crash leaves nothing that could be started half-moved. Whoever comes next goes on
//! with the same names.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use refloat_types::fault;
use serde::{Deserialize, Serialize};

use super::disk::{is_empty, read_own, real_path, rename_durably, with_suffix, write_durably};
use super::error::{RestoreError, io_error};
use super::sync::sync_directory;

/// The list of steps, in the old directory.
pub(super) const ASIDE: &str = "refloat.aside";
/// What `pg_control` is called meanwhile.
const CONTROL_ASIDE: &str = "global/pg_control.aside";
const CONTROL: &str = "global/pg_control";
/// What comes between the old name and the id of the restore in the new one.
const BEFORE: &str = ".before-";

/// What is renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Aside {
    /// The data directory.
    pub(super) directory: Move,
    /// Directories behind links of the data directory.
    pub(super) linked: Vec<LinkedMove>,
}

/// A directory that gets a new name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Its place.
    pub from: PathBuf,
    /// Its new name, beside the old one.
    pub to: PathBuf,
}

/// A directory behind a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinkedMove {
    /// The link, relative to the data directory: `pg_tblspc/16385`, `pg_wal`.
    pub(super) link: String,
    /// The directory.
    pub(super) path: Move,
}

impl Aside {
    /// What setting `directory` aside would rename.
    ///
    /// # Errors
    /// When its links cannot be read.
    pub(super) fn plan(directory: &Path, restore_id: &str) -> io::Result<Self> {
        let suffix = format!("{BEFORE}{restore_id}");
        let beside = |path: &Path| Move { from: path.to_owned(), to: with_suffix(path, &suffix) };
        let mut linked = Vec::new();
        let mut links = vec!["pg_wal".to_owned()];
        match fs::read_dir(directory.join("pg_tblspc")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(entries) => {
                for entry in entries {
                    let link = entry?.file_name().to_str().map(|oid| format!("pg_tblspc/{oid}"));
                    links.extend(link.filter(|link| is_link(link)));
                }
            }
        }
        links.sort();
        for link in links {
            let path = directory.join(&link);
            if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
                continue;
            }
            // A link that leads nowhere has nothing to be set aside, nor has an empty place of a tablespace, which may
            // have been made for this restore.
            if let Ok(real) = fs::canonicalize(&path)
                && !real.starts_with(directory)
                && !(link != "pg_wal" && real.is_dir() && is_empty(&real)?)
            {
                linked.push(LinkedMove { link, path: beside(&real) });
            }
        }
        Ok(Self { directory: beside(directory), linked })
    }

    /// The steps that a crash left undone in `directory`, or in what was renamed from it already.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(super) fn unfinished(directory: &Path) -> io::Result<Option<Self>> {
        if let Some(found) = read(directory)? {
            return Ok((found.directory.from == directory).then_some(found));
        }
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { return Ok(None) };
        let mut prefix = name.as_bytes().to_vec();
        prefix.extend_from_slice(BEFORE.as_bytes());
        let entries = match fs::read_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().as_bytes().starts_with(&prefix)
                && let Some(found) = read(&entry.path())?
                && found.directory == (Move { from: directory.to_owned(), to: entry.path() })
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Whether the steps, read in `found_in`, rename only what belongs to it, and to such names as we give.
    fn is_sound(&self, found_in: &Path) -> bool {
        let from = self.directory.from.as_os_str().as_bytes();
        let suffix = self.directory.to.as_os_str().as_bytes().strip_prefix(from);
        let suffix = suffix.and_then(|suffix| std::str::from_utf8(suffix).ok()).unwrap_or_default();
        let id = suffix.strip_prefix(BEFORE).unwrap_or_default();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return false;
        }
        self.linked.iter().all(|LinkedMove { link, path: Move { from, to } }| {
            // Once it is renamed the link may still lead to the old name, and nothing is done there any more.
            let is_done = fs::symlink_metadata(from).is_err() || fs::symlink_metadata(to).is_ok();
            is_link(link)
                && *to == with_suffix(from, suffix)
                && real_path(from).is_ok_and(|real| real == *from)
                && (is_done || fs::canonicalize(found_in.join(link)).is_ok_and(|real| real == *from))
        })
    }

    /// Whether the directory at this path is still to be renamed.
    pub(super) fn will_move(&self, path: &Path) -> bool {
        let moves = |step: &Move| step.from == path && fs::symlink_metadata(&step.to).is_err();
        self.linked.iter().any(|linked| moves(&linked.path))
    }

    /// Where a `pg_wal` is that lies elsewhere.
    pub(super) fn wal_directory(&self) -> Option<PathBuf> {
        let wal = self.linked.iter().find(|linked| linked.link == "pg_wal")?;
        Some(wal.path.from.clone())
    }

    /// Renames everything. May be called again after a crash.
    ///
    /// # Errors
    /// Some steps may be done; the cluster cannot be started until this was called again.
    pub(super) fn run(&self) -> Result<(), RestoreError> {
        let (from, to) = (&self.directory.from, &self.directory.to);
        if from.join("global").is_dir() && fs::symlink_metadata(to).is_err() {
            self.begin().map_err(io_error("set aside", from))?;
            for linked in &self.linked {
                linked.run(from)?;
                fault::point("restore.after_linked_aside").map_err(io_error("set aside", from))?;
            }
            rename_durably(from, to).map_err(io_error("set aside", from))?;
            fault::point("restore.after_aside").map_err(io_error("set aside", from))?;
        }
        self.end().map_err(io_error("make whole again", to))
    }

    fn begin(&self) -> io::Result<()> {
        let from = &self.directory.from;
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        write_durably(&from.join(ASIDE), &bytes, 0o600, None)?;
        fault::point("restore.before_unstartable")?;
        if from.join(CONTROL).exists() {
            rename_durably(&from.join(CONTROL), &from.join(CONTROL_ASIDE))?;
        }
        fault::point("restore.after_unstartable")
    }

    fn end(&self) -> io::Result<()> {
        let to = &self.directory.to;
        if to.join(CONTROL_ASIDE).exists() {
            rename_durably(&to.join(CONTROL_ASIDE), &to.join(CONTROL))?;
        }
        match fs::remove_file(to.join(ASIDE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_directory(to),
        }
    }
}

impl LinkedMove {
    /// The oid of the tablespace whose link it is; `None` for `pg_wal`.
    pub(super) fn oid(&self) -> Option<u32> {
        link_of(self.link.as_bytes())
    }

    fn run(&self, directory: &Path) -> Result<(), RestoreError> {
        let Move { from, to } = &self.path;
        if fs::symlink_metadata(to).is_err() {
            rename_durably(from, to).map_err(io_error("set aside", from))?;
        }
        let link = directory.join(&self.link);
        let relink = || {
            if fs::read_link(&link).is_ok_and(|target| target == *to) {
                return Ok(());
            }
            let temporary = with_suffix(&link, ".refloat-tmp");
            let _ = fs::remove_file(&temporary);
            std::os::unix::fs::symlink(to, &temporary)?;
            fs::rename(&temporary, &link)?;
            sync_directory(link.parent().unwrap_or(directory))
        };
        relink().map_err(io_error("change link", &link))
    }
}

/// The tablespace whose link this is: `pg_tblspc/16385`.
pub(super) fn link_of(path: &[u8]) -> Option<u32> {
    let oid = path.strip_prefix(b"pg_tblspc/")?;
    std::str::from_utf8(oid).ok()?.parse().ok()
}

/// Whether a directory behind this link may be renamed.
fn is_link(link: &str) -> bool {
    link == "pg_wal" || link_of(link.as_bytes()).is_some()
}

/// The steps in a directory's file, when they are such as [`Aside::plan`] makes. Others are none of ours.
fn read(directory: &Path) -> io::Result<Option<Aside>> {
    let Some(bytes) = read_own(&directory.join(ASIDE))? else { return Ok(None) };
    let found = serde_json::from_slice::<Aside>(&bytes).ok();
    Ok(found.filter(|found| found.is_sound(directory)))
}
