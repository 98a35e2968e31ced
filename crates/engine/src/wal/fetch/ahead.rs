//! Reading ahead: while PostgreSQL replays one WAL segment, a process fetches those that it will ask for next.
//!
//! Over a network a segment costs several questions and their way there and back, whatever its bytes; asked for one after the
//! other, by a process each, they make a long recovery wait more than it replays. What comes ahead was verified like every
//! other, and lies in a [`Spool`] until it is asked for.
//!
//! Nothing is decided here: what cannot be had (it is not there, it is damaged, the repository does not answer) is left to the
//! process that is asked for it, which says so, heals it or stops the recovery.

mod spool;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use refloat_repo::repository::StoredWal;
use refloat_repo::wal_object::Wanted;
use refloat_repo::{RepoError, Repository};
use refloat_types::{SystemIdentifier, WalFileName, WalSegmentName, WalSegmentSize};

use super::{Trouble, one_of};

pub use spool::{Served, Spool};

/// WAL segments that are on their way at once: the way there and back of one is the time of the others' bytes.
const WORKERS: usize = 4;
/// How many are fetched at first. Reading fewer ahead is not worth a process.
const FIRST: u64 = 2;
/// What nobody asks for any more is given up after this long. A replay may be slow, or be delayed on purpose.
const IDLE: Duration = Duration::from_secs(600);
/// How often it is looked what was asked for while somebody asks.
const LOOK: Duration = Duration::from_millis(5);
/// The same where nobody did for a second.
const SELDOM: Duration = Duration::from_millis(100);
/// How often it is looked whether the recovery goes on.
const RECOVERY: Duration = Duration::from_millis(250);
/// What was listed counts as long: then it is looked again, for what a person would want to know of.
const LISTED: Duration = Duration::from_secs(5);
/// Of the room that may be taken, so many times as much has to be free: a recovery must not end for what it did not need yet.
const FREE: u64 = 4;

/// What to read ahead.
#[derive(Clone, Copy)]
pub struct ReadAhead<'a> {
    /// The repositories, the first one first, and their names.
    pub repositories: &'a [(&'a str, &'a Repository)],
    /// The cluster.
    pub system: SystemIdentifier,
    /// The size of its segments.
    pub segment_size: WalSegmentSize,
    /// The WAL segment that was asked for last.
    pub after: WalSegmentName,
    /// How many bytes may lie there.
    pub room: u64,
}

/// How many WAL segments of `size` may lie in `room`; none where reading ahead is not worth a process.
pub fn window(room: u64, size: WalSegmentSize) -> Option<u64> {
    let segments = room / size.bytes();
    (segments >= FIRST).then_some(segments)
}

/// Reads ahead of whoever takes WAL segments out of `served`, as long as they come and are taken and `goes_on`. Then it removes
/// what lies there and calls `end`, which need not come back: what is on its way may hang.
pub fn read_ahead(served: &Served, what: ReadAhead<'_>, goes_on: &dyn Fn() -> bool, end: impl FnOnce()) {
    let Some(window) = window(what.room, what.segment_size) else { return };
    let progress = Progress { at: what.after, reach: FIRST, held: BTreeMap::new(), end: None, stop: false };
    let listed = what.repositories.iter().map(|_| Mutex::new(None)).collect();
    let (progress, moved) = (Mutex::new(progress), Condvar::new());
    let reader = Reader { served, what, window, progress, moved, listed };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            // Where no thread can be started (too many processes), the recovery fetches for itself.
            let _ =
                std::thread::Builder::new().name("ahead".to_owned()).spawn_scoped(scope, || reader.work());
        }
        reader.follow(goes_on);
        reader.progress().stop = true;
        reader.moved.notify_all();
        served.leave();
        end();
    });
}

struct Reader<'a> {
    served: &'a Served,
    what: ReadAhead<'a>,
    window: u64,
    progress: Mutex<Progress>,
    moved: Condvar,
    /// What was listed last of each repository: one list is of 16 WAL segments.
    listed: Vec<Mutex<Option<Listed>>>,
}

/// What lies in a repository around a WAL segment.
struct Listed {
    at: Instant,
    found: Vec<StoredWal>,
}

