//! Entries of a listing, and places of map leaves, as they lie in a spill file: this process's own, never stored.

use std::sync::Arc;

use refloat_repo::binary::{BadBytes, Reader, put_bytes, put_signed, put_varint};
use refloat_repo::compress::Codec;
use refloat_repo::manifest::{Entry, FileStat, LeafRef, What};
use refloat_repo::pack::frame::FrameRef;
use refloat_types::ObjectId;

use super::files::{FileToCopy, Listed};
use super::parent::Former;

const FILE: u8 = 1;
const DIRECTORY: u8 = 2;
const LINK: u8 = 3;

const CHECKED: u8 = 1;
const IN_RELATION: u8 = 2;
const FORMER: u8 = 4;
const UNCHANGED: u8 = 8;

/// Appends an entry that has no bytes of its own.
pub(super) fn put_other(out: &mut Vec<u8>, entry: &Entry) {
    put_head(out, if matches!(entry.what, What::Symlink { .. }) { LINK } else { DIRECTORY }, entry);
    if let What::Symlink { target } = &entry.what {
        put_bytes(out, target);
    }
}

/// Appends a file. `last` is the frame that was named last, by this file or one before it.
pub(super) fn put_file(out: &mut Vec<u8>, file: &FileToCopy, last: &mut Option<FrameRef>) {
    put_head(out, FILE, &file.entry);
    if let What::File { stat, .. } = &file.entry.what {
        put_varint(out, stat.device);
        put_varint(out, stat.inode);
        put_signed(out, stat.ctime_ns);
    }
    put_varint(out, file.size);
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let is_unchanged = file.former.as_ref().is_some_and(|former| former.is_unchanged);
    out.push(
        flag(file.checked, CHECKED)
            | flag(file.first_block.is_some(), IN_RELATION)
            | flag(file.former.is_some(), FORMER)
            | flag(is_unchanged, UNCHANGED),
    );
    if let Some(first_block) = file.first_block {
        put_varint(out, u64::from(first_block));
    }
    let Some(former) = &file.former else { return };
    put_varint(out, former.leaves.len() as u64);
    for leaf in former.leaves.iter() {
        put_varint(out, u64::from(leaf.offset));
        put_varint(out, u64::from(leaf.length));
        let is_other = *last != Some(leaf.frame);
        out.push(u8::from(is_other));
        if is_other {
            put_frame(out, &leaf.frame);
            *last = Some(leaf.frame);
        }
    }
}

fn put_head(out: &mut Vec<u8>, kind: u8, entry: &Entry) {
    out.push(kind);
    put_bytes(out, &entry.path);
    put_varint(out, u64::from(entry.mode));
    put_varint(out, u64::from(entry.uid));
    put_varint(out, u64::from(entry.gid));
    put_signed(out, entry.mtime_ns);
}

/// Reads an entry. A file's place is the caller's to know.
pub(super) fn read(bytes: &[u8], last: &mut Option<FrameRef>) -> Result<Listed, BadBytes> {
    let mut reader = Reader::new(bytes);
    let kind = reader.u8()?;
    let path = reader.bytes()?.to_vec();
    let (mode, uid, gid) = (reader.varint32()?, reader.varint32()?, reader.varint32()?);
    let mtime_ns = reader.signed()?;
    let entry = |what| Entry { path, mode, uid, gid, mtime_ns, what };
    match kind {
        DIRECTORY => Ok(Listed::Other(entry(What::Directory))),
        LINK => Ok(Listed::Other(entry(What::Symlink { target: reader.bytes()?.to_vec() }))),
        FILE => {
            let stat =
                FileStat { device: reader.varint()?, inode: reader.varint()?, ctime_ns: reader.signed()? };
            let size = reader.varint()?;
            let flags = reader.u8()?;
            let first_block = if flags & IN_RELATION == 0 { None } else { Some(reader.varint32()?) };
            let former = if flags & FORMER == 0 {
                None
            } else {
                let leaves = (0..reader.count(3)?).map(|_| read_leaf(&mut reader, last));
                let leaves = leaves.collect::<Result<_, _>>()?;
                Some(Former { leaves, is_unchanged: flags & UNCHANGED != 0 })
            };
            let entry = entry(What::File { size: 0, stat, leaves: Arc::from([]) });
            let checked = flags & CHECKED != 0;
            Ok(Listed::File(FileToCopy { place: 0, entry, size, first_block, checked, former }))
        }
        _ => Err(BadBytes("an entry's kind is not known")),
    }
}

fn read_leaf(reader: &mut Reader<'_>, last: &mut Option<FrameRef>) -> Result<LeafRef, BadBytes> {
    let (offset, length) = (reader.varint32()?, reader.varint32()?);
    if reader.u8()? == 1 {
        *last = Some(read_frame(reader)?);
    }
    let frame = last.ok_or(BadBytes("a leaf names no frame"))?;
    Ok(LeafRef { frame, offset, length })
}

/// Bytes of a frame's reference.
pub(super) const FRAME_BYTES: usize = 53;

/// Appends a reference to a frame.
pub(super) fn put_frame(out: &mut Vec<u8>, frame: &FrameRef) {
    out.extend_from_slice(&frame.pack.0);
    out.extend_from_slice(&frame.offset.to_le_bytes());
    out.extend_from_slice(&frame.index.to_le_bytes());
    out.extend_from_slice(&frame.stored.to_le_bytes());
    out.extend_from_slice(&frame.plain.to_le_bytes());
    out.push(frame.codec.number());
    out.extend_from_slice(&frame.tag);
}

/// Reads a reference to a frame.
pub(super) fn read_frame(reader: &mut Reader<'_>) -> Result<FrameRef, BadBytes> {
    Ok(FrameRef {
        pack: ObjectId(reader.array()?),
        offset: reader.u64()?,
        index: reader.u32()?,
        stored: reader.u32()?,
        plain: reader.u32()?,
        codec: Codec::from_number(reader.u8()?).ok_or(BadBytes("a codec is not known"))?,
        tag: reader.array()?,
    })
}
