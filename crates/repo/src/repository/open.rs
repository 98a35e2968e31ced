//! Finding a repository, trusting it, and opening what this host may open.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use refloat_store::{Store, StoreErrorKind, read_whole};
use refloat_types::{ObjectId, Timestamp, hex};

use super::generations::{self, GENERATION, Generation, Opening};
use super::{LOCAL, Marker, Repository, Secrets, state_name};
use crate::crypt::identity::{self, Identity, Recipient};
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
        Ok(first_opening(store)?.0)
    }

    /// Whether this host has opened the repository with this id before.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn is_known(state: &StateDirectory, id: ObjectId) -> Result<bool, RepoError> {
        Ok(state.read::<Local>(&state_name(id, LOCAL))?.is_some())
    }

    /// Opens a repository. What the state directory holds is used; where it holds nothing, `credentials` are asked for,
    /// the identity is opened and kept, and the host is enrolled under a new agent key: now, or before it first writes.
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
        let (marker, first) = match first_opening(store.as_ref()) {
            // A host that has opened it before can go on, and put it right.
            Err(error @ RepoError::Damaged { .. }) => {
                let kept = super::mend::kept_marker(&state, store.describe())?;
                kept.and_then(|bytes| opening_of(bytes).ok()).ok_or(error)?
            }
            other => other?,
        };
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
            let kept = state.read::<Generation>(&state_name(marker.id, GENERATION))?;
            return Self::assemble(store, state, marker, local, kept);
        }
        let newest = generations::newest(store.as_ref(), &marker, None)?;
        let opening = match newest.generation.number {
            0 => first,
            number => generations::read(store.as_ref(), &marker, number)?,
        };
        let (local, root) =
            unlock(&store, &state, &marker, &opening, fingerprint.is_some(), now, &credentials()?)?;
        state.write(&state_name(marker.id, LOCAL), &local)?;
        let repository = Self::assemble(store, state, marker, local, None)?;
        repository.keep_generation(&repository.current)?;
        if let Some(root) = root {
            // A repository that cannot be written is still read; its host is enrolled when it first writes.
            match repository.enrol_agent(&root, now) {
                Err(RepoError::Store(e))
                    if matches!(e.kind, StoreErrorKind::ReadOnly | StoreErrorKind::Denied) =>
                {
                    repository.state.remove(&repository.state_name(LOCAL))?;
                }
                // A full store, or an answer that did not come. The agent may be there by now, so it stays this host's.
                Err(RepoError::Store(error)) => {
                    tracing::info!(%error, "this host is enrolled before it writes, not yet");
                }
                other => other?,
            }
        }
        Ok(repository)
    }

    /// Opens a repository as this host has seen it last, and asks the store for nothing; `None` where it has not seen it, or
    /// has not kept what it saw, or that is damaged. Whatever is read through it is verified as ever. What is not found through it may be there
    /// all the same, and it must not write: for that a repository is opened in full.
    ///
    /// # Errors
    /// When the state directory cannot be read, or what is kept there is not what this host trusts.
    pub fn open_as_seen(
        store: Arc<dyn Store>,
        state: StateDirectory,
        fingerprint: Option<&str>,
    ) -> Result<Option<Self>, RepoError> {
        let Some(bytes) = super::mend::kept_marker(&state, store.describe())? else { return Ok(None) };
        // What is damaged is kept anew by whoever opens it in full.
        let Ok((marker, _)) = opening_of(bytes) else { return Ok(None) };
        let Some(local) = state.read::<Local>(&state_name(marker.id, LOCAL))? else { return Ok(None) };
        if local.root != marker.root || fingerprint.is_some_and(|pin| pin != marker.root.fingerprint()) {
            return Ok(None);
        }
        let kept = state.read::<Generation>(&state_name(marker.id, GENERATION))?;
        let current = kept.unwrap_or_else(|| Generation::first(&marker));
        Self::with(store, state, marker, local, current).map(Some)
    }

    /// Keeps the repository object for [`Repository::open_as_seen`], unless that was done. What is kept there and is damaged, or
    /// is another repository's that was there before, is replaced.
    ///
    /// # Errors
    /// When it cannot be read again or kept.
    pub fn keep_as_seen(&self) -> Result<(), RepoError> {
        let kept = super::mend::kept_marker(&self.state, self.store.describe()).unwrap_or_default();
        let is_ours =
            |(marker, _): (Marker, Opening)| marker.id == self.marker.id && marker.root == self.marker.root;
        if kept.is_some_and(|bytes| opening_of(bytes).is_ok_and(is_ours)) {
            return Ok(());
        }
        let bytes = read_whole(self.store.as_ref(), &layout::repository(), MAX_MARKER)?;
        if opening_of(bytes.clone())?.0.root != self.marker.root {
            return Err(forged("its root key is not the one this host trusts"));
        }
        self.keep_marker(&bytes)
    }

    /// Tries `passphrase` on the repository's identity, whatever this host holds: the proof that it was kept. Answers the public
    /// half of the identity behind it.
    ///
    /// # Errors
    /// `WrongPassphrase`, or what reading says.
    pub fn try_passphrase(&self, passphrase: &str) -> Result<Recipient, RepoError> {
        let identity = open_identity(self.store.describe(), &self.marker, &self.opening()?, passphrase)?;
        Ok(identity.recipient())
    }

    /// Checks the repository object itself, and that this host's identity opens what is sealed in it.
    pub(super) fn inspect_marker(&self) -> Result<super::Inspected, RepoError> {
        let (marker, opening) = first_opening(self.store.as_ref())?;
        if marker.root != self.marker.root || marker.id != self.marker.id {
            return Err(forged("its root key is not the one this host trusts"));
        }
        self.inspect_opening(&opening)
    }

    /// Checks generation `number`, and that this host's identities open what is sealed in the newest one.
    pub(super) fn inspect_generation(&self, number: u64) -> Result<super::Inspected, RepoError> {
        self.inspect_opening(&generations::read(self.store.as_ref(), &self.marker, number)?)
    }

    fn inspect_opening(&self, opening: &Opening) -> Result<super::Inspected, RepoError> {
        let whole = super::Inspected::whole(ObjectId::NONE, ObjectId::NONE, opening.digest);
        if opening.generation.suite == Suite::Plain {
            parse_secrets(&opening.object, &decode_secrets(opening)?)?;
            return Ok(whole);
        }
        let opened = match self.open_secrets(opening) {
            Ok(_) => Ok(()),
            // Nobody needs what an older generation holds: a later one holds it too.
            Err(RepoError::NoKey {
                source: KeyError::OtherRecipients { .. } | KeyError::Rotated { .. },
                ..
            }) if opening.generation.number < self.current.number => Ok(()),
            Err(RepoError::NoKey { source, .. }) => Err(source),
            Err(error) => return Err(error),
        };
        Ok(super::Inspected { opened, ..whole })
    }

    /// Opens the secrets of a generation with what this host holds.
    pub(super) fn open_secrets(&self, opening: &Opening) -> Result<Secrets, RepoError> {
        open_secrets(&self.marker, opening, &self.identities()).map_err(|error| match error {
            RepoError::NoKey { key, source } => RepoError::NoKey { key, source: self.explained(source) },
            error => error,
        })
    }

    /// The root key, where this host can open it.
    pub(super) fn root_key(&self) -> Result<Option<SigningKey>, RepoError> {
        let seed = if self.is_encrypted() {
            // A host that only writes; unless encryption was turned on behind its back, which is said then.
            let only_writes = !self.was_plain() || !self.is_behind();
            if self.local.identity.is_none() && only_writes {
                return Ok(None);
            }
            self.open_secrets(&self.opening()?)?.root_seed
        } else {
            self.state.read::<String>(&self.state_name("root.json"))?
        };
        let key = seed.as_deref().and_then(hex::decode).and_then(SigningKey::from_seed);
        Ok(key.filter(|key| key.public() == self.marker.root))
    }

    pub(super) fn assemble(
        store: Arc<dyn Store>,
        state: StateDirectory,
        marker: Marker,
        local: Local,
        kept: Option<Generation>,
    ) -> Result<Self, RepoError> {
        let remembered = kept.as_ref().map_or(0, |kept| kept.number);
        let newest = generations::newest(store.as_ref(), &marker, kept)?;
        Self::with(store, state, marker, local, newest.generation).map(|opened| Self { remembered, ..opened })
    }

    /// One that goes by generation `current`, which this host has remembered.
    fn with(
        store: Arc<dyn Store>,
        state: StateDirectory,
        marker: Marker,
        local: Local,
        current: Generation,
    ) -> Result<Self, RepoError> {
        let signing = local.signing()?;
        Ok(Self {
            store,
            marker,
            remembered: current.number,
            current,
            state,
            local,
            signing,
            agents: Mutex::new(BTreeMap::new()),
            enrolled: AtomicBool::new(false),
            writer_key: Mutex::new(None),
        })
    }
}

