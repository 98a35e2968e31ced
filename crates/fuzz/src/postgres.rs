//! What PostgreSQL writes, and what else may lie in its place.

use refloat_pg::conf::{comment_out, parse_line, set, split_list};
use refloat_pg::control::{ControlFile, poison};
use refloat_pg::history::TimelineHistory;
use refloat_pg::label::{BackupLabel, parse_tablespace_map};
use refloat_pg::layout::{classify, contents_excluded};
use refloat_pg::page::{check_page, check_page_header, check_pages, page_lsn};
use refloat_pg::wal::record::{RECORD_HEADER, manager};
use refloat_pg::wal::{
    BackupHistory, InspectOptions, Record, RecordHeader, RecordVisitor, SegmentInspector, WalVersion,
    tablespace, xact,
};
use refloat_types::{Explain as _, Lsn, TimelineId, WalFileName, WalSegmentName};

const PAGE: usize = 8192;
const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;
/// Page magics of the versions that are read, 13 to 18.
const MAGICS: [u16; 6] = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];

fn segment_name() -> WalSegmentName {
    "000000010000000000000001".parse().expect("it is one")
}

/// The same place in the WAL, in files of 1 MiB.
fn small_segment_name() -> WalSegmentName {
    "000000010000000000000010".parse().expect("it is one")
}

const SMALL_SEGMENT: usize = 1 << 20;

/// Takes every record apart that the walk hands out.
struct Apart;

impl RecordVisitor for Apart {
    fn record(&mut self, record: &Record<'_>) {
        take_apart(record);
    }
}

fn take_apart(record: &Record<'_>) {
    let mut blocks = 0;
    if let Ok(parts) = record.parts(|_| blocks += 1) {
        let info = record.header.info;
        for ending in [xact::Ending::Commit, xact::Ending::Abort] {
            let _ = xact::parse(parts.main, info, ending, record.version);
        }
        let _ = (xact::time(parts.main), xact::prepared_time(parts.main));
        assert!(parts.main.len() <= record.bytes.len());
    }
    assert!(blocks <= 33, "a record has 33 block references at most");
    let _ = tablespace::directory(record);
}

/// Pages and records of a WAL segment. The first byte says how it is read; CRCs of records within a page are made right.
pub fn wal_segment(bytes: &[u8]) {
    let Some((how, pages)) = bytes.split_first() else { return };
    let mut pages = pages.to_vec();
    if how & 1 == 0 {
        mend_records(&mut pages);
    }
    let options = InspectOptions {
        partial: how & 2 != 0,
        expected_system: None,
        ancestors: if how & 4 == 0 { Vec::new() } else { vec![TimelineId::FIRST] },
    };
    let is_small = how & 16 != 0;
    let name = if is_small { small_segment_name() } else { segment_name() };
    let mut inspector = SegmentInspector::with_visitor(name, options, Apart);
    let step = if how & 8 == 0 { PAGE } else { 1000 };
    for piece in pages.chunks(step) {
        if let Err(fault) = inspector.feed(piece) {
            let _ = (fault.to_string(), fault.advice());
            return;
        }
    }
    // Most of a file that was switched, or is not full yet, is zeros; with files of 16 MiB that would take too long.
    let mut length = pages.len();
    while is_small && length < SMALL_SEGMENT {
        let piece = (SMALL_SEGMENT - length).min(16 * PAGE);
        if let Err(fault) = inspector.feed(&[0; 16 * PAGE][..piece]) {
            let _ = (fault.to_string(), fault.advice());
            return;
        }
        length += piece;
    }
    let length = length as u64;
    match inspector.finish_with_visitor(length) {
        Ok((inspection, _)) => assert!(inspection.valid_bytes <= length),
        Err(fault) => drop((fault.to_string(), fault.advice())),
    }
}

/// Sets the CRC of every record that lies within one page.
fn mend_records(pages: &mut [u8]) {
    for (number, page) in pages.chunks_mut(PAGE).enumerate() {
        let word = |page: &[u8], at: usize| {
            page.get(at..).and_then(|rest| rest.first_chunk()).map(|four| u32::from_le_bytes(*four) as usize)
        };
        let header = if number == 0 { LONG_HEADER } else { SHORT_HEADER };
        // What goes on from the page before is passed over.
        let begins = word(page, 16).and_then(|rest| rest.checked_add(header + 7)).map(|at| at & !7);
        let mut at = begins.unwrap_or(usize::MAX);
        while let Some(total) = word(page, at).filter(|total| *total >= RECORD_HEADER) {
            let Some(record) = at.checked_add(total).and_then(|end| page.get_mut(at..end)) else { break };
            let crc = crc32c::crc32c_append(crc32c::crc32c(&record[RECORD_HEADER..]), &record[..20]);
            record[20..24].copy_from_slice(&crc.to_le_bytes());
            at = (at + total + 7) & !7;
        }
    }
}

