//! Operation records: each names the digest of the one before it, so that one that is taken away is missed.

use std::collections::{BTreeMap, BTreeSet};

use refloat_repo::layout::{self, Named};
use refloat_repo::repository::OperationRecord;
use refloat_types::{BackupId, ObjectId};

use super::VerifyError;
use super::report::{Depends, FindingKind};
use super::run::Run;

/// The records of one number. Two processes of one host may have written at the same time, so there may be several.
#[derive(Default)]
struct Step {
    digests: BTreeSet<[u8; 32]>,
    /// All of them could be read.
    whole: bool,
}

impl Run<'_> {
    /// Every record, and that they follow each other.
    pub(super) fn check_operations(&mut self) -> Result<(), VerifyError> {
        for (agent, records) in self.census.operations.clone() {
            self.check_agent_records(agent, &records)?;
        }
        Ok(())
    }

    fn check_agent_records(
        &mut self,
        agent: ObjectId,
        records: &BTreeSet<(u64, ObjectId)>,
    ) -> Result<(), VerifyError> {
        let depends = Depends::other(format!("the record of what agent {agent} did"));
        let mut steps: BTreeMap<u64, Step> = BTreeMap::new();
        let last = records.last().map_or(0, |(number, _)| *number);
        for (first, behind) in super::chain::holes(1, last, records.iter().map(|(number, _)| *number)) {
            let object = format!("{}{first:010}", layout::operations_of(agent));
            let what = format!("{} records from number {first} on are not there", behind - first);
            self.ledger.add(FindingKind::Missing, object, what).depends.merge(depends.clone());
        }
        for (number, id) in records {
            let named = Named::Operation(agent, *number, *id);
            let inspected = self.check_document(&named, &depends)?;
            let before = number.checked_sub(1).and_then(|before| steps.get(&before));
            if let (Some(inspected), Some(before)) = (&inspected, before)
                && let Some(previous) = inspected.previous
                && before.whole
                && !before.digests.contains(&previous)
            {
                let what = format!(
                    "it was written behind another record than the number {} that is there",
                    number - 1
                );
                let finding = self.ledger.add(FindingKind::BrokenChain, named.key().as_str(), what);
                finding.depends.merge(depends.clone());
            }
            let step = steps.entry(*number).or_insert_with(|| Step { whole: true, ..Step::default() });
            match inspected {
                Some(inspected) => {
                    step.digests.insert(inspected.digest);
                    if let Some(operation) = &inspected.operation {
                        self.check_backup_exists(operation, named.key().as_str());
                    }
                }
                None => step.whole = false,
            }
            // Only the one before is needed.
            steps = steps.split_off(&number.saturating_sub(1));
        }
        Ok(())
    }

    /// A backup that was made, by its record, has a commit, or has expired.
    fn check_backup_exists(&mut self, record: &OperationRecord, object: &str) {
        if record.operation != "backup" || record.result == "failed" {
            return;
        }
        let Some(id) = record.about.as_deref().and_then(|about| about.parse::<BackupId>().ok()) else {
            return;
        };
        let exists = self.commit_keys.values().flatten().any(|(_, known)| *known == id);
        if exists || self.marked.backups.contains(&id) {
            return;
        }
        let source = record.source.as_deref().unwrap_or("an unknown source");
        let prefix = match self.sources.iter().find(|(_, view)| view.name.as_deref() == Some(source)) {
            Some((id, _)) => layout::commits(*id),
            None => layout::SOURCES.to_owned(),
        };
        let what =
            format!("the commit of backup {id} of {source}, made at {:.0}, is not there", record.started);
        let finding = self.ledger.add(FindingKind::Missing, format!("{prefix}…-{id}"), what);
        finding.add_object(object);
        finding.depends.merge(Depends::other(format!("backup {id} of {source}")));
    }
}