fn forged(why: &str) -> RepoError {
    RepoError::UnknownOrigin { object: layout::REPOSITORY.to_owned(), why: why.to_owned() }
}

/// The repository object, and what it is as a generation.
pub(super) fn first_opening(store: &dyn Store) -> Result<(Marker, Opening), RepoError> {
    let bytes = match read_whole(store, &layout::repository(), MAX_MARKER) {
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            return Err(RepoError::NotARepository { store: store.describe().to_owned() });
        }
        other => other?,
    };
    opening_of(bytes)
}

/// What the bytes of a repository object say.
fn opening_of(bytes: Vec<u8>) -> Result<(Marker, Opening), RepoError> {
    let object = layout::REPOSITORY;
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
    let generation = Generation::first(&marker);
    Ok((marker, Opening { object: object.to_owned(), generation, body, digest: document.digest() }))
}

fn open_identity(
    store: &str,
    marker: &Marker,
    opening: &Opening,
    passphrase: &str,
) -> Result<Identity, RepoError> {
    let damaged = |what: &str| RepoError::damaged(&opening.object, what);
    let generation = &opening.generation;
    let changed = (generation.number > 0).then_some(generation.created);
    let sealed = opening.body.identity.as_deref().and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let sealed = sealed.ok_or_else(|| damaged("it holds no identity that a passphrase could open"))?;
    let plain = identity::open_with_passphrase(passphrase, &sealed)
        .map_err(|_| damaged("its identity is no age file"))?
        .ok_or_else(|| RepoError::WrongPassphrase { store: store.to_owned(), changed })?;
    let text = String::from_utf8(plain).map_err(|_| damaged("its identity is no text"))?;
    let root = text.lines().find_map(|line| line.strip_prefix("root ")).and_then(hex::decode).map(PublicKey);
    if root != Some(marker.root) {
        return Err(forged("the root key is not the one behind the passphrase"));
    }
    Identity::parse(&text).ok_or_else(|| damaged("its identity cannot be read"))
}

