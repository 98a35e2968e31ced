//! `backup_label` and `tablespace_map`: what PostgreSQL says about a backup when it ends.
//!
//! Both are stored byte for byte; what is read here serves plans and checks. The same reader takes the `.backup` files
//! of the WAL archive, which say the same and the end as well.
//!
//! PostgreSQL: `build_backup_content` in `src/backend/access/transam/xlogbackup.c`, `read_backup_label` and
//! `read_tablespace_map` in `xlogrecovery.c`, 13 to 18.

use std::borrow::Cow;

use refloat_types::{Advice, Explain, Lsn, TimelineId, WalSegmentName};

/// What a `backup_label` (or a backup history file) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where WAL is needed from: the redo position of the checkpoint.
    pub start: Lsn,
    /// The WAL segment of `start`, on the timeline the server was on.
    pub start_segment: WalSegmentName,
    /// Where the checkpoint record begins.
    pub checkpoint: Lsn,
    /// Was it taken from a standby?
    pub from_standby: bool,
    /// When it began, as PostgreSQL printed it in the server's `log_timezone`.
    pub start_time: String,
    /// The words given to the backup.
    pub label: String,
    /// The timeline it began on.
    pub start_timeline: TimelineId,
    /// For PostgreSQL 17's own incremental backups: start of the one it builds upon. Such a directory is no cluster
    /// until `pg_combinebackup` made it one.
    pub incremental_from: Option<(Lsn, TimelineId)>,
    /// The end, in backup history files only.
    pub stop: Option<BackupStop>,
    /// The very bytes.
    pub bytes: Vec<u8>,
}

/// The end of a backup, as its history file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStop {
    /// Position behind the last byte of WAL it needs.
    pub end: Lsn,
    /// When it ended, as PostgreSQL printed it.
    pub time: String,
    /// The timeline it ended on.
    pub timeline: Option<TimelineId>,
}

/// Why bytes are no `backup_label` or `tablespace_map`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A line is missing.
    #[error("the backup label has no line \"{0}\"")]
    Missing(&'static str),
    /// A line cannot be understood.
    #[error("the backup label has a line that cannot be understood: \"{0}\"")]
    Bad(String),
    /// A line of the tablespace map cannot be understood.
    #[error("the tablespace map has a line that cannot be understood: \"{0}\"")]
    BadMap(String),
}

impl Explain for LabelError {
    fn advice(&self) -> Advice {
        Advice::failed("FILE-005", "nothing was changed").hint(
            "A label that was edited or cut cannot be trusted with a recovery; take it from the backup again.",
        )
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A label is words a person chose, and PostgreSQL does not forbid line breaks in them. So a key counts only where it
/// can stand: first occurrence before the label's line, last occurrence behind it.
struct Lines<'a> {
    before: Vec<&'a [u8]>,
    behind: Vec<&'a [u8]>,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut before: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
        let at = before.iter().position(|line| line.starts_with(b"LABEL: ")).unwrap_or(before.len());
        let behind = before.split_off(at);
        Self { before, behind }
    }
    fn first(&self, key: &'static str) -> Result<Cow<'a, str>, LabelError> {
        value(self.before.iter(), key).ok_or(LabelError::Missing(key))
    }
    fn last(&self, key: &'static str) -> Option<Cow<'a, str>> {
        value(self.behind.iter().rev(), key)
    }
    /// The label may span lines: all up to the start timeline.
    fn label(&self) -> Result<String, LabelError> {
        let first = self.behind.first().ok_or(LabelError::Missing("LABEL"))?;
        let end = self.behind.iter().rposition(|line| line.starts_with(b"START TIMELINE: "));
        let more = self.behind.get(1..end.unwrap_or(1)).unwrap_or_default();
        let mut label = text(&first["LABEL: ".len()..]).into_owned();
        for line in more {
            label.push('\n');
            label.push_str(&text(line));
        }
        Ok(label)
    }
}

fn value<'a, 'b>(mut lines: impl Iterator<Item = &'b &'a [u8]>, key: &str) -> Option<Cow<'a, str>>
where
    'a: 'b,
{
    lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b": ").map(text))
}

fn parsed<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, LabelError> {
    value.parse().map_err(|_| LabelError::Bad(format!("{key}: {value}")))
}

