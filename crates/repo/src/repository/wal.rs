//! WAL files in the repository.

use std::ops::ControlFlow;

use refloat_store::Key;
use refloat_types::{ObjectId, SystemIdentifier, TimelineId, WalFileName, WalSegmentName};

use super::Repository;
use crate::error::RepoError;
use crate::kind::Suite;
use crate::layout;
use crate::wal_object::{self, NewWal, WalFrames, WalHead, WalWriter, Wanted};

/// A stored WAL file as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWal {
    /// Where it is.
    pub key: Key,
    /// Which file.
    pub name: WalFileName,
    /// Begin of the keyed digest of its bytes: two of one name with different digests contradict each other.
    pub digest: [u8; 16],
    /// Its size in the store.
    pub size: u64,
}

impl Repository {
    fn list_wal(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(StoredWal) -> ControlFlow<()>,
    ) -> Result<(), RepoError> {
        // What lies there under no WAL file's name is `verify`'s business.
        Ok(self.store.list(prefix, &mut |info| match layout::parse_wal(&info.key) {
            Some((name, digest)) => each(StoredWal { key: info.key, name, digest, size: info.size }),
            None => ControlFlow::Continue(()),
        })?)
    }

    /// Everything stored for one WAL file: nothing, one object, or several that contradict each other.
    ///
    /// # Errors
    /// When the store cannot list: then nothing is known.
    pub fn find_wal(&self, system: SystemIdentifier, name: WalFileName) -> Result<Vec<StoredWal>, RepoError> {
        let mut found = Vec::new();
        self.list_wal(&layout::wal_file(system, name), &mut |stored| {
            if stored.name == name {
                found.push(stored);
            }
            ControlFlow::Continue(())
        })?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// All that is stored under the names of this WAL segment and of those around it: of the 16 whose names end in another digit.
    /// One list for all of them.
    ///
    /// # Errors
    /// When the store cannot list: then nothing is known.
    pub fn find_wal_around(
        &self,
        system: SystemIdentifier,
        name: WalSegmentName,
    ) -> Result<Vec<StoredWal>, RepoError> {
        let mut found = Vec::new();
        self.list_wal(&layout::wal_around(system, name), &mut |stored| {
            found.push(stored);
            ControlFlow::Continue(())
        })?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Every WAL file of a timeline, in no order.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn list_timeline(
        &self,
        system: SystemIdentifier,
        timeline: TimelineId,
        each: &mut dyn FnMut(StoredWal) -> ControlFlow<()>,
    ) -> Result<(), RepoError> {
        self.list_wal(&layout::wal_of_timeline(system, timeline), each)
    }

    /// Every WAL file of a cluster, in no order.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn list_cluster_wal(
        &self,
        system: SystemIdentifier,
        each: &mut dyn FnMut(StoredWal) -> ControlFlow<()>,
    ) -> Result<(), RepoError> {
        self.list_wal(&layout::wal_of(system), each)
    }

    /// Stores a WAL file; `Ok` when it is durable. Answers its key and its size in the store.
    ///
    /// # Errors
    /// `AlreadyExists` of the store when the same bytes are there under the same name.
    pub fn put_wal(&self, wal: &NewWal<'_>, frames: &WalFrames) -> Result<(Key, u64), RepoError> {
        self.be_enrolled()?;
        wal_object::write(self.store.as_ref(), wal, frames)
    }

    /// Begins to store a WAL file that is too large for [`Repository::put_wal`].
    ///
    /// # Errors
    /// What the store says.
    pub fn create_wal(&self, wal: &NewWal<'_>) -> Result<WalWriter, RepoError> {
        self.be_enrolled()?;
        WalWriter::begin(self.store.as_ref(), wal)
    }

    /// Reads and verifies what is known of a stored WAL file.
    ///
    /// # Errors
    /// `Damaged`, `UnknownOrigin`, or what the store says.
    pub fn read_wal_head(&self, stored: &StoredWal) -> Result<WalHead, RepoError> {
        let agent = |id: ObjectId| self.agent_key(id, stored.key.as_str());
        let head = wal_object::read_head(self.store.as_ref(), &stored.key, stored.size, &agent)?;
        self.check_wal_seal(&head)?;
        Ok(head)
    }

    fn check_wal_seal(&self, head: &WalHead) -> Result<(), RepoError> {
        let names_key = head.header.key != ObjectId::NONE;
        if !self.allows(head.header.suite) || names_key != (head.header.suite != Suite::Plain) {
            return Err(RepoError::damaged(&head.key, "it is sealed otherwise than this repository"));
        }
        Ok(())
    }

    /// Reads a stored WAL file's sealed facts alone: a few kilobytes.
    ///
    /// # Errors
    /// `NoKey` when this host cannot read them, `Damaged` when they are not what was written.
    pub fn read_wal_facts(&self, head: &WalHead) -> Result<serde_json::Value, RepoError> {
        wal_object::read_facts(self.store.as_ref(), head, self.wal_key(head)?.as_deref())
    }

    fn wal_key(
        &self,
        head: &WalHead,
    ) -> Result<Option<std::sync::Arc<crate::crypt::seal::DataKey>>, RepoError> {
        match head.header.key {
            ObjectId::NONE => Ok(None),
            id => self.open_key(id).map(Some),
        }
    }

    /// Reads a stored WAL file's bytes into `sink`, in order; answers its sealed facts.
    ///
    /// # Errors
    /// `Damaged` and others; what `sink` got may be used only after `Ok`.
    pub fn read_wal(
        &self,
        head: &WalHead,
        sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<serde_json::Value, RepoError> {
        let key = self.wal_key(head)?;
        wal_object::read_body(self.store.as_ref(), head, key.as_deref(), self.naming_key(), sink)
    }

    /// Reads a stored WAL file, head and bytes by one request where it is of the usual size: each piece to its offset by `place`,
    /// in no order and, where it is wanted now, on two threads at once. Answers its head.
    ///
    /// # Errors
    /// As [`Repository::read_wal_head`] and [`Repository::read_wal`].
    pub fn place_wal(
        &self,
        stored: &StoredWal,
        wanted: Wanted,
        place: &(dyn Fn(u64, &[u8]) -> std::io::Result<()> + Sync),
    ) -> Result<WalHead, RepoError> {
        let store = self.store.as_ref();
        let own = self.signing.public();
        // What holds by this host's own key was written by this host: nobody has to vouch for it.
        let agent = |id: ObjectId| match id == own.agent_id() {
            true => Ok(own),
            false => self.agent_key(id, stored.key.as_str()),
        };
        let open = |head: &WalHead| {
            self.check_wal_seal(head)?;
            self.wal_key(head)
        };
        let object = (&stored.key, stored.size);
        wal_object::place_all(store, object, wanted, &agent, &open, self.naming_key(), place)
    }
}
