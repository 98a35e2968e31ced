//! WAL segments that no server has written.

/// Changes the last byte of the first record that begins in a segment, and its CRC: another segment of the same name, right
/// in itself, as a second server would write it that went on from the same moment.
///
/// # Panics
/// When that record does not lie in the first page.
pub fn change_one_record(bytes: &mut [u8]) {
    let number = |at: usize| -> usize {
        let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).expect("a page");
        u32::from_le_bytes(four) as usize
    };
    // Behind the long page header: what remains of the record before.
    let start = 40 + number(16).next_multiple_of(8);
    let end = start + number(start);
    assert!(end < 8192, "the first record lies in the first page");
    let record = bytes.get_mut(start..end).expect("inside the page");
    if let Some(last) = record.last_mut() {
        *last ^= 1;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
}