fn timeline(key: &str, value: &str) -> Result<TimelineId, LabelError> {
    TimelineId::new(parsed(key, value)?).ok_or_else(|| LabelError::Bad(format!("{key}: {value}")))
}

/// `0/2000028 (file 000000010000000000000002)`
fn place(key: &str, value: &str) -> Result<(Lsn, WalSegmentName), LabelError> {
    let bad = || LabelError::Bad(format!("{key}: {value}"));
    let (lsn, file) = value.split_once(" (file ").ok_or_else(bad)?;
    let file = file.strip_suffix(')').ok_or_else(bad)?;
    Ok((parsed(key, lsn)?, file.parse().map_err(|_| bad())?))
}

impl BackupLabel {
    /// Reads a `backup_label` as `pg_backup_stop` returned it, or a `.backup` file of the archive.
    ///
    /// # Errors
    /// When a line that recovery needs is missing or cannot be understood.
    pub fn parse(bytes: &[u8]) -> Result<Self, LabelError> {
        let lines = Lines::new(bytes);
        let (start, start_segment) = place("START WAL LOCATION", &lines.first("START WAL LOCATION")?)?;
        let start_timeline = match lines.last("START TIMELINE") {
            Some(number) => timeline("START TIMELINE", &number)?,
            None => start_segment.timeline,
        };
        let incremental_from = match lines.last("INCREMENTAL FROM LSN") {
            None => None,
            Some(lsn) => {
                let number =
                    lines.last("INCREMENTAL FROM TLI").ok_or(LabelError::Missing("INCREMENTAL FROM TLI"))?;
                Some((parsed("INCREMENTAL FROM LSN", &lsn)?, timeline("INCREMENTAL FROM TLI", &number)?))
            }
        };
        let stop = match lines.first("STOP WAL LOCATION") {
            Err(_) => None,
            Ok(at) => Some(BackupStop {
                end: place("STOP WAL LOCATION", &at)?.0,
                time: lines.last("STOP TIME").ok_or(LabelError::Missing("STOP TIME"))?.into_owned(),
                timeline: match lines.last("STOP TIMELINE") {
                    Some(number) => Some(timeline("STOP TIMELINE", &number)?),
                    None => None,
                },
            }),
        };
        Ok(Self {
            start,
            start_segment,
            checkpoint: parsed("CHECKPOINT LOCATION", &lines.first("CHECKPOINT LOCATION")?)?,
            from_standby: lines.first("BACKUP FROM").is_ok_and(|from| from == "standby"),
            start_time: lines.first("START TIME")?.into_owned(),
            label: lines.label()?,
            start_timeline,
            incremental_from,
            stop,
            bytes: bytes.to_vec(),
        })
    }
}

/// One tablespace of a `tablespace_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedTablespace {
    /// Its oid: the name of the link in `pg_tblspc`.
    pub oid: u32,
    /// Where its files are, as the link says. Bytes, because paths need not be UTF-8.
    pub path: Vec<u8>,
}

/// Reads a `tablespace_map`: `OID PATH` a line, where a backslash takes the meaning from the byte behind it, so that
/// paths may hold line breaks.
///
/// # Errors
/// When a line has no oid or no path, or the last one is cut.
pub fn parse_tablespace_map(bytes: &[u8]) -> Result<Vec<MappedTablespace>, LabelError> {
    let mut all = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for &byte in bytes {
        match byte {
            _ if escaped => {
                line.push(byte);
                escaped = false;
            }
            b'\\' => escaped = true,
            b'\n' | b'\r' => {
                if !line.is_empty() {
                    all.push(mapped(&line)?);
                    line.clear();
                }
            }
            _ => line.push(byte),
        }
    }
    if escaped || !line.is_empty() {
        return Err(LabelError::BadMap(text(&line).into_owned()));
    }
    Ok(all)
}

