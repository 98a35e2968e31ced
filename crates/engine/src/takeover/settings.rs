//! A setting that only the recovery needed, taken out again.
//!
//! For the target `immediate` a restore switches off that recovery reads ahead. Unlike the targets, which mean nothing without
//! `recovery.signal`, this setting would slow down every recovery after a crash, and a standby made of this server.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use refloat_pg::conf;

use super::{TakeoverError, TakeoverReport};
use crate::restore::write_durably;

const NAME: &str = "recovery_prefetch";

/// Makes comments of the lines with which the restore switched off reading ahead. A line from before stays, and holds again.
/// Nothing is changed where PostgreSQL has written the file anew (`ALTER SYSTEM`), which loses whose line it is: then a note
/// says so.
///
/// # Errors
/// When the file cannot be read or written.
pub(super) fn settle(directory: &Path, report: &mut TakeoverReport) -> Result<(), TakeoverError> {
    let path = directory.join("postgresql.auto.conf");
    let fail = |action| {
        let path = path.clone();
        move |source| TakeoverError::Io { action, path, source }
    };
    let text = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(fail("read"))?,
    };
    let (before, ours) = text.split_at(begin_of_restore(&text));
    let done = conf::comment_out(ours, &[NAME], "set aside by refloat takeover: recovery has ended");
    if done.names.is_empty() {
        if is_left(&text) {
            report.notes.push(format!(
                "{NAME} is off, perhaps since the restore: ALTER SYSTEM RESET {NAME} lets the next recovery read ahead"
            ));
        }
        return Ok(());
    }
    let mode = fs::metadata(&path).map_err(fail("look at"))?.mode() & 0o777;
    let text = [before, &done.text].concat();
    write_durably(&path, &text, mode, None).map_err(fail("write"))
}

/// Where the settings of the last restore begin; the end of the text where there are none.
fn begin_of_restore(text: &[u8]) -> usize {
    let mut at = 0;
    let mut begin = text.len();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(crate::restore::MARK.as_bytes()) {
            begin = at;
        }
        at += line.len();
    }
    begin
}

/// Whether reading ahead is off beside the target that a restore switches it off for.
fn is_left(text: &[u8]) -> bool {
    let last = |wanted: &str| {
        text.rsplit(|byte| *byte == b'\n').find_map(|line| match conf::parse_line(line) {
            conf::Line::Setting { name, value } if name == wanted => Some(value),
            _ => None,
        })
    };
    last(NAME).as_deref() == Some(b"off") && last("recovery_target").as_deref() == Some(b"immediate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_last_restore_are_found() {
        let text = b"a = 1\n# written by refloat: restore k7r2 of prod\nb = 2\n# written by refloat: restore k7r3 of prod\nc = 3\n";
        assert!(text[begin_of_restore(text)..].starts_with(b"# written by refloat: restore k7r3"));
        assert_eq!(begin_of_restore(b"a = 1\n"), 6);
        assert_eq!(begin_of_restore(b""), 0);
    }

    #[test]
    fn what_is_left_is_told_from_what_another_has_set() {
        assert!(is_left(b"recovery_target = 'immediate'\nrecovery_prefetch = 'off'\n"));
        assert!(!is_left(b"recovery_prefetch = 'off'\n"));
        assert!(!is_left(
            b"recovery_target = 'immediate'\nrecovery_prefetch = 'off'\nrecovery_prefetch = 'try'\n"
        ));
        assert!(!is_left(b"recovery_target = 'immediate'\n#recovery_prefetch = 'off'\n"));
    }
}
