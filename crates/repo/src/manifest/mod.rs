//! What a backup holds: parts list files, leaves hold the places of their bytes, the root names parts and the rest.

pub mod leaf;
pub mod part;
pub mod root;

pub use leaf::{Leaf, LeafRef, Run};
pub use part::{Entry, FileStat, What};
pub use root::{ManifestWriter, Reading, Root};
