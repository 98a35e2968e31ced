//! WAL made here, byte by byte, so that every kind of damage can be put exactly where it hurts.

use proptest::prelude::*;

use super::*;
use crate::wal::fault::RecordFault;
use crate::wal::page::{FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD, LONG_HEADER, SHORT_HEADER};

const SIZE: usize = 1 << 20;
const SYSTEM: u64 = 7_300_000_000_000_000_001;

fn name() -> WalSegmentName {
    "000000020000000000000003".parse().expect("a valid name")
}

fn start() -> Lsn {
    Lsn(3 * SIZE as u64)
}

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).expect("not 0")
}

/// Writes WAL as PostgreSQL does: pages, records that span them, padding.
struct Writer {
    bytes: Vec<u8>,
    previous: Lsn,
    timeline: u32,
    magic: u16,
}

impl Writer {
    fn new() -> Self {
        let previous = Lsn(start().0 - 0x100);
        Self { bytes: Vec::new(), previous, timeline: 2, magic: 0xD110 }
    }
    fn page_header(&mut self, flags: u16, remaining: u32) {
        let at = start().0 + self.bytes.len() as u64;
        let is_first = self.bytes.is_empty();
        let flags = if is_first { flags | HAS_LONG_HEADER } else { flags };
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend((SIZE as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }
    fn at(&self) -> Lsn {
        start().plus(self.bytes.len() as u64)
    }
    /// Writes a record whole; pages past the end of the WAL segment are not written.
    fn record(&mut self, manager: u8, info: u8, xid: u32, main: &[u8]) -> Lsn {
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page_header(0, 0);
        }
        let at = self.at();
        let mut data = Vec::new();
        if !main.is_empty() {
            if main.len() < 256 {
                data.extend([255, main.len() as u8]);
            } else {
                data.push(254);
                data.extend((main.len() as u32).to_le_bytes());
            }
            data.extend(main);
        }
        let total = (24 + data.len()) as u32;
        let mut record = Vec::new();
        record.extend(total.to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.0.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&data), &record);
        record.extend(crc.to_le_bytes());
        record.extend(&data);
        self.spread(&record);
        self.previous = at;
        at
    }
    fn spread(&mut self, record: &[u8]) {
        for (index, byte) in record.iter().enumerate() {
            if self.bytes.len() == SIZE {
                return;
            }
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page_header(FIRST_IS_CONTRECORD, (record.len() - index) as u32);
            }
            self.bytes.push(*byte);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }
    fn commit(&mut self, xid: u32, microseconds: i64) -> Lsn {
        self.record(1, 0x00, xid, &microseconds.to_le_bytes())
    }
    fn restore_point(&mut self, text: &str) -> Lsn {
        let mut main = 5_i64.to_le_bytes().to_vec();
        main.extend(text.as_bytes());
        main.resize(72, 0);
        self.record(0, 0x70, 0, &main);
        self.at()
    }
    /// Ends with a switch and zeros.
    fn switched(mut self) -> Vec<u8> {
        self.record(0, 0x40, 0, &[]);
        self.bytes.resize(SIZE, 0);
        self.bytes
    }
    /// Goes on to the very end: the last record goes on in the next WAL segment.
    fn filled(mut self) -> Vec<u8> {
        while self.bytes.len() < SIZE {
            self.record(10, 0x00, 9, &[0xAB; 3000]);
        }
        self.bytes
    }
}

/// A WAL segment with some of everything.
fn sample() -> Writer {
    let mut writer = Writer::new();
    writer.commit(700, 1_000_000);
    writer.restore_point("before");
    writer.record(10, 0x20, 701, &[1; 20_000]);
    writer.record(1, 0x20, 701, &3_000_000_i64.to_le_bytes());
    writer.commit(699, 2_000_000);
    writer
}

fn inspect(bytes: &[u8]) -> Result<Inspection, SegmentFault> {
    inspect_slice(name(), InspectOptions::default(), bytes)
}

