//! Invitations: a host that holds no identity is enrolled by a token, once.
//!
//! The root key signs an invitation that names a public key of its own; the token holds the private half. With it the new host
//! signs its enrolment. What uses an invitation up is an object named after it, created once, before the enrolment itself: of two
//! hosts with one token the first is believed and the other is told. A crash between the two is made up for by running it again on
//! the same host.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::{Encoding, Specification};
use refloat_store::{Key, Store, StoreErrorKind, read_whole};
use refloat_types::{ObjectId, Timestamp, fault};
use serde::{Deserialize, Serialize};

use super::agents::{ListedAgent, MAX_AGENT};
use super::generations::{self, GENERATION};
use super::open::first_opening;
use super::{LOCAL, Repository, state_name};
use crate::crypt::random;
use crate::crypt::seal::DataKey;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout;
use crate::object::Body;
use crate::object::document::{Document, Signer, parse};
use crate::state::{Local, StateDirectory};

/// Largest invitation accepted.
pub(super) const MAX_INVITATION: u64 = 64 << 10;

/// How a token begins.
pub const TOKEN_PREFIX: &str = "refloat-invite-1-";

/// BLAKE3 context of the key that seals what an invitation gives.
const GIFT_CONTEXT: &str = "refloat invitation 1";

/// The clear section of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Its id: derived from its key.
    pub invitation: ObjectId,
    /// Its public key: it signs the enrolment.
    pub public_key: PublicKey,
    /// When it was made.
    pub created: Timestamp,
    /// Until when it may be used.
    pub expires: Timestamp,
    /// Who could read when it was made: a store that shows older recipients only is not believed.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generation: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(generation: &u64) -> bool {
    *generation == 0
}

/// What a host needs to write, sealed with a key that the token gives. None of it opens data.
#[derive(Serialize, Deserialize)]
struct Gift {
    #[serde(with = "refloat_types::hex::array")]
    naming_key: [u8; 32],
    #[serde(with = "refloat_types::hex::array")]
    page_key: [u8; 32],
}

/// A token: the root key to trust, and the private half of an invitation. Never printed but on purpose.
pub struct Token {
    root: PublicKey,
    signing: SigningKey,
}

fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().expect("32 symbols")
}

fn checksum(bytes: &[u8]) -> [u8; 5] {
    let digest = blake3::hash(bytes);
    let mut out = [0; 5];
    out.copy_from_slice(&digest.as_bytes()[..5]);
    out
}

impl Token {
    /// Reads a token; `None` when it is none, or was mistyped.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = base32().decode(text.trim().strip_prefix(TOKEN_PREFIX)?.as_bytes()).ok()?;
        let (body, sum) = bytes.split_at_checked(64)?;
        if sum != checksum(body) {
            return None;
        }
        let (root, seed) = body.split_at(32);
        Some(Self {
            root: PublicKey(root.try_into().ok()?),
            signing: SigningKey::from_seed(seed.try_into().ok()?)?,
        })
    }

    /// As one line, for who is invited.
    pub fn expose(&self) -> String {
        let mut bytes = [self.root.0, *self.signing.expose_seed()].concat();
        bytes.extend_from_slice(&checksum(&bytes));
        format!("{TOKEN_PREFIX}{}", base32().encode(&bytes))
    }

    /// The id of its invitation.
    pub fn invitation(&self) -> ObjectId {
        self.signing.public().agent_id()
    }

    /// The invitation's key, which signs the enrolment.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// Seals what the invitation gives; it is no data key, so it has no id.
    fn gift_key(&self) -> DataKey {
        DataKey::from_parts(ObjectId::NONE, blake3::derive_key(GIFT_CONTEXT, self.signing.expose_seed()))
    }
}

/// Reads an invitation, which the root key must have signed.
fn read(store: &dyn Store, root: &PublicKey, id: ObjectId) -> Result<(Invitation, Document), RepoError> {
    let key = layout::invitation(id);
    let bytes = match read_whole(store, &key, MAX_INVITATION) {
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            return Err(RepoError::Missing { object: key.to_string() });
        }
        other => other?,
    };
    let document = Document::decode(key.as_str(), bytes, Kind::Invitation)?;
    let unknown = |why: &str| RepoError::UnknownOrigin { object: key.to_string(), why: why.to_owned() };
    if document.header.agent != ObjectId::NONE {
        return Err(unknown("only the root key invites"));
    }
    let invitation: Invitation = document.verify(root)?.clear_as(key.as_str())?;
    if invitation.invitation != id || invitation.public_key.agent_id() != id {
        return Err(RepoError::damaged(&key, "it lies under another invitation's name"));
    }
    Ok((invitation, document))
}

