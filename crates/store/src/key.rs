//! Names of objects.

use std::fmt;
use std::str::FromStr;

/// Name of an object: parts of `[A-Za-z0-9._-]` joined by `/`; no part is empty or begins with a dot. So a key is safe
/// to join to a path, and names beginning with a dot are free for a store's own use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a key")]
pub struct BadKey(pub String);

impl Key {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for Key {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<Self, BadKey> {
        let part_is_good = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let good = text.len() <= 512 && text.split('/').all(part_is_good);
        if good { Ok(Self(text.to_owned())) } else { Err(BadKey(text.to_owned())) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_their_directory() {
        for good in ["repository", "packs/3f/3fa9", "wal/7/00000001/000000010000000000000001-aa"] {
            assert!(good.parse::<Key>().is_ok(), "{good}");
        }
        for bad in ["", "/", "a//b", "/a", "a/", "..", "a/../b", ".tmp", "a/.b", "a b", "ä", "a\0"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }
}