fn inspect_partial(bytes: &[u8]) -> Result<Inspection, SegmentFault> {
    inspect_slice(name(), InspectOptions { partial: true, ..InspectOptions::default() }, bytes)
}

#[test]
fn a_filled_segment_tells_its_facts() {
    let mut writer = Writer::new();
    let first = writer.commit(700, 1_000_000);
    let point = writer.restore_point("before");
    writer.record(10, 0x20, 701, &[1; 20_000]);
    writer.record(1, 0x20, 701, &3_000_000_i64.to_le_bytes());
    writer.commit(699, 2_000_000);
    let inspection = inspect(&writer.filled()).expect("a good one");
    assert_eq!(inspection.version, Some(15));
    assert_eq!(inspection.system, SystemIdentifier(SYSTEM));
    assert_eq!(inspection.valid_bytes, SIZE as u64);
    let facts = inspection.facts;
    assert_eq!(facts.first_record, Some(first));
    assert_eq!(first, start().plus(LONG_HEADER as u64));
    assert_eq!((facts.commits, facts.aborts), (2, 1));
    assert_eq!((facts.xid_min, facts.xid_max), (Some(699), Some(701)));
    assert_eq!(facts.first_commit.map(|t| t.to_string()), Some("2000-01-01T00:00:01Z".to_owned()));
    assert_eq!(facts.last_commit.map(|t| t.to_string()), Some("2000-01-01T00:00:03Z".to_owned()));
    assert_eq!((facts.restore_points[0].name.as_str(), facts.restore_points[0].lsn), ("before", point));
    assert!(facts.unfinished_tail.is_some() && facts.unfinished_tail == facts.last_record);
    assert!(!facts.ends_with_switch && facts.not_understood == 0 && !facts.truncated);
}

#[test]
fn a_switched_segment_ends_there() {
    let bytes = sample().switched();
    let inspection = inspect(&bytes).expect("a good one");
    assert!(inspection.facts.ends_with_switch && !inspection.stale_tail);
    assert_eq!(inspection.facts.last_record_end, Some(name().end(inspection.segment_size)));
    let valid = inspection.valid_bytes as usize;
    assert!(
        bytes[..valid].ends_with(&crc_of_switch(&bytes, valid)) && bytes[valid..].iter().all(|b| *b == 0)
    );
    for at in [valid, valid + 1, PAGE * 100 + 5000, SIZE - 1] {
        let mut bad = bytes.clone();
        bad[at] = 1;
        let page = Lsn(start().0 + (at / PAGE * PAGE) as u64);
        assert_eq!(inspect(&bad), Err(SegmentFault::AfterSwitch { at: page }), "byte {at}");
    }
}

fn crc_of_switch(bytes: &[u8], end: usize) -> [u8; 4] {
    crc32c::crc32c(&bytes[end - 24..end - 4]).to_le_bytes()
}

#[test]
fn pages_of_an_earlier_use_behind_a_switch_are_no_damage() {
    let mut bytes = sample().switched();
    let old = SIZE - PAGE;
    bytes[old..old + 2].copy_from_slice(&0xD110_u16.to_le_bytes());
    bytes[old + 4..old + 8].copy_from_slice(&1_u32.to_le_bytes());
    bytes[old + 8..old + 16].copy_from_slice(&(2 * SIZE as u64 + old as u64).to_le_bytes());
    bytes[old + 100] = 77;
    let inspection = inspect(&bytes).expect("nothing is lost");
    assert!(inspection.stale_tail);
    assert!(inspection.valid_bytes < old as u64);
}

#[test]
fn chunks_of_any_size_give_the_same() {
    let bytes = sample().filled();
    let whole = inspect(&bytes);
    assert!(whole.is_ok());
    for chunk in [1, 7, 24, 4096, PAGE, PAGE + 1, 100_000, SIZE] {
        let mut inspector = SegmentInspector::new(name(), InspectOptions::default());
        for part in bytes.chunks(chunk) {
            inspector.feed(part).expect("a good one");
        }
        assert_eq!(inspector.finish(SIZE as u64), whole, "chunks of {chunk}");
    }
}

