//! Backup history files, `NNNNNNNNNNNNNNNNNNNNNNNN.NNNNNNNN.backup`: what PostgreSQL archives when a backup has ended.
//!
//! They are for people; nothing reads them to recover. They are parsed so that only what PostgreSQL wrote is stored.
//!
//! PostgreSQL: `build_backup_content` in `src/backend/access/transam/xlogbackup.c` (15 and later), the same text before.

use refloat_types::{Advice, Explain, Lsn, TimelineId, WalSegmentName};

/// What a backup history file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHistory {
    /// Where replay of the backup begins.
    pub start: Lsn,
    /// The WAL segment of `start`.
    pub start_file: WalSegmentName,
    /// Where the backup becomes consistent.
    pub stop: Lsn,
    /// The WAL segment that PostgreSQL names for `stop`.
    pub stop_file: WalSegmentName,
    /// The checkpoint the backup began with.
    pub checkpoint: Lsn,
    /// Timeline at the start.
    pub start_timeline: Option<TimelineId>,
    /// Timeline at the end.
    pub stop_timeline: Option<TimelineId>,
    /// Text given to the backup.
    pub label: String,
}

/// Why bytes are no backup history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupHistoryFault {
    /// A line is missing.
    #[error("the backup history file has no line \"{line}\"")]
    Missing {
        /// How the line begins.
        line: &'static str,
    },
    /// A line cannot be read.
    #[error("the line \"{line}\" of the backup history file cannot be read")]
    Line {
        /// How the line begins.
        line: &'static str,
    },
    /// It is another backup's.
    #[error("the backup history file is of a backup that began in {found}, which its name does not say")]
    OtherName {
        /// What the content names.
        found: WalSegmentName,
    },
}

impl Explain for BackupHistoryFault {
    fn advice(&self) -> Advice {
        Advice::failed("WAL-120", "nothing was stored; no recovery needs a backup history file").hint(
            "Look at the file in pg_wal; if PostgreSQL did not write it, remove it and its .ready file.",
        )
    }
}

impl BackupHistory {
    /// Reads a backup history file with this name: the WAL segment and the offset in it where the backup began.
    ///
    /// # Errors
    /// When a line that PostgreSQL always writes is missing or odd, or name and content differ.
    pub fn parse(name: WalSegmentName, offset: u32, bytes: &[u8]) -> Result<Self, BackupHistoryFault> {
        let text = String::from_utf8_lossy(bytes);
        let line = |line: &'static str| {
            let found = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(": "));
            found.ok_or(BackupHistoryFault::Missing { line })
        };
        let location = |name: &'static str| {
            let bad = BackupHistoryFault::Line { line: name };
            let (lsn, file) = line(name)?.split_once(" (file ").ok_or_else(|| bad.clone())?;
            let file = file.strip_suffix(')').ok_or_else(|| bad.clone())?;
            let parsed = lsn.parse::<Lsn>().ok().zip(file.parse::<WalSegmentName>().ok());
            parsed.ok_or(bad)
        };
        let timeline = |name: &'static str| match line(name) {
            Ok(number) => {
                let number = number.trim().parse().ok().and_then(TimelineId::new);
                number.map(Some).ok_or(BackupHistoryFault::Line { line: name })
            }
            Err(_) => Ok(None),
        };
        let (start, start_file) = location("START WAL LOCATION")?;
        let (stop, stop_file) = location("STOP WAL LOCATION")?;
        let checkpoint = line("CHECKPOINT LOCATION")?.trim().parse();
        let history = Self {
            start,
            start_file,
            stop,
            stop_file,
            checkpoint: checkpoint.map_err(|_| BackupHistoryFault::Line { line: "CHECKPOINT LOCATION" })?,
            start_timeline: timeline("START TIMELINE")?,
            stop_timeline: timeline("STOP TIMELINE")?,
            label: line("LABEL")?.to_owned(),
        };
        // The offset is below the size of WAL segments, a power of two that is not known here.
        let is_of = |size: u64| start.0 % size == u64::from(offset);
        if start_file != name || !(20..=30).any(|power| is_of(1 << power)) {
            return Err(BackupHistoryFault::OtherName { found: start_file });
        }
        Ok(history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        STOP WAL LOCATION: 0/2000138 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2024-05-01 10:00:00 UTC\nLABEL: nightly: at 10\nSTART TIMELINE: 1\n\
        STOP TIME: 2024-05-01 10:00:01 UTC\nSTOP TIMELINE: 1\n";

    fn name(text: &str) -> WalSegmentName {
        text.parse().expect("a valid name")
    }

    #[test]
    fn a_file_of_postgresql_is_read() {
        let history = BackupHistory::parse(name("000000010000000000000002"), 0x28, TEXT.as_bytes());
        let history = history.expect("well-formed");
        assert_eq!((history.start, history.stop), (Lsn(0x0200_0028), Lsn(0x0200_0138)));
        assert_eq!(history.label, "nightly: at 10");
        assert_eq!(history.stop_timeline, TimelineId::new(1));
    }

    #[test]
    fn anything_else_is_refused() {
        let own = name("000000010000000000000002");
        let parse = |name, offset, text: &str| BackupHistory::parse(name, offset, text.as_bytes());
        assert!(matches!(
            parse(own, 0x28, ""),
            Err(BackupHistoryFault::Missing { line: "START WAL LOCATION" })
        ));
        assert!(matches!(parse(own, 0x30, TEXT), Err(BackupHistoryFault::OtherName { .. })));
        let other = name("000000010000000000000003");
        assert!(matches!(parse(other, 0x28, TEXT), Err(BackupHistoryFault::OtherName { .. })));
        for (good, bad) in
            [("0/2000138 (", "0/2000138"), ("0/2000060", "here"), ("STOP TIMELINE: 1", "STOP TIMELINE: 0")]
        {
            assert!(
                matches!(parse(own, 0x28, &TEXT.replace(good, bad)), Err(BackupHistoryFault::Line { .. })),
                "{bad}"
            );
        }
        for line in TEXT.lines().filter(|line| line.contains("LOCATION") || line.contains("LABEL")) {
            assert!(parse(own, 0x28, &TEXT.replace(line, "")).is_err(), "{line}");
        }
    }
}
