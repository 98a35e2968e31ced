//! Repositories that did not answer.
//!
//! Each process that archives a WAL segment would find it out anew and wait for it. So who finds it out notes it in the state
//! directory, and for a while nobody asks that repository who can do without it. Whoever gets an answer removes the note.

use std::time::Duration;

use refloat_repo::RepoError;
use refloat_types::{Clock as _, Severity, Timestamp};
use serde::{Deserialize, Serialize};

use super::Context;
use crate::error::Failure;

/// The first pause; doubles with each failure up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(15);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// A repository that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Down {
    /// Since when.
    pub since: Timestamp,
    /// When it is asked again by those who can do without it.
    pub again: Timestamp,
    /// How often it was asked in vain.
    pub failures: u32,
    /// What was said last.
    pub why: String,
}

impl Down {
    pub(super) fn after(before: Option<Self>, why: String, now: Timestamp) -> Self {
        let failures = before.as_ref().map_or(0, |before| before.failures).saturating_add(1);
        let pause =
            FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(10))).min(LONGEST);
        let again = now.checked_add(pause).unwrap_or(now);
        Self { since: before.map_or(now, |before| before.since), again, failures, why }
    }

    /// Whether it is left alone for now. A note of a clock that was ahead holds nobody off.
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        let far = now.checked_add(LONGEST).unwrap_or(now);
        now < self.again && self.again <= far
    }
}

fn file(repository: &str) -> String {
    format!("unanswered/{repository}.json")
}

impl Context {
    /// What is noted of a repository that does not answer.
    pub(crate) fn down(&self, repository: &str) -> Option<Down> {
        self.state().read(&file(repository)).ok().flatten()
    }

    /// Whether a repository is left alone for now by those who can do without it.
    pub(crate) fn is_left_alone(&self, repository: &str) -> bool {
        self.down(repository).is_some_and(|down| down.holds(self.clock.now()))
    }

    /// Notes what a repository said last.
    pub(crate) fn note_answer(&self, repository: &str, answer: Result<(), &Failure>) {
        let noted = match answer {
            Ok(()) => match self.down(repository) {
                None => Ok(()),
                Some(_) => self.state().remove(&file(repository)),
            },
            Err(failure) if failure.severity == Severity::Unreachable => self.note_down(repository, failure),
            Err(_) => Ok(()),
        };
        if let Err(error) = noted {
            tracing::debug!(%repository, %error, "whether it answers could not be noted");
        }
    }

    fn note_down(&self, repository: &str, failure: &Failure) -> Result<(), RepoError> {
        let state = self.state();
        state.directory("unanswered")?;
        let down = Down::after(self.down(repository), failure.line(), self.clock.now());
        state.write(&file(repository), &down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().expect("a time");
        let first = Down::after(None, "gone".to_owned(), now);
        assert!(first.holds(now));
        assert!(!first.holds(now.checked_add(FIRST).expect("later")));
        let mut down = first.clone();
        for _ in 0..40 {
            down = Down::after(Some(down), "gone".to_owned(), now);
        }
        assert_eq!((down.since, down.failures), (now, 41));
        assert!(!down.holds(now.checked_add(LONGEST).expect("later")));
        assert!(
            !down.holds(now.checked_sub(Duration::from_secs(86_400)).expect("earlier")),
            "a clock was ahead"
        );
    }
}
