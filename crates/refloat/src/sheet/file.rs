//! The file that recovery sheets go to: made before anything that they speak of, so that no repository is made, or rotated, whose
//! sheet has no place.
//!
//! Root makes it as root, before it becomes the user who works: a place such as `/root/sheet` is meant to be one that this user
//! cannot read. A crash, or a command that failed before there was a sheet, may leave it empty; an empty one is used.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use refloat_types::fault;

use crate::error::{CliError, Failure};

/// A new file of mode 0600. Dropped without a sheet in it, it is removed where that is possible.
#[derive(Debug)]
pub(crate) struct SheetFile {
    path: PathBuf,
    file: File,
    sheets: usize,
}

impl SheetFile {
    /// Makes it.
    ///
    /// # Errors
    /// It cannot be made, or is there and not empty.
    pub(crate) fn make(path: &Path) -> Result<Self, Failure> {
        let fail = |source| CliError::file("make a file for the recovery sheet at", path, source);
        let path = std::path::absolute(path).map_err(fail)?;
        let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => left_empty(&path).map_err(fail)?,
            other => other.map_err(fail)?,
        };
        Ok(Self { path, file, sheets: 0 })
    }

    /// The same; `None` where a sheet is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn make_once(path: &Path) -> Result<Option<Self>, Failure> {
        let is_full = std::fs::symlink_metadata(path).is_ok_and(|there| there.is_file() && there.len() > 0);
        if is_full { Ok(None) } else { Self::make(path).map(Some) }
    }

    /// Adds a sheet, durably.
    ///
    /// # Errors
    /// `SheetNotWritten`: what the sheet speaks of is made by now.
    pub(crate) fn add(&mut self, text: &str, again: &str) -> Result<(), CliError> {
        let between = if self.sheets > 0 { "\n\n" } else { "" };
        let written = fault::point("sheet.before_write")
            .and_then(|()| self.file.write_all(format!("{between}{text}").as_bytes()))
            .and_then(|()| self.file.sync_all());
        written.map_err(|source| CliError::SheetNotWritten {
            path: self.path.clone(),
            again: again.to_owned(),
            source,
        })?;
        self.sheets += 1;
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SheetFile {
    fn drop(&mut self) {
        // Not by its name alone: another file may be there by now.
        let same = |found: std::fs::Metadata| {
            self.file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (found.dev(), found.ino()))
        };
        if self.sheets == 0 && std::fs::symlink_metadata(&self.path).is_ok_and(same) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens what a command that failed has left: an empty file of this user's, which nobody else may read.
fn left_empty(path: &Path) -> io::Result<File> {
    let exists = || io::Error::from(io::ErrorKind::AlreadyExists);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().write(true).custom_flags(flags.bits()).open(path).map_err(|_| exists())?;
    let found = file.metadata()?;
    let ours = found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o077 == 0;
    if found.is_file() && found.len() == 0 && ours { Ok(file) } else { Err(exists()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_goes_to_a_new_file_and_none_to_one_with_something_in_it() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("sheet");
        drop(SheetFile::make(&path).expect("made"));
        assert!(!path.exists(), "nothing was written, nothing is left");

        let mut file = SheetFile::make(&path).expect("made");
        file.add("one\n", "").and_then(|()| file.add("two\n", "")).expect("written");
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "one\n\n\ntwo\n");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        let refused = SheetFile::make(&path).expect_err("it is not empty");
        assert_eq!(refused.code, "CLI-013");
        assert!(path.exists());

        // One that is empty is used, unless others may read it, or it is a link.
        let link = home.path().join("link");
        std::os::unix::fs::symlink(home.path().join("elsewhere"), &link).expect("links");
        assert!(SheetFile::make(&link).is_err());
        std::fs::write(&path, "").expect("emptied");
        let mut file = SheetFile::make(&path).expect("empty");
        file.add("three\n", "").expect("written");
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "three\n");
        let open = home.path().join("open");
        std::fs::write(&open, "").expect("writes");
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("chmod");
        assert!(SheetFile::make(&open).is_err());
    }
}
