//! Making a repository.
//!
//! Everything that opens it is inside its one repository object, so `init` is atomic: the object is there or it is not,
//! and of two at the same time one wins.

use std::sync::Arc;

use data_encoding::BASE64;
use refloat_store::{Store, StoreErrorKind};
use refloat_types::{Timestamp, fault};

use super::{LOCAL, Marker, MarkerBody, Repository, Secrets, state_name};
use crate::crypt::identity::{self, Identity, Recipient};
use crate::crypt::random;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::error::RepoError;
use crate::kind::{Kind, Suite};
use crate::layout;
use crate::object::Body;
use crate::object::document::{Document, Signer};
use crate::state::{Local, StateDirectory};

/// Who shall be able to read.
pub enum Protection {
    /// Whoever knows this passphrase.
    Passphrase(String),
    /// The holders of these recipients' identities; this host keeps `identity` when it is given.
    Recipients {
        /// To whom envelopes are sealed.
        recipients: Vec<Recipient>,
        /// One of their private halves.
        identity: Option<Identity>,
    },
    /// Everybody: said in words in the configuration.
    None,
}

/// What `init` needs to know.
pub struct InitOptions {
    /// Who shall be able to read.
    pub protection: Protection,
    /// Host time.
    pub now: Timestamp,
}

impl Repository {
    /// Makes a repository in `store`, which must be empty, and enrols this host.
    ///
    /// # Errors
    /// `NotEmpty` when something else is there. After any other error it can be called again.
    pub fn init(
        store: Arc<dyn Store>,
        state: StateDirectory,
        options: InitOptions,
    ) -> Result<Self, RepoError> {
        refuse_foreign(store.as_ref())?;
        let root = SigningKey::draw();
        let (identity, recipients) = protected(&options.protection);
        let suite = if recipients.is_empty() { Suite::Plain } else { Suite::Standard };
        let marker = Marker {
            id: random::object_id(),
            created: options.now,
            root: root.public(),
            suite,
            recipients,
            has_passphrase: matches!(options.protection, Protection::Passphrase(_)),
        };
        let secrets = Secrets {
            root_seed: (suite != Suite::Plain).then(|| refloat_types::hex::encode(root.expose_seed())),
            naming_key: random::bytes(),
            page_key: random::bytes(),
            earlier: Vec::new(),
        };
        let body =
            opening_body(&marker.recipients, marker.root, &options.protection, identity.as_ref(), &secrets)?;
        let bytes = Document::encode(
            Kind::Repository,
            suite,
            marker.id,
            &Signer::Root(&root),
            &marker,
            &[],
            Body::Raw(&body),
        )?;
        let agent = SigningKey::draw();
        let local = Local {
            root: root.public(),
            identity: identity.map(|i| i.expose()),
            earlier: Vec::new(),
            generation: 0,
            naming_key: secrets.naming_key,
            page_key: secrets.page_key,
            agent_seed: *agent.expose_seed(),
            enrolled: options.now,
        };
        // Kept first: should we die between the two, the state names a repository that does not exist, which harms
        // nobody. The other way round an unencrypted repository would have lost its root key.
        state.write(&state_name(marker.id, LOCAL), &local)?;
        if suite == Suite::Plain {
            state.write(
                &state_name(marker.id, "root.json"),
                &refloat_types::hex::encode(root.expose_seed()),
            )?;
        }
        fault::point("init.before_repository").map_err(|e| RepoError::internal("make the repository", e))?;
        store.put_new(&layout::repository(), &bytes)?;
        fault::point("init.after_repository").map_err(|e| RepoError::internal("make the repository", e))?;
        let repository = Self::assemble(store, state, marker, local, None)?;
        repository.enrol_agent(&root, options.now)?;
        Ok(repository)
    }
}

/// An empty store, or one that does not exist yet; nothing else may become a repository.
fn refuse_foreign(store: &dyn Store) -> Result<(), RepoError> {
    let mut foreign = false;
    let listed = store.list("", &mut |_| {
        foreign = true;
        std::ops::ControlFlow::Break(())
    });
    match listed {
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) if foreign => Err(RepoError::NotEmpty { store: store.describe().to_owned() }),
        Ok(()) => Ok(()),
    }
}

/// The identity and the recipients of a protection; for a passphrase they are drawn.
pub(super) fn protected(protection: &Protection) -> (Option<Identity>, Vec<Recipient>) {
    match protection {
        Protection::Passphrase(_) => {
            let identity = Identity::draw();
            let recipient = identity.recipient();
            (Some(identity), vec![recipient])
        }
        Protection::Recipients { recipients, identity } => (identity.clone(), recipients.clone()),
        Protection::None => (None, Vec::new()),
    }
}

/// The body of the repository object, or of a later generation.
pub(super) fn opening_body(
    recipients: &[Recipient],
    root: PublicKey,
    protection: &Protection,
    own: Option<&Identity>,
    secrets: &Secrets,
) -> Result<Vec<u8>, RepoError> {
    let secrets = serde_json::to_vec(secrets).map_err(|e| RepoError::internal("write the secrets", e))?;
    let sealed = if recipients.is_empty() { secrets } else { identity::seal_to(recipients, &secrets)? };
    let identity = match (protection, own) {
        (Protection::Passphrase(passphrase), Some(own)) => {
            // The root key goes behind the passphrase too: whoever opens this knows which root to trust.
            let text = format!("{}\nroot {}\n", own.expose(), refloat_types::hex::encode(&root.0));
            Some(BASE64.encode(&identity::seal_with_passphrase(passphrase, text.as_bytes())?))
        }
        _ => None,
    };
    let body = MarkerBody { identity, secrets: BASE64.encode(&sealed) };
    serde_json::to_vec(&body).map_err(|e| RepoError::internal("write the repository object", e))
}