fn read_used(store: &dyn Store, id: ObjectId) -> Result<Option<Vec<u8>>, RepoError> {
    match read_whole(store, &layout::invitation_used(id), MAX_AGENT) {
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        other => Ok(Some(other?)),
    }
}

impl Repository {
    /// Invites one host, for so long. The invitation is durable when this answers.
    ///
    /// # Errors
    /// `NoRoot` where this host cannot open the root key.
    pub fn invite(&self, valid: Duration, now: Timestamp) -> Result<(Token, Invitation), RepoError> {
        let root = self.need_root()?;
        let token = Token { root: self.marker.root, signing: SigningKey::draw() };
        let late = |error| RepoError::internal("invite a host", error);
        let invitation = Invitation {
            invitation: token.invitation(),
            public_key: token.signing().public(),
            created: now,
            expires: now.checked_add(valid).map_err(late)?,
            generation: self.current.number,
        };
        let gift = Gift { naming_key: self.local.naming_key, page_key: self.local.page_key };
        let gift = serde_json::to_vec(&gift).map_err(|e| RepoError::internal("write an invitation", e))?;
        let key = token.gift_key();
        let body = Body::Sealed(&gift, Some(&key));
        let id = invitation.invitation;
        let bytes = Document::encode(
            Kind::Invitation,
            self.current.suite,
            id,
            &Signer::Root(&root),
            &invitation,
            &[],
            body,
        )?;
        fault::point("invite.before_invitation").map_err(|e| RepoError::internal("invite a host", e))?;
        self.store.put_new(&layout::invitation(id), &bytes)?;
        Ok((token, invitation))
    }

    /// Enrols this host with a token. It can write then, and read nothing that is sealed. Safe to repeat on the same host.
    ///
    /// # Errors
    /// `WrongFingerprint` when the token is another repository's; `InvitationOver` when it expired or another host used it;
    /// what the store says.
    pub fn accept(
        store: Arc<dyn Store>,
        state: StateDirectory,
        token: &Token,
        now: Timestamp,
    ) -> Result<Self, RepoError> {
        let (marker, _) = first_opening(store.as_ref())?;
        if marker.root != token.root {
            return Err(RepoError::WrongFingerprint {
                store: store.describe().to_owned(),
                found: marker.root.fingerprint(),
                expected: token.root.fingerprint(),
            });
        }
        let known = state.read::<Local>(&state_name(marker.id, LOCAL))?;
        if let Some(known) = known.as_ref().filter(|known| known.root != marker.root) {
            return Err(RepoError::WrongFingerprint {
                store: store.describe().to_owned(),
                found: marker.root.fingerprint(),
                expected: known.root.fingerprint(),
            });
        }
        let (invitation, document) = read(store.as_ref(), &marker.root, token.invitation())?;
        let over = |why: &'static str| RepoError::InvitationOver { store: store.describe().to_owned(), why };
        let used = read_used(store.as_ref(), token.invitation())?;
        let own = known.as_ref().map(Local::signing).transpose()?.map(|signing| signing.public());
        if let Some(used) = &used {
            let enrolment = enrolment_of(token, &invitation, used.clone());
            if !enrolment.is_ok_and(|listed| Some(listed.public_key) == own) {
                return Err(over("another host has used it"));
            }
        } else if now > invitation.expires {
            return Err(over("it has expired"));
        }
        let local = match known {
            Some(known) => known,
            None => {
                let newest = generations::newest(store.as_ref(), &marker, None)?;
                if newest.generation.number < invitation.generation {
                    let object = layout::generation(layout::RECIPIENTS, invitation.generation);
                    return Err(RepoError::Missing { object: object.to_string() });
                }
                let gift = document.open_body(Some(&token.gift_key()))?;
                let gift: Gift = parse(layout::invitation(token.invitation()).as_str(), &gift)?;
                let local = Local {
                    root: marker.root,
                    identity: None,
                    earlier: Vec::new(),
                    generation: newest.generation.number,
                    naming_key: gift.naming_key,
                    page_key: gift.page_key,
                    agent_seed: random::bytes(),
                    enrolled: now,
                };
                // Kept first: should we die behind it, the same key is enrolled by the next run.
                state.write(&state_name(marker.id, LOCAL), &local)?;
                if newest.generation.number > 0 {
                    state.write(&state_name(marker.id, GENERATION), &newest.generation)?;
                }
                local
            }
        };
        let kept = state.read(&state_name(marker.id, GENERATION))?;
        let repository = Self::assemble(store, state, marker, local, kept)?;
        repository.enrol_invited(token, used, now)?;
        Ok(repository)
    }

