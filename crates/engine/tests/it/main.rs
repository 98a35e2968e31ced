//! Work on real clusters.

mod backup;
mod expire;
mod restore;
mod takeover;
mod verify;
mod wal;
