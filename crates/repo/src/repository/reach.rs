//! How a repository is reached, as a rescue kit keeps it: what a URL does not say of a store, and no secret of it.

use serde::{Deserialize, Serialize};

/// What reaching a repository takes beside its URL, as a host that writes there does. None of it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The URL.
    pub address: String,
    /// Region of a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Address of a store that is not where others of its kind are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How a bucket is addressed there: `path` or `virtual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// The storage account that a container is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Its certificate is signed by none that systems know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_certificates: bool,
}

impl Reach {
    /// Of a URL that is all there is to say.
    pub fn plain(address: &str) -> Self {
        Self { address: address.to_owned(), ..Self::default() }
    }
    /// Whether the URL says it all.
    pub fn is_plain(&self) -> bool {
        *self == Self::plain(&self.address)
    }
}
