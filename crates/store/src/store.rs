//! The contract of a store. Every implementation, wrapper or not, passes `refloat_testkit::store_contract`.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use refloat_types::Timestamp;

use crate::{BucketSettings, Immutability, Key, Readiness, StoreError, StoreErrorKind, Version};

/// A flat object store.
pub trait Store: Send + Sync {
    /// How messages name it: the URL without credentials.
    fn describe(&self) -> &str;

    /// Creates `key` with exactly `body`.
    ///
    /// `Ok`: whole, readable under its name, and durable, together with every directory made for it.
    ///
    /// # Errors
    /// `AlreadyExists`: an object of that name was there, is untouched, and is durable (only where
    /// [`Features::create_new`] holds; elsewhere the caller must use names that cannot collide). Any other error: it may or may not exist, ask again;
    /// but under its name there is never less than the whole.
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError>;

    /// Begins to create `key` from pieces; nothing is visible before [`ObjectWriter::finish`] answers `Ok`, and nothing
    /// stays when the writer is dropped.
    ///
    /// # Errors
    /// As for [`Store::put_new`].
    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError>;

    /// Appends exactly the bytes `range` of `key` to `into`.
    ///
    /// # Errors
    /// `NotFound`, or `Truncated` for an object that ends before `range.end`; never a short read. `into` may hold some of
    /// the bytes after an error.
    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError>;

    /// Gives the bytes `range` of `key` to `each` in order, piece by piece as they come, for whoever can use the first before
    /// the last is there; no piece is empty. Up to the whole range waits in memory. Ends, `Ok`, when `each` breaks.
    ///
    /// # Errors
    /// As for [`Store::read`]; `each` may have had some of the bytes.
    fn stream(
        &self,
        key: &Key,
        range: Range<u64>,
        each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        whole(self, key, range, each)
    }

    /// All bytes of `key`, an object of at most `limit` bytes, itself at most [`MOST_SMALL`]: a document. Where a question
    /// costs a way there and back, one does.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Other` when it is larger than `limit`.
    fn read_small(&self, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
        head_and_read(self, key, limit)
    }

    /// Makes an object that was seen by `head` or `list` as durable as [`Store::put_new`] promises: whoever created it
    /// may have died between showing and syncing it. Whoever acknowledges an object that it did not put itself calls
    /// this first.
    ///
    /// # Errors
    /// `NotFound`, or that it may not be durable.
    fn settle(&self, key: &Key) -> Result<(), StoreError>;

    /// Size and age of `key`; `None` when the store knows that there is none.
    ///
    /// # Errors
    /// When the store cannot tell.
    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError>;

    /// Calls `each` for every object whose key begins with `prefix`: either "" or text that ends in `/` or anywhere
    /// inside a part. No order is promised. An object created or deleted while listing may or may not appear; nothing
    /// unfinished ever does.
    ///
    /// # Errors
    /// When the store cannot list all of them; `each` may have been called for some.
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Deletes `key`; absent already is `Ok`. Durable like creation.
    ///
    /// # Errors
    /// When it may still exist.
    fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// What this store can do: ask, do not guess.
    fn features(&self) -> Features;

    /// Free and total space where the store can tell.
    ///
    /// # Errors
    /// When it should be able to tell and is not.
    fn space(&self) -> Result<Option<Space>, StoreError>;

    /// Removes what writers that died left behind below no object's name (temporary files, unfinished uploads), never
    /// what a living writer holds. Answers how many. A store where nothing can be left behind does nothing.
    ///
    /// Others may use the place too: where what is left behind bears an object's name, and nothing else tells whose it is,
    /// only names that `is_ours` knows are touched.
    ///
    /// # Errors
    /// When the store cannot be walked or written.
    fn clear_abandoned(&self, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        let _ = is_ours;
        Ok(0)
    }

    /// What keeps its objects from being destroyed. Asked for at most once a job.
    ///
    /// # Errors
    /// When the store does not answer; what these credentials may not ask is unknown, and no error.
    fn immutability(&self) -> Result<Immutability, StoreError> {
        Ok(Immutability::default())
    }

    /// What its bucket is set to; `None` where it has none that says.
    ///
    /// # Errors
    /// When the store does not answer; what these credentials may not ask is unknown, and no error.
    fn bucket_settings(&self) -> Result<Option<BucketSettings>, StoreError> {
        Ok(None)
    }

    /// Until when what is stored under `key` now, or its version `version`, cannot be destroyed; `None` where no lock holds
    /// it, or there is none.
    ///
    /// # Errors
    /// When the store cannot tell; `Denied` where these credentials may not ask.
    fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
        let _ = (key, version);
        Ok(None)
    }

    /// Locks what is stored under `key` until `until`, if it is not locked for longer already.
    ///
    /// # Errors
    /// `Denied` where these credentials may not; `Other` where the store locks nothing.
    fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
        let _ = until;
        Err(unlockable(self.describe(), key))
    }

    /// Calls `each` for every version of every object whose key begins with `prefix`, where the store keeps versions.
    ///
    /// # Errors
    /// When the store cannot list all of them.
    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let _ = (prefix, each);
        Ok(())
    }

    /// Destroys one version, for ever; absent already is `Ok`.
    ///
    /// # Errors
    /// `Denied` where a lock holds it, or these credentials may not.
    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        let _ = version;
        Err(unlockable(self.describe(), key))
    }

    /// Calls `each` for every object below `prefix` that may be in a class from which it has to be thawed before it can be read;
    /// [`Store::readiness`] tells.
    ///
    /// # Errors
    /// When the store cannot list all of them.
    fn list_cold(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Key) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let _ = (prefix, each);
        Ok(())
    }

    /// Whether `key` can be read now, or has to be thawed.
    ///
    /// # Errors
    /// When the store cannot tell.
    fn readiness(&self, key: &Key) -> Result<Readiness, StoreError> {
        let _ = key;
        Ok(Readiness::Ready)
    }
}