#[test]
fn files_that_are_no_segment_are_named_for_what_they_are() {
    let good = sample().filled();
    assert_eq!(inspect(&[]), Err(SegmentFault::Empty));
    assert_eq!(inspect(&good[..100]), Err(SegmentFault::Short { length: 100, expected: PAGE as u64 }));
    assert_eq!(
        inspect(&good[..SIZE - 1]),
        Err(SegmentFault::Short { length: SIZE as u64 - 1, expected: SIZE as u64 })
    );
    assert_eq!(inspect(&vec![0; SIZE]), Err(SegmentFault::Zero));
    assert!(matches!(inspect(&vec![b'x'; SIZE]), Err(SegmentFault::NotWal { .. })));
    let longer = [good.as_slice(), &[0]].concat();
    assert_eq!(inspect(&longer), Err(SegmentFault::Long { expected: SIZE as u64 }));
    let longer = [good.as_slice(), &[0; PAGE]].concat();
    assert_eq!(inspect(&longer), Err(SegmentFault::Long { expected: SIZE as u64 }));
    let mut inspector = SegmentInspector::new(name(), InspectOptions::default());
    inspector.feed(&good).expect("a good one");
    assert_eq!(inspector.finish(17), Err(SegmentFault::Changed { read: SIZE as u64, told: 17 }));
    let patched = |at: usize, with: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + with.len()].copy_from_slice(with);
        inspect(&bad)
    };
    assert_eq!(patched(32, &3_u32.to_le_bytes()), Err(SegmentFault::SegmentSize { found: 3 }));
    assert_eq!(patched(36, &4096_u32.to_le_bytes()), Err(SegmentFault::PageSize { found: 4096 }));
    assert!(matches!(patched(2, &[0]), Err(SegmentFault::NotWal { .. })), "no long header");
    assert!(matches!(patched(PAGE + 2, &[0x11]), Err(SegmentFault::PageHeader { .. })), "unknown flag");
    assert_eq!(
        patched(4, &3_u32.to_le_bytes()),
        Err(SegmentFault::WrongTimeline { at: start(), found: 3, expected: tli(2) })
    );
    let page = start().plus(PAGE as u64);
    assert_eq!(
        patched(PAGE + 4, &1_u32.to_le_bytes()),
        Err(SegmentFault::WrongTimeline { at: page, found: 1, expected: tli(2) }),
        "timelines never go back"
    );
    assert_eq!(
        patched(PAGE + 8, &0x77_0000_u64.to_le_bytes()),
        Err(SegmentFault::WrongPage { at: page, found: Lsn(0x77_0000) })
    );
}

#[test]
fn another_clusters_segment_is_refused() {
    let expected = SystemIdentifier(1);
    let options = InspectOptions { expected_system: Some(expected), ..InspectOptions::default() };
    let found = SystemIdentifier(SYSTEM);
    assert_eq!(
        inspect_slice(name(), options, &sample().filled()),
        Err(SegmentFault::ForeignSystem { found, expected })
    );
}

#[test]
fn a_name_that_no_segment_can_have_is_refused() {
    let odd: WalSegmentName = "FFFFFFFFFFFFFFFFFFFFFFFF".parse().expect("well-formed");
    let bytes = sample().filled();
    assert_eq!(
        inspect_slice(odd, InspectOptions::default(), &bytes),
        Err(SegmentFault::Misnamed { size: SIZE as u64 })
    );
    let next = name().next(WalSegmentSize::new(SIZE as u32).expect("1 MiB"));
    assert!(matches!(
        inspect_slice(next, InspectOptions::default(), &bytes),
        Err(SegmentFault::WrongPage { .. })
    ));
}

