//! The folder that a store is in. Drive knows folders by ids and allows many of one name: all that have the name count as
//! one, and files are put into the oldest. A folder is never deleted, because whatever is in it would go with it.

use std::sync::PoisonError;

use super::Inner;
use super::api::{FOLDER, File, quoted, within};
use crate::StoreErrorKind;
use crate::rest::Failed;

/// What Drive calls the top.
const TOP: &str = "root";

impl Inner {
    /// The ids of the folder, the one to put files into first; none where it is not there yet.
    pub(super) async fn folders(&self) -> Result<Vec<String>, Failed> {
        self.walk(false).await
    }

    /// As [`Inner::folders`], and makes it where it is not there.
    pub(super) async fn made_folders(&self) -> Result<Vec<String>, Failed> {
        if let Some(known) = self.known_folders() {
            return Ok(known);
        }
        // Two calls of this process don't make it twice.
        let _alone = self.making.lock().await;
        self.walk(true).await
    }

    fn known_folders(&self) -> Option<Vec<String>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn walk(&self, make: bool) -> Result<Vec<String>, Failed> {
        if let Some(known) = self.known_folders() {
            return Ok(known);
        }
        let mut above = vec![TOP.to_owned()];
        for name in &self.parts {
            let mut found = self.folders_of(name, &above).await?;
            if found.is_empty() {
                let Some(parent) = above.first().filter(|_| make) else { return Ok(Vec::new()) };
                let own = self.api.folder(name, parent).await?;
                // Somebody else may have made it at the same moment.
                found = self.folders_of(name, &above).await?;
                if found.iter().all(|one| one.id != own.id) {
                    found.push(own);
                }
            }
            found.sort_by(|one, other| one.rank().cmp(&other.rank()));
            above = found.into_iter().map(|one| one.id).collect();
        }
        *self.folders.lock().unwrap_or_else(PoisonError::into_inner) = Some(above.clone());
        Ok(above)
    }

    async fn folders_of(&self, name: &str, above: &[String]) -> Result<Vec<File>, Failed> {
        let search = format!("{} and name = {} and mimeType = '{FOLDER}'", within(above), quoted(name));
        self.api.search(&search).await
    }
}

/// A folder that was there and is gone is not made again: what was stored went with it.
pub(super) fn without_folder(failed: Failed) -> Failed {
    if failed.is(StoreErrorKind::NotFound) { folder_is_gone() } else { failed }
}

pub(super) fn folder_is_gone() -> Failed {
    let text = "the folder of the store was there, and is deleted or in the trash";
    // Nothing that is done again brings it back.
    Failed::new(StoreErrorKind::Other, text)
}
