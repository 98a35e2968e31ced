//! What was found so far: findings about one object are merged, and errors are laid at the door of the object that
//! caused them.
//!
//! An enrolment or an envelope that is gone shows in hundreds of objects. They are gathered here, so that one finding
//! names the one object and tells what depends on it.

use std::collections::{BTreeMap, BTreeSet};

use refloat_repo::error::KeyError;
use refloat_repo::{RepoError, layout};
use refloat_store::StoreErrorKind;
use refloat_types::{ObjectId, SystemIdentifier, Timestamp, WalSegmentName};

use super::VerifyError;
use super::report::{Depends, Finding, FindingKind, Grade, WalStretch};

/// Most findings that are kept: each names what depends on it, so memory is bounded.
const MAX_FINDINGS: usize = 10_000;
/// Most objects that are remembered for one key or agent.
const MAX_USERS: usize = 24;

/// What a data key or an agent's enrolment is needed for.
#[derive(Debug, Default)]
pub(super) struct Uses {
    depends: Depends,
    wal: BTreeMap<SystemIdentifier, Span>,
    objects: Vec<String>,
    count: u64,
}

/// The WAL segments that one key or agent stands for: a writer's day, mostly without a gap.
#[derive(Debug)]
struct Span {
    first: WalSegmentName,
    last: WalSegmentName,
    count: u64,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl Uses {
    /// Something depends on it, as `object` shows.
    pub(super) fn add(&mut self, object: &str, depends: Depends) {
        self.count += 1;
        if self.objects.len() < MAX_USERS {
            self.objects.push(object.to_owned());
        }
        self.depends.merge(depends);
    }
    /// A WAL segment depends on it.
    pub(super) fn add_segment(
        &mut self,
        object: impl FnOnce() -> String,
        system: SystemIdentifier,
        segment: WalSegmentName,
        times: (Option<Timestamp>, Option<Timestamp>),
    ) {
        self.count += 1;
        if self.objects.len() < MAX_USERS {
            self.objects.push(object());
        }
        let span = self.wal.entry(system).or_insert(Span {
            first: segment,
            last: segment,
            count: 0,
            from: times.0,
            to: times.1,
        });
        span.count += 1;
        span.first = span.first.min(segment);
        span.last = span.last.max(segment);
        span.from = [span.from, times.0].into_iter().flatten().min();
        span.to = span.to.max(times.1);
    }
    fn stretches(&self) -> Vec<WalStretch> {
        let stretch = |(system, span): (&SystemIdentifier, &Span)| WalStretch {
            system: *system,
            first: span.first.to_string(),
            last: span.last.to_string(),
            count: span.count,
            after: span.from,
            before: span.to,
        };
        self.wal.iter().map(stretch).collect()
    }
    fn count(&self) -> u64 {
        self.count
    }
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    findings: BTreeMap<(String, FindingKind), Finding>,
    left_out: u64,
    scratch: Option<Finding>,
    /// Objects that were looked at and are there.
    pub(super) present: u64,
    /// Objects that are not.
    pub(super) missing: u64,
    /// Bytes of packs and WAL files that were read.
    pub(super) bytes_read: u64,
    /// Packs that could not be read because they lie in a cold class, and their bytes.
    pub(super) cold: (u64, u64),
    /// What was not proved.
    pub(super) not_proved: BTreeSet<String>,
    /// Data keys, and what needs them.
    pub(super) keys: BTreeMap<ObjectId, Uses>,
    /// Agents, and what they signed.
    pub(super) agents: BTreeMap<ObjectId, Uses>,
    /// Enrolments that hold.
    pub(super) enrolled: BTreeSet<ObjectId>,
    /// Envelopes that hold, and are opened where this host can.
    pub(super) opened: BTreeSet<ObjectId>,
}

/// An error, as a finding says it.
pub(super) struct Fault {
    pub(super) kind: FindingKind,
    pub(super) object: String,
    pub(super) what: String,
}

impl Fault {
    /// Sorts an error met while looking at `object`.
    ///
    /// # Errors
    /// Gives it back when it says nothing about the repository.
    pub(super) fn of(object: &str, error: RepoError) -> Result<Self, VerifyError> {
        let fault = |kind, object: String, what: String| Ok(Self { kind, object, what });
        match error {
            RepoError::Damaged { object, what } => fault(FindingKind::Damaged, object, what),
            RepoError::Missing { object } => {
                fault(FindingKind::Missing, object, "it is not there".to_owned())
            }
            RepoError::UnknownOrigin { object, why } => fault(FindingKind::UnknownOrigin, object, why),
            RepoError::NotARepository { .. } => {
                fault(FindingKind::Missing, layout::REPOSITORY.to_owned(), "it is not there".to_owned())
            }
            RepoError::NewerFormat { object, found, newest } => {
                let what = format!("it has format {found}; this release reads formats up to {newest}");
                fault(FindingKind::NewerFormat, object, what)
            }
            RepoError::NoKey { key, source } => {
                let envelope = layout::envelope(key).to_string();
                let kind = match source {
                    KeyError::Commitment | KeyError::Damaged => FindingKind::Damaged,
                    KeyError::NoIdentity | KeyError::OtherRecipients { .. } | KeyError::Rotated { .. } => {
                        FindingKind::NoKey
                    }
                };
                fault(kind, envelope, source.to_string())
            }
            RepoError::Store(error) => {
                let object = if error.object.is_empty() { object.to_owned() } else { error.object.clone() };
                match error.kind {
                    StoreErrorKind::NotFound => {
                        fault(FindingKind::Missing, object, "it is not there".to_owned())
                    }
                    StoreErrorKind::Truncated => {
                        fault(FindingKind::Damaged, object, "it ends early".to_owned())
                    }
                    StoreErrorKind::Unreachable | StoreErrorKind::Exhausted => {
                        Err(RepoError::Store(error).into())
                    }
                    _ => fault(FindingKind::Unreadable, object, format!("cannot be read: {}", error.source)),
                }
            }
            other => Err(other.into()),
        }
    }
}

/// How bad a kind of finding is, where nothing else is known.
const fn grade_of(kind: FindingKind) -> Grade {
    match kind {
        FindingKind::Missing
        | FindingKind::Damaged
        | FindingKind::Unreadable
        | FindingKind::Gap
        | FindingKind::BadWal
        | FindingKind::NoKey => Grade::Damage,
        FindingKind::UnknownOrigin
        | FindingKind::NewerFormat
        | FindingKind::Conflict
        | FindingKind::BrokenChain
        | FindingKind::Foreign => Grade::Attention,
        FindingKind::NotNeeded => Grade::Note,
    }
}

impl Ledger {
    /// Notes that something is wrong with an object; answers the finding, so that more can be said.
    pub(super) fn add(
        &mut self,
        kind: FindingKind,
        object: impl Into<String>,
        what: impl Into<String>,
    ) -> &mut Finding {
        let (object, what) = (object.into(), what.into());
        let key = (object.clone(), kind);
        let fresh = Finding {
            grade: grade_of(kind),
            kind,
            object,
            what,
            more: 0,
            also: Vec::new(),
            more_objects: 0,
            depends: Depends::default(),
        };
        if self.findings.len() >= MAX_FINDINGS && !self.findings.contains_key(&key) {
            self.left_out += 1;
            return self.scratch.insert(fresh);
        }
        match self.findings.entry(key) {
            std::collections::btree_map::Entry::Vacant(place) => {
                if kind == FindingKind::Missing {
                    self.missing += 1;
                }
                place.insert(fresh)
            }
            std::collections::btree_map::Entry::Occupied(place) => {
                let finding = place.into_mut();
                if finding.what != fresh.what {
                    finding.more += 1;
                }
                finding
            }
        }
    }