#[test]
fn a_new_timeline_begins_with_pages_of_its_parent() {
    let mut writer = Writer::new();
    writer.timeline = 1;
    writer.record(10, 0, 5, &[2; 10_000]);
    writer.timeline = 2;
    let mut main = 9_i64.to_le_bytes().to_vec();
    main.extend(2_u32.to_le_bytes());
    main.extend(1_u32.to_le_bytes());
    let lsn = writer.record(0, 0x90, 0, &main);
    let bytes = writer.filled();
    let facts = inspect(&bytes).expect("a good one").facts;
    assert_eq!(facts.begins_on, Some(tli(1)));
    assert_eq!(facts.timeline_switches.len(), 1);
    let switch = facts.timeline_switches[0];
    assert_eq!((switch.lsn, switch.from, switch.to), (lsn, tli(1), tli(2)));
    let options = InspectOptions { ancestors: vec![tli(1)], ..InspectOptions::default() };
    assert!(inspect_slice(name().on(tli(2)), options, &bytes).is_ok());
    let options = InspectOptions { ancestors: vec![tli(3)], ..InspectOptions::default() };
    assert!(matches!(
        inspect_slice(name(), options, &bytes),
        Err(SegmentFault::WrongTimeline { found: 1, .. })
    ));
}

#[test]
fn wal_that_stops_early_is_refused_unless_partial() {
    let mut writer = sample();
    let last = writer.commit(702, 0);
    let end = writer.at();
    let mut bytes = writer.bytes;
    let stop = bytes.len();
    bytes.resize(SIZE, 0);
    assert_eq!(inspect(&bytes), Err(SegmentFault::EndsEarly { at: end }));
    // A partial file goes on with whatever was in it: zeros, old pages, a torn record.
    let other = sample().filled();
    for tail in [vec![0; SIZE - stop], other[..SIZE - stop].to_vec(), vec![0xFF; SIZE - stop]] {
        bytes.truncate(stop);
        bytes.extend(tail);
        let inspection = inspect_partial(&bytes).expect("good to its last record");
        assert_eq!(inspection.valid_bytes, stop as u64);
        assert_eq!(inspection.facts.last_record, Some(last));
        assert_eq!(inspection.facts.last_record_end, Some(end));
        assert!(!inspection.facts.ends_with_switch && inspection.facts.unfinished_tail.is_none());
    }
    bytes.truncate(stop);
    assert!(matches!(inspect_partial(&bytes), Err(SegmentFault::Short { .. })));
}

#[test]
fn a_partial_file_still_belongs_to_its_cluster_and_name() {
    let bytes = sample().filled();
    let options = || InspectOptions { partial: true, ..InspectOptions::default() };
    let foreign = InspectOptions { expected_system: Some(SystemIdentifier(1)), ..options() };
    assert!(matches!(inspect_slice(name(), foreign, &bytes), Err(SegmentFault::ForeignSystem { .. })));
    assert!(matches!(
        inspect_slice(name().on(tli(1)), options(), &bytes),
        Err(SegmentFault::WrongTimeline { .. })
    ));
    let mut empty = Writer::new();
    empty.page_header(0, 0);
    empty.bytes.resize(SIZE, 0);
    assert_eq!(inspect_partial(&empty.bytes).map(|found| found.valid_bytes), Ok(LONG_HEADER as u64));
}

