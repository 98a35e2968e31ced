//! Who may read a secret, who may write a configuration.
//!
//! PostgreSQL: the same rule as for a server's private key (src/backend/libpq/be-secure-common.c,
//! `check_ssl_key_file_permissions`): 0600 owned by oneself, or 0640 owned by root.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

use crate::error::ConfigError;

/// Name of a user, or its number where it has none.
pub(crate) fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Name of a group, or its number where it has none.
pub(crate) fn group_name(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

/// `-rw-r--r-- root root`, as `ls -l` prints it.
pub(crate) fn listing(metadata: &Metadata) -> String {
    let mode = metadata.mode();
    let mut text = String::with_capacity(10);
    text.push(match mode & 0o170_000 {
        0o040_000 => 'd',
        0o100_000 => '-',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o020_000 => 'c',
        0o060_000 => 'b',
        _ => '?',
    });
    for shift in [6, 3, 0] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (shift, bits & 1, mode & 0o1000) {
            (0, 1, 0o1000) => 't',
            (0, 0, 0o1000) => 'T',
            (_, 1, _) => 'x',
            _ => '-',
        });
    }
    format!("{text} {} {}", user_name(metadata.uid()), group_name(metadata.gid()))
}

/// A path as a shell takes it.
pub(crate) fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&b));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Refuses a configuration that others than root could change: they would tell root what to run.
///
/// The file and every directory above it are looked at, because who may write a directory may replace what is in it.
/// A sticky directory such as `/tmp` is fine: there only the owner of a file can.
pub(crate) fn only_root_may_write(file: &Path, opened: &Metadata) -> Result<(), ConfigError> {
    if let Some(who) = other_writer(opened, false) {
        let file_path = shell(file);
        let mend = format!("sudo chown root:root {file_path} && sudo chmod 644 {file_path}");
        return Err(refusal(file, who, opened, mend));
    }
    let real = real(file)?;
    // The directory of the name that was given counts as well as that of the file it may link to.
    let given = file.parent().and_then(|directory| directory.canonicalize().ok());
    for start in [real.parent().map(Path::to_owned), given].into_iter().flatten() {
        only_root_may_write_above(&start)?;
    }
    Ok(())
}

/// Refuses a directory of configuration files that others than root could put files into.
pub(crate) fn only_root_may_add(directory: &Path) -> Result<(), ConfigError> {
    only_root_may_write_above(&real(directory)?)
}

fn real(path: &Path) -> Result<PathBuf, ConfigError> {
    path.canonicalize().map_err(|source| ConfigError::Unreadable { file: path.to_owned(), source })
}

/// Looks at a directory and at every one above it.
fn only_root_may_write_above(start: &Path) -> Result<(), ConfigError> {
    for directory in start.ancestors() {
        let metadata = std::fs::metadata(directory)
            .map_err(|source| ConfigError::Unreadable { file: directory.to_owned(), source })?;
        if let Some(who) = other_writer(&metadata, true) {
            let shown = shell(directory);
            let mend = format!("sudo chown root:root {shown} && sudo chmod 755 {shown}");
            return Err(refusal(directory, who, &metadata, mend));
        }
    }
    Ok(())
}

fn refusal(path: &Path, who: String, metadata: &Metadata, mend: String) -> ConfigError {
    ConfigError::WritableByOthers { path: PathBuf::from(path), who, mode: listing(metadata), mend }
}

/// Who besides root may write this, if anybody.
fn other_writer(metadata: &Metadata, is_directory: bool) -> Option<String> {
    let mode = metadata.mode();
    let sticky = is_directory && mode & 0o1000 != 0;
    if metadata.uid() != 0 {
        Some(format!("user \"{}\"", user_name(metadata.uid())))
    } else if mode & 0o002 != 0 && !sticky {
        Some("everybody".to_owned())
    } else if mode & 0o020 != 0 && metadata.gid() != 0 && !sticky {
        Some(format!("group \"{}\"", group_name(metadata.gid())))
    } else {
        None
    }
}
