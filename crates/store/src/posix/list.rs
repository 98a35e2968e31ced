//! Walks the directories below a prefix.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::{Errno, retry_on_intr};

use super::{describe, directory};
use crate::{Key, ObjectInfo};

/// Calls `each` for the objects whose key begins with `prefix`. Holds one directory open and the names of those still
/// to be read; whatever vanishes on the way is not there.
pub(super) fn walk(
    root: &File,
    prefix: &str,
    each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
) -> io::Result<()> {
    let (top, mut first) = match prefix.rsplit_once('/') {
        // Text that begins no key has no objects; as a path it might lead out of the store.
        Some((top, _)) if top.parse::<Key>().is_err() => return Ok(()),
        Some(parts) => parts,
        None => ("", prefix),
    };
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        let directory = match directory::open(root, if path.is_empty() { "." } else { path.as_str() }) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(error) => return Err(error.into()),
        };
        if read_one(&directory, &path, first, &mut pending, each)?.is_break() {
            return Ok(());
        }
        first = "";
    }
    Ok(())
}

/// Lists the objects of one directory whose names begin with `first`, and adds its directories to `pending`.
fn read_one(
    directory: &File,
    path: &str,
    first: &str,
    pending: &mut Vec<String>,
    each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    for entry in Dir::read_from(directory)? {
        let entry = match entry {
            // Removed while it is read: nothing more is in it.
            Err(Errno::NOENT) => break,
            other => other?,
        };
        let Ok(name) = entry.file_name().to_str() else { continue };
        if !name.starts_with(first) || name.starts_with('.') {
            continue;
        }
        let text = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        // Whatever is no key is not ours: `lost+found`, what a file manager leaves.
        let Ok(key) = text.parse::<Key>() else { continue };
        if entry.file_type() == FileType::Directory {
            pending.push(text);
            continue;
        }
        match retry_on_intr(|| rustix::fs::statat(directory, name, AtFlags::empty())) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile if each(describe(key, &stat)).is_break() => {
                    return Ok(ControlFlow::Break(()));
                }
                // A link to a directory, or a file system that tells no types.
                FileType::Directory => pending.push(text),
                _ => {}
            },
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ControlFlow::Continue(()))
}