    fn enrol_invited(&self, token: &Token, used: Option<Vec<u8>>, now: Timestamp) -> Result<(), RepoError> {
        let public_key = self.signing.public();
        let id = public_key.agent_id();
        let bytes = match used {
            Some(used) => used,
            None => {
                let invitation = Some(token.invitation());
                let clear = ListedAgent { agent: id, public_key, enrolled: now, invitation };
                let signer = Signer::Agent(token.signing());
                Document::encode(Kind::Agent, self.current.suite, id, &signer, &clear, &[], Body::Empty)?
            }
        };
        let fail = |error| RepoError::internal("enrol this host", error);
        fault::point("invite.before_used").map_err(fail)?;
        match self.store.put_new(&layout::invitation_used(token.invitation()), &bytes) {
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => {
                if read_used(self.store.as_ref(), token.invitation())?.as_ref() != Some(&bytes) {
                    let store = self.store.describe().to_owned();
                    return Err(RepoError::InvitationOver { store, why: "another host has used it" });
                }
            }
            other => other?,
        }
        fault::point("invite.after_used").map_err(fail)?;
        match self.store.put_new(&layout::agent(id), &bytes) {
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
            other => other?,
        }
        self.note_enrolled();
        Ok(())
    }

    /// Whether an enrolment that an invitation's key signed is the one that used it up. Answers the key that signed it.
    pub(super) fn invited_by(
        &self,
        object: &str,
        document: &Document,
        bytes_digest: [u8; 32],
    ) -> Result<Invitation, RepoError> {
        let id = document.header.agent;
        let unknown = |why: &str| RepoError::UnknownOrigin { object: object.to_owned(), why: why.to_owned() };
        let (invitation, _) = match read(self.store.as_ref(), &self.marker.root, id) {
            Err(RepoError::Missing { .. }) => return Err(unknown("nobody invited it")),
            other => other?,
        };
        match read_used(self.store.as_ref(), id)? {
            None => Err(unknown("its invitation was not used for it")),
            Some(used) if *blake3::hash(&used).as_bytes() != bytes_digest => {
                Err(unknown("its invitation was used by another host"))
            }
            Some(_) => Ok(invitation),
        }
    }

    /// Checks an invitation, or what used it up.
    pub(super) fn inspect_invitation(
        &self,
        id: ObjectId,
        is_use: bool,
    ) -> Result<super::Inspected, RepoError> {
        if !is_use {
            let (_, document) = read(self.store.as_ref(), &self.marker.root, id)?;
            return Ok(super::Inspected::whole(ObjectId::NONE, ObjectId::NONE, document.digest()));
        }
        let key: Key = layout::invitation_used(id);
        let missing = || RepoError::Missing { object: key.to_string() };
        let bytes = read_used(self.store.as_ref(), id)?.ok_or_else(missing)?;
        let document = Document::decode(key.as_str(), bytes.clone(), Kind::Agent)?;
        let listed: ListedAgent = document.unverified().clear_as(key.as_str())?;
        if document.header.agent != id {
            return Err(RepoError::damaged(&key, "it uses another invitation"));
        }
        self.check_agent(layout::agent(listed.agent).as_str(), bytes)?;
        Ok(super::Inspected::whole(ObjectId::NONE, ObjectId::NONE, document.digest()))
    }

    /// All invitations, and the agent that used each; `wrong` gets what cannot be believed.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn list_invitations(
        &self,
        wrong: &mut dyn FnMut(&str, RepoError),
    ) -> Result<Vec<(Invitation, Option<ObjectId>)>, RepoError> {
        let mut ids = Vec::new();
        self.store.list(layout::INVITATIONS, &mut |info| {
            if let Some(layout::Named::Invitation(id)) = layout::Named::parse(&info.key) {
                ids.push(id);
            }
            std::ops::ControlFlow::Continue(())
        })?;
        let mut found = Vec::new();
        for id in ids {
            let used = || -> Result<Option<ObjectId>, RepoError> {
                let Some(bytes) = read_used(self.store.as_ref(), id)? else { return Ok(None) };
                let object = layout::invitation_used(id);
                let document = Document::decode(object.as_str(), bytes, Kind::Agent)?;
                let listed: ListedAgent = document.unverified().clear_as(object.as_str())?;
                Ok(Some(listed.agent))
            };
            match read(self.store.as_ref(), &self.marker.root, id)
                .and_then(|(invitation, _)| Ok((invitation, used()?)))
            {
                Ok(one) => found.push(one),
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                Err(error) => wrong(layout::invitation(id).as_str(), error),
            }
        }
        Ok(found)
    }
}

fn enrolment_of(token: &Token, invitation: &Invitation, bytes: Vec<u8>) -> Result<ListedAgent, RepoError> {
    let object = layout::invitation_used(token.invitation());
    let document = Document::decode(object.as_str(), bytes, Kind::Agent)?;
    document.verify(&invitation.public_key)?.clear_as(object.as_str())
}
