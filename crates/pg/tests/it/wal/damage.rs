//! Damage to WAL that a real server wrote: refused, or where PostgreSQL itself would not see it.

use refloat_pg::wal::{InspectOptions, SegmentFault, SegmentInspector, inspect_slice};
use refloat_testkit::cluster::skip_without;
use refloat_types::{Lsn, SystemIdentifier, WalSegmentName};

use super::oracle::{Archiving, SIZE, inspect, segments_in};

const PAGE: usize = 8192;

/// Bytes of a good WAL segment whose change nobody could notice by this file alone.
struct Blind {
    start: Lsn,
    continued: u64,
    tail: u64,
    padding: Vec<(u64, u64)>,
    /// Lengths of records of the last page: a greater one could go on in the next WAL segment. The length that goes on
    /// is a fact of both, so whoever has both sees it.
    lengths: Vec<u64>,
}

impl Blind {
    fn of(name: WalSegmentName, bytes: &[u8]) -> Self {
        let (inspection, records) = inspect(name, InspectOptions::default(), bytes).expect("a good one");
        let start = name.start(inspection.segment_size);
        let padding = records.iter().filter(|(_, seen)| seen.total % 8 != 0).map(|(lsn, seen)| {
            let end = end_of(*lsn, seen.total) - start.0;
            (end, end.next_multiple_of(8))
        });
        Self {
            start,
            continued: inspection.facts.first_record.map_or(SIZE, |first| first.0 - start.0),
            tail: inspection.facts.unfinished_tail.map_or(SIZE, |tail| tail.0 - start.0),
            padding: padding.collect(),
            lengths: records
                .keys()
                .map(|lsn| lsn.0 - start.0)
                .filter(|at| at + PAGE as u64 >= SIZE)
                .collect(),
        }
    }
    fn covers(&self, at: usize) -> bool {
        let header = if at < PAGE { 40 } else { 24 };
        let in_page = at % PAGE;
        if in_page < header {
            // The flag 0x0004, the length left where nothing is left, padding; the system identifier, which is
            // compared with the expected one.
            return matches!(in_page, 2..=3 | 16..=31);
        }
        let at = at as u64;
        if self.lengths.iter().any(|length| (*length..length + 4).contains(&at)) {
            return true;
        }
        at < self.continued
            || at >= self.tail
            || self.padding.iter().any(|(from, to)| (*from..*to).contains(&at))
    }
}

/// Where the last byte of a record's `total` bytes ends, page headers passed.
fn end_of(at: Lsn, total: u32) -> u64 {
    let (mut at, mut left) = (at.0, u64::from(total));
    loop {
        let room = PAGE as u64 - at % PAGE as u64;
        if left <= room {
            return at + left;
        }
        left -= room;
        at += room;
        at += if at % SIZE == 0 { 40 } else { 24 };
    }
}

#[test]
fn a_changed_byte_is_refused_or_without_crc() {
    if skip_without(15) {
        return;
    }
    let server = Archiving::start(15, |builder| builder);
    server.cluster.pgbench_init(1);
    server.cluster.pgbench_transactions(200);
    let last = server.switch();
    let segments = server.segments();
    let full = segments.iter().rev().find(|(name, bytes)| {
        let facts = inspect(*name, InspectOptions::default(), bytes).expect("a good one").0.facts;
        facts.continued_bytes > 0 && facts.unfinished_tail.is_some() && facts.records > 100
    });
    let switched = segments.iter().find(|(name, _)| *name == last);
    for (name, bytes) in [full.expect("a filled one"), switched.expect("the last one")] {
        let blind = Blind::of(*name, bytes);
        let mut changed = bytes.clone();
        let mut accepted = 0;
        let places = (0..3 * PAGE).chain((3 * PAGE..bytes.len()).step_by(211));
        let headers = (0..bytes.len()).step_by(PAGE).flat_map(|page| page..page + 24);
        for at in places.chain(headers) {
            for bit in [0x01, 0x40] {
                changed[at] ^= bit;
                if inspect_slice(*name, InspectOptions::default(), &changed).is_ok() {
                    accepted += 1;
                    assert!(blind.covers(at), "{name}: byte {at} ({})", blind.start.plus(at as u64));
                }
                changed[at] ^= bit;
            }
        }
        assert!(accepted > 0, "the header's padding at least");
        let valid = inspect_slice(*name, InspectOptions::default(), bytes).expect("good again").valid_bytes;
        for at in (valid as usize..bytes.len()).step_by(17) {
            changed[at] ^= 0x80;
            let found = inspect_slice(*name, InspectOptions::default(), &changed);
            assert!(matches!(found, Err(SegmentFault::AfterSwitch { .. })), "byte {at} behind the switch");
            changed[at] ^= 0x80;
        }
    }
}

