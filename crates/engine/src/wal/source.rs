//! What a repository knows of the source whose WAL comes in: which cluster it is, which server is its owner, and which way
//! that one went along timelines.
//!
//! A push asks for this after the file is stored, and warns; it never refuses, because WAL of a server that should not
//! write may be the only copy of what its clients were told is committed. The answer is kept in the state directory, so
//! a push asks the repository once a minute and not for each file.

use std::time::Duration;

use refloat_pg::history::TimelineHistory;
use refloat_repo::repository::{OwnerRecord, SourceInfo};
use refloat_repo::{RepoError, Repository};
use refloat_types::{Lsn, SourceId, SourceName, SystemIdentifier, TimelineId, Timestamp, WalFileName};
use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::facts::{ArchivedFacts, ForkFact};

/// So long a kept answer is believed: a server that writes on after a takeover elsewhere is told of within this.
pub(super) const FRESH: Duration = Duration::from_secs(60);

/// A source as a repository knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownSource {
    /// Its id.
    pub id: SourceId,
    /// Its cluster.
    pub system: Option<SystemIdentifier>,
    /// Which server it is at present.
    pub owner: Option<OwnerRecord>,
    /// The timelines that the owner's history has left, oldest first; empty where its history is not stored.
    way: Vec<ForkFact>,
}

/// What is kept in the state directory.
#[derive(Serialize, Deserialize)]
struct Kept {
    asked: Timestamp,
    source: Option<KnownSource>,
}

/// A timeline that the owner is not on any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The owner's timeline.
    pub owner: TimelineId,
    /// Where the owner left this one; `None` where its way never was on it.
    pub fork: Option<Lsn>,
}

/// A timeline on which WAL was stored after the owner had left it: two servers are, or were, writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoesOn {
    /// Which.
    pub timeline: TimelineId,
    /// Where and for which one the owner left it.
    pub left: Left,
    /// End of its last WAL segment.
    pub to: Lsn,
    /// When that was stored.
    pub last_stored: Timestamp,
}

impl KnownSource {
    /// What `repository` knows of the source called `name`.
    ///
    /// # Errors
    /// What the repository says.
    pub fn read(repository: &Repository, name: &SourceName) -> Result<Option<Self>, RepoError> {
        repository.find_source(name)?.map(|info| Self::of(repository, &info)).transpose()
    }

    /// What `repository` knows of a source that was found.
    ///
    /// # Errors
    /// What the repository says.
    pub fn of(repository: &Repository, info: &SourceInfo) -> Result<Self, RepoError> {
        let mut known = Self { id: info.id, system: info.system, owner: None, way: Vec::new() };
        known.renew(repository)?;
        Ok(known)
    }

    /// As this host keeps it; asked anew when that is `fresh` old or older. A repository that does not tell undoes nothing.
    pub(super) fn kept(
        repository: &Repository,
        name: &SourceName,
        system: SystemIdentifier,
        now: Timestamp,
        fresh: Duration,
    ) -> Option<Self> {
        let kept: Option<Kept> = repository.state().read(&file(repository, name)).unwrap_or_else(|error| {
            tracing::debug!(%error, "what is known of the source is asked anew");
            None
        });
        let is_fresh =
            |kept: &Kept| kept.asked <= now && now.duration_since(kept.asked).unsigned_abs() < fresh;
        let before = match kept {
            Some(kept) if is_fresh(&kept) => return kept.source,
            kept => kept.and_then(|kept| kept.source),
        };
        let asked = match before.clone().filter(|known| known.system == Some(system)) {
            Some(mut known) => known.renew(repository).map(|()| Some(known)),
            None => Self::read(repository, name),
        };
        match asked {
            Ok(source) => {
                keep(repository, name, source.clone(), now);
                source
            }
            Err(error) => {
                tracing::debug!(%error, "the repository does not tell who the source's owner is");
                before
            }
        }
    }

    fn renew(&mut self, repository: &Repository) -> Result<(), RepoError> {
        let owner = repository.owner(self.id)?;
        if owner != self.owner || self.way.is_empty() {
            self.way = owner.as_ref().map_or(Ok(Vec::new()), |owner| way(repository, owner))?;
            self.owner = owner;
        }
        Ok(())
    }

    /// The owner's server was promoted and has begun the timeline of `history`: it is recorded as being there. Whoever
    /// was not the owner before does not become it by this; that takes a takeover.
    pub(super) fn follow(
        &mut self,
        repository: &Repository,
        name: &SourceName,
        system: SystemIdentifier,
        history: &TimelineHistory,
        now: Timestamp,
    ) -> Result<(), RepoError> {
        let follows = |owner: &OwnerRecord| {
            let newer = history.timeline() > owner.timeline && history.includes(owner.timeline);
            owner.system == system && newer
        };
        if !self.owner.as_ref().is_some_and(follows) {
            return Ok(());
        }
        // Where the repository did not answer just now, what is kept may be old: a takeover since then decides.
        let Some(owner) = repository.owner(self.id)?.filter(follows) else { return Ok(()) };
        let fork_lsn = history.forks().last().map(|fork| fork.at);
        let owner = OwnerRecord { at: now, timeline: history.timeline(), fork_lsn, ..owner };
        self.owner = Some(repository.put_owner(owner)?);
        self.way = ArchivedFacts::of_history(history).history.unwrap_or_default();
        keep(repository, name, Some(self.clone()), now);
        Ok(())
    }

