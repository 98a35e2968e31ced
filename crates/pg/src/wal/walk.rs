//! From pages to records: takes the pages of a WAL segment in order, joins records that span them, and checks what
//! PostgreSQL would check when it replays them.
//!
//! PostgreSQL: `XLogReadRecord` and `XLogReaderValidatePageHeader` in `src/backend/access/transam/xlogreader.c`.

use refloat_types::{Lsn, TimelineId};

use super::fault::{RecordFault, SegmentFault};
use super::page::{
    ALL_FLAGS, FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD, HAS_LONG_HEADER, LONG_HEADER, PAGE,
    PageHeader, SHORT_HEADER, is_zero,
};
use super::record::{CRC_OFFSET, MAX_RECORD, RECORD_HEADER, Record, RecordHeader, RecordVisitor};
use super::version::{WalVersion, is_plausible_magic};

/// Most bytes of one record that are kept.
const MAX_KEPT: usize = 512 << 10;

/// Where the walk stands at the end of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No page was seen yet.
    Start,
    /// The next page begins with a record.
    Between,
    /// The next page goes on with a record that began in an earlier WAL segment and has so many bytes left.
    Continued(u32),
    /// The next page goes on with `Walk::pending`.
    Pending,
    /// A switch was seen: nothing that follows means anything.
    Switched,
    /// The WAL of a partial file has ended.
    Stopped,
    /// The version is unknown: only page headers are checked.
    Opaque,
    /// The version is unknown, and a zero page was seen.
    OpaqueTail,
}

/// A record that is being joined from several pages.
#[derive(Debug, Default)]
struct Pending {
    at: Lsn,
    header: [u8; RECORD_HEADER],
    /// Bytes seen so far.
    seen: u32,
    total: u32,
    /// CRC of the data seen so far.
    crc: u32,
    /// How many bytes from the beginning are kept.
    want: usize,
    kept: Vec<u8>,
}

/// What the first page decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) magic: u16,
    pub(crate) version: Option<WalVersion>,
    pub(crate) start: Lsn,
    pub(crate) timeline: TimelineId,
    pub(crate) partial: bool,
}

/// The walk over the pages of one WAL segment.
#[derive(Debug)]
pub(crate) struct Walk<V> {
    frame: Frame,
    ancestors: Vec<TimelineId>,
    state: State,
    pending: Pending,
    /// Timeline of the page before: it never decreases.
    timeline: u32,
    /// Where the last whole record begins.
    previous: Option<Lsn>,
    /// Bytes from the start of the WAL segment up to the end of what is known to be good.
    valid: u64,
    /// Bytes of the first page's continued record.
    pub(crate) continued: u32,
    /// Did pages of an earlier use of the file follow a switch?
    pub(crate) stale_tail: bool,
    pub(crate) visitor: V,
}

const fn align(length: u32) -> u64 {
    (length as u64 + 7) & !7
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word))
}

impl<V: RecordVisitor> Walk<V> {
    pub(crate) fn new(frame: Frame, ancestors: Vec<TimelineId>, visitor: V) -> Self {
        Self {
            frame,
            ancestors,
            state: State::Start,
            pending: Pending::default(),
            timeline: 0,
            previous: None,
            valid: 0,
            continued: 0,
            stale_tail: false,
            visitor,
        }
    }

    /// Takes the page that begins at `at`.
    pub(crate) fn page(&mut self, page: &[u8], at: Lsn) -> Result<(), SegmentFault> {
        let taken = match self.state {
            State::Stopped => return Ok(()),
            State::Switched | State::OpaqueTail => return self.tail_page(page, at),
            State::Opaque => self.opaque_page(page, at),
            State::Start if self.frame.version.is_none() => self.opaque_page(page, at),
            State::Start | State::Between | State::Continued(_) | State::Pending => {
                self.record_page(page, at)
            }
        };
        match taken {
            // Once the first header held, whatever is wrong is where a partial file ends.
            Err(_) if self.frame.partial && self.timeline != 0 => {
                self.state = State::Stopped;
                Ok(())
            }
            other => other,
        }
    }

