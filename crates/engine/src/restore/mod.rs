//! Restoring a backup into a data directory.
//!
//! [`plan`] pins the backup, reads the manifest, looks at the destination and refuses before a byte is written; [`restore`] then does it.
//! The order makes a crash harmless at any point: what was there is first made unstartable and set aside whole, the lock
//! comes before any file, and `global/pg_control` comes last, with a checkpoint that leads nowhere unless `backup_label`
//! is there. Until then `refloat.restoring` marks the directory, and each one outside of it, as ours, and the same restore
//! may begin again there. Over a cluster that is there (`delta`) its files are reused where they are the same.

mod aside;
mod check;
mod claim;
mod delta;
mod disk;
mod error;
mod listing;
mod marker;
mod outside;
mod place;
mod plan;
pub mod read;
mod recovery;
mod request;
mod run;
mod sync;

pub use aside::Move;
pub(crate) use disk::write_durably;
pub use error::RestoreError;
pub use plan::{
    DryPlan, RestorePlan, SpaceNeed, Tablespace, WalNeed, dry_run, dry_run_beside, plan, plan_beside,
};
pub(crate) use recovery::MARK;
pub use request::{
    Become, Destination, FollowTimeline, Owner, Recovery, RestoreRequest, Target, TargetAction,
};
pub use run::{FetchWal, ReadyWal, RestoreReport, Reused, restore};
