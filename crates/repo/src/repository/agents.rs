//! Agents: the hosts that may write. Each is enrolled by an object that the root key signs, or an invitation of the root key's.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use refloat_store::{StoreErrorKind, read_whole};
use refloat_types::{ObjectId, Timestamp};
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout;
use crate::object::Body;
use crate::object::document::{Document, Signer};

/// Largest enrolment accepted.
pub(super) const MAX_AGENT: u64 = 64 << 10;

/// File in the state directory with the agent of this host that the repository was seen to know.
const ENROLLED: &str = "enrolled.json";

/// The clear section of an enrolment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListedAgent {
    /// Its id: derived from its key.
    pub agent: ObjectId,
    /// Its public key.
    pub public_key: PublicKey,
    /// When it was enrolled.
    pub enrolled: Timestamp,
    /// The invitation it was enrolled by; none where the root key did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<ObjectId>,
}

impl Repository {
    /// Enrols this host; already enrolled is fine.
    pub(super) fn enrol_agent(&self, root: &SigningKey, now: Timestamp) -> Result<(), RepoError> {
        let public_key = self.signing.public();
        let clear = ListedAgent { agent: public_key.agent_id(), public_key, enrolled: now, invitation: None };
        let signer = Signer::Root(root);
        let id = clear.agent;
        let bytes = Document::encode(Kind::Agent, self.current.suite, id, &signer, &clear, &[], Body::Empty)?;
        match self.store.put_new(&layout::agent(id), &bytes) {
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
            other => other?,
        }
        self.note_enrolled();
        Ok(())
    }

    /// Remembers that the repository knows this host's agent.
    pub(super) fn note_enrolled(&self) {
        if !self.was_enrolled()
            && let Err(error) = self.state.write(&self.state_name(ENROLLED), &self.agent())
        {
            // The next process asks again, and that is all.
            tracing::debug!(%error, "that this host is enrolled could not be kept");
        }
        self.enrolled.store(true, Ordering::Relaxed);
    }

    /// Whether this host has seen that the repository knows its agent.
    pub fn was_enrolled(&self) -> bool {
        if self.enrolled.load(Ordering::Relaxed) {
            return true;
        }
        // What cannot be read is asked for again.
        let noted = self.state.read::<ObjectId>(&self.state_name(ENROLLED)).ok().flatten();
        let is_noted = noted == Some(self.agent());
        self.enrolled.fetch_or(is_noted, Ordering::Relaxed);
        is_noted
    }

    /// Called before anything is stored that this host signs: nobody would believe what an agent has signed that the repository
    /// does not know. The first opening may have ended, or its store have failed, before this host was enrolled.
    pub(super) fn be_enrolled(&self) -> Result<(), RepoError> {
        if self.was_enrolled() { Ok(()) } else { self.ensure_enrolled(self.local.enrolled) }
    }

    /// Makes up for an enrolment that a crash prevented.
    ///
    /// # Errors
    /// `NotEnrolled` when this host cannot enrol itself: it holds neither an identity nor the root key.
    pub fn ensure_enrolled(&self, now: Timestamp) -> Result<(), RepoError> {
        if self.store.head(&layout::agent(self.agent()))?.is_some() {
            self.note_enrolled();
            return Ok(());
        }
        match self.root_key()? {
            Some(root) => self.enrol_agent(&root, now),
            None => Err(RepoError::NotEnrolled { store: self.store.describe().to_owned() }),
        }
    }

