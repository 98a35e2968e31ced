//! The first steps over a cluster: our marker, and `pg_control` under another name before anything else is touched.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refloat_types::fault;

use super::super::aside::Move;
use super::super::claim::{self, Found};
use super::super::disk::{make_directory, rename_durably};
use super::super::error::{RestoreError, io_error};
use super::super::marker::{MARKER, Marker};
use super::super::run::{ReadyWal, Restore, ready_wal};
use super::super::sync::{Durable, sync_directory};
use super::super::{Owner, RestorePlan};
use super::reuse::{Reuse, is_due};
use crate::locked::LOCK_FILE;

const CONTROL: &str = "global/pg_control";
/// What it is called then; no server looks for this, and it goes when the backup's files come.
const CONTROL_REPLACED: &str = "global/pg_control.replaced";

impl Restore<'_> {
    /// From here on the directory is ours, locked, and cannot be started; old WAL is out of the way.
    pub(in crate::restore) fn begin_over(
        &mut self,
        reuse: &Reuse,
    ) -> Result<(Option<ReadyWal>, Durable), RestoreError> {
        let directory = self.plan.directory.clone();
        if rustix::process::geteuid().is_root() && self.owner().is_none() {
            let meta = fs::metadata(&directory).map_err(io_error("read", &directory))?;
            self.plan.request.owner = Some(Owner { uid: meta.uid(), gid: meta.gid() });
        }
        let owner = self.owner();
        let moves = reuse.moves(&self.plan.tablespaces);
        let marker =
            write_marker(&self.plan, reuse, &moves).map_err(io_error("write", directory.join(MARKER)))?;
        self.point("restore.after_marker")?;
        make_unstartable(&directory).map_err(io_error("rename", directory.join(CONTROL)))?;
        for step in moves.iter().filter(|step| is_due(step)) {
            rename_durably(&step.from, &step.to).map_err(io_error("set aside", &step.from))?;
            self.point("restore.delta.after_aside")?;
        }
        self.claim_places(reuse, &marker)?;
        for path in self.plan.request.made_tablespaces.iter().filter(|path| !path.exists()) {
            make_directory(path, 0o700, owner).map_err(io_error("create directory", path))?;
        }
        make_directory(&directory, self.plan.mode, owner)
            .map_err(io_error("create directory", &directory))?;
        // The lock is written to its place, which may be a link of somebody's.
        remove_file(&directory.join(LOCK_FILE)).map_err(io_error("remove", directory.join(LOCK_FILE)))?;
        self.lock(&directory)?;
        self.point("restore.after_lock")?;
        self.plan.set_aside = marker.delta.unwrap_or_default();
        if let Some(wal) = &self.plan.wal_directory {
            self.notes.push(format!("pg_wal is in {}, as before", wal.display()));
        }
        let ready = reuse.wal.as_ref().and_then(|step| ready_wal(&step.to));
        let roots: Vec<PathBuf> = std::iter::once(directory).chain(self.plan.outside()).collect();
        Ok((ready, Durable::open(&roots).map_err(|(path, error)| io_error("open", path)(error))?))
    }

    /// Marks each directory outside: those that are reused as they are, others while they are empty.
    fn claim_places(&self, reuse: &Reuse, marker: &Marker) -> Result<(), RestoreError> {
        let (owner, wanted) = (self.owner(), self.plan.outside());
        // What was taken before and is no longer wanted keeps what is in it: it may be the old cluster's.
        for path in marker.outside.iter().filter(|path| !wanted.contains(path)) {
            let release = || match claim::look(path, Some(&marker.claim()))? {
                Found::Ours => claim::release(path),
                Found::Free | Found::Taken => Ok(()),
            };
            release().map_err(io_error("release", path))?;
        }
        let kept = self.plan.tablespaces.iter().filter(|tablespace| reuse.keeps(tablespace));
        let kept: Vec<&PathBuf> = kept.filter_map(|tablespace| tablespace.goes.as_ref()).collect();
        for path in &wanted {
            let claimed = if kept.contains(&path) {
                claim::adopt(path, &marker.claim(), owner)
            } else {
                claim::take(path, &marker.claim(), owner)
            };
            claimed.map_err(io_error("take", path))?;
        }
        Ok(())
    }
}

/// The marker says what is set aside: a restore that goes on can tell of it, too.
fn write_marker(plan: &RestorePlan<'_>, reuse: &Reuse, moves: &[Move]) -> io::Result<Marker> {
    let mut marker = Marker::new(&plan.directory, &plan.request)?;
    marker.outside = plan.outside();
    marker.wal_directory.clone_from(&plan.wal_directory);
    let mut all = moves.to_vec();
    if let Some(before) = &reuse.before {
        marker.goes_on(before);
        let done = before.delta.iter().flatten().filter(|step| !is_due(step) && step.to.exists());
        let more: Vec<Move> = done.filter(|step| !all.contains(step)).cloned().collect();
        all.extend(more);
    }
    marker.delta = Some(all);
    marker.write(&plan.directory, plan.request.owner)?;
    Ok(marker)
}

fn make_unstartable(directory: &Path) -> io::Result<()> {
    let control = directory.join(CONTROL);
    fault::point("restore.before_unstartable")?;
    match fs::rename(&control, directory.join(CONTROL_REPLACED)) {
        // Renamed before.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(()) => sync_directory(&directory.join("global"))?,
    }
    fault::point("restore.after_unstartable")
}

/// Removes a file or link; there may be none.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}