/// One record, whatever its CRC says. The first byte chooses the version.
pub fn wal_record(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let Some(header) = bytes.first_chunk::<RECORD_HEADER>() else { return };
    let magic = MAGICS[usize::from(*how) % MAGICS.len()];
    let Some(version) = WalVersion::from_magic(magic) else { return };
    let mut header = RecordHeader::parse(header);
    let kept = bytes.len().min(header.total as usize);
    take_apart(&Record { at: Lsn(1 << 24), end: Lsn(2 << 24), header, version, bytes: &bytes[..kept] });
    header.total = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    for made_by in [header.manager, manager::XLOG, manager::XACT, manager::TABLESPACE] {
        header.manager = made_by;
        take_apart(&Record { at: Lsn(1 << 24), end: Lsn(2 << 24), header, version, bytes });
    }
}

/// `global/pg_control`, also with its CRC made right.
pub fn control_file(bytes: &[u8]) {
    let read = |bytes: &[u8]| match ControlFile::parse(bytes) {
        Ok(_) => drop(poison(bytes)),
        Err(error) => drop(error.to_string()),
    };
    read(bytes);
    // Where the CRC stands differs between versions.
    for at in [288_usize, 292] {
        let mut mended = bytes.to_vec();
        let Some(covered) = mended.get(..at) else { continue };
        let crc = crc32c::crc32c(covered).to_le_bytes();
        if let Some(stored) = mended.get_mut(at..at + 4) {
            stored.copy_from_slice(&crc);
            read(&mended);
        }
    }
}

/// `backup_label`.
pub fn backup_label(bytes: &[u8]) {
    if let Err(error) = BackupLabel::parse(bytes) {
        let _ = error.to_string();
    }
}

/// `tablespace_map`.
pub fn tablespace_map(bytes: &[u8]) {
    if let Err(error) = parse_tablespace_map(bytes) {
        let _ = error.to_string();
    }
}

/// `0000000N.history`; the first byte is the timeline.
pub fn timeline_history(bytes: &[u8]) {
    let Some((number, text)) = bytes.split_first() else { return };
    let Some(timeline) = TimelineId::new(u32::from(*number)) else { return };
    match TimelineHistory::parse(timeline, text) {
        Err(fault) => drop(fault.to_string()),
        Ok(history) => {
            assert!(history.includes(timeline));
            for lsn in [Lsn(0), Lsn(1 << 24), Lsn(u64::MAX)] {
                assert!(history.contains(history.timeline_at(lsn), lsn), "{history:?} at {lsn}");
            }
            for fork in history.ancestors() {
                let _ = (history.fork_of(fork), history.start_of(fork));
            }
            let next = TimelineId::new(256).expect("it is not 0");
            let _ = history.forked(next, Lsn(1 << 40), "fuzz");
        }
    }
}

/// `….backup`: what PostgreSQL archives of a backup.
pub fn backup_history(bytes: &[u8]) {
    if let Err(fault) = BackupHistory::parse(segment_name(), 0x28, bytes) {
        let _ = (fault.to_string(), fault.advice());
    }
}

/// `postgresql.conf` and `postgresql.auto.conf`.
pub fn server_configuration(bytes: &[u8]) {
    let names = ["restore_command", "recovery_target_time", "port"];
    let done = comment_out(bytes, &names, "why");
    let again = comment_out(&done.text, &names, "why");
    assert_eq!(again.text, done.text, "nothing is left to comment out");
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = parse_line(line);
    }
    let _ = split_list(bytes);
    if let Ok(value) = std::str::from_utf8(bytes)
        && let Some(text) = set(b"port = 5432\n", "archive_command", value)
    {
        assert!(text.starts_with(b"port = 5432\n"));
    }
}

/// Pages of relations; the first byte is the block's number.
pub fn page(bytes: &[u8]) {
    let Some((block, pages)) = bytes.split_first() else { return };
    let block = u32::from(*block);
    let _ = (check_page(pages, block), check_page_header(pages), page_lsn(pages));
    for size in [0, 1024, PAGE] {
        for has_checksums in [false, true] {
            check_pages(pages, block, size, has_checksums, |_, _| {});
        }
    }
}

/// Names of files in a data directory and in an archive.
pub fn file_names(bytes: &[u8]) {
    let _ = (classify(bytes), contents_excluded(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = text.parse::<WalFileName>() {
        assert_eq!(name.to_string(), text, "a name has one spelling");
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse::<Lsn>().ok(), Some(lsn));
    }
}