    /// Notes a failure met while looking at `object`, and what depends on `object`. `claimed` is the agent that its first
    /// bytes name.
    ///
    /// # Errors
    /// Gives the error back when it says nothing about the repository.
    pub(super) fn fail(
        &mut self,
        object: &str,
        error: RepoError,
        claimed: Option<ObjectId>,
        depends: Depends,
    ) -> Result<(), VerifyError> {
        let fault = Fault::of(object, error)?;
        if let Some(agent) = fault.object.strip_prefix(layout::AGENTS).and_then(|id| id.parse().ok()) {
            self.agents.entry(agent).or_default().add(object, depends);
            return Ok(());
        }
        if let Some(key) = fault.object.strip_prefix(layout::ENVELOPES).and_then(|id| id.parse().ok())
            && fault.object != object
        {
            self.keys.entry(key).or_default().add(object, depends);
            return Ok(());
        }
        let is_stranger = claimed.filter(|agent| *agent != ObjectId::NONE && !self.enrolled.contains(agent));
        if let (FindingKind::UnknownOrigin, Some(agent)) = (fault.kind, is_stranger) {
            self.agents.entry(agent).or_default().add(object, depends);
            return Ok(());
        }
        let finding = self.add(fault.kind, fault.object, fault.what);
        if fault.kind == FindingKind::UnknownOrigin {
            // One of us is said to have signed it: then it is no stranger's, it is not what was signed.
            finding.grade = Grade::Damage;
        }
        finding.add_object(object);
        finding.depends.merge(depends);
        Ok(())
    }

