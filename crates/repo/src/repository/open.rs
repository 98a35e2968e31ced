//! Finding a repository, trusting it, and opening what this host may open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use refloat_store::{Store, StoreErrorKind, read_whole};
use refloat_types::{ObjectId, Timestamp, hex};

use super::{LOCAL, Marker, MarkerBody, Repository, Secrets, state_name};
use crate::crypt::identity::{self, Identity};
use crate::crypt::random;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::error::{KeyError, RepoError};
use crate::kind::{Kind, Suite};
use crate::layout;
use crate::object::Document;
use crate::state::{Local, StateDirectory};

/// Largest repository object accepted.
const MAX_MARKER: u64 = 1 << 20;

/// What can open a repository that this host has not opened before.
pub enum Credentials {
    /// A passphrase.
    Passphrase(String),
    /// One of the recipients' identities.
    Identity(Identity),
    /// None: the repository is said to be unencrypted.
    Unencrypted,
}

/// Something that gives credentials when they are really needed: a passphrase may have to be asked for.
pub type CredentialSource<'a> = &'a mut dyn FnMut() -> Result<Credentials, RepoError>;

impl Repository {
    /// Reads the repository object of `store` without trusting it yet.
    ///
    /// # Errors
    /// `NotARepository` when there is none.
    pub fn read_marker(store: &dyn Store) -> Result<Marker, RepoError> {
        Ok(read_document(store)?.0)
    }

    /// Whether this host has opened the repository with this id before.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn is_known(state: &StateDirectory, id: ObjectId) -> Result<bool, RepoError> {
        Ok(state.read::<Local>(&state_name(id, LOCAL))?.is_some())
    }

    /// Opens a repository. What the state directory holds is used; where it holds nothing, `credentials` are asked for,
    /// the identity is opened and kept, and the host is enrolled under a new agent key.
    ///
    /// # Errors
    /// `WrongFingerprint` when it is not the one that this host, or `fingerprint`, trusts; `WrongPassphrase`;
    /// `EncryptionDiffers`; `NotEnrolled` where nothing can be opened.
    pub fn open(
        store: Arc<dyn Store>,
        state: StateDirectory,
        fingerprint: Option<&str>,
        now: Timestamp,
        credentials: CredentialSource<'_>,
    ) -> Result<Self, RepoError> {
        let (marker, body) = read_document(store.as_ref())?;
        let expect = |expected: String| {
            let found = marker.root.fingerprint();
            if found == expected {
                return Ok(());
            }
            Err(RepoError::WrongFingerprint { store: store.describe().to_owned(), found, expected })
        };
        if let Some(expected) = fingerprint {
            expect(expected.to_owned())?;
        }
        if let Some(local) = state.read::<Local>(&state_name(marker.id, LOCAL))? {
            expect(local.root.fingerprint())?;
            if local.root != marker.root {
                return Err(forged("its root key is not the one this host trusts"));
            }
            return Self::assemble(store, state, marker, local);
        }
        let (local, root) =
            unlock(&store, &state, &marker, &body, fingerprint.is_some(), now, &credentials()?)?;
        state.write(&state_name(marker.id, LOCAL), &local)?;
        let repository = Self::assemble(store, state, marker, local)?;
        if let Some(root) = root {
            // A repository that cannot be written is still read; its host is enrolled when it first writes.
            match repository.enrol_agent(&root, now) {
                Err(RepoError::Store(e))
                    if matches!(e.kind, StoreErrorKind::ReadOnly | StoreErrorKind::Denied) =>
                {
                    repository.state.remove(&repository.state_name(LOCAL))?;
                }
                other => other?,
            }
        }
        Ok(repository)
    }

    /// Tries `passphrase` on the repository's identity, whatever this host holds: the proof that it was kept.
    ///
    /// # Errors
    /// `WrongPassphrase`, or what reading says.
    pub fn try_passphrase(&self, passphrase: &str) -> Result<(), RepoError> {
        let (marker, body) = read_document(self.store.as_ref())?;
        open_identity(self.store.describe(), &marker, &body, passphrase).map(|_| ())
    }

    /// Checks the repository object itself, and that this host's identity opens what is sealed in it.
    pub(super) fn inspect_marker(&self) -> Result<super::Inspected, RepoError> {
        let (marker, body, digest) = read_digested(self.store.as_ref())?;
        if marker.root != self.marker.root || marker.id != self.marker.id {
            return Err(forged("its root key is not the one this host trusts"));
        }
        let whole = super::Inspected::whole(ObjectId::NONE, ObjectId::NONE, digest);
        if marker.suite == Suite::Plain {
            parse_secrets(&decode_secrets(&body)?)?;
            return Ok(whole);
        }
        let opened = match self.identity() {
            None => Err(KeyError::NoIdentity),
            Some(identity) => match open_secrets(&marker, &body, &identity) {
                Ok(_) => Ok(()),
                Err(RepoError::NoKey { source, .. }) => Err(source),
                Err(error) => return Err(error),
            },
        };
        Ok(super::Inspected { opened, ..whole })
    }

    /// The root key, where this host can open it.
    pub(super) fn root_key(&self) -> Result<Option<SigningKey>, RepoError> {
        let seed = match self.identity() {
            Some(identity) => {
                open_secrets(&self.marker, &read_document(self.store.as_ref())?.1, &identity)?.root_seed
            }
            None => self.state.read::<String>(&self.state_name("root.json"))?,
        };
        let key = seed.as_deref().and_then(hex::decode).and_then(SigningKey::from_seed);
        Ok(key.filter(|key| key.public() == self.marker.root))
    }

    pub(super) fn assemble(
        store: Arc<dyn Store>,
        state: StateDirectory,
        marker: Marker,
        local: Local,
    ) -> Result<Self, RepoError> {
        let signing = local.signing()?;
        Ok(Self {
            store,
            marker,
            state,
            local,
            signing,
            agents: Mutex::new(BTreeMap::new()),
            writer_key: Mutex::new(None),
        })
    }
}

