//! The last WAL segment of a timeline that was left in the middle of it.
//!
//! PostgreSQL archives it as `.partial` at the promotion. Where archiving was off then and is turned on later, it offers
//! the file under its whole name, and for ever, because what lies behind the fork is no WAL of this timeline. So it is
//! stored as PostgreSQL would have archived it. Nothing is lost by that: the first WAL segment of the next timeline begins
//! with a copy of everything before the fork.
//!
//! PostgreSQL: `CleanupAfterArchiveRecovery` and `RemoveOldXlogFiles` in `src/backend/access/transam/xlog.c`.

use std::fs;
use std::path::Path;

use refloat_pg::control::ControlFile;
use refloat_pg::history::TimelineHistory;
use refloat_types::WalFileName;

/// The name under which the file at `path` is to be stored, where the server of `control` left its timeline inside it.
pub(super) fn name(path: &Path, name: WalFileName, control: &ControlFile) -> Option<WalFileName> {
    let WalFileName::Segment(segment) = name else { return None };
    let timeline = control.timeline();
    let file = path.with_file_name(WalFileName::History(timeline).to_string());
    let history = TimelineHistory::parse(timeline, &fs::read(file).ok()?).ok()?;
    let fork = history.fork_of(segment.timeline)?;
    let size = control.wal_segment_size;
    (segment.start(size) < fork && fork < segment.end(size)).then_some(WalFileName::Partial(segment))
}
