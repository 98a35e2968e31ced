//! Restoring over a cluster that is there: what is the same stays, what differs is rewritten, what the backup lacks goes.
//!
//! [`reuse`] looks at the directory and decides what is reused and what is set aside; [`begin`] makes it unstartable and
//! ours before anything else is touched; [`sweep`] removes what is in the way or not in the backup; [`compare`] reads what
//! is left and says which bytes are wanted. Everything else is the restore's as usual. A crash leaves a directory without
//! `pg_control`, with a marker that says `delta`: the same restore goes on there, comparing anew.

mod begin;
mod compare;
mod reuse;
mod sweep;

pub(super) use compare::Comparer;
pub(super) use reuse::Reuse;
pub(super) use sweep::sweep;
