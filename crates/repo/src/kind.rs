//! The numbers of the format: its version, kinds of objects, suites of ciphers.

use serde::{Deserialize, Serialize};

/// The format this release writes, and the newest it reads.
pub const FORMAT: u16 = 1;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What an object is; numbered in the format. Numbers not listed are reserved (see the format's register).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $name,)* }
        impl Kind {
            /// Its number.
            pub const fn number(self) -> u8 {
                match self { $(Self::$name => $number,)* }
            }
            /// The kind of this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// The repository itself: id, root key, suite.
    Repository = 1,
    /// An identity behind a passphrase.
    Identity = 2,
    /// To whom envelopes are sealed: one generation.
    Recipients = 3,
    /// Signing seed, naming key, page-hash key, sealed to the recipients: one generation.
    Secrets = 4,
    /// An enrolled agent's public key.
    Agent = 5,
    /// A data key, sealed to the recipients.
    Envelope = 6,
    /// What a source is called and where it is: one generation.
    Source = 7,
    /// Frames.
    Pack = 8,
    /// A backup.
    Commit = 9,
    /// A WAL file.
    Wal = 10,
    /// What somebody did.
    Operation = 11,
    /// Which server a source is: one generation.
    Owner = 12,
    /// That a person has shown that the passphrase is kept.
    Confirmation = 13,
    /// What a running job uses: one generation.
    Pin = 14,
    /// What will be deleted.
    Tombstone = 15,
    /// That a backup must not expire, or may again.
    Hold = 16,
    /// What a rescue kit consists of.
    RescueKit = 20,
    /// That one host may enrol itself.
    Invitation = 21,
}

/// How an object is sealed; numbered in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Suite {
    /// 0: not encrypted; BLAKE3 tags, Ed25519.
    Plain,
    /// 1: age, AES-256-GCM, HKDF-SHA-256, BLAKE3, Ed25519.
    Standard,
}

impl Suite {
    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Standard => 1,
        }
    }
}

impl From<Suite> for u8 {
    fn from(suite: Suite) -> Self {
        suite.number()
    }
}

impl TryFrom<u8> for Suite {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Plain),
            1 => Ok(Self::Standard),
            _ => Err(format!("suite {number} is not known to this release")),
        }
    }
}
