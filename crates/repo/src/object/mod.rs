//! What every object begins with, and the small signed ones.

pub mod document;
pub mod header;

pub use document::{Body, Document, Sections};
pub use header::{HEADER_BYTES, Header};
