//! Which of several repositories is restored from: the first that is right and has at hand what is asked for.

use refloat_repo::repository::SourceInfo;
use refloat_store::Key;
use refloat_types::TimelineId;

use super::ask::Asked;
use super::place::Place;
use super::{From, Restore};
use crate::Outcome;
use crate::context::{Context, Opened};
use crate::error::{CliError, Failure};
use crate::healing::{self, Healing};
use crate::operations::Operation;

impl Restore {
    /// Restores out of the first repository that is right; one that is not is healed where that can be. Answers which it was.
    pub(super) fn out_of_any(
        &self,
        context: &Context,
        asked: &Asked,
        place: &Place,
        all: &[Opened],
        operation: &mut Operation,
    ) -> (usize, Result<Outcome, Failure>) {
        let (mut first, mut cold, mut ahead) = (None, None, None);
        let others = |opened: &Opened| all.iter().filter(|one| one.name != opened.name).collect::<Vec<_>>();
        for (number, opened) in all.iter().enumerate() {
            let others = others(opened);
            if ahead.is_some() && self.reach(context, asked, opened).map_or(true, |reach| Some(reach) < ahead)
            {
                context.out.warn(&format!(
                    "repository {name}: it is behind, and would restore less; -r {name} takes it all the same",
                    name = opened.name
                ));
                continue;
            }
            for attempt in 0..2 {
                let mut begun = false;
                let last = number + 1 == all.len();
                let of = (opened, others.as_slice());
                let elsewhere = all.len() > 1;
                let result = self.with(context, asked, place, of, operation, (elsewhere, &mut begun));
                match result {
                    // Each repository keeps its own past, and holds it warm or cold.
                    Err(failure) if !begun && elsewhere && is_cold(&failure) => {
                        context.out.warn(&format!("repository {}: {}", opened.name, failure.message));
                        cold.get_or_insert(number);
                        break;
                    }
                    Err(failure) if !begun && (!last || cold.is_some()) && is_elsewhere(&failure) => {
                        let next = if last { "" } else { "; the next one is asked" };
                        context.out.warn(&format!("repository {}: {}{next}", opened.name, failure.message));
                        first.get_or_insert((number, Err(failure)));
                        break;
                    }
                    Err(failure) if !begun && !last && knows_more(&failure) => {
                        let Ok(reach) = self.reach(context, asked, opened) else {
                            return (number, Err(failure));
                        };
                        context.out.warn(&format!(
                            "repository {}: {}; the next one is asked, if it is not behind",
                            opened.name, failure.message
                        ));
                        ahead = ahead.max(Some(reach));
                        first.get_or_insert((number, Err(failure)));
                        break;
                    }
                    Err(failure) if !begun && all.len() > 1 && healing::is_damage(&failure) => {
                        let mends = Healing {
                            of: opened,
                            from: others.iter().map(|other| &other.repository).collect(),
                            source: Some(&self.source),
                            dry_run: self.dry_run,
                        };
                        let told = if attempt == 0 {
                            mends.run(context, healing::small_objects(opened))
                        } else {
                            Vec::new()
                        };
                        if told.is_empty() || self.dry_run {
                            context.out.warn(&format!("repository {}: {}", opened.name, failure.message));
                            first.get_or_insert((number, Err(failure)));
                            break;
                        }
                    }
                    result => return (number, result),
                }
            }
        }
        // No other one has it at hand.
        if let Some(number) = cold {
            let opened = &all[number];
            let of = (opened, others(opened));
            let result = self.with(context, asked, place, (of.0, &of.1), operation, (false, &mut false));
            return (number, result);
        }
        first.unwrap_or_else(|| {
            (0, Err(CliError::usage("there is no repository", "Name one: -r NAME").into()))
        })
    }

    /// How far it goes what a repository knows of the source.
    fn reach(&self, context: &Context, asked: &Asked, opened: &Opened) -> Result<Reach, Failure> {
        let source = self.find(context, opened)?;
        let past = self.past(context, asked, opened, &source)?;
        let timelines = past.archive.timelines.iter();
        let archived =
            timelines.map(|(timeline, it)| Reach { timeline: *timeline, last: it.segments.last() }).max();
        let owned = past.owner.map(|owner| Reach { timeline: owner.timeline, last: None });
        let nothing = || CliError::usage("nothing is archived", "Look at it: refloat wal status").into();
        archived.max(owned).ok_or_else(nothing)
    }

    /// Makes commits right that cannot be believed here: a restore would choose an older backup without a word.
    pub(super) fn mend_commits(
        &self,
        context: &Context,
        (opened, others): From<'_>,
        source: &SourceInfo,
    ) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        if !others.is_empty() {
            opened.repository.list_commits(source.id, &mut |key, _| wrong.push(key.clone()))?;
        }
        if !wrong.is_empty() {
            self.mend(context, (opened, others), wrong);
        }
        Ok(())
    }

    pub(super) fn mend(&self, context: &Context, (opened, others): From<'_>, objects: Vec<Key>) {
        let from = others.iter().map(|other| &other.repository).collect();
        let mends = Healing { of: opened, from, source: Some(&self.source), dry_run: self.dry_run };
        mends.run(context, objects);
    }
}

/// Whether it must be thawed first.
fn is_cold(failure: &Failure) -> bool {
    failure.code == "THA-001"
}

/// Whether another repository may have what this one has not.
fn is_elsewhere(failure: &Failure) -> bool {
    failure.code == "RST-022" || (failure.code.starts_with(TARGET) && !knows_more(failure))
}

/// Whether it is what this one knows of timelines, and of a gap before the target. One that is behind knows nothing of them, and
/// would restore less without a word.
fn knows_more(failure: &Failure) -> bool {
    // The backup is not on the way to the timeline; the timeline cannot be followed; WAL on the way is missing.
    failure.code.strip_prefix(TARGET).is_some_and(|number| ["005", "007", "008"].contains(&number))
}

/// What codes begin with that say why a target cannot be had.
const TARGET: &str = "PIT-";

/// The last timeline of a source, and the number of the last WAL segment that is stored of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    timeline: TimelineId,
    last: Option<u64>,
}
