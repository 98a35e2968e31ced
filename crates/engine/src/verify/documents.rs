//! Small signed objects: the repository object, enrolments, envelopes, descriptions, owners, confirmations.

use refloat_repo::RepoError;
use refloat_repo::error::KeyError;
use refloat_repo::layout::{self, Named};
use refloat_repo::repository::SourceInfo;
use refloat_store::Key;
use refloat_types::{ObjectId, SourceId};
use std::collections::BTreeSet;

use super::VerifyError;
use super::report::{Depends, FindingKind, Grade};
use super::run::Run;

impl Run<'_> {
    /// Notes a failure met while looking at `key`.
    pub(super) fn fail(&mut self, key: &Key, error: RepoError, depends: Depends) -> Result<(), VerifyError> {
        let claimed = match &error {
            RepoError::UnknownOrigin { object, .. } if object == key.as_str() => {
                self.repository.claim(key).ok().flatten().map(|claim| claim.agent)
            }
            _ => None,
        };
        self.ledger.fail(key.as_str(), error, claimed, depends)
    }

    /// A failure whose cause is looked at by itself: only what depends on it is noted.
    pub(super) fn fail_quietly(
        &mut self,
        key: &Key,
        error: RepoError,
        depends: Depends,
    ) -> Result<(), VerifyError> {
        let of_envelope = match &error {
            RepoError::Damaged { object, .. }
            | RepoError::Missing { object }
            | RepoError::UnknownOrigin { object, .. } => object.starts_with(layout::ENVELOPES),
            _ => false,
        };
        if of_envelope { Ok(()) } else { self.fail(key, error, depends) }
    }

    /// A sealed part was not opened, and that is no damage of the object.
    pub(super) fn not_opened(&mut self, why: &KeyError) {
        if *why == KeyError::NoIdentity {
            let what = "what is sealed: this host holds no identity";
            self.ledger.not_proved.insert(what.to_owned());
        }
    }

    /// Enrolments: who is believed from here on.
    pub(super) fn check_agents(&mut self) -> Result<(), VerifyError> {
        let mut listed = Vec::new();
        self.repository.list_agents(&mut |object, agent| listed.push((object.to_owned(), agent)))?;
        for (object, agent) in listed {
            match agent {
                Ok(agent) => {
                    self.ledger.present += 1;
                    self.ledger.enrolled.insert(agent.agent);
                }
                // Looked at again below, under the name that it has.
                Err(RepoError::Store(error)) if error.is_retryable() => {
                    return Err(RepoError::Store(error).into());
                }
                Err(error) => self.bad_agent(&object, error)?,
            }
        }
        let own = self.repository.agent();
        // A host that only reads, as with a URL and a key, was never enrolled and has written nothing.
        if self.repository.was_enrolled() && !self.ledger.enrolled.contains(&own) {
            let object = layout::agent(own).to_string();
            self.ledger
                .agents
                .entry(own)
                .or_default()
                .add(&object, Depends::other("everything this host wrote"));
        }
        Ok(())
    }

    fn bad_agent(&mut self, object: &str, error: RepoError) -> Result<(), VerifyError> {
        let is_ours = object.parse::<Key>().ok().and_then(|key| Named::parse(&key)).is_some();
        if !is_ours {
            // The census names it as a stranger.
            return Ok(());
        }
        self.ledger.present += 1;
        let fault = super::ledger::Fault::of(object, error)?;
        let finding = self.ledger.add(fault.kind, object, fault.what);
        finding.grade = Grade::Damage;
        finding.depends.merge(Depends::other("the origin of everything that this agent signed"));
        Ok(())
    }

    /// The repository object.
    pub(super) fn check_marker(&mut self) -> Result<(), VerifyError> {
        let depends = || Depends::other("everything: without it no other host can open the repository");
        match self.repository.inspect(&Named::Repository) {
            Ok(inspected) => {
                self.ledger.present += 1;
                match inspected.opened {
                    Ok(()) => {}
                    Err(KeyError::NoIdentity) => self.not_opened(&KeyError::NoIdentity),
                    Err(why) => {
                        let finding =
                            self.ledger.add(FindingKind::NoKey, layout::REPOSITORY, why.to_string());
                        finding.depends.merge(depends());
                    }
                }
                if self.repository.generation().has_passphrase {
                    let what = "that somebody still knows the passphrase (refloat key confirm)";
                    self.ledger.not_proved.insert(what.to_owned());
                }
                Ok(())
            }
            Err(error) => self.fail(&layout::repository(), error, depends()),
        }
    }

    /// Descriptions and owners of sources, without a hole in their numbers.
    pub(super) fn check_sources(&mut self) -> Result<(), VerifyError> {
        let mut ids: BTreeSet<SourceId> = self.census.descriptions.keys().copied().collect();
        ids.extend(self.census.owners.keys());
        ids.extend(self.commit_keys.keys());
        for id in ids {
            let name = self.source_name(id);
            let described = self.census.descriptions.get(&id).cloned().unwrap_or_default();
            let depends = Depends::other(format!("what source {name} is called, and which cluster it is"));
            self.check_generations(described, |number| Named::Source(id, number), &depends)?;
            let owners = self.census.owners.get(&id).cloned().unwrap_or_default();
            let depends = Depends::other(format!(
                "which server source {name} is at present, and the timeline it writes"
            ));
            self.check_generations(owners, |number| Named::Owner(id, number), &depends)?;
        }
        Ok(())
    }

    /// Generations of who can read, without a hole in their numbers; the newest that this host knows too.
    pub(super) fn check_recipients(&mut self) -> Result<(), VerifyError> {
        let mut numbers = self.census.generations.clone();
        let known = self.repository.generation().number;
        if known > 0 {
            numbers.insert(known);
        }
        if numbers.is_empty() {
            return Ok(());
        }
        let depends = Depends::other("who can read what was sealed since");
        self.check_generations(numbers, Named::Generation, &depends)
    }

    /// Confirmations, without a hole in their numbers.
    pub(super) fn check_confirmations(&mut self) -> Result<(), VerifyError> {
        let numbers = self.census.confirmations.clone();
        if numbers.is_empty() {
            return Ok(());
        }
        let depends = Depends::other("the proof that what opens the repository is kept");
        self.check_generations(numbers, Named::Confirmation, &depends)
    }

    /// Invitations, and what used them up.
    pub(super) fn check_invitations(&mut self) -> Result<(), VerifyError> {
        for named in std::mem::take(&mut self.census.invitations) {
            let depends = Depends::other("the enrolment of the host that was invited");
            self.check_document(&named, &depends)?;
        }
        Ok(())
    }

    fn check_generations(
        &mut self,
        numbers: BTreeSet<u64>,
        named: impl Fn(u64) -> Named,
        depends: &Depends,
    ) -> Result<(), VerifyError> {
        let last = numbers.last().copied().unwrap_or(1);
        for (first, behind) in super::chain::holes(1, last, numbers.iter().copied()) {
            let object = named(first).key();
            let what = match behind - first {
                1 => "it is not there".to_owned(),
                count => format!("{count} generations from here on are not there"),
            };
            self.ledger.add(FindingKind::Missing, object.as_str(), what).depends.merge(depends.clone());
        }
        for number in numbers {
            self.check_document(&named(number), depends)?;
        }
        Ok(())
    }

    /// One object; answers what it says when it can be believed.
    pub(super) fn check_document(
        &mut self,
        named: &Named,
        depends: &Depends,
    ) -> Result<Option<refloat_repo::repository::Inspected>, VerifyError> {
        let key = named.key();
        self.ledger.present += 1;
        match self.repository.inspect(named) {
            Ok(inspected) => {
                self.ledger.used(key.as_str(), inspected.agent, inspected.key, depends);
                if let Err(why) = &inspected.opened {
                    self.not_opened(why);
                }
                Ok(Some(inspected))
            }
            Err(error) => {
                self.fail(&key, error, depends.clone())?;
                Ok(None)
            }
        }
    }

    /// Envelopes: all of them, or those that were met. Comes last, when everything that needs a key was seen.
    pub(super) fn check_envelopes(&mut self) -> Result<(), VerifyError> {
        let mut wanted: BTreeSet<ObjectId> = self.ledger.keys.keys().copied().collect();
        if self.is_whole() {
            wanted.extend(&self.census.envelopes);
            wanted.extend(self.census.rewrapped.keys());
        }
        for id in wanted {
            let again = self.census.rewrapped.get(&id).cloned().unwrap_or_default();
            let mut all = vec![Named::Envelope(id)];
            all.extend(again.into_iter().map(|number| Named::Rewrapped(id, number)));
            // One that is sealed to others is no loss where another of the same key opens.
            let mut unopened = None;
            for named in all {
                if let Some(why) = self.check_envelope(id, &named)? {
                    unopened = Some((named.key(), why));
                }
            }
            if let Some((key, why)) = unopened.filter(|_| !self.ledger.opened.contains(&id)) {
                let depends = Depends::other("what is sealed with its key");
                self.ledger.add(FindingKind::NoKey, key.as_str(), why.to_string()).depends.merge(depends);
            }
        }
        Ok(())
    }

    /// One envelope of key `id`. Answers why, where it is whole and does not open here.
    fn check_envelope(&mut self, id: ObjectId, named: &Named) -> Result<Option<KeyError>, VerifyError> {
        let key = named.key();
        let depends = Depends::other("what is sealed with its key");
        let inspected = match self.repository.inspect(named) {
            // Settled later: it is missed by what needs it.
            Err(RepoError::Missing { .. }) => return Ok(None),
            other => {
                self.ledger.present += 1;
                other
            }
        };
        let opened = match inspected {
            Ok(inspected) => {
                self.ledger.agents.entry(inspected.agent).or_default().add(key.as_str(), depends.clone());
                inspected.opened
            }
            Err(error) => {
                self.fail(&key, error, depends)?;
                return Ok(None);
            }
        };
        match opened {
            Ok(()) => drop(self.ledger.opened.insert(id)),
            Err(KeyError::NoIdentity) => {
                self.not_opened(&KeyError::NoIdentity);
                self.ledger.opened.insert(id);
            }
            Err(why @ (KeyError::OtherRecipients { .. } | KeyError::Rotated { .. })) => return Ok(Some(why)),
            Err(why @ (KeyError::Commitment | KeyError::Damaged)) => {
                let finding = self.ledger.add(FindingKind::Damaged, key.as_str(), why.to_string());
                finding.depends.merge(depends);
            }
        }
        Ok(None)
    }

    /// What lies where nothing of ours belongs.
    pub(super) fn check_unknown(&mut self) -> Result<(), VerifyError> {
        for key in std::mem::take(&mut self.census.unknown) {
            let claim = match self.repository.claim(&key) {
                Err(RepoError::Store(error)) if error.is_retryable() => {
                    return Err(RepoError::Store(error).into());
                }
                other => other.ok().flatten(),
            };
            let nothing = || Depends::other("nothing of this repository");
            match claim {
                Some(claim) if claim.format > refloat_repo::kind::FORMAT => {
                    let what = format!("it has format {}, which a later release wrote", claim.format);
                    self.ledger
                        .add(FindingKind::NewerFormat, key.as_str(), what)
                        .depends
                        .merge(Depends::other("what that release says"));
                }
                Some(claim) => {
                    let what = format!("an object of kind {} lies where this release puts none", claim.kind);
                    self.ledger.add(FindingKind::Foreign, key.as_str(), what).depends.merge(nothing());
                }
                None if is_probe(&key) => {}
                None => {
                    let what = "it is no object of Refloat";
                    self.ledger.add(FindingKind::Foreign, key.as_str(), what).depends.merge(nothing());
                }
            }
        }
        if self.census.more_unknown > 0 {
            let what = format!("{} more objects lie where nothing belongs", self.census.more_unknown);
            self.ledger.add(FindingKind::Foreign, "", what);
        }
        Ok(())
    }

    /// A source's newest description that can be read; what is wrong with others is said elsewhere.
    pub(super) fn newest_description(
        &self,
        id: SourceId,
        numbers: &BTreeSet<u64>,
    ) -> Result<Option<SourceInfo>, VerifyError> {
        for number in numbers.iter().rev() {
            match self.repository.source_generation(id, *number) {
                Ok(info) => return Ok(Some(info)),
                Err(RepoError::Store(error)) if error.is_retryable() => {
                    return Err(RepoError::Store(error).into());
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

/// What a store was tried with by somebody who may not delete it.
fn is_probe(key: &Key) -> bool {
    key.as_str().strip_prefix(layout::PROBES).is_some_and(|id| id.parse::<ObjectId>().is_ok())
}
