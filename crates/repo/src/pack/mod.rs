//! Packs: runs of frames, 32 to 64 MiB, that end with their own frame table.

pub mod copies;
pub mod frame;
pub mod packer;
pub mod reader;
pub mod writer;

pub use copies::Copies;
pub use frame::{Content, FrameRef, FrameTable};
pub use packer::{PackSummary, Packer};
pub use reader::FrameOpener;
