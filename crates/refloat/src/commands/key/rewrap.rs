//! `key rewrap`: every data key sealed to the recipients of today, without writing any data again.
//!
//! A new envelope is an object beside the old one. Killed anywhere, what was there still opens, and running it again goes on.

use std::time::{Duration, Instant};

use clap::Args;
use refloat_config::RepositoryConfig;
use refloat_repo::repository::{Rewrapped, StoredKey};
use refloat_repo::{KeyError, RepoError};
use serde::Serialize;

use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::Failure;
use crate::operations::Operation;
use crate::render::Out;
use crate::render::text::count;

/// Seal the key of every backup and of all WAL to the recipients of today; no data is written again
///
/// After `key rotate`, so that who is a recipient now opens what was sealed before. Old envelopes stay, unless --delete-old is
/// given. Deleting them takes from who has the old key only what they have not copied yet: a copy of the repository that
/// they made before opens as it did.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat key rewrap                   safe to repeat; goes on where it was interrupted
  sudo refloat key rewrap --delete-old      and deletes each old envelope when the new one was seen to open
Exit code 3: some keys could not be sealed again; they are named.")]
pub(crate) struct Rewrap {
    /// Delete envelopes that are sealed to earlier recipients, each when the new one was read back and opened
    #[arg(long)]
    delete_old: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Time between two lines of talk.
const EVERY: Duration = Duration::from_secs(5);

/// What was done in one repository.
#[derive(Debug, Default, Serialize)]
struct Done {
    repository: String,
    generation: u64,
    keys: u64,
    already: u64,
    sealed: u64,
    deleted: u64,
    failed: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Failed {
    key: String,
    why: String,
}

impl Rewrap {
    /// Does it.
    pub(super) fn run(self, context: &Context, configs: &[RepositoryConfig]) -> Result<Outcome, Failure> {
        let mut all = Vec::new();
        for config in configs {
            let opened = context.open(config, Access::Bulk)?;
            if !opened.repository.is_encrypted() {
                context
                    .out
                    .say(&format!("repository {}: nothing is encrypted, so no key is sealed", opened.name));
                continue;
            }
            // Nothing at all could be opened: said once, and not for each key.
            if opened.repository.lacks_identity() {
                opened.repository.check_root()?;
            }
            let mut operation = Operation::begin(context, "key rewrap", None);
            let done = self.seal(context, &opened);
            let outcome = done.as_ref().map(Done::outcome).map_err(Failure::clone);
            if let Ok(done) = &done {
                operation.detail = Some(format!(
                    "repository {}: {} sealed again, {} old envelopes deleted, {} failed",
                    done.repository,
                    done.sealed,
                    done.deleted,
                    done.failed.len()
                ));
            }
            if !self.dry_run {
                operation.finish(context, [&opened.repository], &outcome);
            }
            let done = done?;
            self.tell(context, &done);
            all.push(done);
        }
        context.out.document(&serde_json::json!({ "dry_run": self.dry_run, "repositories": all }));
        let findings = all.iter().any(|done| done.outcome() == Outcome::Findings);
        Ok(if findings { Outcome::Findings } else { Outcome::Done })
    }

    fn seal(&self, context: &Context, opened: &Opened) -> Result<Done, Failure> {
        let repository = &opened.repository;
        let keys = repository.list_data_keys()?;
        let mut done = Done {
            repository: opened.name.clone(),
            generation: repository.generation().number,
            keys: keys.len() as u64,
            ..Done::default()
        };
        let mut far = Far::new(context.out, "sealed again", keys.len());
        for stored in &keys {
            let result = if self.dry_run {
                self.look(opened, stored, &mut done)
            } else {
                seal(opened, stored, &mut done)
            };
            done.note(stored, result)?;
            far.step();
        }
        // Only when all that can be sealed again is: then deleting can be interrupted anywhere.
        if self.delete_old && !self.dry_run {
            let mut far = Far::new(context.out, "old envelopes", keys.len());
            for stored in repository.list_data_keys()? {
                if done.failed.iter().all(|failed| failed.key != stored.id.to_string()) {
                    let deleted = repository.delete_old_envelopes(&stored).map(|count| done.deleted += count);
                    done.note(&stored, deleted)?;
                }
                far.step();
            }
        }
        Ok(done)
    }

    fn look(&self, opened: &Opened, stored: &StoredKey, done: &mut Done) -> Result<(), RepoError> {
        let facts = opened.repository.key_facts(stored)?;
        let is_current = facts.generation >= done.generation;
        if is_current {
            done.already += 1;
        } else {
            facts.opens.map_err(|source: KeyError| RepoError::NoKey { key: stored.id, source })?;
            done.sealed += 1;
        }
        if self.delete_old {
            let all = u64::from(stored.first) + stored.again.len() as u64;
            done.deleted += if is_current { all - 1 } else { all };
        }
        Ok(())
    }

    fn tell(&self, context: &Context, done: &Done) {
        let would = if self.dry_run { "would be " } else { "" };
        context.out.text(&format!(
            "repository {}: of {}, {} {would}sealed again to generation {}, {} {} already\n",
            done.repository,
            count(usize::try_from(done.keys).unwrap_or(usize::MAX), "data key"),
            done.sealed,
            done.generation,
            done.already,
            if done.already == 1 { "was" } else { "were" },
        ));
        if self.delete_old {
            context.out.text(&format!("  {} old envelopes {would}deleted; copies of the repository that were made before still open with the old key\n", done.deleted));
        } else if !self.dry_run && done.generation > 0 {
            context.out.text(&format!(
                "  The old envelopes are there still, and open with the old key:     {} key rewrap --delete-old\n",
                context.command()
            ));
        }
        for failed in &done.failed {
            context.out.warn(&format!("data key {}: {}", failed.key, failed.why));
        }
    }
}

impl Done {
    const fn outcome(&self) -> Outcome {
        if self.failed.is_empty() { Outcome::Done } else { Outcome::Findings }
    }

    /// What concerns one key stops nothing; what says nothing about it does.
    fn note(&mut self, stored: &StoredKey, result: Result<(), RepoError>) -> Result<(), Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(error @ RepoError::Store(_)) => Err(error.into()),
            Err(
                error
                @ (RepoError::NewerFormat { .. } | RepoError::State { .. } | RepoError::Internal { .. }),
            ) => Err(error.into()),
            Err(error) => {
                let failure = Failure::from(error);
                let why =
                    std::iter::once(failure.message).chain(failure.detail).collect::<Vec<_>>().join(": ");
                self.failed.push(Failed { key: stored.id.to_string(), why });
                Ok(())
            }
        }
    }
}

/// Says now and then how far it is.
struct Far {
    out: Out,
    what: &'static str,
    done: usize,
    total: usize,
    told: Instant,
}

impl Far {
    fn new(out: Out, what: &'static str, total: usize) -> Self {
        Self { out, what, done: 0, total, told: Instant::now() }
    }
    fn step(&mut self) {
        self.done += 1;
        if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            self.out.say(&format!("{}: {} of {} data keys", self.what, self.done, self.total));
        }
    }
}

fn seal(opened: &Opened, stored: &StoredKey, done: &mut Done) -> Result<(), RepoError> {
    match opened.repository.rewrap_key(stored)? {
        Rewrapped::Already => done.already += 1,
        Rewrapped::Sealed => done.sealed += 1,
    }
    Ok(())
}
