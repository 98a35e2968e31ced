//! Opens the store that a location names.

use std::path::PathBuf;

use refloat_types::{Advice, BadLocation, Explain, Location, Scheme};

use crate::dropbox::DropboxStore;
use crate::gdrive::GdriveStore;
use crate::object::ObjectStore;
use crate::posix::{Options, PosixStore};
use crate::settings::StoreSettings;
use crate::sftp::SftpStore;
use crate::webdav::WebdavStore;
use crate::{Store, StoreError};

/// A store that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The text is no location.
    #[error("this is not the URL of a store: {0}")]
    BadUrl(#[from] BadLocation),
    /// A kind of store that this build does not have.
    #[error("this build cannot open {} stores ({scheme}://)", scheme.name())]
    NotBuilt {
        /// Which.
        scheme: Scheme,
    },
    /// A store whose settings do not fit it.
    #[error("{location} cannot be opened: {why}")]
    Settings {
        /// Where.
        location: String,
        /// What is wrong. Never holds a secret.
        why: String,
        /// What to write.
        hint: String,
    },
    /// The store's directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for OpenError {
    fn advice(&self) -> Advice {
        let safe = "nothing was touched";
        match self {
            Self::BadUrl(BadLocation::Path(path)) => {
                Advice::usage("STO-020", safe).hint(format!("Write it as a URL: file://{path}"))
            }
            Self::BadUrl(bad @ (BadLocation::NotAUrl | BadLocation::Wrong { scheme: Scheme::File, .. })) => {
                let code = if matches!(bad, BadLocation::NotAUrl) { "STO-020" } else { "STO-022" };
                Advice::usage(code, safe).hint("Write it as file:///absolute/path, with %20 for a space.")
            }
            Self::BadUrl(BadLocation::Scheme(_)) => {
                let known: Vec<String> = Scheme::ALL.iter().map(|scheme| format!("{scheme}://")).collect();
                Advice::usage("STO-021", safe).hint(format!("It begins with one of {}.", known.join(", ")))
            }
            Self::BadUrl(bad) => {
                Advice::usage("STO-020", safe).hint(format!("Write it like this: {}", bad.example()))
            }
            Self::NotBuilt { .. } => Advice::usage("STO-021", safe)
                .hint("Use a local or mounted directory (file:///absolute/path), s3://, gs://, azblob://, sftp://, webdavs://, dropbox:// or gdrive://."),
            Self::Settings { hint, .. } => Advice::usage("STO-023", safe).hint(hint.clone()),
            Self::Store(error) => error.advice(),
        }
    }
}

/// Opens the store at `location`. A store behind a network is not asked for anything yet.
///
/// # Errors
/// Settings that do not fit, or a directory that cannot be used.
pub fn open(
    location: &Location,
    settings: &StoreSettings,
    options: Options,
) -> Result<Box<dyn Store>, OpenError> {
    match location.scheme() {
        Scheme::File => Ok(Box::new(PosixStore::open(location.path(), options)?)),
        Scheme::S3 | Scheme::Gs | Scheme::Azblob => {
            around(ObjectStore::open(location, settings, options)?, settings)
        }
        Scheme::Sftp => around(SftpStore::open(location, settings, options)?, settings),
        Scheme::Webdav | Scheme::Webdavs => around(WebdavStore::open(location, settings, options)?, settings),
        Scheme::Dropbox => around(DropboxStore::open(location, settings, options)?, settings),
        Scheme::Gdrive => around(GdriveStore::open(location, settings, options)?, settings),
    }
}

/// What stands around every store behind a network.
fn around<S: Store + 'static>(store: S, settings: &StoreSettings) -> Result<Box<dyn Store>, OpenError> {
    Ok(Box::new(crate::wrap::resilient(store, &settings.patience)))
}

/// Opens the store at `url` as [`open`] does, without settings.
///
/// # Errors
/// As for [`open`], and a text that is no location.
pub fn open_url(url: &str, options: Options) -> Result<Box<dyn Store>, OpenError> {
    open(&url.parse()?, &StoreSettings::default(), options)
}

/// The path that a `file:` URL names; `None` for a store that is no directory of this host.
///
/// # Errors
/// A text that is no location.
pub fn file_path(url: &str) -> Result<Option<PathBuf>, OpenError> {
    let location: Location = url.parse()?;
    Ok(location.directory().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_is_said() {
        let error = |url: &str| open_url(url, Options::default()).err().unwrap();
        let message = |url: &str| error(url).to_string();
        assert_eq!(
            message("/srv/backup"),
            "this is not the URL of a store: \"/srv/backup\" is a path, not a URL; its URL is \"file:///srv/backup\""
        );
        assert!(!message("s3://key:secret@bucket").contains("secret"));
        assert_eq!(
            message("floppy://x"),
            "this is not the URL of a store: \"floppy://\" is no kind of store"
        );
        assert_eq!(error("/srv/backup").advice().hints, ["Write it as a URL: file:///srv/backup"]);
        for (url, code) in [
            ("", "STO-020"),
            ("://x", "STO-020"),
            ("nothing at all", "STO-020"),
            ("s3://", "STO-020"),
            ("floppy://x", "STO-021"),
            ("file://srv/backup", "STO-022"),
            ("file:///a%zz", "STO-022"),
            ("file:///a?b", "STO-022"),
        ] {
            assert_eq!(error(url).advice().code, code, "{url}");
        }
    }

    #[test]
    fn only_directories_have_a_path() {
        assert_eq!(file_path("FILE://localhost/x").unwrap(), Some(PathBuf::from("/x")));
        assert_eq!(file_path("s3://bucket/x").unwrap(), None);
        assert!(file_path("/x").is_err());
    }
}