/// How far all is.
struct Progress {
    /// The WAL segment that was asked for last.
    at: WalSegmentName,
    /// How many behind it are fetched: few at first, and more as they are taken. Who replays slowly has little fetched in vain.
    reach: u64,
    /// What was begun: whether it is complete.
    held: BTreeMap<WalSegmentName, bool>,
    /// The first that could not be had.
    end: Option<WalSegmentName>,
    stop: bool,
}

impl Progress {
    /// Whether `name` may still be asked for: it is the one that is, or within the window behind it.
    fn is_ahead(&self, name: WalSegmentName, window: u64, size: WalSegmentSize) -> bool {
        let number = self.at.number(size);
        name.timeline == self.at.timeline && (number..=number + window).contains(&name.number(size))
    }

    /// The next one to begin.
    fn next(&self, size: WalSegmentSize) -> Option<WalSegmentName> {
        let behind = std::iter::successors(Some(self.at.next(size)), |name| Some(name.next(size)));
        behind
            .take(usize::try_from(self.reach).unwrap_or(usize::MAX))
            .take_while(|name| Some(*name) != self.end)
            .find(|name| !self.held.contains_key(name))
    }

    /// Nothing more comes, and all that came was asked for.
    fn is_over(&self, size: WalSegmentSize) -> bool {
        self.end == Some(self.at.next(size)) && self.held.values().all(|complete| *complete)
    }
}

