//! The last WAL segment of a timeline that was left in the middle of it.
//!
//! PostgreSQL archives it as `.partial` at the promotion. Where archiving was off then and is turned on later, it offers
//! the file under its whole name, and for ever, because what lies behind the fork is no WAL of this timeline; so does a
//! standby that follows a promotion elsewhere. So it is stored as PostgreSQL would have archived it. Nothing is lost by
//! that: the first WAL segment of the next timeline begins with a copy of everything before the fork.
//!
//! PostgreSQL: `CleanupAfterArchiveRecovery` and `RemoveOldXlogFiles` in `src/backend/access/transam/xlog.c`,
//! `WalRcvFetchTimeLineHistoryFiles` in `src/backend/replication/walreceiver.c`.

use std::fs;
use std::path::Path;

use refloat_pg::control::{ClusterState, ControlFile};
use refloat_pg::history::TimelineHistory;
use refloat_types::{TimelineId, WalFileName, WalSegmentName};

/// The name under which the file at `path` is to be stored, where the server of `control` left its timeline inside it.
pub(super) fn name(path: &Path, name: WalFileName, control: &ControlFile) -> Option<WalFileName> {
    let WalFileName::Segment(segment) = name else { return None };
    let left = match control.state {
        // Its control file says which timeline it follows at its next restartpoint only. It writes no WAL of its own, so
        // whatever history is there is that of the WAL it was sent.
        ClusterState::InArchiveRecovery => later_timelines(path, segment.timeline),
        _ => vec![control.timeline()],
    };
    let is_left = left.into_iter().any(|timeline| is_left_inside(path, segment, timeline, control));
    is_left.then_some(WalFileName::Partial(segment))
}

/// Timelines above `timeline` whose history files lie beside the file.
fn later_timelines(path: &Path, timeline: TimelineId) -> Vec<TimelineId> {
    let entries = path.parent().and_then(|directory| fs::read_dir(directory).ok());
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let histories = names.filter_map(|name| match name.to_str()?.parse().ok()? {
        WalFileName::History(of) => Some(of),
        _ => None,
    });
    histories.filter(|of| *of > timeline).collect()
}

/// Whether the way to `timeline` leaves that of the segment inside it.
fn is_left_inside(path: &Path, segment: WalSegmentName, timeline: TimelineId, control: &ControlFile) -> bool {
    let file = path.with_file_name(WalFileName::History(timeline).to_string());
    let history = fs::read(file).ok().and_then(|bytes| TimelineHistory::parse(timeline, &bytes).ok());
    let Some(fork) = history.and_then(|history| history.fork_of(segment.timeline)) else { return false };
    let size = control.wal_segment_size;
    segment.start(size) < fork && fork < segment.end(size)
}
