//! Work on real clusters.

mod backup;
mod expire;
mod incremental;
mod restore;
mod standby;
mod takeover;
mod verify;
mod wal;
