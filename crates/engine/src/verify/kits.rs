//! Rescue kits: that nobody put anything there for whoever recovers, and that what we put there is as it was.

use refloat_repo::layout;
use refloat_repo::repository::KitWrong;

use super::VerifyError;
use super::report::{Depends, FindingKind, Grade};
use super::run::Run;

impl Run<'_> {
    /// Compares everything below `rescue/` with the signed lists.
    pub(super) fn check_kits(&mut self) -> Result<(), VerifyError> {
        let kits = self.repository.kits()?;
        for kit in &kits.kits {
            let depends = || Depends::other("the rescue kit");
            self.ledger.used(
                layout::kit(kit.number).as_str(),
                kit.agent,
                refloat_types::ObjectId::NONE,
                &depends(),
            );
        }
        self.ledger.present += kits.keys().count() as u64;
        let findings = self.repository.inspect_kits(&kits)?;
        for finding in findings {
            let kind = match finding.wrong {
                KitWrong::Foreign => FindingKind::UnknownOrigin,
                KitWrong::Changed => FindingKind::Damaged,
                KitWrong::Missing => FindingKind::Missing,
            };
            let added = self.ledger.add(kind, finding.key.as_str(), finding.what);
            // No backup is worse for it.
            added.grade = Grade::Attention;
            added
                .depends
                .merge(Depends::other("no backup; whoever recovers must not run it or give it a key"));
        }
        Ok(())
    }
}
