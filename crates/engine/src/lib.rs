//! Work on clusters: backup, restore, WAL, verification.
//!
//! Lowest first: `progress`, `spill`, `packs` (which are there), `locked`, `locks` (until when a store lets nobody destroy what is stored), `guard` (what a running job uses stays), `thaw` (what cannot be read yet) and `generation` (a source becomes
//! another cluster) serve all others, `wal` moves WAL files and knows what is archived, `pitr` knows
//! which moments can be reached, `backup`, `restore`, `verify`, `expire`, `copy` and `takeover` do what they are called; `heal`
//! puts damaged objects right. Nothing here reads
//! settings, the environment, the wall clock or the terminal: options, a `Clock` and a `Progress` come from above.

pub mod backup;
pub mod copy;
pub mod expire;
pub mod generation;
pub mod guard;
pub mod heal;
pub mod locked;
pub mod locks;
mod packs;
pub mod pitr;
pub mod progress;
pub mod restore;
mod spill;
pub mod takeover;
pub mod thaw;
pub mod verify;
pub mod wal;
