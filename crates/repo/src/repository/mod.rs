//! A repository in a store, as one host sees it.
//!
//! `open` finds and trusts it, `init` makes one, `keys` makes and opens data keys,
//! `generations` and `rotate` say who can read, `rewrap` seals keys again, `mend` makes what another copy puts right, `invite` enrols hosts that cannot read, `backups` lists and
//! writes commits, `commit_cache` knows them,
//! `sources` knows what a source is called, `believed` which of them can be used, `kit` what lies there for whoever recovers, `reach` how they get there, `pins`, `tombstones` and `holds` are what deleting goes by, `wal` and `operations`
//! do the rest. Nothing is ever overwritten.

mod agents;
mod backups;
mod believed;
mod commit_cache;
mod confirmation;
mod generations;
mod holds;
mod init;
mod inspect;
mod invite;
mod keys;
mod kit;
mod mend;
mod open;
mod operations;
mod pins;
mod reach;
mod rewrap;
mod rotate;
mod sources;
mod tombstones;
mod wal;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use refloat_store::Store;
use refloat_types::{ObjectId, Timestamp};
use serde::{Deserialize, Serialize};

pub use agents::ListedAgent;
pub use believed::SeenSource;
pub use commit_cache::{CommitCache, KnownCommit};
pub use confirmation::{Confirmation, Shown};
pub use generations::Generation;
pub use holds::{Hold, HoldWords};
pub use init::{InitOptions, Protection};
pub use inspect::{Claim, Inspected};
pub use invite::{Invitation, TOKEN_PREFIX, Token};
pub use kit::{KIT_PROGRAM, Kit, KitFile, KitFinding, KitWrong, Kits, NewKit, sha256_of};
pub use mend::is_damage;
pub use open::{CredentialSource, Credentials};
pub use operations::{OperationClear, OperationRecord};
pub use pins::{Pin, PinWriter, SeenPin, Uses};
pub use reach::Reach;
pub use rewrap::{KeyFacts, Rewrapped, StoredKey};
pub use sources::{OwnerRecord, SourceDescription, SourceInfo};
pub use tombstones::{Marked, StoredTombstone, Tombstone};
pub use wal::StoredWal;

use crate::crypt::identity::{Identity, Recipient};
use crate::crypt::page_hash::{PageHasher, PageKey};
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::error::KeyError;
use crate::kind::Suite;
use crate::state::{Local, StateDirectory};

/// The clear section of the repository object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Marker {
    /// The repository's id.
    pub id: ObjectId,
    /// When it was made.
    pub created: Timestamp,
    /// Its root key: agents are enrolled under it.
    pub root: PublicKey,
    /// How its objects are sealed.
    pub suite: Suite,
    /// To whom envelopes are sealed; empty where nothing is encrypted.
    pub recipients: Vec<Recipient>,
    /// A passphrase opens an identity that is kept in it.
    pub has_passphrase: bool,
}

/// The body of the repository object: what opens it, each part protected by itself.
#[derive(Serialize, Deserialize)]
struct MarkerBody {
    /// An age file behind a passphrase: the identity, then a line `root <hex of the root key>`.
    identity: Option<String>,
    /// An age file sealed to the recipients (plain JSON where nothing is encrypted).
    secrets: String,
}

/// What only readers and agents know.
#[derive(Clone, Serialize, Deserialize)]
struct Secrets {
    /// Seed of the root key; left out where nothing is encrypted, because anybody could read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_seed: Option<String>,
    #[serde(with = "refloat_types::hex::array")]
    naming_key: [u8; 32],
    #[serde(with = "refloat_types::hex::array")]
    page_key: [u8; 32],
    /// Identities that earlier passphrases opened: they open what was sealed before a rotation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
}

/// A repository, opened and trusted.
pub struct Repository {
    store: Arc<dyn Store>,
    marker: Marker,
    /// The newest generation of who can read.
    current: Generation,
    /// The newest generation that this host has remembered.
    remembered: u64,
    state: StateDirectory,
    local: Local,
    signing: SigningKey,
    agents: Mutex<BTreeMap<ObjectId, PublicKey>>,
    /// It was seen that the repository knows this host's agent.
    enrolled: AtomicBool,
    writer_key: Mutex<Option<crate::state::WriterKey>>,
}

impl Repository {
    /// Its store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    /// What its repository object says.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }
    /// How people compare it.
    pub fn fingerprint(&self) -> String {
        self.marker.root.fingerprint()
    }
    /// This host's agent id.
    pub fn agent(&self) -> ObjectId {
        self.signing.public().agent_id()
    }
    /// This host's signing key.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }
    /// Whether objects are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.current.suite != Suite::Plain
    }
    /// Whether this host holds an identity, so that it can read what is encrypted.
    pub fn can_read(&self) -> bool {
        !self.is_encrypted() || self.local.identity.is_some()
    }
    /// Names WAL objects.
    pub fn naming_key(&self) -> &[u8; 32] {
        &self.local.naming_key
    }
    /// What pages are hashed under where no older backup says otherwise.
    pub fn page_key(&self) -> PageKey {
        PageKey::new(self.local.page_key)
    }
    /// Hashes pages under that.
    pub fn page_hasher(&self) -> PageHasher {
        PageHasher::new(&self.page_key())
    }
    /// The state directory.
    pub fn state(&self) -> &StateDirectory {
        &self.state
    }
    /// Directory of this repository below the state directory.
    fn state_name(&self, file: &str) -> String {
        state_name(self.marker.id, file)
    }
    /// Identities this host holds, the newest first.
    fn identities(&self) -> Vec<Identity> {
        let all = self.local.identity.iter().chain(&self.local.earlier);
        all.filter_map(|text| Identity::parse(text)).collect()
    }
    /// Whether an object may be sealed so: as now, or as before encryption was turned on.
    fn allows(&self, suite: Suite) -> bool {
        suite == self.current.suite || suite == self.marker.suite
    }
    /// Why a key cannot be opened here, said in view of rotations.
    fn explained(&self, error: KeyError) -> KeyError {
        let turned_on = self.was_plain();
        let rotated = match error {
            KeyError::OtherRecipients { .. } => true,
            KeyError::NoIdentity => turned_on,
            _ => false,
        };
        if !rotated || !self.is_behind() {
            return error;
        }
        KeyError::Rotated {
            have: self.local.generation,
            number: self.current.number,
            created: self.current.created,
        }
    }
}

fn state_name(id: ObjectId, file: &str) -> String {
    format!("repositories/{id}/{file}")
}

/// File in the state directory with everything kept about one repository.
const LOCAL: &str = "local.json";
