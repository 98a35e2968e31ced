//! Files behind SFTP: written aside, synced, linked to their names, the directories synced.
//!
//! Names and modes are those of the POSIX store: a temporary file is `.refloat-…` in its object's directory, and a
//! directory of mode 0750 is one whose entry is durable. So the same directory can be opened as `file://` on the server.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use russh_sftp::protocol::{FileAttributes, OpenFlags};

use super::Inner;
use super::failure::Failed;
use super::session::Session;
use crate::{Key, StoreErrorKind};

/// Requests that are on their way at once, so that a long way costs little.
const IN_FLIGHT: usize = 16;

/// What temporary files begin with.
pub(super) const PREFIX: &str = ".refloat-";

const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;
/// The mode of a directory that may not be durable yet.
const NEW_DIRECTORY_MODE: u32 = 0o700;

/// How an object gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// By a hard link, which never replaces anything.
    Link,
    /// By renaming, which this server refuses where something is.
    Rename,
    /// By renaming, which replaces what is there.
    Replace,
}

/// A temporary file that is being written.
pub(super) struct Temporary {
    pub(super) path: String,
    handle: String,
    written: u64,
}

fn mode(bits: u32) -> FileAttributes {
    FileAttributes { permissions: Some(bits), ..FileAttributes::empty() }
}

/// 64 bits that differ from call to call and from process to process. Not secret.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// The directory that holds `path`.
pub(super) fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

impl Inner {
    /// The path of an object or of a directory of objects.
    pub(super) fn path(&self, key: &str) -> String {
        match (key, self.root.as_str()) {
            ("", root) => root.to_owned(),
            (key, "/") => format!("/{key}"),
            (key, root) => format!("{root}/{key}"),
        }
    }

    /// Begins a temporary file beside where `key` is to be; makes the directory where it is missing.
    pub(super) async fn begin(&self, session: &Session, key: &Key) -> Result<Temporary, Failed> {
        let path = self.path(key.as_str());
        let directory = parent(&path);
        self.ensure_directory(session, directory).await?;
        temporary(session, directory).await
    }

    /// Makes a directory durably, with those above it.
    async fn ensure_directory(&self, session: &Session, directory: &str) -> Result<(), Failed> {
        if self.is_settled(directory) {
            return Ok(());
        }
        let mut missing = vec![directory];
        // Upwards to the first one that is settled, at most to the store's own directory.
        loop {
            let Some(&lowest) = missing.last() else { return Ok(()) };
            match session.sftp.lstat(lowest).await.map_err(Failed::from) {
                Ok(found) if found.attrs.permissions.is_some_and(|bits| bits & 0o7777 == DIRECTORY_MODE) => {
                    self.settled(lowest);
                    missing.pop();
                    break;
                }
                Ok(_) if lowest == self.root => {
                    // The administrator's directory: its mode is none of our business.
                    self.sync_directory(session, parent(lowest)).await?;
                    self.settled(lowest);
                    missing.pop();
                    break;
                }
                Ok(_) => {}
                Err(failed) if failed.kind == StoreErrorKind::NotFound => {
                    if lowest == self.root && !self.options.create {
                        return Err(failed);
                    }
                }
                Err(failed) => return Err(failed),
            }
            if lowest == "/" {
                break;
            }
            missing.push(parent(lowest));
        }
        while let Some(next) = missing.pop() {
            // Another process may have made it; whether it is synced is not known, so it is done again.
            let made = session.sftp.mkdir(next, mode(NEW_DIRECTORY_MODE)).await.map_err(Failed::from);
            if let Err(failed) = made
                && (failed.is_broken || session.sftp.lstat(next).await.is_err())
            {
                return Err(self.explain(session, failed).await);
            }
            self.sync_directory(session, parent(next)).await?;
            // A server that has no modes: directories are synced anew by each process, and that is all.
            let _ = session.sftp.setstat(next, mode(DIRECTORY_MODE)).await;
            self.settled(next);
        }
        Ok(())
    }

