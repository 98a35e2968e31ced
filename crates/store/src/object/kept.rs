//! Keys of S3, held for all that sign with them, until they are stale or the store says that they are no more.
//!
//! The library that signs holds what it was given until shortly before its end, whatever the store says meanwhile, and an
//! upload that has begun keeps its signer. So each request is lent keys that end soon, and what they are is decided here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqsign_aws_v4::Credential;
use reqsign_core::time::Timestamp;
use reqsign_core::{Context, ProvideCredential, ProvideCredentialChain, Result, SigningCredential as _};

/// For how long keys are lent: longer than signing takes, and less than the library takes for worth holding.
const LENT: Duration = Duration::from_secs(60);

/// What signers share. A clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    shared: Arc<Shared>,
}

struct Shared {
    provider: ProvideCredentialChain<Credential>,
    /// One fetches, the others wait for what it gets.
    fetching: tokio::sync::Mutex<()>,
    held: Mutex<Option<Credential>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept(***)")
    }
}

impl Kept {
    pub(super) fn new(provider: ProvideCredentialChain<Credential>) -> Self {
        Self { shared: Arc::new(Shared { provider, fetching: Default::default(), held: Mutex::default() }) }
    }

    /// Has the next request fetch anew.
    pub(super) fn forget(&self) {
        *self.held() = None;
    }

    fn held(&self) -> MutexGuard<'_, Option<Credential>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProvideCredential for Kept {
    type Credential = Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<Credential>> {
        let _alone = self.shared.fetching.lock().await;
        let held = self.held().clone().filter(|keys| keys.is_valid());
        let mut keys = match held {
            Some(keys) => keys,
            None => {
                let Some(keys) = self.shared.provider.provide_credential(context).await? else {
                    return Ok(None);
                };
                *self.held() = Some(keys.clone());
                keys
            }
        };
        let soon = Timestamp::now() + LENT;
        keys.expires_in = Some(keys.expires_in.map_or(soon, |end| end.min(soon)));
        Ok(Some(keys))
    }
}
