//! What is found out before the server is put into backup mode.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use refloat_repo::compress::Compressor;
use refloat_types::ByteSize;

use super::copy::FRAME;
use super::files::Listing;
use super::{BackupError, BackupRequest};

/// Frames compressed to learn how well this cluster compresses: a hundredth of a second.
const SAMPLES: u64 = 48;

/// Refuses a backup that would not fit into the repository. `reusable` bytes of it may be there already.
pub(super) fn check_space(
    request: &BackupRequest<'_>,
    listing: &Listing,
    reusable: u64,
) -> Result<(), BackupError> {
    let store = request.repository.store();
    let Some(space) = store.space().map_err(refloat_repo::RepoError::from)? else { return Ok(()) };
    let needed = estimate(request, listing)?;
    // The sample may mislead by a few percent; only what cannot fit is refused.
    if needed - needed / 10 > space.free.saturating_add(reusable) {
        return Err(BackupError::NoSpace {
            repository: request.repository_name.clone(),
            free: ByteSize(space.free),
            needed: ByteSize(needed),
        });
    }
    Ok(())
}

/// Bytes that the listing will take, judged by frames spread evenly over all files that no older backup has.
fn estimate(request: &BackupRequest<'_>, listing: &Listing) -> Result<u64, BackupError> {
    let mut compressor = Compressor::new(request.compression)?;
    let (mut plain, mut stored) = (0_u64, 0_u64);
    let mut buffer = vec![0; FRAME];
    let mut packed = Vec::new();
    // How much of the others has changed is known only when they are read.
    let bytes = listing.new_bytes;
    let step = (bytes / SAMPLES).max(1);
    let (mut seen, mut next) = (0_u64, step / 2);
    let mut entries = listing.entries();
    while let Some(file) = entries.next_file()? {
        if file.former.is_some() {
            continue;
        }
        while next < seen + file.size {
            let offset = next - seen;
            next += step;
            // A file that is gone by now tells nothing; the copy itself will see.
            let path = request.data_directory.join(as_path(&file.entry.path));
            let Ok(got) = File::open(path).and_then(|opened| opened.read_at(&mut buffer, offset)) else {
                continue;
            };
            compressor.compress(&buffer[..got], &mut packed)?;
            plain += got as u64;
            stored += packed.len() as u64;
        }
        seen += file.size;
    }
    if plain == 0 {
        return Ok(bytes);
    }
    Ok((bytes as f64 * (stored as f64 / plain as f64)) as u64 + (1 << 20))
}

fn as_path(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}
