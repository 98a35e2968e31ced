//! Why a file is no WAL segment that may be stored.

use refloat_types::{Advice, Explain, Lsn, SystemIdentifier, TimelineId};

/// What is wrong with one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Its length is impossible.
    #[error("its length, {0}, is impossible")]
    Length(u32),
    /// It names a resource manager that this version of PostgreSQL does not have.
    #[error("it names resource manager {0}, which does not exist")]
    Manager(u8),
    /// It does not follow the record before it.
    #[error("it says that the record before it is at {0}, which is not so")]
    Previous(Lsn),
    /// Its bytes are not those that were written.
    #[error("its CRC does not hold (computed {computed:08X}, stored {stored:08X})")]
    Crc {
        /// What its bytes give.
        computed: u32,
        /// What it carries.
        stored: u32,
    },
    /// The next page does not go on with it.
    #[error("the page at {page} does not go on with it as it should")]
    Continuation {
        /// Which page.
        page: Lsn,
    },
}

/// Why a file is no WAL segment that may be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault {
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The first page is all zero: allocated and never written.
    #[error("the file begins with zeros: it was allocated and nothing was written to it")]
    Zero,
    /// The first page does not begin as a WAL segment does.
    #[error("the file does not begin as a WAL segment does: {what}")]
    NotWal {
        /// What is wrong.
        what: &'static str,
    },
    /// The file was cut.
    #[error("the file has {length} bytes, a WAL segment of this cluster has {expected}")]
    Short {
        /// Bytes there are.
        length: u64,
        /// Bytes there should be; a page's when even the first page is cut.
        expected: u64,
    },
    /// The file goes on after the end of the WAL segment.
    #[error("the file is longer than a WAL segment of this cluster, which has {expected} bytes")]
    Long {
        /// Bytes there should be.
        expected: u64,
    },
    /// The bytes read are not as many as the file was said to have: it changed meanwhile.
    #[error("{read} bytes were read of a file of {told}")]
    Changed {
        /// Bytes read.
        read: u64,
        /// Bytes it was said to have.
        told: u64,
    },
    /// The header names a size that no WAL segment has.
    #[error("the header says that a WAL segment has {found} bytes, which cannot be")]
    SegmentSize {
        /// What it says.
        found: u32,
    },
    /// No WAL segment of the size in the header has the file's name.
    #[error("no WAL segment of {size} bytes has the name of this file")]
    Misnamed {
        /// What the header says.
        size: u64,
    },
    /// PostgreSQL was built with other WAL pages.
    #[error("the WAL has pages of {found} bytes; only pages of 8192 bytes are supported")]
    PageSize {
        /// What the header says.
        found: u32,
    },
    /// It is another cluster's WAL.
    #[error("the WAL is of the cluster with system identifier {found}, not {expected}")]
    ForeignSystem {
        /// Whose it is.
        found: SystemIdentifier,
        /// Whose it should be.
        expected: SystemIdentifier,
    },
    /// A page belongs elsewhere: the file was recycled and not written to its end, or has another one's name.
    #[error(
        "the page at {at} belongs at {found}: the file was recycled and not written to its end, or misnamed"
    )]
    WrongPage {
        /// Where the page is by the file's name.
        at: Lsn,
        /// Where its header says it belongs.
        found: Lsn,
    },
    /// A page is of a timeline that cannot be in this file.
    #[error("the page at {at} is of timeline {found}, which cannot be in a file of timeline {expected}")]
    WrongTimeline {
        /// Where the page is.
        at: Lsn,
        /// Timeline in its header.
        found: u32,
        /// Timeline in the file's name.
        expected: TimelineId,
    },
    /// A page's header is damaged.
    #[error("the header of the page at {at} is damaged: {what}")]
    PageHeader {
        /// Where the page is.
        at: Lsn,
        /// What is wrong.
        what: &'static str,
    },
    /// The WAL stops before the file ends, and no switch says that it may.
    #[error("the WAL ends at {at}, before the end of the WAL segment, and nothing says that it may")]
    EndsEarly {
        /// Where it ends.
        at: Lsn,
    },
    /// A record is damaged or torn.
    #[error("the WAL record at {at} is damaged")]
    Record {
        /// Where it begins.
        at: Lsn,
        /// What is wrong.
        #[source]
        fault: RecordFault,
    },
    /// There are bytes behind a switch to the next WAL segment that PostgreSQL did not leave there.
    #[error("the page at {at} should be zero, because the WAL ends with a switch before it")]
    AfterSwitch {
        /// Which page.
        at: Lsn,
    },
}

impl Explain for SegmentFault {
    fn advice(&self) -> Advice {
        let safe = "nothing was stored; PostgreSQL keeps the file in pg_wal and offers it again";
        let advice = |code| Advice::failed(code, safe);
        match self {
            Self::Empty | Self::Zero | Self::NotWal { .. } => advice("WAL-101")
                .hint("Look at the file in pg_wal; if PostgreSQL did not write it, remove what copied it there."),
            Self::Short { .. } | Self::Long { .. } | Self::Changed { .. } => advice("WAL-102").hint(
                "Archive files that PostgreSQL itself hands to archive_command; do not copy WAL into pg_wal by hand.",
            ),
            Self::SegmentSize { .. } => advice("WAL-103").hint("Run pg_waldump on the file; it is damaged."),
            Self::PageSize { .. } => {
                advice("WAL-104").hint("This PostgreSQL was built with --with-wal-blocksize, which is not supported.")
            }
            Self::ForeignSystem { .. } => advice("WAL-105")
                .hint("Does archive_command of another cluster name this repository's source?")
                .hint("After pg_upgrade or initdb the cluster is a new one: run `refloat init` for it."),
            Self::WrongPage { .. } | Self::WrongTimeline { .. } | Self::Misnamed { .. } => advice("WAL-106")
                .hint("The file does not hold what its name says; run pg_waldump on it."),
            Self::PageHeader { .. } | Self::EndsEarly { .. } | Self::Record { .. } | Self::AfterSwitch { .. } => {
                advice("WAL-107")
                    .hint("To get archiving on: refloat explain WAL-107")
                    .hint("If a standby has the file whole (pg_waldump reads it to its end), put that one in its place in pg_wal.")
                    .hint("If nobody has it: rename its .ready in pg_wal/archive_status to .done, and take a full backup at once; moments from this file up to that backup are lost.")
            }
        }
    }
}
