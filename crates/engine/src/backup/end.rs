//! The end of a backup: what is read last, the end of backup mode, and the WAL that makes it consistent.

use std::sync::Arc;

use refloat_pg::control;
use refloat_pg::sql::{BackupMode, StartPoint, StopPoint};
use refloat_repo::manifest::{Entry, FileStat, What};
use refloat_types::{Lsn, WalSegmentName, fault};

use super::copy::{Copier, Copies};
use super::facts::{self, RecordedFacts};
use super::files::{CONTROL_FILE, FileToCopy};
use super::own_wal::{self, LastRecord, WalRange};
use super::prepare::Prepared;
use super::{BackupError, BackupRequest, FailingArchiver, standby};

/// Most files that come after the copy, the control file and the backup's own WAL: 2^20 segments of 16 MiB are 16 TiB of
/// WAL written during one backup.
const LATE_FILES: usize = 1 << 20;

/// Files that come after the copy: the control file and the backup's own WAL.
pub(super) struct Late<'a> {
    pub(super) copier: Copier<'a>,
    /// The next span's number.
    pub(super) place: u64,
    pub(super) files: Vec<FileToCopy>,
}

impl Late<'_> {
    fn add(&mut self, path: Vec<u8>, bytes: &[u8]) -> Result<(), BackupError> {
        if self.files.len() >= LATE_FILES {
            return Err(BackupError::Internal("too much WAL was written during the backup"));
        }
        let what = What::File { size: 0, stat: FileStat::default(), leaves: Arc::from([]) };
        let entry = Entry { path, mode: 0o600, uid: 0, gid: 0, mtime_ns: 0, what };
        let (place, size) = (self.place, bytes.len() as u64);
        let file = FileToCopy { place, entry, size, first_block: None, checked: false, former: None };
        self.copier.bytes(place as usize, bytes)?;
        self.place += file.spans();
        self.files.push(file);
        Ok(())
    }
}

/// What is known when the backup mode has ended.
pub(super) struct Ended {
    pub(super) stop: StopPoint,
    pub(super) facts: RecordedFacts,
    pub(super) outside: Vec<facts::OutsideFile>,
    pub(super) own_wal: bool,
    pub(super) stop_record: Option<Lsn>,
    pub(super) failing: Option<FailingArchiver>,
}

/// Facts, the control file, the end of backup mode, and the WAL, in this order.
pub(super) fn end_backup(
    request: &BackupRequest<'_>,
    prepared: &Prepared<'_>,
    mode: BackupMode,
    start: &StartPoint,
    mut late: Late<'_>,
    expect_archive: bool,
) -> Result<(Ended, Copies, Vec<FileToCopy>), BackupError> {
    let mut notes = Vec::new();
    let facts = facts::read(mode.session(), request.repository.state())?;
    let outside = facts::outside_files(mode.session(), &request.data_directory, &mut notes)?;
    for note in notes {
        request.progress.note(&note);
    }
    if prepared.is_standby {
        standby::settle(request, &mode)?;
    }
    let (control, control_bytes) = control::read_settled(&request.data_directory)?;
    late.add(CONTROL_FILE.to_vec(), &control_bytes)?;
    fault::point("backup.before_stop").map_err(|_| BackupError::Internal("failpoint"))?;
    let (mut stop, session) = mode.stop()?;
    fault::point("backup.after_stop").map_err(|_| BackupError::Internal("failpoint"))?;
    if prepared.is_standby {
        stop = standby::stop(request, stop, start, &control, &session)?;
    }
    let range = WalRange {
        system: prepared.control.system_identifier,
        size: start.wal_segment_size,
        first: start.wal_segment,
        last: stop.wal_segment,
        unfinished_to: prepared.is_standby.then_some(stop.lsn),
    };
    request.progress.phase("wal", 0);
    let missing = if expect_archive {
        own_wal::wait_for_archive(request, range, &prepared.guard.forbidden())?
    } else {
        Some(range.first)
    };
    let mut last = LastRecord::default();
    let own_wal = match missing {
        None => {
            if prepared.is_standby {
                last = own_wal::archived_last(request, range)?;
            }
            false
        }
        Some(segment) if request.own_wal == super::OwnWal::Archive => {
            return Err(own_wal::missing(request, segment));
        }
        Some(segment) => {
            if expect_archive {
                request
                    .progress
                    .note(&format!("{segment} is not in the archive yet: the backup takes its WAL along"));
            }
            last = take_wal(request, range, &mut late)?;
            if prepared.is_standby && request.own_wal == super::OwnWal::Auto {
                own_wal::archive(request, range);
            }
            true
        }
    };
    let failing = FailingArchiver::lasting(&session)?;
    // The slot, if there is one, has held the WAL until here.
    session.close();
    let copies = late.copier.finish()?;
    let stop_record = last.ending_at(stop.lsn).filter(|_| prepared.is_standby);
    Ok((Ended { stop, stop_record, facts, outside, own_wal, failing }, copies, late.files))
}

/// Takes the WAL along; answers its last whole record.
fn take_wal(
    request: &BackupRequest<'_>,
    range: WalRange,
    late: &mut Late<'_>,
) -> Result<LastRecord, BackupError> {
    let mut last = LastRecord::default();
    for segment in range.segments() {
        let bytes;
        (bytes, last) = own_wal::read_segment(&request.data_directory, range, segment)?;
        late.add(wal_path(segment), &bytes)?;
    }
    Ok(last)
}

fn wal_path(segment: WalSegmentName) -> Vec<u8> {
    format!("pg_wal/{segment}").into_bytes()
}
