//! One pass over one WAL segment: is it what its name says, is it whole, and what does it tell?
//!
//! A WAL segment is whole when its pages and records follow each other to its end, or to a switch with zeros behind.
//! The last record may go on in the next WAL segment. A `.partial` file is good to its last whole record; what follows
//! is another one's bytes, because PostgreSQL recycles files.
//!
//! What has no CRC here, and is believed: the bytes of a record that began in the WAL segment before, those of one that
//! goes on in the next (and the length of a record on the last page, because a greater one would go on), up to 7 bytes of
//! padding behind each record, and in page headers the padding and the flag 0x0004. PostgreSQL never reads padding and
//! that flag; the record that spans two files it checks as a whole. Of that one, [`WalFacts::unfinished_bytes`] and the
//! next file's [`WalFacts::continued_bytes`] tell whether the lengths agree.

use refloat_types::{Lsn, SystemIdentifier, TimelineId, WalSegmentName, WalSegmentSize};

use super::collect::Collector;
use super::facts::WalFacts;
use super::fault::SegmentFault;
use super::page::{HAS_LONG_HEADER, LongHeader, PAGE, PageHeader, is_zero};
use super::record::{Record, RecordHeader, RecordVisitor};
use super::version::{WalVersion, is_plausible_magic};
use super::walk::{Frame, Walk};

/// What is known of a file before it is read.
#[derive(Debug, Clone, Default)]
pub struct InspectOptions {
    /// Is it the last, unfinished file of a timeline (`.partial`)?
    pub partial: bool,
    /// The cluster it must be of; any when `None`.
    pub expected_system: Option<SystemIdentifier>,
    /// Timelines that pages may be of beside the name's own; any smaller one when empty.
    pub ancestors: Vec<TimelineId>,
}

/// What a WAL segment is and tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Magic number of its pages.
    pub magic: u16,
    /// Major version of PostgreSQL that wrote it. `None`: unknown, so its bytes were checked page by page and its records
    /// not at all. That has to be said loudly.
    pub version: Option<u16>,
    /// Whose WAL it is.
    pub system: SystemIdentifier,
    /// Size of the cluster's WAL segments, and of this file.
    pub segment_size: WalSegmentSize,
    /// What its records say; empty where `records_parsed` is false.
    pub facts: WalFacts,
    /// Bytes from the beginning that mean something. All others are zero, or, for `.partial` and where `stale_tail`
    /// says so, of another use of the file, and should be stored as zeros.
    pub valid_bytes: u64,
    /// Were records checked by their CRC?
    pub records_parsed: bool,
    /// Are there pages of an earlier use of the file behind a switch? The server crashed while it switched. They mean
    /// nothing, and nothing is lost.
    pub stale_tail: bool,
}

/// Facts are gathered, then the caller's own visitor sees the record.
#[derive(Debug)]
struct Both<V>(Collector, V);

impl<V: RecordVisitor> RecordVisitor for Both<V> {
    fn keep(&self, header: &RecordHeader) -> usize {
        self.0.keep(header).max(self.1.keep(header))
    }
    #[inline]
    fn record(&mut self, record: &Record<'_>) {
        self.0.record(record);
        self.1.record(record);
    }
}

/// What the first page said.
#[derive(Debug)]
struct Begun<V> {
    walk: Walk<Both<V>>,
    magic: u16,
    version: Option<WalVersion>,
    system: SystemIdentifier,
    segment_size: WalSegmentSize,
    start: Lsn,
    first_timeline: Option<TimelineId>,
}

/// Inspects a WAL segment as its bytes come. See the module.
#[derive(Debug)]
pub struct SegmentInspector<V = ()> {
    name: WalSegmentName,
    options: InspectOptions,
    visitor: Option<V>,
    begun: Option<Begun<V>>,
    /// Bytes of whole pages taken.
    taken: u64,
    /// The beginning of a page whose rest is still to come.
    page: Vec<u8>,
    fault: Option<SegmentFault>,
}

impl SegmentInspector {
    /// An inspector for the file with this name.
    pub fn new(name: WalSegmentName, options: InspectOptions) -> Self {
        Self::with_visitor(name, options, ())
    }

    /// Ends the inspection of a file that was said to have `total_len` bytes.
    ///
    /// # Errors
    /// The fault that was found before, or that the file is short.
    pub fn finish(self, total_len: u64) -> Result<Inspection, SegmentFault> {
        self.finish_with_visitor(total_len).map(|(inspection, ())| inspection)
    }
}

impl<V: RecordVisitor> SegmentInspector<V> {
    /// An inspector that shows every record to `visitor` as well.
    pub fn with_visitor(name: WalSegmentName, options: InspectOptions, visitor: V) -> Self {
        Self { name, options, visitor: Some(visitor), begun: None, taken: 0, page: Vec::new(), fault: None }
    }

