//! The record that begins in one WAL segment and ends in the next: neither one's facts count it.

use refloat_pg::wal::page::{LONG_HEADER, PAGE, SHORT_HEADER};
use refloat_pg::wal::record::RECORD_HEADER;
use refloat_pg::wal::{Record, RecordHeader, WalVersion, tablespace};
use refloat_types::Lsn;

use super::events::{self, Event};
use super::wal::SegmentHead;

/// Whether the record that goes on behind this WAL segment may end a transaction.
pub(super) fn may_end_transaction(head: &SegmentHead) -> bool {
    may(head, events::is_transaction_end)
}

/// Whether it may end a transaction or prepare one.
pub(super) fn may_be_promise(head: &SegmentHead) -> bool {
    may(head, events::is_promise)
}

/// Whether it may be a restore point.
pub(super) fn may_be_restore_point(head: &SegmentHead) -> bool {
    may(head, events::is_restore_point)
}

/// Whether it may make a tablespace.
pub(super) fn may_make_tablespace(head: &SegmentHead) -> bool {
    may(head, tablespace::is_made)
}

fn may(head: &SegmentHead, is: impl Fn(u8, u8) -> bool) -> bool {
    match (head.facts.tail, head.facts.wal.unfinished_tail) {
        (None, None) => false,
        // It goes on, and the header does not tell what it is.
        (None, Some(_)) => true,
        (Some(tail), _) => tail.kind.is_none_or(|(manager, operation)| is(manager, operation)),
    }
}

/// The event that the record at `at` is, when it is one. `first` are the bytes of its WAL segment from the beginning of
/// the page that it begins on, `second` the next WAL segment from its beginning. `None` also when it does not end there.
pub(super) fn event(at: Lsn, first: &[u8], second: &[u8], version: WalVersion) -> Option<Event> {
    let offset = (at.0 % PAGE as u64) as usize;
    let mut bytes = Vec::new();
    let mut total = usize::MAX;
    let mut end = at;
    let pages = first.chunks(PAGE).map(|page| (page, SHORT_HEADER));
    let pages = pages.chain(
        second
            .chunks(PAGE)
            .enumerate()
            .map(|(index, page)| (page, if index == 0 { LONG_HEADER } else { SHORT_HEADER })),
    );
    for (index, (page, header)) in pages.enumerate() {
        // Where the record's page is the first of the WAL segment, the offset lies behind the long header anyway.
        let skip = if index == 0 { offset } else { header };
        let body = page.get(skip..)?;
        let wanted = total - bytes.len();
        let taken = body.get(..wanted).unwrap_or(body);
        bytes.extend_from_slice(taken);
        let page_start = Lsn(at.0 - offset as u64).plus((index * PAGE) as u64);
        end = page_start.plus((skip + taken.len().next_multiple_of(8)) as u64);
        if total == usize::MAX {
            let length = bytes.first_chunk::<4>().map(|word| u32::from_le_bytes(*word) as usize)?;
            if length < RECORD_HEADER {
                return None;
            }
            total = length;
            bytes.truncate(total);
        }
        if bytes.len() == total {
            break;
        }
    }
    if bytes.len() != total {
        return None;
    }
    let header = RecordHeader::parse(bytes.first_chunk()?);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[RECORD_HEADER..]), &bytes[..20]);
    if crc != header.crc {
        return None;
    }
    events::event(&Record { at, end, header, version, bytes: &bytes })
}
