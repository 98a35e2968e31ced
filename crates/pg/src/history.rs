//! Timeline history files, `NNNNNNNN.history`: which WAL belongs to a timeline's past.
//!
//! A file has one line for each timeline that was left on the way, oldest first: its number, the LSN at which it was
//! left, and why. WAL before that LSN is of the old timeline, WAL from it on of the next.
//!
//! PostgreSQL: `src/backend/access/transam/timeline.c`, 13 to 18.

use std::fmt;

use refloat_types::{Advice, Explain, Lsn, TimelineId};

/// The moment a timeline was left for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where: the first byte that is not of this timeline any more.
    pub at: Lsn,
    /// Why, in PostgreSQL's words; may be empty. Bytes that are not UTF-8 are replaced.
    pub reason: String,
}

/// A timeline and all it descends from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    /// Oldest first, numbers increasing.
    forks: Vec<Fork>,
}

/// Why bytes are no history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryFault {
    /// A line does not begin with a number and an LSN.
    #[error("line {line} of the history file of timeline {timeline} cannot be read")]
    Line {
        /// Whose file.
        timeline: TimelineId,
        /// Counted from 1.
        line: usize,
    },
    /// Numbers must increase from line to line, and stay below the file's own.
    #[error(
        "line {line} of the history file of timeline {timeline} names timeline {found}, which is out of order"
    )]
    Order {
        /// Whose file.
        timeline: TimelineId,
        /// Counted from 1.
        line: usize,
        /// The number there.
        found: TimelineId,
    },
    /// Only timeline 1 has no parent, and it has no file.
    #[error("the history file of timeline {timeline} names no parent")]
    NoParent {
        /// Whose file.
        timeline: TimelineId,
    },
}

impl Explain for HistoryFault {
    fn advice(&self) -> Advice {
        Advice::failed("WAL-121", "nothing was stored; PostgreSQL keeps the file in pg_wal").hint(
            "Compare the file in pg_wal with the same one on a standby; recovery along this timeline needs it whole.",
        )
    }
}

impl TimelineHistory {
    /// The history of a timeline that descends from none: timeline 1, or one whose file nobody has.
    pub const fn without_parent(timeline: TimelineId) -> Self {
        Self { timeline, forks: Vec::new() }
    }

    /// Reads the history file of `timeline`. Lines that are empty or begin with `#` are passed over.
    ///
    /// # Errors
    /// Where PostgreSQL would refuse it too, and for a file without any line.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self, HistoryFault> {
        let text = String::from_utf8_lossy(bytes);
        let mut forks: Vec<Fork> = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            let text = text.trim_start();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let fork = parse_line(text).ok_or(HistoryFault::Line { timeline, line })?;
            let after = forks.last().is_none_or(|last| last.timeline < fork.timeline);
            if !after || fork.timeline >= timeline {
                return Err(HistoryFault::Order { timeline, line, found: fork.timeline });
            }
            forks.push(fork);
        }
        if forks.is_empty() {
            return Err(HistoryFault::NoParent { timeline });
        }
        Ok(Self { timeline, forks })
    }

    /// The history of a new timeline that leaves this one at `at`.
    ///
    /// # Errors
    /// When the new number is not greater.
    pub fn forked(&self, timeline: TimelineId, at: Lsn, reason: &str) -> Result<Self, HistoryFault> {
        if timeline <= self.timeline {
            let line = self.forks.len() + 1;
            return Err(HistoryFault::Order { timeline, line, found: self.timeline });
        }
        let mut forks = self.forks.clone();
        forks.push(Fork { timeline: self.timeline, at, reason: reason.to_owned() });
        Ok(Self { timeline, forks })
    }

    /// The timeline itself.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The timelines left on the way, oldest first, as the file has them.
    pub fn forks(&self) -> &[Fork] {
        &self.forks
    }

    /// The timelines it descends from, its parent first.
    pub fn ancestors(&self) -> impl Iterator<Item = TimelineId> {
        self.forks.iter().rev().map(|fork| fork.timeline)
    }

    /// The timeline it began on; `None` when it has no parent.
    pub fn parent(&self) -> Option<TimelineId> {
        self.ancestors().next()
    }

    /// Is this `timeline`, or does this descend from it?
    pub fn includes(&self, timeline: TimelineId) -> bool {
        timeline == self.timeline || self.forks.iter().any(|fork| fork.timeline == timeline)
    }

    /// The timeline whose WAL holds the byte at `lsn`. As PostgreSQL does, the newest timeline that had begun by then:
    /// where a later one was left before an earlier one had been (recovery stopped short of its parent's beginning),
    /// the one between has no WAL in this history at all.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let mut timeline = self.timeline;
        for fork in self.forks.iter().rev() {
            if lsn >= fork.at {
                break;
            }
            timeline = fork.timeline;
        }
        timeline
    }

    /// Is the byte at `lsn`, as `timeline` has it, part of this history? A backup that began there can be recovered
    /// along it.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.includes(timeline) && self.timeline_at(lsn) == timeline
    }

    /// Where this history leaves `timeline`: its first byte that does not belong any more. `None` for the newest one,
    /// which it does not leave, and for one it never was on.
    pub fn fork_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let from = self.forks.iter().position(|fork| fork.timeline == timeline)?;
        self.forks.iter().skip(from).map(|fork| fork.at).min()
    }

    /// Where WAL of `timeline` begins to count: `None` for the oldest one, which counts from the start, and for one this
    /// history never was on.
    pub fn start_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let end = self.forks.iter().position(|fork| fork.timeline == timeline);
        let end = if timeline == self.timeline { self.forks.len() } else { end? };
        self.forks.get(end.checked_sub(1)?).map(|fork| fork.at)
    }
}

