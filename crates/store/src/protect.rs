//! What keeps the objects of a store from being destroyed by whoever may write there: versions and locks.
//!
//! Where a bucket keeps versions, deleting an object only hides it, and overwriting it leaves what was there as an older
//! version. A lock keeps a version from being destroyed until a moment, which can be moved later and, where the lock is
//! strict, never earlier. Most stores have neither.

use std::time::Duration;

use refloat_types::Timestamp;

use crate::Key;

/// An answer that credentials may not be allowed to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Known<T> {
    /// It is so.
    Yes(T),
    /// It is not so.
    #[default]
    No,
    /// These credentials may not ask, or the store does not say.
    Unknown,
}

impl<T: Copy> Known<T> {
    /// What is known to be so.
    pub const fn yes(self) -> Option<T> {
        match self {
            Self::Yes(what) => Some(what),
            Self::No | Self::Unknown => None,
        }
    }
}

/// Who can end a lock early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody.
    Compliance,
    /// Whoever has the right to go past it.
    Governance,
}

/// The lock that every new object gets by itself, from its creation on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultLock {
    /// For how long.
    pub period: Duration,
    /// Who can end it early.
    pub mode: LockMode,
}

/// What a store does when somebody deletes or overwrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Immutability {
    /// What is deleted or overwritten stays as an older version.
    pub versions: Known<()>,
    /// New objects are locked.
    pub lock: Known<DefaultLock>,
}

impl Immutability {
    /// A store of which nothing of this kind is known.
    pub const UNKNOWN: Self = Self { versions: Known::Unknown, lock: Known::Unknown };
}

/// One version of an object, or the mark that hides the versions before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Of which object.
    pub key: Key,
    /// What the store calls it.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub created: Timestamp,
    /// What a read finds.
    pub is_latest: bool,
    /// It holds nothing and hides what was there before.
    pub is_marker: bool,
}

/// One rule by which a bucket deletes or moves objects by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LifecycleRule {
    /// What it is called.
    pub id: String,
    /// It is obeyed.
    pub is_enabled: bool,
    /// The keys it concerns, from the bucket's top.
    pub prefix: String,
    /// It deletes objects that are in use.
    pub expires_current: bool,
    /// It destroys older versions so many days after they were hidden.
    pub noncurrent_days: Option<u32>,
    /// It clears unfinished uploads after so many days.
    pub abort_days: Option<u32>,
    /// The classes that it moves objects to.
    pub transitions: Vec<String>,
}

/// What a bucket is set to, as far as these credentials may ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BucketSettings {
    /// What stands before every key of this store: "" or text that ends in `/`.
    pub prefix: String,
    /// Versions and locks.
    pub immutability: Immutability,
    /// Its lifecycle.
    pub lifecycle: Known<Vec<LifecycleRule>>,
    /// Its policy, as JSON.
    pub policy: Known<String>,
    /// How it encrypts by default.
    pub encryption: Known<String>,
}