fn unlockable(store: &str, key: &Key) -> StoreError {
    let source = std::io::Error::other("this store has neither versions nor locks");
    StoreError::new(StoreErrorKind::Other, "lock", key.as_str(), store, source)
}

macro_rules! forward_store {
    ($pointer:ident) => {
        impl<S: Store + ?Sized> Store for $pointer<S> {
            fn describe(&self) -> &str {
                (**self).describe()
            }
            fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
                (**self).put_new(key, body)
            }
            fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
                (**self).create(key)
            }
            fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
                (**self).read(key, range, into)
            }
            fn stream(
                &self,
                key: &Key,
                range: Range<u64>,
                each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
            ) -> Result<(), StoreError> {
                (**self).stream(key, range, each)
            }
            fn read_small(&self, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
                (**self).read_small(key, limit)
            }
            fn settle(&self, key: &Key) -> Result<(), StoreError> {
                (**self).settle(key)
            }
            fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
                (**self).head(key)
            }
            fn list(
                &self,
                prefix: &str,
                each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
            ) -> Result<(), StoreError> {
                (**self).list(prefix, each)
            }
            fn delete(&self, key: &Key) -> Result<(), StoreError> {
                (**self).delete(key)
            }
            fn features(&self) -> Features {
                (**self).features()
            }
            fn space(&self) -> Result<Option<Space>, StoreError> {
                (**self).space()
            }
            fn clear_abandoned(&self, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
                (**self).clear_abandoned(is_ours)
            }
            fn immutability(&self) -> Result<Immutability, StoreError> {
                (**self).immutability()
            }
            fn bucket_settings(&self) -> Result<Option<BucketSettings>, StoreError> {
                (**self).bucket_settings()
            }
            fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
                (**self).lock_end(key, version)
            }
            fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
                (**self).extend_lock(key, until)
            }
            fn versions(
                &self,
                prefix: &str,
                each: &mut dyn FnMut(Version) -> ControlFlow<()>,
            ) -> Result<(), StoreError> {
                (**self).versions(prefix, each)
            }
            fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
                (**self).destroy(key, version)
            }
            fn list_cold(
                &self,
                prefix: &str,
                each: &mut dyn FnMut(Key) -> ControlFlow<()>,
            ) -> Result<(), StoreError> {
                (**self).list_cold(prefix, each)
            }
            fn readiness(&self, key: &Key) -> Result<Readiness, StoreError> {
                (**self).readiness(key)
            }
        }
    };
}

forward_store!(Box);
forward_store!(Arc);

/// An object that is being written. Dropping it leaves nothing visible.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// The object cannot be finished any more.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
    /// Makes the object durable, then visible under its key, durably.
    ///
    /// # Errors
    /// As for [`Store::put_new`].
    fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

/// One object as a store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// When it was created, by the store's clock.
    pub created: Timestamp,
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Creating an object whose name exists is refused, atomically.
    pub create_new: bool,
    /// `Ok` from a write means that it survives a power cut.
    pub durable: bool,
    /// A list shows every object whose creation was answered before the list began.
    pub consistent_list: bool,
    /// Each question goes over a network and back: several at once are answered in the time of one.
    pub remote: bool,
}

/// Space of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written by this user.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Longest object that [`Store::read_small`] is asked for.
pub const MOST_SMALL: u64 = 1 << 20;

/// Gives the bytes `range` of `key` to `each` in one piece, if there are any.
pub(crate) fn whole(
    store: &(impl Store + ?Sized),
    key: &Key,
    range: Range<u64>,
    each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut bytes = Vec::new();
    store.read(key, range, &mut bytes)?;
    if !bytes.is_empty() {
        let _ = each(bytes);
    }
    Ok(())
}

/// Reads a whole object of at most `limit` bytes.
///
/// # Errors
/// `NotFound` when there is none; `Other` when it is larger than `limit`.
pub fn read_whole(store: &dyn Store, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
    // What may be large is first asked for its size: then it is known what is moved, and how long that may take.
    if limit <= MOST_SMALL { store.read_small(key, limit) } else { head_and_read(store, key, limit) }
}

fn head_and_read<S: Store + ?Sized>(store: &S, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
    let fail = |kind, text: String| {
        StoreError::new(kind, "read", key.as_str(), store.describe(), std::io::Error::other(text))
    };
    let info = store.head(key)?.ok_or_else(|| fail(StoreErrorKind::NotFound, "no such object".to_owned()))?;
    if info.size > limit {
        let text = format!("it holds {} bytes where at most {limit} are expected", info.size);
        return Err(fail(StoreErrorKind::Other, text));
    }
    let mut body = Vec::new();
    store.read(key, 0..info.size, &mut body)?;
    Ok(body)
}