impl Reader<'_> {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows whoever asks, until nobody does.
    fn follow(&self, goes_on: &dyn Fn() -> bool) {
        let (mut moved, mut looked) = (Instant::now(), Instant::now());
        loop {
            if looked.elapsed() >= RECOVERY {
                looked = Instant::now();
                if !self.served.is_there() || !goes_on() {
                    return;
                }
            }
            if let Some(asked) = self.served.asked()
                && self.progress().at != asked
            {
                moved = Instant::now();
                self.move_to(asked);
            }
            if moved.elapsed() >= IDLE || self.is_over() {
                return;
            }
            std::thread::sleep(if moved.elapsed() < Duration::from_secs(1) { LOOK } else { SELDOM });
        }
    }

    /// Nothing more comes, and all that came was taken. The last one was asked for before it is taken.
    fn is_over(&self) -> bool {
        let progress = self.progress();
        let mut last = self.places(progress.at);
        progress.is_over(self.what.segment_size) && !last.any(|path| path.exists())
    }

    /// Where a WAL segment may lie.
    fn places(&self, name: WalSegmentName) -> impl Iterator<Item = PathBuf> {
        let repositories = self.what.repositories.iter();
        repositories.map(move |(repository, _)| self.served.file(self.what.system, name, repository))
    }

    fn move_to(&self, asked: WalSegmentName) {
        let mut progress = self.progress();
        progress.at = asked;
        if progress.held.contains_key(&asked) {
            progress.reach = (progress.reach * 2).min(self.window);
        }
        let size = self.what.segment_size;
        // It is asked for again, or somewhere else is gone on: what could not be had may be there now.
        if progress.end.is_some_and(|end| end == asked || !progress.is_ahead(end, u64::MAX / 2, size)) {
            progress.end = None;
        }
        let passed: Vec<WalSegmentName> = progress
            .held
            .iter()
            .filter(|(name, complete)| **complete && !progress.is_ahead(**name, self.window, size))
            .map(|(name, _)| *name)
            .collect();
        for name in passed {
            progress.held.remove(&name);
            self.remove(name);
        }
        self.moved.notify_all();
    }

    /// Removes a WAL segment, which most often was taken.
    fn remove(&self, name: WalSegmentName) {
        for path in self.places(name) {
            let _ = fs::remove_file(path);
        }
    }

    /// Fetches what comes next, until the end.
    fn work(&self) {
        let size = self.what.segment_size;
        while let Some(name) = self.begin() {
            let came = self.bring(name);
            let mut progress = self.progress();
            if came && progress.is_ahead(name, self.window, size) {
                progress.held.insert(name, true);
                continue;
            }
            progress.held.remove(&name);
            if came {
                self.remove(name);
            } else if progress.end.is_none_or(|end| end.timeline != name.timeline || name < end) {
                progress.end = Some(name);
            }
        }
    }

    /// Waits for something to do; `None` at the end.
    fn begin(&self) -> Option<WalSegmentName> {
        let mut progress = self.progress();
        loop {
            if progress.stop {
                return None;
            }
            let has_room = || self.served.free_bytes().is_some_and(|free| free / FREE >= self.what.room);
            if let Some(name) = progress.next(self.what.segment_size)
                && has_room()
            {
                progress.held.insert(name, false);
                return Some(name);
            }
            progress = self.moved.wait_timeout(progress, SELDOM).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether it is there, out of the first repository that has it.
    fn bring(&self, name: WalSegmentName) -> bool {
        let system = self.what.system;
        let Ok(_coming) = self.served.coming(system, name) else { return false };
        let draft = self.served.draft(name);
        for (place, (repository, opened)) in self.what.repositories.iter().enumerate() {
            let brought = self.found(place, name).map_err(Trouble::Repo);
            match brought.and_then(|found| one_of(opened, found, Wanted::Soon, &draft)) {
                Ok(Some(_)) => return fs::rename(&draft, self.served.file(system, name, repository)).is_ok(),
                Ok(None) => {}
                Err(trouble) => {
                    tracing::debug!(%name, repository, ?trouble, "it is left to whoever asks for it");
                    return false;
                }
            }
        }
        false
    }

    /// What a repository has of a WAL segment.
    fn found(&self, place: usize, name: WalSegmentName) -> Result<Vec<StoredWal>, RepoError> {
        let (_, repository) = self.what.repositories[place];
        let of_name = |found: &[StoredWal]| -> Vec<StoredWal> {
            let wanted = WalFileName::Segment(name);
            found.iter().filter(|stored| stored.name == wanted).cloned().collect()
        };
        let mut listed = self.listed[place].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listed) = listed.as_ref().filter(|listed| listed.at.elapsed() < LISTED) {
            let found = of_name(&listed.found);
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let at = Instant::now();
        let found = repository.find_wal_around(self.what.system, name)?;
        let of_it = of_name(&found);
        *listed = Some(Listed { at, found });
        Ok(of_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(16 << 20).expect("a size")
    }

    fn segment(timeline: u32, number: u64) -> WalSegmentName {
        let timeline = refloat_types::TimelineId::new(timeline).expect("a timeline");
        WalSegmentName::numbered(timeline, number, size())
    }

    fn progress(at: u64) -> Progress {
        Progress { at: segment(1, at), reach: 4, held: BTreeMap::new(), end: None, stop: false }
    }

    #[test]
    fn segments_are_begun_in_order_within_the_window_and_before_the_end() {
        let mut progress = progress(254);
        let mut begun = Vec::new();
        while let Some(name) = progress.next(size()) {
            begun.push(name.number(size()));
            progress.held.insert(name, false);
        }
        assert_eq!(begun, [255, 256, 257, 258]);
        progress.held.remove(&segment(1, 257));
        progress.end = Some(segment(1, 257));
        assert_eq!(progress.next(size()), None);
        progress.at = segment(2, 254);
        assert_eq!(progress.next(size()), Some(segment(2, 255)));
    }

    #[test]
    fn what_was_passed_is_not_ahead() {
        let progress = progress(10);
        let ahead = |name| progress.is_ahead(name, 3, size());
        // The one that is asked for is being taken.
        assert!(ahead(segment(1, 10)) && ahead(segment(1, 13)));
        assert!(!ahead(segment(1, 9)) && !ahead(segment(1, 14)) && !ahead(segment(2, 11)));
    }

    #[test]
    fn it_is_over_when_all_that_came_was_asked_for() {
        let mut progress = progress(10);
        assert!(!progress.is_over(size()));
        progress.end = Some(segment(1, 12));
        progress.held.insert(segment(1, 11), true);
        assert!(!progress.is_over(size()));
        progress.at = segment(1, 11);
        assert!(progress.is_over(size()));
        // Another one is on its way yet, behind the end.
        progress.held.insert(segment(1, 13), false);
        assert!(!progress.is_over(size()));
    }

    #[test]
    fn large_segments_are_not_read_ahead() {
        assert_eq!(window(128 << 20, size()), Some(8));
        assert_eq!(window(128 << 20, WalSegmentSize::new(128 << 20).expect("a size")), None);
        assert_eq!(window(0, size()), None);
    }
}
