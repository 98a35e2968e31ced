//! Repositories that lack something which another one of the source has.
//!
//! Whoever stores something and leaves a repository out of it leaves a *wish* here, an empty file; the process that copies in the
//! background *takes* it before it looks what lacks, and drops what it took when nothing lacked any more. A wish that comes while
//! it works is another file, and is seen at the next look. What was taken and not fulfilled is tried again, less and less often.
//! All of it may be lost: the first backup after that wishes for every repository.

use std::fs;
use std::io;
use std::path::PathBuf;

use refloat_repo::RepoError;
use refloat_types::{Clock as _, RepositoryName, SourceName};

use super::Context;
use super::down::Down;
use crate::error::Failure;

/// The wishes of one source.
pub(crate) struct Behind<'c> {
    context: &'c Context,
    source: &'c SourceName,
}

impl Context {
    /// What the repositories of a source lack, as far as this host knows.
    pub(crate) fn behind<'c>(&'c self, source: &'c SourceName) -> Behind<'c> {
        Behind { context: self, source }
    }
}

impl Behind<'_> {
    fn wish(&self, repository: &str) -> PathBuf {
        self.context.state().path().join("behind").join(self.source.as_str()).join(repository)
    }

    fn taken(&self, repository: &str) -> String {
        format!("behind/{}/{repository}.taken.json", self.source)
    }

    /// Notes that a repository was left out of something.
    pub(crate) fn add(&self, repository: &str) -> Result<(), RepoError> {
        let path = self.wish(repository);
        // A wish that nobody has taken yet covers whatever came since.
        if path.exists() {
            return Ok(());
        }
        let directory = self.context.state().durable_directory(&self.directory())?;
        let fail = |source| RepoError::State { action: "write", path: path.display().to_string(), source };
        let wish = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(fail)?;
        let synced = || {
            wish.sync_all()?;
            fs::File::open(&directory)?.sync_all()
        };
        synced().map_err(|source| {
            // It may be gone after a power cut, and must not pass for noted until then.
            let _ = fs::remove_file(&path);
            fail(source)
        })
    }

    fn directory(&self) -> String {
        format!("behind/{}", self.source)
    }

    /// What lies there when everything that a repository of this source may lack is wished for.
    fn known_file(&self) -> String {
        format!("{}/known.json", self.directory())
    }

    /// Whether what any repository may lack would be known here: not behind the loss of the state directory.
    pub(crate) fn is_known(&self) -> bool {
        self.context.state().path().join(self.known_file()).exists()
    }

    /// Everything that a repository may lack is wished for from now on.
    pub(crate) fn known(&self) -> Result<(), RepoError> {
        self.context.state().write(&self.known_file(), &())
    }

    /// A wish is lost: the next backup wishes for everything.
    pub(crate) fn unknown(&self) -> Result<(), RepoError> {
        self.context.state().remove(&self.known_file())
    }

    /// Whether it is time to look what a repository lacks: something does, it answers, and the last vain attempt is a while ago.
    pub(crate) fn is_due(&self, repository: &RepositoryName) -> bool {
        let name = repository.as_str();
        if self.context.is_left_alone(name) {
            return false;
        }
        match self.attempts(name) {
            Some(attempts) => !attempts.holds(self.context.clock.now()),
            None => self.wish(name).exists(),
        }
    }

    /// Whether a repository lacks something, as far as is known here.
    pub(crate) fn lacks(&self, repository: &str) -> bool {
        self.wish(repository).exists() || self.attempts(repository).is_some()
    }

    /// What was tried in vain.
    pub(crate) fn attempts(&self, repository: &str) -> Option<Down> {
        self.context.state().read(&self.taken(repository)).ok().flatten()
    }

    /// Takes the wish for a repository: what comes from now on is another one. Answers whether there was one.
    pub(crate) fn take(&self, repository: &str) -> Result<bool, RepoError> {
        let taken = self.attempts(repository).is_some();
        let wish = self.wish(repository);
        if !wish.exists() {
            return Ok(taken);
        }
        if !taken {
            // Before the wish goes: after a crash between, both are there.
            let now = self.context.clock.now();
            let none = Down { since: now, again: now, failures: 0, why: String::new() };
            self.context.state().write(&self.taken(repository), &none)?;
        }
        match fs::remove_file(&wish) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RepoError::State { action: "remove", path: wish.display().to_string(), source })
            }
            _ => Ok(true),
        }
    }

    /// A repository lacked nothing any more when it was looked at after [`Self::take`].
    pub(crate) fn fulfilled(&self, repository: &str) -> Result<(), RepoError> {
        self.context.state().remove(&self.taken(repository))
    }

    /// What was taken could not be done.
    pub(crate) fn failed(&self, repository: &str, failure: &Failure) -> Result<(), RepoError> {
        let attempts = Down::after(self.attempts(repository), failure.line(), self.context.clock.now());
        self.context.state().write(&self.taken(repository), &attempts)
    }
}