    /// Appends to a temporary file.
    pub(super) async fn append(
        &self,
        session: &Session,
        file: &mut Temporary,
        bytes: Vec<u8>,
    ) -> Result<(), Failed> {
        let (sftp, handle, from) = (&session.sftp, file.handle.as_str(), file.written);
        let pieces: Vec<(u64, Vec<u8>)> = bytes
            .chunks(session.piece)
            .scan(from, |offset, piece| {
                let at = *offset;
                *offset += piece.len() as u64;
                Some((at, piece.to_vec()))
            })
            .collect();
        let sent = stream::iter(pieces)
            .map(|(at, piece)| sftp.write(handle, at, piece))
            .buffer_unordered(IN_FLIGHT)
            .try_for_each(|_| async { Ok(()) })
            .await;
        file.written += bytes.len() as u64;
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(session, error.into()).await),
        }
    }

    /// Syncs a temporary file and gives it its name, durably. The temporary name is gone afterwards, as far as the
    /// connection lasts.
    pub(super) async fn publish(&self, session: &Session, file: Temporary, key: &Key) -> Result<(), Failed> {
        let (temporary, path) = (file.path.clone(), self.path(key.as_str()));
        let named = self.name(session, file, &path).await;
        if named.as_ref().is_err_and(|failed| failed.is_broken) {
            return named;
        }
        match named {
            Ok(()) => self.sync_directory(session, parent(&path)).await,
            Err(failed) => {
                let _ = session.sftp.remove(temporary.as_str()).await;
                if failed.kind == StoreErrorKind::AlreadyExists {
                    self.settle(session, &path).await?;
                }
                Err(failed)
            }
        }
    }

    async fn name(&self, session: &Session, file: Temporary, path: &str) -> Result<(), Failed> {
        let (sftp, temporary) = (&session.sftp, file.path.as_str());
        // Whatever the server's umask made of it.
        let _ = sftp.fsetstat(file.handle.as_str(), mode(FILE_MODE)).await;
        if session.can_sync {
            sftp.fsync(file.handle.as_str()).await?;
        }
        if let Err(error) = sftp.close(file.handle.as_str()).await {
            return Err(self.explain(session, error.into()).await);
        }
        let mut naming = match self.naming.get() {
            // Tried by an earlier process: a link is what it found, unless this fails.
            None if self.settings.conditional == Some(true) && session.can_link => Naming::Link,
            _ => self.naming(session).await?,
        };
        let mut named = self.name_by(session, naming, temporary, path).await;
        if named.is_err() && self.naming.get().is_none() && sftp.lstat(path).await.is_err() {
            naming = self.naming(session).await?;
            named = self.name_by(session, naming, temporary, path).await;
        }
        match named {
            Ok(_) if naming == Naming::Link => {
                // A second name that stays is removed with the abandoned ones.
                let _ = sftp.remove(temporary).await;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                let failed = Failed::from(error);
                if !failed.is_broken && sftp.lstat(path).await.is_ok() {
                    let text = "an object of that name exists";
                    return Err(Failed::new(StoreErrorKind::AlreadyExists, text));
                }
                Err(self.explain(session, failed).await)
            }
        }
    }

    async fn name_by(
        &self,
        session: &Session,
        naming: Naming,
        temporary: &str,
        path: &str,
    ) -> Result<(), russh_sftp::client::error::Error> {
        let sftp = &session.sftp;
        match naming {
            Naming::Link => sftp.hardlink(temporary, path).await.map(drop),
            // Where it fails, nothing is removed to make room: in between there would be no object at all.
            Naming::Rename | Naming::Replace => sftp.rename(temporary, path).await.map(drop),
        }
    }

    /// How objects get their names on this server: seen by trying, once.
    pub(super) async fn naming(&self, session: &Session) -> Result<Naming, Failed> {
        if let Some(&known) = self.naming.get() {
            return Ok(known);
        }
        let sftp = &session.sftp;
        let (first, second) = (temporary(session, &self.root).await?, temporary(session, &self.root).await?);
        let names = [first.path.clone(), second.path.clone(), format!("{}-3", first.path)];
        for file in [first, second] {
            sftp.close(file.handle).await?;
        }
        let [one, two, three] = &names;
        let links = session.can_link
            && sftp.hardlink(one.as_str(), two.as_str()).await.is_err()
            && sftp.hardlink(one.as_str(), three.as_str()).await.is_ok();
        let found = if links {
            Naming::Link
        } else if sftp.rename(one.as_str(), two.as_str()).await.is_err() {
            Naming::Rename
        } else {
            Naming::Replace
        };
        for name in &names {
            let _ = sftp.remove(name.as_str()).await;
        }
        Ok(*self.naming.get_or_init(|| found))
    }

    /// Makes what is there as durable as a put of ours.
    pub(super) async fn settle(&self, session: &Session, path: &str) -> Result<(), Failed> {
        if session.can_sync {
            let opened = session.sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await?;
            let synced = session.sftp.fsync(opened.handle.as_str()).await;
            let _ = session.sftp.close(opened.handle).await;
            synced?;
        }
        let mut directory = parent(path);
        loop {
            self.sync_directory(session, directory).await?;
            if directory == self.root || directory == "/" {
                return Ok(());
            }
            directory = parent(directory);
        }
    }

    /// Writes a directory's entries to the server's disk, where the server can do that.
    pub(super) async fn sync_directory(&self, session: &Session, directory: &str) -> Result<(), Failed> {
        if !session.can_sync {
            return Ok(());
        }
        let synced = match session.sftp.open(directory, OpenFlags::READ, FileAttributes::empty()).await {
            Ok(opened) => {
                let synced = session.sftp.fsync(opened.handle.as_str()).await;
                let _ = session.sftp.close(opened.handle).await;
                synced.map(drop)
            }
            Err(error) => Err(error),
        };
        match synced.map_err(Failed::from) {
            // It cannot be opened as a file here: then nothing is promised, and `features` says so.
            Err(failed) if !failed.is_broken && failed.kind != StoreErrorKind::NotFound => {
                self.not_durable.store(true, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }

    /// The server's clock, in seconds.
    pub(super) async fn now(&self, session: &Session) -> Result<u32, Failed> {
        let file = temporary(session, &self.root).await?;
        let found = session.sftp.fstat(file.handle.as_str()).await;
        let _ = session.sftp.close(file.handle).await;
        let _ = session.sftp.remove(file.path).await;
        Ok(found?.attrs.mtime.unwrap_or(0))
    }

    /// "Failure" is all that SFTP says of a full disk.
    async fn explain(&self, session: &Session, failed: Failed) -> Failed {
        if failed.is_broken || failed.kind != StoreErrorKind::Other || !session.can_tell_space {
            return failed;
        }
        match session.sftp.statvfs(self.root.as_str()).await {
            Ok(space) if space.blocks_avail.saturating_mul(space.fragment_size) < 1 << 20 => {
                Failed::new(StoreErrorKind::NoSpace, format!("no space is left ({failed})"))
            }
            _ => failed,
        }
    }
}

/// Appends the bytes `from..to` of an open file.
pub(super) async fn read(session: &Session, handle: &str, from: u64, to: u64) -> Result<Vec<u8>, Failed> {
    let piece = session.piece as u64;
    let starts = (from..to).step_by(session.piece.max(1));
    let pieces: Vec<Vec<u8>> = stream::iter(starts)
        .map(|start| read_piece(session, handle, start, to.min(start.saturating_add(piece))))
        .buffered(IN_FLIGHT)
        .try_collect()
        .await?;
    Ok(pieces.concat())
}

/// A server may send less than it was asked for.
async fn read_piece(session: &Session, handle: &str, from: u64, to: u64) -> Result<Vec<u8>, Failed> {
    let mut got = Vec::new();
    while from + (got.len() as u64) < to {
        let at = from + got.len() as u64;
        let wanted = u32::try_from(to - at).unwrap_or(1 << 15);
        let data = session.sftp.read(handle, at, wanted).await?.data;
        if data.is_empty() || data.len() as u64 > to - at {
            return Err(Failed::broken("the server sends another length than was asked for"));
        }
        got.extend_from_slice(&data);
    }
    Ok(got)
}

async fn temporary(session: &Session, directory: &str) -> Result<Temporary, Failed> {
    let path =
        format!("{}/{PREFIX}sftp-{}-{:016x}", directory.trim_end_matches('/'), std::process::id(), random());
    let flags = OpenFlags::CREATE | OpenFlags::EXCLUDE | OpenFlags::WRITE;
    let opened = session.sftp.open(path.as_str(), flags, mode(FILE_MODE)).await?;
    Ok(Temporary { path, handle: opened.handle, written: 0 })
}