    /// Checks what every page of the walk has in common.
    fn header(&mut self, page: &[u8], at: Lsn) -> Result<PageHeader, SegmentFault> {
        let damaged = |what| SegmentFault::PageHeader { at, what };
        let header = PageHeader::parse(page).ok_or_else(|| damaged("it is cut"))?;
        if header.magic != self.frame.magic {
            let zero = is_zero(page);
            return Err(if zero {
                SegmentFault::EndsEarly { at }
            } else {
                damaged("its magic number is wrong")
            });
        }
        if header.flags & !ALL_FLAGS != 0 {
            return Err(damaged("it has unknown flags"));
        }
        if header.has(HAS_LONG_HEADER) != (at == self.frame.start) {
            return Err(damaged("it is a long header, or a short one, in the wrong place"));
        }
        if header.address != at {
            return Err(SegmentFault::WrongPage { at, found: header.address });
        }
        let own = header.timeline == self.frame.timeline.get();
        if header.timeline < self.timeline || !(own || self.is_ancestor(header.timeline)) {
            let (found, expected) = (header.timeline, self.frame.timeline);
            return Err(SegmentFault::WrongTimeline { at, found, expected });
        }
        self.timeline = header.timeline;
        Ok(header)
    }

    fn is_ancestor(&self, timeline: u32) -> bool {
        timeline != 0
            && timeline < self.frame.timeline.get()
            && (self.ancestors.is_empty() || self.ancestors.iter().any(|known| known.get() == timeline))
    }

    /// A page of a version whose records are not understood.
    fn opaque_page(&mut self, page: &[u8], at: Lsn) -> Result<(), SegmentFault> {
        if self.state == State::Opaque && is_zero(page) {
            self.state = State::OpaqueTail;
            return Ok(());
        }
        self.header(page, at)?;
        self.state = State::Opaque;
        self.valid = self.frame.start.bytes_until(at) + PAGE as u64;
        Ok(())
    }

    /// A page after a switch: zero. Where the server crashed while it wrote those zeros, it goes on behind the switch
    /// and leaves pages of the file's earlier use: those carry another address, and nobody ever reads them.
    fn tail_page(&mut self, page: &[u8], at: Lsn) -> Result<(), SegmentFault> {
        if self.frame.partial || is_zero(page) {
            return Ok(());
        }
        let stale = self.state == State::Switched
            && PageHeader::parse(page).is_some_and(|header| {
                is_plausible_magic(header.magic)
                    && header.flags & !ALL_FLAGS == 0
                    && header.address != at
                    && header.address.0.is_multiple_of(PAGE as u64)
            });
        if !stale {
            return Err(SegmentFault::AfterSwitch { at });
        }
        self.stale_tail = true;
        Ok(())
    }

    fn record_page(&mut self, page: &[u8], at: Lsn) -> Result<(), SegmentFault> {
        let header = self.header(page, at)?;
        let skip = if at == self.frame.start { LONG_HEADER } else { SHORT_HEADER };
        if self.state == State::Start {
            self.valid = skip as u64;
            self.state = if header.has(FIRST_IS_CONTRECORD) {
                State::Continued(header.remaining)
            } else {
                State::Between
            };
        }
        if header.has(FIRST_IS_OVERWRITE_CONTRECORD) {
            // What should have gone on here was lost in a crash; the server went on with a record that says so.
            self.state = State::Between;
        } else if header.has(FIRST_IS_CONTRECORD) == (self.state == State::Between) {
            return Err(self.broken(at));
        }
        let body = page.get(skip..).unwrap_or_default();
        let used = match self.state {
            State::Continued(left) => self.continue_unseen(&header, left, body, at)?,
            State::Pending => self.continue_pending(&header, body, at, at.plus(skip as u64))?,
            _ => Some(0),
        };
        match used {
            Some(used) => self.records(body, used, at.plus(skip as u64)),
            None => Ok(()),
        }
    }

