//! How a store is reached: what its URL does not say. Made by the program from its configuration; nothing here reads one.

mod document;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use refloat_types::Timestamp;
use zeroize::Zeroizing;

use crate::Key;

/// A secret. Prints `***`, and its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }
    /// The content. Whoever asks must not log, print or store it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What a store is told about who we are: values by the names that the configuration gives them (`access_key_id`,
/// `secret_access_key`, `account_key`, …), and until when they hold.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    values: BTreeMap<String, Secret>,
    /// When they expire, where that is known.
    pub expires: Option<Timestamp>,
}

impl Keys {
    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.values.insert(name.to_owned(), Secret::new(value));
        self
    }
    /// One of them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(Secret::expose)
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl Keys {
    /// Reads a document of keys: JSON as a credential process prints it, or the `[default]` profile, or the only one, of a
    /// file that `aws configure` writes.
    ///
    /// # Errors
    /// It is neither, or lacks a key. The document is not repeated.
    pub fn from_document(text: &str) -> io::Result<Self> {
        let found =
            if text.trim_start().starts_with('{') { document::json(text) } else { document::ini(text) };
        let keys = found.ok_or_else(|| {
            io::Error::other(
                "the document of keys is neither JSON of a credential process nor a credentials file",
            )
        })?;
        for name in ["access_key_id", "secret_access_key"] {
            if keys.get(name).is_none() {
                return Err(io::Error::other(format!("the document of keys lacks {name}")));
            }
        }
        Ok(keys)
    }
}

/// Fetches keys: when they are first needed, before they expire, and when the store says that they have. It may block.
pub type FetchKeys = Arc<dyn Fn() -> io::Result<Keys> + Send + Sync>;

/// Who this host is at a store.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Whoever the machine is: its role by the provider's metadata service.
    #[default]
    Machine,
    /// What this function says.
    Keys(FetchKeys),
    /// The role that is given for a token that something else renews in a file (Kubernetes, OpenID Connect).
    WebIdentity {
        /// The role's ARN.
        role: String,
        /// The token's file.
        token_file: PathBuf,
        /// Where tokens are exchanged; the provider's own place where `None`.
        endpoint: Option<String>,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("Machine"),
            Self::Keys(_) => f.write_str("Keys(***)"),
            Self::WebIdentity { role, token_file, .. } => {
                f.debug_struct("WebIdentity").field("role", role).field("token_file", token_file).finish()
            }
        }
    }
}

/// How a bucket is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// The bucket in the path where an endpoint is named, else in the host name.
    #[default]
    Auto,
    /// `https://host/bucket/key`.
    Path,
    /// `https://bucket.host/key`.
    Virtual,
}

/// How the store is to encrypt what it keeps, beside what Refloat encrypts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSideEncryption {
    /// With keys of the store (SSE-S3).
    Aes256,
    /// With a key of the key service (SSE-KMS), by its id or ARN.
    Kms(String),
}

/// Class that new objects are stored in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageClass {
    /// Its name at the store.
    pub name: String,
    /// Only objects whose key begins with this; "" for all of them. What has to be read all the time must not be in a class that
    /// cannot be read.
    pub below: String,
}

impl StorageClass {
    /// Whether an object of this name is stored in it.
    pub fn is_for(&self, key: &Key) -> bool {
        key.as_str().starts_with(&self.below)
    }
}

/// What stands between calls and a store that is overloaded, slow or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Longest time for one call without the bytes it moves.
    pub call: Duration,
    /// How long calls are made again that begin before the store has answered anything.
    pub first: Duration,
    /// Calls that move bytes get the time these take at this rate on top.
    pub least_rate: u64,
    /// Most calls at once.
    pub connections: usize,
    /// Most bytes a second that are sent; `None`: as fast as it goes.
    pub upload_rate: Option<u64>,
    /// Most bytes a second that are received; `None`: as fast as it goes.
    pub download_rate: Option<u64>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(30),
            first: Duration::MAX,
            least_rate: 256 << 10,
            connections: 32,
            upload_rate: None,
            download_rate: None,
        }
    }
}

/// Everything about a store that its URL does not say.
#[derive(Debug, Clone, Default)]
pub struct StoreSettings {
    /// Region of the bucket.
    pub region: Option<String>,
    /// Address of a store that is not the provider's own, `https://host:port`.
    pub endpoint: Option<String>,
    /// How a bucket is addressed.
    pub style: Style,
    /// Class that new objects are stored in.
    pub storage_class: Option<StorageClass>,
    /// How the store itself encrypts.
    pub sse: Option<ServerSideEncryption>,
    /// Metadata that each new object gets.
    pub metadata: BTreeMap<String, String>,
    /// Certificates that are believed beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The file that knows the keys of SSH servers, as OpenSSH keeps it.
    pub known_hosts: Option<PathBuf>,
    /// Who this host is.
    pub credentials: Credentials,
    /// Where a machine of Amazon's asks who it is, `http://host:port`, if not at the usual place.
    pub metadata_endpoint: Option<String>,
    /// Deadlines and limits.
    pub patience: Patience,
    /// Whether creating what exists is refused, as it was seen ([`crate::probe`]); `None`: not tried yet.
    pub conditional: Option<bool>,
}
