//! The WAL that makes a backup consistent: verified in the archive, or taken along.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

use refloat_pg::sql::ArchiverStatus;
use refloat_pg::wal::{InspectOptions, Record, RecordHeader, RecordVisitor, SegmentInspector};
use refloat_types::{Lsn, SystemIdentifier, WalFileName, WalSegmentName, WalSegmentSize};

use super::{BackupError, BackupRequest, OwnWal};
use crate::guard::Forbidden;
use crate::wal::{ArchivedFacts, PushError, PushOptions, push};

/// How often the archive is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// WAL segments `first..=last` of one timeline.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalRange {
    pub(super) system: SystemIdentifier,
    pub(super) size: WalSegmentSize,
    pub(super) first: WalSegmentName,
    pub(super) last: WalSegmentName,
    /// Of a standby: the last WAL segment may still be filling, and must be whole to here.
    pub(super) unfinished_to: Option<Lsn>,
}

impl WalRange {
    pub(super) fn segments(self) -> impl Iterator<Item = WalSegmentName> {
        (self.first.number(self.size)..=self.last.number(self.size))
            .map(move |number| WalSegmentName::numbered(self.first.timeline, number, self.size))
    }
}

/// Whether the archive can be expected to get this backup's WAL: archiving is on, calls us, and does not fail. Who archives
/// a standby's is not known to it; it is seen when it is there.
pub(super) fn archive_is_expected(
    request: &BackupRequest<'_>,
    archiver: &ArchiverStatus,
    is_standby: bool,
) -> bool {
    match request.own_wal {
        OwnWal::Include => false,
        OwnWal::Archive => true,
        OwnWal::Auto if is_standby => true,
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
    forbidden: &Forbidden,
) -> Result<Option<WalSegmentName>, BackupError> {
    // Nobody closes the last WAL segment for a standby: what is not archived by now may never be.
    let is_waited_for = range.unfinished_to.is_none() || request.own_wal == OwnWal::Archive;
    let deadline = Instant::now() + if is_waited_for { request.archive_timeout } else { Duration::ZERO };
    let mut segments = range.segments().peekable();
    while let Some(segment) = segments.peek().copied() {
        if forbidden.wal.contains_key(&(range.system, segment)) {
            // It is there, and about to go.
            return Ok(Some(segment));
        }
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

/// The last whole record of some WAL.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastRecord {
    begin: Option<Lsn>,
    end: Option<Lsn>,
}

impl LastRecord {
    /// Where it begins, if it ends at `stop` and so nothing follows.
    pub(super) fn ending_at(self, stop: Lsn) -> Option<Lsn> {
        self.begin.filter(|_| self.end == Some(stop))
    }
}

impl RecordVisitor for LastRecord {
    fn keep(&self, _: &RecordHeader) -> usize {
        0
    }
    fn record(&mut self, record: &Record<'_>) {
        (self.begin, self.end) = (Some(record.at), Some(record.end));
    }
}

/// The last whole record of an archived WAL segment.
pub(super) fn archived_last(request: &BackupRequest<'_>, range: WalRange) -> Result<LastRecord, BackupError> {
    let found = request.repository.find_wal(range.system, WalFileName::Segment(range.last))?;
    let [stored] = found.as_slice() else { return Ok(LastRecord::default()) };
    let Some(facts) = ArchivedFacts::read(&request.repository.read_wal_head(stored)?.clear.facts).segment
    else {
        return Ok(LastRecord::default());
    };
    if facts.wal.unfinished_tail.is_some() {
        return Ok(LastRecord::default());
    }
    Ok(LastRecord { begin: facts.wal.last_record, end: facts.wal.last_record_end })
}

/// Reads one WAL segment out of `pg_wal` and checks every record of it. One that is still filling is good to its last whole
/// record; what follows is what the file was used for before, and is cleared.
pub(super) fn read_segment(
    data_directory: &Path,
    range: WalRange,
    segment: WalSegmentName,
) -> Result<(Vec<u8>, LastRecord), BackupError> {
    let fail = |source: io::Error| BackupError::OwnWal { segment: segment.to_string(), source };
    let mut bytes = Vec::new();
    let mut file = File::open(data_directory.join("pg_wal").join(segment.to_string())).map_err(fail)?;
    file.read_to_end(&mut bytes).map_err(fail)?;
    // Where the end is that of the WAL segment, the segment is finished.
    let unfinished_to =
        range.unfinished_to.filter(|to| segment == range.last && *to < segment.end(range.size));
    let options = InspectOptions {
        partial: unfinished_to.is_some(),
        expected_system: Some(range.system),
        ancestors: Vec::new(),
    };
    let mut inspector = SegmentInspector::with_visitor(segment, options, LastRecord::default());
    let inspected = inspector.feed(&bytes).and_then(|()| inspector.finish_with_visitor(bytes.len() as u64));
    let (inspected, last) = inspected.map_err(|fault| fail(io::Error::other(fault)))?;
    if let Some(needed) = unfinished_to {
        let whole_to = Lsn(segment.start(range.size).0 + inspected.valid_bytes);
        if whole_to < needed {
            let why = format!("it is whole to {whole_to} only, and the backup needs it to {needed}");
            return Err(fail(io::Error::other(why)));
        }
        if let Some(tail) = usize::try_from(inspected.valid_bytes).ok().and_then(|at| bytes.get_mut(at..)) {
            tail.fill(0);
        }
    }
    Ok((bytes, last))
}

/// Archives the WAL segments of a standby's backup that are whole and not archived: with its primary gone nobody else does,
/// and moments behind the backup could not be reached by what a promoted standby archives.
pub(super) fn archive(request: &BackupRequest<'_>, range: WalRange) {
    let is_whole = |segment: &WalSegmentName| {
        *segment != range.last || range.unfinished_to.is_none_or(|to| to >= segment.end(range.size))
    };
    for segment in range.segments().filter(is_whole) {
        let name = WalFileName::Segment(segment);
        if !request.repository.find_wal(range.system, name).is_ok_and(|found| found.is_empty()) {
            continue;
        }
        if let Err(error) = push_file(request, range.system, name) {
            let note = format!("{segment} is in the backup, and could not be archived as well: {error}");
            request.progress.note(&note);
        }
    }
}

/// Stores a file of `pg_wal` in the archive.
pub(super) fn push_file(
    request: &BackupRequest<'_>,
    system: SystemIdentifier,
    name: WalFileName,
) -> Result<(), PushError> {
    let options = PushOptions {
        compression: request.compression,
        now: request.clock.now(),
        expected_system: Some(system),
        data_directory: None,
        source: Some(&request.source),
        acknowledge: 1,
        deadline: request.archive_timeout,
    };
    let path = request.data_directory.join("pg_wal").join(name.to_string());
    push(&[request.repository], &options, &path).map(drop)
}

/// The error for WAL that neither arrived nor may be taken along.
pub(super) fn missing(request: &BackupRequest<'_>, segment: WalSegmentName) -> BackupError {
    BackupError::WalMissing {
        missing: segment.to_string(),
        repository: request.repository_name.clone(),
        seconds: request.archive_timeout.as_secs(),
    }
}
