//! What is to be copied: the entries of a walk, in the order of their paths, each file with what the parent has of it.
//!
//! They may be millions: the listing lies in a spill file, and is gone through as often as it is needed.

use std::sync::Arc;

use refloat_pg::control::ControlFile;
use refloat_pg::layout::{
    Entry as Found, FileClass, Kind, Scope, Walk, checksummed, tablespace_version_directory,
};
use refloat_repo::RepoError;
use refloat_repo::manifest::leaf::LEAF_SPAN;
use refloat_repo::manifest::{Entry, FileStat, What};
use refloat_repo::pack::frame::FrameRef;

use super::parent::{Former, FormerFiles, Parent};
use super::{BackupError, BackupRequest, record};
use crate::spill::{RecordReader, RecordWriter, Records};

/// A file to copy.
#[derive(Debug)]
pub(super) struct FileToCopy {
    /// The number of its first span among the spans of all files.
    pub(super) place: u64,
    /// Its entry; the leaves are filled in when they are known.
    pub(super) entry: Entry,
    /// Bytes when it was seen.
    pub(super) size: u64,
    /// For relation segments: the number of its first block in the whole fork.
    pub(super) first_block: Option<u32>,
    /// Whether its pages carry what can be checked.
    pub(super) checked: bool,
    /// What the parent has of it.
    pub(super) former: Option<Former>,
}

impl FileToCopy {
    /// How many spans it has: an empty file has one, too.
    pub(super) fn spans(&self) -> u64 {
        self.size.div_ceil(LEAF_SPAN).max(1)
    }
}

/// An entry of the listing.
#[derive(Debug)]
pub(super) enum Listed {
    /// A file.
    File(FileToCopy),
    /// A directory or a link.
    Other(Entry),
}

/// The listing of a data directory.
#[derive(Debug)]
pub(super) struct Listing {
    records: Records,
    /// Spans of all files.
    pub(super) spans: u64,
    /// Permission bits of the data directory itself.
    pub(super) top_mode: u32,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// Bytes of files that the parent has not.
    pub(super) new_bytes: u64,
    /// What is left out though PostgreSQL did not put it there, and what a person should know of the parent.
    pub(super) notes: Vec<String>,
}

impl Listing {
    /// Goes through it, in the order of paths.
    pub(super) fn entries(&self) -> Entries {
        Entries { records: self.records.clone(), reader: self.records.reader(), last: None, place: 0 }
    }
}

/// Goes through a listing.
#[derive(Debug)]
pub(super) struct Entries {
    records: Records,
    reader: RecordReader,
    last: Option<FrameRef>,
    place: u64,
}

impl Entries {
    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<Listed>, RepoError> {
        let Some(bytes) = self.reader.next()? else { return Ok(None) };
        let mut listed = record::read(bytes, &mut self.last).map_err(|_| self.records.damaged())?;
        if let Listed::File(file) = &mut listed {
            file.place = self.place;
            self.place += file.spans();
        }
        Ok(Some(listed))
    }

    /// The next file.
    pub(super) fn next_file(&mut self) -> Result<Option<FileToCopy>, RepoError> {
        while let Some(listed) = self.next()? {
            if let Listed::File(file) = listed {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }
}

/// Most names of what is left out that are told.
const TOLD: usize = 100;

/// What is left out though PostgreSQL did not put it there.
#[derive(Default)]
struct LeftOut {
    notes: Vec<String>,
    more: u64,
}

impl LeftOut {
    fn add(&mut self, path: &[u8], what: &str) {
        if self.notes.len() < TOLD {
            self.notes.push(format!("left out: {} is {what}", String::from_utf8_lossy(path)));
        } else {
            self.more += 1;
        }
    }
    fn notes(mut self) -> Vec<String> {
        if self.more > 0 {
            self.notes.push(format!("left out: {} more that are no regular files", self.more));
        }
        self.notes
    }
}

/// Path of the control file.
pub(super) const CONTROL_FILE: &[u8] = b"global/pg_control";

/// Lists the data directory beside the files of the parent. The control file is left out: it is read last.
pub(super) fn list(
    request: &BackupRequest<'_>,
    major: u32,
    control: &ControlFile,
    parent: Option<&Parent>,
) -> Result<Listing, BackupError> {
    let version = tablespace_version_directory(major, control);
    let (repository, data_directory) = (request.repository, &request.data_directory);
    let mut former = parent
        .map(|parent| FormerFiles::new(parent, repository.store().as_ref(), data_directory))
        .transpose()?;
    let mut writer = RecordWriter::create(repository.state())?;
    let mut left_out = LeftOut::default();
    let (mut spans, mut top_mode, mut bytes, mut new_bytes) = (0, 0, 0, 0);
    let (mut record, mut last) = (Vec::new(), None);
    for found in Walk::new(data_directory, &version, Scope::Backup)? {
        let found = found?;
        let Some(what) = what(&found, &mut left_out) else { continue };
        if found.path.is_empty() {
            top_mode = found.mode;
            continue;
        }
        if found.path == CONTROL_FILE {
            continue;
        }
        record.clear();
        let Found { path, mode, uid, gid, mtime_ns, size, class, .. } = found;
        let entry = Entry { path, mode, uid, gid, mtime_ns, what };
        if matches!(entry.what, What::File { .. }) {
            let first_block = match class {
                FileClass::Relation(relation) => relation.first_block(control.relation_segment_blocks),
                _ => None,
            };
            let checked = first_block.is_some() && checksummed(&entry.path);
            let mut file = FileToCopy { place: spans, entry, size, first_block, checked, former: None };
            if let Some(former) = &mut former {
                file.former = former.of(&file)?;
            }
            spans += file.spans();
            bytes += size;
            if file.former.is_none() {
                new_bytes += size;
            }
            record::put_file(&mut record, &file, &mut last);
        } else {
            record::put_other(&mut record, &entry);
        }
        writer.push(&record)?;
    }
    let mut notes = left_out.notes();
    notes.extend(former.into_iter().flat_map(FormerFiles::notes));
    Ok(Listing { records: writer.finish()?, spans, top_mode, bytes, new_bytes, notes })
}

/// What an entry is; `None` for what is left out.
fn what(found: &Found, left_out: &mut LeftOut) -> Option<What> {
    match &found.kind {
        Kind::File => {
            let stat = FileStat { device: found.device, inode: found.inode, ctime_ns: found.ctime_ns };
            Some(What::File { size: 0, stat, leaves: Arc::from([]) })
        }
        // `pg_wal` and emptied directories may be links; restored they are directories, as PostgreSQL's base backup
        // makes them. A tablespace stays a link: restore decides where it leads.
        Kind::DirectoryLink { target } if found.path.starts_with(b"pg_tblspc/") => {
            Some(What::Symlink { target: target.clone() })
        }
        Kind::Directory | Kind::DirectoryLink { .. } => Some(What::Directory),
        Kind::Symlink { .. } => {
            left_out.add(&found.path, "a symbolic link");
            None
        }
        Kind::Special => {
            left_out.add(&found.path, "no regular file");
            None
        }
    }
}
