//! Many pushes at once, of the same and of different files, from one host and from two.

use std::fs;
use std::sync::Barrier;

use refloat_engine::wal::{Archive, PushError, Pushed, push};
use refloat_testkit::cluster::skip_without;

use super::fixture::{Place, Source, TABLE, options};

#[test]
fn many_pushes_at_once_store_each_file_once() {
    if skip_without(15) {
        return;
    }
    let (source, place) = (Source::new(), Place::new());
    let files: Vec<String> = (0..4).map(|_| source.segment(TABLE)).collect();
    let hosts = [place.other_host("a"), place.other_host("b")];
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (start, files, source, host) = (&start, &files, &source, &hosts[worker % 2]);
            scope.spawn(move || {
                start.wait();
                for turn in 0..files.len() {
                    let file = &files[(turn + worker / 4) % files.len()];
                    let done = push(&[host], &options(source.system), &source.path(file));
                    done.unwrap_or_else(|error| panic!("{file}: {}", refloat_engine::wal::one_line(&error)));
                }
            });
        }
    });
    for file in &files {
        assert_eq!(place.objects(file).len(), 1, "{file}");
    }
    let archive = Archive::read(&place.repository, source.system, None).unwrap();
    let timeline = archive.timelines.values().next().unwrap();
    assert_eq!(timeline.segments.count(), 4);
    assert!(archive.gaps().is_empty() && timeline.conflicts.is_empty());
    // Nothing unfinished stays.
    let hidden = walk(&place.store)
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0);
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(walk(&path));
        } else {
            out.push(path);
        }
    }
    out
}

#[test]
fn two_servers_that_push_one_name_at_the_same_moment_both_hear_of_it_or_one_does() {
    if skip_without(15) {
        return;
    }
    let source = Source::new();
    let ours = source.segment(TABLE);
    // Another segment that is whole under the same name: the same records, one page of them written by another hand.
    let directory = tempfile::tempdir().unwrap();
    let theirs = directory.path().join(&ours);
    let mut bytes = fs::read(source.path(&ours)).unwrap();
    let remaining = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
    let start = 40 + remaining.next_multiple_of(8);
    let total = u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap()) as usize;
    bytes[start + total - 1] ^= 1;
    let crc =
        crc32c::crc32c_append(crc32c::crc32c(&bytes[start + 24..start + total]), &bytes[start..start + 20]);
    bytes[start + 20..start + 24].copy_from_slice(&crc.to_le_bytes());
    fs::write(&theirs, bytes).unwrap();
    for _ in 0..5 {
        let place = Place::new();
        let other = place.other_host("other");
        let start = Barrier::new(2);
        let (a, b) = std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                start.wait();
                push(&[&place.repository], &options(source.system), &source.path(&ours))
            });
            start.wait();
            let second = push(&[&other], &options(source.system), &theirs);
            (first.join().unwrap(), second)
        });
        let refused = [&a, &b].into_iter().filter(|r| matches!(r, Err(PushError::Conflict { .. }))).count();
        let taken = [&a, &b].into_iter().filter(|r| matches!(r, Ok(Pushed::Stored(_)))).count();
        assert!(refused >= 1 && refused + taken == 2, "{a:?} {b:?}");
        assert_eq!(place.objects(&ours).len(), 2);
    }
}
