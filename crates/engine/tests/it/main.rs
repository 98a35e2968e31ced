//! Work on real clusters.

mod backup;
mod incremental;
mod restore;
mod takeover;
mod verify;
mod wal;
