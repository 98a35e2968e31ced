//! Where a repository is: the parsed URL of a store.
//!
//! No secret can stand in one: user information is refused where it is not a plain user name, and no message repeats what
//! was written there. A location is a value; opening it is the business of the crate `store`.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Kind of a store, by what stands before `://`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// A directory of this host, `file:///path`.
    File,
    /// A bucket of S3 or of a store that speaks its protocol, `s3://bucket/prefix`.
    S3,
    /// A bucket of Google Cloud Storage, `gs://bucket/prefix`.
    Gs,
    /// A container of Azure Blob Storage, `azblob://container/prefix`.
    Azblob,
    /// A directory behind SSH, `sftp://user@host:port/path`.
    Sftp,
    /// WebDAV without TLS, `webdav://host:port/path`.
    Webdav,
    /// WebDAV over TLS, `webdavs://host:port/path`.
    Webdavs,
    /// A folder of Dropbox, `dropbox://folder`.
    Dropbox,
    /// A folder of Google Drive, `gdrive://folder`.
    Gdrive,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::File,
        Self::S3,
        Self::Gs,
        Self::Azblob,
        Self::Sftp,
        Self::Webdav,
        Self::Webdavs,
        Self::Dropbox,
        Self::Gdrive,
    ];

    /// What stands before `://`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Azblob => "azblob",
            Self::Sftp => "sftp",
            Self::Webdav => "webdav",
            Self::Webdavs => "webdavs",
            Self::Dropbox => "dropbox",
            Self::Gdrive => "gdrive",
        }
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "a directory",
            Self::S3 => "S3",
            Self::Gs => "Google Cloud Storage",
            Self::Azblob => "Azure Blob Storage",
            Self::Sftp => "SFTP",
            Self::Webdav | Self::Webdavs => "WebDAV",
            Self::Dropbox => "Dropbox",
            Self::Gdrive => "Google Drive",
        }
    }

    /// An example of its URL.
    pub const fn example(self) -> &'static str {
        match self {
            Self::File => "file:///backup/db1",
            Self::S3 => "s3://bucket/db1",
            Self::Gs => "gs://bucket/db1",
            Self::Azblob => "azblob://container/db1",
            Self::Sftp => "sftp://user@host/backup/db1",
            Self::Webdav => "webdav://host/backup/db1",
            Self::Webdavs => "webdavs://host/backup/db1",
            Self::Dropbox => "dropbox://backup/db1",
            Self::Gdrive => "gdrive://backup/db1",
        }
    }

    /// Whether it keeps objects in a bucket or container.
    pub const fn has_bucket(self) -> bool {
        matches!(self, Self::S3 | Self::Gs | Self::Azblob)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The address of a store. Prints as a URL; never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    scheme: Scheme,
    user: Option<String>,
    host: String,
    port: Option<u16>,
    path: PathBuf,
}

/// Text that is no location. Never holds what could be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLocation {
    /// A path instead of a URL.
    #[error("\"{0}\" is a path, not a URL; its URL is \"file://{0}\"")]
    Path(String),
    /// No URL.
    #[error("it is not a URL")]
    NotAUrl,
    /// A kind of store that there is not.
    #[error("\"{0}://\" is no kind of store")]
    Scheme(String),
    /// What follows is wrong.
    #[error("{why}")]
    Wrong {
        /// The kind of store.
        scheme: Scheme,
        /// What is wrong, without what was written.
        why: String,
    },
}

impl BadLocation {
    /// An example of what could be meant.
    pub const fn example(&self) -> &'static str {
        match self {
            Self::Wrong { scheme, .. } => scheme.example(),
            _ => Scheme::File.example(),
        }
    }
}

impl Location {
    /// The location of a directory of this host.
    pub fn of_directory(path: impl Into<PathBuf>) -> Self {
        Self { scheme: Scheme::File, user: None, host: String::new(), port: None, path: path.into() }
    }

    /// Its kind.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }
    /// The user name, where one is written.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
    /// The host, bucket or container; "" where there is none.
    pub fn host(&self) -> &str {
        &self.host
    }
    /// The port, where one is written.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
    /// An absolute path (`file`, `sftp`, `webdav`, `webdavs`); the prefix or folder without slashes around it elsewhere,
    /// which may be empty.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The directory of this host, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        (self.scheme == Scheme::File).then_some(self.path.as_path())
    }
}

impl FromStr for Location {
    type Err = BadLocation;

