//! What each role does to a repository. The table in docs/src/buckets.md is made of this, and a test compares them.

use clap::ValueEnum;

/// Whose credentials they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A host that makes backups and archives WAL: it adds, and never deletes or overwrites
    Agent,
    /// A host that deletes what the retention does not want, when no lock holds it any more
    Expirer,
    /// A host that restores, and changes nothing
    Restorer,
}

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Expirer => "expirer",
            Self::Restorer => "restorer",
        }
    }

    /// Objects that it creates. All other objects are made by `refloat init` and `refloat key`, which are an
    /// administrator's.
    pub(crate) const fn adds(self) -> &'static [&'static str] {
        match self {
            // An enrolment, the probe of `check`, data keys, records, packs, pins, rescue kits, descriptions with owners and commits; a
            // tombstone, where a commit must be disowned; WAL.
            Self::Agent => &[
                "agents/*",
                "check/*",
                "invitations/*-used",
                "keys/data/*",
                "operations/*",
                "packs/*",
                "pins/*",
                "rescue/*",
                "sources/*",
                "tombstones/*",
                "wal/*",
            ],
            // Its enrolment, the key that seals its records, its records, holds, its pin, what it marks.
            Self::Expirer => {
                &["agents/*", "check/*", "holds/*", "keys/data/*", "operations/*", "pins/*", "tombstones/*"]
            }
            Self::Restorer => &[],
        }
    }

    /// Objects that it deletes, when nothing needs them and no lock holds them.
    pub(crate) const fn deletes(self) -> &'static [&'static str] {
        match self {
            Self::Expirer => {
                &["check/*", "packs/*", "pins/*", "rescue/*", "sources/*/commits/*", "tombstones/*", "wal/*"]
            }
            Self::Agent | Self::Restorer => &[],
        }
    }
}
