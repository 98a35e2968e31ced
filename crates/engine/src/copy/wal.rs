//! WAL files: fetched, checked record by record as when PostgreSQL hands them over, and stored.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use refloat_repo::{Compression, RepoError};
use refloat_types::{Clock, Lsn, SystemIdentifier, TimelineId, WalFileName, WalSegmentName};
use serde::Serialize;

use super::{CopyError, Named};
use crate::wal::archive::Archive;
use crate::wal::{FetchError, FetchOptions, PushOptions, fetch, push};

/// WAL files that were copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WalCopied {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Copies WAL files by way of a directory of this host.
pub(crate) struct WalCarrier<'a> {
    from: Named<'a>,
    to: Named<'a>,
    compression: Compression,
    timeout: Duration,
    clock: &'a dyn Clock,
    directory: PathBuf,
}

impl<'a> WalCarrier<'a> {
    pub(crate) fn new(
        from: Named<'a>,
        to: Named<'a>,
        compression: Compression,
        timeout: Duration,
        clock: &'a dyn Clock,
    ) -> Result<Self, CopyError> {
        let unique = refloat_repo::crypt::random::object_id();
        let made =
            to.repository.state().directory("copy").map(|directory| directory.join(unique.to_string()));
        let fail = |source| CopyError::Repository { repository: to.name.to_owned(), source };
        let directory = made.map_err(fail)?;
        fs::create_dir(&directory).map_err(|source| CopyError::State {
            action: "create",
            path: directory.display().to_string(),
            source,
        })?;
        Ok(Self { from, to, compression, timeout, clock, directory })
    }

    /// Copies one file; `None` where the first repository has none of that name.
    pub(crate) fn file(&self, system: SystemIdentifier, name: WalFileName) -> Result<Option<u64>, CopyError> {
        // Of a timeline that branched off its history says which it is; it is compared when its WAL is stored.
        if let WalFileName::Segment(segment) | WalFileName::Partial(segment) = name
            && segment.timeline != TimelineId::FIRST
        {
            self.fetch(system, WalFileName::History(segment.timeline))?;
        }
        let Some(bytes) = self.fetch(system, name)? else { return Ok(None) };
        let options = PushOptions {
            compression: self.compression,
            now: self.clock.now(),
            expected_system: Some(system),
            data_directory: None,
            source: None,
            acknowledge: 1,
            deadline: self.timeout,
        };
        let path = self.directory.join(name.to_string());
        let pushed = push(&[self.to.repository], &options, &path);
        if !matches!(name, WalFileName::History(_)) {
            // What stays is removed with the directory.
            let _ = fs::remove_file(&path);
        }
        match pushed {
            Ok(_) => Ok(Some(bytes)),
            Err(source) => Err(CopyError::Wal { name: name.to_string(), source: Box::new(source) }),
        }
    }

    /// Fetches a file into the directory, unless it is there; answers its size.
    fn fetch(&self, system: SystemIdentifier, name: WalFileName) -> Result<Option<u64>, CopyError> {
        let path = self.directory.join(name.to_string());
        if let Ok(there) = fs::metadata(&path) {
            return Ok(Some(there.len()));
        }
        let options = FetchOptions { system, deadline: self.timeout, is_standby: true };
        match fetch(&[self.from.repository], &options, name, &path) {
            Ok(fetched) => Ok(Some(fetched.bytes)),
            Err(FetchError::NotFound { .. } | FetchError::Hole { .. }) => Ok(None),
            Err(FetchError::Unanswered { mut unanswered, .. }) if !unanswered.is_empty() => {
                Err(self.failed_from(unanswered.remove(0).source))
            }
            Err(FetchError::Write { path, source }) => {
                Err(CopyError::State { action: "write", path: path.display().to_string(), source })
            }
            Err(error) => {
                let source = RepoError::internal("fetch a WAL file", error);
                Err(self.failed_from(source))
            }
        }
    }

    fn failed_from(&self, source: RepoError) -> CopyError {
        CopyError::Repository { repository: self.from.name.to_owned(), source }
    }
}

impl Drop for WalCarrier<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::debug!(path = %self.directory.display(), %error, "a directory stays");
        }
    }
}

/// The WAL files of `system` that `to` lacks, in the order in which a server would archive them. `oldest` is where the first
/// backup begins that `to` has or gets: what is older is of no use there, and neither is what its retention has deleted.
pub(crate) fn missing(
    from: Named<'_>,
    to: Named<'_>,
    system: SystemIdentifier,
    oldest: Option<(TimelineId, Lsn)>,
) -> Result<Vec<WalFileName>, CopyError> {
    let fail = |repository: &Named<'_>, source| CopyError::Repository {
        repository: repository.name.to_owned(),
        source,
    };
    let have = Archive::read(from.repository, system, None).map_err(|error| fail(&from, error))?;
    let got =
        Archive::read(to.repository, system, Some(have.segment_size)).map_err(|error| fail(&to, error))?;
    let marked = to.repository.marked().map_err(|error| fail(&to, error))?;
    let floor = |timeline: TimelineId| {
        let stored = got.timelines.get(&timeline).and_then(|stored| stored.segments.first());
        let backup = oldest.map(|(first, start)| {
            // A timeline that came later begins behind it.
            if timeline < first { u64::MAX } else { have.number(start) }
        });
        stored.into_iter().chain(backup).min()
    };
    let mut names = Vec::new();
    for (timeline, stored) in &have.timelines {
        let Some(floor) = floor(*timeline).filter(|floor| *floor != u64::MAX) else { continue };
        let empty = crate::wal::archive::TimelineArchive::default();
        let there = got.timelines.get(timeline).unwrap_or(&empty);
        if *timeline != TimelineId::FIRST {
            names.push(WalFileName::History(*timeline));
        }
        // Of two that contradict each other nobody can say which is right: a person decides first.
        let wanted = |number: &u64| {
            !there.segments.contains(*number)
                && !stored.disputed.contains(*number)
                && !marked.has_wal(system, *timeline, *number)
        };
        let of_runs = stored.segments.iter().flat_map(|(first, last)| first.max(floor)..=last);
        names.extend(of_runs.filter(wanted).map(|number| WalFileName::Segment(have.name(*timeline, number))));
        let partial = |segment: &&WalSegmentName| {
            segment.number(have.segment_size) >= floor && !there.partials.contains(segment)
        };
        names.extend(stored.partials.iter().filter(partial).map(|segment| WalFileName::Partial(*segment)));
    }
    // A history that is there needs no second look.
    let is_there = |name: &WalFileName| match name {
        WalFileName::History(_) => to.repository.find_wal(system, *name).map(|found| !found.is_empty()),
        _ => Ok(false),
    };
    let mut out = Vec::with_capacity(names.len());
    for name in names {
        if !is_there(&name).map_err(|error| fail(&to, error))? {
            out.push(name);
        }
    }
    Ok(out)
}