    fn from_str(text: &str) -> Result<Self, BadLocation> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(if text.starts_with('/') {
                BadLocation::Path(text.to_owned())
            } else {
                BadLocation::NotAUrl
            });
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.bytes().all(word) {
            return Err(BadLocation::NotAUrl);
        }
        let scheme = Scheme::parse(scheme).ok_or_else(|| BadLocation::Scheme(scheme.to_owned()))?;
        let wrong = |why: &str| BadLocation::Wrong { scheme, why: why.to_owned() };
        if rest.contains(['?', '#']) {
            return Err(wrong("\"?\" and \"#\" in a path are written \"%3F\" and \"%23\""));
        }
        match scheme {
            Scheme::File => directory(rest.strip_prefix("localhost").unwrap_or(rest)),
            Scheme::S3 | Scheme::Gs | Scheme::Azblob => bucket(scheme, rest),
            Scheme::Sftp | Scheme::Webdav | Scheme::Webdavs => server(scheme, rest),
            Scheme::Dropbox | Scheme::Gdrive => {
                if rest.split('/').next().is_some_and(|first| first.contains('@')) {
                    return Err(wrong(NO_CREDENTIALS));
                }
                let path = folder(scheme, rest)?;
                Ok(Self { scheme, user: None, host: String::new(), port: None, path })
            }
        }
    }
}

const NO_CREDENTIALS: &str = "credentials cannot stand in a URL; they belong in credentials = { … }";

fn directory(rest: &str) -> Result<Location, BadLocation> {
    let wrong = |why: &str| BadLocation::Wrong { scheme: Scheme::File, why: why.to_owned() };
    if !rest.starts_with('/') {
        return Err(wrong("\"file://\" is followed by an absolute path, so by a third slash"));
    }
    let path = absolute(Scheme::File, rest)?;
    if path == Path::new("/") {
        return Err(wrong("the root directory cannot be a repository"));
    }
    Ok(Location::of_directory(path))
}

fn bucket(scheme: Scheme, rest: &str) -> Result<Location, BadLocation> {
    let wrong = |why: String| BadLocation::Wrong { scheme, why };
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if name.contains(['@', ':']) {
        return Err(wrong(NO_CREDENTIALS.to_owned()));
    }
    let what = if scheme == Scheme::Azblob { "container" } else { "bucket" };
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'$');
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.bytes().all(good) {
        return Err(wrong(format!("\"{scheme}://\" is followed by the name of a {what}")));
    }
    let path = folder(scheme, prefix)?;
    Ok(Location { scheme, user: None, host: name.to_owned(), port: None, path })
}

fn server(scheme: Scheme, rest: &str) -> Result<Location, BadLocation> {
    let wrong = |why: &str| BadLocation::Wrong { scheme, why: why.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (user, address) = match authority.rsplit_once('@') {
        None => (None, authority),
        Some((user, _)) if user.contains(':') => {
            return Err(wrong("a password cannot stand in a URL; it belongs in credentials = { … }"));
        }
        Some((_, _)) if scheme != Scheme::Sftp => return Err(wrong(NO_CREDENTIALS)),
        Some((user, address)) => (Some(user), address),
    };
    let name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if user.is_some_and(|user| !name(user)) {
        return Err(wrong("what stands before \"@\" is not the name of a user"));
    }
    let (host, port) = split_port(address).ok_or_else(|| wrong("what follows \":\" is not a port"))?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let good = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name(host),
    };
    if !good {
        return Err(wrong(&format!("\"{scheme}://\" is followed by a host")));
    }
    let path = absolute(scheme, if path.is_empty() { "/" } else { path })?;
    if path == Path::new("/") && scheme == Scheme::Sftp {
        return Err(wrong("the root directory cannot be a repository"));
    }
    Ok(Location { scheme, user: user.map(str::to_owned), host: host.to_owned(), port, path })
}

/// Host and port; `None` when what follows the last colon is no port.
fn split_port(address: &str) -> Option<(&str, Option<u16>)> {
    if address.ends_with(']') {
        return Some((address, None));
    }
    match address.rsplit_once(':') {
        None => Some((address, None)),
        Some((host, port)) => port.parse().ok().filter(|&port| port != 0).map(|port| (host, Some(port))),
    }
}

/// An absolute path without doubled slashes, `.` or `..`.
fn absolute(scheme: Scheme, text: &str) -> Result<PathBuf, BadLocation> {
    let path = decode(scheme, text)?;
    // Collecting the components drops doubled and trailing slashes.
    Ok(path.components().collect())
}

/// A prefix or folder: as [`absolute`], without slashes around it.
fn folder(scheme: Scheme, text: &str) -> Result<PathBuf, BadLocation> {
    let path = decode(scheme, text.trim_matches('/'))?;
    if path.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
        let why = "the path is not plain text".to_owned();
        return Err(BadLocation::Wrong { scheme, why });
    }
    Ok(path.components().collect())
}