    /// The fault of a page that does not go on as the one before ended.
    fn broken(&self, page: Lsn) -> SegmentFault {
        match self.state {
            State::Pending => {
                SegmentFault::Record { at: self.pending.at, fault: RecordFault::Continuation { page } }
            }
            State::Between => {
                SegmentFault::PageHeader { at: page, what: "it goes on with a record that has ended" }
            }
            _ => SegmentFault::PageHeader {
                at: page,
                what: "it does not go on with the record of the page before",
            },
        }
    }

    /// Goes on with a record whose beginning is elsewhere. Returns where the next one begins in `body`.
    fn continue_unseen(
        &mut self,
        header: &PageHeader,
        left: u32,
        body: &[u8],
        at: Lsn,
    ) -> Result<Option<usize>, SegmentFault> {
        if header.remaining != left || left == 0 || left > MAX_RECORD {
            return Err(self.broken(at));
        }
        if at == self.frame.start {
            self.continued = left;
        }
        let room = body.len() as u32;
        if left > room {
            self.state = State::Continued(left - room);
            return Ok(None);
        }
        self.state = State::Between;
        let used = align(left);
        self.valid = self.frame.start.bytes_until(at) + (PAGE - body.len()) as u64 + used;
        Ok(Some(used as usize))
    }

    /// Goes on with a record whose beginning was seen. Returns where the next one begins in `body`, whose first byte
    /// is at `base`.
    fn continue_pending(
        &mut self,
        header: &PageHeader,
        body: &[u8],
        at: Lsn,
        base: Lsn,
    ) -> Result<Option<usize>, SegmentFault> {
        let left = self.pending.total - self.pending.seen;
        if header.remaining != left {
            return Err(self.broken(at));
        }
        let part = body.get(..left as usize).unwrap_or(body);
        self.append(part)?;
        if part.len() < left as usize {
            return Ok(None);
        }
        let used = align(left);
        self.finish_pending(base.plus(used))?;
        Ok(if self.state == State::Switched {
            self.rest_is_zero(body, used as usize, base)?
        } else {
            Some(used as usize)
        })
    }

    /// Walks the records that begin in `body` from offset `from` on; its first byte is at `base`.
    fn records(&mut self, body: &[u8], mut from: usize, base: Lsn) -> Result<(), SegmentFault> {
        let version = self.frame.version.expect("records are walked only where the version is known");
        // Records begin at multiples of 8, so the length of one that begins here is whole.
        while let Some(rest) = body.get(from..).filter(|rest| !rest.is_empty()) {
            let at = base.plus(from as u64);
            let total = word(rest);
            if total == 0 {
                return Err(SegmentFault::EndsEarly { at });
            }
            let Some((bytes, header)) = rest.get(..total as usize).and_then(|b| Some((b, b.first_chunk()?)))
            else {
                return self.begin_pending(rest, total, at);
            };
            let header = RecordHeader::parse(header);
            self.check_header(&header, at)?;
            let computed = crc32c::crc32c(&bytes[RECORD_HEADER..]);
            let computed = crc32c::crc32c_append(computed, &bytes[..CRC_OFFSET]);
            if computed != header.crc {
                let fault = RecordFault::Crc { computed, stored: header.crc };
                return Err(SegmentFault::Record { at, fault });
            }
            from += align(total) as usize;
            let end = base.plus(from as u64);
            self.take(&Record { at, end, header, version, bytes });
            if self.state == State::Switched {
                self.rest_is_zero(body, from, base)?;
                return Ok(());
            }
        }
        self.state = State::Between;
        Ok(())
    }

    /// After a switch the rest of its page is zero.
    fn rest_is_zero(&self, body: &[u8], from: usize, base: Lsn) -> Result<Option<usize>, SegmentFault> {
        let rest = body.get(from..).unwrap_or_default();
        if self.frame.partial || is_zero(rest) {
            Ok(None)
        } else {
            Err(SegmentFault::AfterSwitch { at: Lsn(base.0 & !(PAGE as u64 - 1)) })
        }
    }

