//! Classes whose objects cannot be read before somebody has asked for it, hours earlier.

/// Whether an object can be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It is in this class, and nobody has asked for it.
    Cold(String),
    /// It was asked for, and will be readable.
    Thawing(String),
}

impl Readiness {
    /// Whether it can be read now.
    pub const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}

/// Classes of S3 in which an object is not readable by itself.
const COLD: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Whether what is stored in this class cannot be read without being thawed first.
pub fn is_cold_class(class: &str) -> bool {
    COLD.contains(&class)
}

/// Whether what is stored in this class may have to be thawed: one class moves objects by itself.
pub(crate) fn may_be_cold(class: &str) -> bool {
    is_cold_class(class) || class == "INTELLIGENT_TIERING"
}
