//! The WAL that makes a backup consistent: verified in the archive, or taken along.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

use refloat_pg::sql::ArchiverStatus;
use refloat_pg::wal::{InspectOptions, SegmentInspector};
use refloat_types::{SystemIdentifier, WalFileName, WalSegmentName, WalSegmentSize};

use super::{BackupError, BackupRequest, OwnWal};

/// How often the archive is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// WAL segments `first..=last` of one timeline.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalRange {
    pub(super) system: SystemIdentifier,
    pub(super) size: WalSegmentSize,
    pub(super) first: WalSegmentName,
    pub(super) last: WalSegmentName,
}

impl WalRange {
    pub(super) fn segments(self) -> impl Iterator<Item = WalSegmentName> {
        (self.first.number(self.size)..=self.last.number(self.size))
            .map(move |number| WalSegmentName::numbered(self.first.timeline, number, self.size))
    }
}

/// Whether the archive can be expected to get this backup's WAL: archiving is on, calls us, and does not fail.
pub(super) fn archive_is_expected(request: &BackupRequest<'_>, archiver: &ArchiverStatus) -> bool {
    match request.own_wal {
        OwnWal::Include => false,
        OwnWal::Archive => true,
        OwnWal::Auto => {
            archiver.mode != "off"
                && archiver.library.is_empty()
                && archiver.command.contains("wal push")
                && !archiver.is_failing()
        }
    }
}

/// Waits until every WAL segment of the backup is in the repository. `Ok(Some)` names the first that is not.
pub(super) fn wait_for_archive(
    request: &BackupRequest<'_>,
    range: WalRange,
) -> Result<Option<WalSegmentName>, BackupError> {
    let deadline = Instant::now() + request.archive_timeout;
    let mut segments = range.segments().peekable();
    while let Some(segment) = segments.peek().copied() {
        let found = request.repository.find_wal(range.system, WalFileName::Segment(segment))?;
        // Two that contradict each other are no proof: then the backup carries its own.
        if found.len() == 1 {
            request.repository.read_wal_head(&found[0])?;
            // Seen is not yet durable: whoever stores it may die before the directory is synced.
            request.repository.store().settle(&found[0].key).map_err(refloat_repo::RepoError::from)?;
            segments.next();
        } else if found.len() > 1 || Instant::now() >= deadline {
            return Ok(Some(segment));
        } else {
            std::thread::sleep(ASK_EVERY);
        }
    }
    Ok(None)
}

/// Reads one WAL segment out of `pg_wal` and checks every record of it.
pub(super) fn read_segment(
    data_directory: &Path,
    range: WalRange,
    segment: WalSegmentName,
) -> Result<Vec<u8>, BackupError> {
    let fail = |source: io::Error| BackupError::OwnWal { segment: segment.to_string(), source };
    let mut bytes = Vec::new();
    let mut file = File::open(data_directory.join("pg_wal").join(segment.to_string())).map_err(fail)?;
    file.read_to_end(&mut bytes).map_err(fail)?;
    let options =
        InspectOptions { partial: false, expected_system: Some(range.system), ancestors: Vec::new() };
    let mut inspector = SegmentInspector::new(segment, options);
    let inspected = inspector.feed(&bytes).and_then(|()| inspector.finish(bytes.len() as u64));
    inspected.map_err(|fault| fail(io::Error::other(fault)))?;
    Ok(bytes)
}

/// The error for WAL that neither arrived nor may be taken along.
pub(super) fn missing(request: &BackupRequest<'_>, segment: WalSegmentName) -> BackupError {
    BackupError::WalMissing {
        missing: segment.to_string(),
        repository: request.repository_name.clone(),
        seconds: request.archive_timeout.as_secs(),
    }
}
