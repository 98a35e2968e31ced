//! One identity: whoever starts it, everything that touches a repository, the state directory or the server runs as one
//! user, the owner of the data directory.
//!
//! Root becomes that user with its supplementary groups before anything is opened, for good: real, effective and saved
//! user. Only a restore keeps root as the saved user, and takes it back to give directories and files to their
//! owner ([`Identity::raised`]). Programs that are started never get it: exec forgets the saved user.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, geteuid, initgroups, seteuid, setresgid, setresuid};

use crate::error::CliError;

/// The user that this process is from now on.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Name, or the number where there is none.
    pub name: String,
    /// Root may be taken back for single calls.
    can_raise: bool,
}

/// Who shall do the work, and why.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    uid: Uid,
    gid: Gid,
    name: String,
    because: PathBuf,
}

impl Wanted {
    /// The user of this name (`user =` of a source).
    pub(crate) fn named(name: &str, because: &Path) -> Result<Self, CliError> {
        let found =
            User::from_name(name).map_err(|errno| system(format!("look up user \"{name}\""), errno))?;
        match found {
            Some(user) => {
                Ok(Self { uid: user.uid, gid: user.gid, name: user.name, because: because.to_owned() })
            }
            None => Err(CliError::usage(
                format!("there is no user \"{name}\" on this host"),
                "Correct `user` of this source in the configuration.",
            )),
        }
    }

    /// The owner of the first of these paths that exists and does not belong to root.
    pub(crate) fn owner_of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Option<Self> {
        paths.into_iter().find_map(|path| {
            let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.uid() != 0)?;
            Some(Self::from_ids(metadata.uid(), metadata.gid(), path))
        })
    }

    fn from_ids(uid: u32, gid: u32, because: &Path) -> Self {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        match User::from_uid(uid).ok().flatten() {
            Some(user) => Self { uid, gid: user.gid, name: user.name, because: because.to_owned() },
            None => Self { uid, gid, name: uid.to_string(), because: because.to_owned() },
        }
    }

    /// PostgreSQL's usual user, where this host has one.
    pub(crate) fn postgres(because: &Path) -> Option<Self> {
        Self::named("postgres", because).ok()
    }

    /// User and primary group.
    pub(crate) fn ids(&self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Becomes this user. Root changes to it; anybody else must be it already.
    ///
    /// # Errors
    /// Another user, or a failed system call: then nothing may go on.
    pub(crate) fn assume(&self, keep_root: bool) -> Result<Identity, CliError> {
        let me = geteuid();
        if me == self.uid {
            return Ok(Identity {
                uid: me.as_raw(),
                gid: self.gid.as_raw(),
                name: self.name.clone(),
                can_raise: false,
            });
        }
        if !me.is_root() {
            let found = user_name(me.as_raw());
            return Err(CliError::OtherUser { wanted: self.name.clone(), found, of: self.because.clone() });
        }
        let failed = |errno| system(format!("become user {}", self.name), errno);
        let name = CString::new(self.name.as_str()).map_err(|_| failed(nix::errno::Errno::EINVAL))?;
        initgroups(&name, self.gid).map_err(failed)?;
        setresgid(self.gid, self.gid, self.gid).map_err(failed)?;
        let saved = if keep_root { Uid::from_raw(0) } else { self.uid };
        setresuid(self.uid, self.uid, saved).map_err(failed)?;
        Ok(Identity {
            uid: self.uid.as_raw(),
            gid: self.gid.as_raw(),
            name: self.name.clone(),
            can_raise: keep_root,
        })
    }
}

impl Identity {
    /// The user that started this process.
    pub(crate) fn current() -> Self {
        let uid = geteuid().as_raw();
        Self { uid, gid: nix::unistd::getegid().as_raw(), name: user_name(uid), can_raise: false }
    }

    /// Runs `call` as root where this process began as root, as itself otherwise: only to make a directory and give it to
    /// its owner. Nothing that a file of the owner's names is ever done as root.
    ///
    /// # Errors
    /// What `call` says, or that the user could not be changed.
    fn raised<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.can_raise {
            return call();
        }
        let (root, me) = (Uid::from_raw(0), Uid::from_raw(self.uid));
        seteuid(root)?;
        // The real user too: it is whom access(2) asks about.
        setresuid(root, root, root)?;
        let result = call();
        // Going on as root would be worse than failing.
        setresuid(me, me, root)?;
        result
    }

    /// Makes `directory` with what is missing above it, and gives the new ones to this user.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn make_directory(&self, directory: &Path, mode: u32) -> io::Result<()> {
        self.raised(|| make_directory(directory, mode, (self.uid, self.gid)))
    }
}

/// Makes `directory` and those above it that are missing; the last one gets `mode`, and all new ones `owner`, where this
/// process may give them away. Directories that exist are left as they are.
///
/// # Errors
/// When one cannot be made.
pub(crate) fn make_directory(directory: &Path, mode: u32, owner: (u32, u32)) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|parent| !parent.is_dir()) {
        make_directory(parent, 0o755, owner)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    if geteuid().is_root() {
        std::os::unix::fs::chown(directory, Some(owner.0), Some(owner.1))?;
    }
    Ok(())
}

/// Name of a user, or the number.
pub(crate) fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Whether this process is root now.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

fn system(action: String, errno: nix::errno::Errno) -> CliError {
    CliError::System { action, source: errno.into() }
}