fn decode_secrets(opening: &Opening) -> Result<Vec<u8>, RepoError> {
    let decoded = BASE64.decode(opening.body.secrets.as_bytes());
    decoded.map_err(|_| RepoError::damaged(&opening.object, "its secrets cannot be read"))
}

fn parse_secrets(object: &str, json: &[u8]) -> Result<Secrets, RepoError> {
    crate::object::document::parse(object, json)
}

fn open_secrets(marker: &Marker, opening: &Opening, identities: &[Identity]) -> Result<Secrets, RepoError> {
    let plain =
        identity::open_with(identities, &decode_secrets(opening)?).map_err(|source| match source {
            KeyError::Damaged => RepoError::damaged(&opening.object, "its secrets are no age file"),
            source => RepoError::NoKey { key: marker.id, source },
        })?;
    parse_secrets(&opening.object, &plain)
}

/// Opens everything a new host needs. The root key is answered where this host may enrol itself.
pub(super) fn unlock(
    store: &Arc<dyn Store>,
    state: &StateDirectory,
    marker: &Marker,
    opening: &Opening,
    root_is_pinned: bool,
    now: Timestamp,
    credentials: &Credentials,
) -> Result<(Local, Option<SigningKey>), RepoError> {
    let describe = store.describe();
    let differs =
        |found, configured| RepoError::EncryptionDiffers { store: describe.to_owned(), found, configured };
    let identity = match (credentials, opening.generation.suite) {
        (Credentials::Unencrypted, Suite::Plain) => None,
        (Credentials::Unencrypted, _) => return Err(differs("encrypted", "that it is not encrypted")),
        (_, Suite::Plain) => return Err(differs("not encrypted", "that it is encrypted")),
        (Credentials::Passphrase(text), _) => Some(open_identity(describe, marker, opening, text)?),
        (Credentials::Identity(identity), _) => Some(identity.clone()),
    };
    let secrets = match &identity {
        None => parse_secrets(&opening.object, &decode_secrets(opening)?)?,
        Some(identity) => open_secrets(marker, opening, std::slice::from_ref(identity))?,
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
        earlier: secrets.earlier,
        generation: opening.generation.number,
        naming_key: secrets.naming_key,
        page_key: secrets.page_key,
        agent_seed: random::bytes(),
        enrolled: now,
    };
    Ok((local, root.filter(|_| matches)))
}
