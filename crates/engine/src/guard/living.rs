//! Which other jobs may still be running.

use std::collections::BTreeMap;

use refloat_repo::repository::{SeenPin, Uses};
use refloat_repo::{RepoError, Repository};
use refloat_types::{BackupId, ObjectId, SourceId, Timestamp};

/// Backups that others may still be making.
#[derive(Debug, Clone, Default)]
pub struct Living {
    backups: BTreeMap<BackupId, SeenPin>,
    /// What other jobs need to stay, and whose they are.
    needs: Vec<([u8; 16], Uses)>,
}

impl Living {
    /// Whether somebody else may still be making this backup: another host, or this one as another copy of its state
    /// directory. What has our own holder has died, because we hold the lock of the source.
    pub fn elsewhere(&self, backup: BackupId, own_holder: &[u8; 16]) -> bool {
        self.backups.get(&backup).is_some_and(|seen| seen.pin.holder != *own_holder)
    }
    /// Whether a job of somebody else may be using this backup of `source`.
    pub fn uses_elsewhere(&self, source: SourceId, backup: BackupId, own_holder: &[u8; 16]) -> bool {
        self.needs.iter().any(|(holder, uses)| {
            holder != own_holder
                && match uses {
                    Uses::Repository => true,
                    Uses::Source(used) => *used == source,
                    Uses::Backups(used) => used.contains(&backup),
                }
        })
    }
    /// The pin that is left of a backup.
    pub fn pin_of(&self, backup: BackupId) -> Option<&SeenPin> {
        self.backups.get(&backup)
    }
}

/// The backups that are being made, by pins that live at the store's time `now`; `own` is left out.
///
/// # Errors
/// When a pin cannot be believed.
pub fn living(repository: &Repository, own: ObjectId, now: Timestamp) -> Result<Living, RepoError> {
    let mut living = Living::default();
    for seen in repository.list_pins()? {
        if seen.pin.pin == own || !seen.is_alive(now) {
            continue;
        }
        living.needs.push((seen.pin.holder, seen.pin.uses.clone()));
        if let Some(backup) = seen.pin.backup {
            living.backups.insert(backup, seen);
        }
    }
    Ok(living)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_holder_needs_is_told_from_what_we_need() {
        let (ours, theirs) = ([1; 16], [2; 16]);
        let (source, other) = (SourceId([7; 16]), SourceId([8; 16]));
        let (backup, later) = (BackupId::from_random([1; 8]), BackupId::from_random([2; 8]));
        let living = |needs: Vec<([u8; 16], Uses)>| Living { backups: BTreeMap::new(), needs };
        let used = |needs| living(needs).uses_elsewhere(source, backup, &ours);
        assert!(!used(vec![]));
        assert!(!used(vec![(ours, Uses::Source(source)), (ours, Uses::Repository)]));
        assert!(used(vec![(theirs, Uses::Repository)]));
        assert!(used(vec![(theirs, Uses::Source(source))]));
        assert!(!used(vec![(theirs, Uses::Source(other))]));
        assert!(used(vec![(theirs, Uses::Backups(vec![later, backup]))]));
        assert!(!used(vec![(theirs, Uses::Backups(vec![later])), (theirs, Uses::Backups(vec![]))]));
    }
}
