//! What a plan wants of the file systems: places that are free, names that can be changed, and space.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::aside::Move;
use super::claim::{self, Found};
use super::delta::Reuse;
use super::disk::{is_mount_point, is_on_another_file_system, may_rename_in, nearest, real_path};
use super::error::{RestoreError, io_error};
use super::plan::{Present, RestorePlan, SpaceNeed, Tablespace, is_data_directory};

impl RestorePlan<'_> {
    /// Directories outside must be empty, be set aside first, or be half-restored by us.
    pub(super) fn check_outside(&self) -> Result<(), RestoreError> {
        let mut taken: Vec<PathBuf> = Vec::new();
        for place in self.outside() {
            let what = if self.wal_directory.as_ref() == Some(&place) { "WAL" } else { "a tablespace" };
            let refuse =
                |why: &str| Err(RestoreError::BadOutside { what, path: place.clone(), why: why.to_owned() });
            if taken.iter().any(|other| place.starts_with(other) || other.starts_with(&place)) {
                return refuse("something else of this restore goes there too");
            }
            // The request's are real; one that a marker names must still be.
            if real_path(&place)? != place {
                return refuse("a link is on the way");
            }
            if place.starts_with(&self.directory) || self.directory.starts_with(&place) {
                return refuse(
                    "it and the data directory are one inside the other; --tablespaces-inside does that",
                );
            }
            if let Some(cluster) = place.ancestors().find(|path| is_data_directory(path)) {
                let set_aside =
                    matches!(&self.present, Present::Cluster(aside) if aside.directory.from == cluster);
                if !set_aside {
                    return refuse(&format!("{} is a data directory", cluster.display()));
                }
            }
            let found = match &self.present {
                Present::Reused(reuse) => self.look_outside(reuse, &place)?,
                Present::Cluster(aside) if aside.will_move(&place) => Found::Free,
                Present::Half(marker) => {
                    claim::look(&place, Some(&marker.claim())).map_err(io_error("read", &place))?
                }
                _ => claim::look(&place, None).map_err(io_error("read", &place))?,
            };
            if found == Found::Taken {
                let theirs = matches!(&self.present, Present::Reused(reuse)
                    if self.tablespaces.iter().any(|t| t.goes.as_ref() == Some(&place) && reuse.is_the_sources(t)));
                return refuse(if theirs {
                    "it is not empty, and it is the source's own place, which only --in-place restores over"
                } else {
                    "it is not empty"
                });
            }
            taken.push(place);
        }
        Ok(())
    }

    /// What is at a place outside, for a restore over a cluster.
    fn look_outside(&self, reuse: &Reuse, place: &Path) -> Result<Found, RestoreError> {
        let kept = |t: &Tablespace| t.goes.as_deref() == Some(place) && reuse.keeps(t);
        if self.tablespaces.iter().any(kept) {
            return Ok(Found::Ours);
        }
        if reuse.will_move(place, &self.tablespaces) {
            return Ok(Found::Free);
        }
        claim::look(place, reuse.claim().as_ref()).map_err(io_error("read", place))
    }

    /// Where replay makes tablespaces nothing else may be: it does not look.
    pub(super) fn check_made_tablespaces(&self) -> Result<(), RestoreError> {
        let ours = self.outside();
        for path in &self.request.made_tablespaces {
            let real = real_path(path)?;
            let moves = match &self.present {
                Present::Cluster(aside) => aside.will_move(&real),
                Present::Reused(reuse) => reuse.will_move(&real, &self.tablespaces),
                Present::Nothing | Present::Half(_) => false,
            };
            if moves || ours.contains(&real) {
                continue;
            }
            if claim::look(&real, None).map_err(io_error("read", &real))? == Found::Taken {
                return Err(RestoreError::TablespaceInUse { path: path.clone() });
            }
        }
        Ok(())
    }

    /// What is set aside must be possible to rename.
    pub(super) fn check_aside(&mut self) -> Result<(), RestoreError> {
        let moves: Vec<Move> = match &self.present {
            Present::Cluster(aside) => {
                let linked = aside.linked.iter().map(|linked| &linked.path);
                std::iter::once(&aside.directory).chain(linked).cloned().collect()
            }
            Present::Reused(reuse) => reuse.moves(&self.tablespaces),
            Present::Nothing | Present::Half(_) => return Ok(()),
        };
        for step in &moves {
            if matches!(&self.present, Present::Reused(reuse) if !reuse.goes_on())
                && fs::symlink_metadata(&step.to).is_ok()
            {
                let why = format!("{} is there already", step.to.display());
                return Err(RestoreError::CannotSetAside { path: step.from.clone(), why });
            }
            // A crash left some of them done.
            if fs::symlink_metadata(&step.from).is_err() || fs::symlink_metadata(&step.to).is_ok() {
                continue;
            }
            let refuse = |why: String| Err(RestoreError::CannotSetAside { path: step.from.clone(), why });
            let parent = step.from.parent().unwrap_or(Path::new("/"));
            if is_mount_point(&step.from) {
                return refuse(
                    "a file system is mounted there, and a mount point cannot be renamed".to_owned(),
                );
            }
            // `pg_wal` goes out of the data directory, beside it.
            let beside = step.to.parent().unwrap_or(Path::new("/"));
            if is_on_another_file_system(&step.from, beside) {
                return refuse(format!("{} is on another file system", beside.display()));
            }
            for parent in [parent, beside] {
                if !may_rename_in(parent) {
                    return refuse(format!("this user may not rename in {}", parent.display()));
                }
            }
            self.set_aside.push(step.clone());
        }
        Ok(())
    }

    /// Space on each file system. What is set aside stays; what a half-finished restore left will go, and what is reused
    /// is there already.
    pub(super) fn check_space(&mut self) -> Result<(), RestoreError> {
        let outside: u64 = self.tablespaces.iter().filter(|t| t.goes.is_some()).map(|t| t.bytes).sum();
        let wal = self.wal.segments().count() as u64 + 3;
        let own = self.bytes - outside + wal * self.wal.segment_size.bytes();
        let mut needs = vec![(self.directory.clone(), own)];
        needs.extend(self.tablespaces.iter().filter_map(|t| Some((t.goes.clone()?, t.bytes))));
        // What is renamed stays on the disk.
        let aside = |path: &Path| -> u64 {
            let within = self.set_aside.iter().filter(|step| step.from.starts_with(path));
            within.map(|step| used(&step.from)).sum()
        };
        let mut by_device: BTreeMap<u64, SpaceNeed> = BTreeMap::new();
        for (path, need) in needs {
            let there = nearest(&path);
            let fail = io_error("read", &there);
            let device = match fs::metadata(&there) {
                Ok(meta) => meta.dev(),
                Err(error) => return Err(fail(error)),
            };
            let freed = if self.again || self.delta { used(&path).saturating_sub(aside(&path)) } else { 0 };
            let place = match by_device.entry(device) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    let space = rustix::fs::statvfs(&there).map_err(|e| fail(e.into()))?;
                    let free = space.f_bavail.saturating_mul(space.f_frsize);
                    new.insert(SpaceNeed { path, need: 0, free })
                }
            };
            place.need += need;
            place.free += freed;
        }
        self.space = by_device.into_values().collect();
        match self.space.iter().find(|space| space.need > space.free) {
            Some(SpaceNeed { path, need, free }) => {
                Err(RestoreError::NoSpace { path: path.clone(), need: *need, free: *free })
            }
            None => Ok(()),
        }
    }
}

/// Bytes that the files below a directory take on its disk.
fn used(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => used(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
