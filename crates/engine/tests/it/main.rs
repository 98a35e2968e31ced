//! Work on real clusters.

mod backup;
mod crashed;
mod expire;
mod heal;
mod incremental;
mod leaf_reads;
mod locked;
mod pins;
mod restore;
mod several;
mod standby;
mod takeover;
mod verify;
mod wal;
