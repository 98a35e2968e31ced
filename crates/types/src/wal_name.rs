//! Names of the files PostgreSQL hands to an archive.

use std::fmt;
use std::str::FromStr;

use crate::{Lsn, TimelineId};

/// Size of a cluster's WAL segments: a power of two from 1 MiB to 1 GiB, 16 MiB unless initdb was told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WalSegmentSize(u32);

impl WalSegmentSize {
    /// 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// `None` for a size PostgreSQL does not have.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 { Some(Self(bytes)) } else { None }
    }
    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }
    /// How many WAL segments one `log` number holds.
    pub const fn per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

/// Text that is no name of a WAL file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a WAL file")]
pub struct BadWalName(pub String);

/// Name of a complete WAL segment, 24 upper-case hex digits. Holding one proves it is safe to join to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalSegmentName {
    /// The timeline it was written on.
    pub timeline: TimelineId,
    log: u32,
    seg: u32,
}

impl WalSegmentName {
    /// The WAL segment of `timeline` that holds the byte at `lsn`.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> Self {
        Self::numbered(timeline, lsn.0 / size.bytes(), size)
    }
    /// The WAL segment that holds the byte before `lsn`: the last one needed to replay up to `lsn`.
    pub fn ending(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> Self {
        Self::containing(timeline, Lsn(lsn.0.saturating_sub(1)), size)
    }
    /// The WAL segment with this number counted from LSN 0.
    pub fn numbered(timeline: TimelineId, number: u64, size: WalSegmentSize) -> Self {
        let per_log = size.per_log();
        Self { timeline, log: (number / per_log) as u32, seg: (number % per_log) as u32 }
    }
    /// Its number counted from LSN 0.
    pub fn number(self, size: WalSegmentSize) -> u64 {
        u64::from(self.log) * size.per_log() + u64::from(self.seg)
    }
    /// Position of its first byte.
    pub fn start(self, size: WalSegmentSize) -> Lsn {
        Lsn(self.number(size) * size.bytes())
    }
    /// Position behind its last byte.
    pub fn end(self, size: WalSegmentSize) -> Lsn {
        self.start(size).plus(size.bytes())
    }
    /// The next one of the same timeline.
    #[must_use]
    pub fn next(self, size: WalSegmentSize) -> Self {
        Self::numbered(self.timeline, self.number(size) + 1, size)
    }
    /// The same position on another timeline.
    #[must_use]
    pub fn on(self, timeline: TimelineId) -> Self {
        Self { timeline, ..self }
    }
}

impl fmt::Display for WalSegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.get(), self.log, self.seg)
    }
}

fn word(text: &str, at: usize) -> Option<u32> {
    let part = text.get(at..at + 8)?;
    if !part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
        return None;
    }
    u32::from_str_radix(part, 16).ok()
}

impl FromStr for WalSegmentName {
    type Err = BadWalName;
    fn from_str(text: &str) -> Result<Self, BadWalName> {
        let parse = || {
            if text.len() != 24 {
                return None;
            }
            let timeline = TimelineId::new(word(text, 0)?)?;
            Some(Self { timeline, log: word(text, 8)?, seg: word(text, 16)? })
        };
        parse().ok_or_else(|| BadWalName(text.to_owned()))
    }
}

/// Every kind of file PostgreSQL archives or asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// `000000010000000000000003`
    Segment(WalSegmentName),
    /// `000000010000000000000003.partial`: the last, unfinished one of a timeline that ended.
    Partial(WalSegmentName),
    /// `00000002.history`
    History(TimelineId),
    /// `000000010000000000000003.00000028.backup`: WAL segment and offset where an online backup began.
    BackupHistory(WalSegmentName, u32),
}

impl FromStr for WalFileName {
    type Err = BadWalName;
    fn from_str(text: &str) -> Result<Self, BadWalName> {
        let bad = || BadWalName(text.to_owned());
        if !text.is_ascii() {
            return Err(bad());
        }
        if let Some(stem) = text.strip_suffix(".history") {
            let number = if stem.len() == 8 { word(stem, 0) } else { None };
            return number.and_then(TimelineId::new).map(Self::History).ok_or_else(bad);
        }
        if let Some(stem) = text.strip_suffix(".partial") {
            return stem.parse().map(Self::Partial).map_err(|_| bad());
        }
        if let Some(stem) = text.strip_suffix(".backup") {
            let (name, offset) = stem.split_once('.').ok_or_else(bad)?;
            let offset = if offset.len() == 8 { word(offset, 0) } else { None };
            return Ok(Self::BackupHistory(name.parse().map_err(|_| bad())?, offset.ok_or_else(bad)?));
        }
        text.parse().map(Self::Segment)
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => write!(f, "{name}"),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.get()),
            Self::BackupHistory(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_count() {
        let size = WalSegmentSize::DEFAULT;
        let name: WalSegmentName = "0000000100000A2B000000FE".parse().expect("valid");
        assert_eq!(name.to_string(), "0000000100000A2B000000FE");
        assert_eq!(name.next(size).next(size).to_string(), "0000000100000A2C00000000");
        assert_eq!(WalSegmentName::containing(TimelineId::FIRST, name.start(size), size), name);
        assert_eq!(WalSegmentName::ending(TimelineId::FIRST, name.end(size), size), name);
        for text in [
            "0000000100000A2B000000FE",
            "0000000100000A2B000000FE.partial",
            "0000000100000A2B000000FE.00000028.backup",
            "0000000A.history",
        ] {
            assert_eq!(text.parse::<WalFileName>().expect("valid").to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "0000000000000A2B000000FE",
            "0000000100000a2b000000fe",
            "../../../../etc/passwd..",
            "+000000100000A2B000000FE",
            "0000000100000A2B000000FE.0028.backup",
            "00000000.history",
            "éééééééééééé",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text}");
        }
    }
}
