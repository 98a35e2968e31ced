//! From what is configured to what an expiry obeys, and what it says of each backup.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use refloat_config::{Keep as Configured, Policy as ConfiguredPolicy, SourceConfig};
use refloat_engine::expire::{
    BackupVerdict, ExpireReport, ExpireRequest, GRACE, Keep, Period, Policy, explain,
};
use refloat_engine::guard::SinceBoot;
use refloat_engine::progress::Progress;
use refloat_repo::repository::SourceInfo;
use refloat_types::{BackupId, SourceId};

use crate::commands::list::source_name;
use crate::context::{Context, Opened};
use crate::error::Failure;

/// The policy of a source in a repository; `None` where nothing is configured.
pub(crate) fn policy_of(source: &SourceConfig, repository: &str) -> Option<Policy> {
    let name = source.repositories.iter().find(|name| name.as_str() == repository)?;
    source.retention_in(name).map(policy)
}

fn policy(from: &ConfiguredPolicy) -> Policy {
    let keep = |keep: &Configured| match keep {
        Configured::Count(count) => Keep::Count(*count),
        Configured::Age(age, text) => Keep::Age(age.0, text.clone()),
    };
    let periods = [
        (Period::Day, &from.daily),
        (Period::Week, &from.weekly),
        (Period::Month, &from.monthly),
        (Period::Year, &from.yearly),
    ];
    Policy {
        full: from.full.as_ref().map(keep),
        diff: from.diff.as_ref().map(keep),
        incr: from.incr.as_ref().map(keep),
        wal: from.wal.as_ref().map(|window| (window.age.0, window.to_string())),
        calendar: periods.into_iter().filter_map(|(period, of)| Some((period, keep(of.as_ref()?)))).collect(),
    }
}

/// How long a backup stays at most; `between` is the longest time from one full backup to the next, by which numbers of
/// backups are turned into ages. `None` where that cannot be told.
pub(crate) fn longest(policy: &Policy, between: Option<Duration>) -> Option<Duration> {
    let day = Duration::from_secs(24 * 3600);
    let age = |keep: &Keep, each: Option<Duration>| match keep {
        Keep::Age(age, _) => Some(*age),
        Keep::Count(count) => each.map(|each| each * *count),
    };
    let of_types = [&policy.full, &policy.diff, &policy.incr].into_iter().flatten();
    let of_types = of_types.map(|keep| age(keep, between));
    let of_calendar = policy.calendar.iter().map(|(period, keep)| {
        let days = match period {
            Period::Day => 1,
            Period::Week => 7,
            Period::Month => 31,
            Period::Year => 366,
        };
        age(keep, Some(day * days))
    });
    let of_wal = policy.wal.iter().map(|(age, _)| Some(*age));
    let all: Option<Vec<Duration>> = of_types.chain(of_calendar).chain(of_wal).collect();
    all?.into_iter().max()
}

/// The policies of these sources in an opened repository.
pub(crate) fn policies(
    sources: &[SourceConfig],
    opened: &Opened,
    known: &[SourceInfo],
) -> BTreeMap<SourceId, Policy> {
    let of = |info: &SourceInfo| {
        let name = source_name(info);
        let config = sources.iter().find(|source| source.name.as_str() == name)?;
        Some((info.id, policy_of(config, &opened.name)?))
    };
    known.iter().filter_map(of).collect()
}

/// What an expiry is asked to do.
pub(crate) fn request<'a>(
    context: &'a Context,
    opened: &'a Opened,
    policies: BTreeMap<SourceId, Policy>,
    progress: &'a dyn Progress,
) -> ExpireRequest<'a> {
    ExpireRequest {
        repository: &opened.repository,
        policies,
        grace: GRACE,
        host: &context.host,
        clock: &context.clock,
        uptime: Arc::new(SinceBoot),
        progress,
    }
}

/// What keeps each backup of an opened repository; nothing where no retention is configured, or it cannot be told.
pub(crate) fn kept(context: &Context, opened: &Opened) -> BTreeMap<BackupId, String> {
    let told = || -> Result<Option<ExpireReport>, Failure> {
        let Some(config) = &context.config else { return Ok(None) };
        let sources: Vec<SourceConfig> = config.sources.values().cloned().collect();
        let policies = policies(&sources, opened, &opened.repository.list_sources()?);
        let has_holds = !opened.repository.list_holds()?.is_empty();
        if policies.is_empty() && !has_holds {
            return Ok(None);
        }
        let request = request(context, opened, policies, &refloat_engine::progress::Silent);
        Ok(Some(explain(&request)?))
    };
    match told() {
        Ok(None) => BTreeMap::new(),
        Ok(Some(report)) => report.backups.iter().map(|verdict| (verdict.backup, words(verdict))).collect(),
        Err(failure) => {
            context.out.warn(&format!(
                "repository {}: what keeps each backup is not known: {}",
                opened.name, failure.message
            ));
            BTreeMap::new()
        }
    }
}

/// `kept: full 1 of 2; the newest`, `goes: more than 2 newer full backups`.
pub(crate) fn words(verdict: &BackupVerdict) -> String {
    match &verdict.why {
        Some(why) if verdict.goes() => {
            let marked = verdict
                .marked
                .map_or_else(String::new, |at| format!(", marked {}", at.strftime("%Y-%m-%d %H:%MZ")));
            format!("goes: {why}{marked}")
        }
        _ => {
            let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
            format!("kept: {}", reasons.join("; "))
        }
    }
}

/// The grace time, as people read it.
pub(crate) fn grace() -> String {
    let hours = GRACE.max(Duration::from_secs(3600)).as_secs() / 3600;
    format!("{hours} hours")
}