    fn check_header(&self, header: &RecordHeader, at: Lsn) -> Result<(), SegmentFault> {
        let version = self.frame.version;
        let fault = if !version.is_some_and(|version| version.has_manager(header.manager)) {
            RecordFault::Manager(header.manager)
        } else if self.previous.map_or(header.previous >= at, |previous| header.previous != previous) {
            RecordFault::Previous(header.previous)
        } else {
            return Ok(());
        };
        Err(SegmentFault::Record { at, fault })
    }

    fn take(&mut self, record: &Record<'_>) {
        self.previous = Some(record.at);
        self.valid = self.frame.start.bytes_until(record.end);
        if record.header.is_switch() {
            self.state = State::Switched;
        }
        self.visitor.record(record);
    }

    /// Begins a record that goes on on the next page.
    fn begin_pending(&mut self, rest: &[u8], total: u32, at: Lsn) -> Result<(), SegmentFault> {
        if !(RECORD_HEADER as u32..=MAX_RECORD).contains(&total) {
            return Err(SegmentFault::Record { at, fault: RecordFault::Length(total) });
        }
        let mut kept = std::mem::take(&mut self.pending.kept);
        kept.clear();
        self.pending = Pending { at, total, kept, want: RECORD_HEADER, ..Pending::default() };
        self.state = State::Pending;
        self.append(rest)
    }

    /// Adds bytes to the pending record. The CRC of the data comes before that of the header, so it can be computed as
    /// the data comes.
    fn append(&mut self, part: &[u8]) -> Result<(), SegmentFault> {
        let seen = self.pending.seen as usize;
        let into_header = RECORD_HEADER.saturating_sub(seen).min(part.len());
        let (head, data) = part.split_at(into_header);
        if !head.is_empty() {
            self.pending.header[seen..seen + into_header].copy_from_slice(head);
            if seen + into_header == RECORD_HEADER {
                let header = RecordHeader::parse(&self.pending.header);
                self.check_header(&header, self.pending.at)?;
                let want = self.visitor.keep(&header).clamp(RECORD_HEADER, MAX_KEPT);
                self.pending.want = want.min(self.pending.total as usize);
            }
        }
        let pending = &mut self.pending;
        pending.crc = crc32c::crc32c_append(pending.crc, data);
        pending.seen += part.len() as u32;
        let room = pending.want.saturating_sub(pending.kept.len()).min(part.len());
        pending.kept.extend_from_slice(&part[..room]);
        Ok(())
    }

    fn finish_pending(&mut self, end: Lsn) -> Result<(), SegmentFault> {
        let version = self.frame.version.expect("records are walked only where the version is known");
        let mut pending = std::mem::take(&mut self.pending);
        let (at, header) = (pending.at, RecordHeader::parse(&pending.header));
        let computed = crc32c::crc32c_append(pending.crc, &pending.header[..CRC_OFFSET]);
        if computed != header.crc {
            let fault = RecordFault::Crc { computed, stored: header.crc };
            return Err(SegmentFault::Record { at, fault });
        }
        self.state = State::Between;
        self.take(&Record { at, end, header, version, bytes: &pending.kept });
        pending.kept.clear();
        self.pending.kept = pending.kept;
        Ok(())
    }

    /// How the walk ended after all pages.
    pub(crate) fn end(&self, segment_size: u64) -> WalkEnd {
        let is_switched = self.state == State::Switched;
        let whole = matches!(self.state, State::Between | State::Continued(_) | State::Pending);
        WalkEnd {
            ends_with_switch: is_switched,
            unfinished_tail: (self.state == State::Pending).then_some(self.pending.at),
            unfinished_bytes: match self.state {
                State::Pending => self.pending.total - self.pending.seen,
                State::Continued(left) => left,
                _ => 0,
            },
            valid_bytes: if whole { segment_size } else { self.valid },
        }
    }
}

/// How a walk ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalkEnd {
    pub(crate) ends_with_switch: bool,
    pub(crate) unfinished_tail: Option<Lsn>,
    pub(crate) unfinished_bytes: u32,
    pub(crate) valid_bytes: u64,
}