    /// The public key of an enrolled agent.
    ///
    /// # Errors
    /// `UnknownOrigin` (naming `object`) when nobody of that id was enrolled by the root key.
    pub fn agent_key(&self, agent: ObjectId, object: &str) -> Result<PublicKey, RepoError> {
        let known = |r: &Self| r.agents.lock().unwrap_or_else(PoisonError::into_inner).get(&agent).copied();
        if let Some(key) = known(self) {
            return Ok(key);
        }
        let unknown = |why: &str| RepoError::UnknownOrigin { object: object.to_owned(), why: why.to_owned() };
        if agent == ObjectId::NONE {
            return Err(unknown("it is not signed by an agent"));
        }
        let key = layout::agent(agent);
        let bytes = match self.read_record(&key, MAX_AGENT) {
            Err(RepoError::Missing { .. }) => {
                return Err(unknown("nobody enrolled the agent that signed it"));
            }
            other => other?,
        };
        let listed = self.check_agent(key.as_str(), bytes)?;
        if listed.agent != agent {
            return Err(RepoError::damaged(key, "it enrols another agent"));
        }
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).insert(agent, listed.public_key);
        Ok(listed.public_key)
    }

    pub(super) fn check_agent(&self, object: &str, bytes: Vec<u8>) -> Result<ListedAgent, RepoError> {
        let document = Document::decode(object, bytes, Kind::Agent)?;
        let signer = document.header.agent;
        let listed: ListedAgent = if signer == ObjectId::NONE {
            document.verify(&self.marker.root)?.clear_as(object)?
        } else {
            let invitation = self.invited_by(object, &document, document.digest())?;
            let listed: ListedAgent = document.verify(&invitation.public_key)?.clear_as(object)?;
            if listed.enrolled > invitation.expires {
                let why = "it was enrolled when its invitation had expired".to_owned();
                return Err(RepoError::UnknownOrigin { object: object.to_owned(), why });
            }
            listed
        };
        let by = listed.invitation.unwrap_or(ObjectId::NONE);
        let consistent = by == signer
            && listed.public_key.agent_id() == listed.agent
            && document.header.id == listed.agent
            && object == layout::agent(listed.agent).as_str();
        if consistent { Ok(listed) } else { Err(RepoError::damaged(object, "its id is not that of its key")) }
    }

    /// All enrolled agents; `each` also gets what cannot be believed.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn list_agents(
        &self,
        each: &mut dyn FnMut(&str, Result<ListedAgent, RepoError>),
    ) -> Result<(), RepoError> {
        let mut keys = Vec::new();
        self.store.list(layout::AGENTS, &mut |info| {
            keys.push(info.key);
            ControlFlow::Continue(())
        })?;
        for key in keys {
            let read = read_whole(self.store.as_ref(), &key, MAX_AGENT).map_err(RepoError::from);
            each(key.as_str(), read.and_then(|bytes| self.check_agent(key.as_str(), bytes)));
        }
        Ok(())
    }

    /// Writes a document that this host signs.
    pub(super) fn put_signed(
        &self,
        key: &refloat_store::Key,
        kind: Kind,
        id: ObjectId,
        clear: &impl Serialize,
        table: &[u8],
        body: Body<'_>,
    ) -> Result<u64, RepoError> {
        self.be_enrolled()?;
        let signer = Signer::Agent(&self.signing);
        let bytes = Document::encode(kind, self.current.suite, id, &signer, clear, table, body)?;
        self.store.put_new(key, &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// The bytes of an object that is never larger than `limit`: one that is has been put there by somebody else.
    fn read_record(&self, key: &refloat_store::Key, limit: u64) -> Result<Vec<u8>, RepoError> {
        match read_whole(self.store.as_ref(), key, limit) {
            Err(e) if e.kind == StoreErrorKind::NotFound => {
                Err(RepoError::Missing { object: key.to_string() })
            }
            Err(e) if e.kind == StoreErrorKind::Other => match self.store.head(key)? {
                Some(info) if info.size > limit => Err(RepoError::damaged(
                    key,
                    format!("it holds {} bytes, at most {limit} are right", info.size),
                )),
                _ => Err(e.into()),
            },
            other => Ok(other?),
        }
    }

    /// Reads a document that an enrolled agent must have signed.
    pub(super) fn get_signed(
        &self,
        key: &refloat_store::Key,
        kind: Kind,
        limit: u64,
    ) -> Result<Document, RepoError> {
        let bytes = self.read_record(key, limit)?;
        let document = Document::decode(key.as_str(), bytes, kind)?;
        if !self.allows(document.header.suite) {
            return Err(RepoError::damaged(key, "it is sealed otherwise than this repository"));
        }
        document.verify(&self.agent_key(document.header.agent, key.as_str())?)?;
        Ok(document)
    }
}