#[test]
fn a_record_of_the_segment_before_goes_on() {
    for (remaining, pages) in [(1_u32, 1), (8152, 1), (8153, 2), (30_000, 4)] {
        let mut writer = Writer::new();
        let mut left = remaining;
        for _ in 0..pages {
            writer.page_header(FIRST_IS_CONTRECORD, left);
            let room = PAGE - writer.bytes.len() % PAGE;
            let part = (left as usize).min(room);
            writer.bytes.resize(writer.bytes.len() + part, 0xEE);
            left -= part as u32;
        }
        writer.bytes.resize(writer.bytes.len().next_multiple_of(8), 0);
        writer.commit(5, 6);
        let facts = inspect(&writer.filled()).expect("a good one").facts;
        assert_eq!((facts.continued_bytes, facts.commits), (u64::from(remaining), 1));
    }
    // A record that spans the whole file: none begins here.
    let mut writer = Writer::new();
    let mut left = 5 * SIZE as u32;
    while writer.bytes.len() < SIZE {
        writer.page_header(FIRST_IS_CONTRECORD, left);
        let room = PAGE - writer.bytes.len() % PAGE;
        writer.bytes.resize(writer.bytes.len() + room, 0xEE);
        left -= room as u32;
    }
    let inspection = inspect(&writer.bytes).expect("a good one");
    assert_eq!((inspection.facts.records, inspection.facts.first_record), (0, None));
    assert_eq!(inspection.valid_bytes, SIZE as u64);
    writer.bytes[PAGE * 50 + 16] ^= 1;
    assert!(
        matches!(inspect(&writer.bytes), Err(SegmentFault::PageHeader { .. })),
        "the length left must agree"
    );
}

