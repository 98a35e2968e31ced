//! Random bytes from the kernel.
//!
//! Asked for directly: the generator of `aws-lc-rs` first gathers entropy from the jitter of the processor's clock, which
//! took some 20 ms of every process that archives one WAL segment. What it seals and signs needs no randomness of its own.

use refloat_types::{BackupId, ObjectId, SourceId};
use rustix::rand::{GetRandomFlags, getrandom};

/// `N` random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut out[filled..], GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            // Linux has the call since 3.17, and it fails only for bad arguments. Nothing can be sealed without it.
            Err(error) => unreachable!("the kernel gives no random bytes: {error}"),
        }
    }
    out
}

/// A fresh object, key or agent id.
pub fn object_id() -> ObjectId {
    ObjectId(bytes())
}

/// A fresh source id.
pub fn source_id() -> SourceId {
    SourceId(bytes())
}

/// A fresh backup id.
pub fn backup_id() -> BackupId {
    BackupId::from_random(bytes())
}
