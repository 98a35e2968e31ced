//! Fetches a secret, and refuses one that others could have read.
//!
//! Reads only. Content passes through memory that is overwritten afterwards and never through an error or a log.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use refloat_types::{Advice, Explain};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{Secret, SecretRef, SecretSource, command};
use crate::rights;

/// Larger contents are no secret but a mistaken path.
pub(super) const LARGEST: usize = 64 << 10;

const SAFE: &str = "nothing was read from or written to a repository";

/// Where systemd says that the credentials of a service are.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Reads one variable of the environment. Only the binary knows the real one.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// As whom secrets are read, and with which environment.
#[derive(Clone)]
pub struct SecretReader<'a> {
    uid: u32,
    gids: Vec<u32>,
    environment: Environment<'a>,
}

impl<'a> SecretReader<'a> {
    /// The user this process runs as.
    pub fn current(environment: Environment<'a>) -> Self {
        let mut gids = vec![rustix::process::getegid().as_raw()];
        gids.extend(rustix::process::getgroups().unwrap_or_default().into_iter().map(|gid| gid.as_raw()));
        Self { uid: rustix::process::geteuid().as_raw(), gids, environment }
    }
    /// The user that Refloat will run as: for root, who checks on behalf of another. `gids` begins with the primary group.
    pub fn on_behalf_of(uid: u32, gids: Vec<u32>, environment: Environment<'a>) -> Self {
        Self { uid, gids, environment }
    }
    fn group(&self) -> String {
        rights::group_name(self.gids.first().copied().unwrap_or(self.uid))
    }
    /// The line that gives a file the rights a secret must have.
    fn mend(&self, file: &Path) -> String {
        let file = rights::shell(file);
        if self.uid == 0 {
            return format!("sudo chown root:root {file} && sudo chmod 600 {file}");
        }
        format!("sudo chown root:{} {file} && sudo chmod 640 {file}", self.group())
    }
}

/// A secret that cannot be had.
///
/// Prints as its fault and has the fault's cause, so that a chain of errors tells each thing once.
#[derive(Debug)]
pub struct SecretError {
    /// Which setting names it: `repository.offsite.encryption.passphrase`.
    pub setting: String,
    /// Where that stands: `/etc/refloat/refloat.toml:5`.
    pub named_at: String,
    /// What is wrong.
    pub fault: Box<SecretFault>,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl Error for SecretError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.fault.source()
    }
}

/// What is wrong with a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFault {
    /// A file that cannot be read.
    #[error("could not read the secret {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The line that mends it, when rights are in the way.
        mend: Option<String>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that others than its reader can read or change.
    #[error("{} {why} ({mode})", file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// What is wrong: `can be read by everybody`.
        why: String,
        /// As `ls -l` prints it, with owner and group.
        mode: String,
        /// The line that mends it.
        mend: String,
    },
    /// Empty, too long, or not text.
    #[error("the secret in {from} {why}")]
    Unusable {
        /// Where from: the file, `$NAME`, the program.
        from: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The environment lacks the variable.
    #[error("the environment variable {name} is not set")]
    NotInEnvironment {
        /// The variable.
        name: String,
    },
    /// This process is no systemd service with credentials.
    #[error("the systemd credential \"{name}\" cannot be found: CREDENTIALS_DIRECTORY is not set")]
    NoCredentials {
        /// The credential.
        name: String,
    },
    /// The program failed.
    #[error("could not get a secret from {program}: {why}")]
    Command {
        /// The program.
        program: String,
        /// How it ended, with the last line of its complaint.
        why: String,
    },
}

impl Explain for SecretError {
    fn advice(&self) -> Advice {
        let named = format!("It is named by {} at {}.", self.setting, self.named_at);
        let advice = match &*self.fault {
            SecretFault::Unreadable { mend, .. } => {
                mend.iter().fold(Advice::usage("SEC-001", SAFE), |advice, mend| advice.hint(mend.clone()))
            }
            SecretFault::Exposed { mend, .. } => Advice::usage("SEC-002", SAFE).hint(mend.clone()),
            SecretFault::Unusable { .. } => Advice::usage("SEC-003", SAFE),
            SecretFault::NotInEnvironment { .. } => Advice::usage("SEC-004", SAFE)
                .hint("PostgreSQL starts its archiver with an empty environment on Debian; { file = … } works everywhere."),
            SecretFault::NoCredentials { name } => Advice::usage("SEC-005", SAFE).hint(format!(
                "Only a systemd service has credentials: LoadCredential={name}:/path in its unit; elsewhere use {{ file = … }}."
            )),
            SecretFault::Command { .. } => Advice::usage("SEC-006", SAFE)
                .hint("Run the program as the user Refloat runs as; its environment is empty but for PATH."),
        };
        advice.hint(named)
    }
}

impl SecretRef {
    /// The variable of the environment that [`SecretRef::read`] goes by: whoever is to read it needs that one.
    pub fn variable(&self) -> Option<&str> {
        match self.source() {
            SecretSource::Env(name) => Some(name),
            SecretSource::Credential(_) => Some(CREDENTIALS_DIRECTORY),
            // A program is given an environment of its own.
            SecretSource::File(_) | SecretSource::Command(_) => None,
        }
    }