    /// Something signed by `agent` and sealed with `key` was read.
    pub(super) fn used(&mut self, object: &str, agent: ObjectId, key: ObjectId, depends: &Depends) {
        for (id, uses) in [(agent, &mut self.agents), (key, &mut self.keys)] {
            if id != ObjectId::NONE {
                uses.entry(id).or_default().add(object, depends.clone());
            }
        }
    }

    /// Tells for each agent and each key that does not hold what depends on it.
    pub(super) fn settle(&mut self, own: ObjectId) {
        for (agent, uses) in std::mem::take(&mut self.agents) {
            if self.enrolled.contains(&agent) {
                continue;
            }
            let object = layout::agent(agent).to_string();
            let known = self.kind_of(&object);
            let count = uses.count();
            let (kind, what) = if let Some(kind) = known {
                (kind, format!("it vouches for {count} objects"))
            } else if agent == own {
                (
                    FindingKind::Missing,
                    format!("this host's enrolment is gone; it vouches for {count} objects"),
                )
            } else {
                let what = "are signed by an agent that is not enrolled here: somebody else wrote them, or its enrolment was taken away";
                (FindingKind::UnknownOrigin, format!("{count} objects {what}"))
            };
            self.blame(kind, object, what, &uses);
        }
        for (key, uses) in std::mem::take(&mut self.keys) {
            if self.opened.contains(&key) {
                continue;
            }
            let object = layout::envelope(key).to_string();
            let what = format!("{} objects are sealed with its key", uses.count());
            match self.kind_of(&object) {
                Some(kind) => self.blame(kind, object, what, &uses),
                None => self.blame(FindingKind::Missing, object, format!("it is not there; {what}"), &uses),
            }
        }
    }

    /// The kind of finding that there is about an object already.
    fn kind_of(&self, object: &str) -> Option<FindingKind> {
        self.findings.keys().find(|(found, _)| found == object).map(|(_, kind)| *kind)
    }

    fn blame(&mut self, kind: FindingKind, object: String, what: String, uses: &Uses) {
        let finding = self.add(kind, object, what.clone());
        if finding.what != what {
            finding.what = format!("{}; {what}", finding.what);
            finding.more = finding.more.saturating_sub(1);
        }
        for object in &uses.objects {
            finding.add_object(object);
        }
        finding.more_objects += uses.count().saturating_sub(uses.objects.len() as u64);
        finding.depends.merge(uses.depends.clone());
        finding.depends.merge(Depends { wal: uses.stretches(), ..Depends::default() });
    }

    /// All findings, the worst first, and how many were left out.
    pub(super) fn finish(self) -> (Vec<Finding>, u64) {
        let mut findings: Vec<Finding> = self.findings.into_values().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.grade));
        (findings, self.left_out)
    }
}
