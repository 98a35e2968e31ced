//! The bucket of a repository: what it is set to beside what it should be, and who can destroy what is in it.

use std::time::Duration;

use refloat_config::RepositoryConfig;
use refloat_repo::commit::BackupType;
use refloat_store::Known;
use refloat_types::{Clock as _, Scheme, Timestamp};

use super::Lines;
use crate::bucket::compare::{Asked, Weight, compare};
use crate::context::Opened;
use crate::error::Failure;
use crate::retention::{longest, policy_of};
use crate::site::{bucket_of, place};

/// Looks at it. `may_delete` is whether the probe could be deleted.
pub(super) fn check(lines: &mut Lines<'_>, config: &RepositoryConfig, opened: &Opened, may_delete: bool) {
    let about = format!("immutability {}", config.name);
    if let Err(failure) = look(lines, config, opened, &about, may_delete) {
        lines.failure(about, &failure);
    }
}

fn look(
    lines: &mut Lines<'_>,
    config: &RepositoryConfig,
    opened: &Opened,
    about: &str,
    may_delete: bool,
) -> Result<(), Failure> {
    let location = config.url.location();
    let live = match (location.scheme(), opened.repository.store().bucket_settings()?) {
        (Scheme::S3, Some(live)) => live,
        (scheme, _) => {
            let what = match scheme {
                Scheme::File => "whoever can write this directory can destroy what is stored".to_owned(),
                _ => format!(
                    "locks and policies of {} are not looked at: as far as can be told, these credentials can destroy what is stored",
                    scheme.name()
                ),
            };
            lines.note(about, what, "");
            return Ok(());
        }
    };
    let lock = live.immutability.lock;
    let lock_days = lock.yes().map(|lock| u32::try_from(lock.period.as_secs() / 86_400).unwrap_or(u32::MAX));
    let bucket = bucket_of(lines.context(), location.host(), lock_days)?;
    let mut place = place(lines.context(), config)?;
    let between_fulls = between_fulls(opened, lines.context().clock.now())?;
    if !matches!(lock, Known::No) {
        // A number of backups is as long as that many times the time between two.
        let sources = lines.context().config()?.sources.values();
        let policies = sources.filter_map(|source| policy_of(source, config.name.as_str()));
        let all: Option<Vec<Duration>> = policies.map(|policy| longest(&policy, between_fulls)).collect();
        place.keep = all.and_then(|all| all.into_iter().max());
    }
    let command = lines.context().command();
    let asked = Asked { place: &place, between_fulls, command: &command };
    for found in compare(&bucket, &live, asked) {
        match found.weight {
            Weight::Ok => lines.ok(about, found.what),
            Weight::Note => lines.note(about, found.what, found.mend),
            Weight::Warn => lines.warn(about, found.what, found.mend),
            Weight::Fault => lines.fault(about, found.what, found.mend),
        }
    }
    if !may_delete {
        lines.ok(about, "these credentials may not delete: expiry is left to others");
    }
    Ok(())
}

/// The longest time from one full backup to the next, the one that is still to come included.
fn between_fulls(opened: &Opened, now: Timestamp) -> Result<Option<Duration>, Failure> {
    let mut longest = None;
    for source in opened.repository.own_sources()? {
        let commits = opened.repository.list_commits(source, &mut |_, _| {})?;
        let fulls = commits.iter().filter(|record| record.commit.kind == BackupType::Full);
        let mut ends: Vec<Timestamp> = fulls.map(|record| record.commit.finished).collect();
        if !ends.is_empty() {
            ends.push(now);
        }
        for pair in ends.windows(2) {
            longest = longest.max(Duration::try_from(pair[1].duration_since(pair[0])).ok());
        }
    }
    Ok(longest)
}
