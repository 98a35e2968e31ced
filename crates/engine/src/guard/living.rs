//! Which other jobs may still be running.

use std::collections::BTreeMap;

use refloat_repo::repository::SeenPin;
use refloat_repo::{RepoError, Repository};
use refloat_types::{BackupId, ObjectId, Timestamp};

/// Backups that others may still be making.
#[derive(Debug, Clone, Default)]
pub struct Living {
    backups: BTreeMap<BackupId, SeenPin>,
}

impl Living {
    /// Whether somebody else may still be making this backup: another host, or this one as another copy of its state
    /// directory. What has our own holder has died, because we hold the lock of the source.
    pub fn elsewhere(&self, backup: BackupId, own_holder: &[u8; 16]) -> bool {
        self.backups.get(&backup).is_some_and(|seen| seen.pin.holder != *own_holder)
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
        if let Some(backup) = seen.pin.backup
            && seen.pin.pin != own
            && seen.is_alive(now)
        {
            living.backups.insert(backup, seen);
        }
    }
    Ok(living)
}
