//! Work on real clusters.

mod backup;
mod crashed;
mod expire;
mod incremental;
mod restore;
mod takeover;
mod verify;
mod wal;
