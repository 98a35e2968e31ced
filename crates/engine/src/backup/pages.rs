//! Pages that did not look right, and the second look that decides.
//!
//! A page read while PostgreSQL wrote it may be half old, half new: WAL replay writes it whole, so it does no harm. Read
//! again at least 100 ms later it has changed. The same bytes twice were not being written: that is corruption,
//! whatever LSN the page carries, for a damaged page may carry any.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use refloat_pg::page::{PageState, check_page, check_page_header};
use refloat_repo::crypt::page_hash::PageHasher;

use super::BadPage;

/// How long a page may take to be written.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a page that keeps changing is looked at.
const LOOKS: usize = 50;
/// How many suspects are kept; whoever has more has lost a disk, and the number says so.
pub(super) const MOST_SUSPECTS: usize = 100_000;

/// A page that did not look right when it was copied.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    pub(super) path: Vec<u8>,
    /// Counted in the whole relation fork.
    pub(super) block: u32,
    pub(super) file_offset: u64,
    pub(super) length: u32,
    /// Hash of what was copied.
    pub(super) hash: u64,
    pub(super) state: PageState,
}

/// Looks again and answers what is corrupt. Call it at least [`PAUSE`] after the last suspect was read, or let `since`
/// say when that was.
pub(super) fn judge(
    data_directory: &Path,
    hasher: &PageHasher,
    checksums: bool,
    mut suspects: Vec<Suspect>,
    since: Instant,
) -> io::Result<Vec<BadPage>> {
    let mut bad = Vec::new();
    let mut read_at = since;
    for _ in 0..LOOKS {
        if suspects.is_empty() {
            break;
        }
        std::thread::sleep(PAUSE.saturating_sub(read_at.elapsed()));
        read_at = Instant::now();
        let mut open: BTreeMap<Vec<u8>, Option<File>> = BTreeMap::new();
        let mut again = Vec::new();
        for mut suspect in suspects {
            if open.len() > 64 {
                open.clear();
            }
            let file = match open.get(&suspect.path) {
                Some(file) => file,
                None => {
                    let file = open_if_there(data_directory, &suspect.path)?;
                    open.entry(suspect.path.clone()).or_insert(file)
                }
            };
            // Dropped or truncated meanwhile: WAL says so.
            let Some(page) = file.as_ref().map(|f| read_page(f, &suspect)).transpose()?.flatten() else {
                continue;
            };
            let state = state_of(&page, &suspect, checksums);
            if state.is_good() {
                continue;
            }
            if hasher.hash(&page) == suspect.hash {
                bad.push(describe(&suspect, state));
            } else {
                suspect.hash = hasher.hash(&page);
                suspect.length = page.len() as u32;
                again.push(suspect);
            }
        }
        suspects = again;
    }
    Ok(bad)
}

fn state_of(page: &[u8], suspect: &Suspect, checksums: bool) -> PageState {
    match suspect.state {
        PageState::Partial { .. } if page.len() == suspect.length as usize => {
            PageState::Partial { length: page.len() }
        }
        _ if checksums => check_page(page, suspect.block),
        _ => check_page_header(page),
    }
}

fn open_if_there(data_directory: &Path, path: &[u8]) -> io::Result<Option<File>> {
    use std::os::unix::ffi::OsStrExt as _;
    match File::open(data_directory.join(std::ffi::OsStr::from_bytes(path))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The page as it is now: `None` where the file has become shorter. A partial page is read as far as a block may reach,
/// so that one that grew whole is seen to have changed.
fn read_page(file: &File, suspect: &Suspect) -> io::Result<Option<Vec<u8>>> {
    let partial = matches!(suspect.state, PageState::Partial { .. });
    let mut page = vec![0; if partial { 8192.max(suspect.length as usize) } else { suspect.length as usize }];
    let mut got = 0;
    while got < page.len() {
        match file.read_at(&mut page[got..], suspect.file_offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    page.truncate(got);
    Ok((got >= suspect.length as usize || (partial && got > 0)).then_some(page))
}

fn describe(suspect: &Suspect, state: PageState) -> BadPage {
    let what = match state {
        PageState::BadChecksum { computed, stored } => {
            format!("checksum {stored:04X} stored, {computed:04X} computed")
        }
        PageState::BadHeader => "impossible page header".to_owned(),
        PageState::Partial { length } => format!("the file ends within the page, after {length} bytes"),
        PageState::Valid | PageState::Zero => "good".to_owned(),
    };
    BadPage {
        path: String::from_utf8_lossy(&suspect.path).into_owned(),
        block: suspect.block,
        relation: None,
        what,
    }
}
