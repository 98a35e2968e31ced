//! Where WAL segments lie that were fetched before PostgreSQL asked for them: a directory beside the place that they go to, so
//! that taking one is a rename.
//!
//! One process serves it and holds its lock as long. What lies there is used only then: a process that was killed, and above
//! all a host that went down, leave files that nobody has synced. A WAL segment that does not come soon is asked for like any
//! other.
//!
//! Everything goes by path, so a data directory that is moved or restored again may leave two processes with one spool. What
//! each puts there is whole and right, since it gets its name last; a process that sees another's lock touches nothing more.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use refloat_types::{SystemIdentifier, WalSegmentName};

/// Its name. PostgreSQL's programs pass over what begins with a dot, and take nothing in `pg_wal` that has no WAL file's name.
const NAME: &str = ".refloat-ahead";
/// Locked by whoever serves it.
const LOCK: &str = "lock";
/// Holds the name of the WAL segment that was asked for last.
const ASKED: &str = "asked";
/// How often it is looked whether a WAL segment that is on its way has come.
const GLANCE: Duration = Duration::from_millis(1);

/// A spool, served or not.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
}

impl Spool {
    /// The one beside `dest`.
    pub fn beside(dest: &Path) -> Self {
        Self { directory: dest.with_file_name(NAME) }
    }

    /// Whether a process of this user reads ahead into it.
    pub fn is_served(&self) -> bool {
        if self.is_ours().is_err() {
            return false;
        }
        let Ok(lock) = File::open(self.directory.join(LOCK)) else { return false };
        matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Tells that `name` is asked for, and moves it to `dest` where it is here, of `bytes` and out of one of `repositories`, which
    /// is answered. Waits up to `patience` for one that is on its way.
    pub fn take<'r>(
        &self,
        system: SystemIdentifier,
        (name, bytes): (WalSegmentName, u64),
        repositories: &[&'r str],
        dest: &Path,
        patience: Duration,
    ) -> Option<&'r str> {
        if !self.is_served() {
            return None;
        }
        // Read by the process that serves, which keeps to what it knew where this cannot be written.
        let _ = fs::write(self.directory.join(ASKED), name.to_string());
        let until = Instant::now() + patience;
        loop {
            // Asked first: between this and the next question it may come, and then it is there.
            let is_coming = self.coming(system, name).exists() && self.is_served();
            let taken = repositories.iter().copied().find(|repository| {
                let path = self.file(system, name, repository);
                let is_whole = fs::metadata(&path).is_ok_and(|there| there.is_file() && there.len() == bytes);
                is_whole && fs::rename(&path, dest).is_ok()
            });
            if taken.is_some() || !is_coming || Instant::now() >= until {
                return taken;
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Serves it, and removes what was left in it; `None` while another process does.
    ///
    /// # Errors
    /// It cannot be made, or is somebody else's.
    pub fn serve(&self) -> io::Result<Option<Served>> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.is_ours()?;
        let path = self.directory.join(LOCK);
        let lock = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let served = Served { spool: self.clone(), lock };
        // Whoever served it until now removes the lock before it lets go of it.
        if !served.is_there() {
            return Ok(None);
        }
        served.clear()?;
        Ok(Some(served))
    }

    /// Removes what a process left that was killed.
    pub fn tidy(&self) {
        // Serving it for a moment does.
        if self.directory.exists()
            && let Err(error) = self.serve()
        {
            tracing::debug!(directory = %self.directory.display(), %error, "it is not needed and could not be removed");
        }
    }

    /// Refuses what somebody put there.
    fn is_ours(&self) -> io::Result<()> {
        let meta = fs::symlink_metadata(&self.directory)?;
        if meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a directory of this user"))
    }

    /// A WAL segment that is here. Its cluster and its repository are in the name: nobody is given another's.
    fn file(&self, system: SystemIdentifier, name: WalSegmentName, repository: &str) -> PathBuf {
        self.directory.join(format!("{name}.{system}.{repository}"))
    }

    /// Is there while a WAL segment is on its way.
    fn coming(&self, system: SystemIdentifier, name: WalSegmentName) -> PathBuf {
        self.directory.join(format!("coming.{name}.{system}"))
    }
}

/// A spool that this process serves. It goes with it.
#[derive(Debug)]
pub struct Served {
    spool: Spool,
    lock: File,
}

impl Served {
    /// The WAL segment that was asked for last, once one was.
    pub(super) fn asked(&self) -> Option<WalSegmentName> {
        fs::read_to_string(self.spool.directory.join(ASKED)).ok()?.parse().ok()
    }

    /// Whether it is still this process's: nobody has removed it, or moved it with the directory that it lies in.
    pub(super) fn is_there(&self) -> bool {
        let there = fs::metadata(self.spool.directory.join(LOCK));
        let same = |there: fs::Metadata| {
            self.lock.metadata().is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()))
        };
        there.is_ok_and(same)
    }

