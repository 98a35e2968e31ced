//! Where else a pack may lie: repositories that hold a copy of it, byte for byte under the same key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use refloat_store::Store;
use refloat_types::ObjectId;

/// Other stores that may hold the same packs, and which packs had to be read there. A frame says itself whether it is the one
/// that was meant, so it does not matter who gives it.
#[derive(Default)]
pub struct Copies {
    stores: Vec<Arc<dyn Store>>,
    passed_over: Mutex<BTreeMap<ObjectId, String>>,
}

impl Copies {
    /// Copies in these stores, the best first.
    pub fn new(stores: Vec<Arc<dyn Store>>) -> Self {
        Self { stores, passed_over: Mutex::default() }
    }

    pub(super) fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    /// A frame of `pack` could not be had from where it should be, and was found elsewhere.
    pub(super) fn pass_over(&self, pack: ObjectId, why: String) {
        let mut all = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(pack).or_insert(why);
    }

    /// Packs that are damaged where they should be and were read elsewhere, and what is wrong with each.
    pub fn passed_over(&self) -> BTreeMap<ObjectId, String> {
        self.passed_over.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