    /// Fetches the secret. Newlines at its end are not part of it.
    ///
    /// # Errors
    /// Absent, exposed to others, empty, longer than 64 KiB, not UTF-8, or its program failed.
    pub fn read(&self, reader: &SecretReader<'_>) -> Result<Secret, SecretError> {
        let read = match self.source() {
            SecretSource::File(path) => read_file(path, reader),
            SecretSource::Credential(name) => read_credential(name, reader),
            SecretSource::Env(name) => read_variable(name, reader),
            SecretSource::Command(words) => {
                command::run(words).and_then(|bytes| text(&bytes, words.first().map_or("", |w| w)))
            }
        };
        read.map_err(|fault| SecretError {
            setting: self.setting().to_owned(),
            named_at: self.place().file_and_line(),
            fault: Box::new(fault),
        })
    }

    /// Whether the secret could be read now, without reading it: for `config check`. Programs are not run.
    ///
    /// # Errors
    /// As [`SecretRef::read`], as far as rights and existence go.
    pub fn check(&self, reader: &SecretReader<'_>) -> Result<(), SecretError> {
        match self.source() {
            SecretSource::Command(words) => {
                let program = words.first().map_or("", |word| word);
                let fault = match std::fs::metadata(program) {
                    Ok(metadata) if metadata.is_file() && metadata.mode() & 0o111 != 0 => return Ok(()),
                    Ok(_) => "it is no program".to_owned(),
                    Err(error) => error.to_string(),
                };
                Err(SecretError {
                    setting: self.setting().to_owned(),
                    named_at: self.place().file_and_line(),
                    fault: Box::new(SecretFault::Command { program: program.to_owned(), why: fault }),
                })
            }
            _ => self.read(reader).map(drop),
        }
    }
}

fn read_variable(name: &str, reader: &SecretReader<'_>) -> Result<Secret, SecretFault> {
    let value =
        (reader.environment)(name).ok_or_else(|| SecretFault::NotInEnvironment { name: name.to_owned() })?;
    let bytes = Zeroizing::new(value.into_encoded_bytes());
    text(&bytes, &format!("${name}"))
}

fn read_credential(name: &str, reader: &SecretReader<'_>) -> Result<Secret, SecretFault> {
    let directory = (reader.environment)(CREDENTIALS_DIRECTORY)
        .filter(|directory| Path::new(directory).is_absolute())
        .ok_or_else(|| SecretFault::NoCredentials { name: name.to_owned() })?;
    read_file(&Path::new(&directory).join(name), reader)
}

fn read_file(path: &Path, reader: &SecretReader<'_>) -> Result<Secret, SecretFault> {
    let unreadable = |source: io::Error| {
        let denied = source.kind() == io::ErrorKind::PermissionDenied;
        SecretFault::Unreadable { file: path.to_owned(), mend: denied.then(|| reader.mend(path)), source }
    };
    // Non-blocking, so that a named pipe put in its place cannot hold us; the rights are those of what was opened.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("it is not a regular file")));
    }
    if let Some(why) = exposure(&metadata, reader) {
        let (mode, mend) = (rights::listing(&metadata), reader.mend(path));
        return Err(SecretFault::Exposed { file: path.to_owned(), why, mode, mend });
    }
    let bytes = read_bounded(file).map_err(unreadable)?;
    text(&bytes, &path.display().to_string())
}

/// What is wrong with the rights of a secret's file, if anything: 0600 owned by its reader, or 0640 owned by root.
fn exposure(metadata: &Metadata, reader: &SecretReader<'_>) -> Option<String> {
    let (mode, owner, group) = (metadata.mode(), metadata.uid(), metadata.gid());
    let group_is_ours = group == 0 || reader.gids.contains(&group);
    if mode & 0o004 != 0 {
        Some("can be read by everybody".to_owned())
    } else if mode & 0o002 != 0 {
        Some("can be changed by everybody".to_owned())
    } else if owner != 0 && owner != reader.uid {
        Some(format!("belongs to user \"{}\"", rights::user_name(owner)))
    } else if mode & 0o020 != 0 {
        Some(format!("can be changed by group \"{}\"", rights::group_name(group)))
    } else if mode & 0o040 != 0 && (owner != 0 || !group_is_ours) {
        Some(format!("can be read by group \"{}\"", rights::group_name(group)))
    } else {
        None
    }
}

/// Reads at most one byte more than a secret may have, into memory that never moves and is overwritten when dropped.
pub(super) fn read_bounded(source: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST + 1));
    source.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(bytes: &[u8], from: &str) -> Result<Secret, SecretFault> {
    let unusable = |why| SecretFault::Unusable { from: from.to_owned(), why };
    if bytes.len() > LARGEST {
        return Err(unusable("is longer than 64 KiB"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| unusable("is not UTF-8 text"))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.trim().is_empty() {
        return Err(unusable("is empty"));
    }
    if text.contains('\0') {
        return Err(unusable("holds a zero byte"));
    }
    Ok(Secret::new(text.to_owned()))
}
