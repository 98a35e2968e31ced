//! Reading in windows: whatever their size, the same bytes come out.

use std::collections::HashMap;
use std::sync::Mutex;

use refloat_engine::restore::read::{Backup, FileSlot, Sink, SinkError, Window};
use refloat_repo::manifest::{Entry, What};

use super::*;

/// Keeps the bytes of every file.
#[derive(Default)]
struct Kept {
    files: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    finished: Mutex<Vec<Vec<u8>>>,
}

impl Kept {
    fn put(&self, file: &FileSlot, offset: u64, bytes: &[u8]) {
        let mut files = self.files.lock().expect("not poisoned");
        let kept = files.entry(file.path.clone()).or_insert_with(|| vec![0; file.size as usize]);
        kept[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }
}

impl Sink for Kept {
    type Worker = ();
    fn worker(&self) {}
    fn whole(&self, (): &mut (), file: &FileSlot, bytes: &[u8]) -> Result<(), SinkError> {
        assert_eq!(bytes.len() as u64, file.size);
        self.put(file, 0, bytes);
        self.finish(&mut (), file)
    }
    fn piece(&self, (): &mut (), file: &FileSlot, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        self.put(file, offset, bytes);
        Ok(())
    }
    fn finish(&self, (): &mut (), file: &FileSlot) -> Result<(), SinkError> {
        self.put(file, 0, &[]);
        self.finished.lock().expect("not poisoned").push(file.path.clone());
        Ok(())
    }
}

#[test]
fn small_windows_give_the_same_files() {
    let cluster = TestCluster::builder().build();
    // A relation of several ranges of 32 MiB, so that a file is cut by windows.
    cluster.pgbench_init(6);
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let backup = Backup::open(&home.repository, &commit).expect("opens");
    let mut results = Vec::new();
    for window in [
        Window::default(),
        Window { bytes: 1, pieces: 1, files: 1 },
        Window { bytes: 3 << 20, pieces: 40, files: 7 },
    ] {
        let kept = Kept::default();
        let mut crcs = HashMap::new();
        let mut each = |entry: &Entry, crc: u32| {
            if matches!(entry.what, What::File { .. }) {
                crcs.insert(entry.path.clone(), crc);
            }
            Ok(true)
        };
        backup.read(&kept, &mut each, 3, window, &Silent).expect("reads");
        let files = kept.files.into_inner().expect("not poisoned");
        let mut finished = kept.finished.into_inner().expect("not poisoned");
        let all = finished.len();
        finished.sort();
        finished.dedup();
        assert_eq!((all, finished.len()), (files.len(), files.len()), "each is finished once");
        assert_eq!(crcs.len(), files.len());
        for (path, bytes) in &files {
            assert_eq!(crc32c::crc32c(bytes), crcs[path], "{}", String::from_utf8_lossy(path));
        }
        results.push(files);
    }
    assert!(results[0].values().any(|bytes| bytes.len() > 64 << 20), "one is longer than two ranges");
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}
