//! Rotation: who can read from now on, without writing any data again. And how other hosts follow.
//!
//! The new generation is one object, so a crash leaves the old or the new one. Between it and this host's own state a
//! crash leaves a host that writes on, and reads again after `init` with the new passphrase, like any other host.

use refloat_store::StoreErrorKind;
use refloat_types::{Timestamp, fault, hex};

use super::generations::{self, Generation};
use super::init::{opening_body, protected};
use super::open::{CredentialSource, unlock};
use super::{LOCAL, Protection, Repository, Secrets};
use crate::crypt::random;
use crate::error::RepoError;
use crate::kind::{Kind, Suite};
use crate::layout;
use crate::object::Body;
use crate::object::document::{Document, Signer};

impl Repository {
    /// Whether this host can open the root key: what rotation and invitations are signed with.
    ///
    /// # Errors
    /// `NoRoot` when it cannot, or why opening failed.
    pub fn check_root(&self) -> Result<(), RepoError> {
        self.need_root().map(drop)
    }

    pub(super) fn need_root(&self) -> Result<crate::crypt::sign::SigningKey, RepoError> {
        self.root_key()?.ok_or_else(|| RepoError::NoRoot { store: self.store.describe().to_owned() })
    }

    /// Makes a new generation of who can read. What was sealed before stays as it is. This host goes on with the new
    /// one; open the repository again to use it.
    ///
    /// # Errors
    /// `NoRoot` where this host cannot open the root key; `EncryptionDiffers` for a protection that would end the
    /// encryption; `AlreadyRotated` when another host did it at the same time.
    pub fn rotate(&self, protection: &Protection, now: Timestamp) -> Result<Generation, RepoError> {
        if matches!(protection, Protection::None) {
            let store = self.store.describe().to_owned();
            let configured = "that it is not encrypted";
            return Err(RepoError::EncryptionDiffers { store, found: "encrypted", configured });
        }
        let found = self.generation_now()?;
        if found.number > self.current.number {
            let object = layout::generation(layout::RECIPIENTS, found.number).to_string();
            return Err(RepoError::AlreadyRotated { object });
        }
        let root = self.need_root()?;
        let (identity, recipients) = protected(protection);
        // Names that forged or rotten generations have taken are passed over.
        let taken = generations::numbers(self.store.as_ref())?;
        let mut number = self.current.number + 1;
        for later in taken.iter().filter(|taken| **taken > self.current.number) {
            match generations::read(self.store.as_ref(), &self.marker, *later) {
                // Another host was faster, between the look before and this one.
                Ok(opening) => return Err(RepoError::AlreadyRotated { object: opening.object }),
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                Err(_) => {}
            }
        }
        while taken.contains(&number) {
            number += 1;
        }
        let generation = Generation {
            number,
            created: now,
            suite: Suite::Standard,
            recipients,
            has_passphrase: matches!(protection, Protection::Passphrase(_)),
        };
        let secrets = self.next_secrets(hex::encode(root.expose_seed()))?;
        let body =
            opening_body(&generation.recipients, self.marker.root, protection, identity.as_ref(), &secrets)?;
        let key = layout::generation(layout::RECIPIENTS, generation.number);
        let signer = Signer::Root(&root);
        let id = random::object_id();
        let bytes = Document::encode(
            Kind::Recipients,
            Suite::Standard,
            id,
            &signer,
            &generation,
            &[],
            Body::Raw(&body),
        )?;
        fault::point("rotate.before_generation").map_err(|e| RepoError::internal("rotate the key", e))?;
        match self.store.put_new(&key, &bytes) {
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => {
                return Err(RepoError::AlreadyRotated { object: key.to_string() });
            }
            other => other?,
        }
        fault::point("rotate.after_generation").map_err(|e| RepoError::internal("rotate the key", e))?;
        let read = generations::read(self.store.as_ref(), &self.marker, generation.number)?;
        if read.generation != generation {
            return Err(RepoError::damaged(&key, "other bytes came back than were stored"));
        }
        self.follow(identity.map(|identity| identity.expose()), &secrets, &generation)?;
        Ok(generation)
    }

    /// The secrets of the next generation: what it takes to read everything that was sealed before.
    fn next_secrets(&self, root_seed: String) -> Result<Secrets, RepoError> {
        if !self.is_encrypted() {
            // The naming key stays: names of stored WAL are made with it. The page key could be read until now.
            return Ok(Secrets {
                root_seed: Some(root_seed),
                naming_key: self.local.naming_key,
                page_key: random::bytes(),
                earlier: Vec::new(),
            });
        }
        let mut secrets = self.open_secrets(&self.opening()?)?;
        // An identity that was drawn for a passphrase is the repository's own, so it goes along. One that a person keeps in
        // a file may open other things too, and stays there.
        if self.current.has_passphrase {
            let own = self.identities();
            let drawn = own.iter().filter(|identity| self.current.recipients.contains(&identity.recipient()));
            secrets.earlier.extend(drawn.map(|identity| identity.expose()));
        }
        secrets.root_seed = Some(root_seed);
        Ok(secrets)
    }

    /// Goes on with a generation that this host has made.
    fn follow(
        &self,
        identity: Option<String>,
        secrets: &Secrets,
        generation: &Generation,
    ) -> Result<(), RepoError> {
        let mut local = self.local.clone();
        let turned_on = !self.is_encrypted();
        if identity.is_some() || turned_on {
            local.generation = generation.number;
        }
        if let Some(identity) = identity {
            local.hold(identity, secrets.earlier.clone());
        }
        local.page_key = secrets.page_key;
        self.state.write(&self.state_name(LOCAL), &local)?;
        self.state.write(&self.state_name(generations::GENERATION), generation)?;
        self.state.remove(&self.state_name("writer-key.json"))?;
        self.state.remove(&self.state_name("root.json"))
    }

    /// Whether `credentials` would let this host read more than it does.
    pub fn lacks_identity(&self) -> bool {
        self.is_encrypted() && (self.is_behind() || self.local.identity.is_none())
    }

    /// Opens the current generation on a host that has opened an older one, or none. Its agent key stays. Open the
    /// repository again to use it.
    ///
    /// # Errors
    /// As for [`Repository::open`]; then everything stays as it was.
    pub fn adopt(&self, now: Timestamp, credentials: CredentialSource<'_>) -> Result<(), RepoError> {
        let opening = self.opening()?;
        let (new, root) =
            unlock(&self.store, &self.state, &self.marker, &opening, true, now, &credentials()?)?;
        let mut local = self.local.clone();
        local.generation = opening.generation.number;
        local.naming_key = new.naming_key;
        local.page_key = new.page_key;
        if let Some(identity) = new.identity {
            local.hold(identity, new.earlier);
        }
        self.state.write(&self.state_name(LOCAL), &local)?;
        self.keep_generation(&opening.generation)?;
        if root.is_some() && opening.generation.suite != Suite::Plain {
            // It is sealed in the repository now, and needs to be readable nowhere else.
            self.state.remove(&self.state_name("root.json"))?;
        }
        Ok(())
    }
}
