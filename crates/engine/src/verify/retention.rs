//! Tombstones and holds: what was deleted on purpose, and what must not be.

use refloat_repo::RepoError;
use refloat_repo::layout::{self, Named};

use super::VerifyError;
use super::report::Depends;
use super::run::Run;

impl Run<'_> {
    /// Checks them, and takes in what was to be deleted: it is not missing.
    pub(super) fn check_retention(&mut self) -> Result<(), VerifyError> {
        for named in std::mem::take(&mut self.census.retention) {
            let what = match named {
                Named::Tombstone(..) => "expiry: nothing is deleted until it can be read",
                _ => "whether a backup is held: nothing is deleted until it can be read",
            };
            // A tombstone of which nothing is left is removed while others work.
            let there = self.repository.store().head(&named.key()).map_err(RepoError::from)?;
            if there.is_some() {
                self.check_document(&named, &Depends::other(what))?;
            }
        }
        match self.repository.marked() {
            Ok(marked) => self.marked = marked,
            Err(RepoError::Store(error)) if error.is_retryable() => {
                return Err(RepoError::Store(error).into());
            }
            // Said above where everything is looked at.
            Err(error) => {
                tracing::warn!(%error, "{} cannot be read: what expired looks lost", layout::TOMBSTONES);
            }
        }
        Ok(())
    }
}