#[test]
fn a_file_that_is_cut_zeroed_or_foreign_is_refused() {
    if skip_without(15) {
        return;
    }
    let server = Archiving::start(15, |builder| builder);
    server.cluster.pgbench_init(1);
    server.switch();
    let segments = server.segments();
    let (name, good) = &segments[segments.len() / 2];
    let inspect = |bytes: &[u8]| inspect_slice(*name, InspectOptions::default(), bytes);
    inspect(good).expect("a good one");
    for length in (0..good.len()).step_by(9973) {
        let fault = inspect(&good[..length]).expect_err("cut");
        assert!(matches!(fault, SegmentFault::Short { .. } | SegmentFault::Empty), "{length}: {fault:?}");
        // Cut and filled with zeros, as after a power cut on some file systems.
        let mut bytes = good.clone();
        bytes[length..].fill(0);
        let fault = inspect(&bytes);
        if bytes == *good {
            continue;
        }
        let fault = fault.expect_err("zeroed");
        let torn = matches!(
            fault,
            SegmentFault::Zero
                | SegmentFault::NotWal { .. }
                | SegmentFault::SegmentSize { .. }
                | SegmentFault::PageSize { .. }
                | SegmentFault::EndsEarly { .. }
                | SegmentFault::PageHeader { .. }
                | SegmentFault::WrongPage { .. }
                | SegmentFault::WrongTimeline { .. }
                | SegmentFault::Record { .. }
        );
        assert!(torn, "{length}: {fault:?}");
    }
    // Two sectors torn in the middle.
    let mut bytes = good.clone();
    bytes[500_000..501_024].fill(0);
    assert!(inspect(&bytes).is_err());

    let own = server.cluster.psql("postgres", "select system_identifier from pg_control_system();");
    let own: SystemIdentifier = own.parse().expect("a number");
    let expected = SystemIdentifier(own.0 ^ 1);
    let options = InspectOptions { expected_system: Some(expected), ..InspectOptions::default() };
    let mut inspector = SegmentInspector::new(*name, options);
    let fault = SegmentFault::ForeignSystem { found: own, expected };
    assert_eq!(inspector.feed(&good[..PAGE]), Err(fault.clone()), "as early as its first page");
    assert_eq!(inspector.feed(&good[PAGE..]), Err(fault.clone()));
    assert_eq!(inspector.finish(SIZE), Err(fault));

    // Another one's name.
    let (other, _) = &segments[segments.len() / 2 + 1];
    let fault = inspect_slice(*other, InspectOptions::default(), good);
    assert!(matches!(fault, Err(SegmentFault::WrongPage { .. })), "{fault:?}");
}

#[test]
fn recycled_files_are_refused() {
    if skip_without(15) {
        return;
    }
    let server = Archiving::start(15, |builder| builder.setting("min_wal_size", "32MB"));
    for _ in 0..3 {
        server.cluster.pgbench_init(1);
        server.switch();
        server.cluster.psql("postgres", "checkpoint;");
    }
    let current = server.cluster.psql("postgres", "select pg_walfile_name(pg_current_wal_lsn());");
    let current: WalSegmentName = current.parse().expect("a WAL segment");
    let mut recycled = 0;
    for (name, bytes) in segments_in(&server.cluster.data_directory().join("pg_wal")) {
        if name <= current {
            continue;
        }
        let fault = inspect_slice(name, InspectOptions::default(), &bytes).expect_err("not written yet");
        recycled += usize::from(matches!(fault, SegmentFault::WrongPage { .. }));
        assert!(matches!(fault, SegmentFault::WrongPage { .. } | SegmentFault::Zero), "{name}: {fault:?}");
    }
    assert!(recycled > 0, "no file was recycled");
    // The one being written is not whole yet.
    let bytes = std::fs::read(server.cluster.data_directory().join("pg_wal").join(current.to_string()));
    assert!(inspect_slice(current, InspectOptions::default(), &bytes.expect("it exists")).is_err());
}
