//! Backups that lie in a cold class: what they hold is neither right nor wrong until somebody has it thawed.

use std::collections::{BTreeMap, BTreeSet};

use refloat_repo::layout;
use refloat_types::ObjectId;

use super::VerifyError;
use super::backups::Known;
use super::run::Run;
use crate::thaw::{self, Frozen};

impl Run<'_> {
    /// Which packs cannot be read now; what that leaves unproved is noted.
    pub(super) fn look_for_cold(&mut self, backups: &[Known]) -> Result<BTreeSet<ObjectId>, VerifyError> {
        let named =
            backups.iter().flat_map(|backup| backup.record.packs.iter().map(|pack| (pack.id, pack.size)));
        let listed = self.census.packs.iter().map(|(id, size)| (*id, *size));
        let all: BTreeMap<ObjectId, u64> = listed.chain(named).collect();
        let keys = all.iter().map(|(id, size)| (layout::pack(*id), *size)).collect();
        let frozen = thaw::frozen_of(self.repository, &keys)?;
        self.ledger.cold = (frozen.len() as u64, frozen.iter().map(|one| one.size).sum());
        let by_key: BTreeMap<_, &Frozen> = frozen.iter().map(|one| (&one.key, one)).collect();
        for backup in backups {
            let packs = backup.record.packs.iter();
            let of: Vec<&Frozen> =
                packs.filter_map(|pack| by_key.get(&layout::pack(pack.id)).copied()).collect();
            if !of.is_empty() {
                let what = thaw::describe(of.iter().copied());
                self.ledger.not_proved.insert(format!(
                    "what backup {} holds: {what} must be thawed before it can be read (--read-data --thaw)",
                    backup.name
                ));
            }
        }
        Ok(all.into_keys().filter(|id| by_key.contains_key(&layout::pack(*id))).collect())
    }
}

/// Whether any pack of a backup is among these.
pub(super) fn is_cold(backup: &Known, cold: &BTreeSet<ObjectId>) -> bool {
    backup.record.packs.iter().any(|pack| cold.contains(&pack.id))
}