fn mapped(line: &[u8]) -> Result<MappedTablespace, LabelError> {
    let bad = || LabelError::BadMap(text(line).into_owned());
    let space = line.iter().position(|b| *b == b' ').ok_or_else(bad)?;
    let (oid, path) = (&line[..space], &line[space + 1..]);
    let digits = !oid.is_empty() && oid.iter().all(u8::is_ascii_digit);
    let oid = std::str::from_utf8(oid).ok().filter(|_| digits).and_then(|oid| oid.parse().ok());
    match oid {
        Some(oid) if oid != 0 && !path.is_empty() => Ok(MappedTablespace { oid, path: path.to_vec() }),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-03-02 01:12:09 UTC\nLABEL: nightly\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_is_read() {
        let label = BackupLabel::parse(LABEL.as_bytes()).expect("valid");
        assert_eq!(label.start.to_string(), "0/2000028");
        assert_eq!(label.start_segment.to_string(), "000000010000000000000002");
        assert_eq!(label.checkpoint.to_string(), "0/2000060");
        assert!(!label.from_standby);
        assert_eq!(label.start_time, "2026-03-02 01:12:09 UTC");
        assert_eq!(label.label, "nightly");
        assert_eq!(label.start_timeline, TimelineId::FIRST);
        assert_eq!((label.incremental_from, label.stop), (None, None));
        assert_eq!(label.bytes, LABEL.as_bytes());
    }

    #[test]
    fn a_label_of_an_incremental_and_of_a_standby_is_read() {
        let text = LABEL.replace("primary", "standby")
            + "INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 3\n";
        let label = BackupLabel::parse(text.as_bytes()).expect("valid");
        assert!(label.from_standby);
        let (lsn, timeline) = label.incremental_from.expect("there");
        assert_eq!((lsn.to_string().as_str(), timeline.get()), ("0/1000028", 3));
    }

    #[test]
    fn a_history_file_is_read() {
        let text = LABEL.replace(
            "CHECKPOINT LOCATION",
            "STOP WAL LOCATION: 0/2000138 (file 000000010000000000000002)\nCHECKPOINT LOCATION",
        ) + "STOP TIME: 2026-03-02 01:13:00 UTC\nSTOP TIMELINE: 1\n";
        let stop = BackupLabel::parse(text.as_bytes()).expect("valid").stop.expect("there");
        assert_eq!(stop.end.to_string(), "0/2000138");
        assert_eq!(stop.time, "2026-03-02 01:13:00 UTC");
        assert_eq!(stop.timeline, Some(TimelineId::FIRST));
    }

    #[test]
    fn words_in_the_label_are_no_lines() {
        let sly = "a\nSTART TIMELINE: 9\nCHECKPOINT LOCATION: 9/9\nb";
        let text = LABEL.replace("nightly", sly);
        let label = BackupLabel::parse(text.as_bytes()).expect("valid");
        assert_eq!(label.start_timeline, TimelineId::FIRST);
        assert_eq!(label.checkpoint.to_string(), "0/2000060");
        assert_eq!(label.label, sly);
        let mut foreign = LABEL.as_bytes().to_vec();
        let at = LABEL.find("nightly").expect("there");
        foreign[at] = 0xff;
        assert_eq!(BackupLabel::parse(&foreign).expect("valid").bytes, foreign);
    }

    #[test]
    fn cut_labels_are_refused() {
        for line in ["START WAL LOCATION", "CHECKPOINT LOCATION", "START TIME", "LABEL"] {
            let text: String =
                LABEL.split_inclusive('\n').filter(|l| !l.starts_with(&format!("{line}: "))).collect();
            assert_eq!(BackupLabel::parse(text.as_bytes()), Err(LabelError::Missing(line)));
        }
        let bad = LABEL.replace("0/2000060", "0/x");
        assert_eq!(
            BackupLabel::parse(bad.as_bytes()),
            Err(LabelError::Bad("CHECKPOINT LOCATION: 0/x".to_owned()))
        );
        assert!(BackupLabel::parse(LABEL.replace("TIMELINE: 1", "TIMELINE: 0").as_bytes()).is_err());
        assert!(BackupLabel::parse(b"").is_err());
    }

    #[test]
    fn a_map_is_unescaped() {
        let map = b"16384 /srv/a b\n16385 /srv/c\\\nd\\\\e\xff\n";
        let all = parse_tablespace_map(map).expect("valid");
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].oid, all[0].path.as_slice()), (16384, b"/srv/a b".as_slice()));
        assert_eq!((all[1].oid, all[1].path.as_slice()), (16385, b"/srv/c\nd\\e\xff".as_slice()));
        assert_eq!(parse_tablespace_map(b""), Ok(Vec::new()));
        for bad in
            [b"16384 /a".as_slice(), b"x /a\n", b"16384\n", b"16384 \n", b"0 /a\n", b"1 /a\\", b"+1 /a\n"]
        {
            assert!(parse_tablespace_map(bad).is_err(), "{}", text(bad));
        }
    }
}
