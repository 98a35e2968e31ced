//! What a host keeps for itself about repositories: keys it has opened, its own signing key, the root it trusts.
//!
//! Files are 0600, written beside their place and renamed, so that a crash leaves the old or the new one. All of it can
//! be made again from the repository and its passphrase.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use refloat_types::ObjectId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::crypt::seal::DataKey;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::error::RepoError;

/// The state directory.
#[derive(Debug, Clone)]
pub struct StateDirectory {
    path: PathBuf,
}

/// What a host keeps about one repository.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Local {
    /// The root key this host trusts.
    pub(crate) root: PublicKey,
    /// The opened identity; none on a host that only writes.
    pub(crate) identity: Option<String>,
    /// Identities of generations before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) earlier: Vec<String>,
    /// The generation whose secrets this host has opened.
    #[serde(default)]
    pub(crate) generation: u64,
    /// Names WAL objects.
    #[serde(with = "refloat_types::hex::array")]
    pub(crate) naming_key: [u8; 32],
    /// Tells changed pages.
    #[serde(with = "refloat_types::hex::array")]
    pub(crate) page_key: [u8; 32],
    /// Signs what this host writes.
    #[serde(with = "refloat_types::hex::array")]
    pub(crate) agent_seed: [u8; 32],
    /// When this host was enrolled.
    pub(crate) enrolled: refloat_types::Timestamp,
}

/// The data key that this writer uses today for WAL and operation records.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct WriterKey {
    pub(crate) day: String,
    /// The generation of recipients it is sealed to.
    #[serde(default)]
    pub(crate) generation: u64,
    pub(crate) id: ObjectId,
    #[serde(with = "refloat_types::hex::array")]
    pub(crate) key: [u8; 32],
}

impl Local {
    /// Holds `identity` from now on, and those before it.
    pub(crate) fn hold(&mut self, identity: String, earlier: Vec<String>) {
        let mut all = earlier;
        all.extend(self.identity.take());
        all.append(&mut self.earlier);
        for old in all {
            if old != identity && !self.earlier.contains(&old) {
                self.earlier.push(old);
            }
        }
        self.identity = Some(identity);
    }

    pub(crate) fn signing(&self) -> Result<SigningKey, RepoError> {
        SigningKey::from_seed(self.agent_seed)
            .ok_or_else(|| RepoError::internal("use this host's signing key", "its seed is not valid"))
    }
}

impl WriterKey {
    pub(crate) fn data_key(&self) -> DataKey {
        DataKey::from_parts(self.id, self.key)
    }
}

impl StateDirectory {
    /// The state directory at `path`; made (0700) when something is first kept.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory `relative` below it (0700) and answers its path.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self, relative: &str) -> Result<PathBuf, RepoError> {
        let path = self.path.join(relative);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| fail("create", &path, source))?;
        Ok(path)
    }

    /// The same, durably: what is synced in it is found after a crash of the machine.
    ///
    /// # Errors
    /// When it cannot be made or synced.
    pub fn durable_directory(&self, relative: &str) -> Result<PathBuf, RepoError> {
        let path = self.path.join(relative);
        make_durably(&path).map_err(|source| fail("create", &path, source))?;
        Ok(path)
    }

    /// Reads the JSON file `relative`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is not what was kept.
    pub fn read<T: DeserializeOwned>(&self, relative: &str) -> Result<Option<T>, RepoError> {
        let path = self.path.join(relative);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(fail("read", &path, source)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| fail("read", &path, std::io::Error::other(e)))
    }

    /// Keeps `value` as the JSON file `relative`, durably.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn write<T: Serialize>(&self, relative: &str, value: &T) -> Result<(), RepoError> {
        let path = self.path.join(relative);
        let bytes = serde_json::to_vec(value).map_err(|e| fail("write", &path, std::io::Error::other(e)))?;
        self.put(relative, &bytes, true)
    }

    /// The bytes of the file `relative`; `None` when there is none, or it is larger than `limit`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_bytes(&self, relative: &str, limit: u64) -> Result<Option<Vec<u8>>, RepoError> {
        let path = self.path.join(relative);
        let read = || {
            let length = fs::metadata(&path)?.len();
            if length <= limit { fs::read(&path).map(Some) } else { Ok(None) }
        };
        match read() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other.map_err(|source| fail("read", &path, source)),
        }
    }

    /// Replaces the file `relative`. After a crash of the machine it may be the old one, or damaged: only for what tells
    /// so itself and can be made again.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn replace(&self, relative: &str, bytes: &[u8]) -> Result<(), RepoError> {
        self.put(relative, bytes, false)
    }

    fn put(&self, relative: &str, bytes: &[u8], durably: bool) -> Result<(), RepoError> {
        let path = self.path.join(relative);
        let parent = path.parent().unwrap_or(&self.path).to_owned();
        let made = match durably {
            true => make_durably(&parent),
            false => fs::DirBuilder::new().recursive(true).mode(0o700).create(&parent),
        };
        made.map_err(|source| fail("create", &parent, source))?;
        let unique = format!(".{}.{}.tmp", std::process::id(), crate::crypt::random::object_id());
        let temporary = path.with_file_name(unique);
        let written = (|| {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            if durably {
                file.sync_all()?;
            }
            fs::rename(&temporary, &path)?;
            if durably { fs::File::open(&parent)?.sync_all() } else { Ok(()) }
        })();
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            fail("write", &path, source)
        })
    }

    /// Removes the file `relative`; absent already is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, relative: &str) -> Result<(), RepoError> {
        let path = self.path.join(relative);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(fail("remove", &path, source))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a directory and those above it (0700), and syncs the one that holds each that was made.
fn make_durably(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_durably(parent)?;
    }
    // Somebody else may make it at the same moment.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    match parent.map(fs::File::open) {
        // One that we may enter and not read: whoever owns it has made it for this.
        Some(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        Some(parent) => parent?.sync_all(),
        None => Ok(()),
    }
}

fn fail(action: &'static str, path: &Path, source: std::io::Error) -> RepoError {
    RepoError::State { action, path: path.display().to_string(), source }
}
