use std::time::Duration;

use super::*;

/// A plausible control file of the given format.
pub(super) fn sample(version: u32) -> Vec<u8> {
    let mut bytes = vec![0; CONTROL_FILE_SIZE];
    let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
    put(0, &7_310_000_000_000_000_001_u64.to_le_bytes());
    put(8, &version.to_le_bytes());
    put(12, &202_506_291_u32.to_le_bytes());
    put(16, &6_u32.to_le_bytes());
    put(24, &1_700_000_000_i64.to_le_bytes());
    put(32, &0x0200_0060_u64.to_le_bytes());
    put(40, &0x0200_0028_u64.to_le_bytes());
    put(48, &2_u32.to_le_bytes());
    put(52, &1_u32.to_le_bytes());
    put(56, &[1]);
    put(60, &1_u32.to_le_bytes());
    put(64, &((1_u64 << 32) + 730).to_le_bytes());
    put(104, &1_699_999_999_i64.to_le_bytes());
    put(172, &2_u32.to_le_bytes());
    put(180, &100_i32.to_le_bytes());
    put(216, &8192_u32.to_le_bytes());
    put(220, &131_072_u32.to_le_bytes());
    put(224, &8192_u32.to_le_bytes());
    put(228, &(16_u32 << 20).to_le_bytes());
    put(252, &1_u32.to_le_bytes());
    put(256, &[1]);
    seal(&mut bytes);
    bytes
}

fn seal(bytes: &mut [u8]) {
    let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four"));
    let end = crc_offset(version).expect("known");
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn fields_are_read_in_each_format() {
    for (version, level, signed) in [
        (1300, None, None),
        (1700, Some(WalLevel::Replica), None),
        (1800, Some(WalLevel::Replica), Some(true)),
    ] {
        let control = ControlFile::parse(&sample(version)).expect("valid");
        assert_eq!(control.control_version, version);
        assert_eq!(control.checkpoint.wal_level, level);
        assert_eq!(control.char_is_signed, signed);
        assert_eq!(control.checkpoint.timeline.get(), 2);
        assert_eq!(control.checkpoint.redo.to_string(), "0/2000028");
        assert_eq!(control.checkpoint.next_xid >> 32, 1);
        assert_eq!(control.wal_level, WalLevel::Logical);
        assert_eq!(control.min_recovery_point, None);
        assert_eq!(control.major_version(), Some(18));
        assert!(control.has_checksums());
    }
}

#[test]
fn every_flipped_bit_of_the_data_is_found() {
    let good = sample(1800);
    for bit in 0..296 * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = ControlFile::parse(&bad).expect_err("damaged");
        match bit / 8 {
            8..12 => assert!(matches!(error, ControlFileError::Version { .. }), "{bit}"),
            _ => assert!(matches!(error, ControlFileError::Crc { .. }), "{bit}"),
        }
    }
}

#[test]
fn short_foreign_and_implausible_files_are_refused() {
    let good = sample(1300);
    for length in 0..292 {
        let error = ControlFile::parse(&good[..length]).expect_err("short");
        assert_eq!(error, ControlFileError::Short { length });
    }
    assert!(ControlFile::parse(&good[..292]).is_ok());
    let mut other = good.clone();
    other[8..12].copy_from_slice(&1300_u32.to_be_bytes());
    assert_eq!(ControlFile::parse(&other), Err(ControlFileError::Version { found: 1300_u32.swap_bytes() }));
    for (at, field) in [
        (16, "the state of the cluster"),
        (48, "the timeline"),
        (172, "wal_level"),
        (216, "the block size"),
        (220, "the size of relation segments"),
        (228, "the size of WAL segments"),
    ] {
        let mut bad = good.clone();
        let value: u32 = if matches!(at, 48 | 220) { 0 } else { 77 };
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        seal(&mut bad);
        assert_eq!(
            ControlFile::parse(&bad),
            Err(ControlFileError::Implausible { field, value: i64::from(value) })
        );
    }
}

#[test]
fn a_poisoned_file_differs_only_in_its_pointer() {
    for version in [1300, 1700, 1800] {
        let good = sample(version);
        let poisoned = poison(&good).expect("valid");
        let mut expected = ControlFile::parse(&good).expect("valid");
        expected.checkpoint.location = POISONED_CHECKPOINT;
        assert_eq!(ControlFile::parse(&poisoned).expect("valid"), expected);
        assert_eq!(poisoned.len(), good.len());
        let mut torn = good;
        torn[100] ^= 1;
        assert!(matches!(poison(&torn), Err(ControlFileError::Crc { .. })));
    }
}

#[test]
fn a_torn_read_is_tried_again() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let global = directory.path().join("global");
    std::fs::create_dir(&global).expect("made");
    let file = global.join("pg_control");
    let mut torn = sample(1800);
    torn[24] ^= 1;
    std::fs::write(&file, &torn).expect("written");
    let mender = {
        let file = file.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            std::fs::write(file, sample(1800)).expect("written");
        })
    };
    let (control, bytes) = read_settled(directory.path()).expect("settles");
    mender.join().expect("done");
    assert_eq!(control.checkpoint.timeline.get(), 2);
    assert_eq!(bytes, sample(1800));

    std::fs::write(&file, &torn).expect("written");
    let error = read_settled(directory.path()).expect_err("stays torn");
    assert_eq!(error.advice().code, "FILE-003");
    std::fs::remove_file(&file).expect("removed");
    let error = read_settled(directory.path()).expect_err("gone");
    assert_eq!(error.advice().code, "FILE-004");
}
