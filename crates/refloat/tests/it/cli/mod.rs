//! The command line itself: help, refusals, exit codes, and that a refusal changes nothing.

pub(crate) mod completions;
mod errors;
mod generate;
mod help;
mod kept;
mod man;
mod output;
mod reached;
mod sheet;
mod wal;