    /// Whether the owner has left `timeline` of the cluster `system`.
    pub fn left(&self, system: SystemIdentifier, timeline: TimelineId) -> Option<Left> {
        let owner = self.owner.as_ref().filter(|owner| owner.system == system)?;
        if timeline >= owner.timeline {
            return None;
        }
        let behind = self.way.iter().skip_while(|fork| fork.timeline != timeline);
        let fork = match self.way.is_empty() {
            true => Some(owner.fork_lsn?),
            false => behind.map(|fork| fork.at).min(),
        };
        Some(Left { owner: owner.timeline, fork })
    }

    /// Whether WAL of `timeline` that reaches `to` went on after the owner had left. What was stored before that is only
    /// what the owner went back behind.
    pub fn goes_on(
        &self,
        system: SystemIdentifier,
        timeline: TimelineId,
        to: Lsn,
        last_stored: Timestamp,
    ) -> Option<GoesOn> {
        let left = self.left(system, timeline)?;
        let since = self.owner.as_ref()?.at;
        (last_stored > since && left.is_passed(to)).then_some(GoesOn { timeline, left, to, last_stored })
    }

    /// Every timeline of the archive that went on after the owner had left it.
    ///
    /// # Errors
    /// When the last WAL segment of one cannot be looked at.
    pub fn all_that_go_on(
        &self,
        repository: &Repository,
        archive: &Archive,
    ) -> Result<Vec<GoesOn>, RepoError> {
        let mut all = Vec::new();
        for (timeline, stored) in &archive.timelines {
            let Some(last) = stored.segments.last().map(|last| archive.name(*timeline, last)) else {
                continue;
            };
            let to = last.end(archive.segment_size);
            if !self.left(archive.system, *timeline).is_some_and(|left| left.is_passed(to)) {
                continue;
            }
            for stored in repository.find_wal(archive.system, WalFileName::Segment(last))? {
                let at = repository.read_wal_head(&stored)?.clear.stored;
                all.extend(self.goes_on(archive.system, *timeline, to, at));
            }
        }
        Ok(all)
    }
}

impl Left {
    /// Whether WAL that ends at `end` goes on behind the fork.
    pub fn is_passed(&self, end: Lsn) -> bool {
        self.fork.is_none_or(|fork| end > fork)
    }
}

/// The way that an owner's timeline came, where its history is stored and nobody disputes it.
fn way(repository: &Repository, owner: &OwnerRecord) -> Result<Vec<ForkFact>, RepoError> {
    if owner.timeline == TimelineId::FIRST {
        return Ok(Vec::new());
    }
    let found = repository.find_wal(owner.system, WalFileName::History(owner.timeline))?;
    let [history] = found.as_slice() else { return Ok(Vec::new()) };
    let facts = ArchivedFacts::read(&repository.read_wal_head(history)?.clear.facts);
    Ok(facts.history.unwrap_or_default())
}

fn file(repository: &Repository, name: &SourceName) -> String {
    format!("repositories/{}/sources/{name}.json", repository.marker().id)
}

fn keep(repository: &Repository, name: &SourceName, source: Option<KnownSource>, now: Timestamp) {
    if let Err(error) = repository.state().write(&file(repository, name), &Kept { asked: now, source }) {
        tracing::debug!(%error, "what is known of the source is asked again by the next push");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: SystemIdentifier = SystemIdentifier(7_000_000_000_000_000_001);

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// A source whose owner is on `timeline`, which left others at these places.
    fn known(timeline: u32, fork_lsn: Option<u64>, way: &[(u32, u64)]) -> KnownSource {
        let owner = OwnerRecord {
            source: SourceId([7; 16]),
            number: 3,
            at: "2026-11-20T03:31:00Z".parse().unwrap(),
            system: SYSTEM,
            timeline: tli(timeline),
            fork_lsn: fork_lsn.map(Lsn),
            restored_from: None,
        };
        let way = way.iter().map(|(timeline, at)| ForkFact { timeline: tli(*timeline), at: Lsn(*at) });
        KnownSource { id: owner.source, system: Some(SYSTEM), owner: Some(owner), way: way.collect() }
    }

    #[test]
    fn a_timeline_is_left_where_the_owners_way_leaves_it() {
        let left = |known: &KnownSource, timeline| {
            known.left(SYSTEM, tli(timeline)).map(|left| left.fork.map(|at| at.0))
        };
        // 1, then 3 from it, then 4; timeline 2 was somebody else's.
        let four = known(4, Some(700), &[(1, 500), (3, 700)]);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|t| left(&four, t)),
            [Some(Some(500)), Some(None), Some(Some(700)), None, None]
        );
        assert_eq!(four.left(SystemIdentifier(1), tli(1)), None, "another cluster's");
        // Timeline 3 was left before it began: what the owner has of timeline 1 ends there too.
        assert_eq!(left(&known(4, Some(400), &[(1, 500), (3, 400)]), 1), Some(Some(400)));
        // No history is stored; the owner record knows one place, or none.
        assert_eq!(left(&known(2, Some(500), &[]), 1), Some(Some(500)));
        assert_eq!(left(&known(2, None, &[]), 1), None);
    }

    #[test]
    fn what_was_stored_before_the_owner_left_does_not_go_on() {
        let known = known(2, Some(500), &[(1, 500)]);
        let (before, after) =
            ("2026-11-20T03:30:59Z".parse().unwrap(), "2026-11-20T03:31:01Z".parse().unwrap());
        assert_eq!(known.goes_on(SYSTEM, tli(1), Lsn(600), before), None);
        assert_eq!(known.goes_on(SYSTEM, tli(1), Lsn(500), after), None);
        assert_eq!(known.goes_on(SYSTEM, tli(1), Lsn(501), after).map(|it| it.to), Some(Lsn(501)));
        assert_eq!(known.goes_on(SYSTEM, tli(2), Lsn(900), after), None);
    }
}