#[test]
fn a_record_lost_in_a_crash_is_overwritten() {
    let mut writer = sample();
    let before = writer.previous;
    // The crash left the page on which the record begins, and nothing of the next.
    let lost = writer.record(10, 0, 5, &[3; 20_000]);
    let page = (lost.0 - start().0) as usize / PAGE + 1;
    writer.bytes.truncate(page * PAGE);
    writer.page_header(FIRST_IS_OVERWRITE_CONTRECORD, 0);
    writer.previous = before;
    let main = [lost.0.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    writer.record(0, 0xD0, 0, &main);
    writer.commit(6, 7);
    let bytes = writer.filled();
    let facts = inspect(&bytes).expect("a good one").facts;
    assert_eq!(facts.overwritten, [lost]);
    assert_eq!(facts.commits, 3);
    let mut bad = bytes;
    bad[page * PAGE + 2] = 0;
    let page = start().plus((page * PAGE) as u64);
    let fault = RecordFault::Continuation { page };
    assert_eq!(inspect(&bad), Err(SegmentFault::Record { at: lost, fault }), "without the flag it is damage");
}

#[test]
fn damage_to_a_record_is_named() {
    let mut writer = Writer::new();
    let first = writer.commit(700, 1);
    let second = writer.commit(701, 2);
    let good = writer.filled();
    let patched = |at: Lsn, offset: usize, with: &[u8]| {
        let mut bad = good.clone();
        let at = (at.0 - start().0) as usize + offset;
        bad[at..at + with.len()].copy_from_slice(with);
        inspect(&bad)
    };
    let record = |at, fault| Err(SegmentFault::Record { at, fault });
    assert_eq!(patched(second, 17, &[100]), record(second, RecordFault::Manager(100)));
    assert_eq!(patched(second, 8, &9_u64.to_le_bytes()), record(second, RecordFault::Previous(Lsn(9))));
    assert_eq!(patched(first, 8, &first.0.to_le_bytes()), record(first, RecordFault::Previous(first)));
    assert_eq!(patched(second, 0, &23_u32.to_le_bytes()), record(second, RecordFault::Length(23)));
    assert_eq!(patched(second, 0, &u32::MAX.to_le_bytes()), record(second, RecordFault::Length(u32::MAX)));
    assert!(matches!(
        patched(second, 30, &[1]),
        Err(SegmentFault::Record { fault: RecordFault::Crc { .. }, .. })
    ));
    assert_eq!(patched(second, 0, &[0; 4]), Err(SegmentFault::EndsEarly { at: second }));
}

#[test]
fn hostile_lists_are_cut() {
    let mut writer = Writer::new();
    for number in 0..300 {
        writer.restore_point(&format!("point {number}"));
    }
    let facts = inspect(&writer.filled()).expect("a good one").facts;
    assert_eq!(facts.restore_points.len(), crate::wal::facts::MAX_RESTORE_POINTS);
    assert!(facts.truncated);
    assert_eq!(facts.restore_points[0].name, "point 0");
}

#[test]
fn prepared_transactions_end_under_their_own_id() {
    let subtransactions = 200_000_u32;
    for (count, known) in [(3, true), (subtransactions, false)] {
        let mut main = 8_i64.to_le_bytes().to_vec();
        main.extend((1_u32 << 1 | 1 << 4 | 1 << 8).to_le_bytes());
        main.extend(count.to_le_bytes());
        main.resize(main.len() + count as usize * 4, 1);
        main.extend(1_u32.to_le_bytes());
        main.resize(main.len() + 12, 1);
        main.extend(4242_u32.to_le_bytes());
        let mut writer = Writer::new();
        writer.record(1, 0x80 | 0x30, 0, &main);
        let facts = inspect(&writer.filled()).expect("a good one").facts;
        assert_eq!((facts.commits, facts.first_commit.is_some()), (1, true));
        assert_eq!(facts.xid_max, known.then_some(4242));
        assert_eq!(facts.not_understood, u64::from(!known), "too long to be kept whole, and said so");
    }
}

#[test]
fn an_unknown_version_is_checked_by_its_pages() {
    let mut writer = sample();
    writer.magic = 0xD1FF;
    // Make the pages again under the other magic number.
    let mut bytes = writer.filled();
    for page in bytes.chunks_mut(PAGE) {
        page[..2].copy_from_slice(&0xD1FF_u16.to_le_bytes());
    }
    let inspection = inspect(&bytes).expect("bytes only");
    assert_eq!((inspection.version, inspection.records_parsed, inspection.magic), (None, false, 0xD1FF));
    assert_eq!(inspection.facts, WalFacts::default());
    bytes[SIZE - PAGE + 8] ^= 0x10;
    assert!(matches!(inspect(&bytes), Err(SegmentFault::WrongPage { .. })));
    bytes[SIZE / 2..].fill(0);
    assert_eq!(inspect(&bytes).map(|found| found.valid_bytes), Ok(SIZE as u64 / 2));
    bytes[SIZE - 1] = 1;
    assert!(matches!(inspect(&bytes), Err(SegmentFault::AfterSwitch { .. })));
}

#[test]
fn block_references_are_found() {
    struct Seen(Vec<BlockRef>);
    impl RecordVisitor for Seen {
        fn record(&mut self, record: &Record<'_>) {
            if record.header.manager == 11 {
                record.parts(|block| self.0.push(block)).expect("well-formed");
            }
        }
    }
    use crate::wal::record::BlockRef;
    let mut writer = Writer::new();
    writer.page_header(0, 0);
    let at = writer.at();
    // Two blocks of one relation, the second with data, and main data.
    let mut data = vec![0, 0x10, 0, 0];
    data.extend([0x10, 0x27, 0, 0, 0x01]);
    for word in [1663_u32, 5, 16_384, 7] {
        data.extend(word.to_le_bytes());
    }
    data.extend([1, 0x80 | 0x20 | 0x02, 3, 0]);
    data.extend(8_u32.to_le_bytes());
    data.extend([255, 2]);
    data.resize(data.len() + 10_000 + 3 + 2, 9);
    let mut record = Vec::new();
    record.extend((24 + data.len() as u32).to_le_bytes());
    record.extend(3_u32.to_le_bytes());
    record.extend(writer.previous.0.to_le_bytes());
    record.extend([0, 11, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&data), &record);
    record.extend(crc.to_le_bytes());
    record.extend(&data);
    writer.spread(&record);
    writer.previous = at;
    let bytes = writer.filled();
    let mut inspector = SegmentInspector::with_visitor(name(), InspectOptions::default(), Seen(Vec::new()));
    inspector.feed(&bytes).expect("a good one");
    let (_, seen) = inspector.finish_with_visitor(SIZE as u64).expect("a good one");
    let first =
        BlockRef { tablespace: 1663, database: 5, relation: 16_384, fork: 0, block: 7, has_image: true };
    assert_eq!(seen.0, [first, BlockRef { fork: 2, block: 8, has_image: false, ..first }]);
}

/// Where a changed byte makes no difference to PostgreSQL either; see the module of the inspector.
fn is_without_crc(good: &Inspection, writer_end: usize, at: usize) -> bool {
    let in_page = at % PAGE;
    let header = if at < PAGE { LONG_HEADER } else { SHORT_HEADER };
    let tail = good.facts.unfinished_tail.map_or(SIZE, |lsn| (lsn.0 - start().0) as usize);
    let ignored_header =
        at < writer_end && in_page < header && (2..4).contains(&in_page) || (16..24).contains(&in_page);
    // The system identifier is checked against what the caller expects.
    ignored_header || at >= tail || (24..32).contains(&at)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_is_found(at in 0..SIZE, bit in 0..8_u32, filled: bool) {
        let writer = sample();
        let end = writer.bytes.len();
        let mut bytes = if filled { writer.filled() } else { writer.switched() };
        let good = inspect(&bytes).expect("a good one");
        let end = if filled { SIZE } else { end };
        bytes[at] ^= 1 << bit;
        match inspect(&bytes) {
            Err(_) => {}
            Ok(_) => prop_assert!(is_without_crc(&good, end, at) || is_padding(&bytes, at), "byte {at} bit {bit}"),
        }
    }

    #[test]
    fn random_bytes_never_panic(
        seed in proptest::collection::vec(any::<u8>(), 0..20_000),
        patches in proptest::collection::vec((0..SIZE, any::<u8>()), 0..40),
        cut in 0..SIZE + 1,
        partial: bool,
    ) {
        let options = || InspectOptions { partial, ..InspectOptions::default() };
        let _ = inspect_slice(name(), options(), &seed);
        let mut bytes = sample().filled();
        // Behind a good header, so that the walk meets the random bytes.
        let room = (SIZE - LONG_HEADER).min(seed.len());
        bytes[LONG_HEADER..LONG_HEADER + room].copy_from_slice(&seed[..room]);
        let _ = inspect_slice(name(), options(), &bytes);
        let mut bytes = sample().filled();
        for (at, byte) in patches {
            bytes[at] = byte;
        }
        let _ = inspect_slice(name(), options(), &bytes[..cut]);
        let _ = inspect_slice(name(), options(), &bytes);
    }

    #[test]
    fn random_records_never_panic(data in proptest::collection::vec(any::<u8>(), 0..300), info: u8, manager in 0..2_u8) {
        // The CRC holds, so only decoding stands between these bytes and the facts.
        let mut writer = Writer::new();
        writer.record(manager, info, 5, &data);
        let _ = inspect(&writer.filled());
    }
}

/// Is the byte padding behind a record of [`sample`]? Its records have lengths that leave less than 8 bytes each.
fn is_padding(bytes: &[u8], at: usize) -> bool {
    struct Ends(Vec<(u64, u64)>);
    impl RecordVisitor for Ends {
        fn record(&mut self, record: &Record<'_>) {
            let length = u64::from(record.header.total);
            self.0.push((record.end.0 - (length.next_multiple_of(8) - length), record.end.0));
        }
    }
    let mut inspector = SegmentInspector::with_visitor(name(), InspectOptions::default(), Ends(Vec::new()));
    inspector.feed(bytes).expect("it was accepted");
    let (_, ends) = inspector.finish_with_visitor(SIZE as u64).expect("it was accepted");
    let at = start().0 + at as u64;
    ends.0.iter().any(|(from, to)| (*from..*to).contains(&at))
}
