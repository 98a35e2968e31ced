//! Removing what expiry itself leaves behind: tombstones of which nothing is left, pins of jobs long dead, and
//! rescue kits that were replaced.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use refloat_repo::{RepoError, layout};
use refloat_store::Key;
use refloat_types::fault;

use super::ExpireError;
use super::policy::later;
use super::run::Run;

/// A dead pin stays so long: whoever comes back within that time still finds it.
const DEAD_PIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// No check takes so long.
const OLD_PROBE: Duration = Duration::from_secs(24 * 3600);
/// A rescue kit that was replaced stays so long: somebody may just be fetching it.
const REPLACED_KIT: Duration = Duration::from_secs(24 * 3600);

/// Tidies up.
pub(super) fn tidy(run: &mut Run<'_>) -> Result<(), ExpireError> {
    let repository = run.request.repository;
    let now = run.facts.store_now;
    for key in spent(run)? {
        fault::point("expire.before_tidy").map_err(|e| RepoError::internal("expire", e))?;
        run.destroyer.destroy(repository, &key, now).map_err(RepoError::from)?;
    }
    for seen in &run.facts.pins {
        if later(seen.renewed, DEAD_PIN).is_some_and(|at| at < run.facts.store_now) {
            for key in &seen.keys {
                run.destroyer.destroy(repository, key, now).map_err(RepoError::from)?;
            }
        }
    }
    let mut probes = Vec::new();
    let listed = repository.store().list(layout::PROBES, &mut |info| {
        if later(info.created, OLD_PROBE).is_some_and(|at| at < now) {
            probes.push(info.key);
        }
        ControlFlow::Continue(())
    });
    listed.map_err(RepoError::from)?;
    for key in &probes {
        run.destroyer.destroy(repository, key, now).map_err(RepoError::from)?;
    }
    let ripe = run.ripe();
    let is_ours = |key: &Key| ripe.contains(key);
    let hidden = run.destroyer.sweep(repository, &is_ours, now)?;
    run.hidden = hidden;
    let until = run.facts.store_now.checked_sub(REPLACED_KIT);
    if let Ok(until) = until {
        for key in repository.kits()?.replaced(until) {
            run.destroyer.destroy(repository, &key, now).map_err(RepoError::from)?;
        }
    }
    Ok(())
}

/// Tombstones of which nothing is left, and whose record another one carries on.
///
/// Each name is asked for, not looked up in a list: as long as something of it is there, it must not be used anew.
fn spent(run: &Run<'_>) -> Result<Vec<Key>, ExpireError> {
    let repository = run.request.repository;
    let all = repository.list_tombstones()?;
    let mut spent: BTreeSet<&Key> = BTreeSet::new();
    for stored in &all {
        let carried = all.iter().any(|other| {
            other.key > stored.key
                && !spent.contains(&other.key)
                && other.tombstone.marked.includes(&stored.tombstone.marked)
        });
        if !carried {
            continue;
        }
        let mut left = false;
        for name in stored.names.iter().filter(|name| !run.gone.contains(*name)) {
            if repository.store().head(name).map_err(RepoError::from)?.is_some() {
                left = true;
                break;
            }
        }
        if !left {
            spent.insert(&stored.key);
        }
    }
    Ok(spent.into_iter().cloned().collect())
}