fn decode(scheme: Scheme, text: &str) -> Result<PathBuf, BadLocation> {
    let wrong = |why: &str| BadLocation::Wrong { scheme, why: why.to_owned() };
    let bytes =
        percent_decode(text).ok_or_else(|| wrong("\"%\" is followed by two hex digits other than 00"))?;
    if bytes.split(|&b| b == b'/').any(|part| part == b"." || part == b"..") {
        return Err(wrong("the path has \".\" or \"..\" in it; write the path it stands for"));
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
        out.push(u8::try_from(value).ok().filter(|&b| b != 0)?);
    }
    Some(out)
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if self.scheme.has_bucket() && !self.path.as_os_str().is_empty() {
            f.write_str("/")?;
        }
        // Readable text stays readable; only what would be taken for something else is encoded.
        for chunk in self.path.as_os_str().as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if matches!(c, '%' | '?' | '#' | ' ') || c.is_ascii_control() {
                    write!(f, "%{:02X}", u32::from(c))?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Location {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn every_kind_is_read_and_printed() {
        for (text, host, path) in [
            ("file:///backup/db%201", "", "/backup/db 1"),
            ("s3://acme-backups", "acme-backups", ""),
            ("s3://acme-backups/db1/x%23y", "acme-backups", "db1/x#y"),
            ("gs://bucket/db1", "bucket", "db1"),
            ("azblob://container/db1", "container", "db1"),
            ("sftp://backup@host.example:2222/srv/db1", "host.example", "/srv/db1"),
            ("sftp://[::1]:22/srv", "[::1]", "/srv"),
            ("webdav://127.0.0.1:8080/", "127.0.0.1", "/"),
            ("webdavs://host/dav/db1", "host", "/dav/db1"),
            ("dropbox://backup/db1", "", "backup/db1"),
            ("gdrive://", "", ""),
        ] {
            let location = parse(text);
            assert_eq!((location.host(), location.path()), (host, Path::new(path)), "{text}");
            assert_eq!(location.to_string(), text);
            assert_eq!(location.directory().is_some(), text.starts_with("file"));
            assert_eq!(parse(&location.to_string()), location);
        }
        for scheme in Scheme::ALL {
            assert_eq!(parse(scheme.example()).scheme(), scheme);
        }
        let sftp = parse("sftp://backup@host:2222/srv");
        assert_eq!((sftp.user(), sftp.port()), (Some("backup"), Some(2222)));
        assert_eq!(parse("S3://b//a//c/"), parse("s3://b/a/c"));
        assert_eq!(parse("FILE://localhost/x"), parse("file:///x"));
        assert_eq!(parse("file:///a%FFb").to_string(), "file:///a%FFb");
    }

    #[test]
    fn what_is_wrong_is_said_without_what_was_written() {
        let why = |text: &str| text.parse::<Location>().expect_err(text).to_string();
        assert_eq!(why("/srv/x"), "\"/srv/x\" is a path, not a URL; its URL is \"file:///srv/x\"");
        assert_eq!(why("floppy://a"), "\"floppy://\" is no kind of store");
        assert_eq!(why("file://srv/x"), "\"file://\" is followed by an absolute path, so by a third slash");
        assert_eq!(why("file:///"), "the root directory cannot be a repository");
        assert_eq!(why("s3:///x"), "\"s3://\" is followed by the name of a bucket");
        assert_eq!(why("azblob://"), "\"azblob://\" is followed by the name of a container");
        assert_eq!(why("sftp:///x"), "\"sftp://\" is followed by a host");
        for text in [
            "",
            "://x",
            "nothing at all",
            "file:///a%",
            "file:///a%zz",
            "file:///a%00",
            "file:///a?b",
            "file:///a/../b",
            "s3://b/../c",
            "s3://b c",
            "sftp://host:0/x",
            "sftp://host:port/x",
            "webdav://a b/",
            "dropbox://a%0Ab",
        ] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
        for text in [
            "s3://key:hunter2@acme/db1",
            "gs://hunter2@acme",
            "azblob://acme:hunter2/x",
            "sftp://user:hunter2@host/x",
            "sftp://hun ter2@host/x",
            "webdavs://user:hunter2@host/",
            "webdavs://hunter2@host/",
            "dropbox://hunter2@x/y",
            "gdrive://a/b?token=hunter2",
            "s3://acme/x#hunter2",
        ] {
            assert!(!why(text).contains("hunter2"), "{text}: {}", why(text));
        }
    }
}
