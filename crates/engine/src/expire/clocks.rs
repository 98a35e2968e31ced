//! Whether the time can be believed.
//!
//! Three clocks are compared: this host's, the store's, and the server's as the newest backup tells it. A host whose clock
//! is years ahead may also be the one that keeps the repository; then only what was stored last shows it. So when nothing
//! at all was stored for more than a day, nothing is deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use refloat_types::{SourceId, Timestamp};

use super::ExpireError;
use super::facts::Facts;
use super::policy::Policy;

/// Clocks may differ by so much.
const TOLERANCE: Duration = Duration::from_secs(3600);
/// A backup may need so long from its end on the server to its commit.
const LONGEST_COMMIT: Duration = Duration::from_secs(6 * 3600);
/// Something must have been stored within this.
const LONGEST_SILENCE: Duration = Duration::from_secs(26 * 3600);

fn ahead(a: Timestamp, b: Timestamp) -> Duration {
    Duration::try_from(a.duration_since(b)).unwrap_or(Duration::ZERO)
}

fn apart(a: Timestamp, b: Timestamp) -> Duration {
    ahead(a, b).max(ahead(b, a))
}

fn disagree(what: String) -> ExpireError {
    ExpireError::Clocks { what }
}

/// Compares the clocks.
///
/// # Errors
/// [`ExpireError::Clocks`] says which disagree.
pub(super) fn check(
    facts: &Facts,
    policies: &BTreeMap<SourceId, Policy>,
    host_now: Timestamp,
) -> Result<(), ExpireError> {
    let store_now = facts.store_now;
    if apart(host_now, store_now) > TOLERANCE {
        return Err(disagree(format!("this host's says {host_now:.0}, the store's {store_now:.0}")));
    }
    for source in policies.keys() {
        let newest = facts.commits.values().filter(|(record, _)| record.commit.source == *source);
        let Some((record, created)) = newest.max_by_key(|(record, _)| record.commit.number) else { continue };
        let commit = &record.commit;
        let (name, id, ended) = (facts.name_of(*source), commit.backup, commit.cluster.stop_time);
        for (clock, at) in [("server", ended), ("host", commit.finished), ("store", *created)] {
            if ahead(at, host_now.min(store_now)) > TOLERANCE {
                return Err(disagree(format!(
                    "the {clock}'s of the newest backup {id} of {name} said {at:.0}, and now it is {host_now:.0}"
                )));
            }
        }
        if apart(commit.finished, *created) > TOLERANCE
            || ahead(ended, commit.finished) > TOLERANCE
            || (ahead(commit.finished, ended) > LONGEST_COMMIT && !commit.cluster.standby)
        {
            return Err(disagree(format!(
                "when the newest backup {id} of {name} was made, the server's said {ended:.0}, the host's {:.0}, the store's {created:.0}",
                commit.finished
            )));
        }
    }
    let Some(last) = last_sign(facts) else { return Ok(()) };
    let silence = ahead(store_now, last);
    if silence > LONGEST_SILENCE {
        let days = silence.as_secs() / 86_400;
        return Err(disagree(format!(
            "by the store's, nothing was stored for {days} days, since {last:.0}: is it really {store_now:.0}?"
        )));
    }
    Ok(())
}

/// When something was last stored, by the store's clock.
fn last_sign(facts: &Facts) -> Option<Timestamp> {
    let commits = facts.commits.values().map(|(_, created)| *created);
    let packs = facts.packs.values().map(|(_, created)| *created);
    let wal = facts.wal.values().flatten().map(|file| file.created);
    let tombstones = facts.tombstones.iter().map(|stored| stored.created);
    let own = |operation: &str| operation == super::OPERATION;
    let others = facts.pins.iter().filter(|seen| !own(&seen.pin.operation)).map(|seen| seen.renewed);
    commits.chain(packs).chain(wal).chain(tombstones).chain(others).max()
}
