//! Where a list goes on.

use std::collections::HashSet;

use super::Failed;
use crate::StoreErrorKind;

/// The places at which a list went on: tokens of pages, cursors. A service that names one of them again has lost its way, and
/// would be followed for ever.
#[derive(Default)]
pub(crate) struct Places(HashSet<String>);

impl Places {
    /// Goes on at a place.
    ///
    /// # Errors
    /// The list has been there.
    pub(crate) fn go_on(&mut self, at: &str) -> Result<(), Failed> {
        if self.0.insert(at.to_owned()) {
            return Ok(());
        }
        Err(Failed::new(StoreErrorKind::Other, "the service gives the same page of the list again and again"))
    }
}
