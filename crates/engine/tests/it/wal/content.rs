//! What is stored of a segment's bytes, held or streamed.

use std::fs;

use refloat_engine::wal::{Pushed, push};
use refloat_testkit::cluster::{TestCluster, skip_without};

use super::fixture::{Place, Source, TABLE, fetch_now, options};

/// Segments of 16 MiB are held while they are inspected, those of 64 MiB are read a second time.
#[test]
fn what_lies_behind_a_switch_is_stored_as_zeros_whatever_the_size() {
    if skip_without(15) {
        return;
    }
    for size in [16, 64] {
        let source = Source::with(TestCluster::builder().version(15).wal_segment_size_mb(size));
        let place = Place::new();
        let segment = source.segment(TABLE);
        let whole = fs::read(source.path(&segment)).unwrap();
        assert_eq!(whole.len(), (size as usize) << 20);
        let dest = place.directory.path().join("RECOVERYXLOG");

        // A page of an older file, as a crash within the switch leaves it.
        let mut stale = whole.clone();
        let (page, last) = (whole[8192..16384].to_vec(), whole.len() - 8192);
        stale[last..].copy_from_slice(&page);
        let offered = place.directory.path().join(&segment);
        fs::write(&offered, &stale).unwrap();
        let pushed = push(&[&place.repository], &options(source.system), &offered).unwrap();
        assert!(matches!(pushed, Pushed::Stored(_)));
        fetch_now(&[&place.repository], source.system, &segment, &dest).unwrap();
        assert!(fs::read(&dest).unwrap() == whole, "{size} MiB: zeros behind the switch");

        // So it is the same file as the one without.
        let Pushed::Stored(again) = source.push(&place.repository, &segment).unwrap() else {
            panic!("it is nobody's copy");
        };
        assert!(again.repositories[0].already_there);
    }
}
