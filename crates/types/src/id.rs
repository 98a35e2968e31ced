//! Ids that people or objects carry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hex;

/// Letters and digits of ids that people read aloud: no `i`, `l`, `o`, `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Id of a backup as people type it: a letter and seven letters or digits, such as `k7m2qxw4`. Dates begin with a
/// digit, so the two are never confused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId([u8; 8]);

impl BackupId {
    /// The id that these random bytes stand for.
    pub fn from_random(bytes: [u8; 8]) -> Self {
        let mut id = [0; 8];
        for (place, byte) in id.iter_mut().zip(bytes) {
            *place = ALPHABET[usize::from(byte & 31)];
        }
        id[0] = ALPHABET[10 + usize::from(bytes[0]) % 22];
        Self(id)
    }
    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only ASCII is ever put in")
    }
}

impl FromStr for BackupId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bytes: [u8; 8] = text.as_bytes().try_into().map_err(|_| BadId(text.to_owned()))?;
        let good = bytes[0].is_ascii_lowercase() && bytes.iter().all(|b| ALPHABET.contains(b));
        if good { Ok(Self(bytes)) } else { Err(BadId(text.to_owned())) }
    }
}

impl TryFrom<String> for BackupId {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupId({self})")
    }
}

/// Text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an id")]
pub struct BadId(pub String);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// All bits zero: stands for "none" in binary headers.
            pub const NONE: Self = Self([0; 16]);
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                hex::decode(text).map(Self).ok_or_else(|| BadId(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

random_id! {
    /// Id of an object in a repository, of a data key, of an agent: 128 random bits, 32 lower-case hex digits.
    ObjectId
}
random_id! {
    /// Id of a source in a repository: 128 random bits. Its name is sealed; this is what the store shows.
    SourceId
}
