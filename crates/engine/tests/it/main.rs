//! Work on real clusters.

mod backup;
mod restore;
mod takeover;
mod verify;
mod wal;
