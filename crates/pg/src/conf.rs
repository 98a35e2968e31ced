//! PostgreSQL's configuration text: reading it without a server, and changing it without losing a byte.
//!
//! [`effective`] finds what a stopped server would use; [`comment_out`] and [`set`] make the changes of a restore. The
//! functions work on bytes in memory; who writes them to disk decides how a crash is survived.
//!
//! PostgreSQL: `src/backend/utils/misc/guc-file.l`, manual "Parameter Interaction via the Configuration File".

mod edit;
mod effective;
mod line;

pub use edit::{Commented, comment_out, quote, set};
pub use effective::{ConfError, Effective, Problem, Setting, effective, split_list};
pub use line::{Include, Line, parse_line};

/// Settings that steer a recovery. An old one of these in a restored cluster is fatal (two recovery targets stop the
/// server), or silently wrong (another cluster's archive is read, a copy follows its source), or delays for hours, so a
/// restore comments all of them out and writes its own. 13 to 18.
const RECOVERY: [&str; 15] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "wal_receiver_create_temp_slot",
];

/// The settings of a server of this major version that a restore must comment out.
pub fn recovery_settings(major_version: u32) -> Vec<&'static str> {
    let mut all = RECOVERY.to_vec();
    if major_version <= 15 {
        all.push("promote_trigger_file");
    }
    all
}