fn forged(why: &str) -> RepoError {
    RepoError::UnknownOrigin { object: layout::REPOSITORY.to_owned(), why: why.to_owned() }
}

fn read_document(store: &dyn Store) -> Result<(Marker, MarkerBody), RepoError> {
    read_digested(store).map(|(marker, body, _)| (marker, body))
}

/// The repository object with the digest of its bytes.
fn read_digested(store: &dyn Store) -> Result<(Marker, MarkerBody, [u8; 32]), RepoError> {
    let object = layout::REPOSITORY;
    let bytes = match read_whole(store, &layout::repository(), MAX_MARKER) {
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            return Err(RepoError::NotARepository { store: store.describe().to_owned() });
        }
        other => other?,
    };
    let document = Document::decode(object, bytes, Kind::Repository)?;
    // It names the key that signs it: that proves it whole. Whether the key is the right one is asked by `open`.
    let marker: Marker = document.unverified().clear_as(object)?;
    let sections = document
        .verify(&marker.root)
        .map_err(|_| RepoError::damaged(object, "its signature does not hold"))?;
    let body = crate::object::document::parse(object, sections.body)?;
    if document.header.id != marker.id || document.header.suite != marker.suite {
        return Err(RepoError::damaged(object, "its header and its contents differ"));
    }
    Ok((marker, body, document.digest()))
}

fn open_identity(
    store: &str,
    marker: &Marker,
    body: &MarkerBody,
    passphrase: &str,
) -> Result<Identity, RepoError> {
    let damaged = |what: &str| RepoError::damaged(layout::REPOSITORY, what);
    let sealed = body.identity.as_deref().and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let sealed = sealed.ok_or_else(|| damaged("it holds no identity that a passphrase could open"))?;
    let plain = identity::open_with_passphrase(passphrase, &sealed)
        .map_err(|_| damaged("its identity is no age file"))?
        .ok_or_else(|| RepoError::WrongPassphrase { store: store.to_owned() })?;
    let text = String::from_utf8(plain).map_err(|_| damaged("its identity is no text"))?;
    let root = text.lines().find_map(|line| line.strip_prefix("root ")).and_then(hex::decode).map(PublicKey);
    if root != Some(marker.root) {
        return Err(forged("the root key is not the one behind the passphrase"));
    }
    Identity::parse(&text).ok_or_else(|| damaged("its identity cannot be read"))
}

fn decode_secrets(body: &MarkerBody) -> Result<Vec<u8>, RepoError> {
    let decoded = BASE64.decode(body.secrets.as_bytes());
    decoded.map_err(|_| RepoError::damaged(layout::REPOSITORY, "its secrets cannot be read"))
}

fn parse_secrets(json: &[u8]) -> Result<Secrets, RepoError> {
    crate::object::document::parse(layout::REPOSITORY, json)
}

fn open_secrets(marker: &Marker, body: &MarkerBody, identity: &Identity) -> Result<Secrets, RepoError> {
    let plain = identity.open(&decode_secrets(body)?).map_err(|source| match source {
        KeyError::Damaged => RepoError::damaged(layout::REPOSITORY, "its secrets are no age file"),
        source => RepoError::NoKey { key: marker.id, source },
    })?;
    parse_secrets(&plain)
}

/// Opens everything a new host needs. The root key is answered where this host may enrol itself.
fn unlock(
    store: &Arc<dyn Store>,
    state: &StateDirectory,
    marker: &Marker,
    body: &MarkerBody,
    root_is_pinned: bool,
    now: Timestamp,
    credentials: &Credentials,
) -> Result<(Local, Option<SigningKey>), RepoError> {
    let describe = store.describe();
    let differs =
        |found, configured| RepoError::EncryptionDiffers { store: describe.to_owned(), found, configured };
    let identity = match (credentials, marker.suite) {
        (Credentials::Unencrypted, Suite::Plain) => None,
        (Credentials::Unencrypted, _) => return Err(differs("encrypted", "that it is not encrypted")),
        (_, Suite::Plain) => return Err(differs("not encrypted", "that it is encrypted")),
        (Credentials::Passphrase(text), _) => Some(open_identity(describe, marker, body, text)?),
        (Credentials::Identity(identity), _) => Some(identity.clone()),
    };
    let secrets = match &identity {
        None => parse_secrets(&decode_secrets(body)?)?,
        Some(identity) => open_secrets(marker, body, identity)?,
    };
    let seed = match secrets.root_seed {
        Some(seed) => Some(seed),
        None => state.read::<String>(&state_name(marker.id, "root.json"))?,
    };
    let root = seed.as_deref().and_then(hex::decode).and_then(SigningKey::from_seed);
    let matches = root.as_ref().map(SigningKey::public) == Some(marker.root);
    // A passphrase vouches for the root key, and so does a pin. An identity alone does not: anybody can seal to it. Then
    // the seed must at least be the root's.
    if !matches && !root_is_pinned && !matches!(credentials, Credentials::Unencrypted) {
        return Err(forged("the root key in its secrets is another one"));
    }
    let local = Local {
        root: marker.root,
        identity: identity.map(|i| i.expose()),
        naming_key: secrets.naming_key,
        page_key: secrets.page_key,
        agent_seed: random::bytes(),
        enrolled: now,
    };
    Ok((local, root.filter(|_| matches)))
}