    /// Takes the next bytes; chunks may have any size, multiples of 8192 are fastest.
    ///
    /// # Errors
    /// As soon as the file is known to be bad; the same again for whatever is fed after that.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), SegmentFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let fed = self.pages(bytes);
        if let Err(fault) = &fed {
            self.fault = Some(fault.clone());
        }
        fed
    }

    /// [`SegmentInspector::finish`] that gives the visitor back.
    ///
    /// # Errors
    /// The fault that was found before, or that the file is short.
    pub fn finish_with_visitor(self, total_len: u64) -> Result<(Inspection, V), SegmentFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let read = self.taken + self.page.len() as u64;
        if read != total_len {
            return Err(SegmentFault::Changed { read, told: total_len });
        }
        if read == 0 {
            return Err(SegmentFault::Empty);
        }
        let Some(begun) = self.begun else {
            return Err(SegmentFault::Short { length: read, expected: PAGE as u64 });
        };
        let size = begun.segment_size.bytes();
        if read != size {
            return Err(SegmentFault::Short { length: read, expected: size });
        }
        Ok(begun.into_inspection(self.name))
    }

    /// Cuts the bytes into pages, without copying those that are whole.
    fn pages(&mut self, mut bytes: &[u8]) -> Result<(), SegmentFault> {
        if !self.page.is_empty() {
            let missing = (PAGE - self.page.len()).min(bytes.len());
            let (first, rest) = bytes.split_at(missing);
            self.page.extend_from_slice(first);
            bytes = rest;
            if self.page.len() < PAGE {
                return Ok(());
            }
            let mut page = std::mem::take(&mut self.page);
            self.take(&page)?;
            page.clear();
            self.page = page;
        }
        let (whole, rest) = bytes.split_at(bytes.len() / PAGE * PAGE);
        for page in whole.chunks_exact(PAGE) {
            self.take(page)?;
        }
        if !rest.is_empty()
            && self.begun.as_ref().is_some_and(|begun| self.taken >= begun.segment_size.bytes())
        {
            return Err(self.too_long());
        }
        self.page.extend_from_slice(rest);
        Ok(())
    }

    fn fits(&self, count: usize) -> bool {
        self.begun.as_ref().is_some_and(|begun| self.taken + count as u64 <= begun.segment_size.bytes())
    }

    fn too_long(&self) -> SegmentFault {
        SegmentFault::Long { expected: self.begun.as_ref().map_or(0, |begun| begun.segment_size.bytes()) }
    }

    fn take(&mut self, page: &[u8]) -> Result<(), SegmentFault> {
        if self.begun.is_none() {
            self.begun = Some(self.begin(page)?);
        }
        if !self.fits(page.len()) {
            return Err(self.too_long());
        }
        if let Some(begun) = &mut self.begun {
            begun.walk.page(page, begun.start.plus(self.taken))?;
        }
        self.taken += page.len() as u64;
        Ok(())
    }

    /// Reads the long header of the first page and decides by it what the rest is.
    fn begin(&mut self, page: &[u8]) -> Result<Begun<V>, SegmentFault> {
        let not_wal = |what| SegmentFault::NotWal { what };
        let cut = "it is cut";
        let header = PageHeader::parse(page).ok_or_else(|| not_wal(cut))?;
        if !is_plausible_magic(header.magic) {
            return Err(if is_zero(page) {
                SegmentFault::Zero
            } else {
                not_wal("its magic number is wrong")
            });
        }
        if !header.has(HAS_LONG_HEADER) {
            return Err(not_wal("its first page has no long header"));
        }
        let long = LongHeader::parse(page).ok_or_else(|| not_wal(cut))?;
        if long.page_size != PAGE as u32 {
            return Err(SegmentFault::PageSize { found: long.page_size });
        }
        let segment_size = WalSegmentSize::new(long.segment_size);
        let segment_size = segment_size.ok_or(SegmentFault::SegmentSize { found: long.segment_size })?;
        if let Some(expected) = self.options.expected_system.filter(|expected| *expected != long.system) {
            return Err(SegmentFault::ForeignSystem { found: long.system, expected });
        }
        // A name can hold numbers that no WAL segment of this size has.
        let number = self.name.number(segment_size);
        if WalSegmentName::numbered(self.name.timeline, number, segment_size) != self.name {
            return Err(SegmentFault::Misnamed { size: segment_size.bytes() });
        }
        let start = self.name.start(segment_size);
        let version = WalVersion::from_magic(header.magic);
        let frame = Frame {
            magic: header.magic,
            version,
            start,
            timeline: self.name.timeline,
            partial: self.options.partial,
        };
        let visitor = self.visitor.take().expect("taken once, by the first page");
        let ancestors = std::mem::take(&mut self.options.ancestors);
        Ok(Begun {
            walk: Walk::new(frame, ancestors, Both(Collector::default(), visitor)),
            magic: header.magic,
            version,
            system: long.system,
            segment_size,
            start,
            first_timeline: TimelineId::new(header.timeline),
        })
    }
}

impl<V: RecordVisitor> Begun<V> {
    fn into_inspection(self, name: WalSegmentName) -> (Inspection, V) {
        let size = self.segment_size;
        let end = self.walk.end(size.bytes());
        let (continued, stale_tail) = (self.walk.continued, self.walk.stale_tail);
        let Both(collector, visitor) = self.walk.visitor;
        let mut facts = collector.into_facts();
        facts.continued_bytes = u64::from(continued);
        facts.unfinished_bytes = u64::from(end.unfinished_bytes);
        facts.ends_with_switch = end.ends_with_switch;
        if end.ends_with_switch {
            facts.last_record_end = Some(name.end(size));
        }
        if let Some(at) = end.unfinished_tail {
            facts.unfinished_tail = Some(at);
            facts.last_record = Some(at);
        }
        facts.begins_on = self.first_timeline.filter(|first| *first != name.timeline);
        let inspection = Inspection {
            magic: self.magic,
            version: self.version.map(WalVersion::major),
            system: self.system,
            segment_size: size,
            facts,
            valid_bytes: end.valid_bytes,
            records_parsed: self.version.is_some(),
            stale_tail,
        };
        (inspection, visitor)
    }
}

/// Inspects a WAL segment that is in memory.
///
/// # Errors
/// Why it may not be stored.
pub fn inspect_slice(
    name: WalSegmentName,
    options: InspectOptions,
    bytes: &[u8],
) -> Result<Inspection, SegmentFault> {
    let mut inspector = SegmentInspector::new(name, options);
    inspector.feed(bytes)?;
    inspector.finish(bytes.len() as u64)
}

#[cfg(test)]
mod tests;