/// `tli <white space> X/X <white space> reason`, as `sscanf("%u\t%X/%X")` reads it.
fn parse_line(text: &str) -> Option<Fork> {
    let (number, rest) = text.split_once(|c: char| c.is_ascii_whitespace())?;
    let rest = rest.trim_start();
    let (lsn, reason) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let timeline = TimelineId::new(number.parse().ok()?)?;
    Some(Fork { timeline, at: lsn.parse().ok()?, reason: reason.trim().to_owned() })
}

impl fmt::Display for TimelineHistory {
    /// The file as PostgreSQL writes it: it copies the parent's file, adds an empty line, then its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fork) in self.forks.iter().enumerate() {
            let before = if index == 0 { "" } else { "\n" };
            writeln!(f, "{before}{}\t{}\t{}", fork.timeline, fork.at, fork.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).expect("not 0")
    }

    const THREE: &str =
        "1\t0/5000098\tno recovery target specified\n\n2\t0/7000000\tbefore 2024-05-01 10:00:00+00\n";

    #[test]
    fn a_file_of_postgresql_comes_back_byte_for_byte() {
        let history = TimelineHistory::parse(tli(3), THREE.as_bytes()).expect("well-formed");
        assert_eq!(history.to_string(), THREE);
        assert_eq!(history.ancestors().collect::<Vec<_>>(), [tli(2), tli(1)]);
        assert_eq!(history.parent(), Some(tli(2)));
        let parent = TimelineHistory::without_parent(tli(1)).forked(
            tli(2),
            Lsn(0x0500_0098),
            "no recovery target specified",
        );
        let built =
            parent.and_then(|two| two.forked(tli(3), Lsn(0x0700_0000), "before 2024-05-01 10:00:00+00"));
        assert_eq!(built.expect("numbers increase"), history);
    }

    #[test]
    fn positions_belong_to_the_timeline_that_wrote_them() {
        let history = TimelineHistory::parse(tli(3), THREE.as_bytes()).expect("well-formed");
        let (one, two) = (Lsn(0x0500_0098), Lsn(0x0700_0000));
        assert_eq!(history.timeline_at(Lsn(one.0 - 1)), tli(1));
        assert_eq!(history.timeline_at(one), tli(2));
        assert_eq!(history.timeline_at(two), tli(3));
        assert!(
            history.contains(tli(2), one) && !history.contains(tli(1), one) && !history.contains(tli(4), one)
        );
        assert_eq!(history.fork_of(tli(1)), Some(one));
        assert_eq!(history.fork_of(tli(2)), Some(two));
        assert_eq!(history.fork_of(tli(3)), None);
        assert_eq!(history.start_of(tli(1)), None);
        assert_eq!(history.start_of(tli(3)), Some(two));
        assert!(history.includes(tli(3)) && history.includes(tli(1)) && !history.includes(tli(4)));
    }

    #[test]
    fn a_timeline_that_was_left_before_it_began_has_no_wal() {
        let history =
            TimelineHistory::parse(tli(3), b"1\t0/7000000\t\n2\t0/5000000\t\n").expect("PostgreSQL reads it");
        assert_eq!(history.timeline_at(Lsn(0x0400_0000)), tli(1));
        assert_eq!(history.timeline_at(Lsn(0x0600_0000)), tli(3));
        assert_eq!(history.fork_of(tli(1)), Some(Lsn(0x0500_0000)), "where timeline 3 begins");
        for lsn in [0x0400_0000, 0x0500_0000, 0x0600_0000, 0x0700_0000, 0x0800_0000] {
            assert!(!history.contains(tli(2), Lsn(lsn)));
        }
    }

    #[test]
    fn comments_and_odd_spaces_are_passed_over() {
        let text = "# restored by hand\n\n  1 \t 0/5000098\r\n";
        let history = TimelineHistory::parse(tli(2), text.as_bytes()).expect("PostgreSQL reads it");
        assert_eq!(history.forks(), [Fork { timeline: tli(1), at: Lsn(0x0500_0098), reason: String::new() }]);
    }

    #[test]
    fn what_postgresql_refuses_is_refused() {
        let parse = |timeline, text: &str| TimelineHistory::parse(tli(timeline), text.as_bytes());
        let line = |line| HistoryFault::Line { timeline: tli(3), line };
        for bad in ["one\t0/5\t", "1", "1\t0", "1\t0/", "0\t0/5\t", "-1\t0/5\t", "+1\t0/5\t", "1\t0/5x\t"] {
            assert_eq!(parse(3, bad), Err(line(1)), "{bad}");
        }
        assert_eq!(
            parse(3, "2\t0/5\t\n1\t0/6\t\n"),
            Err(HistoryFault::Order { timeline: tli(3), line: 2, found: tli(1) })
        );
        assert!(matches!(parse(2, "2\t0/5\t\n"), Err(HistoryFault::Order { .. })));
        assert_eq!(parse(3, "# nothing\n"), Err(HistoryFault::NoParent { timeline: tli(3) }));
        assert!(matches!(parse(1, "1\t0/5\t\n"), Err(HistoryFault::Order { .. })));
    }
}