    /// Where a WAL segment has to be put, which is complete and right from then on.
    pub(super) fn file(&self, system: SystemIdentifier, name: WalSegmentName, repository: &str) -> PathBuf {
        self.spool.file(system, name, repository)
    }

    /// Where it may be made: no other process's.
    pub(super) fn draft(&self, name: WalSegmentName) -> PathBuf {
        self.spool.directory.join(format!("draft.{name}.{}", std::process::id()))
    }

    /// Tells that a WAL segment is on its way, until the answer is dropped.
    pub(super) fn coming(&self, system: SystemIdentifier, name: WalSegmentName) -> io::Result<Coming> {
        let path = self.spool.coming(system, name);
        File::create(&path)?;
        Ok(Coming(path))
    }

    /// Free bytes of its file system.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let space = rustix::fs::statvfs(&self.spool.directory).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Removes all that lies there.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.spool.directory)? {
            let entry = entry?;
            if entry.file_name() == LOCK {
                continue;
            }
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes it with all that lies there, unless it is another's by now.
    pub(super) fn leave(&self) {
        if !self.is_there() {
            return;
        }
        let gone = self.clear().and_then(|()| {
            fs::remove_file(self.spool.directory.join(LOCK))?;
            fs::remove_dir(&self.spool.directory)
        });
        if let Err(error) = gone {
            tracing::debug!(directory = %self.spool.directory.display(), %error, "it could not be removed");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A WAL segment that is on its way.
#[derive(Debug)]
pub(super) struct Coming(PathBuf);

impl Drop for Coming {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: SystemIdentifier = SystemIdentifier(7);

    fn segment(number: u64) -> WalSegmentName {
        format!("0000000100000000{number:08X}").parse().expect("a name")
    }

    fn scene() -> (tempfile::TempDir, PathBuf, Spool) {
        let directory = tempfile::tempdir().expect("a directory");
        let dest = directory.path().join("RECOVERYXLOG");
        let spool = Spool::beside(&dest);
        (directory, dest, spool)
    }

    fn take(spool: &Spool, number: u64, dest: &Path) -> Option<&'static str> {
        spool.take(SYSTEM, (segment(number), 3), &["near", "far"], dest, Duration::from_secs(60))
    }

    #[test]
    fn what_is_here_is_moved() {
        let (_directory, dest, spool) = scene();
        let served = spool.serve().expect("it is served").expect("by nobody else");
        assert!(spool.is_served());
        assert_eq!(served.asked(), None);
        assert_eq!(take(&spool, 3, &dest), None);
        assert_eq!(served.asked(), Some(segment(3)));
        fs::write(served.file(SYSTEM, segment(4), "far"), "wal").expect("a segment");
        assert_eq!(take(&spool, 4, &dest), Some("far"));
        assert_eq!(fs::read(&dest).expect("it was moved"), b"wal");
        assert_eq!(take(&spool, 4, &dest), None);
    }

    #[test]
    fn nobody_gets_what_is_of_another_cluster_or_repository() {
        let (_directory, dest, spool) = scene();
        let served = spool.serve().expect("it is served").expect("by nobody else");
        fs::write(served.file(SystemIdentifier(8), segment(4), "far"), "other").expect("a segment");
        fs::write(served.file(SYSTEM, segment(4), "third"), "other").expect("a segment");
        assert_eq!(take(&spool, 4, &dest), None);
        assert!(!dest.exists());
    }

    #[test]
    fn a_file_of_another_length_is_no_segment() {
        let (_directory, dest, spool) = scene();
        let served = spool.serve().expect("it is served").expect("by nobody else");
        for bytes in ["", "wa", "wal and more"] {
            fs::write(served.file(SYSTEM, segment(4), "far"), bytes).expect("a part");
            assert_eq!(take(&spool, 4, &dest), None, "{bytes}");
        }
        assert!(!dest.exists());
    }

    #[test]
    fn what_is_another_processs_by_now_is_left_alone() {
        let (directory, dest, spool) = scene();
        let served = spool.serve().expect("it is served").expect("by nobody else");
        fs::rename(directory.path().join(NAME), directory.path().join("aside")).expect("moves");
        assert!(!served.is_there());
        let other = spool.serve().expect("it is served").expect("by nobody else");
        assert!(!served.is_there() && other.is_there());
        fs::write(other.file(SYSTEM, segment(4), "near"), "wal").expect("a segment");
        drop(served);
        assert_eq!(take(&spool, 4, &dest), Some("near"));
    }

    #[test]
    fn what_is_on_its_way_is_waited_for() {
        let (_directory, dest, spool) = scene();
        let served = spool.serve().expect("it is served").expect("by nobody else");
        let coming = served.coming(SYSTEM, segment(5)).expect("it comes");
        std::thread::scope(|scope| {
            let taking = scope.spawn(|| take(&spool, 5, &dest));
            while served.asked().is_none() {
                std::thread::yield_now();
            }
            let other = served.file(SYSTEM, segment(5), "near").with_extension("new");
            fs::write(&other, "wal").expect("a segment");
            fs::rename(&other, served.file(SYSTEM, segment(5), "near")).expect("it is there");
            drop(coming);
            assert!(taking.join().expect("no panic").is_some());
        });
        // One that did not come is not waited for.
        drop(served.coming(SYSTEM, segment(6)).expect("it comes"));
        assert_eq!(take(&spool, 6, &dest), None);
    }

    #[test]
    fn what_a_killed_process_left_is_neither_used_nor_kept() {
        let (directory, dest, spool) = scene();
        let left = directory.path().join(NAME);
        fs::create_dir(&left).expect("a directory");
        let file = spool.file(SYSTEM, segment(4), "near");
        fs::write(&file, "zeros").expect("a segment");
        fs::write(left.join(LOCK), "").expect("a lock");
        fs::write(spool.coming(SYSTEM, segment(5)), "").expect("a mark");
        assert!(!spool.is_served());
        assert_eq!(take(&spool, 4, &dest), None);
        assert_eq!(take(&spool, 5, &dest), None);
        assert!(file.exists());
        spool.tidy();
        assert!(!left.exists());
        spool.tidy();
    }

    #[test]
    fn one_process_serves_and_leaves_nothing() {
        let (directory, _dest, spool) = scene();
        let served = spool.serve().expect("it is served").expect("by nobody else");
        assert!(spool.serve().expect("it can be looked at").is_none());
        spool.tidy();
        assert!(spool.is_served());
        fs::write(served.file(SYSTEM, segment(4), "near"), "wal").expect("a segment");
        drop(served);
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
    }

    #[test]
    fn a_directory_that_somebody_else_put_there_is_refused() {
        let (directory, _dest, spool) = scene();
        let elsewhere = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink(elsewhere.path(), directory.path().join(NAME)).expect("a link");
        spool.serve().expect_err("it leads elsewhere");
        let lock = File::create(elsewhere.path().join(LOCK)).expect("a lock");
        lock.lock().expect("it is locked");
        assert!(!spool.is_served());
        assert_eq!(fs::read_dir(elsewhere.path()).expect("it is there").count(), 1);
    }
}
