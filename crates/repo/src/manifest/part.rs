//! A manifest part: files in the order of their paths.
//!
//! Bytes: a frame table (of frames of leaves); varint number of entries; each entry: byte kind (1 file, 2 directory,
//! 3 symbolic link); varint bytes shared with the previous path, varint length and bytes of the rest; varints mode, uid,
//! gid; signed varint mtime (ns). A file goes on with varints size, device, inode, signed ctime (ns), varint number of
//! leaves, each varint frame place, offset, length. A link goes on with varint length and bytes of its target.

use std::sync::Arc;

use super::leaf::LeafRef;
use crate::binary::{BadBytes, Reader, put_bytes, put_signed, put_varint};
use crate::error::RepoError;
use crate::pack::frame::FrameTable;

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to what was backed up, `/` between parts; bytes, as the file system has them.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// The rest.
    pub what: What,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A regular file.
    File {
        /// Bytes stored: the sum of its leaves.
        size: u64,
        /// How change is told without reading.
        stat: FileStat,
        /// One for each span of the file.
        leaves: Arc<[LeafRef]>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

/// What stat said before the file was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileStat {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Last change of the inode, nanoseconds since 1970.
    pub ctime_ns: i64,
}

/// Writes entries until the part is large enough.
#[derive(Default)]
pub(super) struct PartBuilder {
    table: FrameTable,
    entries: Vec<u8>,
    count: u64,
    last: Vec<u8>,
}

impl PartBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
    pub(super) fn size(&self) -> usize {
        self.entries.len() + self.table.frames().len() * 32
    }
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, entry: &Entry) {
        let shared = self.last.iter().zip(&entry.path).take_while(|(a, b)| a == b).count();
        let out = &mut self.entries;
        out.push(match entry.what {
            What::File { .. } => 1,
            What::Directory => 2,
            What::Symlink { .. } => 3,
        });
        put_varint(out, shared as u64);
        put_bytes(out, &entry.path[shared..]);
        put_varint(out, u64::from(entry.mode));
        put_varint(out, u64::from(entry.uid));
        put_varint(out, u64::from(entry.gid));
        put_signed(out, entry.mtime_ns);
        match &entry.what {
            What::Directory => {}
            What::Symlink { target } => put_bytes(out, target),
            What::File { size, stat, leaves } => {
                put_varint(out, *size);
                put_varint(out, stat.device);
                put_varint(out, stat.inode);
                put_signed(out, stat.ctime_ns);
                put_varint(out, leaves.len() as u64);
                for leaf in leaves.iter() {
                    put_varint(out, self.table.place(&leaf.frame) as u64);
                    put_varint(out, u64::from(leaf.offset));
                    put_varint(out, u64::from(leaf.length));
                }
            }
        }
        self.last.clone_from(&entry.path);
        self.count += 1;
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        self.table.encode(&mut out);
        put_varint(&mut out, self.count);
        out.extend_from_slice(&self.entries);
        out
    }
}

/// Reads the entries of a part.
///
/// # Errors
/// When the bytes are no part, or its paths are not in order or could leave the directory they are restored into.
pub fn decode(bytes: &[u8]) -> Result<Vec<Entry>, BadBytes> {
    let mut reader = Reader::new(bytes);
    let table = FrameTable::decode(&mut reader)?;
    let count = reader.count(7)?;
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..count {
        let entry = decode_entry(&mut reader, &table, entries.last().map_or(&[][..], |e| &e.path))?;
        if entries.last().is_some_and(|last| last.path >= entry.path) {
            return Err(BadBytes("its paths are not in order"));
        }
        entries.push(entry);
    }
    reader.end()?;
    Ok(entries)
}

fn decode_entry(reader: &mut Reader<'_>, table: &FrameTable, last: &[u8]) -> Result<Entry, BadBytes> {
    let kind = reader.u8()?;
    let shared = usize::try_from(reader.varint()?).ok().and_then(|n| last.get(..n));
    let mut path = shared.ok_or(BadBytes("a path shares more than there is"))?.to_vec();
    path.extend_from_slice(reader.bytes()?);
    if !is_inside(&path) {
        return Err(BadBytes("a path leads outside"));
    }
    let (mode, uid, gid) = (reader.varint32()?, reader.varint32()?, reader.varint32()?);
    let mtime_ns = reader.signed()?;
    let what = match kind {
        1 => {
            let size = reader.varint()?;
            let stat =
                FileStat { device: reader.varint()?, inode: reader.varint()?, ctime_ns: reader.signed()? };
            let leaves =
                (0..reader.count(3)?).map(|_| decode_leaf(reader, table)).collect::<Result<_, _>>()?;
            What::File { size, stat, leaves }
        }
        2 => What::Directory,
        3 => What::Symlink { target: reader.bytes()?.to_vec() },
        _ => return Err(BadBytes("an entry's kind is not known")),
    };
    Ok(Entry { path, mode, uid, gid, mtime_ns, what })
}

fn decode_leaf(reader: &mut Reader<'_>, table: &FrameTable) -> Result<LeafRef, BadBytes> {
    let place = usize::try_from(reader.varint()?).ok().and_then(|p| table.get(p));
    let frame = *place.ok_or(BadBytes("a leaf names no frame"))?;
    let (offset, length) = (reader.varint32()?, reader.varint32()?);
    if offset.checked_add(length).is_none_or(|end| end > frame.plain) {
        return Err(BadBytes("a leaf ends behind its frame"));
    }
    Ok(LeafRef { frame, offset, length })
}

/// Relative, without empty, `.` or `..` parts and without a zero byte: joined to a directory it stays below it.
fn is_inside(path: &[u8]) -> bool {
    !path.contains(&0) && path.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// The error of a part that cannot be read.
pub(super) fn damaged(pack: impl ToString, error: BadBytes) -> RepoError {
    RepoError::damaged(pack, format!("a manifest part in it is wrong: {}", error.0))
}
